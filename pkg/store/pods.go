// SPDX-License-Identifier: Apache-2.0

package store

import (
	"reflect"
	"slices"
	"sync/atomic"

	"github.com/pidigree/pidigree/pkg/workload"
)

// podView is one immutable version of a pod as readers see it.
type podView struct {
	merged *workload.Pod
	rev    workload.Revision
	// gone: a tombstone. dropped: not in the store any more; only containers that
	// were in it still lead here.
	gone, dropped bool
	// ended is what told was when it was dropped.
	ended workload.Revision
	// restored: by Restore; nobody who lives has anything to do with it.
	restored bool
}

// podCell stands for one uid, be it a key or an alias. The views of containers
// point to it, so a change of the pod touches no container.
type podCell struct {
	view atomic.Pointer[podView] // nil: no pod has this uid, or several claim it
	// The rest is the writer's.
	id      string
	holders int // containers in the store that are in it
	claims  []*podItem
}

// podItem is one pod through all its versions.
type podItem struct {
	latest atomic.Pointer[podView]
	// The rest is the writer's.
	key      string
	layers   []podLayer
	gone     bool // by Gone; else gone when nothing lives in layers
	empty    bool // the last layer was taken away; layers keeps it for the tombstone
	since    workload.KTime
	tomb     *tomb
	restored bool
	ids      []string
	// unpublished: changed by this batch, and not merged yet.
	unpublished bool
}

func (i *podItem) revision() workload.Revision { return i.latest.Load().rev }

func (i *podItem) state() state {
	v := i.latest.Load()
	return state{
		entity:  workload.Entity{Kind: workload.KindPod, Pod: v.merged, Gone: v.gone, Revision: v.rev},
		removed: v.dropped,
		told:    v.told(),
		quiet:   v.restored,
	}
}

func (v *podView) told() workload.Revision {
	switch {
	case v.dropped:
		return v.ended
	case !v.gone:
		return 0
	}
	return v.rev
}

// Pod gives a pod, live or a tombstone, by its uid or, of a static pod, by the
// hash of its manifest.
func (s *Store) Pod(uid string) (*workload.Pod, bool) {
	c := s.podIDs.get(uid)
	if c == nil {
		return nil, false
	}
	v := c.view.Load()
	if v == nil || v.dropped {
		return nil, false
	}
	return v.merged, true
}

// changePod applies one change. For the writer, locked.
func (s *Store) changePod(ch *PodChange) {
	it := s.podByKey[ch.UID]
	if it != nil && it.restored {
		if ch.Layer != nil && !ch.Forget {
			s.removePod(it, false)
		}
		it = nil
	}
	if it == nil {
		if ch.UID == "" || ch.Layer == nil || ch.Source == "" {
			s.rejected.Add(1)
			return
		}
		if ch.Forget {
			return
		}
		it = &podItem{key: ch.UID}
		s.podByKey[it.key] = it
	}
	if ch.Forget {
		s.publishPodNow(it)
		s.removePod(it, false)
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
		s.publishPodNow(it)
	case !soon:
		s.publishSoon(it)
	}
}

// dead reports whether the entity is a tombstone, or about to become one.
func (i *podItem) dead() bool { return i.gone || i.empty }

func (s *Store) publishPodNow(it *podItem) {
	if it.unpublished {
		s.publishPod(it)
	}
}

func (i *podItem) publishIn(s *Store) { s.publishPodNow(i) }

// change works the change into the layers and the life of the entity, and reports
// whether that may show.
func (i *podItem) change(ch *PodChange, now workload.KTime) bool {
	dead, same := i.dead(), false
	switch {
	case ch.Source == "":
	case ch.Layer != nil:
		same = !i.putLayer(ch.Source, ch.Layer)
		if i.empty || i.gone && ch.Gone == 0 && ch.Source == KernelSource {
			i.gone, i.empty = false, false
		}
	case !dead: // a tombstone keeps what it was
		if len(i.layers) == 1 && i.layers[0].source == ch.Source {
			i.empty, i.since = true, now
			break
		}
		i.layers = slices.DeleteFunc(i.layers, func(l podLayer) bool { return l.source == ch.Source })
	}
	if ch.Gone != 0 {
		i.gone, i.empty, i.since = true, false, ch.Gone
	}
	return !same || dead || i.gone
}

// putLayer sets a layer and reports whether it is news. One that says the same as
// before changes nothing and keeps its first time; layers stay in the order of
// their first arrival.
func (i *podItem) putLayer(source string, p *workload.Pod) bool {
	for n := range i.layers {
		old := &i.layers[n]
		if old.source != source {
			continue
		}
		x, y := *old.c, *p
		x.Sources, y.Sources = nil, nil
		if reflect.DeepEqual(&x, &y) {
			return false
		}
		*old = newLayer(source, p)
		return true
	}
	i.layers = append(i.layers, newLayer(source, p))
	return true
}

// maxPodAliases bounds what a lying source can make the store index.
const maxPodAliases = 8

// podIDs gives by what the pod is known: its key, the uids that sources have for
// it, and of a static pod the hash of its manifest, which is the uid in the name
// of its cgroup where the API server gave its mirror another one. Who may make
// pods may write that annotation, so it counts only of those that are static.
func podIDs(key string, layers []podLayer) []string {
	ids := []string{key}
	add := func(id string) {
		if id != "" && len(ids) <= maxPodAliases && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	for _, l := range layers {
		add(l.c.UID)
		if l.c.Static {
			add(l.c.ConfigHash)
		}
	}
	return ids
}

// publishPod makes what the entity has become visible, if it is anything new.
func (s *Store) publishPod(it *podItem) {
	it.unpublished = false
	gone := it.dead()
	merged := mergePod(it.key, it.layers, gone)
	ids := podIDs(it.key, it.layers)
	old := it.latest.Load()
	if old != nil && old.gone == gone && slices.Equal(ids, it.ids) && reflect.DeepEqual(old.merged, merged) {
		s.settlePodTomb(it, old) // the same, but perhaps as of another instant
		return
	}
	s.displacePods(ids)
	if old == nil {
		s.podCount.Add(1)
	}
	v := &podView{merged: merged, rev: s.next(), gone: gone}
	it.latest.Store(v)
	s.podMarkers.void(it.key, v.rev)
	s.podLog.append(v.rev, it)
	s.setPodIDs(it, ids)
	s.settlePodTomb(it, v)
}

// setPodIDs makes the entity known by these ids and no others.
func (s *Store) setPodIDs(it *podItem, ids []string) {
	was := it.ids
	it.ids = ids
	for _, id := range ids {
		c := s.podCell(id)
		if !slices.Contains(c.claims, it) {
			c.claims = append(c.claims, it)
		}
		s.settlePodCell(c)
	}
	for _, id := range was {
		if !slices.Contains(ids, id) {
			s.unclaimPod(s.podIDs.get(id), it, nil)
		}
	}
}

func (s *Store) podCell(id string) *podCell {
	c := s.podIDs.get(id)
	if c == nil {
		c = &podCell{id: id}
		s.podIDs.put(id, c)
	}
	return c
}

// unclaimPod takes an id from an entity. Where nobody else has it and last is
// given, containers keep leading to last.
func (s *Store) unclaimPod(c *podCell, it *podItem, last *podView) {
	c.claims = slices.DeleteFunc(c.claims, func(o *podItem) bool { return o == it })
	s.settlePodCell(c)
	if last != nil && len(c.claims) == 0 {
		c.view.Store(last)
	}
}

// settlePodCell decides which pod an id means: the one whose key it is, else the
// only one that claims it, else the only living one that does.
func (s *Store) settlePodCell(c *podCell) {
	if len(c.claims) == 0 && c.holders == 0 {
		s.podIDs.del(c.id)
	}
	if it := c.owner(); it != nil {
		c.view.Store(it.latest.Load())
		return
	}
	c.view.Store(nil)
}

func (c *podCell) owner() *podItem {
	var live []*podItem
	for _, it := range c.claims {
		if it.key == c.id {
			return it
		}
		if !it.latest.Load().gone {
			live = append(live, it)
		}
	}
	switch {
	case len(c.claims) == 1:
		return c.claims[0]
	case len(live) == 1:
		return live[0]
	default:
		return nil
	}
}

// holdPod makes a container one of the pod that it names, and of no other.
func (s *Store) holdPod(it *contItem, ref *workload.PodRef) {
	uid := ""
	if ref != nil {
		uid = ref.UID
	}
	if it.pod == uid {
		return
	}
	was := it.pod
	if it.pod = uid; uid != "" {
		s.podCell(uid).holders++
	}
	if was == "" {
		return
	}
	c := s.podIDs.get(was)
	if c.holders--; c.holders == 0 && len(c.claims) == 0 {
		s.podIDs.del(was)
	}
}

// podNow gives the pod of a container as it is known now: what the sources say
// together, or the reference alone where nobody said more, or where what is said
// is about a pod of another name: a reference is a claim of the one who made the
// container, and may not borrow another pod's description.
func (v *view) podNow() *workload.Pod {
	if v.podCell == nil {
		return v.pod
	}
	p := v.podCell.view.Load()
	if p == nil || p.restored || !compatible(p.merged.Name, v.pod.Name) || !compatible(p.merged.Namespace, v.pod.Namespace) {
		return v.pod
	}
	return p.merged
}

func compatible(a, b string) bool { return a == b || a == "" || b == "" }

// settlePodTomb makes the tombstone queue agree with the view.
func (s *Store) settlePodTomb(it *podItem, v *podView) {
	switch {
	case !v.gone && it.tomb != nil:
		s.podTombs.remove(it.tomb)
		it.tomb = nil
		s.podsGone.Add(-1)
	case v.gone && it.tomb != nil && it.since != 0:
		s.podTombs.move(it.tomb, it.since)
	case v.gone && it.tomb == nil:
		it.tomb = s.podTombs.add(&tomb{since: it.since, pod: it})
		s.podsGone.Add(1)
		for d := s.podTombs.excess(); d != nil; d = s.podTombs.excess() {
			s.dropped.Add(1)
			s.removePod(d.pod, true)
		}
	}
}

// removePod takes an entity out of the store. Its containers lead to its last
// view where it was kept to its end, and nowhere where it was forgotten.
func (s *Store) removePod(it *podItem, keep bool) {
	if it.tomb != nil {
		s.podTombs.remove(it.tomb)
		it.tomb = nil
		s.podsGone.Add(-1)
	}
	s.podCount.Add(-1)
	if it.restored {
		s.restoredPods--
	}
	delete(s.podByKey, it.key)
	was := it.latest.Load()
	last := *was
	last.rev, last.dropped, last.ended = s.next(), true, was.told()
	it.latest.Store(&last)
	var left *podView
	if keep && !last.restored {
		left = &last
	}
	for _, id := range it.ids {
		s.unclaimPod(s.podIDs.get(id), it, left)
	}
	s.podMarkers.add(it.key, state{
		entity:  workload.Entity{Kind: workload.KindPod, Pod: podNamed(it.key), Gone: true, Revision: last.rev},
		removed: true,
		told:    last.ended,
	})
}

func podNamed(uid string) *workload.Pod { return &workload.Pod{PodRef: workload.PodRef{UID: uid}} }

// restorePod is for the writer, locked.
func (s *Store) restorePod(p PastPod) bool {
	ids := podIDs(p.UID, []podLayer{newLayer(KernelSource, p.Pod)})
	if p.UID == "" || slices.ContainsFunc(ids, func(id string) bool { c := s.podIDs.get(id); return c != nil && len(c.claims) > 0 }) {
		return false
	}
	it := &podItem{key: p.UID, gone: true, restored: true, since: p.Since}
	s.podByKey[it.key] = it
	s.podCount.Add(1)
	s.restoredPods++
	v := &podView{merged: p.Pod, rev: s.next(), gone: true, restored: true}
	it.latest.Store(v)
	s.podMarkers.void(it.key, v.rev)
	s.podLog.append(v.rev, it)
	s.setPodIDs(it, ids)
	s.settlePodTomb(it, v)
	return true
}

// displacePods takes out what was restored under any of these ids: the writer
// speaks of them itself now.
func (s *Store) displacePods(ids []string) {
	if s.restoredPods == 0 {
		return
	}
	for _, id := range ids {
		c := s.podIDs.get(id)
		if c == nil {
			continue
		}
		for _, it := range slices.Clone(c.claims) {
			if it.restored {
				s.removePod(it, false)
			}
		}
	}
}
