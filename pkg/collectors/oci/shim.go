// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"path/filepath"
	"strconv"
	"strings"

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
// the same directory, so the directory does not tell. Zero where there is no
// root's shim above the init.
func (c *Collector) shimAlias(r root, id string, init workload.PID) workload.ContainerID {
	if r.engine != engineContainerd || init == 0 {
		return workload.ContainerID{}
	}
	for pid, hop := init, 0; hop < shimHops && pid > 1; hop++ {
		if pid = c.parentOf(pid); pid <= 1 {
			break
		}
		address, namespace, ok := c.shimArgs(pid)
		if !ok {
			continue
		}
		if namespace != r.namespace {
			break
		}
		if address = filepath.Clean(address); address == defaultContainerd {
			address = ""
		}
		return workload.ContainerID{Runtime: engineContainerd, Instance: address, Namespace: namespace, ID: id}
	}
	return workload.ContainerID{}
}

// shimArgs reads the arguments of a containerd shim that root runs.
func (c *Collector) shimArgs(pid workload.PID) (address, namespace string, ok bool) {
	dir := filepath.Join(c.opts.ProcRoot, strconv.FormatUint(uint64(pid), 10))
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil || st.Uid != 0 {
		return "", "", false
	}
	data, _, err := safefile.Head(filepath.Join(dir, "cmdline"), 16<<10) // a process chooses how long its own is
	if err != nil {
		return "", "", false
	}
	args := strings.Split(string(bytes.TrimRight(data, "\x00")), "\x00")
	if !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") {
		return "", "", false
	}
	for i := 1; i+1 < len(args); i++ {
		switch args[i] {
		case "-address", "--address":
			address = args[i+1]
		case "-namespace", "--namespace":
			namespace = args[i+1]
		}
	}
	return address, namespace, address != "" && namespace != ""
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
