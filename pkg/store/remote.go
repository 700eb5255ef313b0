// SPDX-License-Identifier: Apache-2.0

package store

import (
	"slices"

	"github.com/pidigree/pidigree/pkg/workload"
)

// RemoteSource is the name of another pidigree's layers. One counts where no source of
// this host describes the entity: after what the correlator here says, and in its place
// where that one does not know the entity either.
const RemoteSource = workload.SourceRemote

// RemoteChange is what another pidigree says of one entity. It never overrides what
// this host's own sources say: a container, pod, task or image is what it says where
// none of them describes it; a unit and a process are taken from it where they are not
// known here, and a process that is unknown here belongs where it says.
type RemoteChange struct {
	// Entity is what it is there. Of one that is Unset only the id or key counts.
	Entity workload.Entity
	// Unset: it has none such any more. What lived ends; a tombstone stays for its time.
	Unset bool
	// Away and Back, which stand alone, mark all that it has said of the living as
	// stale, and as fresh again.
	Away, Back bool
}

// far is what has to be remembered of another pidigree beside its layers. The writer's.
type far struct {
	away bool
	// procs is what it says of the newest process of each PID that it has told of.
	procs map[workload.PID]*workload.Process
	// conts is of which container here what it says of one of its own is a layer.
	conts map[workload.ContainerID]*contItem
}

// changeRemote applies one change. For the writer, locked.
func (s *Store) changeRemote(ch *RemoteChange) {
	if s.far == nil {
		s.far = &far{procs: map[workload.PID]*workload.Process{}, conts: map[workload.ContainerID]*contItem{}}
	}
	switch e := &ch.Entity; {
	case ch.Away || ch.Back:
		s.setAway(ch.Away)
	case e.Process != nil:
		s.publishPending() // as for a process of our own
		s.remoteProcess(e.Process, ch.Unset)
	case e.Container != nil:
		s.remoteContainer(e.Container, e.Gone, ch.Unset)
	case e.Pod != nil:
		s.pods.changeRemote(e.Pod, e.Gone, ch.Unset)
	case e.Task != nil:
		s.tasks.changeRemote(e.Task, e.Gone, ch.Unset)
	case e.Image != nil:
		s.images.changeRemote(e.Image, e.Gone, ch.Unset)
	case e.Service != nil:
		s.remoteService(e.Service, e.Gone || ch.Unset)
	default:
		s.rejected.Add(1)
	}
}

// now is the writer's time, for what ends by a word that has none of it.
func (s *Store) now() workload.KTime { return max(workload.KTime(s.asOf.Load()), 1) }

// complete gives a process of our own, which nobody here could name, what the other
// one says of it.
func (f *far) complete(p *workload.Process) *workload.Process {
	r := f.procs[p.Key.PID]
	if p.Status != workload.StatusUnknown || r == nil || !r.Key.Same(p.Key) || r.Status == workload.StatusUnknown {
		return p
	}
	return f.named(p, r)
}

// named is p as r has it: what it belongs to, and nothing else.
func (f *far) named(p, r *workload.Process) *workload.Process {
	n := p.Clone()
	n.Status, n.Confidence, n.Reason = r.Status, r.Confidence, r.Reason
	n.Container, n.Entry, n.ForeignNamespaces = r.Container, r.Entry, r.ForeignNamespaces
	if r.Service != nil {
		n.Service = r.Service
	}
	return f.marked(n)
}

// marked says of a copy whose word it is.
func (f *far) marked(n *workload.Process) *workload.Process {
	n.Source, n.Stale, n.Detail = RemoteSource, f.away && n.Exit == nil, nil
	return n
}

// remoteProcess is for the writer, locked.
func (s *Store) remoteProcess(r *workload.Process, unset bool) {
	k, f := r.Key, s.far
	if !k.OfInstance() {
		s.rejected.Add(1)
		return
	}
	had := f.procs[k.PID]
	if unset {
		if had != nil && had.Key.Same(k) {
			delete(f.procs, k.PID)
		}
		s.remoteProcessGone(k)
		return
	}
	if had == nil || had.Key.Same(k) || startedAfter(k, had.Key) {
		f.procs[k.PID] = r
	}
	n := s.replaces(r)
	for n != nil && n.remote() && n.key() != k { // it says more of the key now, or less
		s.dropProcess(n.item)
		n = s.replaces(r)
	}
	if n == nil {
		if s.roomFor(r) {
			s.addProcess(f.marked(r.Clone()), nil)
		}
		return
	}
	if n.restored() {
		return
	}
	own := n.own()
	switch named := r.Status != workload.StatusUnknown; {
	case n.remote():
		s.replaceProcess(n, f.marked(r.Clone()))
	case own != nil && named:
		s.replaceProcess(n, f.named(own, r))
	case own != nil:
		s.takeBack(n)
	case n.proc.Status == workload.StatusUnknown && named:
		n.item.own = n.proc
		s.replaceProcess(n, f.named(n.proc, r))
	}
}

// takeBack shows what was found out here of a process again.
func (s *Store) takeBack(n *node) {
	own := n.own()
	n.item.own = nil
	s.replaceProcess(n, own)
}

// overlap reports whether two lives with one PID cannot both have been, as far as their
// ends are known.
func overlap(known, r *workload.Process) bool {
	from, begins := started(known), started(r)
	if begins >= from {
		return known.Exit != nil && known.Exit.At > begins
	}
	return r.Exit != nil && r.Exit.At > from
}

// own is what was found out here of a process that is shown as the other says, nil for
// all others.
func (n *node) own() *workload.Process {
	own := n.item.own
	if own != nil && n.exited() && own.Exit == nil { // somebody else was seen with its PID
		own = own.Clone()
		own.Exit = n.proc.Exit
	}
	return own
}

// roomFor reports whether a process that is not known here goes against nobody who is:
// who is known to live has his PID, and who started within the same clock tick could be
// told from it by no key that has been rounded.
func (s *Store) roomFor(r *workload.Process) bool {
	for n := s.pids.head(r.Key.PID); n != nil; n = n.older.Load() {
		if n.remote() {
			continue
		}
		if !n.exited() && !startedAfter(n.key(), r.Key) || n.start/workload.TickNS == r.Key.Start/workload.TickNS || overlap(n.proc, r) {
			return false
		}
	}
	return true
}

// makeRoom takes those out who are not known here and, if they were, would go against
// who is now: roomFor, the other way round.
func (s *Store) makeRoom(p *workload.Process) {
	same := s.replaces(p)
	for n := s.pids.head(p.Key.PID); n != nil; {
		older := n.older.Load()
		if n != same && n.remote() && (p.Exit == nil && startedAfter(n.key(), p.Key) || n.start/workload.TickNS == p.Key.Start/workload.TickNS) {
			s.dropProcess(n.item)
		}
		n = older
	}
}

// remote reports whether the process is known from another pidigree alone.
func (n *node) remote() bool { return n.proc.Source == RemoteSource && n.item.own == nil }

// remoteProcessGone takes back what was said of a process. One that was known from
// there alone has ended unseen; its tombstone stays.
func (s *Store) remoteProcessGone(k workload.ProcessKey) {
	n := s.replaces(&workload.Process{Key: k})
	if n == nil || n.proc.Source != RemoteSource || n.restored() {
		return
	}
	if n.item.own != nil {
		s.takeBack(n)
		return
	}
	if !n.exited() {
		p := endedUnseen(n.proc)
		p.Stale = false
		s.replaceProcess(n, p)
	}
}

// setAway marks what the other one has said of the living.
func (s *Store) setAway(away bool) {
	if s.far.away == away {
		return
	}
	s.far.away = away
	for pid := range s.far.procs {
		n := s.pids.head(pid)
		if n == nil || n.exited() || n.proc.Source != RemoteSource || n.restored() {
			continue
		}
		p := n.proc.Clone()
		s.replaceProcess(n, s.far.marked(p))
	}
	for _, it := range s.byKey {
		if !it.dead() && markStale(it.layers, away) && !it.unpublished {
			it.unpublished = true
			s.publishSoon(it)
		}
	}
	s.pods.setAway(away)
	s.tasks.setAway(away)
	s.images.setAway(away)
}

func (g *groups[E]) setAway(away bool) {
	for _, it := range g.byKey {
		if !it.dead() && markStale(it.layers, away) && !it.unpublished {
			it.unpublished = true
			g.s.publishSoon(it)
		}
	}
}

// markStale marks the other's layer, and reports whether there is one.
func markStale[T any](layers []layerOf[T], away bool) bool {
	for i := range layers {
		if layers[i].source == RemoteSource {
			layers[i].stale = away
			return true
		}
	}
	return false
}

// onlyRemote reports whether nobody here has said anything.
func onlyRemote[T any](layers []layerOf[T]) bool {
	return len(layers) > 0 && !slices.ContainsFunc(layers, func(l layerOf[T]) bool { return l.source != RemoteSource })
}

// counted leaves another pidigree's layer out where a source of this host has one. It
// would fill in what that one does not say; but often that is its way to say no: no
// pod, no sandbox, no health.
func counted[T any](layers []layerOf[T]) []layerOf[T] {
	far, own := -1, false
	for i, l := range layers {
		if l.source == RemoteSource {
			far = i
		}
		own = own || l.source != RemoteSource && l.source != KernelSource
	}
	if far < 0 || !own {
		return layers
	}
	return append(slices.Clone(layers[:far]), layers[far+1:]...)
}

// namers are the layers that say by which ids an entity is known: where it is known
// here at all, those from here, since an id may be another one's here.
func namers[T any](layers []layerOf[T]) []layerOf[T] {
	if onlyRemote(layers) {
		return layers
	}
	own := layers
	for i, l := range layers {
		if l.source == RemoteSource {
			own = append(slices.Clone(layers[:i]), layers[i+1:]...)
		}
	}
	return own
}

// last reports whether nobody else here says anything of an entity beside the source.
func last[T any](layers []layerOf[T], source string) bool {
	own := namers(layers)
	return len(own) == 1 && own[0].source == source
}

// remote reports whether nobody here knows the container.
func (i *contItem) remote() bool { return onlyRemote(i.layers) }

// remoteContainer is for the writer, locked.
func (s *Store) remoteContainer(c *workload.Container, gone, unset bool) {
	if c.ID.IsZero() {
		s.rejected.Add(1)
		return
	}
	ch := ContainerChange{ID: c.ID, Source: RemoteSource, Layer: c, stale: s.far.away}
	it, ok := s.hereAs(idsOf(c.ID, c))
	if !ok {
		return
	}
	if it != nil {
		ch.ID = it.key
	}
	if at := s.far.conts[c.ID]; at != nil && s.byKey[at.key] == at && (unset || at != it) {
		if far := farLayer(at.layers); far != nil && far.ID == c.ID { // it was said of another one here, or is taken back
			if unset {
				it, ch.ID = at, at.key
			} else if !at.dead() {
				s.changeContainer(&ContainerChange{ID: at.key, Source: RemoteSource})
			}
		}
	}
	if unset {
		delete(s.far.conts, c.ID)
		if it == nil || it.restored {
			return
		}
		if far := farLayer(it.layers); far == nil || far.ID != c.ID {
			return // what it says of the container, it says by another id now
		}
	}
	switch here := it != nil && !it.remote(); {
	case it != nil && it.restored:
		return // what was known here of its end
	case it != nil && it.dead() && (here || unset || gone):
		return // what is known here of its end counts, or what was said of it
	case unset, here && gone:
		ch.Layer = nil
	case gone:
		ch.Gone = s.now()
	}
	s.changeContainer(&ch)
	if ch.Layer != nil {
		s.far.conts[c.ID] = s.byKey[ch.ID]
	}
}

// hereAs gives the entity that has one of these ids and is known here; else the one
// that is known from there by the first of them; else one that was restored. False:
// several that live here claim one of the ids, and it is nobody's.
func (s *Store) hereAs(ids []workload.ContainerID) (found *contItem, ok bool) {
	var restored *contItem
	for _, id := range ids {
		same := s.claimants(id)
		if it := s.byKey[id]; it != nil {
			same = append(same, it)
		}
		for _, it := range same {
			switch {
			case it.restored:
				restored = it
			case it.remote() || it == found:
			case found == nil || found.dead():
				found = it
			case !it.dead():
				return nil, false
			}
		}
	}
	if it := s.byKey[ids[0]]; found == nil && it != nil && it.remote() {
		found = it
	}
	if found == nil {
		found = restored
	}
	return found, true
}

// claimants are the entities that have an id, or one that is the same everywhere.
func (s *Store) claimants(id workload.ContainerID) (same []*contItem) {
	if c := s.ids.get(id); c != nil {
		same = append(same, c.claims...)
	}
	if id.Everywhere() {
		same = append(same, s.byBare[id.ID]...)
	}
	return same
}

// absorb has an entity that is known here take over those that are not and have one
// of its ids, and reports whether it has got another layer by that.
func (s *Store) absorb(it *contItem, ids []workload.ContainerID) (more bool) {
	if it.remote() {
		return false
	}
	for _, id := range ids {
		for _, o := range s.claimants(id) {
			if o == it || o.restored || !o.remote() || s.byKey[o.key] != o {
				continue
			}
			if !o.dead() && !it.dead() && !hasRemote(it.layers) {
				it.layers = append(it.layers, o.layers[0])
				s.far.conts[o.layers[0].c.ID] = it
				more = true
			}
			o.unpublished = false
			s.removeContainer(o, false)
		}
	}
	return more
}

func hasRemote[T any](layers []layerOf[T]) bool { return farLayer(layers) != nil }

// farLayer gives what the other one says, nil for nothing.
func farLayer[T any](layers []layerOf[T]) *T {
	for _, l := range layers {
		if l.source == RemoteSource {
			return l.c
		}
	}
	return nil
}

// changeRemote is remoteContainer for a pod, a task or an image.
func (g *groups[E]) changeRemote(e *E, gone, unset bool) {
	key := g.keyOf(e)
	if key == "" {
		g.s.rejected.Add(1)
		return
	}
	ch := groupChange[E]{key: key, source: RemoteSource, layer: e, stale: g.s.far.away}
	it, ok := g.hereAs(g.ids(key, []layerOf[E]{newLayer(RemoteSource, e)}))
	if !ok {
		return
	}
	if it != nil {
		ch.key = it.key
		if far := farLayer(it.layers); unset && (far == nil || g.keyOf(far) != key) {
			return
		}
	}
	switch here := it != nil && !onlyRemote(it.layers); {
	case it == nil && unset, it != nil && it.restored:
		return
	case it != nil && it.dead() && (here || unset || gone):
		return
	case unset, here && gone:
		ch.layer = nil
	case gone:
		ch.gone = g.s.now()
	}
	g.change(ch)
}

// hereAs is that of containers.
func (g *groups[E]) hereAs(ids []string) (found *groupItem[E], ok bool) {
	var restored *groupItem[E]
	for _, id := range ids {
		var same []*groupItem[E]
		if c := g.index.get(id); c != nil {
			same = append(same, c.claims...)
		}
		if it := g.byKey[id]; it != nil {
			same = append(same, it)
		}
		for _, it := range same {
			switch {
			case it.restored:
				restored = it
			case onlyRemote(it.layers) || it == found:
			case found == nil || found.dead():
				found = it
			case !it.dead():
				return nil, false
			}
		}
	}
	if it := g.byKey[ids[0]]; found == nil && it != nil && onlyRemote(it.layers) {
		found = it
	}
	if found == nil {
		found = restored
	}
	return found, true
}

// absorb is that of containers.
func (g *groups[E]) absorb(it *groupItem[E], ids []string) (more bool) {
	if onlyRemote(it.layers) {
		return false
	}
	for _, id := range ids {
		c := g.index.get(id)
		if c == nil {
			continue
		}
		for _, o := range slices.Clone(c.claims) {
			if o == it || o.restored || !onlyRemote(o.layers) {
				continue
			}
			if !o.dead() && !it.dead() && !hasRemote(it.layers) {
				it.layers = append(it.layers, o.layers[0])
				more = true
			}
			o.unpublished = false
			g.remove(o, false)
		}
	}
	return more
}

// remoteService is for the writer, locked.
func (s *Store) remoteService(u *workload.Service, gone bool) {
	ch := &ServiceChange{Service: u}
	if gone {
		it := s.services.get(u.Cgroup)
		if it == nil {
			return
		}
		ch.Service, ch.Gone = it.latest.Load().service, s.now()
	}
	s.putService(ch, true)
}
