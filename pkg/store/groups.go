// SPDX-License-Identifier: Apache-2.0

package store

import (
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/pidigree/pidigree/pkg/workload"
)

// groupKind is what pods, tasks and images do not have in common.
type groupKind[E any] struct {
	kind workload.Kind
	// merge joins layers, ids says by what the result is known, its key first.
	merge func(key string, layers []layerOf[E], gone bool) *E
	ids   func(key string, layers []layerOf[E]) []string
	// put makes an entity of one; named is what is left of one: what its key is made of.
	put   func(*workload.Entity, *E)
	named func(key string, was *E) *E
	// keyOf is what a layer calls the entity.
	keyOf func(*E) string
	// sources gives the provenance of a layer, which is no news by itself.
	sources func(*E) *[]workload.Provenance
}

// groups are the entities of one kind that containers belong to: pods, tasks. Images
// are kept in the same way; no container holds one.
type groups[E any] struct {
	groupKind[E]
	s *Store

	// What readers use.
	index     *index[string, groupCell[E]]
	log       *changeLog
	all, gone atomic.Int64

	// The writer's.
	byKey    map[string]*groupItem[E]
	tombs    tombs
	farTombs tombs // see Store.farTombs
	markers  *markers[string]
	restored int // what Restore brought and is still there
}

func newGroups[E any](s *Store, kind groupKind[E], tombs tombs) *groups[E] {
	g := &groups[E]{
		groupKind: kind, s: s, tombs: tombs,
		index: newIndex[string, groupCell[E]](),
		log:   newChangeLog(s.opt.Base),
		byKey: map[string]*groupItem[E]{},
	}
	g.farTombs = tombs
	g.markers = newMarkers[string](g.log, tombs.max)
	return g
}

// groupView is one immutable version of a group as readers see it.
type groupView[E any] struct {
	merged *E
	rev    workload.Revision
	// gone: a tombstone. dropped: not in the store any more; only containers that
	// were in it still lead here.
	gone, dropped bool
	// ended is what told was when it was dropped.
	ended workload.Revision
	// restored: by Restore; nobody who lives has anything to do with it.
	restored bool
}

// groupCell stands for one id, be it a key or an alias. The views of containers
// point to it, so a change of the group touches no container.
type groupCell[E any] struct {
	view atomic.Pointer[groupView[E]] // nil: no group has this id, or several claim it
	// The rest is the writer's.
	id      string
	holders int // containers in the store that are in it
	claims  []*groupItem[E]
}

// groupItem is one group through all its versions.
type groupItem[E any] struct {
	latest atomic.Pointer[groupView[E]]
	of     *groups[E]
	// The rest is the writer's.
	key      string
	layers   []layerOf[E]
	gone     bool // by Gone; else gone when nothing lives in layers
	empty    bool // the last layer was taken away; layers keeps it for the tombstone
	since    workload.KTime
	tomb     *tomb
	restored bool
	ids      []string
	// unpublished: changed by this batch, and not merged yet.
	unpublished bool
}

func (i *groupItem[E]) revision() workload.Revision { return i.latest.Load().rev }

func (i *groupItem[E]) state() state {
	v := i.latest.Load()
	st := state{
		entity:  workload.Entity{Kind: i.of.kind, Gone: v.gone, Revision: v.rev},
		removed: v.dropped,
		told:    v.told(),
		quiet:   v.restored,
	}
	i.of.put(&st.entity, v.merged)
	return st
}

func (v *groupView[E]) told() workload.Revision {
	switch {
	case v.dropped:
		return v.ended
	case !v.gone:
		return 0
	}
	return v.rev
}

// get gives a group, live or a tombstone, by its key or an alias.
func (g *groups[E]) get(id string) (*E, bool) {
	c := g.index.get(id)
	if c == nil {
		return nil, false
	}
	v := c.view.Load()
	if v == nil || v.dropped {
		return nil, false
	}
	return v.merged, true
}

// groupChange is a PodChange, a TaskChange or an ImageChange.
type groupChange[E any] struct {
	key, source string
	layer       *E
	gone        workload.KTime
	forget      bool
	stale       bool // see ContainerChange
}

// change applies one change. For the writer, locked.
func (g *groups[E]) change(ch groupChange[E]) {
	it := g.byKey[ch.key]
	if it != nil && onlyRemote(it.layers) && it.dead() && ch.source != RemoteSource && ch.layer != nil {
		g.remove(it, false) // what is known here begins
		it = nil
	}
	if it != nil && it.restored {
		if ch.layer != nil && !ch.forget {
			g.remove(it, false)
		}
		it = nil
	}
	if it == nil {
		if ch.key == "" || ch.layer == nil || ch.source == "" {
			g.s.rejected.Add(1)
			return
		}
		if ch.forget {
			return
		}
		it = &groupItem[E]{key: ch.key, of: g}
		g.byKey[it.key] = it
	}
	if ch.forget {
		g.publishNow(it)
		far := farLayer(it.layers)
		g.remove(it, false)
		if far != nil {
			g.s.publishPending()
			g.changeRemote(far, false, false)
		}
		return
	}
	was := it.dead()
	if !it.change(ch, workload.KTime(g.s.asOf.Load())) {
		return
	}
	soon := it.unpublished
	it.unpublished = true
	switch {
	case was || it.dead():
		g.publishNow(it)
	case !soon:
		g.s.publishSoon(it)
	}
}

// dead reports whether the entity is a tombstone, or about to become one.
func (i *groupItem[E]) dead() bool { return i.gone || i.empty }

func (g *groups[E]) publishNow(it *groupItem[E]) {
	if it.unpublished {
		g.publish(it)
	}
}

func (i *groupItem[E]) publishIn(*Store) { i.of.publishNow(i) }

// change works the change into the layers and the life of the entity, and reports
// whether that may show.
func (i *groupItem[E]) change(ch groupChange[E], now workload.KTime) bool {
	dead, same := i.dead(), false
	switch {
	case ch.source == "":
	case ch.layer != nil:
		same = !i.putLayer(ch.source, ch.layer, ch.stale)
		if i.empty || i.gone && ch.gone == 0 && (ch.source == KernelSource || onlyRemote(i.layers)) {
			i.gone, i.empty = false, false
		}
	case !dead: // a tombstone keeps what it was
		if last(i.layers, ch.source) {
			i.empty, i.since = true, now
			break
		}
		i.layers = slices.DeleteFunc(i.layers, func(l layerOf[E]) bool { return l.source == ch.source })
	}
	if ch.gone != 0 {
		i.gone, i.empty, i.since = true, false, ch.gone
	}
	return !same || dead || i.gone
}

// putLayer sets a layer and reports whether it is news. One that says the same as
// before changes nothing and keeps its first time; layers stay in the order of
// their first arrival.
func (i *groupItem[E]) putLayer(source string, e *E, stale bool) bool {
	l := newLayer(source, e)
	l.stale = stale
	for n := range i.layers {
		old := &i.layers[n]
		if old.source != source {
			continue
		}
		x, y := *old.c, *e
		*i.of.sources(&x), *i.of.sources(&y) = nil, nil
		if reflect.DeepEqual(&x, &y) && old.stale == stale {
			return false
		}
		*old = l
		return true
	}
	i.layers = append(i.layers, l)
	return true
}

// publish makes what the entity has become visible, if it is anything new.
func (g *groups[E]) publish(it *groupItem[E]) {
	it.unpublished = false
	gone := it.dead()
	merged := g.merge(it.key, it.layers, gone)
	ids := g.ids(it.key, namers(it.layers))
	if g.s.far != nil && g.absorb(it, ids) {
		merged, ids = g.merge(it.key, it.layers, gone), g.ids(it.key, namers(it.layers))
	}
	old := it.latest.Load()
	if old != nil && old.gone == gone && slices.Equal(ids, it.ids) && reflect.DeepEqual(old.merged, merged) {
		g.settleTomb(it, old) // the same, but perhaps as of another instant
		return
	}
	if !onlyRemote(it.layers) {
		g.displace(ids)
	}
	if old == nil {
		g.all.Add(1)
	}
	g.show(it, &groupView[E]{merged: merged, gone: gone}, ids)
}

// show makes a view the latest one.
func (g *groups[E]) show(it *groupItem[E], v *groupView[E], ids []string) {
	v.rev = g.s.next()
	it.latest.Store(v)
	g.markers.void(it.key, v.rev)
	g.log.append(v.rev, it)
	g.setIDs(it, ids)
	g.settleTomb(it, v)
}

// setIDs makes the entity known by these ids and no others.
func (g *groups[E]) setIDs(it *groupItem[E], ids []string) {
	was := it.ids
	it.ids = ids
	for _, id := range ids {
		c := g.cell(id)
		if !slices.Contains(c.claims, it) {
			c.claims = append(c.claims, it)
		}
		g.settleCell(c)
	}
	for _, id := range was {
		if !slices.Contains(ids, id) {
			g.unclaim(g.index.get(id), it, nil)
		}
	}
}

func (g *groups[E]) cell(id string) *groupCell[E] {
	c := g.index.get(id)
	if c == nil {
		c = &groupCell[E]{id: id}
		g.index.put(id, c)
	}
	return c
}

// unclaim takes an id from an entity. Where nobody else has it and last is given,
// containers keep leading to last.
func (g *groups[E]) unclaim(c *groupCell[E], it *groupItem[E], last *groupView[E]) {
	c.claims = slices.DeleteFunc(c.claims, func(o *groupItem[E]) bool { return o == it })
	g.settleCell(c)
	if last != nil && len(c.claims) == 0 {
		c.view.Store(last)
	}
}

// settleCell decides which group an id means: the one whose key it is, else the
// only one that claims it, else the only living one that does.
func (g *groups[E]) settleCell(c *groupCell[E]) {
	if len(c.claims) == 0 && c.holders == 0 {
		g.index.del(c.id)
	}
	if it := c.owner(); it != nil {
		c.view.Store(it.latest.Load())
		return
	}
	c.view.Store(nil)
}

func (c *groupCell[E]) owner() *groupItem[E] {
	var live []*groupItem[E]
	far := func(o *groupItem[E]) bool { return onlyRemote(o.layers) }
	claims := c.claims
	if len(claims) > 1 && slices.ContainsFunc(claims, far) && slices.ContainsFunc(claims, func(o *groupItem[E]) bool { return !far(o) }) {
		claims = slices.DeleteFunc(slices.Clone(claims), far) // who is known here has it
	}
	for _, it := range claims {
		if it.key == c.id {
			return it
		}
		if !it.latest.Load().gone {
			live = append(live, it)
		}
	}
	switch {
	case len(claims) == 1:
		return claims[0]
	case len(live) == 1:
		return live[0]
	default:
		return nil
	}
}

// hold makes a container one of the group with this id, and of none that it was in
// before; empty ids are none.
func (g *groups[E]) hold(was *string, id string) {
	old := *was
	if old == id {
		return
	}
	if *was = id; id != "" {
		g.cell(id).holders++
	}
	if old == "" {
		return
	}
	c := g.index.get(old)
	if c.holders--; c.holders == 0 && len(c.claims) == 0 {
		g.index.del(old)
	}
}

func compatible(a, b string) bool { return a == b || a == "" || b == "" }

// settleTomb makes the tombstone queue agree with the view.
func (g *groups[E]) settleTomb(it *groupItem[E], v *groupView[E]) {
	switch {
	case !v.gone && it.tomb != nil:
		it.tomb.in.remove(it.tomb)
		it.tomb = nil
		g.gone.Add(-1)
	case v.gone && it.tomb != nil && it.since != 0:
		it.tomb.in.move(it.tomb, it.since)
	case v.gone && it.tomb == nil:
		queue := &g.tombs
		if onlyRemote(it.layers) {
			queue = &g.farTombs
		}
		it.tomb = queue.add(&tomb{since: it.since, group: it})
		g.gone.Add(1)
		for d := queue.excess(); d != nil; d = queue.excess() {
			g.s.dropped.Add(1)
			d.group.expire()
		}
	}
}

// expire takes the entity out at the end of its time.
func (i *groupItem[E]) expire() { i.of.remove(i, true) }

// remove takes an entity out of the store. Its containers lead to its last view
// where it was kept to its end, and nowhere where it was forgotten.
func (g *groups[E]) remove(it *groupItem[E], keep bool) {
	if it.tomb != nil {
		it.tomb.in.remove(it.tomb)
		it.tomb = nil
		g.gone.Add(-1)
	}
	g.all.Add(-1)
	if it.restored {
		g.restored--
	}
	delete(g.byKey, it.key)
	was := it.latest.Load()
	last := *was
	last.rev, last.dropped, last.ended = g.s.next(), true, was.told()
	it.latest.Store(&last)
	var left *groupView[E]
	if keep && !last.restored {
		left = &last
	}
	for _, id := range it.ids {
		g.unclaim(g.index.get(id), it, left)
	}
	st := state{entity: workload.Entity{Kind: g.kind, Gone: true, Revision: last.rev}, removed: true, told: last.ended}
	g.put(&st.entity, g.named(it.key, last.merged))
	g.markers.add(it.key, st)
}

// restore takes one that has ended, unless anybody has one of its ids. For the writer, locked.
func (g *groups[E]) restore(key string, e *E, since workload.KTime) bool {
	ids := g.ids(key, []layerOf[E]{newLayer(KernelSource, e)})
	if key == "" || slices.ContainsFunc(ids, func(id string) bool { c := g.index.get(id); return c != nil && len(c.claims) > 0 }) {
		return false
	}
	it := &groupItem[E]{key: key, of: g, gone: true, restored: true, since: since}
	g.byKey[it.key] = it
	g.all.Add(1)
	g.restored++
	g.show(it, &groupView[E]{merged: e, gone: true, restored: true}, ids)
	return true
}

// displace takes out what was restored under any of these ids: the writer speaks
// of them itself now.
func (g *groups[E]) displace(ids []string) {
	if g.restored == 0 {
		return
	}
	for _, id := range ids {
		c := g.index.get(id)
		if c == nil {
			continue
		}
		for _, it := range slices.Clone(c.claims) {
			if it.restored {
				g.remove(it, false)
			}
		}
	}
}

// tombOf gives the tombstone of an entity, nil if it is none.
func (g *groups[E]) tombOf(key string) *tomb {
	if it := g.byKey[key]; it != nil {
		return it.tomb
	}
	return nil
}

// expireDue takes out those that are due.
func (g *groups[E]) expireDue(before, now workload.KTime) {
	for _, q := range []*tombs{&g.tombs, &g.farTombs} {
		for d := q.due(before, now); d != nil; d = q.due(before, now) {
			d.group.expire()
		}
	}
}
