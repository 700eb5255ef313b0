// SPDX-License-Identifier: Apache-2.0

package ecs

import (
	"context"
	"fmt"
	"time"

	"github.com/pidigree/pidigree/internal/refusal"
	"github.com/pidigree/pidigree/pkg/collectors"
)

// flight is one list that is under way. Who began it makes the calls; the others wait.
type flight struct {
	began time.Time
	done  chan struct{} // closed once the rest is set
	list  *list
	err   error
	// left: who made the calls gave up, which says nothing to the others.
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
	agent := c.agent
	c.mu.Unlock()

	f.list, f.err = c.fetch(ctx, agent)
	f.left = f.err != nil && ctx.Err() != nil
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flight = nil
	switch {
	case f.err != nil:
		c.agent = nil // what answers next may be another one
		if !f.left {
			c.gate.After(f.err)
		}
	default:
		c.gate = refusal.Gate{}
		f.list.began = f.began
		c.last, c.agent = f.list, f.list.agent
		signal(c.news)
	}
	close(f.done)
	return f.list, f.err
}

// having gives a list that has something: the last one, or else a new one, which
// may not have it either.
func (c *Collector) having(ctx context.Context, has func(*list) bool) (*list, error) {
	since := time.Now()
	if l := c.latest(); l != nil && has(l) {
		return l, nil
	}
	if err := c.wait(ctx); err != nil {
		return nil, err
	}
	l, err := c.ask(ctx, since)
	if err == nil {
		c.missed(l, !has(l))
	}
	return l, err
}

func (c *Collector) latest() *list {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// maxSpacing bounds the pause between calls for what is not there.
const maxSpacing = 8 * time.Second

// wait keeps calls for lookups apart. Most containers of a host may be none of
// ECS's, and whoever may make cgroups can name any number that do not exist; the
// pause grows with those, and Watch, which tells what is new, does not wait here.
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
		return fmt.Errorf("%w: %d calls for what it does not have: next in %v", collectors.ErrUnavailable, misses, pause.Round(time.Millisecond))
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

// missed notes whether a lookup found what it is for; all that share a list count as one.
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
