// SPDX-License-Identifier: Apache-2.0

package lxc

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/procdir"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The bounds of what is read to find one container's init.
const (
	// maxProcs is how many processes of a monitor's cgroup are looked at: LXC puts one there.
	maxProcs = 64
	// maxSockets is how much is read of a network namespace's list of sockets.
	maxSockets = 8 << 20
)

// running is what is found of a container that runs.
type running struct {
	// monitor: the container's own monitor was found.
	monitor bool
	// init and payload are set once it has an init, in its cgroup.
	init    workload.ProcessKey
	payload string
	// frozen: all of it is stopped, by lxc-freeze or whoever else writes to its cgroup.
	frozen bool
	// begun: there is a cgroup for a monitor of that name, be anybody in it or not.
	begun bool
}

// find looks for a container's monitor and init.
func (c *Collector) find(path, name string, conf config) (r running, err error) {
	for _, top := range c.hierarchies() {
		for _, p := range conf.places(name) {
			pids, err := procsOf(top + p.monitor)
			if missing(err) {
				continue
			}
			if err != nil {
				return r, err
			}
			r.begun = true
			for _, pid := range pids {
				f, err := c.monitored(path, name, p.payload, pid)
				if procdir.Gone(err) {
					continue
				}
				if err != nil || f.monitor {
					f.begun, f.frozen = true, f.payload != "" && c.frozen(f.payload)
					return f, err
				}
			}
		}
		if r.begun {
			break // the other hierarchies say the same
		}
	}
	return r, nil
}

// hierarchies gives the mount points below the cgroup root, cgroup2's first.
func (c *Collector) hierarchies() []string {
	var st unix.Statfs_t
	if err := unix.Statfs(c.opts.CgroupRoot, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{c.opts.CgroupRoot}
	}
	list := []string{c.opts.CgroupRoot + "/unified", c.opts.CgroupRoot + "/systemd"}
	dirs, _ := os.ReadDir(c.opts.CgroupRoot) // without one there is nothing to be found
	for _, d := range dirs[:min(len(dirs), 32)] {
		if dir := filepath.Join(c.opts.CgroupRoot, d.Name()); d.IsDir() && !slices.Contains(list, dir) {
			list = append(list, dir)
		}
	}
	return list
}

// frozen reports whether a cgroup is frozen, in the hierarchy that LXC froze it in.
func (c *Collector) frozen(cgroup string) bool {
	for _, top := range c.hierarchies() {
		// Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst; both
		// files are a few words. What is not there is not frozen.
		if text, err := os.ReadFile(top + cgroup + "/freezer.state"); err == nil && string(bytes.TrimSpace(text)) == "FROZEN" {
			return true
		}
		if text, err := os.ReadFile(top + cgroup + "/cgroup.events"); err == nil && bytes.Contains(text, []byte("frozen 1\n")) {
			return true
		}
	}
	return false
}

// procsOf gives the first processes of a cgroup.
func procsOf(dir string) ([]workload.PID, error) {
	f, err := os.Open(dir + "/cgroup.procs")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxProcs*8))
	if err != nil {
		return nil, err
	}
	var pids []workload.PID
	for line := range bytes.Lines(data) {
		if n, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 10, 32); err == nil && n > 0 {
			pids = append(pids, workload.PID(n))
		}
	}
	return pids, nil
}

// monitored gives the init whose monitor a process is, if it is this container's.
func (c *Collector) monitored(path, name, payload string, pid workload.PID) (running, error) {
	d, err := procdir.Open(c.opts.ProcRoot, pid)
	if err != nil {
		return running{}, err
	}
	defer d.Close()
	if ok, err := c.isHosts(d); !ok {
		return running{}, err
	}
	inode, err := c.socketOf(pid, path+"/"+name+"/command")
	if inode == 0 {
		return running{}, err
	}
	if ok, err := d.HoldsSocket(inode); !ok {
		return running{}, err
	}
	r := running{monitor: true}
	children, err := d.Children()
	if err != nil {
		return running{}, err
	}
	for _, child := range children {
		key, ok, err := c.isInit(child, pid, payload)
		if procdir.Gone(err) {
			continue
		}
		if err != nil {
			return running{}, err
		}
		if ok {
			r.init, r.payload = key, payload
			break
		}
	}
	_, err = d.Stat() // what was read by the PID was the monitor's, if it lives
	return r, err
}

// isHosts reports whether a process is root's and in no container's namespaces.
func (c *Collector) isHosts(d *procdir.Dir) (bool, error) {
	status, err := d.Status()
	if err != nil || status.UIDs[0] != 0 || len(status.PIDs) != 1 {
		return false, err
	}
	got, err := namespacesOf(d)
	if err != nil {
		return false, err
	}
	// The host's first process, or, where that one may not be looked at, the kernel's
	// threads, which never leave the first namespaces.
	for _, pid := range []workload.PID{1, 2} {
		want, herr := c.namespacesAt(pid)
		if herr == nil {
			return got == want, nil
		}
		err = errors.Join(err, fmt.Errorf("%w: %s", errHost, herr.Error())) // it is not the monitor that is gone
	}
	return false, err
}

// errHost means that the host's own namespaces cannot be told.
var errHost = errors.New("the host's namespaces are not seen")

// namespaces are the inodes of those that tell a process of the host's.
type namespaces struct{ pid, mount, user uint64 }

// namespacesAt gives those of a process that nobody in here has made.
func (c *Collector) namespacesAt(pid workload.PID) (namespaces, error) {
	d, err := procdir.Open(c.opts.ProcRoot, pid)
	if err != nil {
		return namespaces{}, err
	}
	defer d.Close()
	st, err := d.Stat()
	if err == nil && st.Parent != 0 {
		err = fmt.Errorf("process %d has a parent", pid)
	}
	if err != nil {
		return namespaces{}, err
	}
	return namespacesOf(d)
}

func namespacesOf(d *procdir.Dir) (n namespaces, err error) {
	for name, into := range map[string]*uint64{"pid": &n.pid, "mnt": &n.mount, "user": &n.user} {
		if *into, err = d.Namespace(name); err != nil {
			return namespaces{}, err
		}
	}
	return n, nil
}

// socketOf gives the inode of the socket that listens at an abstract name, in the
// network namespace of a process; 0 where nobody does. A line of /proc/net/unix is
// address, references, protocol, flags, type, state, inode and name (net/unix/af_unix.c).
func (c *Collector) socketOf(pid workload.PID, abstract string) (uint64, error) {
	file := fmt.Sprintf("%s/%d/net/unix", c.opts.ProcRoot, pid)
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSockets))
	if err != nil {
		return 0, err
	}
	end := []byte(" @" + abstract)
	for line := range bytes.Lines(data) {
		line = bytes.TrimSuffix(line, []byte("\n"))
		if !bytes.HasSuffix(line, end) {
			continue
		}
		fields := bytes.Fields(line[:len(line)-len(end)])
		if len(fields) != 7 || string(fields[3]) != listening {
			continue
		}
		if inode, err := strconv.ParseUint(string(fields[6]), 10, 64); err == nil {
			return inode, nil
		}
	}
	return 0, nil
}

// listening is __SO_ACCEPTCON (include/linux/net.h).
const listening = "00010000"

// isInit reports whether a process is an init that the monitor has made, in the payload's cgroup.
func (c *Collector) isInit(pid, monitor workload.PID, payload string) (workload.ProcessKey, bool, error) {
	d, err := procdir.Open(c.opts.ProcRoot, pid)
	if err != nil {
		return workload.ProcessKey{}, false, err
	}
	defer d.Close()
	st, err := d.Stat()
	if err != nil || st.Parent != monitor || st.Ended {
		return workload.ProcessKey{}, false, err
	}
	status, err := d.Status()
	if err != nil || !status.FirstOfNamespace() {
		return workload.ProcessKey{}, false, err
	}
	cgroups, err := d.Cgroups()
	in := slices.ContainsFunc(cgroups, func(g workload.CgroupPath) bool {
		return g.Path == payload || strings.HasPrefix(g.Path, payload+"/")
	})
	if err != nil || !in {
		return workload.ProcessKey{}, false, err
	}
	return d.Key(st), true, nil
}
