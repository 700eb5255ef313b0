// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// TestTheAgentItselfFails takes from the agent what it needs. SIGKILL at random
// instants is TestAKilledAgentIsRebuiltExactly of tests/e2e.
func TestTheAgentItselfFails(t *testing.T) {
	disk := smallDisk(t, "64m")
	b := newBed(t, startContainerd(t), false, "--state-dir", disk)
	for range *rounds {
		for _, f := range []trouble{b.stopped(), b.twoAtOnce(), b.withoutFiles(), b.withoutDisk(disk)} {
			b.endure(f)
		}
	}
}

func (b *bed) stopped() trouble {
	return trouble{
		name: "the agent stopped", silent: true, lasts: 3 * time.Second, during: b.change,
		begin: func() error { return b.agent.Signal(syscall.SIGSTOP) },
		end:   func() error { return b.agent.Signal(syscall.SIGCONT) },
	}
}

// twoAtOnce starts a second agent: on the same socket, where it must say no and
// leave the first one alone, and on a socket of its own, where it knows the same.
func (b *bed) twoAtOnce() trouble {
	var second *harness.Agent
	return trouble{
		name: "two agents at once", during: b.change,
		begin: func() error {
			ctx, cancel := context.WithTimeout(b.Context(), patience)
			defer cancel()
			out := b.agent.Command(ctx, "agent", "--run-dir", b.agent.Dir+"/none", "--containerd-address", b.agent.Dir+"/none", "--docker-host", b.agent.Dir+"/none", "--cri-endpoints", b.agent.Dir+"/none")
			if out.Code != 1 || !strings.Contains(out.Stderr, b.agent.Socket) {
				return fmt.Errorf("a second agent on the same socket ends with %d: %s", out.Code, out.Stderr)
			}
			second = harness.StartAgent(b.T, programs, b.engine.agent())
			return nil
		},
		end: func() error {
			c, err := client.New(client.Options{Socket: second.Socket})
			if err != nil {
				return err
			}
			defer c.Close()
			truth := b.truth()
			var diff string
			began := time.Now()
			for looks := 0; !(equality{took: time.Since(began), looks: looks}).late(); looks++ {
				got, err := list(b.Context(), c)
				if err != nil {
					return err
				}
				if diff = compare(truth, got); diff == "" {
					break
				}
				tick(b.Context(), 20*time.Millisecond)
			}
			if diff != "" {
				b.Errorf("the second agent's store is not the truth (-engine +agent):\n%s", diff)
			}
			second.Stop()
			return nil
		},
	}
}

// withoutFiles lowers the limit of open files to what is open: nothing more can
// be opened, no connection be accepted.
func (b *bed) withoutFiles() trouble {
	var before unix.Rlimit
	return trouble{
		name: "no file descriptors", silent: true, lasts: 2 * time.Second, during: b.change,
		begin: func() error {
			fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.agent.PID()))
			if err != nil {
				return err
			}
			if err := unix.Prlimit(b.agent.PID(), unix.RLIMIT_NOFILE, nil, &before); err != nil {
				return err
			}
			return unix.Prlimit(b.agent.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(len(fds)), Max: before.Max}, nil)
		},
		end: func() error { return unix.Prlimit(b.agent.PID(), unix.RLIMIT_NOFILE, &before, nil) },
	}
}

// smallDisk mounts a file system that is soon full.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.Mkdir(dir, 0o700), unix.Mount("pidigree-test", dir, "tmpfs", 0, "size="+size+",mode=0700")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// withoutDisk fills the disk with the state directory.
// The agent says that it keeps no tombstones, and keeps them again afterwards.
func (b *bed) withoutDisk(disk string) trouble {
	filler := filepath.Join(disk, "filler")
	return trouble{
		name: "no writable disk", lasts: 2 * time.Second,
		begin: func() error {
			err := os.WriteFile(filler, make([]byte, 65<<20), 0o600)
			if !errors.Is(err, unix.ENOSPC) {
				return fmt.Errorf("the disk is not full: %w", err)
			}
			return nil
		},
		during: func() {
			b.change()
			b.awaitSource("tombstones", "failing")
		},
		end: func() error {
			if err := os.Remove(filler); err != nil {
				return err
			}
			b.change() // something to write
			b.awaitSource("tombstones", "running")
			return nil
		},
	}
}

// awaitSource waits until status says so of a source.
func (b *bed) awaitSource(name, state string) {
	b.Helper()
	var last string
	for began := time.Now(); time.Since(began) < patience; tick(b.Context(), 50*time.Millisecond) {
		ctx, cancel := context.WithTimeout(b.Context(), patience)
		s, err := b.client.Status(ctx)
		cancel()
		if err != nil {
			b.Fatal(err)
		}
		for _, src := range s.Sources {
			if src.Name == name {
				if last = src.State; last == state {
					return
				}
			}
		}
	}
	b.Errorf("status says of %s that it is %q, not %q, for %s", name, last, state, patience)
}

// TestAnAgentWithTooLittleMemoryIsRight has a heap that is always over its
// limit: the collector runs all the time. What a kernel that kills it for its
// memory leaves is what SIGKILL leaves.
func TestAnAgentWithTooLittleMemoryIsRight(t *testing.T) {
	e := startContainerd(t)
	t.Setenv("GOMEMLIMIT", "8MiB")
	b := newBed(t, e, false)
	if err := os.Unsetenv("GOMEMLIMIT"); err != nil { // the agent's alone
		t.Fatal(err)
	}
	none := func() error { return nil }
	for range *rounds {
		b.endure(trouble{name: "a heap of 8 MiB", begin: none, end: none, during: b.change})
	}
}

// TestAnAgentThatIsKilledForItsMemoryComesBack has the kernel kill it at the
// limit of its cgroup, while containers start and end. The next one knows all.
func TestAnAgentThatIsKilledForItsMemoryComesBack(t *testing.T) {
	b := newBed(t, startContainerd(t), false)
	limit := memoryCgroup(t)
	b.endure(trouble{
		name: "killed for its memory", silent: true,
		begin: func() error { return limit.confine(b.agent.PID(), 1<<20) },
		during: func() {
			fd, err := unix.PidfdOpen(b.agent.PID(), 0)
			if err != nil {
				return // it is gone
			}
			defer unix.Close(fd)
			b.change()
			for began := time.Now(); lives(fd); b.storm(100, 1000) {
				if time.Since(began) > patience {
					b.Fatal("the agent lives over its limit")
				}
			}
		},
		end: func() error {
			if n, err := limit.kills(); err != nil || n == 0 {
				return fmt.Errorf("the kernel has killed %d for their memory: nothing was shown: %w", n, err)
			}
			b.agent.Kill() // waits for who is dead
			b.agent.Start()
			return nil
		},
	})
}

// memoryLimit is a cgroup of a test's own.
type memoryLimit struct {
	dir string
	v2  bool
}

func memoryCgroup(t *testing.T) memoryLimit {
	t.Helper()
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	root, own, v2 := "/sys/fs/cgroup", "", true
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case strings.Contains(","+f[1]+",", ",memory,"):
			root, own, v2 = "/sys/fs/cgroup/memory", f[2], false
		case f[0] == "0" && v2:
			own = f[2]
		}
	}
	m := memoryLimit{dir: filepath.Join(root, own, fmt.Sprintf("pidigree-test-%d", os.Getpid())), v2: v2}
	if v2 { // no process may be beside a cgroup with controllers but in the root
		m.dir = filepath.Join(root, filepath.Base(m.dir))
	}
	if err := os.Mkdir(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for began := time.Now(); ; tick(context.Background(), 10*time.Millisecond) {
			if err := os.Remove(m.dir); err == nil || time.Since(began) > patience {
				if err != nil {
					t.Error(err)
				}
				return
			}
		}
	})
	return m
}

// confine puts a process under a limit in bytes. What it has already is charged
// where it was.
func (m memoryLimit) confine(pid int, limit int64) error {
	file := map[bool]string{false: "memory.limit_in_bytes", true: "memory.max"}[m.v2]
	return errors.Join(
		os.WriteFile(filepath.Join(m.dir, file), strconv.AppendInt(nil, limit, 10), 0),
		os.WriteFile(filepath.Join(m.dir, "cgroup.procs"), strconv.AppendInt(nil, int64(pid), 10), 0))
}

// kills is how often the kernel has killed for want of memory there.
func (m memoryLimit) kills() (n int, err error) {
	file := map[bool]string{false: "memory.oom_control", true: "memory.events"}[m.v2]
	text, err := os.ReadFile(filepath.Join(m.dir, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if _, err := fmt.Sscanf(line, "oom_kill %d", &n); err == nil {
			return n, nil
		}
	}
	return 0, nil
}

// TestAnAgentWhoseLogHasNoRoomGoesOn has one small disk full under the log and the
// state directory, from the agent's start on.
func TestAnAgentWhoseLogHasNoRoomGoesOn(t *testing.T) {
	disk := smallDisk(t, "256k")
	b := newBed(t, startContainerd(t), false, "--state-dir", disk)
	log := filepath.Join(disk, "log")
	b.agent.Stop()
	if err := errors.Join(os.Remove(b.agent.Dir+"/log"), os.Symlink(log, b.agent.Dir+"/log"), os.WriteFile(log, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	f := b.withoutDisk(disk)
	if err := f.begin(); err != nil {
		t.Fatal(err)
	}
	b.agent.Start()
	pid := b.agent.PID()
	f.name, f.begin = "a full disk under the log", func() error { return nil }
	b.endure(f)
	if b.agent.PID() != pid || syscall.Kill(pid, 0) != nil {
		t.Error("the agent has ended")
	}
	if text, err := os.ReadFile(log); err != nil || strings.Contains(string(text), "msg=ready") {
		t.Errorf("the log had room: nothing was shown (%v)", err)
	}
}

// TestAnOverflowIsRepaired stops the agent in a storm of processes and cgroups
// until both rings are full, and changes what the engine runs meanwhile. Then the
// processes, too, must be those that the host has.
func TestAnOverflowIsRepaired(t *testing.T) {
	b := newBed(t, startContainerd(t), false)
	for range *rounds {
		was := b.lost()
		equal := make(chan time.Duration, 1)
		b.endure(trouble{
			name: "rings full", silent: true,
			begin: func() error { return b.agent.Signal(syscall.SIGSTOP) },
			during: func() {
				b.storm(2000, ringful)
				b.change()
			},
			end: func() error {
				err := b.agent.Signal(syscall.SIGCONT)
				ended := time.Now()
				go func() { equal <- b.processesEqual(ended) }()
				return err
			},
		})
		took := <-equal
		now := b.lost()
		b.Logf("processes equal after %s; lost: %v before, %v after", took.Round(time.Millisecond), was, now)
		if now["cgroup_mkdir"] <= was["cgroup_mkdir"] || now["exit"] <= was["exit"] {
			b.Error("not both rings have overflowed: nothing was shown")
		}
	}
}

// ringful is how many processes' events the ring of 8 MiB has no room for.
const ringful = 40_000

// processesEqual waits until the agent lists the processes that /proc has, and
// gives how long after since that was. It may be called from any goroutine.
func (b *bed) processesEqual(since time.Time) (took time.Duration) {
	last := ""
	for looks := 1; ; looks++ {
		began := time.Now()
		wrong, err := b.processDiff()
		took = time.Since(since)
		if err == nil && len(wrong) > 0 {
			err = fmt.Errorf("%d processes are not the host's, as %s", len(wrong), wrong[:min(len(wrong), 10)])
		}
		if err == nil && (equality{took: took, looks: looks}).late() || took > patience {
			b.Errorf("%s after the fault, look %d, which took %s: %v; before: %s", took, looks, time.Since(began), err, last)
		}
		if err != nil {
			last = err.Error()
		}
		if err == nil || took > patience {
			return took
		}
		tick(b.Context(), 20*time.Millisecond)
	}
}

// processDiff gives what two comparisons in a row have: a process that is made while
// the agent lists, and ends, is in its list and neither before nor after it in /proc.
func (b *bed) processDiff() (wrong []string, err error) {
	first, err := b.processDiffOnce()
	if err != nil || len(first) == 0 {
		return nil, err
	}
	second, err := b.processDiffOnce()
	return slices.DeleteFunc(second, func(s string) bool { return !slices.Contains(first, s) }), err
}

// processDiffOnce compares with /proc as it is before and after: others come and go.
func (b *bed) processDiffOnce() (wrong []string, err error) {
	before, err := userProcesses()
	if err != nil {
		return nil, err
	}
	listed := map[workload.PID]bool{}
	for e, err := range b.client.List(b.Context(), workload.Selector{Kinds: []workload.Kind{workload.KindProcess}}) {
		if err != nil {
			return nil, err
		}
		listed[e.Process.Key.PID] = true
	}
	after, err := userProcesses()
	if err != nil {
		return nil, err
	}
	for pid := range listed {
		if !before[pid] && !after[pid] {
			wrong = append(wrong, fmt.Sprintf("%d is listed and does not live", pid))
		}
	}
	for pid := range before {
		if after[pid] && !listed[pid] {
			wrong = append(wrong, fmt.Sprintf("%d lives and is not listed", pid))
		}
	}
	return wrong, nil
}

// kernelThread is PF_KTHREAD (include/linux/sched.h).
const kernelThread = 0x00200000

// userProcesses are those of /proc, without zombies and the kernel's own threads.
func userProcesses() (map[workload.PID]bool, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	all := map[workload.PID]bool{}
	for _, f := range stats {
		text, err := os.ReadFile(f)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		flags, _ := strconv.ParseUint(fields[6], 10, 32)
		pid, _ := strconv.ParseUint(filepath.Base(filepath.Dir(f)), 10, 32)
		if flags&kernelThread == 0 && !strings.ContainsAny(fields[0], "ZX") {
			all[workload.PID(pid)] = true
		}
	}
	return all, err
}

// lost is what status says was lost, by type.
func (b *bed) lost() map[string]uint64 {
	b.Helper()
	var s struct {
		Kernel struct{ Lost map[string]uint64 }
	}
	out := b.agent.Command(b.Context(), "status", "-o", "json")
	if err := json.Unmarshal([]byte(out.Stdout), &s); err != nil {
		b.Fatalf("%v: %s", err, out.Stderr)
	}
	return s.Kernel.Lost
}

// storm makes cgroups and processes as fast as it can, so many of each.
func (b *bed) storm(cgroups int, processes int64) {
	b.Helper()
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	dir, err := os.MkdirTemp(root, "pidigree-storm-")
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := os.Remove(dir); err != nil {
			b.Error(err)
		}
	}()
	var forked atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range 4 {
		wg.Go(func() {
			for forked.Load() < processes { // each forks 200 and execs 50
				cmd := exec.CommandContext(b.Context(), "/bin/sh", "-c", "i=0; while [ $i -lt 50 ]; do (:); (:); (:); /bin/true; i=$((i+1)); done")
				if err := cmd.Run(); err != nil {
					b.Error(err)
					return
				}
				forked.Add(200)
			}
		})
	}
	for i := range cgroups {
		sub := filepath.Join(dir, strconv.Itoa(i))
		if err := errors.Join(os.Mkdir(sub, 0o755), os.Remove(sub)); err != nil {
			b.Fatal(err)
		}
	}
	wg.Wait()
	b.Logf("storm: %d cgroups and %d processes in %s", cgroups, forked.Load(), time.Since(began).Round(time.Millisecond))
}
