// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"slices"
	"strings"

	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The inputs of Step about pods.
type (
	// evPodAnswer answers reqPod.
	evPodAnswer struct {
		req request
		pod *workload.Pod
		err error
	}
	// evPod is one pod of a source's list; evPodListEnd closes the list.
	evPod struct {
		source int
		pod    *workload.Pod
	}
	evPodListEnd struct {
		source   int
		complete bool
		// began is when the list was asked for.
		began workload.KTime
	}
)

var podKind = groupKind[workload.Pod]{
	request: reqPod,
	asked:   func(s sourceInfo) bool { return s.pods },
	in: func(l *workload.Container) string {
		if l.Pod == nil {
			return ""
		}
		return l.Pod.UID
	},
	key: func(p *workload.Pod) string { return p.UID },
	also: func(p *workload.Pod) string {
		if !p.Static {
			return ""
		}
		return p.ConfigHash
	},
	own:     ownPod,
	sources: func(p *workload.Pod) *[]workload.Provenance { return &p.Sources },
	change: func(uid, source string, l *workload.Pod, gone workload.KTime, forget bool) store.Change {
		return store.Change{Pod: &store.PodChange{UID: uid, Source: source, Layer: l, Gone: gone, Forget: forget}}
	},
	of: func(c *container) *[]*group[workload.Pod] { return &c.pods },
}

// ownPod is what the containers say of their pod, and which of them are sandboxes.
func ownPod(p *group[workload.Pod], members []*container, missing []string) *workload.Pod {
	l := &workload.Pod{PodRef: workload.PodRef{UID: p.key}, Missing: missing}
	for _, c := range members {
		for _, i := range c.described() {
			if ref := c.layers[i].Pod; ref != nil && slices.Contains(p.ids, ref.UID) {
				l.Name, l.Namespace = leastRef(l.Name, l.Namespace, ref)
			}
		}
		if id, ok := c.sandbox(); ok {
			l.Sandboxes = append(l.Sandboxes, id)
		}
	}
	slices.Reverse(l.Sandboxes) // the newest first
	return l
}

// leastRef: where containers disagree on the name, which one is taken must not
// depend on who came first.
func leastRef(name, namespace string, ref *workload.PodRef) (string, string) {
	if ref.Name != "" && (name == "" || strings.Compare(ref.Namespace+"/"+ref.Name, namespace+"/"+name) < 0) {
		return ref.Name, ref.Namespace
	}
	return name, namespace
}

// saidEnded reports whether some source says of a container that it has ended.
func (c *container) saidEnded() bool {
	for _, l := range c.layers {
		if l.State == workload.StateExited {
			return true
		}
	}
	return false
}

// described gives the sources that have described a container, in their order.
func (c *container) described() (is []int) {
	for i := range c.asks {
		if c.layers[i] != nil {
			is = append(is, i)
		}
	}
	return is
}

// sandbox gives the id of a container that some source calls a pod's sandbox.
func (c *container) sandbox() (workload.ContainerID, bool) {
	for _, i := range c.described() {
		if c.layers[i].Sandbox {
			return c.layers[i].ID, true
		}
	}
	return workload.ContainerID{}, false
}
