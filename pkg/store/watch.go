// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"iter"
	"slices"
	"sync"

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
// and other kinds only where Kinds names them.
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
// A reader that does not read costs one Batch and delays nobody. Where very many
// read, each gets its batches some milliseconds later, and so fewer. The sequence
// runs in the caller's goroutine and can be started again, from sel.From.
func (s *Store) Watch(ctx context.Context, sel workload.Selector) iter.Seq[Batch] {
	return func(yield func(Batch) bool) {
		s.watchers.Add(1)
		defer s.watchers.Add(-1)
		if slices.Contains(sel.Kinds, workload.KindProcess) {
			s.processWatchers.add(1, s.opt.OnProcessWatched)
			defer s.processWatchers.add(-1, s.opt.OnProcessWatched)
		}
		w := newWalker(s, sel)
		given := 0
		for s.pace.turn(ctx, given) {
			b, ok := w.next(ctx)
			if given = len(b.Changes); s.watchers.Load() <= paceFew {
				given = 0
			}
			if !ok || len(b.Changes) > 0 && !yield(b) {
				return
			}
			if !b.More && !w.wait(ctx, w.behind) {
				return
			}
		}
	}
}

// processWatchers counts those who watch processes.
type processWatchers struct {
	mu sync.Mutex // held while somebody is told, so that the last call is right
	n  int
}

func (p *processWatchers) add(d int, tell func(bool)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.n > 0
	p.n += d
	if is := p.n > 0; is != was && tell != nil {
		tell(is)
	}
}

// maxLogs is how many kinds the store keeps.
const maxLogs = 6

// walker is the place of one watcher in the logs. It has no queue: cursor is
// all that it remembers.
type walker struct {
	s    *Store
	logs []*changeLog
	all  bool
	// cursor: every change up to it was said or has been overtaken.
	cursor workload.Revision
	// known: all ends up to it were told. It stays behind cursor while batches are
	// full: the entry of an end may be gone by the time that cursor comes to it, and
	// the removal after it still to come.
	known workload.Revision
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
	w := &walker{s: s, logs: s.logs(sel), all: sel.All, cursor: sel.From, known: sel.From, begin: sel.From, bookmark: true}
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
	w.known = w.begin
	w.snapshot, w.bookmark, w.resync = true, true, resync
}

// forgotten reports whether a removal after rev cannot be told any more.
func (w *walker) forgotten(rev workload.Revision) bool {
	return slices.ContainsFunc(w.logs, func(l *changeLog) bool { return l.floor(w.all) > rev })
}

// next gives what has changed since the last batch, without changes if nothing
// has. False: ctx has ended.
func (w *walker) next(ctx context.Context) (Batch, bool) {
	known := w.known
	hits, more, ok := w.collect(ctx)
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
	// later is where it will be said again, 0 for most: see owed.
	later workload.Revision
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
func (w *walker) collect(ctx context.Context) (hits []hit, more, ok bool) {
	for round := 0; ; round++ {
		windows, to, ok := w.pin(ctx)
		if !ok {
			return nil, false, false
		}
		fresh, end := w.walk(windows, to, maxBatch-len(hits))
		w.cursor = end
		if end == to {
			w.known = max(w.known, end)
		}
		if round > 0 {
			hits = slices.DeleteFunc(hits, func(h hit) bool { return said(fresh, h.what) })
		}
		if hits == nil {
			hits = fresh
		} else {
			hits = append(hits, fresh...)
		}
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

// pin gives the windows that are whole as of a revision. A window that the writer
// made anew is none for an earlier revision: what had changed since would be
// missing in it, and nothing would say so. False: ctx has ended.
func (w *walker) pin(ctx context.Context) (windows [maxLogs]*logWindow, to workload.Revision, ok bool) {
	for {
		var base workload.Revision
		for i, l := range w.logs {
			windows[i] = l.window.Load()
			base = max(base, windows[i].base)
		}
		to = w.s.Revision()
		// The writer is within the batch in which it made one of them.
		if to < base && !w.wait(ctx, func() bool { return w.s.Revision() >= base }) {
			return windows, 0, false
		}
		current := to >= base
		for i, l := range w.logs {
			current = current && l.window.Load() == windows[i] // it has all up to the revision
		}
		if current {
			return windows, to, true
		}
	}
}

func said(hits []hit, what tracked) bool {
	return slices.ContainsFunc(hits, func(h hit) bool { return h.what == what })
}

// walk gives up to room states of (cursor, to] and the revision that it came to.
func (w *walker) walk(windows [maxLogs]*logWindow, to workload.Revision, room int) (hits []hit, end workload.Revision) {
	end = to
	for i := range w.logs {
		n := len(hits)
		entries := windows[i].after(w.cursor, to)
		hits = slices.Grow(hits, min(room, len(entries)))
		for _, e := range entries {
			if e.rev > end {
				break
			}
			h := hit{what: e.what, st: e.what.state()}
			if rev := h.st.entity.Revision; rev != e.rev {
				w.ahead = max(w.ahead, rev)
				if h.st.told != e.rev || !w.owed(h.st) {
					continue
				}
				h.st, h.later = ended(h.st), rev
			} else if !w.wants(h.st) {
				continue
			}
			if len(hits)-n == room {
				end = e.rev - 1
				break
			}
			hits = append(hits, h)
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
	return slices.DeleteFunc(hits, func(h hit) bool { return h.later != 0 && h.later <= end }), end
}

// wants says whether a state is news to the reader.
func (w *walker) wants(st state) bool {
	told := !w.all && st.told != 0 && st.told <= w.known
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

// owed reports whether a reader who does not keep tombstones has to be told here
// of an end, though what has ended has been dropped since. The removal has a place
// of its own; but where the batch ends before that, whoever resumes from here, and
// the next batch, take the reader for told of all up to here.
func (w *walker) owed(st state) bool { return !w.all && !st.quiet && st.removed && st.told > w.known }

// ended is what was left of an entity when its end was told.
func ended(st state) state {
	e := workload.Entity{Kind: st.entity.Kind, Gone: true, Revision: st.told}
	switch was := st.entity; {
	case was.Container != nil:
		e.Container = &workload.Container{ID: was.Container.ID}
	case was.Pod != nil:
		e.Pod = podKind.named(was.Pod.UID, was.Pod)
	case was.Task != nil:
		e.Task = taskKind.named(was.Task.ARN, was.Task)
	case was.Image != nil:
		e.Image = imageKind.named("", was.Image)
	case was.Service != nil:
		e.Service = &workload.Service{Unit: was.Service.Unit, Cgroup: was.Service.Cgroup}
	default:
		e.Process = &workload.Process{Key: was.Process.Key}
	}
	return state{entity: e, removed: true, told: st.told}
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
		var wake [maxLogs]<-chan struct{} // one for each log; nil blocks
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
		case <-wake[2]:
		case <-wake[3]:
		case <-wake[4]:
		case <-wake[5]:
		}
	}
}
