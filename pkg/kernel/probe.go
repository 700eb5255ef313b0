// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// Capabilities is what a host gives a Tracer.
type Capabilities struct {
	// Kernel is the release, "6.12.117-amd64".
	Kernel string
	// BTF, RingBuffer: the kernel has it and lets us use it.
	BTF, RingBuffer bool
	// Missing names the capabilities that this process lacks.
	Missing []string
	// Lockdown is the kernel's lockdown mode: none, integrity, confidentiality,
	// or empty where it has none.
	Lockdown string
	// Tracepoints says which types of event have their tracepoint.
	Tracepoints map[Type]bool
	// Pidfs: processes have inodes (6.9).
	Pidfs bool
	// LastThread: the exit tracepoint says which thread is the last (6.17).
	LastThread bool
	// NestedPIDNS is the PID namespace of procfs, 0 for the initial one.
	NestedPIDNS uint32
	Hierarchies []Hierarchy
	// Problems says in a line each what is missing and what to do. Without any,
	// NewTracer works in full.
	Problems []string
}

// ProbeOptions says where to look. The zero value works.
type ProbeOptions struct {
	// Procfs and Sysfs are "/proc" and "/sys" by default.
	Procfs, Sysfs string
}

// Probe finds out what a Tracer would have here. It loads nothing that outlives
// the call. The error is one of reading procfs; what is missing is in Problems.
func Probe(o ProbeOptions) (Capabilities, error) {
	o.Procfs, o.Sysfs = cmp.Or(o.Procfs, "/proc"), cmp.Or(o.Sysfs, "/sys")
	c := Capabilities{Kernel: kernelRelease(), Lockdown: lockdown(o.Sysfs), Tracepoints: make(map[Type]bool)}
	var err error
	if c.Missing, err = MissingCapabilities(); err != nil {
		return c, err
	}
	if c.Hierarchies, err = readHierarchies(o.Procfs); err != nil {
		return c, err
	}
	r := newProcReader(o.Procfs, cgroupRoot("", o.Sysfs), nil)
	c.NestedPIDNS = r.nestedPIDNS()
	c.Pidfs = pidfdInode(1) != 0
	c.probeBTF()
	ring := features.HaveMapType(ebpf.RingBuf)
	c.RingBuffer = ring == nil
	c.findProblems(ring)
	return c, nil
}

func (c *Capabilities) probeBTF() {
	types, err := btf.LoadKernelSpec()
	if err != nil {
		return
	}
	c.BTF = true
	c.LastThread = hasGroupDead(types)
	for _, tp := range tracepoints {
		var def *btf.Typedef
		var iter *btf.Func
		if tp.typ == Task {
			c.Tracepoints[Task] = types.TypeByName("bpf_iter_task", &iter) == nil
			continue
		}
		c.Tracepoints[tp.typ] = types.TypeByName("btf_trace_"+tp.tracepoint, &def) == nil
	}
}

func (c *Capabilities) findProblems(ring error) {
	say := func(format string, a ...any) { c.Problems = append(c.Problems, fmt.Sprintf(format, a...)) }
	if len(c.Missing) > 0 {
		say("missing %s: run as root or grant them", strings.Join(c.Missing, ", "))
	}
	if !c.BTF {
		say("the kernel has no BTF: use one built with CONFIG_DEBUG_INFO_BTF")
	}
	if c.Lockdown == "confidentiality" {
		say("kernel lockdown is in confidentiality mode: boot with lockdown=integrity or without")
	}
	if ring != nil && len(c.Missing) == 0 {
		say("the kernel refuses a BPF ring buffer (5.8 and later have it; a seccomp filter may forbid bpf): %v", ring)
	}
	if !c.BTF {
		return
	}
	for _, tp := range tracepoints {
		if !c.Tracepoints[tp.typ] {
			say("the kernel has no tracepoint %s: no %s events", tp.tracepoint, tp.typ)
		}
	}
}

func kernelRelease() string {
	var u unix.Utsname
	_ = unix.Uname(&u) // fails for a bad address only
	return unix.ByteSliceToString(u.Release[:])
}

// permitted says early and in one line why NewTracer cannot work, rather than
// with what bpf(2) makes of it.
func permitted(o TracerOptions) error {
	if lockdown(o.Sysfs) == "confidentiality" {
		return ErrLockedDown
	}
	missing, err := MissingCapabilities()
	if err != nil {
		return err
	}
	// The first two are needed to load; the others only for reading files.
	var needed []string
	for _, m := range missing {
		if m == "CAP_BPF" || m == "CAP_PERFMON" {
			needed = append(needed, m)
		}
	}
	if len(needed) > 0 {
		return fmt.Errorf("%w: missing %s", ErrNotPermitted, strings.Join(needed, ", "))
	}
	return nil
}

// capabilities are what the agent needs: two for the Tracer, and two to read
// other processes' /proc entries and the runtimes' files.
var capabilities = [...]struct {
	name string
	bit  uint
	// orAdmin: CAP_SYS_ADMIN includes it (bpf_capable, perfmon_capable).
	orAdmin bool
}{
	{"CAP_BPF", unix.CAP_BPF, true},
	{"CAP_PERFMON", unix.CAP_PERFMON, true},
	{"CAP_DAC_READ_SEARCH", unix.CAP_DAC_READ_SEARCH, false},
	{"CAP_SYS_PTRACE", unix.CAP_SYS_PTRACE, false},
}

// MissingCapabilities names the capabilities that this process lacks of those
// that a Tracer and a reader of /proc use, by its own effective set. The error is
// one of reading /proc/self/status.
func MissingCapabilities() ([]string, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil, fmt.Errorf("read own capabilities: %w", err)
	}
	_, rest, ok := bytes.Cut(b, []byte("\nCapEff:\t"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	have, err := strconv.ParseUint(string(line), 16, 64)
	if !ok || err != nil {
		return nil, errors.New("read own capabilities: no CapEff in /proc/self/status")
	}
	var missing []string
	for _, c := range capabilities {
		if have&(1<<c.bit) == 0 && !(c.orAdmin && have&(1<<unix.CAP_SYS_ADMIN) != 0) {
			missing = append(missing, c.name)
		}
	}
	return missing, nil
}

// lockdown gives the active mode, which the file has in brackets.
func lockdown(sysfs string) string {
	b, err := os.ReadFile(filepath.Join(sysfs, "kernel/security/lockdown"))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(b), "[")
	mode, _, _ := strings.Cut(rest, "]")
	return mode
}
