// SPDX-License-Identifier: Apache-2.0

package store

import (
	"container/list"
	"sync/atomic"

	"github.com/pidigree/pidigree/pkg/workload"
)

// marker remembers that an entity was removed, so that a watcher who resumes
// can be told. It is in the change log like the entity was.
type marker struct{ st atomic.Pointer[state] }

func (m *marker) revision() workload.Revision { return m.st.Load().entity.Revision }
func (m *marker) state() state                { return *m.st.Load() }

// markers keeps the last removals of one kind. For the writer.
type markers[K comparable] struct {
	log   *changeLog
	max   int
	order *list.List // of grave[K], oldest first
	byID  map[K]*list.Element
}

type grave[K comparable] struct {
	id K
	m  *marker
}

func newMarkers[K comparable](log *changeLog, limit int) *markers[K] {
	return &markers[K]{log: log, max: limit, order: list.New(), byID: map[K]*list.Element{}}
}

// add notes that id was removed at the state's revision.
func (g *markers[K]) add(id K, st state) {
	g.void(id, st.entity.Revision)
	m := &marker{}
	m.st.Store(&st)
	g.byID[id] = g.order.PushBack(grave[K]{id, m})
	g.log.append(st.entity.Revision, m)
	for g.order.Len() > g.max {
		oldest := g.order.Front().Value.(grave[K])
		g.log.raiseFloor(oldest.m.state()) // before it vanishes: a walk checks the floor last
		g.void(oldest.id, st.entity.Revision)
	}
}

// void drops the marker of id, which is in the store again at rev or forgotten.
// The marker takes that revision, so that a walk which ends before it knows
// that it has missed something.
func (g *markers[K]) void(id K, rev workload.Revision) {
	e, ok := g.byID[id]
	if !ok {
		return
	}
	old := e.Value.(grave[K]).m
	st := old.state()
	st.entity.Revision = rev
	old.st.Store(&st)
	g.order.Remove(e)
	delete(g.byID, id)
}
