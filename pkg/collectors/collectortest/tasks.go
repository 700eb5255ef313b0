// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// TaskHarness is what RunTasks needs to know of a collector and its source.
type TaskHarness struct {
	// New makes a collector on the source. Each subtest makes its own.
	New func(testing.TB) collectors.Collector
	// Start starts a task that runs until it is removed, at the latest when the test ends.
	Start func(testing.TB) *StartedTask
	// Unknown is an ARN of the right form that the source does not have.
	Unknown string
}

// StartedTask is a task that runs.
type StartedTask struct {
	// Want is what LookupTask must say at least at once: its ARN, cluster, family,
	// revision and statuses.
	Want *workload.Task
	// Remove makes the source forget it.
	Remove func()
}

// RunTasks holds a collector to what package collectors says of tasks.
func RunTasks(t *testing.T, h TaskHarness) {
	s := taskSuite{h: h, t: h.Start(t)}
	t.Run("LookupTask describes a running task", s.lookup)
	t.Run("an unknown ARN is not found", s.unknown)
	t.Run("a hostile ARN is refused at once", s.hostile)
	t.Run("a cancelled call returns at once", s.cancelled)
	t.Run("concurrent calls agree", s.concurrent)
	t.Run("what a call returned is the caller's own", s.independent)
	t.Run("ListTasks has the task and may be left early", s.list)
	if _, ok := h.New(t).(collectors.Watcher); ok {
		t.Run("Watch hears of a task and of its end", s.watch)
	}
}

type taskSuite struct {
	h TaskHarness
	t *StartedTask
}

func (s taskSuite) new(t *testing.T) collectors.TaskCollector {
	t.Helper()
	c, ok := s.h.New(t).(collectors.TaskCollector)
	if !ok {
		t.Fatal("the collector knows no tasks")
	}
	return c
}

func (s taskSuite) lookup(t *testing.T) {
	got, err := s.new(t).LookupTask(bounded(t, patience), s.t.Want.ARN)
	if err != nil {
		t.Fatal(err)
	}
	coversTask(t, s.t.Want, got)
}

func (s taskSuite) unknown(t *testing.T) {
	if got, err := s.new(t).LookupTask(bounded(t, patience), s.h.Unknown); got != nil || !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("LookupTask = %v, %v; want ErrNotFound", got, err)
	}
}

// hostile ARNs come from labels, which whoever makes a container writes.
func (s taskSuite) hostile(t *testing.T) {
	c := s.new(t)
	for _, arn := range []string{"", ":", "arn:aws:ecs", "../../etc", "a\x00b", "\x1b[31m", s.t.Want.ARN + "/..", s.t.Want.ARN + "\n", "?", "*", strings.Repeat("a:", 100000), "\xff", "{}"} {
		began := time.Now()
		got, err := c.LookupTask(bounded(t, patience), arn)
		if got != nil || !errors.Is(err, collectors.ErrNotFound) && !errors.Is(err, collectors.ErrNotMine) {
			t.Errorf("LookupTask of %.40q = %v, %.200v; want ErrNotFound or ErrNotMine", arn, got, err)
		}
		if d := time.Since(began); d > prompt {
			t.Errorf("LookupTask of %.40q took %v", arn, d)
		}
	}
}

func (s taskSuite) cancelled(t *testing.T) {
	c := s.new(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	if _, err := c.LookupTask(ctx, s.t.Want.ARN); err == nil {
		t.Error("LookupTask succeeded with a cancelled context")
	}
	for _, err := range c.ListTasks(ctx) {
		if err == nil {
			t.Error("ListTasks gave a task with a cancelled context")
		}
	}
	if d := time.Since(began); d > prompt {
		t.Errorf("the calls took %v with a cancelled context", d)
	}
}

func (s taskSuite) concurrent(t *testing.T) {
	c := s.new(t)
	ctx := bounded(t, patience)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := c.LookupTask(ctx, s.t.Want.ARN); err != nil {
				t.Errorf("LookupTask: %v", err)
			}
			if !s.lists(ctx, c) {
				t.Error("ListTasks does not have the task")
			}
		})
	}
	wg.Wait()
}

// lists says whether the task is in a list.
func (s taskSuite) lists(ctx context.Context, c collectors.TaskCollector) bool {
	found := false
	for got := range c.ListTasks(ctx) {
		found = found || got != nil && got.ARN == s.t.Want.ARN
	}
	return found
}

func (s taskSuite) independent(t *testing.T) {
	c := s.new(t)
	first, err := c.LookupTask(bounded(t, patience), s.t.Want.ARN)
	if err != nil {
		t.Fatal(err)
	}
	want := first.Clone()
	spoilTask(first)
	for got := range c.ListTasks(bounded(t, patience)) {
		if got != nil {
			spoilTask(got)
		}
	}
	second, err := c.LookupTask(bounded(t, patience), s.t.Want.ARN)
	if d := cmp.Diff(want, second); d != "" || err != nil {
		t.Errorf("LookupTask after its answer was changed: %v (-want +got):\n%s", err, d)
	}
}

// spoilTask changes everything that a second answer could share.
func spoilTask(t *workload.Task) {
	for _, m := range []map[string]string{t.Tags, t.InstanceTags} {
		for k := range m {
			m[k] = "spoiled"
		}
	}
	for i := range t.Containers {
		t.Containers[i].Name = "spoiled"
	}
	t.Family = "spoiled"
}

func (s taskSuite) list(t *testing.T) {
	c := s.new(t)
	if !s.lists(bounded(t, patience), c) {
		t.Fatal("ListTasks does not have the task")
	}
	n := 0
	for range c.ListTasks(bounded(t, patience)) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("ListTasks yielded %d times before it was left", n)
	}
}

func (s taskSuite) watch(t *testing.T) {
	c := s.new(t).(collectors.Watcher)
	ctx, cancel := context.WithCancel(t.Context())
	hints := newHintLog()
	ended := make(chan error, 1)
	go func() { ended <- c.Watch(ctx, hints.add) }()

	fresh := s.h.Start(t)
	about := func(gone bool) func(collectors.Hint) bool {
		return func(h collectors.Hint) bool {
			return h.Task != nil && h.Task.ARN == fresh.Want.ARN && (h.Kind == collectors.HintDeleted) == gone
		}
	}
	nudgeFor(c, hints, about(false))
	hints.wait(t, "the task", about(false))
	fresh.Remove()
	nudgeFor(c, hints, about(true))
	hints.wait(t, "its end", about(true))
	cancel()
	select {
	case <-ended:
	case <-time.After(prompt):
		t.Error("Watch did not return when its context ended")
	}
}

// coversTask fails the test where got contradicts want in what a lookup says at once.
func coversTask(t testing.TB, want, got *workload.Task) {
	t.Helper()
	of := func(t *workload.Task) []string {
		return []string{t.ARN, t.Cluster, t.Family, t.Revision, t.Desired, t.Known}
	}
	if d := cmp.Diff(of(want), of(got)); d != "" {
		t.Errorf("task (-want +got):\n%s", d)
	}
}
