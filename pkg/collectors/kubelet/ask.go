// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pidigree/pidigree/internal/refusal"
	"github.com/pidigree/pidigree/pkg/collectors"
)

// flight is one call that is under way. Who began it makes it; the others wait.
type flight struct {
	began time.Time
	done  chan struct{} // closed once the rest is set
	list  *list
	err   error
	// left: who made the call gave up, which says nothing to the others.
	left bool
}

// ask gives a list that was asked for after since: the last one, that of a call
// under way, or one of its own.
func (c *Collector) ask(ctx context.Context, since time.Time) (*list, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
		}
		c.mu.Lock()
		if c.last != nil && !c.last.began.Before(since) {
			defer c.mu.Unlock()
			return c.last, nil
		}
		f := c.flight
		if f == nil {
			return c.lead(ctx) // unlocks
		}
		c.mu.Unlock()
		select {
		case <-f.done:
		case <-ctx.Done():
			continue
		}
		if !f.left && !f.began.Before(since) {
			return f.list, f.err
		}
	}
}

// lead makes the call that all share who ask meanwhile. It is called with mu held.
func (c *Collector) lead(ctx context.Context) (*list, error) {
	if err := c.gate.Closed(); err != nil {
		c.mu.Unlock()
		return nil, err
	}
	f := &flight{began: time.Now(), done: make(chan struct{})}
	c.flight = f
	c.mu.Unlock()

	f.list, f.err = c.fetch(ctx)
	f.left = f.err != nil && ctx.Err() != nil
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flight = nil
	switch {
	case f.err != nil:
		if !errors.Is(ctx.Err(), context.Canceled) {
			c.answers = time.Time{}
		}
		if !f.left {
			c.gate.After(f.err)
		}
	default:
		c.gate = refusal.Gate{}
		f.list.began = f.began
		if c.last = f.list; c.answers.IsZero() {
			c.answers = f.began
		}
		signal(c.news)
	}
	close(f.done)
	return f.list, f.err
}

// maxSpacing bounds the pause between calls for pods that are not there.
const maxSpacing = 8 * time.Second

// wait keeps calls for lookups apart. Whoever may make cgroups can name any
// number of pods that do not exist; the pause grows with those, and the rest of
// the kubelet's answers is for Watch, which does not wait here.
func (c *Collector) wait(ctx context.Context) error {
	c.mu.Lock()
	last, misses := c.last, c.misses
	c.mu.Unlock()
	if last == nil {
		return nil
	}
	pause := time.Until(last.began.Add(min(c.timing.spacing<<min(misses, 8), maxSpacing)))
	if pause <= 0 {
		return nil
	}
	if end, ok := ctx.Deadline(); ok && time.Until(end) < pause {
		return fmt.Errorf("%w: %d calls for pods that it does not have: next in %v", collectors.ErrUnavailable, misses, pause.Round(time.Millisecond))
	}
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", collectors.ErrUnavailable, ctx.Err())
	}
}

// missed notes whether a lookup's pod was in the list; all that share a list count as one.
func (c *Collector) missed(l *list, missed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case !missed:
		c.misses = 0
	case c.missedIn != l:
		c.misses++
	}
	c.missedIn = l
}
