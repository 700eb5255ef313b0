// SPDX-License-Identifier: Apache-2.0

// Package lxcmonitor finds the first process of a container that liblxc runs, by the
// monitor process that each of them has: those of LXC itself, and of Incus and LXD,
// which start theirs with it.
//
// A monitor is a process of the host (root's, in the PID, mount and user namespaces of
// the host's first process), in the cgroup that liblxc gives the monitor of that name,
// and it holds the listening command socket of that very container, which only one
// process in a network namespace can have. The init is its child, the first of a PID
// namespace and in the cgroup that liblxc gives the payload. A container, whatever
// cgroups it may make and whatever it may bind, has no process of the host's to be one.
//
// All functions may be called concurrently. Nothing is kept.
package lxcmonitor

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/cgroupdir"
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

// Host says where the host's files are.
type Host struct {
	// Proc is its procfs, Cgroup where its cgroups are mounted.
	Proc, Cgroup string
}

// Place is where the two cgroups of a container may be, in each hierarchy.
type Place struct{ Monitor, Payload string }

// maxSuffix bounds the numbers that liblxc adds to a cgroup's name where that is taken.
const maxSuffix = 16

// Places gives the pairs below a cgroup ("/" or "/some/where/") in the order in which
// liblxc tries them.
func Places(top, name string) []Place {
	list := make([]Place, 0, maxSuffix+1)
	for i := range maxSuffix + 1 {
		suffix := name
		if i > 0 {
			suffix += "-" + strconv.Itoa(i)
		}
		list = append(list, Place{top + "lxc.monitor." + suffix, top + "lxc.payload." + suffix})
	}
	return list
}

// Running is what is found of a container that runs.
type Running struct {
	// Monitor: the container's own monitor was found.
	Monitor bool
	// Init and Payload are set once it has an init, in its cgroup.
	Init    workload.ProcessKey
	Payload string
	// Frozen: all of it is stopped, by lxc-freeze or whoever else writes to its cgroup.
	Frozen bool
	// Begun: there is a cgroup for a monitor of that name, be anybody in it or not.
	Begun bool
}

// Find looks for a container's monitor and init. path is the directory of containers
// (lxc.lxcpath) in which it is.
func (h Host) Find(path, name string, places []Place) (r Running, err error) {
	for _, top := range cgroupdir.Mounts(h.Cgroup) {
		for _, p := range places {
			pids, err := procsOf(top + p.Monitor)
			if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
				continue
			}
			if err != nil {
				return r, err
			}
			r.Begun = true
			for _, pid := range pids {
				f, err := h.monitored(path, name, p.Payload, pid)
				if procdir.Gone(err) {
					continue
				}
				if err != nil || f.Monitor {
					f.Begun, f.Frozen = true, f.Payload != "" && cgroupdir.Frozen(h.Cgroup, f.Payload)
					return f, err
				}
			}
		}
		if r.Begun {
			break // the other hierarchies say the same
		}
	}
	return r, nil
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
func (h Host) monitored(path, name, payload string, pid workload.PID) (Running, error) {
	d, err := procdir.Open(h.Proc, pid)
	if err != nil {
		return Running{}, err
	}
	defer d.Close()
	if ok, err := h.isHosts(d); !ok {
		return Running{}, err
	}
	inode, err := h.socketOf(pid, path+"/"+name+"/command")
	if inode == 0 {
		return Running{}, err
	}
	if ok, err := d.HoldsSocket(inode); !ok {
		return Running{}, err
	}
	r := Running{Monitor: true}
	children, err := d.Children()
	if err != nil {
		return Running{}, err
	}
	for _, child := range children {
		key, ok, err := h.isInit(child, pid, payload)
		if procdir.Gone(err) {
			continue
		}
		if err != nil {
			return Running{}, err
		}
		if ok {
			r.Init, r.Payload = key, payload
			break
		}
	}
	_, err = d.Stat() // what was read by the PID was the monitor's, if it lives
	return r, err
}

// isHosts reports whether a process is root's and in no container's namespaces.
func (h Host) isHosts(d *procdir.Dir) (bool, error) {
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
		want, herr := h.namespacesAt(pid)
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
func (h Host) namespacesAt(pid workload.PID) (namespaces, error) {
	d, err := procdir.Open(h.Proc, pid)
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
func (h Host) socketOf(pid workload.PID, abstract string) (uint64, error) {
	file := fmt.Sprintf("%s/%d/net/unix", h.Proc, pid)
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
func (h Host) isInit(pid, monitor workload.PID, payload string) (workload.ProcessKey, bool, error) {
	d, err := procdir.Open(h.Proc, pid)
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
