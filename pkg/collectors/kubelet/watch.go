// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"reflect"
	"time"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Watch asks at intervals, after changes and when nudged, and gives what has
// changed as hints: pods as a whole, and of each container that runs what it is in
// its pod. Lists that lookups bring are taken as well.
func (c *Collector) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	c.mu.Lock()
	c.watches++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.watches--
	}()
	w := &watch{c: c, fn: fn, sparedAt: time.Now().Add(-c.timing.spare), seen: map[string]*described{}}
	l, err := c.within(ctx, time.Now().Add(-c.timing.fresh))
	for first := true; err == nil; first = false {
		w.took(l, first)
		fn(collectors.Hint{Kind: collectors.HintAlive})
		l, err = w.next(ctx, l)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("kubelet: watch: %w", err)
}

// within bounds one call of Watch's.
func (c *Collector) within(ctx context.Context, since time.Time) (*list, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.CallTimeout)
	defer cancel()
	return c.ask(ctx, since)
}

// watch is one running Watch.
type watch struct {
	c  *Collector
	fn func(collectors.Hint)
	// seen are the containers of the last list, by their engine's ids.
	seen map[string]*described
	// follow is the pause before the next look, if something is on its way; 0 if not.
	follow time.Duration
	// sparedAt is when a nudge last led to nothing.
	sparedAt time.Time
	nudged   bool // the call that comes is a nudge's
}

// took tells what a list has that is new, and decides when to look again.
func (w *watch) took(l *list, first bool) {
	changed, missing := w.tell(l, first)
	switch {
	case first:
	case changed:
		w.follow, w.sparedAt = w.c.timing.soon, time.Time{}
	case w.nudged:
		w.sparedAt = time.Now()
	}
	if !changed && w.follow > 0 {
		w.follow *= 2
	}
	if missing && w.follow == 0 {
		w.follow = w.c.timing.soon
	}
	if !l.busy && !missing || w.follow >= w.c.opts.Interval {
		w.follow = 0
	}
	w.nudged = false
}

// next waits for the next list after l and gives it.
func (w *watch) next(ctx context.Context, l *list) (*list, error) {
	wait := beat.Until(w.c.opts.Interval)
	if w.follow > 0 {
		wait = min(wait, beat.After(w.follow))
	}
	due := time.Now().Add(wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			return w.c.within(ctx, time.Now())
		case <-w.c.news:
			if got := w.c.latest(); got != l {
				return got, nil
			}
		case <-w.c.nudged:
			soon := beat.After(w.c.timing.soon)
			if time.Since(w.sparedAt) >= w.c.timing.spare && time.Until(due) > soon {
				w.nudged, due = true, time.Now().Add(soon)
				timer.Reset(soon)
			}
		}
	}
}

func (c *Collector) latest() *list {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// tell gives hints of what is not as it was.
func (w *watch) tell(l *list, first bool) (changed, missing bool) {
	hints, missing := w.c.remember(l)
	for _, h := range hints {
		w.fn(h)
	}
	return w.tellContainers(l, first) || len(hints) > 0, missing
}

// tellContainers gives what each container is in its pod when it is first seen,
// or when that has changed. Once it has ended the kubelet has no more to say of it:
// how it ended is its engine's to say. What had ended before the first list is left
// to the engines altogether.
func (w *watch) tellContainers(l *list, first bool) (changed bool) {
	for _, hex := range sortedKeys(l.containers) {
		now, was := l.containers[hex], w.seen[hex]
		w.seen[hex] = now
		if reflect.DeepEqual(was, now) || first && !now.runs {
			continue
		}
		changed = true
		kind := collectors.HintChanged
		if was == nil {
			kind = collectors.HintStarted
		}
		w.fn(collectors.Hint{Kind: kind, ID: now.layer.ID, Layer: now.layer.Clone()})
		if !now.runs {
			w.fn(collectors.Hint{Kind: collectors.HintDeleted, ID: now.layer.ID})
		}
	}
	for _, hex := range sortedKeys(w.seen) {
		if l.containers[hex] != nil {
			continue
		}
		if was := w.seen[hex]; was.runs {
			w.fn(collectors.Hint{Kind: collectors.HintDeleted, ID: was.layer.ID})
			changed = true
		}
		delete(w.seen, hex)
	}
	return changed
}

// standing is a pod that was in a list. It outlives Watch and the kubelet, so that
// a pod that was deleted meanwhile is noticed.
type standing struct {
	pod *workload.Pod
	// missing counts the lists in a row that did not have it.
	missing int
}

// remember takes a list and gives hints of the pods that changed since the last.
// One that is not in it is deleted with the second list without it, and not while
// the kubelet is young; missing says that there is one to look for again.
func (c *Collector) remember(l *list) (hints []collectors.Hint, missing bool) {
	settled := c.settled(l)
	c.mu.Lock()
	defer c.mu.Unlock()
	settled = settled || len(c.known) > 2*maxPods // nobody has as many
	for _, p := range l.pods {
		kind := collectors.HintChanged
		was := c.known[p.UID]
		if was == nil {
			kind = collectors.HintCreated
		} else if reflect.DeepEqual(was.pod, p) {
			was.missing = 0
			continue
		}
		c.known[p.UID] = &standing{pod: p}
		hints = append(hints, collectors.Hint{Kind: kind, Pod: p.Clone()})
	}
	for _, uid := range sortedKeys(c.known) {
		s := c.known[uid]
		if l.byUID[uid] != nil {
			continue
		}
		if s.missing++; s.missing < 2 || !settled {
			missing = true
			continue
		}
		delete(c.known, uid)
		hints = append(hints, collectors.Hint{Kind: collectors.HintDeleted, Pod: &workload.Pod{PodRef: workload.PodRef{UID: uid}}})
	}
	return hints, missing
}

// settled reports whether the kubelet has run for long enough to know its pods.
// Where its process is not seen, how long it has answered without a break is all
// that is known.
func (c *Collector) settled(l *list) bool {
	if l.process.pid != 0 {
		return l.process.age() >= c.timing.young
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.answers.IsZero() && l.began.Sub(c.answers) >= c.timing.young
}
