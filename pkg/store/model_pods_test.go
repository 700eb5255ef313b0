// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/pidigree/pidigree/pkg/workload"
)

var all3 = []workload.Kind{workload.KindContainer, workload.KindPod, workload.KindProcess}

// modelPods is the model's share of pods.
type modelPods struct {
	max  int
	pods map[string]*modelPod
	// lastPods are what uids led to when their pod was dropped; a container that
	// was in it may still show that.
	lastPods map[string]*workload.Pod
}

type modelPod struct {
	key         string
	layers      []podLayer
	gone, empty bool
	since       workload.KTime
	seq         int
}

func (p *modelPod) dead() bool            { return p.gone || p.empty }
func (p *modelPod) merged() *workload.Pod { return mergePod(p.key, p.layers, p.dead()) }

func (m *modelPods) changePod(in *model, ch *PodChange) {
	p := m.pods[ch.UID]
	switch {
	case p == nil && (ch.Layer == nil || ch.Forget):
		return
	case ch.Forget:
		for _, id := range podIDs(p.key, p.layers) {
			delete(m.lastPods, id)
		}
		delete(m.pods, ch.UID)
		return
	case p == nil:
		p = &modelPod{key: ch.UID}
		m.pods[ch.UID] = p
	}
	was := p.dead()
	at := slices.IndexFunc(p.layers, func(l podLayer) bool { return l.source == ch.Source })
	switch {
	case ch.Layer != nil && at >= 0:
		p.layers[at].c = ch.Layer
	case ch.Layer != nil:
		p.layers = append(p.layers, newLayer(ch.Source, ch.Layer))
	case at < 0 || was:
	case len(p.layers) == 1:
		p.empty, p.since = true, in.asOf
	default:
		p.layers = slices.Delete(p.layers, at, at+1)
	}
	if ch.Layer != nil && (p.empty || ch.Source == KernelSource && ch.Gone == 0) {
		p.gone, p.empty = false, false
	}
	if ch.Gone != 0 {
		p.gone, p.empty, p.since = true, false, ch.Gone
	}
	if p.dead() && !was {
		p.seq = in.seq
	}
	for dead := m.podTombs(); len(dead) > m.max; dead = dead[1:] {
		m.dropPod(dead[0])
	}
}

func (m *modelPods) podTombs() (dead []*modelPod) {
	for _, p := range m.pods {
		if p.dead() {
			dead = append(dead, p)
		}
	}
	slices.SortFunc(dead, func(a, b *modelPod) int { return cmp.Or(cmp.Compare(a.since, b.since), a.seq-b.seq) })
	return dead
}

func (m *modelPods) dropPod(p *modelPod) {
	for _, id := range podIDs(p.key, p.layers) {
		m.lastPods[id] = p.merged()
	}
	delete(m.pods, p.key)
}

func (m *modelPods) expirePods(before workload.KTime) {
	for _, p := range m.podTombs() {
		if p.since <= before {
			m.dropPod(p)
		}
	}
}

// pod says what a uid means: a key, else the only claimant, else the only living one.
func (m *modelPods) pod(uid string) *modelPod {
	if p := m.pods[uid]; p != nil {
		return p
	}
	var all, live []*modelPod
	for _, p := range m.pods {
		if slices.Contains(podIDs(p.key, p.layers), uid) {
			all = append(all, p)
			if !p.dead() {
				live = append(live, p)
			}
		}
	}
	if len(all) == 1 {
		return all[0]
	}
	if len(live) == 1 {
		return live[0]
	}
	return nil
}

func (m *modelPods) comparePods(t *testing.T, s *Store) {
	t.Helper()
	for i := range 8 {
		uid := fmt.Sprintf("p%d", i)
		got, ok := s.Pod(uid)
		want := m.pod(uid)
		if ok != (want != nil) || ok && !reflect.DeepEqual(got, want.merged()) {
			t.Errorf("Pod(%s) = %+v, %v, want %+v", uid, got, ok, want)
		}
	}
}

// compareAnswerPod: the pod of the innermost container that is in one, as the
// sources say it together, unless they speak of another name.
func (m *modelPods) compareAnswerPod(t *testing.T, a workload.Answer) {
	t.Helper()
	var ref *workload.PodRef
	for _, c := range a.Containers {
		if c.Pod != nil {
			ref = c.Pod
		}
	}
	if ref == nil {
		if a.Pod != nil {
			t.Errorf("a pod from nowhere: %+v", a.Pod)
		}
		return
	}
	var may []*workload.Pod
	alone := &workload.Pod{PodRef: *ref}
	switch p, was := m.pod(ref.UID), m.lastPods[ref.UID]; {
	case p != nil && compatible(p.merged().Name, ref.Name):
		may = append(may, p.merged())
	case p == nil && was != nil && compatible(was.Name, ref.Name):
		may = append(may, was, alone)
	default:
		may = append(may, alone)
	}
	if !slices.ContainsFunc(may, func(p *workload.Pod) bool { return reflect.DeepEqual(p, a.Pod) }) {
		t.Errorf("pod of %v: %+v, want one of %+v", a.Container().ID, a.Pod, may)
	}
}

// addPods gives what a follower should have of pods.
func (m *modelPods) addPods(sel workload.Selector, want map[string][]workload.Entity) {
	if !slices.Contains(sel.Kinds, workload.KindPod) {
		return
	}
	for uid, p := range m.pods {
		if sel.All || !p.dead() {
			want["pod "+uid] = []workload.Entity{{Pod: p.merged()}}
		}
	}
}

func (w *world) pod() string     { return fmt.Sprintf("p%d", w.r.IntN(8)) }
func (w *world) podName() string { return []string{"", "web-0", "web-1"}[w.r.IntN(3)] }

func (w *world) podChange() Change {
	ch := &PodChange{UID: w.pod(), Source: []string{"cri", "kubelet", KernelSource}[w.r.IntN(3)]}
	switch w.r.IntN(8) {
	case 0:
		ch.Gone = w.now
		if w.r.IntN(2) == 0 {
			ch.Source = ""
		}
	case 1: // the layer is taken away
	case 2:
		ch.Forget = w.r.IntN(3) == 0
	default:
		p := podKind.named(ch.UID, nil)
		p.Name, p.Phase = w.podName(), []string{"", "Running", "Failed"}[w.r.IntN(3)]
		if w.r.IntN(3) == 0 { // a mirror has a uid of its own
			p.UID, p.ConfigHash, p.Static = w.pod(), w.pod(), w.r.IntN(2) == 0
		}
		ch.Layer = p
	}
	return Change{Pod: ch}
}
