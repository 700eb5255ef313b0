// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/workload"
)

// defaultContainerd is the address that containerd ids carry no instance for.
const defaultContainerd = "/run/containerd/containerd.sock"

// shimHops is how far above an init its shim is: runc create stands between
// them until it has ended.
const shimHops = 3

// shimAlias gives the id that containerd itself has for a container: the init's
// shim is told by its arguments which containerd it serves. Two containerds may
// each have a container of one namespace and name, and both keep runc's state in
// the same directory, so the directory does not tell. Zero where no shim of
// root's is known to be the container's.
func (c *Collector) shimAlias(s *reading) workload.ContainerID {
	if s.root.engine != engineContainerd || s.state.pid == 0 {
		return workload.ContainerID{}
	}
	if s.life == workload.StateExited { // whoever has the init's PID by now
		return c.lastShim(s)
	}
	for pid, hop := s.state.pid, 0; hop < shimHops && pid > 1; hop++ {
		if pid = c.parentOf(pid); pid <= 1 {
			break
		}
		if shim, ok := c.shimArgs(pid); ok {
			return shim.alias(s)
		}
	}
	return workload.ContainerID{}
}

// lastShim is shimAlias for a container that has ended: its shim lives until the
// task is deleted. Zero where two shims say that it is theirs.
func (c *Collector) lastShim(s *reading) (id workload.ContainerID) {
	for _, p := range c.shims.of(c, s.root.namespace, s.id) {
		if a := p.alias(s); id.IsZero() {
			id = a
		} else if a != id {
			return workload.ContainerID{}
		}
	}
	return id
}

// shims are those that run, as of a look at all processes, which is too dear to
// take for each container that has ended.
type shims struct {
	mu   sync.Mutex // guards all below
	at   time.Time
	byID map[string][]shim
}

// shimsFor is how old a look may be. Who ended since then is found by the next.
const shimsFor = time.Second

func (h *shims) of(c *Collector, namespace, id string) (found []shim) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if time.Since(h.at) > shimsFor {
		h.byID = c.allShims()
		h.at = time.Now()
	}
	for _, p := range h.byID[id] {
		if p.namespace == namespace {
			found = append(found, p)
		}
	}
	return found
}

func (c *Collector) allShims() map[string][]shim {
	all := make(map[string][]shim)
	list, err := os.ReadDir(c.opts.ProcRoot)
	if err != nil {
		c.log.Debug("processes not read", "err", err)
	}
	for _, e := range list {
		pid, err := strconv.ParseUint(e.Name(), 10, 32)
		if err != nil {
			continue
		}
		if p, ok := c.shimArgs(workload.PID(pid)); ok {
			all[p.id] = append(all[p.id], p)
		}
	}
	return all
}

// shim is what a containerd shim's arguments say of it.
type shim struct{ address, namespace, id string }

func (p shim) alias(s *reading) workload.ContainerID {
	if p.namespace != s.root.namespace {
		return workload.ContainerID{}
	}
	address := filepath.Clean(p.address)
	if address == defaultContainerd {
		address = ""
	}
	return workload.ContainerID{Runtime: engineContainerd, Instance: address, Namespace: p.namespace, ID: s.id}
}

// shimArgs reads the arguments of a containerd shim that root runs.
func (c *Collector) shimArgs(pid workload.PID) (p shim, ok bool) {
	dir := filepath.Join(c.opts.ProcRoot, strconv.FormatUint(uint64(pid), 10))
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || st.Uid != 0 {
		return shim{}, false
	}
	data, _, err := safefile.Head(filepath.Join(dir, "cmdline"), 16<<10) // a process chooses how long its own is
	if err != nil {
		return shim{}, false
	}
	args := strings.Split(string(bytes.TrimRight(data, "\x00")), "\x00")
	if !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") {
		return shim{}, false
	}
	for i := 1; i+1 < len(args); i++ {
		switch args[i] {
		case "-address", "--address":
			p.address = args[i+1]
		case "-namespace", "--namespace":
			p.namespace = args[i+1]
		case "-id", "--id":
			p.id = args[i+1]
		}
	}
	return p, p.address != "" && p.namespace != ""
}

// parentOf reads the fourth field of /proc/PID/stat, 0 if it cannot.
func (c *Collector) parentOf(pid workload.PID) workload.PID {
	data, _, err := safefile.Head(filepath.Join(c.opts.ProcRoot, strconv.FormatUint(uint64(pid), 10), "stat"), 4<<10)
	if err != nil {
		return 0
	}
	f := bytes.Fields(data[bytes.LastIndexByte(data, ')')+1:])
	if len(f) < 2 {
		return 0
	}
	n, err := strconv.ParseUint(string(f[1]), 10, 32)
	if err != nil {
		return 0
	}
	return workload.PID(n)
}
