// SPDX-License-Identifier: Apache-2.0

package store

import (
	"iter"
	"slices"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Container gives a container, live or a tombstone, by its key, its id or an alias.
func (s *Store) Container(id workload.ContainerID) (*workload.Container, bool) {
	v := s.viewOf(id)
	if v == nil || v.dropped {
		return nil, false
	}
	return v.merged, true
}

// ByCgroup gives the innermost container that the cgroup is registered for: a
// living one, else the last that had it. False too where two that are not
// inside each other claim it.
func (s *Store) ByCgroup(id workload.CgroupID) (*workload.Container, bool) {
	it := s.cgroups.get(id)
	if it == nil {
		return nil, false
	}
	return it.latest.Load().merged, true
}

// minPrefix is the fewest characters of an id that may stand for it.
const minPrefix = 4

// FindContainers gives the containers that a user may mean by ref: those with
// that whole id (bare, or as ContainerID prints it), and only where there are
// none, those with that name or with an id that begins so (4 characters or
// more). The live ones come first, then the last to go. More than one means
// that ref does not tell them apart.
func (s *Store) FindContainers(ref string) []*workload.Container {
	if ref == "" {
		return nil
	}
	var whole, part, inside, farWhole, farPart []workload.Entity
	for e := range s.All(workload.Selector{All: true}) {
		switch match := matchRef(e.Container, ref); {
		case match == refNone:
		case e.Container.ID.Nested() != "": // any name may be given in there: the host's come first
			inside = append(inside, e)
		case workload.OnlyRemote(e.Container.Sources) && match == refWhole: // who is known here comes first
			farWhole = append(farWhole, e)
		case workload.OnlyRemote(e.Container.Sources):
			farPart = append(farPart, e)
		case match == refWhole:
			whole = append(whole, e)
		default:
			part = append(part, e)
		}
	}
	if len(whole) == 0 {
		whole = part
	}
	for _, less := range [][]workload.Entity{inside, farWhole, farPart} {
		if len(whole) == 0 {
			whole = less
		}
	}
	slices.SortStableFunc(whole, liveAndLateFirst)
	var found []*workload.Container
	for _, e := range whole {
		found = append(found, e.Container)
	}
	return found
}

func liveAndLateFirst(a, b workload.Entity) int {
	switch {
	case a.Gone != b.Gone && b.Gone:
		return -1
	case a.Gone != b.Gone:
		return 1
	case a.Revision > b.Revision:
		return -1
	case a.Revision < b.Revision:
		return 1
	}
	return 0
}

type refMatch int

const (
	refNone refMatch = iota
	refPart
	refWhole
)

func matchRef(c *workload.Container, ref string) refMatch {
	best := matchID(c.ID, ref)
	for _, id := range c.Aliases {
		best = max(best, matchID(id, ref))
	}
	if c.Name == ref {
		best = max(best, refPart)
	}
	return best
}

func matchID(id workload.ContainerID, ref string) refMatch {
	switch {
	case id.ID == ref || strings.Contains(ref, "://") && id.String() == ref:
		return refWhole
	case len(ref) >= minPrefix && strings.HasPrefix(id.ID, ref):
		return refPart
	default:
		return refNone
	}
}

// All gives the entities selected, those changed longest ago first; From is
// ignored. It takes no lock: each entity is given once, as it was when it was
// reached, and one that came after the first was given is left out.
func (s *Store) All(sel workload.Selector) iter.Seq[workload.Entity] {
	return func(yield func(workload.Entity) bool) {
		for _, l := range s.logs(sel) {
			for st := range l.all() {
				if st.removed || st.entity.Gone && !sel.All {
					continue
				}
				if !yield(st.entity) {
					return
				}
			}
		}
	}
}

// logs gives the change logs of the kinds selected. The store keeps containers,
// pods, tasks, images, services and processes.
func (s *Store) logs(sel workload.Selector) []*changeLog {
	var logs []*changeLog
	if len(sel.Kinds) == 0 || slices.Contains(sel.Kinds, workload.KindContainer) {
		logs = append(logs, s.contLog)
	}
	if slices.Contains(sel.Kinds, workload.KindPod) {
		logs = append(logs, s.pods.log)
	}
	if slices.Contains(sel.Kinds, workload.KindService) {
		logs = append(logs, s.svcLog)
	}
	if slices.Contains(sel.Kinds, workload.KindTask) {
		logs = append(logs, s.tasks.log)
	}
	if slices.Contains(sel.Kinds, workload.KindImage) {
		logs = append(logs, s.images.log)
	}
	if slices.Contains(sel.Kinds, workload.KindProcess) {
		logs = append(logs, s.procLog)
	}
	return logs
}
