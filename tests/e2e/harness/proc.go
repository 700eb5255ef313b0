// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// ProcFile reads a file of a process that lives.
func ProcFile(tb testing.TB, pid int, name string) string {
	tb.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}

// StartTicks is field 22 of /proc/PID/stat: when the process was started, in
// clock ticks since the boot.
func StartTicks(tb testing.TB, pid int) uint64 {
	tb.Helper()
	stat := ProcFile(tb, pid, "stat")
	ticks, err := strconv.ParseUint(strings.Fields(stat[strings.LastIndex(stat, ")"):])[20], 10, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return ticks
}

// Parent is the parent of a process that lives.
func Parent(tb testing.TB, pid int) int {
	tb.Helper()
	stat := ProcFile(tb, pid, "stat")
	parent, err := strconv.Atoi(strings.Fields(stat[strings.LastIndex(stat, ")"):])[2])
	if err != nil {
		tb.Fatal(err)
	}
	return parent
}

// PIDMax is one more than the highest PID of this machine.
func PIDMax(tb testing.TB) int {
	tb.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		tb.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

// Children are the children of all threads of a process; none where it is gone.
func Children(pid int) (pids []int) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, list := range lists {
		text, _ := os.ReadFile(list) // a thread may end
		for word := range strings.FieldsSeq(string(text)) {
			if n, err := strconv.Atoi(word); err == nil {
				pids = append(pids, n)
			}
		}
	}
	return pids
}

// Child finds the child of a process that has this PID in its own PID namespace.
func Child(tb testing.TB, parent, inside int) int {
	tb.Helper()
	for _, pid := range Children(parent) {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // it may be another one, and end
		_, rest, _ := strings.Cut(string(status), "NSpid:")
		line, _, _ := strings.Cut(rest, "\n")
		if f := strings.Fields(line); len(f) > 0 && f[len(f)-1] == strconv.Itoa(inside) {
			return pid
		}
	}
	tb.Fatalf("process %d has no child that is %d to itself", parent, inside)
	return 0
}

// CgroupRoot is below which the hierarchies are mounted.
const CgroupRoot = "/sys/fs/cgroup"

// Hierarchy is a mounted cgroup hierarchy: its controllers as /proc/PID/cgroup
// lists them (empty for v2), and its mount point.
type Hierarchy struct{ Name, Dir string }

// Hierarchies gives those mounted whole below CgroupRoot, v2 first; at least one.
func Hierarchies(tb testing.TB) (list []Hierarchy) {
	tb.Helper()
	own := ProcFile(tb, os.Getpid(), "cgroup")
	for mount := range strings.Lines(ProcFile(tb, os.Getpid(), "mountinfo")) {
		front, back, _ := strings.Cut(mount, " - ")
		f, g := strings.Fields(front), strings.Fields(back)
		if f[3] != "/" || !strings.HasPrefix(f[4], CgroupRoot) {
			continue
		}
		if g[0] == "cgroup2" {
			list = slices.Insert(list, 0, Hierarchy{"", f[4]})
			continue
		}
		for line := range strings.Lines(own) {
			if name := strings.SplitN(line, ":", 3)[1]; g[0] == "cgroup" && name != "" && strings.HasSuffix(","+g[2], ","+name) {
				list = append(list, Hierarchy{name, f[4]})
			}
		}
	}
	if len(list) == 0 {
		tb.Fatalf("no cgroup hierarchy is mounted whole below %s", CgroupRoot)
	}
	return list
}

// Of gives the directory of a process's cgroup in the hierarchy.
func (h Hierarchy) Of(tb testing.TB, pid int) string {
	tb.Helper()
	for line := range strings.Lines(ProcFile(tb, pid, "cgroup")) {
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(f) == 3 && f[1] == h.Name {
			return filepath.Join(h.Dir, f[2])
		}
	}
	tb.Fatalf("process %d has no cgroup in %q", pid, h.Name)
	return ""
}
