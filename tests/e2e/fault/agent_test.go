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
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// TestTheAgentItselfFails takes from the agent what it needs. SIGKILL at random
// instants is TestAKilledAgentIsRebuiltExactly of tests/e2e.
func TestTheAgentItselfFails(t *testing.T) {
	disk := smallDisk(t)
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
			out := b.agent.Command(ctx, "agent", "--run-dir", b.agent.Dir+"/none", "--containerd-address", b.agent.Dir+"/none", "--docker-host", b.agent.Dir+"/none")
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
			for began := time.Now(); time.Since(began) < within; tick(b.Context(), 20*time.Millisecond) {
				got, err := list(b.Context(), c)
				if err != nil {
					return err
				}
				if diff = compare(truth, got); diff == "" {
					break
				}
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
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "disk")
	if err := errors.Join(os.Mkdir(dir, 0o700), unix.Mount("pidigree-test", dir, "tmpfs", 0, "size=64m,mode=0700")); err != nil {
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

// TestAnOverflowIsRepaired stops the agent in a storm of processes and cgroups
// until the rings are full, and changes what the engine runs meanwhile.
func TestAnOverflowIsRepaired(t *testing.T) {
	b := newBed(t, startContainerd(t), false)
	for range *rounds {
		was := b.lost()
		b.endure(trouble{
			name: "rings full", silent: true, lasts: 4 * time.Second,
			begin: func() error { return b.agent.Signal(syscall.SIGSTOP) },
			during: func() {
				b.storm(5000, 3*time.Second)
				b.change()
			},
			end: func() error { return b.agent.Signal(syscall.SIGCONT) },
		})
		now := b.lost()
		b.Logf("lost: %v before, %v after", was, now)
		if now["cgroup_mkdir"] <= was["cgroup_mkdir"] {
			b.Error("no ring has overflowed: nothing was shown")
		}
	}
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

// storm makes cgroups and, for a while, processes, as fast as it can.
func (b *bed) storm(cgroups int, d time.Duration) {
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
	ctx, cancel := context.WithTimeout(b.Context(), d)
	defer cancel()
	var forked atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil { // each forks 200 and execs 50
				cmd := exec.CommandContext(ctx, "/bin/sh", "-c", "i=0; while [ $i -lt 50 ]; do (:); (:); (:); /bin/true; i=$((i+1)); done")
				if cmd.Run() == nil {
					forked.Add(200)
				}
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
	b.Logf("storm: %d cgroups, over %d processes", cgroups, forked.Load())
}
