// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"iter"
	"slices"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Batch is what a watcher gets at once. Its changes are in the order of their
// revisions.
type Batch struct {
	Changes []workload.Change
	// Revision is where to resume from after this batch.
	Revision workload.Revision
	// More is set where the rest follows at once. Where it is not, the reader's
	// copy is the state at Revision exactly; an Apply is never seen in part.
	More bool
}

// maxBatch bounds a Batch: what a watcher that does not read holds.
const maxBatch = 256

// Watch streams what is selected and its changes until ctx ends: containers,
// and processes only where Kinds names them.
//
// With From 0 the whole state comes first, ended by a bookmark. Else only what
// changed after From comes, ended by a bookmark too; if From is from the
// future, from another store, or so old that removals have been forgotten, a
// ChangeResync comes before the whole state. A reader that falls so far behind
// later gets a ChangeResync in the same way.
//
// What changed several times since the reader's last batch comes once, as it is
// now. An entity that goes comes as set and Gone, also if it was never seen
// alive; All readers get ChangeUnset when the tombstone is dropped. The others
// get ChangeUnset only for what they were not told is gone, and may get a
// tombstone again when more is learnt of its end. The entity of a ChangeUnset
// has its id or key and nothing else. A container whose ID changes is unset by
// its former one.
//
// A reader that does not read costs one Batch and delays nobody. The sequence
// runs in the caller's goroutine and can be started again, from sel.From.
func (s *Store) Watch(ctx context.Context, sel workload.Selector) iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		s.watchers.Add(1)
		defer s.watchers.Add(-1)
		w := newWalker(s, sel)
		for ctx.Err() == nil {
			b, ok := w.next(ctx)
			if !ok || len(b.Changes) > 0 && !yield(b) {
				return
			}
			if !b.More && !w.wait(ctx, w.behind) {
				return
			}
		}
	}
}

// walker is the place of one watcher in the logs. It has no queue: cursor is
// all that it remembers.
type walker struct {
	s    *Store
	logs []*changeLog
	all  bool
	// cursor: every change up to it was said or has been overtaken.
	cursor workload.Revision
	// begin is where the stream begins: nothing that was gone by then is news.
	// In a snapshot it is the revision at which the snapshot was started.
	begin    workload.Revision
	snapshot bool
	// ahead is the newest revision met of an entity that was left out because it
	// changed again; the state is whole when cursor has reached it.
	ahead    workload.Revision
	resync   bool // say so next
	bookmark bool // owed at the end of the walk
}

func newWalker(s *Store, sel workload.Selector) *walker {
	w := &walker{s: s, logs: s.logs(sel), all: sel.All, cursor: sel.From, begin: sel.From, bookmark: true}
	switch {
	case sel.From == 0:
		w.restart(false)
	case sel.From > s.Revision() || w.forgotten(sel.From):
		w.restart(true)
	}
	return w
}

// restart begins a snapshot.
func (w *walker) restart(resync bool) {
	if resync {
		w.s.resyncs.Add(1)
	}
	w.cursor, w.ahead, w.begin = 0, 0, w.s.Revision()
	w.snapshot, w.bookmark, w.resync = true, true, resync
}

// forgotten reports whether a removal after rev cannot be told any more.
func (w *walker) forgotten(rev workload.Revision) bool {
	return slices.ContainsFunc(w.logs, func(l *changeLog) bool { return l.floor(w.all) > rev })
}

// next gives what has changed since the last batch, without changes if nothing
// has. False: ctx has ended.
func (w *walker) next(ctx context.Context) (Batch, bool) {
	known := max(w.cursor, w.begin)
	hits, more, ok := w.collect(ctx, known)
	if !ok {
		return Batch{}, false
	}
	if w.forgotten(known) { // asked last: what was forgotten during the walk counts
		w.restart(true)
		return Batch{More: true}, true
	}
	b := Batch{Revision: w.cursor, More: more}
	if w.resync {
		w.resync = false
		b.Changes = append(b.Changes, workload.Change{Type: workload.ChangeResync, Revision: w.begin})
	}
	b.Changes = appendChanges(b.Changes, hits)
	w.bookmark = w.bookmark || more
	if w.bookmark && !more {
		w.bookmark, w.snapshot = false, false
		b.Changes = append(b.Changes, workload.Change{Type: workload.ChangeBookmark, Revision: w.cursor})
	}
	return b, true
}

// hit is a state to be said.
type hit struct {
	what tracked
	st   state
}

func appendChanges(cs []workload.Change, hits []hit) []workload.Change {
	cs = slices.Grow(cs, len(hits)+1) // a bookmark may follow
	for _, h := range hits {
		c := workload.Change{Type: workload.ChangeSet, Revision: h.st.entity.Revision, Entity: h.st.entity}
		if h.st.removed {
			c.Type = workload.ChangeUnset
		}
		cs = append(cs, c)
	}
	return cs
}

// collect walks until the state is whole or the batch is full (more).
func (w *walker) collect(ctx context.Context, known workload.Revision) (hits []hit, more, ok bool) {
	for round := 0; ; round++ {
		to := w.s.Revision()
		fresh, end := w.walk(to, known, maxBatch-len(hits))
		w.cursor = end
		if round > 0 {
			hits = slices.DeleteFunc(hits, func(h hit) bool { return said(fresh, h.what) })
		}
		hits = append(hits, fresh...)
		if end < to {
			return hits, true, true
		}
		if end >= w.ahead {
			return hits, false, true
		}
		if len(hits) == maxBatch {
			return hits, true, true
		}
		// The writer is within a batch that holds what was left out.
		if !w.wait(ctx, func() bool { return w.s.Revision() >= w.ahead }) {
			return nil, false, false
		}
	}
}

func said(hits []hit, what tracked) bool {
	return slices.ContainsFunc(hits, func(h hit) bool { return h.what == what })
}

// walk gives up to room states of (cursor, to] and the revision that it came to.
func (w *walker) walk(to, known workload.Revision, room int) (hits []hit, end workload.Revision) {
	end = to
	for _, l := range w.logs {
		n := len(hits)
		for _, e := range l.after(w.cursor, to) {
			if e.rev > end {
				break
			}
			st := e.what.state()
			if st.entity.Revision != e.rev {
				w.ahead = max(w.ahead, st.entity.Revision)
				continue
			}
			if !w.wants(st, known) {
				continue
			}
			if len(hits)-n == room {
				end = e.rev - 1
				break
			}
			hits = append(hits, hit{e.what, st})
		}
	}
	return cutHits(hits, end, room)
}

// cutHits joins the hits of all logs and keeps what fits.
func cutHits(hits []hit, end workload.Revision, room int) ([]hit, workload.Revision) {
	slices.SortFunc(hits, func(a, b hit) int {
		return int(int64(a.st.entity.Revision - b.st.entity.Revision))
	})
	for len(hits) > 0 && hits[len(hits)-1].st.entity.Revision > end {
		hits = hits[:len(hits)-1]
	}
	if len(hits) > room {
		end = hits[room].st.entity.Revision - 1
		hits = hits[:room]
	}
	return hits, end
}

// wants says whether a state is news to a reader who knows all up to known.
func (w *walker) wants(st state, known workload.Revision) bool {
	told := !w.all && st.told != 0 && st.told <= known
	switch {
	case st.quiet && !w.all:
		return false
	case st.removed:
		return st.entity.Revision > w.begin && !told
	case st.entity.Gone && w.snapshot:
		return !told
	default:
		return true
	}
}

// behind reports whether there is anything to walk for.
func (w *walker) behind() bool {
	to := w.s.Revision()
	return slices.ContainsFunc(w.logs, func(l *changeLog) bool { return len(l.after(w.cursor, to)) > 0 })
}

// wait blocks until the condition, which only an Apply can make true. False: ctx has ended.
func (w *walker) wait(ctx context.Context, until func() bool) bool {
	for _, l := range w.logs {
		l.waiters.Add(1)
		defer l.waiters.Add(-1)
	}
	for {
		var wake [2]<-chan struct{} // one for each log; nil blocks
		for i, l := range w.logs {
			wake[i] = *l.notify.Load()
		}
		if until() { // after the channels: an Apply from here on closes one of them
			return ctx.Err() == nil
		}
		select {
		case <-ctx.Done():
			return false
		case <-wake[0]:
		case <-wake[1]:
		}
	}
}
