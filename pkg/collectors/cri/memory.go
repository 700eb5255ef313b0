// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/pkg/workload"
)

// maxSeen bounds the sandboxes, and the containers, that are remembered: a list
// of 16 MiB has some 40,000.
const maxSeen = 1 << 16

// memory is what the lists of a running Watch, and a List beside it, have shown.
// It is empty while none runs: then nothing says what became of it.
type memory struct {
	mu         sync.Mutex // guards all below
	live       bool
	seq        uint64
	sandboxes  map[string]*seen
	containers map[string]*seen
	// pods are the last list's, addresses what statuses said beside: by the uid and by the sandbox.
	pods      map[string]*workload.Pod
	addresses map[string]*workload.Pod
	// told is in which state a container was when it was last described in full.
	told map[string]workload.State
}

// seen is a sandbox or a container as it was listed last.
type seen struct {
	uid   string // of its pod
	state int32
	seq   uint64
}

func newMemory() *memory {
	m := &memory{}
	m.clearLocked()
	return m
}

func (m *memory) clearLocked() {
	m.sandboxes, m.containers = map[string]*seen{}, map[string]*seen{}
	m.told = map[string]workload.State{}
	m.pods, m.addresses = map[string]*workload.Pod{}, map[string]*workload.Pod{}
}

// begin says that a Watch runs from now; false if one does already.
func (m *memory) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live {
		return false
	}
	m.live = true
	m.clearLocked()
	return true
}

// end forgets everything: what happens from now on is missed.
func (m *memory) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.live = false
	m.clearLocked()
}

func (m *memory) isLive() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live
}

// isSandbox reports whether an id was listed as a sandbox's.
func (m *memory) isSandbox(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.sandboxes[id] != nil
}

// pod gives a pod as it was listed last, nil if it was not.
func (m *memory) pod(uid string) *workload.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pods[uid]
}

// setAddresses remembers what a status said of a pod's newest sandbox.
func (m *memory) setAddresses(pod *workload.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live && len(m.addresses) < maxSeen {
		m.addresses[pod.Sandboxes[0].ID] = pod.Clone()
	}
}

// addressesOf gives it, nil if nobody has asked.
func (m *memory) addressesOf(sandbox string) *workload.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.addresses[sandbox]
}

// setTold remembers that a container was described in full.
func (m *memory) setTold(id string, state workload.State) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live && len(m.told) < maxSeen {
		m.told[id] = state
	}
}

// wasTold reports whether that was in this state.
func (m *memory) wasTold(id string, state workload.State) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, ok := m.told[id]
	return ok && was == state
}

// now gives the number of comparisons so far.
func (m *memory) now() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seq
}

// listed adds what a List shows beside the Watch, so that what is deleted before
// the Watch looks is missed by nobody.
func (m *memory) listed(all *lists, pods []*group, e engine) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live {
		m.compareLocked(all, pods, e, true)
	}
}

// difference is what has changed between two lists.
type difference struct {
	sandboxes  []*runtimeapi.PodSandbox // new, or in another state
	containers []*runtimeapi.Container
	gone       []string
	// pods are those that any of it is about; podsGone have no sandbox left.
	pods     map[string]bool
	podsGone []string
}

// compare replaces what was seen by what is listed, and says what is different.
// Nothing is gone because a list is not whole.
func (m *memory) compare(all *lists, pods []*group, e engine, partial bool) difference {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.compareLocked(all, pods, e, partial)
}

func (m *memory) compareLocked(all *lists, pods []*group, e engine, partial bool) difference {
	m.seq++
	d := difference{pods: map[string]bool{}}
	uids := make(map[string]string, len(all.sandboxes))
	for _, s := range all.sandboxes {
		uids[s.Id] = s.Metadata.GetUid()
		if m.seeLocked(m.sandboxes, s.Id, uids[s.Id], int32(s.State), &d) {
			d.sandboxes = append(d.sandboxes, s)
		}
	}
	for _, l := range all.containers {
		if m.seeLocked(m.containers, l.Id, uids[l.PodSandboxId], int32(l.State), &d) {
			d.containers = append(d.containers, l)
		}
	}
	if !partial {
		m.dropLocked(m.sandboxes, all.seq, &d)
		m.dropLocked(m.containers, all.seq, &d)
	}
	m.regroupLocked(pods, e, partial, &d)
	return d
}

// seeLocked reports whether something is new or different.
func (m *memory) seeLocked(in map[string]*seen, id, uid string, state int32, d *difference) bool {
	was := in[id]
	if was == nil && len(in) >= maxSeen {
		return false
	}
	in[id] = &seen{uid: uid, state: state, seq: m.seq}
	if was != nil && was.state == state {
		return false
	}
	if uid != "" {
		d.pods[uid] = true
	}
	return true
}

// dropLocked forgets what was not listed now, unless it was seen only after the list began.
func (m *memory) dropLocked(in map[string]*seen, began uint64, d *difference) {
	for id, s := range in {
		if s.seq == m.seq || s.seq > began {
			continue
		}
		delete(in, id)
		delete(m.addresses, id)
		delete(m.told, id)
		d.gone = append(d.gone, id)
		if s.uid != "" {
			d.pods[s.uid] = true
		}
	}
}

func (m *memory) regroupLocked(pods []*group, e engine, partial bool, d *difference) {
	was := m.pods
	if !partial {
		m.pods = make(map[string]*workload.Pod, len(pods))
	}
	for _, g := range pods {
		if len(m.pods) < maxSeen {
			m.pods[g.uid] = g.pod(e)
		}
	}
	for uid := range was {
		if m.pods[uid] == nil {
			d.podsGone = append(d.podsGone, uid)
			delete(d.pods, uid)
		}
	}
}
