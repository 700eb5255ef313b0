// SPDX-License-Identifier: Apache-2.0

package store

import (
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/pidigree/pidigree/pkg/workload"
)

// view is one immutable version of a container as readers see it.
type view struct {
	key    workload.ContainerID
	merged *workload.Container
	// chain ends with merged.
	chain []*workload.Container
	// up is the view of the parent that chain was made from.
	up *view
	// pod is the reference to its pod, or its parent's; see podNow. podCell leads to
	// what else is known of it.
	pod     *workload.Pod
	podCell *groupCell[pod]
	// task and taskCell are the same for its task.
	task     *workload.Task
	taskCell *groupCell[task]
	rev      workload.Revision
	// gone: a tombstone. dropped: not in the store any more; only processes
	// that were in it still lead here.
	gone, dropped bool
	// ended is what told was when it was dropped.
	ended workload.Revision
	// restored: by Restore; nobody who lives has anything to do with it.
	restored bool
}

// cell stands for one container id, be it a key, an id of a layer or an alias.
// Processes point to the cell of the id that they were given, so a change of
// the container, or its arrival after its processes, touches no process.
type cell struct {
	view atomic.Pointer[view] // nil: no container has this id, or several claim it
	// The rest is the writer's.
	id     workload.ContainerID
	nodes  int         // process versions that point here
	claims []*contItem // containers with this id
	left   *view       // the last of those that were known here, where it was kept to its end
	loose  bool        // not in the index: of restored processes, see pastCell
}

// contItem is one container entity through all its versions.
type contItem struct {
	latest atomic.Pointer[view]
	// The rest is the writer's.
	key    workload.ContainerID
	layers []layer
	gone   bool // by Gone; else gone when nothing lives in layers
	empty  bool // the last layer was taken away; layers keeps it for the tombstone
	since  workload.KTime
	tomb   *tomb
	// unpublished: changed by this batch, and not merged yet.
	unpublished bool
	// restored: by Restore, until the writer says anything of one of its ids.
	restored bool
	ids      []workload.ContainerID
	far      bool // it got its ids while nobody here knew it
	cgroups  []workload.CgroupID
	parent   workload.ContainerID
	pod      string // the uid of its pod
	task     string // the ARN of its task
}

func (i *contItem) revision() workload.Revision { return i.latest.Load().rev }

func (i *contItem) state() state {
	v := i.latest.Load()
	return state{
		entity:  workload.Entity{Kind: workload.KindContainer, Container: v.merged, Gone: v.gone, Revision: v.rev},
		removed: v.dropped,
		told:    v.told(),
		quiet:   v.restored,
	}
}

// told is the revision at which those who do not watch tombstones were told
// that it is gone: that of a tombstone's last version.
func (v *view) told() workload.Revision {
	switch {
	case v.dropped:
		return v.ended
	case !v.gone:
		return 0
	}
	return v.rev
}

// changeContainer applies one change. For the writer, locked.
func (s *Store) changeContainer(ch *ContainerChange) {
	it := s.byKey[ch.ID]
	if it != nil && it.remote() && it.dead() && ch.Source != RemoteSource && ch.Layer != nil {
		s.removeContainer(it, false) // what is known here begins
		it = nil
	}
	if it != nil && it.restored {
		if ch.Layer != nil && !ch.Forget {
			s.removeContainer(it, false)
		}
		it = nil
	}
	if it == nil {
		if ch.ID.IsZero() || ch.Layer == nil || ch.Source == "" {
			s.rejected.Add(1)
			return
		}
		if ch.Forget {
			return
		}
		it = &contItem{key: ch.ID}
		s.byKey[it.key] = it
	}
	if ch.Forget {
		s.publishNow(it) // watchers hear of what was never published neither coming nor going
		far := farLayer(it.layers)
		s.removeContainer(it, false)
		if far != nil {
			s.publishPending() // so that the one that it was merged into has its ids
			s.remoteContainer(far, false, false)
		}
		return
	}
	was := it.dead()
	if !it.change(ch, workload.KTime(s.asOf.Load())) {
		return
	}
	soon := it.unpublished
	it.unpublished = true
	switch {
	case was || it.dead():
		s.publishNow(it)
	case !soon:
		s.publishSoon(it)
	}
}

// dead reports whether the entity is a tombstone, or about to become one.
func (i *contItem) dead() bool { return i.gone || i.empty }

func (s *Store) publishNow(it *contItem) {
	if it.unpublished {
		s.publish(it)
	}
}

func (i *contItem) publishIn(s *Store) { s.publishNow(i) }

// change works the change into the layers and the life of the entity, and reports
// whether that may show.
func (i *contItem) change(ch *ContainerChange, now workload.KTime) bool {
	dead, same := i.dead(), false
	switch {
	case ch.Source == "":
	case ch.Layer != nil:
		same = !i.putLayer(ch.Source, ch.Layer, ch.stale)
		if i.empty || i.gone && ch.Gone == 0 && (revives(ch) || i.remote()) {
			i.gone, i.empty = false, false
		}
	case !dead: // a tombstone keeps what it was
		if last(i.layers, ch.Source) {
			i.empty, i.since = true, now
			break
		}
		i.layers = slices.DeleteFunc(i.layers, func(l layer) bool { return l.source == ch.Source })
	}
	if ch.Gone != 0 {
		i.gone, i.empty, i.since = true, false, ch.Gone
	}
	return !same || dead || i.gone
}

// revives reports whether a change brings a tombstone back: only the correlator
// may say so, with a run that has not ended or in so many words. An engine's late
// answer does not.
func revives(ch *ContainerChange) bool {
	return ch.Source == KernelSource && (ch.Back || ch.Layer.Run == nil || ch.Layer.Run.Exit == nil)
}

// putLayer sets a layer and reports whether it is news. One that says the same as
// before changes nothing and keeps its first time; layers stay in the order of
// their first arrival.
func (i *contItem) putLayer(source string, c *workload.Container, stale bool) bool {
	l := newLayer(source, c)
	l.stale = stale
	for n := range i.layers {
		old := &i.layers[n]
		if old.source != source {
			continue
		}
		if sameLayer(old.c, c) && old.stale == stale {
			return false
		}
		*old = l
		return true
	}
	i.layers = append(i.layers, l)
	return true
}

func sameLayer(a, b *workload.Container) bool {
	if a == b {
		return true
	}
	x, y := *a, *b
	x.Sources, y.Sources = nil, nil
	return reflect.DeepEqual(&x, &y)
}

// publish makes what the entity has become visible, if it is anything new.
func (s *Store) publish(it *contItem) {
	it.unpublished = false
	gone := it.dead()
	merged := merge(it.key, it.layers, gone)
	if s.far != nil && s.absorb(it, idsOf(it.key, merged)) {
		merged = merge(it.key, it.layers, gone)
	}
	old := it.latest.Load()
	if old != nil && old.gone == gone && reflect.DeepEqual(old.merged, merged) {
		s.settleContTomb(it, old) // the same, but perhaps as of another instant
		return
	}
	if !it.remote() {
		s.displace(idsOf(it.key, merged))
	}
	if old == nil {
		s.conts.Add(1)
	} else if old.merged.ID != merged.ID { // watchers keep it by that id
		s.markContainer(it, old.merged.ID, s.next(), 0)
	}
	v := &view{key: it.key, merged: merged, rev: s.next(), gone: gone}
	s.setParent(it, merged.Parent)
	s.pods.hold(&it.pod, uidOf(merged.Pod))
	s.tasks.hold(&it.task, arnOf(merged.Task))
	s.join(v)
	it.latest.Store(v)
	s.contMarkers.void(merged.ID, v.rev)
	s.contLog.append(v.rev, it)
	s.setIDs(it, idsOf(it.key, merged))
	s.setCgroups(it, merged.Run)
	s.settleContTomb(it, v)
	s.rejoinChildren(it)
}

func idsOf(key workload.ContainerID, merged *workload.Container) []workload.ContainerID {
	ids := []workload.ContainerID{key}
	for _, id := range append([]workload.ContainerID{merged.ID}, merged.Aliases...) {
		if !id.IsZero() && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// setIDs makes the entity known by these ids and no others.
func (s *Store) setIDs(it *contItem, ids []workload.ContainerID) {
	was := it.ids
	it.ids = ids
	s.setBare(it, was, ids)
	for _, id := range ids {
		if c := s.cell(id); !slices.Contains(c.claims, it) {
			c.claims = append(c.claims, it)
		}
	}
	for _, id := range ids {
		s.settleCell(s.ids.get(id))
	}
	for _, id := range was {
		if !slices.Contains(ids, id) {
			s.unclaim(s.ids.get(id), it, nil)
		}
	}
	it.far = it.remote()
}

// setBare keeps byBare.
func (s *Store) setBare(it *contItem, was, is []workload.ContainerID) {
	for _, id := range was {
		if !id.Everywhere() || !slices.Contains(s.byBare[id.ID], it) {
			continue
		}
		left := slices.DeleteFunc(s.byBare[id.ID], func(o *contItem) bool { return o == it })
		if s.byBare[id.ID] = left; len(left) == 0 {
			delete(s.byBare, id.ID)
		}
	}
	for _, id := range is {
		if id.Everywhere() && !slices.Contains(s.byBare[id.ID], it) {
			s.byBare[id.ID] = append(s.byBare[id.ID], it)
		}
	}
}

func (s *Store) cell(id workload.ContainerID) *cell {
	c := s.ids.get(id)
	if c == nil {
		c = &cell{id: id}
		s.ids.put(id, c)
	}
	return c
}

// unclaim takes an id from an entity. Where nobody else has it and last is
// given, processes and inner containers keep leading to last.
func (s *Store) unclaim(c *cell, it *contItem, last *view) {
	c.claims = slices.DeleteFunc(c.claims, func(o *contItem) bool { return o == it })
	if !it.far {
		c.left = last
	} else if c.left != nil {
		last = c.left // who came and went there does not take it away
	}
	s.settleCell(c)
	if last != nil && len(c.claims) == 0 {
		c.view.Store(last)
		return
	}
	s.rejoinAll(s.children[c.id])
}

// settleCell decides which container an id means: the one whose key it is, unless
// that is a tombstone, and the next one with the id lives; else the only one that claims
// it, else the only living one that does.
func (s *Store) settleCell(c *cell) {
	if len(c.claims) == 0 && c.nodes == 0 {
		s.ids.del(c.id)
	}
	if it := c.owner(); it != nil {
		c.view.Store(it.latest.Load())
		return
	}
	c.view.Store(nil)
	if c.left != nil && !slices.ContainsFunc(c.claims, func(o *contItem) bool { return !o.remote() }) {
		c.view.Store(c.left)
	}
}

func (c *cell) owner() *contItem {
	var keyed *contItem
	var live []*contItem
	claims := c.claims
	if len(claims) > 1 && slices.ContainsFunc(claims, (*contItem).remote) && slices.ContainsFunc(claims, func(o *contItem) bool { return !o.remote() }) {
		claims = slices.DeleteFunc(slices.Clone(claims), (*contItem).remote) // who is known here has it
	}
	for _, it := range claims {
		if it.key == c.id {
			keyed = it
		}
		if !it.latest.Load().gone {
			live = append(live, it)
		}
	}
	switch {
	case keyed != nil && (!keyed.latest.Load().gone || len(live) != 1 || live[0].key.ID != c.id.ID):
		return keyed
	case len(claims) == 1:
		return claims[0]
	case len(live) == 1:
		return live[0]
	default:
		return nil
	}
}

// hold gives the cell of a process's container, nil if it has none.
func (s *Store) hold(p *workload.Process) *cell {
	if p.Status != workload.StatusContainer || p.Container.IsZero() {
		return nil
	}
	c := s.cell(p.Container)
	c.nodes++
	return c
}

func (s *Store) release(c *cell) {
	if c == nil || c.loose {
		return
	}
	if c.nodes--; c.nodes == 0 && len(c.claims) == 0 {
		s.ids.del(c.id)
	}
}

// settleContTomb makes the tombstone queue agree with the view.
func (s *Store) settleContTomb(it *contItem, v *view) {
	switch {
	case !v.gone && it.tomb != nil:
		it.tomb.in.remove(it.tomb)
		it.tomb = nil
		s.contsGone.Add(-1)
	case v.gone && it.tomb != nil && it.since != 0:
		it.tomb.in.move(it.tomb, it.since)
	case v.gone && it.tomb == nil:
		queue := &s.contTombs
		if it.remote() {
			queue = &s.farTombs.conts
		}
		it.tomb = queue.add(&tomb{since: it.since, cont: it})
		s.contsGone.Add(1)
		for d := queue.excess(); d != nil; d = queue.excess() {
			s.dropped.Add(1)
			s.removeContainer(d.cont, true)
		}
	}
}

// removeContainer takes an entity out of the store. Its processes lead to its
// last view where it was kept to its end, and nowhere where it was forgotten.
func (s *Store) removeContainer(it *contItem, keep bool) {
	if it.tomb != nil {
		it.tomb.in.remove(it.tomb)
		it.tomb = nil
		s.contsGone.Add(-1)
	}
	s.conts.Add(-1)
	if it.restored {
		s.restoredConts--
	}
	delete(s.byKey, it.key)
	was := it.latest.Load()
	last := *was
	last.rev, last.dropped, last.ended = s.next(), true, was.told()
	it.latest.Store(&last)
	s.setBare(it, it.ids, nil)
	s.setParent(it, workload.ContainerID{})
	s.setCgroups(it, nil)
	s.pods.hold(&it.pod, "")
	s.tasks.hold(&it.task, "")
	var left *view
	if keep {
		left = &last
	}
	for _, id := range it.ids {
		s.unclaim(s.ids.get(id), it, left)
	}
	s.markContainer(it, last.merged.ID, last.rev, was.told())
}

// markContainer says that the id by which watchers knew the entity is gone. If
// another entity is known by it too, watchers get that one instead.
func (s *Store) markContainer(it *contItem, id workload.ContainerID, rev, told workload.Revision) {
	if c := s.ids.get(id); c != nil {
		for _, o := range c.claims {
			if o != it && o.latest.Load().merged.ID == id {
				s.touch(o)
				return
			}
		}
	}
	s.contMarkers.add(id, state{
		entity: workload.Entity{
			Kind: workload.KindContainer, Container: &workload.Container{ID: id}, Gone: true, Revision: rev,
		},
		removed: true,
		told:    told,
	})
}

// touch makes watchers see the entity again.
func (s *Store) touch(it *contItem) {
	v := *it.latest.Load()
	v.rev = s.next()
	it.latest.Store(&v)
	for _, id := range it.ids {
		s.settleCell(s.ids.get(id))
	}
	s.contLog.append(v.rev, it)
}
