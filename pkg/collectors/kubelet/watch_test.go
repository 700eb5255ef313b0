// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// node is a kubelet in memory, so that time can be virtual.
type node struct {
	mu    sync.Mutex        // guards all below
	pods  map[string]string // by name, as JSON
	calls int
	err   error
}

func (n *node) put(name, pod string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pods[name] = pod; pod == "" {
		delete(n.pods, name)
	}
}

func (n *node) set(pods map[string]string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pods, n.err = pods, err
}

func (n *node) called() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls
}

func (n *node) fetch(context.Context) (*list, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls++
	if n.err != nil {
		return nil, n.err
	}
	var pods []string
	for _, name := range sortedKeys(n.pods) {
		pods = append(pods, n.pods[name])
	}
	l, err := decode(strings.NewReader(`{"kind":"PodList","items":[`+strings.Join(pods, ",")+`]}`), collectors.MaxKubeletList)
	if err != nil {
		return nil, err
	}
	l.where = "memory"
	return l, nil
}

// nodeOf has n pods that run.
func nodeOf(n int) *node {
	out := &node{pods: map[string]string{}}
	for i := range n {
		out.pods[fmt.Sprintf("pod-%03d", i)] = pod(i)
	}
	return out
}

// watching runs a Watch on n in a bubble of virtual time.
type watching struct {
	c      *Collector
	n      *node
	cancel context.CancelFunc
	ended  chan error
	told   int // hints that a test has looked at

	mu    sync.Mutex // guards all below
	hints []string
	full  []collectors.Hint
}

func watchOn(t *testing.T, n *node) *watching {
	t.Helper()
	c := newCollector(t, Options{Address: "http://127.0.0.1:1"})
	c.fetch = n.fetch
	ctx, cancel := context.WithCancel(t.Context())
	w := &watching{c: c, n: n, cancel: cancel, ended: make(chan error, 1)}
	go func() { w.ended <- c.Watch(ctx, w.heard) }()
	synctest.Wait()
	return w
}

func (w *watching) heard(h collectors.Hint) {
	if h.Kind == collectors.HintAlive {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.full = append(w.full, h)
	if h.Pod != nil {
		w.hints = append(w.hints, string(h.Kind)+" "+h.Pod.UID)
	} else {
		w.hints = append(w.hints, fmt.Sprintf("%s container %s", h.Kind, strings.TrimLeft(h.ID.ID, "0")))
	}
}

func (w *watching) all() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.hints)
}

func (w *watching) stop() {
	w.cancel()
	<-w.ended
}

// after lets virtual time pass and gives the hints and the number of calls of it.
func (w *watching) after(d time.Duration) (hints []string, calls int) {
	before, n := w.told, w.n.called()
	time.Sleep(d)
	synctest.Wait()
	all := w.all()
	w.told = len(all)
	return all[before:], w.n.called() - n
}

// The figure: a node with 100 pods on which nothing changes. Cgroups of
// other things come and go all the time (nudges), and whoever begins asks first.
func TestANodeOnWhichNothingChangesIsAskedTwelveTimesInFiveMinutesAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nodeOf(100)
		// One that never gets going changes nothing either.
		n.put("pending", `{"metadata":{"uid":"pending"},"status":{"phase":"Pending"}}`)
		c := newCollector(t, Options{Address: "http://127.0.0.1:1"})
		c.fetch = n.fetch
		if _, err := c.Probe(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Watch(ctx, func(collectors.Hint) {}) }()
		for p := range c.ListPods(t.Context()) {
			if p != nil && p.Phase == "Running" {
				if _, err := c.LookupPod(t.Context(), p.UID); err != nil {
					t.Error(err)
				}
			}
		}
		for range 299 {
			time.Sleep(time.Second)
			c.Nudge()
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if n.called() > 12 || n.called() < 10 {
			t.Errorf("%d calls in five minutes, want 10 to 12", n.called())
		}
		t.Logf("%d calls in five minutes", n.called())
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

func TestANewPodIsAskedForOnceAndFollowedUntilItRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nodeOf(1)
		w := watchOn(t, n)
		defer w.stop()
		w.after(40 * time.Second)
		n.put("new", `{"metadata":{"name":"new","uid":"new"},"spec":{"containers":[{"name":"c"}]},"status":{"phase":"Pending"}}`)
		p, err := w.c.LookupPod(t.Context(), "new")
		if err != nil || p.Name != "new" {
			t.Fatalf("LookupPod: %v, %v", p, err)
		}
		if _, err := w.c.LookupPod(t.Context(), "new"); err != nil {
			t.Error(err)
		}
		if hints, calls := w.after(0); fmt.Sprint(hints) != "[created new]" || calls != 0 {
			t.Errorf("hints %v and %d more calls; want that of the lookup, without another call", hints, calls)
		}
		n.put("new", strings.Replace(pod(7), "uid-7", "new", 1))
		if hints, calls := w.after(2 * time.Second); fmt.Sprint(hints) != "[changed new started container 7]" || calls != 1 {
			t.Errorf("two seconds later %v, %d calls", hints, calls)
		}
		if hints, calls := w.after(10 * time.Second); len(hints) != 0 || calls > 1 {
			t.Errorf("once it runs %v, %d calls", hints, calls)
		}
	})
}

func TestAPodIsDeletedWithTheSecondListWithoutIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nodeOf(3)
		w := watchOn(t, n)
		defer w.stop()
		w.after(31 * time.Second)
		n.put("pod-001", "")
		w.c.Nudge()
		if hints, _ := w.after(2 * time.Second); fmt.Sprint(hints) != "[deleted container 1]" {
			t.Errorf("with the first list %v", hints)
		}
		if hints, _ := w.after(4 * time.Second); fmt.Sprint(hints) != "[deleted uid-1]" {
			t.Errorf("with the second %v", hints)
		}
		n.put("pod-001", pod(1))
		if hints, _ := w.after(30 * time.Second); fmt.Sprint(hints) != "[created uid-1 started container 1]" {
			t.Errorf("made again %v", hints)
		}
	})
}

// A kubelet that has just begun has no pods, and while the API server is away, none
// of its pods but the static ones.
func TestAYoungKubeletDeletesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nodeOf(2)
		w := watchOn(t, n)
		w.after(2 * time.Minute)
		n.set(nil, fmt.Errorf("%w: it restarts", collectors.ErrUnavailable))
		time.Sleep(31 * time.Second)
		if err := <-w.ended; !errors.Is(err, collectors.ErrUnavailable) {
			t.Fatal(err)
		}
		w.cancel()
		n.set(map[string]string{}, nil)
		again := &watching{c: w.c, n: n, ended: make(chan error, 1)}
		var ctx context.Context
		ctx, again.cancel = context.WithCancel(t.Context())
		go func() { again.ended <- w.c.Watch(ctx, again.heard) }()
		defer again.stop()
		synctest.Wait()
		whole := true
		for _, err := range w.c.ListPods(t.Context()) {
			whole = whole && err == nil
		}
		if whole {
			t.Error("its list is said to be whole")
		}
		if _, err := w.c.LookupPod(t.Context(), "uid-0"); !errors.Is(err, collectors.ErrUnavailable) {
			t.Errorf("one of them is looked up: %v", err)
		}
		if hints, _ := again.after(20 * time.Second); len(hints) != 0 {
			t.Errorf("hints of pods that it does not know yet: %v", hints)
		}
		n.put("pod-001", pod(1)) // and not the other one, which was deleted meanwhile
		if hints, _ := again.after(time.Minute); fmt.Sprint(hints) != "[started container 1 deleted uid-0]" {
			t.Errorf("hints %v; want that of the pod that was deleted while it was away", hints)
		}
	})
}

func TestALookupOfAContainerAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nodeOf(2)
		w := watchOn(t, n)
		defer w.stop()
		calls := n.called()
		hex := fmt.Sprintf("%064x", 1)
		for _, claim := range []workload.ContainerID{{ID: hex}, {Runtime: "kubernetes", ID: hex}, {Runtime: "containerd", Namespace: "k8s.io", ID: hex}} {
			c, err := w.c.Lookup(t.Context(), claim)
			if err != nil {
				t.Fatalf("%v: %v", claim, err)
			}
			want := &workload.Container{
				ID:  workload.ContainerID{Runtime: "containerd", Namespace: "k8s.io", ID: hex},
				Pod: &workload.PodRef{UID: "uid-1", Name: "pod-1", Namespace: "n"}, Role: workload.RoleMain,
			}
			if d := cmp.Diff(want, c); d != "" {
				t.Errorf("%v (-want +got):\n%s", claim, d)
			}
			c.Pod.Name = "spoiled"
		}
		for _, claim := range []workload.ContainerID{{ID: hexA}, {ID: "1"}, {Runtime: "podman", ID: hex}, {Runtime: "containerd", Namespace: "moby", ID: hex}} {
			if c, err := w.c.Lookup(t.Context(), claim); c != nil || !errors.Is(err, collectors.ErrNotMine) {
				t.Errorf("%v: %v, %v; want ErrNotMine", claim, c, err)
			}
		}
		if n.called() != calls {
			t.Errorf("%d calls", n.called()-calls)
		}
	})
}

// Whoever may make cgroups can name pods that are not there, as many as it likes.
func TestPodsThatAreNotThereAreAskedForLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nodeOf(1)
		w := watchOn(t, n)
		defer w.stop()
		calls, begin := n.called(), time.Now()
		for i := 0; time.Since(begin) < time.Minute; i++ {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			_, err := w.c.LookupPod(ctx, fmt.Sprintf("none-%d", i))
			if !errors.Is(err, collectors.ErrNotFound) && !errors.Is(err, collectors.ErrUnavailable) {
				t.Error(err)
			}
			cancel()
			time.Sleep(10 * time.Millisecond)
		}
		if got := n.called() - calls; got > 20 {
			t.Errorf("%d calls in a minute of lookups", got)
		}
		n.put("real", `{"metadata":{"uid":"real"}}`)
		time.Sleep(maxSpacing)
		if _, err := w.c.LookupPod(t.Context(), "real"); err != nil {
			t.Error(err)
		}
	})
}

func TestAnInitContainerThatEndedMeanwhileSaysItsRole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ended = `{"metadata":{"uid":"%s"},"spec":{"initContainers":[{"name":"i"}]},"status":{"phase":"Running","initContainerStatuses":[{"name":"i","ready":true,"state":{"terminated":{}},"containerID":"cri-o://%s"}]}}`
		n := nodeOf(0)
		n.put("old", fmt.Sprintf(ended, "old", hexA))
		w := watchOn(t, n)
		defer w.stop()
		if hints, _ := w.after(0); fmt.Sprint(hints) != "[created old]" {
			t.Errorf("at first %v: what ended long ago is its engine's to say", hints)
		}
		n.put("new", fmt.Sprintf(ended, "new", hexB))
		hints, _ := w.after(30 * time.Second)
		if want := "[created new started container " + hexB + " deleted container " + hexB + "]"; fmt.Sprint(hints) != want {
			t.Errorf("hints %v, want %s", hints, want)
		}
		if l := w.full[len(w.full)-2].Layer; l == nil || l.Role != workload.RoleInit || l.ID != (workload.ContainerID{Runtime: "cri-o", ID: hexB}) {
			t.Errorf("its layer is %+v", l)
		}
	})
}

func TestAPodThatNeverRunsIsFollowedLessAndLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := nodeOf(1)
		w := watchOn(t, n)
		defer w.stop()
		w.after(31 * time.Second)
		n.put("stuck", `{"metadata":{"uid":"stuck"},"status":{"phase":"Pending"}}`)
		if _, err := w.c.LookupPod(t.Context(), "stuck"); err != nil {
			t.Fatal(err)
		}
		if _, calls := w.after(2 * time.Minute); calls < 6 || calls > 10 {
			t.Errorf("%d calls in two minutes; want the usual 4, and one each after 1.5, 3, 6, 12 and 24 s", calls)
		}
	})
}
