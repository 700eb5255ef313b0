// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

func addressOf[T any](v *T) uintptr { return uintptr(unsafe.Pointer(v)) }

// source is what Tracer and Poller have in common.
type source interface {
	Run(context.Context, func(Event)) error
	Snapshot(context.Context, func(Event)) error
	Flush(context.Context) error
	Stats() Stats
	Close() error
}

var (
	_ source = (*Tracer)(nil)
	_ source = (*Poller)(nil)
)

// patience is for what takes microseconds on an idle machine, and seconds where others keep it busy.
const patience = 90 * time.Second

func patient(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// recorder runs a source and keeps its events.
type recorder struct {
	t   testing.TB
	src source

	mu     sync.Mutex // guards all below
	deaf   bool       // keep nothing
	events []Event
	news   chan struct{} // closed and replaced at each event
}

// record runs src until the test ends, and closes it.
func record(t testing.TB, src source) *recorder {
	r := &recorder{t: t, src: src, news: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- src.Run(ctx, r.add) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) && !errors.Is(err, ErrClosed) {
			t.Errorf("Run ended with %v", err)
		}
		if err := src.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *recorder) add(e Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.deaf {
		return
	}
	r.events = append(r.events, e)
	close(r.news)
	r.news = make(chan struct{})
}

// forget drops the events so far.
func (r *recorder) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = nil
}

// all gives the events so far that match.
func (r *recorder) all(match func(Event) bool) []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Event
	for _, e := range r.events {
		if match(e) {
			found = append(found, e)
		}
	}
	return found
}

// flushed is all after a Flush.
func (r *recorder) flushed(match func(Event) bool) []Event {
	r.t.Helper()
	if err := r.src.Flush(patient(r.t)); err != nil {
		r.t.Fatal("flush:", err)
	}
	return r.all(match)
}

// await waits for a matching event without asking for it.
func (r *recorder) await(match func(Event) bool) Event {
	r.t.Helper()
	e, _ := r.awaitUnless(match, func() bool { return false })
	return e
}

// awaitUnless is await where the kernel may have skipped the program: then, as
// skipped says, there is no such event.
func (r *recorder) awaitUnless(match func(Event) bool, skipped func() bool) (e Event, ok bool) {
	r.t.Helper()
	late := time.After(patience)
	look := time.NewTicker(100 * time.Millisecond)
	defer look.Stop()
	for {
		r.mu.Lock()
		news := r.news
		i := slices.IndexFunc(r.events, match)
		if i >= 0 {
			defer r.mu.Unlock()
			return r.events[i], true
		}
		r.mu.Unlock()
		select {
		case <-news:
		case <-look.C:
			if skipped() {
				return Event{}, false
			}
		case <-late:
			r.t.Fatal("the event never came")
		}
	}
}

// of matches the events of one process.
func of(pid int) func(Event) bool {
	return func(e Event) bool {
		switch e.Type {
		case Fork, Exec, Exit, CgroupAttach, Task:
			return e.Process.Key.PID == workload.PID(pid)
		default:
			return false
		}
	}
}

// types lists the types of events.
func types(events []Event) []Type {
	var ts []Type
	for _, e := range events {
		ts = append(ts, e.Type)
	}
	return ts
}

func newTracer(t testing.TB, o TracerOptions) *Tracer {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	tr, err := NewTracer(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tr.Close() })
	return tr
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(b)))
	return len(b), nil
}

// child is a process that ends when its stdin does.
type child struct {
	*exec.Cmd
	t     testing.TB
	stdin io.WriteCloser
	out   bytes.Buffer
}

// startChild starts a program that reads stdin to its end (cat, or a role).
func startChild(t testing.TB, attr *syscall.SysProcAttr, env string, argv ...string) *child {
	t.Helper()
	c := &child{Cmd: exec.Command(argv[0], argv[1:]...), t: t}
	c.Stdout, c.Stderr = &c.out, &c.out
	c.SysProcAttr = attr
	if env != "" {
		c.Env = append(os.Environ(), env)
	}
	var err error
	if c.stdin, err = c.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.end() })
	return c
}

// startRole starts the test binary in a role of main_test.go.
func startRole(t testing.TB, attr *syscall.SysProcAttr, role string) *child {
	t.Helper()
	return startChild(t, attr, roleEnv+"="+role, "/proc/self/exe")
}

// end ends the child and gives how it ended.
func (c *child) end() unix.WaitStatus {
	c.stdin.Close()
	if c.ProcessState == nil {
		c.Wait()
	}
	return unix.WaitStatus(c.ProcessState.Sys().(syscall.WaitStatus))
}

// awaitComm waits until the child runs the program of that name.
func (c *child) awaitComm(comm string) {
	c.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", c.Process.Pid))
		if err == nil && string(b) == comm+"\n" {
			return
		}
		unix.Select(0, nil, nil, nil, &unix.Timeval{Usec: 1000})
	}
	c.t.Fatalf("child never became %s: %s", comm, c.out.String())
}

// The oracle: what /proc says, parsed in another way than the package does.

// procField gives field n of /proc/PID/stat, for names without a parenthesis.
func procField(t testing.TB, pid, n int) uint64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	s := string(b)
	v, err := strconv.ParseUint(strings.Split(s[strings.LastIndex(s, ") ")+2:], " ")[n-3], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func statInode(t testing.TB, path string) uint64 {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fi.Sys().(*syscall.Stat_t).Ino
}

// cgroupMounts gives the mount point of each hierarchy by what /proc/PID/cgroup
// calls it: "", "name=systemd", "cpu,cpuacct".
func cgroupMounts(t testing.TB) map[string]string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	mounts := make(map[string]string)
	for line := range strings.SplitSeq(string(b), "\n") {
		f := strings.Fields(line)
		switch {
		case len(f) < 4:
		case f[2] == "cgroup2":
			mounts[""] = f[1]
		case f[2] == "cgroup":
			var names []string
			for o := range strings.SplitSeq(f[3], ",") {
				switch o {
				case "rw", "ro", "nosuid", "nodev", "noexec", "relatime", "xattr", "clone_children", "noprefix":
				default:
					if !strings.Contains(o, "=") || strings.HasPrefix(o, "name=") {
						names = append(names, o)
					}
				}
			}
			mounts[strings.Join(names, ",")] = f[1]
		}
	}
	return mounts
}

// cgroupsOf gives the cgroups of a process as their directories' inodes.
func cgroupsOf(t testing.TB, pid int) []workload.CgroupID {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	mounts := cgroupMounts(t)
	var ids []workload.CgroupID
	for line := range strings.SplitSeq(strings.TrimSpace(string(b)), "\n") {
		f := strings.SplitN(line, ":", 3)
		h, err := strconv.ParseUint(f[0], 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		mount, ok := mounts[f[1]]
		if !ok {
			t.Fatalf("no mount for hierarchy %q", line)
		}
		ids = append(ids, workload.CgroupID{Hierarchy: uint32(h), ID: statInode(t, mount+f[2])})
	}
	slices.SortFunc(ids, func(a, b workload.CgroupID) int { return int(a.Hierarchy) - int(b.Hierarchy) })
	return ids
}

// makeCgroup makes a cgroup of the test's own below ours in the hierarchy that
// /proc/PID/cgroup calls so, and removes it at the end.
func makeCgroup(t testing.TB, hierarchy, name string) string {
	t.Helper()
	mount, ok := cgroupMounts(t)[hierarchy]
	if !ok {
		t.Fatalf("hierarchy %q is not mounted", hierarchy)
	}
	dir := filepath.Join(mount, fmt.Sprintf("pidigree-kernel-test-%d-%s", os.Getpid(), name))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroup(t, dir) })
	return dir
}

// removeCgroup waits for the last process to have left.
func removeCgroup(t testing.TB, dir string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			t.Error(err)
			return
		}
		unix.Select(0, nil, nil, nil, &unix.Timeval{Usec: 1000})
	}
}

// inCgroup starts a child in a cgroup by CLONE_INTO_CGROUP.
func inCgroup(t testing.TB, dir string) *syscall.SysProcAttr {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.Fd())}
}
