// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Behaviour is how a Fake fails. The zero value is a good source.
type Behaviour struct {
	// Absent: the source is not on this host.
	Absent bool
	// Hung: every call waits until its context ends.
	Hung bool
	// Delay goes before every answer.
	Delay time.Duration
	// Err is every call's answer.
	Err error
	// Panic: every call panics.
	Panic bool
	// DropHints: Emit reaches nobody.
	DropHints bool
	// Lie replaces what Lookup, Prefill and List say.
	Lie func(*workload.Container) *workload.Container
	// LieLocate replaces what Locate says.
	LieLocate func(workload.Evidence) (workload.ContainerID, error)
	// Only limits the behaviour to these methods ("probe", "lookup", ...); empty means all.
	Only []string
}

// Fake is a source scripted in memory: slow, hung, lossy or lying on demand. It
// implements every optional interface of package collectors; Bare hides those.
// All methods may be called from any goroutine, and it runs under
// testing/synctest.
type Fake struct {
	name string

	mu         sync.Mutex // guards all below
	behaviour  Behaviour
	containers map[workload.ContainerID]*workload.Container
	evidence   map[workload.PID]workload.ContainerID
	watchers   map[*watcher]struct{}
	calls      map[string]int
	busy       int
	peak       int
	report     collectors.Report
}

// watcher is one call of Watch.
type watcher struct {
	hints chan collectors.Hint
	cut   chan error
}

var (
	_ collectors.Prefiller = (*Fake)(nil)
	_ collectors.Lister    = (*Fake)(nil)
	_ collectors.Watcher   = (*Fake)(nil)
	_ collectors.Prober    = (*Fake)(nil)
	_ collectors.Nudger    = (*Fake)(nil)
)

// NewFake makes an empty source that works.
func NewFake(name string) *Fake {
	return &Fake{
		name:       name,
		containers: map[workload.ContainerID]*workload.Container{},
		evidence:   map[workload.PID]workload.ContainerID{},
		watchers:   map[*watcher]struct{}{},
		calls:      map[string]int{},
		report:     collectors.Report{Version: "fake"},
	}
}

// Bare gives a collector that can only Locate and Lookup.
func Bare(c collectors.Collector) collectors.Collector { return struct{ collectors.Collector }{c} }

// Set replaces the behaviour of the calls from now on.
func (f *Fake) Set(b Behaviour) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.behaviour = b
}

// SetReport replaces what Probe says.
func (f *Fake) SetReport(r collectors.Report) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.report = r
}

// Put adds or replaces a container, without a hint.
func (f *Fake) Put(c *workload.Container) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.containers[c.ID] = c.Clone()
	if c.Run != nil && c.Run.Init.PID != 0 {
		f.evidence[c.Run.Init.PID] = c.ID
	}
}

// Delete removes a container, without a hint.
func (f *Fake) Delete(id workload.ContainerID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, id)
}

// Emit gives a hint to every watcher, unless hints are dropped. It waits for
// none: a watcher has room for 1024.
func (f *Fake) Emit(h collectors.Hint) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.behaviour.DropHints {
		return
	}
	for w := range f.watchers {
		select {
		case w.hints <- h:
		default:
		}
	}
}

// Cut ends every Watch with err.
func (f *Fake) Cut(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for w := range f.watchers {
		select {
		case w.cut <- err:
		default:
		}
	}
}

// Calls counts what was asked: probe, locate, lookup, prefill, list, watch, nudge.
func (f *Fake) Calls() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.calls)
}

// Peak is the most calls that were ever inside at once, watches apart.
func (f *Fake) Peak() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.peak
}

// Name implements collectors.Collector.
func (f *Fake) Name() string { return f.name }

// Nudge implements collectors.Nudger: it only counts.
func (f *Fake) Nudge() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls["nudge"]++
}

// Probe implements collectors.Prober.
func (f *Fake) Probe(ctx context.Context) (collectors.Report, error) {
	if _, err := f.enter(ctx, "probe"); err != nil {
		return collectors.Report{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.report, nil
}

// Locate implements collectors.Collector: by the claims, then by the init's PID.
func (f *Fake) Locate(ctx context.Context, e workload.Evidence) (workload.ContainerID, error) {
	b, err := f.enter(ctx, "locate")
	if err != nil {
		return workload.ContainerID{}, err
	}
	if b.LieLocate != nil {
		return b.LieLocate(e)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, claim := range e.Claims {
		if c := f.findLocked(claim); c != nil {
			return c.ID, nil
		}
	}
	if id, ok := f.evidence[e.Init.PID]; ok && e.Init.PID != 0 {
		return id, nil
	}
	return workload.ContainerID{}, fmt.Errorf("locate: %w", collectors.ErrNotFound)
}

// Lookup implements collectors.Collector.
func (f *Fake) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	return f.one(ctx, "lookup", id)
}

// Prefill implements collectors.Prefiller.
func (f *Fake) Prefill(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	return f.one(ctx, "prefill", id)
}

func (f *Fake) one(ctx context.Context, method string, id workload.ContainerID) (*workload.Container, error) {
	b, err := f.enter(ctx, method)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	c := f.findLocked(id)
	f.mu.Unlock()
	if c == nil {
		return nil, fmt.Errorf("%s %s: %w", method, id, collectors.ErrNotFound)
	}
	return b.tell(c), nil
}

// List implements collectors.Lister, in the order of the ids.
func (f *Fake) List(ctx context.Context) iter.Seq2[*workload.Container, error] {
	return func(yield func(*workload.Container, error) bool) {
		b, err := f.enter(ctx, "list")
		if err != nil {
			yield(nil, err)
			return
		}
		f.mu.Lock()
		all := slices.SortedFunc(maps.Values(f.containers), func(a, b *workload.Container) int {
			return strings.Compare(a.ID.String(), b.ID.String())
		})
		f.mu.Unlock()
		for _, c := range all {
			if !yield(b.tell(c), nil) {
				return
			}
		}
	}
}

// Watch implements collectors.Watcher.
func (f *Fake) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	if _, err := f.enter(ctx, "watch"); err != nil {
		return err
	}
	w := &watcher{hints: make(chan collectors.Hint, 1024), cut: make(chan error, 1)}
	f.mu.Lock()
	f.watchers[w] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		delete(f.watchers, w)
		f.mu.Unlock()
	}()
	for {
		select {
		case h := <-w.hints:
			fn(h)
		case err := <-w.cut:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// enter counts a call and misbehaves as told.
func (f *Fake) enter(ctx context.Context, method string) (Behaviour, error) {
	b := f.begin(method)
	defer f.end()
	switch {
	case b.Panic:
		panic("fake: " + method)
	case b.Absent:
		return b, fmt.Errorf("%s: %w", method, collectors.ErrNotPresent)
	case b.Hung:
		<-ctx.Done()
		return b, ctx.Err()
	}
	if b.Delay > 0 {
		t := time.NewTimer(b.Delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return b, err
	}
	return b, b.Err
}

func (f *Fake) begin(method string) Behaviour {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls[method]++
	f.busy++
	f.peak = max(f.peak, f.busy)
	b := f.behaviour
	if len(b.Only) > 0 && !slices.Contains(b.Only, method) {
		return Behaviour{}
	}
	return b
}

func (f *Fake) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.busy--
}

// findLocked finds by the whole id, or by the bare one as a claim gives it.
func (f *Fake) findLocked(id workload.ContainerID) *workload.Container {
	if c := f.containers[id]; c != nil {
		return c
	}
	if id.Runtime != "" && id.Runtime != f.name {
		return nil
	}
	for _, c := range f.containers {
		if c.ID.ID == id.ID {
			return c
		}
	}
	return nil
}

func (b Behaviour) tell(c *workload.Container) *workload.Container {
	c = c.Clone()
	if b.Lie != nil {
		return b.Lie(c)
	}
	return c
}
