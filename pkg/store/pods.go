// SPDX-License-Identifier: Apache-2.0

package store

import (
	"slices"

	"github.com/pidigree/pidigree/pkg/workload"
)

var podKind = groupKind[pod]{
	kind: workload.KindPod, merge: mergePod, ids: podIDs,
	put:     func(e *workload.Entity, p *pod) { e.Pod = p },
	named:   func(uid string, _ *pod) *pod { return &pod{PodRef: workload.PodRef{UID: uid}} },
	keyOf:   func(p *pod) string { return p.UID },
	sources: func(p *pod) *[]workload.Provenance { return &p.Sources },
}

// Pod gives a pod, live or a tombstone, by its uid or, of a static pod, by the
// hash of its manifest.
func (s *Store) Pod(uid string) (*workload.Pod, bool) { return s.pods.get(uid) }

func (ch *PodChange) group() groupChange[pod] {
	return groupChange[pod]{key: ch.UID, source: ch.Source, layer: ch.Layer, gone: ch.Gone, forget: ch.Forget}
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

func uidOf(ref *workload.PodRef) string {
	if ref == nil {
		return ""
	}
	return ref.UID
}
