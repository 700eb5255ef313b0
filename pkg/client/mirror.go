// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Mirror is a copy of what the agent knows, kept up by a stream: containers, and
// processes where they are asked for. Lookups take no lock, make no call and allocate
// nothing, and go on while the agent is away: Err says so then.
//
// What it says was true a moment ago, as with every copy. A PID may be another
// process's by now: compare Process.Key with a start time or a pidfd of your own where
// that matters, or ask Resolve. What is given must not be changed.
//
// A Mirror may be used from many goroutines. Close ends it.
type Mirror struct {
	containers shards[workload.ContainerID, *cell]
	processes  shards[workload.PID, entry]
	seed       maphash.Seed

	// The writer's own: by which ids each container is known, and after a resync what
	// has come since, nil else.
	keys  map[workload.ContainerID][]workload.ContainerID
	fresh map[any]bool

	// changed is closed with the next batch that is whole, nil where nobody waits.
	mu      sync.Mutex
	changed chan struct{}
	upTo    workload.Revision // what Wait knows of; guarded by mu

	whole  chan struct{} // closed with the first bookmark
	once   sync.Once
	err    atomic.Pointer[error]
	rev    atomic.Uint64
	cancel context.CancelFunc
	done   chan struct{}
}

// cell is what an id leads to: nil for a container that is not there. Processes keep
// theirs, so that a change of the container reaches all of them at once.
type cell struct {
	c    atomic.Pointer[workload.Container]
	uses int // the writer's: by how many processes and containers
}

// entry is a process and its container's cell, nil if it is in none.
type entry struct {
	p *workload.Process
	c *cell
}

// MirrorOptions say what is copied. The zero value copies the containers that are there.
type MirrorOptions struct {
	// Processes copies the processes, too: one of Mirror's lookups by PID costs the
	// agent nothing then, a busy host's every fork and exec a message.
	Processes bool
	// Selector narrows what is copied. Kinds and From are not looked at.
	Selector workload.Selector
}

// Mirror begins a copy and gives it once it is whole, or the error that keeps it from
// being so. It lasts until Close, whatever becomes of ctx.
func (c *Client) Mirror(ctx context.Context, opt MirrorOptions) (*Mirror, error) {
	sel := opt.Selector
	sel.From, sel.Kinds = 0, []workload.Kind{workload.KindContainer}
	if opt.Processes {
		sel.Kinds = append(sel.Kinds, workload.KindProcess)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	m := &Mirror{keys: map[workload.ContainerID][]workload.ContainerID{}, seed: maphash.MakeSeed(), whole: make(chan struct{}), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(m.done)
		c.follow(run, sel, m.note, func(ch workload.Change, err error) bool {
			m.note(err)
			if err == nil {
				m.apply(ch)
			}
			return true
		})
	}()
	select {
	case <-m.whole:
		return m, nil
	case <-m.done: // it is hopeless
	case <-ctx.Done():
	}
	m.Close()
	return nil, errors.Join(context.Cause(ctx), m.Err())
}

// Close ends the copy, and waits for that. What it has is still answered.
func (m *Mirror) Close() {
	m.cancel()
	<-m.done
}

// Container gives a container by its id, or by one that it has in another runtime.
func (m *Mirror) Container(id workload.ContainerID) (*workload.Container, bool) {
	at, ok := m.containers.get(m.hash(id), id)
	if !ok {
		return nil, false
	}
	c := at.c.Load()
	return c, c != nil
}

// Process gives the process that has a PID; none without MirrorOptions.Processes.
func (m *Mirror) Process(pid workload.PID) (*workload.Process, bool) {
	e, ok := m.processes.get(uint64(pid), pid)
	return e.p, ok
}

// ContainerOf gives the container of the process that has a PID: the innermost one,
// nil where the process is in none, or nobody knows. Both are of one moment or the next.
func (m *Mirror) ContainerOf(pid workload.PID) (*workload.Process, *workload.Container) {
	e, _ := m.processes.get(uint64(pid), pid)
	if e.c == nil {
		return e.p, nil
	}
	return e.p, e.c.c.Load()
}

// Revision is that of the newest change in the copy.
func (m *Mirror) Revision() workload.Revision { return workload.Revision(m.rev.Load()) }

// Wait waits until the copy has all up to a revision, such as that of an answer of
// Resolve. After a resync the copy is whole again first.
func (m *Mirror) Wait(ctx context.Context, rev workload.Revision) error {
	for {
		m.mu.Lock()
		if m.upTo >= rev {
			m.mu.Unlock()
			return nil
		}
		if m.changed == nil {
			m.changed = make(chan struct{})
		}
		changed := m.changed
		m.mu.Unlock()
		select {
		case <-changed:
		case <-m.done:
			return errors.Join(ErrClosed, m.Err())
		case <-ctx.Done():
			return fmt.Errorf("the copy is at revision %d, not %d: %w", m.Revision(), rev, context.Cause(ctx))
		}
	}
}

// tell wakes who waits.
func (m *Mirror) tell(rev workload.Revision) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.upTo = rev
	if m.changed != nil {
		close(m.changed)
		m.changed = nil
	}
}

// Err is why the copy is not being kept up now, nil while it is.
func (m *Mirror) Err() error {
	if err := m.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Len counts the processes, and the ids that lead to containers, those of containers
// that only processes name among them.
func (m *Mirror) Len() (containerIDs, processes int) { return m.containers.len(), m.processes.len() }

func (m *Mirror) note(err error) {
	if err == nil {
		if m.err.Load() != nil {
			m.err.Store(nil)
		}
		return
	}
	m.err.Store(&err)
}

func (m *Mirror) hash(id workload.ContainerID) uint64 { return maphash.String(m.seed, id.ID) }

// apply is the writer's, and no other's.
func (m *Mirror) apply(ch workload.Change) {
	c, p := ch.Entity.Container, ch.Entity.Process
	gone := ch.Type == workload.ChangeUnset || ch.Entity.Gone
	switch {
	case ch.Type == workload.ChangeResync:
		// What was there is answered on, until what is there now is whole.
		m.fresh = map[any]bool{}
	case ch.Type == workload.ChangeBookmark:
		m.dropOld()
		m.once.Do(func() { close(m.whole) })
	case c != nil && gone:
		m.removeContainer(c.ID)
	case c != nil:
		m.putContainer(c)
	case p != nil && gone:
		if old, ok := m.Process(p.Key.PID); ok && old.Key.Same(p.Key) { // else it is the next one's
			m.removeProcess(p.Key.PID)
		}
	case p != nil:
		m.putProcess(p)
	}
	m.rev.Store(uint64(ch.Revision))
	if m.fresh == nil {
		m.tell(ch.Revision)
	}
}

func (m *Mirror) mark(key any) {
	if m.fresh != nil {
		m.fresh[key] = true
	}
}

func (m *Mirror) putProcess(p *workload.Process) {
	pid := p.Key.PID
	m.mark(pid)
	next := entry{p: p}
	if p.Status == workload.StatusContainer {
		next.c = m.hold(p.Container)
	}
	old, _ := m.processes.get(uint64(pid), pid)
	m.processes.put(uint64(pid), pid, next)
	m.release(old)
}

func (m *Mirror) removeProcess(pid workload.PID) {
	old, _ := m.processes.get(uint64(pid), pid)
	m.processes.remove(uint64(pid), pid)
	m.release(old)
}

func (m *Mirror) release(e entry) {
	if e.c != nil {
		m.drop(e.p.Container, e.c)
	}
}

// hold gives an id's cell to one more.
func (m *Mirror) hold(id workload.ContainerID) *cell {
	at, ok := m.containers.get(m.hash(id), id)
	if !ok {
		at = new(cell)
		m.containers.put(m.hash(id), id, at)
	}
	at.uses++
	return at
}

func (m *Mirror) drop(id workload.ContainerID, at *cell) {
	if at.uses--; at.uses == 0 {
		m.containers.remove(m.hash(id), id)
	}
}

func (m *Mirror) putContainer(c *workload.Container) {
	m.mark(c.ID)
	ids := append([]workload.ContainerID{c.ID}, c.Aliases...)
	was := m.keys[c.ID]
	m.keys[c.ID] = ids
	for _, id := range ids {
		at := m.hold(id)
		// An id is whose own it is, before it is another one's alias.
		if old := at.c.Load(); old == nil || old.ID != id || c.ID == id {
			at.c.Store(c)
		}
	}
	m.leave(was, c.ID, ids)
}

func (m *Mirror) removeContainer(id workload.ContainerID) {
	was := m.keys[id]
	delete(m.keys, id)
	m.leave(was, id, nil)
}

// leave takes ids from a container that is known by others now.
func (m *Mirror) leave(was []workload.ContainerID, of workload.ContainerID, now []workload.ContainerID) {
	for _, id := range was {
		at, _ := m.containers.get(m.hash(id), id)
		if c := at.c.Load(); c != nil && c.ID == of && !slices.Contains(now, id) {
			at.c.Store(nil)
		}
		m.drop(id, at)
	}
}

// dropOld drops what a resync's snapshot did not have.
func (m *Mirror) dropOld() {
	if m.fresh == nil {
		return
	}
	for id := range m.keys {
		if !m.fresh[id] {
			m.removeContainer(id)
		}
	}
	m.processes.each(func(pid workload.PID) {
		if !m.fresh[pid] {
			m.removeProcess(pid)
		}
	})
	m.fresh = nil
}

// shards is a map that one writes and many read without a lock: a change copies one
// shard of it, a 256th.
type shards[K comparable, V any] struct {
	all [256]atomic.Pointer[map[K]V]
	n   atomic.Int64
}

func (s *shards[K, V]) get(hash uint64, k K) (v V, ok bool) {
	if m := s.all[hash%256].Load(); m != nil {
		v, ok = (*m)[k]
	}
	return v, ok
}

func (s *shards[K, V]) put(hash uint64, k K, v V) {
	at := &s.all[hash%256]
	next := map[K]V{}
	if old := at.Load(); old != nil {
		next = maps.Clone(*old)
	}
	before := len(next)
	next[k] = v
	s.n.Add(int64(len(next) - before))
	at.Store(&next)
}

func (s *shards[K, V]) remove(hash uint64, k K) {
	at := &s.all[hash%256]
	old := at.Load()
	if old == nil {
		return
	}
	next := maps.Clone(*old)
	delete(next, k)
	s.n.Add(int64(len(next) - len(*old)))
	at.Store(&next)
}

// each gives every key; the writer may remove it meanwhile.
func (s *shards[K, V]) each(do func(K)) {
	for i := range s.all {
		if m := s.all[i].Load(); m != nil {
			for k := range *m {
				do(k)
			}
		}
	}
}

func (s *shards[K, V]) len() int { return int(s.n.Load()) }
