// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/workload"
)

// newPoller scans when it is flushed only.
func newPoller(t testing.TB, o PollerOptions) *Poller {
	t.Helper()
	if o.Interval == 0 {
		o.Interval = time.Hour
	}
	o.Logger = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	p, err := NewPoller(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func TestPollerSeesWhatTheTracerSees(t *testing.T) {
	traced := record(t, newTracer(t, TracerOptions{}))
	polled := record(t, newPoller(t, PollerOptions{}))
	c := startChild(t, nil, "", "/bin/cat")
	for _, e := range polled.flushed(of(c.Process.Pid)) {
		if d := cmp.Diff(expectProcess(t, c.Process.Pid), inTicksOnly(e.Process)); d != "" {
			t.Errorf("%s: %s", e.Type, d)
		}
	}
	c.end()
	byTracer, byPoller := traced.flushed(of(c.Process.Pid)), polled.flushed(of(c.Process.Pid))
	if d := cmp.Diff(types(byTracer), types(byPoller)); d != "" {
		t.Fatal(d)
	}
	for i, e := range byPoller {
		if k := byTracer[i].Process.Key; !e.Process.Key.Same(k) || !e.Process.Key.Ticks {
			t.Errorf("%s: key %s, the Tracer's %s", e.Type, e.Process.Key, k)
		}
		if e.Exit.Known {
			t.Errorf("%s: a poller cannot know %+v", e.Type, e.Exit)
		}
	}
}

// inTicksOnly is inTicks for a key that must have Ticks set.
func inTicksOnly(p Process) Process {
	if !p.Key.Ticks {
		p.Key.PID = 0
	}
	p.Key.Ticks = false
	return inTicks(p)
}

func TestPollerSeesExecCgroupsAndMoves(t *testing.T) {
	r := record(t, newPoller(t, PollerOptions{}))
	dir := makeCgroup(t, "", "poll")
	id := workload.CgroupID{ID: statInode(t, dir)}
	c := startChild(t, nil, "", "/bin/sh", "-c", "read x; exec cat")
	pid := c.Process.Pid
	if d := cmp.Diff([]Type{Fork, Exec}, types(r.flushed(of(pid)))); d != "" {
		t.Fatal("started:", d)
	}
	mkdirs := r.all(func(e Event) bool { return e.Type == CgroupMkdir && e.Cgroup.ID == id })
	want := Cgroup{ID: id, Parent: statInode(t, filepath.Dir(dir)), Level: 1, Path: "/" + filepath.Base(dir)}
	if len(mkdirs) != 1 {
		t.Fatalf("%d mkdirs", len(mkdirs))
	}
	if d := cmp.Diff(want, mkdirs[0].Cgroup); d != "" {
		t.Error(d)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
		t.Fatal(err)
	}
	moved := r.flushed(of(pid))
	if d := cmp.Diff([]Type{Fork, Exec, CgroupAttach}, types(moved)); d != "" {
		t.Fatal("moved:", d)
	}
	if got := moved[2]; got.Cgroup.ID != id || got.Process.Cgroups.IDs[0] != id {
		t.Errorf("%+v", got)
	}
	fmt.Fprintln(c.stdin)
	c.awaitComm("cat")
	events := r.flushed(of(pid))
	if d := cmp.Diff([]Type{Fork, Exec, CgroupAttach, Exec}, types(events)); d != "" {
		t.Fatal("ran cat:", d)
	}
	if got := events[3].Process; got.Comm.String() != "cat" || got.Cgroups.IDs[0] != id {
		t.Errorf("%+v", got)
	}
	if again := r.flushed(of(pid)); len(again) != len(events) {
		t.Errorf("a scan without a change makes %v", types(again[len(events):]))
	}
	c.end()
	removeCgroup(t, dir)
	got := types(r.flushed(func(e Event) bool { return e.Type == CgroupRmdir && e.Cgroup.ID == id || e.Type == Exit && of(pid)(e) }))
	if d := cmp.Diff([]Type{Exit, CgroupRmdir}, got); d != "" {
		t.Error("ended:", d)
	}
}

// What the poller told of a process otherwise than by a scan, a scan ends: also
// where the process began and ended between two scans.
func TestPollerTellsTheEndOfWhatNoScanFound(t *testing.T) {
	for name, tell := range map[string]func(*testing.T, *Poller, workload.PID){
		"a process that was read": func(t *testing.T, p *Poller, pid workload.PID) {
			if _, err := p.Process(pid); err != nil {
				t.Fatal(err)
			}
		},
		"a process of a snapshot": func(t *testing.T, p *Poller, _ workload.PID) {
			if err := p.Snapshot(t.Context(), func(Event) {}); err != nil {
				t.Fatal(err)
			}
		},
	} {
		for _, found := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, found by a scan %t", name, found), func(t *testing.T) {
				p := newPoller(t, PollerOptions{})
				c := startChild(t, nil, "", "/bin/cat")
				want := []Type{Exit}
				var r *recorder
				if found {
					want = []Type{Fork, Exec, Exit}
					r = record(t, p)
					r.flushed(of(c.Process.Pid))
				}
				tell(t, p, workload.PID(c.Process.Pid))
				c.end()
				if !found {
					r = record(t, p) // only now: its first scan would find the process
				}
				for range 2 { // once, whatever follows
					if d := cmp.Diff(want, types(r.flushed(of(c.Process.Pid)))); d != "" {
						t.Error(d)
					}
				}
			})
		}
	}
}

func TestPollerSnapshotHasEveryProcess(t *testing.T) {
	p := newPoller(t, PollerOptions{})
	checkSnapshot(t, p)
	if s := p.Stats(); s.Snapshots != 1 || s.Scans != 1 || s.ScanTime <= 0 || len(s.Hierarchies) == 0 {
		t.Errorf("%+v", s)
	}
}

func TestPollerScansByItself(t *testing.T) {
	r := record(t, newPoller(t, PollerOptions{Interval: time.Millisecond}))
	c := startChild(t, nil, "", "/bin/cat")
	r.await(of(c.Process.Pid))
	c.end()
	r.await(func(e Event) bool { return e.Type == Exit && of(c.Process.Pid)(e) })
}

func TestPollerKeepsCgroupsThatCannotBeReadForOnce(t *testing.T) {
	own := newCgroupFiles("/proc", "/sys/fs/cgroup")
	broken := false
	p := newPoller(t, PollerOptions{Cgroups: func(dir *os.File) (CgroupSet, error) {
		if broken {
			return CgroupSet{}, errors.New("broken")
		}
		return own.read(dir)
	}})
	r := record(t, p)
	c := startChild(t, nil, "", "/bin/cat")
	before := r.flushed(of(c.Process.Pid))
	if err := p.Flush(patient(t)); err != nil {
		t.Fatal(err)
	}
	broken = true
	r.flushed(of(c.Process.Pid))
	broken = false
	if after := r.flushed(of(c.Process.Pid)); len(after) != len(before) || len(before) != 2 {
		t.Errorf("%v, then %v", types(before), types(after))
	}
}

func TestPollerEnds(t *testing.T) {
	p := newPoller(t, PollerOptions{})
	done := make(chan error)
	go func() { done <- p.Run(context.Background(), func(Event) {}) }()
	if err := p.Flush(patient(t)); err != nil {
		t.Fatal(err)
	}
	if err := p.Run(context.Background(), func(Event) {}); !errors.Is(err, ErrRunning) {
		t.Errorf("a second Run: %v", err)
	}
	p.Close()
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("Run: %v", err)
	}
	if err := p.Flush(context.Background()); !errors.Is(err, ErrClosed) {
		t.Errorf("Flush: %v", err)
	}
}

func TestPollerNeedsAProcfs(t *testing.T) {
	if _, err := NewPoller(PollerOptions{Procfs: t.TempDir()}); err == nil {
		t.Error("no error without a procfs")
	}
}
