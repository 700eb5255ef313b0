// SPDX-License-Identifier: Apache-2.0

package collectors

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// The methods that callers reach through the supervisor, as Status names them.
const (
	methodLocate     = "locate"
	methodLookup     = "lookup"
	methodPrefill    = "prefill"
	methodLookupPod  = "lookup-pod"
	methodLookupTask = "lookup-task"
	methodLookupUnit = "lookup-unit"
	// countListPods, countListTasks and countListImages count lists of those; those of containers are "list".
	countListPods  = "list-pods"
	countListTasks = "list-tasks"
	// A list of images is one, however many of them it had to ask about.
	countListImages = "list-images"
	// countWaited counts calls that had to wait for their turn.
	countWaited = "waited"
	// countPanics counts panics that were contained.
	countPanics = "panics"
)

// call gives fn a deadline and a turn, and counts it.
func (m *member) call(ctx context.Context, method string, fn func(context.Context) error) (err error) {
	m.count(method)
	bounded, cancel := context.WithTimeout(ctx, m.opts.CallTimeout)
	defer cancel()
	if method == methodLookup {
		m.owes()
		defer func() { m.said(ctx, err) }()
	}
	release, err := m.turn(bounded, method)
	if err == nil {
		err = m.contain(method, func() error { return fn(bounded) })
		release()
	}
	if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: no answer in %v: %w", ErrUnavailable, m.opts.CallTimeout, err)
	}
	m.answered(ctx, err)
	return err
}

// owes notes that a lookup is under way.
func (m *member) owes() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.owed == 0 {
		m.owedSince = time.Now()
	}
	m.owed++
}

// said notes the end of a lookup. The caller's own impatience says nothing about the source.
func (m *member) said(ctx context.Context, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.owed--
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrNotMine):
		m.refused, m.owedSince = false, time.Now()
	case ctx.Err() == nil:
		m.refused = true
	}
}

// prompt reports whether the source can be expected to answer: it is there, had
// an answer to the last lookup that ended, and has not been silent for so long
// while it owes one. Files do not count, for they can be read of an engine that hangs.
func (m *member) prompt(silence time.Duration) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status.State == stateRunning && !m.refused && (m.owed == 0 || time.Since(m.owedSince) < silence)
}

// turn waits for one of the method's slots.
func (m *member) turn(ctx context.Context, method string) (release func(), err error) {
	slots := m.slots[method]
	release = func() { <-slots }
	select {
	case slots <- struct{}{}:
		return release, nil
	default:
	}
	m.count(countWaited)
	select {
	case slots <- struct{}{}:
		if ctx.Err() == nil {
			return release, nil
		}
		release()
	case <-ctx.Done():
	}
	return nil, fmt.Errorf("wait for a turn: %w", ctx.Err())
}

// contain turns a panic into an error. The stack goes to the log, for it is a
// bug in the collector, but once a minute at most.
func (m *member) contain(what string, fn func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			m.panicked(what, p)
			err = fmt.Errorf("%w: %s panicked: %v", ErrUnavailable, what, p)
		}
	}()
	return fn()
}

func (m *member) panicked(what string, p any) {
	m.mu.Lock()
	m.status.Calls[countPanics]++
	quiet := !m.panickedAt.IsZero() && time.Since(m.panickedAt) < repeatLogs
	if !quiet {
		m.panickedAt = time.Now()
	}
	m.mu.Unlock()
	if !quiet {
		m.opts.Logger.Error("collector panicked", "source", m.name, "in", what, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	}
}

type describer func(context.Context, workload.ContainerID) (*workload.Container, error)

// describe asks about one container and refuses an answer about another.
func (m *member) describe(ctx context.Context, method string, id workload.ContainerID, fn describer) (*workload.Container, error) {
	var c *workload.Container
	err := m.call(ctx, method, func(ctx context.Context) (err error) {
		if c, err = fn(ctx, id); err == nil && !describes(c, id) {
			return fmt.Errorf("%w: the answer is not about the container asked for", ErrUnavailable)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %s %s: %w", m.name, method, id, err)
	}
	return c, nil
}

func describes(c *workload.Container, id workload.ContainerID) bool {
	return c != nil && (c.ID.ID == id.ID ||
		slices.ContainsFunc(c.Aliases, func(a workload.ContainerID) bool { return a.ID == id.ID }))
}

// answered keeps what a call says about the source's health. Not to be found is
// health; the caller's own impatience is nothing.
func (m *member) answered(ctx context.Context, err error) {
	switch {
	case err == nil, errors.Is(err, ErrNotFound), errors.Is(err, ErrNotMine):
		m.contact()
	case ctx.Err() != nil:
	case errors.Is(err, ErrNotPresent): // no failure; the next probe says whether it went away
		signal(m.suspect)
	default:
		m.failed(err)
		signal(m.suspect)
	}
}
