// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// PodHarness is what RunPods needs to know of a collector and its real engine.
type PodHarness struct {
	// New makes a collector on the engine. Each subtest makes its own.
	New func(testing.TB) collectors.Collector
	// Start starts a pod that runs until it is removed, at the latest when the test ends.
	Start func(testing.TB) *StartedPod
	// Unknown is a uid of the right form that the engine does not have.
	Unknown string
}

// StartedPod is a pod that runs.
type StartedPod struct {
	// Want is what LookupPod must say. Fields that are zero are not compared; of
	// Labels and Annotations, only what is in Want.
	Want *workload.Pod
	// Remove makes the engine forget it; nil where it cannot.
	Remove func()
}

// RunPods holds a collector to what package collectors says of pods, on a real
// engine. Where nothing can be removed, Watch is only seen to begin.
func RunPods(t *testing.T, h PodHarness) {
	s := podSuite{h: h, p: h.Start(t)}
	t.Run("LookupPod describes a running pod", s.lookup)
	t.Run("an unknown uid is not found", s.unknown)
	t.Run("a hostile uid is refused at once", s.hostile)
	t.Run("a cancelled call returns at once", s.cancelled)
	t.Run("concurrent calls agree", s.concurrent)
	t.Run("what a call returned is the caller's own", s.independent)
	t.Run("ListPods has the pod and may be left early", s.list)
	if _, ok := h.New(t).(collectors.Watcher); ok {
		t.Run("Watch hears of a pod and of its end", s.watch)
	}
}

type podSuite struct {
	h PodHarness
	p *StartedPod
}

func (s podSuite) new(t *testing.T) collectors.PodCollector {
	t.Helper()
	c, ok := s.h.New(t).(collectors.PodCollector)
	if !ok {
		t.Fatal("the collector knows no pods")
	}
	return c
}

func (s podSuite) lookup(t *testing.T) {
	got, err := s.new(t).LookupPod(bounded(t, patience), s.p.Want.UID)
	if err != nil {
		t.Fatal(err)
	}
	CoversPod(t, s.p.Want, got)
}

func (s podSuite) unknown(t *testing.T) {
	if p, err := s.new(t).LookupPod(bounded(t, patience), s.h.Unknown); p != nil || !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("LookupPod = %v, %v; want ErrNotFound", p, err)
	}
}

// hostile uids come from cgroup names, which a container may write.
func (s podSuite) hostile(t *testing.T) {
	c := s.new(t)
	for _, uid := range []string{"", ".", "..", "/", "../../etc", "a\x00b", "\x1b[31m", "a b", "%2e", "?", "*", strings.Repeat("a", 100000), "\xff", "{}", `"`} {
		began := time.Now()
		p, err := c.LookupPod(bounded(t, patience), uid)
		if p != nil || !errors.Is(err, collectors.ErrNotFound) && !errors.Is(err, collectors.ErrNotMine) {
			t.Errorf("LookupPod of %.40q = %v, %.200v; want ErrNotFound or ErrNotMine", uid, p, err)
		}
		if d := time.Since(began); d > prompt {
			t.Errorf("LookupPod of %.40q took %v", uid, d)
		}
	}
}

func (s podSuite) cancelled(t *testing.T) {
	c := s.new(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	if _, err := c.LookupPod(ctx, s.p.Want.UID); err == nil {
		t.Error("LookupPod succeeded with a cancelled context")
	}
	for _, err := range c.ListPods(ctx) {
		if err == nil {
			t.Error("ListPods gave a pod with a cancelled context")
		}
	}
	if d := time.Since(began); d > prompt {
		t.Errorf("the calls took %v with a cancelled context", d)
	}
}

func (s podSuite) concurrent(t *testing.T) {
	c := s.new(t)
	ctx := bounded(t, patience)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := c.LookupPod(ctx, s.p.Want.UID); err != nil {
				t.Errorf("LookupPod: %v", err)
			}
			if !s.lists(c, ctx) {
				t.Error("ListPods does not have the pod")
			}
		})
	}
	wg.Wait()
}

// lists says whether the pod is in a list.
func (s podSuite) lists(c collectors.PodCollector, ctx context.Context) bool {
	found := false
	for p := range c.ListPods(ctx) {
		found = found || p != nil && p.UID == s.p.Want.UID
	}
	return found
}

func (s podSuite) independent(t *testing.T) {
	c := s.new(t)
	first, err := c.LookupPod(bounded(t, patience), s.p.Want.UID)
	if err != nil {
		t.Fatal(err)
	}
	spoilPod(first)
	for p := range c.ListPods(bounded(t, patience)) {
		if p != nil {
			spoilPod(p)
		}
	}
	second, err := c.LookupPod(bounded(t, patience), s.p.Want.UID)
	if err != nil {
		t.Fatal(err)
	}
	CoversPod(t, s.p.Want, second)
}

// spoilPod changes everything of p that a second answer could share.
func spoilPod(p *workload.Pod) {
	for _, m := range []map[string]string{p.Labels, p.Annotations} {
		for k := range m {
			m[k] = "spoiled"
		}
	}
	for _, l := range [][]string{p.IPs, p.Truncated} {
		for i := range l {
			l[i] = "spoiled"
		}
	}
	for i := range p.Containers {
		p.Containers[i].Name = "spoiled"
	}
	for i := range p.Conditions {
		p.Conditions[i].Type = "spoiled"
	}
	for i := range p.Owners {
		p.Owners[i].Name = "spoiled"
	}
	for i := range p.Volumes {
		p.Volumes[i].Name = "spoiled"
	}
	for i := range p.Sandboxes {
		p.Sandboxes[i].ID = "spoiled"
	}
}

func (s podSuite) list(t *testing.T) {
	c := s.new(t)
	if !s.lists(c, bounded(t, patience)) {
		t.Fatal("ListPods does not have the pod")
	}
	n := 0
	for range c.ListPods(bounded(t, patience)) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("ListPods yielded %d times before it was left", n)
	}
}

func (s podSuite) watch(t *testing.T) {
	c := s.new(t).(collectors.Watcher)
	ctx, cancel := context.WithCancel(t.Context())
	hints := newHintLog()
	ended := make(chan error, 1)
	go func() { ended <- c.Watch(ctx, hints.add) }()

	about := func(uid string, kinds ...collectors.HintKind) func(collectors.Hint) bool {
		return func(h collectors.Hint) bool {
			return h.Pod != nil && h.Pod.UID == uid && strings.Contains(fmt.Sprint(kinds), string(h.Kind))
		}
	}
	if fresh := s.p; fresh.Remove != nil {
		fresh = s.h.Start(t)
		nudgeFor(c, hints, about(fresh.Want.UID, collectors.HintCreated, collectors.HintStarted, collectors.HintChanged))
		hints.wait(t, "the pod", about(fresh.Want.UID, collectors.HintCreated, collectors.HintStarted, collectors.HintChanged))
		fresh.Remove()
		nudgeFor(c, hints, about(fresh.Want.UID, collectors.HintDeleted))
		hints.wait(t, "its end", about(fresh.Want.UID, collectors.HintDeleted))
	} else {
		hints.wait(t, "anything", func(collectors.Hint) bool { return true })
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(prompt):
		t.Error("Watch did not return when its context ended")
	}
}

// nudgeFor nudges until a hint is there, for a nudge may come too early.
func nudgeFor(c any, hints *hintLog, match func(collectors.Hint) bool) {
	n, ok := c.(collectors.Nudger)
	for range 10 {
		if ok {
			n.Nudge()
		}
		if !ok || hints.waitFor(patience/10, match) {
			return
		}
	}
}

// CoversPod fails the test where got contradicts want. Fields that are zero in
// want are not compared; of maps, only want's keys.
func CoversPod(t testing.TB, want, got *workload.Pod) {
	t.Helper()
	if got == nil {
		t.Fatal("no pod")
	}
	w, g := want.Clone(), got.Clone()
	g.Labels, g.Annotations = only(w.Labels, g.Labels), only(w.Annotations, g.Annotations)
	keep(w.Name, &g.Name)
	keep(w.Namespace, &g.Namespace)
	keep(w.Runtime, &g.Runtime)
	keep(w.RuntimeHandler, &g.RuntimeHandler)
	keep(w.Phase, &g.Phase)
	keep(w.QoS, &g.QoS)
	keep(w.Node, &g.Node)
	keep(w.ServiceAccount, &g.ServiceAccount)
	keep(w.ConfigHash, &g.ConfigHash)
	keep(w.Created, &g.Created)
	keep(w.Started, &g.Started)
	keep(w.Deleted, &g.Deleted)
	keepList(w.IPs, &g.IPs)
	keepList(w.Sandboxes, &g.Sandboxes)
	keepList(w.Conditions, &g.Conditions)
	keepList(w.Owners, &g.Owners)
	keepList(w.Containers, &g.Containers)
	keepList(w.Volumes, &g.Volumes)
	g.Sources, g.Missing, g.Truncated = w.Sources, w.Missing, w.Truncated
	if d := cmp.Diff(w, g); d != "" {
		t.Errorf("pod %s (-want +got):\n%s", want.UID, d)
	}
}

// keep drops what want does not say.
func keep[T comparable](want T, got *T) {
	var zero T
	if want == zero {
		*got = zero
	}
}

func keepList[T any](want []T, got *[]T) {
	if want == nil {
		*got = nil
	}
}

// only gives the entries of got that want has keys for.
func only(want, got map[string]string) map[string]string {
	if want == nil {
		return nil
	}
	out := map[string]string{}
	for k := range want {
		if v, ok := got[k]; ok {
			out[k] = v
		}
	}
	return out
}
