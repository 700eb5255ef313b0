// SPDX-License-Identifier: Apache-2.0

package store

import (
	"slices"
	"sync/atomic"

	"github.com/pidigree/pidigree/pkg/workload"
)

// procItem is one process through all its versions.
type procItem struct {
	latest    atomic.Pointer[node]
	tomb      *tomb          // writer only; nil while it lives
	seenUntil workload.KTime // see PastProcess; never changed
	// own is what was found out here of a process that is shown as another pidigree
	// says, nil for all others. Writer only.
	own *workload.Process
}

func (i *procItem) revision() workload.Revision { return i.latest.Load().rev }

func (i *procItem) state() state {
	n := i.latest.Load()
	return state{
		entity:  workload.Entity{Kind: workload.KindProcess, Process: n.proc, Gone: n.exited(), Revision: n.rev},
		removed: n.flags&flagDropped != 0,
		told:    n.told(),
		quiet:   n.restored(),
	}
}

// putProcess puts or replaces a process. For the writer, locked.
func (s *Store) putProcess(p *workload.Process) {
	if !p.Key.OfInstance() {
		s.rejected.Add(1)
		return
	}
	s.yieldTo(p)
	shown, own := p, (*workload.Process)(nil)
	if s.far != nil {
		s.makeRoom(p)
		if shown = s.far.complete(p); shown != p {
			own = p
		}
	}
	old := s.replaces(p)
	if old != nil && old.remote() && old.exited() { // its end is not known here
		s.dropProcess(old.item)
		old = nil
	}
	if old != nil {
		old.item.own = own
		s.replaceProcess(old, shown)
		return
	}
	s.addProcess(shown, own)
}

// replaces finds the node that p is a new version of. A key that was rounded to
// a tick may fit several: the living one is meant. A living process is no
// version of a dead one unless the keys are certain; it is the next with its PID.
func (s *Store) replaces(p *workload.Process) *node {
	var found *node
	for n := s.pids.head(p.Key.PID); n != nil; n = n.older.Load() {
		k := n.key()
		switch {
		case !k.Same(p.Key):
		case certain(k, p.Key):
			return n
		case n.restored():
		case n.exited() && p.Exit == nil:
		case found == nil || found.exited() && !n.exited():
			found = n
		}
	}
	return found
}

func (s *Store) addProcess(p, own *workload.Process) {
	if h := s.pids.head(p.Key.PID); h != nil && p.Exit == nil && startedAfter(h.key(), p.Key) {
		p = endedUnseen(p)
	}
	rev := s.next()
	item := &procItem{own: own}
	n := newNode(p, item, s.hold(p), rev)
	below, atHead := s.pids.insert(n)
	item.latest.Store(n)
	s.procMarkers.void(p.Key, rev)
	s.procLog.append(rev, item)
	s.procs.Add(1)
	s.settleProcTomb(n)
	if atHead && below != nil && !below.exited() {
		s.replaceProcess(below, endedUnseen(below.proc))
	}
}

// endedUnseen is p as a tombstone: somebody else has its PID, so it is gone,
// though nobody saw how.
func endedUnseen(p *workload.Process) *workload.Process {
	p = p.Clone()
	p.Exit = &workload.Exit{}
	return p
}

// replaceProcess puts p in the place of old. What stands below the newest
// process of its PID stays a tombstone whatever p says.
func (s *Store) replaceProcess(old *node, p *workload.Process) {
	if p.Exit == nil && old.exited() && s.pids.head(old.pid) != old {
		p = p.Clone()
		p.Exit = old.proc.Exit
	}
	if sameProcess(old.proc, p) {
		return
	}
	if old.key() != p.Key { // the same process, better known: watchers keep it by key
		s.markProcess(old, s.next(), 0)
	}
	c := s.hold(p)
	s.release(old.cell)
	n := newNode(p, old.item, c, s.next())
	if old.restored() {
		s.restoredProcs--
	}
	s.pids.swap(old, n)
	old.item.latest.Store(n)
	s.procMarkers.void(p.Key, n.rev)
	s.procLog.append(n.rev, n.item)
	s.settleProcTomb(n)
}

// settleProcTomb makes the tombstone queue agree with the node.
func (s *Store) settleProcTomb(n *node) {
	item := n.item
	if !n.exited() {
		if item.tomb != nil {
			item.tomb.in.remove(item.tomb)
			item.tomb = nil
			s.procsGone.Add(-1)
		}
		return
	}
	since := n.proc.Exit.At
	queue := &s.hostTombs
	switch own := n.item.own; {
	case n.remote():
		queue = &s.farTombs.procs
	case own == nil && !n.proc.Container.IsZero(), own != nil && !own.Container.IsZero():
		queue = &s.procTombs
	}
	if d := item.tomb; d != nil && d.in == &s.farTombs.procs && d.in != queue { // it is known here from now on
		d.in.remove(d)
		item.tomb = nil
		s.procsGone.Add(-1)
	}
	if d := item.tomb; d != nil && d.in != queue { // who it was became known after its end
		d.in.remove(d)
		queue.add(d)
	}
	if item.tomb != nil {
		if since != 0 {
			queue.move(item.tomb, since)
		}
		return
	}
	if since == 0 {
		since = workload.KTime(s.asOf.Load())
	}
	item.tomb = queue.add(&tomb{since: since, proc: item})
	s.procsGone.Add(1)
	for len(s.procTombs.q)+len(s.hostTombs.q) > s.procTombs.max {
		s.dropped.Add(1)
		s.dropProcess(s.oldestProcTomb().proc)
	}
	for d := s.farTombs.procs.excess(); d != nil; d = s.farTombs.procs.excess() {
		s.dropped.Add(1)
		s.dropProcess(d.proc)
	}
}

// oldestProcTomb is the next to go where there are too many. A start makes some
// thirty short processes of the runtime's for one of the container's: those of
// the host go first, so that they do not crowd out who is asked about.
func (s *Store) oldestProcTomb() *tomb {
	if len(s.hostTombs.q) > 0 {
		return s.hostTombs.q[0]
	}
	return s.procTombs.q[0]
}

// dropProcess takes a tombstone out of the store, or who has never been here.
func (s *Store) dropProcess(item *procItem) {
	n, rev := item.latest.Load(), s.next()
	if item.tomb != nil {
		item.tomb.in.remove(item.tomb)
		s.procsGone.Add(-1)
	}
	s.pids.swap(n, nil)
	s.release(n.cell)
	s.procs.Add(-1)
	if n.restored() {
		s.restoredProcs--
	}
	item.latest.Store(droppedNode(n, rev))
	for o := s.pids.head(n.pid); o != nil; o = o.older.Load() {
		if o.key() == n.key() {
			return // the next process of the same clock tick, which watchers cannot tell from this one
		}
	}
	s.markProcess(n, rev, n.told())
}

func (s *Store) markProcess(n *node, rev, told workload.Revision) {
	s.procMarkers.add(n.key(), state{
		entity: workload.Entity{
			Kind: workload.KindProcess, Process: &workload.Process{Key: n.key()}, Gone: true, Revision: rev,
		},
		removed: true,
		told:    told,
	})
}

// sameProcess reports whether both say the same.
func sameProcess(a, b *workload.Process) bool {
	return a == b ||
		a.Key == b.Key && a.Parent == b.Parent && a.Comm == b.Comm && a.Exe == b.Exe &&
			slices.Equal(a.Cgroups, b.Cgroups) && slices.Equal(a.PIDNamespaces, b.PIDNamespaces) &&
			a.MountNS == b.MountNS && a.Status == b.Status && a.Confidence == b.Confidence &&
			a.Container == b.Container && a.Entry == b.Entry && a.ForeignNamespaces == b.ForeignNamespaces &&
			a.Reason == b.Reason && sameValue(a.Service, b.Service) &&
			a.Started == b.Started && a.Exec == b.Exec && sameValue(a.Exit, b.Exit) &&
			a.Source == b.Source && a.Stale == b.Stale &&
			a.Detail == b.Detail // no writer sets it: it is read for who asks
}

func sameValue[T comparable](a, b *T) bool {
	return a == b || a != nil && b != nil && *a == *b
}
