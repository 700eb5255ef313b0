// SPDX-License-Identifier: Apache-2.0

package store

import (
	"slices"

	"github.com/pidigree/pidigree/pkg/workload"
)

// maxChain bounds how deep containers may nest. The kernel itself nests PID
// namespaces 32 deep at most (MAX_PID_NS_LEVEL).
const maxChain = 32

// join sets the chain, the pod and the task of a view from its parent's view. A parent
// that is not in the store, is the container itself, or is too deep, is left out.
func (s *Store) join(v *view) {
	v.chain, v.up, v.pod, v.podCell, v.task, v.taskCell = nil, nil, nil, nil, nil, nil
	if up := s.viewOf(v.merged.Parent); up != nil && !up.restored && len(up.chain) < maxChain && !up.within(v.key) {
		v.up = up
		v.chain = append(slices.Clip(up.chain), v.merged)
		v.pod, v.podCell, v.task, v.taskCell = up.pod, up.podCell, up.task, up.taskCell
	} else {
		v.chain = []*workload.Container{v.merged}
	}
	if v.merged.Pod != nil {
		v.pod = &workload.Pod{PodRef: *v.merged.Pod}
		v.podCell = s.pods.index.get(v.merged.Pod.UID)
	}
	if v.merged.Task != nil {
		v.task = taskOf(v.merged.Task)
		v.taskCell = s.tasks.index.get(v.merged.Task.ARN)
	}
}

func (s *Store) viewOf(id workload.ContainerID) *view {
	if id.IsZero() {
		return nil
	}
	c := s.ids.get(id)
	if c == nil {
		return nil
	}
	return c.view.Load()
}

// within reports whether the container is key or runs inside it.
func (v *view) within(key workload.ContainerID) bool {
	for ; v != nil; v = v.up {
		if v.key == key {
			return true
		}
	}
	return false
}

func (s *Store) setParent(it *contItem, parent workload.ContainerID) {
	if it.parent == parent {
		return
	}
	if kids := s.children[it.parent]; kids != nil {
		delete(kids, it)
		if len(kids) == 0 {
			delete(s.children, it.parent)
		}
	}
	it.parent = parent
	if parent.IsZero() {
		return
	}
	kids := s.children[parent]
	if kids == nil {
		kids = map[*contItem]struct{}{}
		s.children[parent] = kids
	}
	kids[it] = struct{}{}
}

// rejoinChildren renews the chains of the containers inside it. They are no new
// revisions: what the inner containers say of themselves is the same.
func (s *Store) rejoinChildren(it *contItem) {
	for _, id := range it.ids {
		s.rejoinAll(s.children[id])
	}
}

// rejoinAll goes on only below those whose parent has a new view, so that each
// container is renewed once however many ids lead to it. A ring of parents ends
// where join leaves the parent out.
func (s *Store) rejoinAll(kids map[*contItem]struct{}) {
	for kid := range kids {
		old := kid.latest.Load()
		v := *old
		if s.join(&v); v.up == old.up {
			continue
		}
		kid.latest.Store(&v)
		for _, id := range kid.ids {
			s.settleCell(s.ids.get(id))
		}
		for _, id := range kid.cgroups {
			s.settleCgroup(id)
		}
		s.rejoinChildren(kid)
	}
}

// setCgroups makes the entity the claimant of the run's cgroups and no others.
func (s *Store) setCgroups(it *contItem, run *workload.Run) {
	was := it.cgroups
	it.cgroups = nil
	if run != nil {
		for _, c := range run.Cgroups {
			if !c.IsZero() && !slices.Contains(it.cgroups, c.CgroupID) {
				it.cgroups = append(it.cgroups, c.CgroupID)
			}
		}
	}
	for _, id := range was {
		if !slices.Contains(it.cgroups, id) {
			s.claims[id] = slices.DeleteFunc(s.claims[id], func(o *contItem) bool { return o == it })
			s.settleCgroup(id)
		}
	}
	for _, id := range it.cgroups {
		if !slices.Contains(s.claims[id], it) {
			s.claims[id] = append(s.claims[id], it)
		}
		s.settleCgroup(id)
	}
}

func (s *Store) settleCgroup(id workload.CgroupID) {
	claims := s.claims[id]
	if len(claims) == 0 {
		delete(s.claims, id)
	}
	if it := innermost(claims); it != nil {
		s.cgroups.put(id, it)
		return
	}
	s.cgroups.del(id)
}

// innermost decides whose a cgroup is: the only living claimant's, or that of
// the one inside all the others. Among the dead the last to go has it, since
// the kernel may give a number again. Two unrelated living ones: nobody's.
func innermost(claims []*contItem) *contItem {
	var last *contItem
	var live []*contItem
	for _, it := range claims {
		switch v := it.latest.Load(); {
		case !v.gone:
			live = append(live, it)
		case last == nil || last.since < it.since:
			last = it
		}
	}
	if len(live) == 0 {
		return last
	}
	if slices.ContainsFunc(live, func(o *contItem) bool { return !o.remote() }) {
		live = slices.DeleteFunc(live, (*contItem).remote) // what is known here counts alone
	}
	for _, it := range live {
		v := it.latest.Load()
		if !slices.ContainsFunc(live, func(o *contItem) bool { return !v.within(o.key) }) {
			return it
		}
	}
	return nil
}
