// SPDX-License-Identifier: Apache-2.0

package ecs

import (
	"context"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Watch asks at intervals, after changes and when nudged, and gives what has
// changed as hints: tasks as a whole, and of each container which task it is in.
// Lists that lookups bring are taken as well. Tasks' endpoints are asked beside.
func (c *Collector) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	w := &watch{
		c: c, fn: fn, sparedAt: time.Now().Add(-c.timing.spare), seen: map[string]*workload.Container{},
		turns: make(chan struct{}, abreast), answered: make(chan error, abreast),
	}
	ctx, cancel := context.WithCancel(ctx)
	defer w.asking.Wait()
	defer cancel()
	l, err := w.within(ctx, time.Now().Add(-c.timing.fresh))
	for first := true; err == nil; first = false {
		w.took(ctx, l, first)
		fn(collectors.Hint{Kind: collectors.HintAlive})
		l, err = w.next(ctx, l)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("ecs: watch: %w", err)
}

// abreast is how many endpoints are asked at once: one that is slow holds up no other.
const abreast = 4

// watch is one running Watch.
type watch struct {
	c  *Collector
	fn func(collectors.Hint)
	// seen are the containers of the last list, by their engine's ids.
	seen map[string]*workload.Container
	// follow is the pause before the next look, if something is on its way; 0 if not.
	follow time.Duration
	// retry is when an endpoint that failed may be asked again; 0 if none.
	retry time.Duration
	// sparedAt is when a nudge last led to nothing.
	sparedAt time.Time
	nudged   bool // the call that comes is a nudge's

	asking sync.WaitGroup
	turns  chan struct{}
	// answered gets one for each endpoint that was asked.
	answered chan error
}

// within bounds one call.
func (w *watch) within(ctx context.Context, since time.Time) (*list, error) {
	ctx, cancel := context.WithTimeout(ctx, w.c.opts.CallTimeout)
	defer cancel()
	return w.c.ask(ctx, since)
}

// took tells what a list has that is new, and decides when to look again.
func (w *watch) took(ctx context.Context, l *list, first bool) {
	changed, missing := w.tell(l)
	changed = w.tellContainers(l) || changed
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
	if !missing && !slices.ContainsFunc(l.tasks, func(t *task) bool { return busy(t.Task) }) || w.follow >= w.c.opts.Interval {
		w.follow = 0
	}
	w.nudged = false
	w.askEndpoints(ctx, l)
}

// askEndpoints begins to ask those that are due.
func (w *watch) askEndpoints(ctx context.Context, l *list) {
	tasks, next := w.c.due(l)
	w.retry = next
	for _, t := range tasks {
		w.asking.Go(func() {
			err := ctx.Err()
			select {
			case w.turns <- struct{}{}:
				_, err = w.c.detail(ctx, t)
				<-w.turns
			case <-ctx.Done():
				w.c.release(t)
			}
			select {
			case w.answered <- err:
			case <-ctx.Done():
			}
		})
	}
}

// release gives up a call that was not made.
func (c *Collector) release(t *task) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.details[t.ARN]
	d.busy, d.until = false, time.Time{}
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
	retry := newRetry(w.retry)
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			return w.within(ctx, time.Now())
		case <-w.c.news:
			if got := w.c.latest(); got != l {
				return got, nil
			}
		case err := <-w.answered:
			w.heard(err, l)
			if w.retry = w.c.waiting(l); w.retry > 0 {
				retry.Reset(w.retry)
			}
		case <-retry.C:
			w.askEndpoints(ctx, l)
			if w.retry > 0 {
				retry.Reset(w.retry)
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

// newRetry is a timer that may not be running.
func newRetry(d time.Duration) *time.Timer {
	t := time.NewTimer(max(d, time.Millisecond))
	if d == 0 {
		t.Stop()
	}
	return t
}

// heard takes what an endpoint said.
func (w *watch) heard(err error, l *list) {
	if err != nil {
		w.fn(collectors.Hint{Kind: collectors.HintAlive, Err: err})
		return
	}
	w.tell(l)
}

// waiting says how long it is until an endpoint that failed may be asked again.
func (c *Collector) waiting(l *list) (next time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range l.tasks {
		d := c.details[t.ARN]
		if d == nil || d.busy || d.pause == 0 || d.version != t.version {
			continue
		}
		if wait := max(time.Until(d.until), time.Millisecond); next == 0 || wait < next {
			next = wait
		}
	}
	return next
}

// standing is a task that was told. It outlives Watch and the agent, so that a
// task that was deleted meanwhile is noticed.
type standing struct {
	task *workload.Task
	// missing counts the lists in a row that did not have it.
	missing int
	in      *list // the last that it was compared with
}

// tell gives hints of the tasks that are not as they were; missing says that there
// is one to look for again.
func (w *watch) tell(l *list) (changed, missing bool) {
	hints, missing := w.c.remember(l)
	for _, h := range hints {
		w.fn(h)
	}
	return len(hints) > 0, missing
}

// remember takes a list and gives hints of the tasks that changed since the last.
// One that is over is deleted, and so is one that two lists in a row do not have.
func (c *Collector) remember(l *list) (hints []collectors.Hint, missing bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range l.tasks {
		now, was := c.wholeLocked(l, t), c.known[t.ARN]
		kind := collectors.HintChanged
		switch {
		case was == nil:
			kind = collectors.HintCreated
		case reflect.DeepEqual(was.task, now):
			was.missing = 0
			continue
		}
		c.known[t.ARN] = &standing{task: now}
		hints = append(hints, collectors.Hint{Kind: kind, Task: now.Clone()})
		if over(now) {
			hints = append(hints, gone(t.ARN))
		}
	}
	for _, arn := range slices.Sorted(maps.Keys(c.known)) {
		s := c.known[arn]
		if l.byARN[arn] != nil {
			continue
		}
		if s.in != l {
			s.in = l
			s.missing++
		}
		if s.missing < 2 && len(c.known) <= 2*maxTasks {
			missing = true
			continue
		}
		delete(c.known, arn)
		hints = append(hints, gone(arn))
	}
	return hints, missing
}

func gone(arn string) collectors.Hint {
	return collectors.Hint{Kind: collectors.HintDeleted, Task: &workload.Task{ARN: arn}}
}

// tellContainers gives which task each container is in when it is first seen, or
// when that has changed. How it fares is its engine's to say, where it has one.
func (w *watch) tellContainers(l *list) (changed bool) {
	for _, id := range slices.Sorted(maps.Keys(l.containers)) {
		now := l.containers[id]
		was := w.seen[id]
		if w.seen[id] = now; reflect.DeepEqual(was, now) {
			continue
		}
		changed = true
		kind := collectors.HintChanged
		if was == nil {
			kind = collectors.HintStarted
		}
		w.fn(collectors.Hint{Kind: kind, ID: now.ID, Layer: now.Clone()})
	}
	for _, id := range slices.Sorted(maps.Keys(w.seen)) {
		was := w.seen[id]
		if l.containers[id] == nil {
			w.fn(collectors.Hint{Kind: collectors.HintDeleted, ID: was.ID})
			delete(w.seen, id)
			changed = true
		}
	}
	return changed
}
