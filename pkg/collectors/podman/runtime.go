// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/procdir"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// bundle reads a container's config.json: what its mounts and limits became. hex
// has been checked, and the path is made here, not taken from the database.
func (s *store) bundle(hex string) (*runtimespec.Spec, string, error) {
	dir, err := s.open()
	if err != nil {
		return nil, "", err
	}
	defer unix.Close(dir)
	for _, driver := range []string{"overlay", "vfs", "btrfs", "zfs"} {
		path := driver + "-containers/" + hex + "/userdata"
		var spec *runtimespec.Spec
		_, err = safefile.Read(dir, path+"/config.json", safefile.Trust{Owner: s.owner, Max: collectors.MaxStateFile}, func(r io.Reader) (err error) {
			spec, err = runtimespec.Read(r, collectors.Reading(s.c.env))
			return err
		})
		if err == nil {
			return spec, filepath.Join(s.root, path), nil
		}
	}
	return nil, "", fileError(err)
}

// complete adds what the bundle and the kernel say.
func (s *store) complete(d *described) *workload.Container {
	if spec, path, err := s.bundle(d.ID.ID); err == nil {
		user, sec := d.User, d.Security
		spec.Fill(d.Container, s.c.env)
		d.Bundle, d.User = path, user
		if sec != nil && d.Security != nil {
			d.Security.Privileged = sec.Privileged
		}
	}
	s.live(d)
	s.health(d)
	return finish(d.Container)
}

// live compares the record with the kernel: after a crash or a reboot it is of
// processes that are gone, or are other ones.
func (s *store) live(d *described) {
	switch d.State {
	case workload.StateRunning, workload.StatePaused, workload.StateCreated:
	default:
		return
	}
	if key, conmon, ok := s.c.initOf(d.ID.ID, d.state.PID, s.owner); ok {
		d.Run = &workload.Run{Init: key, Registers: true, Started: workload.KTime(key.Start)}
		if s.user {
			d.Run.ClaimedPaths, d.Run.Homeless = s.c.place(d.ID.ID, d.state.PID, conmon, s.owner)
		}
		return
	}
	if d.State != workload.StateCreated && d.state.PID > 0 && s.c.gone(d.state.PID, d.Started) {
		d.State = workload.StateExited
		s.exitFile(d)
	}
}

// initOf gives the key of a container's init if the PID is the child of a conmon
// that was started for the container by the store's owner.
// A user's must be in a user namespace that he made, besides.
func (c *Collector) initOf(hex string, pid int64, owner uint32) (key workload.ProcessKey, conmon int64, ok bool) {
	if pid <= 0 || pid > int64(workload.MaxPID) {
		return key, 0, false
	}
	p, err := c.process(pid)
	if err != nil {
		return key, 0, false
	}
	defer p.Close()
	st, err := p.Stat()
	if err != nil || st.Ended || owner != uint32(os.Geteuid()) && !ownedBy(p, owner) {
		return key, 0, false
	}
	m, err := c.monitor(int64(st.Parent))
	if err != nil || m.id != hex || m.uid != owner {
		return key, 0, false
	}
	return p.Key(st), m.pid, true
}

// gone says whether no process has the PID that could have had it at an instant.
func (c *Collector) gone(pid int64, _ time.Time) bool {
	p, err := c.process(pid)
	if err != nil {
		return true
	}
	defer p.Close()
	st, err := p.Stat()
	return err != nil || st.Ended
}

// process opens the directory of whoever has the PID now.
func (c *Collector) process(pid int64) (*procdir.Dir, error) {
	return procdir.Open(c.proc, workload.PID(pid))
}

// userOf gives the process's user if its real, effective, saved and file system ones
// are the same; a program that has a second one is nobody's for sure.
func userOf(p *procdir.Dir) (uint32, error) {
	s, err := p.Status()
	if err != nil {
		return 0, err
	}
	if u := s.UIDs; u[0] != u[1] || u[0] != u[2] || u[0] != u[3] {
		return 0, fmt.Errorf("users %v", u)
	}
	return s.UIDs[0], nil
}

// ownedBy says whether the process is in a user namespace that the user made: what
// a rootless engine runs always is, and nobody else's process can be.
func ownedBy(p *procdir.Dir, uid uint32) bool {
	owner, err := p.UserNamespaceOwner()
	return err == nil && owner == uid
}

// monitor is a conmon: what its arguments say. They are its user's word.
type monitor struct {
	pid int64
	uid uint32
	id  string
	// bundle is the container's, below the storage's directory.
	bundle string
	parent int64
}

// maxArgs is how much is read of a conmon's arguments; what matters comes first.
const maxArgs = 16 << 10

// monitor reads a process that may be a conmon.
func (c *Collector) monitor(pid int64) (monitor, error) {
	p, err := c.process(pid)
	if err != nil {
		return monitor{}, err
	}
	defer p.Close()
	st, err := p.Stat()
	if err != nil {
		return monitor{}, err
	}
	m := monitor{pid: pid, parent: int64(st.Parent)}
	if st.Comm != "conmon" {
		return monitor{parent: m.parent}, errNoMonitor
	}
	args, err := p.Read("cmdline", maxArgs)
	if err != nil {
		return m, err
	}
	m.id, m.bundle = monitorArgs(args)
	if !isID(m.id) {
		return m, errNoMonitor
	}
	m.uid, err = userOf(p)
	return m, err
}

var errNoMonitor = fmt.Errorf("no conmon: %w", collectors.ErrNotFound)

// monitorArgs takes the id and the bundle out of a conmon's arguments: the first
// ones, for what follows --exit-command is another program's.
func monitorArgs(cmdline []byte) (id, bundle string) {
	args := strings.Split(string(cmdline), "\x00")
	for i := 1; i+1 < len(args); i++ {
		switch {
		case args[i] == "-c" || args[i] == "--cid":
			id = args[i+1]
			i++
		case args[i] == "-b" || args[i] == "--bundle":
			bundle = args[i+1]
			i++
		case strings.HasPrefix(args[i], "--exit-command"):
			return id, bundle
		}
	}
	return id, bundle
}

// exitFile reads the exit code that conmon left for podman, which takes it away
// when it has written it into the database.
func (s *store) exitFile(d *described) {
	if d.tmpDir == "" {
		return
	}
	dir, err := safefile.OpenTop(s.c.host, d.tmpDir, safefile.Trust{Owner: s.owner})
	if err != nil {
		return
	}
	defer unix.Close(dir)
	var text []byte
	stamp, err := safefile.Read(dir, "exits/"+d.ID.ID, safefile.Trust{Owner: s.owner, Max: 64}, func(r io.Reader) (err error) {
		text, err = io.ReadAll(r)
		return err
	})
	if err != nil {
		return
	}
	if code, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 32); err == nil {
		d.Exit = exitOf(code, d.state.OOMKilled)
		d.Finished = time.Unix(stamp.Mtime.Unix()).UTC()
	}
}
