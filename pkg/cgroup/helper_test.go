// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
	"golang.org/x/sys/unix"
)

// roleVar makes the test binary, run again, play a part in a test.
const roleVar = "PIDIGREE_CGROUP_TEST_ROLE"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleVar); role {
	case "":
		os.Exit(m.Run())
	case "block": // until the other end of the pipe closes
		_, _ = io.Copy(io.Discard, os.Stdin)
	default:
		if err := childRoles[role](); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// runRole runs one of the childRoles in new namespaces and fails the test with what it says.
func runRole(t *testing.T, role string, flags uintptr, env ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, roleVar+"="+role)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", role, err, out)
	}
}

// child is a live process of the test's.
type child struct {
	pid  workload.PID
	cmd  *exec.Cmd
	pipe io.WriteCloser
}

// startChild starts a process that does nothing until the test ends.
func startChild(t testing.TB) *child {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"=block")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{pid: workload.PID(cmd.Process.Pid), cmd: cmd, pipe: pipe}
	t.Cleanup(c.end)
	return c
}

// end kills and reaps the process. It may be called again.
func (c *child) end() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// zombie kills the process and returns when it is dead and not reaped.
func (c *child) zombie(t *testing.T) {
	t.Helper()
	if err := c.cmd.Process.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	err := ignoringEINTR(func() error {
		return unix.Waitid(unix.P_PID, int(c.pid), nil, unix.WEXITED|unix.WNOWAIT, nil)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// hostFS is an FS of this machine, which has to have cgroups to write to.
func hostFS(t testing.TB) *FS {
	t.Helper()
	f, err := New(Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// someHierarchies picks v2 and two v1 hierarchies, as far as there are any,
// that a test may make cgroups in and move processes to.
func someHierarchies(t testing.TB, f *FS) []Hierarchy {
	t.Helper()
	var out []Hierarchy
	for _, h := range f.Hierarchies() {
		usable := h.ID == 0 || h.Name != "" || slices.Contains(h.Controllers, "pids") || slices.Contains(h.Controllers, "freezer")
		if h.Mount != "" && usable {
			out = append(out, h)
		}
	}
	if len(out) == 0 {
		t.Fatal("no hierarchy to work in")
	}
	return out
}

// v1Hierarchy picks a v1 hierarchy for the tests of what only v1 does.
func v1Hierarchy(t testing.TB, f *FS) Hierarchy {
	t.Helper()
	for _, h := range someHierarchies(t, f) {
		if h.ID != 0 {
			return h
		}
	}
	t.Skip("no v1 hierarchy on this machine: it is in pure v2 mode")
	return Hierarchy{}
}

func v2Hierarchy(t testing.TB, f *FS) Hierarchy {
	t.Helper()
	hs := someHierarchies(t, f)
	if hs[0].ID != 0 {
		t.Skip("no cgroup2 mount on this machine: it is in v1 mode")
	}
	return hs[0]
}

// testCgroup names the top cgroup of a test. It is short, because some tests need the length.
func testCgroup(t testing.TB) string {
	return fmt.Sprintf("pidigree-test-%d", os.Getpid())
}

// makeCgroup makes a cgroup and those above it, and removes what it made at the end.
func makeCgroup(t testing.TB, h Hierarchy, path string) {
	t.Helper()
	dir := filepath.Join(h.Mount, path)
	var missing []string
	for up := dir; up != h.Mount; up = filepath.Dir(up) {
		if _, err := os.Stat(up); err == nil {
			break
		}
		missing = append(missing, up)
	}
	for _, up := range slices.Backward(missing) { // cleaned up in reverse
		t.Cleanup(func() { removeCgroup(t, up) })
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
}

// removeCgroup waits until the last dead process has left it.
func removeCgroup(t testing.TB, dir string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("remove %s: %v", dir, err)
			return
		}
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
	}
}

func enter(t testing.TB, h Hierarchy, path string, pid workload.PID) {
	t.Helper()
	file := filepath.Join(h.Mount, path, "cgroup.procs")
	if err := os.WriteFile(file, []byte(strconv.Itoa(int(pid))), 0); err != nil {
		t.Fatal(err)
	}
}

// inode asks the kernel in the plainest way.
func inode(t testing.TB, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatalf("stat %q: %v", path, err)
	}
	return st.Ino
}

// in gives the entry of one hierarchy.
func in(t testing.TB, cgroups []workload.CgroupPath, h uint32) workload.CgroupPath {
	t.Helper()
	for _, c := range cgroups {
		if c.Hierarchy == h {
			return c
		}
	}
	t.Fatalf("no entry for hierarchy %d in %v", h, cgroups)
	return workload.CgroupPath{}
}

func isErr(t testing.TB, err, want error, what string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}
