// SPDX-License-Identifier: Apache-2.0

package store

import (
	"iter"
	"sort"
	"sync/atomic"

	"github.com/pidigree/pidigree/pkg/workload"
)

// tracked is an entity, or what is left of one, in a changeLog.
type tracked interface {
	// revision is that of its last change.
	revision() workload.Revision
	// state gives the entity as it is now, its Revision included. Safe beside the writer.
	state() state
}

// state is an immutable version of an entity as watchers see it.
type state struct {
	entity workload.Entity
	// removed: the entity is no longer in the store; entity holds its id only.
	removed bool
	// told is the revision at which those who do not watch tombstones were told
	// that it is gone, 0 if they were not.
	told workload.Revision
	// quiet: restored, and no news to those who do not watch tombstones.
	quiet bool
}

// changeLog says which entities of one kind changed, in the order of their last
// change: "everything after revision R" is a walk from R. It has one writer; the
// walk takes no lock.
//
// Each change appends an entry. An entry whose entity has changed again is
// stale and skipped, which is all there is to coalescing: no watcher has a
// queue. When the array is full the writer copies what is not stale into a new
// one, so its length stays within twice the number of entities (and minLog).
type changeLog struct {
	window  atomic.Pointer[logWindow]
	notify  atomic.Pointer[chan struct{}]
	waiters atomic.Int64
	// floorAll and floorLive are the last revisions from which one cannot resume
	// any more, for watchers with and without tombstones.
	floorAll, floorLive atomic.Uint64
	pending             bool // writer only: appended since the last wake
}

type logWindow struct {
	// base is the revision that the writer was at when it made the window. Of what
	// had changed up to then only the last entry is here: as of an earlier revision
	// entries are missing.
	base    workload.Revision
	entries []logEntry
	n       atomic.Int64 // entries[:n] are published and never change
}

type logEntry struct {
	rev  workload.Revision
	what tracked
}

const minLog = 256

func newChangeLog(base workload.Revision) *changeLog {
	l := &changeLog{}
	l.window.Store(&logWindow{entries: make([]logEntry, minLog)})
	ch := make(chan struct{})
	l.notify.Store(&ch)
	l.floorAll.Store(uint64(base))
	l.floorLive.Store(uint64(base))
	return l
}

// append notes that what changed at rev; what.state must already say so. For the writer.
func (l *changeLog) append(rev workload.Revision, what tracked) {
	w := l.window.Load()
	if w.n.Load() == int64(len(w.entries)) {
		w = w.compact(rev)
		l.window.Store(w)
	}
	n := w.n.Load()
	w.entries[n] = logEntry{rev, what}
	w.n.Store(n + 1)
	l.pending = true
}

// compact copies what is not stale; the writer is at rev.
func (w *logWindow) compact(rev workload.Revision) *logWindow {
	fresh := 0
	for _, e := range w.published() {
		if e.what.revision() == e.rev {
			fresh++
		}
	}
	c := &logWindow{base: rev, entries: make([]logEntry, max(minLog, 2*fresh+minLog/2))}
	n := 0
	for _, e := range w.published() {
		if e.what.revision() == e.rev {
			c.entries[n] = e
			n++
		}
	}
	c.n.Store(int64(n))
	return c
}

func (w *logWindow) published() []logEntry { return w.entries[:w.n.Load()] }

// after gives the entries in (from, to].
func (l *changeLog) after(from, to workload.Revision) []logEntry {
	return l.window.Load().after(from, to)
}

func (w *logWindow) after(from, to workload.Revision) []logEntry {
	es := w.published()
	lo := sort.Search(len(es), func(i int) bool { return es[i].rev > from })
	es = es[lo:]
	return es[:sort.Search(len(es), func(i int) bool { return es[i].rev > to })]
}

// all gives what every entity is when it is reached, each once. An entry whose
// entity has changed is stale; where that change came after the walk began, no
// later entry of the walk has it, and the first of its stale ones gives it.
func (l *changeLog) all() iter.Seq[state] {
	return func(yield func(state) bool) {
		es := l.window.Load().published()
		if len(es) == 0 {
			return
		}
		end := es[len(es)-1].rev
		var given map[tracked]bool // of those that change while the walk goes on
		for _, e := range es {
			st := e.what.state()
			switch rev := st.entity.Revision; {
			case rev > end && given[e.what], rev <= end && rev != e.rev:
				continue
			case rev > end && given == nil:
				given = map[tracked]bool{e.what: true}
			case rev > end:
				given[e.what] = true
			}
			if !yield(st) {
				return
			}
		}
	}
}

// wake tells the waiting watchers that something was appended. For the writer,
// after the new revision is published. Costs a load where nobody waits.
func (l *changeLog) wake() {
	if !l.pending {
		return
	}
	l.pending = false
	if l.waiters.Load() == 0 {
		return
	}
	ch := make(chan struct{})
	close(*l.notify.Swap(&ch))
}

// raiseFloor notes that a removal is forgotten: whoever has not read up to it
// cannot be told any more.
func (l *changeLog) raiseFloor(st state) {
	rev := uint64(st.entity.Revision)
	l.floorAll.Store(max(l.floorAll.Load(), rev))
	if st.told != 0 {
		rev = uint64(st.told)
	}
	l.floorLive.Store(max(l.floorLive.Load(), rev))
}

func (l *changeLog) floor(all bool) workload.Revision {
	if all {
		return workload.Revision(l.floorAll.Load())
	}
	return workload.Revision(l.floorLive.Load())
}
