// SPDX-License-Identifier: Apache-2.0

package store

import (
	"sync/atomic"

	"github.com/pidigree/pidigree/pkg/workload"
)

// serviceView is one immutable version of a unit as readers see it.
type serviceView struct {
	service *workload.Service
	rev     workload.Revision
	remote  bool // another pidigree's word alone
	// gone: a tombstone. dropped: not in the store any more.
	gone, dropped bool
	// ended is what told was when it was dropped.
	ended workload.Revision
}

// serviceItem is one unit through all its versions.
type serviceItem struct {
	latest atomic.Pointer[serviceView]
	tomb   *tomb // writer only; nil while it lives
}

func (i *serviceItem) revision() workload.Revision { return i.latest.Load().rev }

func (i *serviceItem) state() state {
	v := i.latest.Load()
	return state{
		entity:  workload.Entity{Kind: workload.KindService, Service: v.service, Gone: v.gone, Revision: v.rev},
		removed: v.dropped,
		told:    v.told(),
	}
}

func (v *serviceView) told() workload.Revision {
	switch {
	case v.dropped:
		return v.ended
	case !v.gone:
		return 0
	}
	return v.rev
}

// Service gives a unit, live or a tombstone, by the path of its cgroup.
func (s *Store) Service(cgroup string) (*workload.Service, bool) {
	it := s.services.get(cgroup)
	if it == nil {
		return nil, false
	}
	v := it.latest.Load()
	return v.service, !v.dropped
}

// changeService applies one change. For the writer, locked.
func (s *Store) changeService(ch *ServiceChange) { s.putService(ch, false) }

// putService takes the word of another pidigree as well, which changes no unit that
// is known here.
func (s *Store) putService(ch *ServiceChange, remote bool) {
	if ch.Service == nil || ch.Service.Cgroup == "" {
		s.rejected.Add(1)
		return
	}
	key := ch.Service.Cgroup
	it := s.services.get(key)
	switch {
	case it == nil && ch.Gone != 0:
		return // nobody has heard of it
	case it == nil:
		it = &serviceItem{}
		s.svcCount.Add(1)
	default:
		v := it.latest.Load()
		if remote && !v.remote || *v.service == *ch.Service && v.gone == (ch.Gone != 0) && v.remote == remote {
			return
		}
	}
	v := &serviceView{service: ch.Service, rev: s.next(), gone: ch.Gone != 0, remote: remote}
	it.latest.Store(v)
	s.services.put(key, it)
	s.svcMarkers.void(key, v.rev)
	s.svcLog.append(v.rev, it)
	s.settleServiceTomb(it, ch.Gone)
}

// settleServiceTomb makes the tombstone queue agree with the unit's life.
func (s *Store) settleServiceTomb(it *serviceItem, gone workload.KTime) {
	switch {
	case gone == 0 && it.tomb != nil:
		it.tomb.in.remove(it.tomb)
		it.tomb = nil
		s.svcsGone.Add(-1)
	case gone != 0 && it.tomb == nil:
		queue := &s.svcTombs
		if it.latest.Load().remote {
			queue = &s.farTombs.services
		}
		it.tomb = queue.add(&tomb{since: gone, svc: it})
		s.svcsGone.Add(1)
		for d := queue.excess(); d != nil; d = queue.excess() {
			s.dropped.Add(1)
			s.removeService(d.svc)
		}
	}
}

// removeService takes a tombstone out of the store.
func (s *Store) removeService(it *serviceItem) {
	it.tomb.in.remove(it.tomb)
	it.tomb = nil
	s.svcsGone.Add(-1)
	s.svcCount.Add(-1)
	last := *it.latest.Load()
	last.ended, last.rev, last.dropped = last.told(), s.next(), true
	it.latest.Store(&last)
	key := last.service.Cgroup
	s.services.del(key)
	s.svcMarkers.add(key, state{
		entity:  workload.Entity{Kind: workload.KindService, Service: &workload.Service{Unit: last.service.Unit, Cgroup: key}, Gone: true, Revision: last.rev},
		removed: true,
		told:    last.ended,
	})
}
