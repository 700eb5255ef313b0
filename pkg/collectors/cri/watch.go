// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// minSpacing is the least time between two comparisons, however often nudged:
	// the kubelet lists as much each second.
	minSpacing = time.Second
	// maxDetails bounds the sandboxes that one comparison asks about.
	maxDetails = 64
	// unreadablePause is how long a list is left alone that was too large.
	unreadablePause = time.Minute
)

// Nudge implements collectors.Nudger: the lists are compared soon.
func (c *Collector) Nudge() {
	select {
	case c.nudged <- struct{}{}:
	default:
	}
}

// Watch implements collectors.Watcher, by comparing lists. It ends with the first
// call that fails: the caller lists, and begins again. One Watch at a time keeps
// what it sees for the other methods; a second one gives hints all the same.
func (c *Collector) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	n, e, err := c.askWithin(ctx)
	if err != nil {
		return fmt.Errorf("cri: watch: %w", err)
	}
	w := &watcher{c: c, n: n, e: e, fn: fn, memory: c.memory, first: true, dirty: map[string]bool{}}
	if c.memory.begin() {
		defer c.memory.end()
	} else {
		w.memory = newMemory()
	}
	for {
		pause, err := w.look(ctx)
		if err == nil {
			err = c.untilDue(ctx, pause)
		}
		if err != nil {
			return fmt.Errorf("cri: watch: %w", err)
		}
	}
}

func (c *Collector) askWithin(ctx context.Context) (*conn, engine, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.ask(ctx)
}

// untilDue waits until the next comparison is due: when everything else is, or
// after a nudge, but in either case not at once after the last.
func (c *Collector) untilDue(ctx context.Context, spacing time.Duration) error {
	ended := time.Now()
	wait := beat.Until(c.interval)
	for wait < spacing {
		wait += c.interval
	}
	due := time.NewTimer(wait)
	defer due.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-due.C:
		return nil
	case <-c.nudged:
	}
	due.Reset(spacing - time.Since(ended))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-due.C:
		return nil
	}
}

// watcher is one running Watch.
type watcher struct {
	c      *Collector
	n      *conn
	e      engine
	fn     func(collectors.Hint)
	memory *memory
	// first: what is there before the first comparison began no one's life.
	first bool
	// dirty are the pods that are to be told of.
	dirty map[string]bool
	// images are those that containers of the last list have.
	images map[string]bool
}

// look compares once, and says how long the next time is off at the least.
func (w *watcher) look(ctx context.Context) (time.Duration, error) {
	within, cancel := context.WithTimeout(ctx, w.c.timeout)
	defer cancel()
	all, err := w.c.both(within, w.n)
	if all == nil {
		return 0, err
	}
	pause := min(minSpacing, w.c.interval/2)
	if err != nil {
		w.c.log.Debug("lists are not whole", "source", w.c.Name(), "err", err)
		pause = unreadablePause
	}
	d := w.memory.compare(all, all.pods(w.e), w.e, err != nil)
	for _, id := range d.gone {
		w.fn(collectors.Hint{Kind: collectors.HintDeleted, ID: w.e.id(id)})
	}
	for _, uid := range d.podsGone {
		delete(w.dirty, uid)
		w.fn(collectors.Hint{Kind: collectors.HintDeleted, Pod: &workload.Pod{PodRef: workload.PodRef{UID: uid}}})
	}
	if !w.first {
		maps.Copy(w.dirty, d.pods)
		err = w.tell(ctx, d)
	} else {
		err = nil
	}
	if w.newImage(all.containers) && !w.first {
		w.fn(collectors.Hint{Kind: collectors.HintImages})
	}
	w.first = false
	w.fn(collectors.Hint{Kind: collectors.HintAlive})
	return pause, err
}

// newImage reports whether a container has an image that none had before: nothing else
// in the CRI tells of one that was pulled.
func (w *watcher) newImage(list []*runtimeapi.Container) (found bool) {
	images := map[string]bool{}
	for _, l := range list {
		images[l.ImageRef] = true
		found = found || !w.images[l.ImageRef]
	}
	w.images = images
	return found
}

// tell gives the hints of what is new or different: the sandboxes before what is in them.
func (w *watcher) tell(ctx context.Context, d difference) error {
	details := maxDetails
	for _, s := range d.sandboxes {
		if err := w.tellSandbox(ctx, s, &details); err != nil {
			return err
		}
	}
	for _, l := range d.containers {
		w.tellState(l.Id, stateOf(l.State), w.fromListed(l))
	}
	return w.tellPods(ctx, &details)
}

// fromListed leaves the image to who asks about the one container: a list may
// give another name of it.
func (w *watcher) fromListed(l *runtimeapi.Container) *workload.Container {
	out := fromListed(w.e, l)
	out.Image = workload.ImageRef{}
	return out
}

// tellSandbox asks about a sandbox that is new and runs: only its status has the
// addresses, and its spec.
func (w *watcher) tellSandbox(ctx context.Context, s *runtimeapi.PodSandbox, details *int) error {
	layer := fromListedSandbox(w.e, s)
	if s.State == runtimeapi.PodSandboxState_SANDBOX_READY && *details > 0 {
		*details--
		full, pod, err := w.sandbox(ctx, s.Id)
		if errors.Is(err, collectors.ErrNotFound) {
			return nil // it was removed meanwhile
		}
		if err != nil {
			return err
		}
		layer = full
		w.memory.setTold(s.Id, full.State)
		if pod != nil {
			w.memory.setAddresses(pod)
		}
	}
	w.tellState(s.Id, layer.State, layer)
	return nil
}

func (w *watcher) sandbox(ctx context.Context, id string) (*workload.Container, *workload.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, w.c.timeout)
	defer cancel()
	return w.c.sandbox(ctx, w.n, w.e, id)
}

// tellState gives the hint of one container or sandbox. A list has less than a
// status, of an end not even how: the second hint has the rest asked for, where it
// was not asked for since.
func (w *watcher) tellState(id string, state workload.State, layer *workload.Container) {
	h := collectors.Hint{Kind: collectors.HintChanged, ID: w.e.id(id), Layer: layer}
	switch state {
	case workload.StateCreated:
		h.Kind = collectors.HintCreated
	case workload.StateRunning:
		h.Kind = collectors.HintStarted
	case workload.StateExited:
		h.Kind = collectors.HintExited
	}
	w.fn(h)
	if !w.memory.wasTold(id, state) {
		w.fn(collectors.Hint{Kind: collectors.HintChanged, ID: w.e.id(id)})
	}
}

// tellPods tells of each pod that anything has changed about, with its addresses;
// those beyond the budget next time.
func (w *watcher) tellPods(ctx context.Context, details *int) error {
	for _, uid := range slices.Sorted(maps.Keys(w.dirty)) {
		known := w.memory.pod(uid)
		if known == nil {
			delete(w.dirty, uid)
			continue
		}
		pod := known.Clone()
		newest := pod.Sandboxes[0].ID
		s := w.memory.addressesOf(newest)
		if s == nil {
			if *details == 0 {
				continue
			}
			*details--
			_, asked, err := w.sandbox(ctx, newest)
			if err != nil && !errors.Is(err, collectors.ErrNotFound) {
				return err
			}
			if asked != nil {
				w.memory.setAddresses(asked)
				s = asked
			}
		}
		if s != nil {
			addAddresses(pod, s)
		}
		collectors.BoundPod(pod)
		delete(w.dirty, uid)
		w.fn(collectors.Hint{Kind: collectors.HintChanged, Pod: pod})
	}
	return nil
}
