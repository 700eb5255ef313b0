// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
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

// pod is one pod as the machine knows it: of the containers that say that they
// are in it, and of the sources that know pods. Who it is comes with its
// containers; no process waits for more.
type pod struct {
	key    string
	serial uint64
	ids    []string // key, the uids that sources have for it, and a static one's hash
	// layers are what the sources say, by source.
	layers  map[int]*workload.Pod
	layerAt map[int]workload.KTime
	gone    map[int]bool // the source said that it has it no more
	asks    []podAsk
	members map[*container]struct{}
	// closing: a look at whether it is over is due.
	closing   bool
	goneAt    workload.KTime
	forgotten bool
	dirty     bool
}

// podAsk is where the machine is with one source about one pod.
type podAsk struct {
	// busy: a question is under way; waits: a timer for the next is set.
	busy, waits bool
	// answered: the source has described it. done: it is not asked any more, of its own accord.
	answered, done bool
	// denied: it has said that it does not know the pod, the last time. It may yet.
	denied bool
	tries  int
}

// pods is the machine's share of pods.
type pods struct {
	byID map[string]*pod
	all  []*pod
	// listed are the sources whose first list of pods has ended.
	listed map[int]bool
	dirty  []*pod
}

func newPods() pods { return pods{byID: map[string]*pod{}, listed: map[int]bool{}} }

func (m *machine) newPod(uid string) *pod {
	m.seq++
	p := &pod{
		key: uid, serial: m.seq, layers: map[int]*workload.Pod{}, layerAt: map[int]workload.KTime{}, gone: map[int]bool{},
		asks: make([]podAsk, len(m.cfg.sources)), members: map[*container]struct{}{},
	}
	m.pods.all = append(m.pods.all, p)
	m.aliasPod(p, uid)
	m.dirtyPod(p)
	return p
}

func (m *machine) aliasPod(p *pod, id string) {
	if id == "" || slices.Contains(p.ids, id) {
		return
	}
	p.ids = append(p.ids, id)
	if m.pods.byID[id] == nil {
		m.pods.byID[id] = p
	}
}

func (m *machine) dirtyPod(p *pod) {
	if !p.dirty {
		p.dirty = true
		m.pods.dirty = append(m.pods.dirty, p)
	}
}

// notePods makes a container a member of the pods that its layers name: one, if
// the sources agree.
func (m *machine) notePods(c *container) {
	var want []*pod
	for _, i := range c.described() {
		ref := c.layers[i].Pod
		if ref == nil || ref.UID == "" {
			continue
		}
		p := m.pods.byID[ref.UID]
		if p == nil {
			p = m.newPod(ref.UID)
		}
		if !slices.Contains(want, p) {
			want = append(want, p)
		}
	}
	for _, p := range slices.Clone(c.pods) {
		if !slices.Contains(want, p) {
			m.leavePod(c, p)
		}
	}
	for _, p := range want {
		if _, in := p.members[c]; !in {
			p.members[c] = struct{}{}
			c.pods = append(c.pods, p)
		}
		m.dirtyPod(p) // the name that it has may have come
		m.askPods(p)
	}
}

func (m *machine) leavePod(c *container, p *pod) {
	delete(p.members, c)
	c.pods = slices.DeleteFunc(c.pods, func(o *pod) bool { return o == p })
	m.closePod(p)
}

// leavePods is the end of a container, or of its being one of its own.
func (m *machine) leavePods(c *container) {
	for _, p := range slices.Clone(c.pods) {
		m.leavePod(c, p)
	}
}

// memberChanged follows the life of a container: its pod lives while one of them
// does.
func (m *machine) memberChanged(c *container) {
	for _, p := range c.pods {
		switch {
		case !p.live():
			m.closePod(p)
		case p.goneAt != 0:
			p.goneAt = 0
			m.dirtyPod(p)
			m.askPods(p)
		}
	}
}

// live reports whether one of its containers may run, now or later.
func (p *pod) live() bool {
	for c := range p.members {
		if c.goneAt == 0 && !c.forgotten && (c.run == nil && !c.saidEnded() || c.run != nil && c.run.exit == nil) {
			return true
		}
	}
	return false
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

// setPodLayer stores what a source says.
func (m *machine) setPodLayer(i int, l *workload.Pod) *pod {
	p := m.podOf(l)
	m.aliasPod(p, l.UID)
	if l.Static {
		m.aliasPod(p, l.ConfigHash)
	}
	a := &p.asks[i]
	a.answered, a.done, a.denied, a.tries = true, true, false, 0
	p.layers[i], p.layerAt[i], p.gone[i], p.goneAt = l, m.now, false, 0
	m.publishPodLayer(p, i)
	m.dirtyPod(p)
	m.askPods(p)
	return p
}

// podOf finds the pod that a description is of. That of a static pod may have the
// uid of its mirror, while its cgroup and its containers have the hash of its
// manifest; anybody may write that hash onto a pod that is not static.
func (m *machine) podOf(l *workload.Pod) *pod {
	p := m.pods.byID[l.UID]
	if l.Static && l.ConfigHash != "" {
		if o := m.pods.byID[l.ConfigHash]; o != nil && o != p {
			if p != nil {
				return m.mergePods(o, p)
			}
			return o
		}
	}
	if p == nil {
		p = m.newPod(l.UID)
	}
	return p
}

// mergePods folds b into a: they turned out to be one.
func (m *machine) mergePods(a, b *pod) *pod {
	for _, id := range b.ids {
		if m.pods.byID[id] == b {
			delete(m.pods.byID, id)
		}
		m.aliasPod(a, id)
	}
	for i, l := range b.layers {
		if a.layers[i] == nil {
			a.layers[i], a.layerAt[i], a.gone[i] = l, b.layerAt[i], b.gone[i]
			a.asks[i].answered, a.asks[i].done = true, true
			m.publishPodLayer(a, i)
		}
	}
	for c := range b.members {
		c.pods = slices.DeleteFunc(c.pods, func(o *pod) bool { return o == b || o == a })
		c.pods = append(c.pods, a)
		a.members[c] = struct{}{}
	}
	m.dropPod(b)
	m.out.changes = append(m.out.changes, store.Change{Pod: &store.PodChange{UID: b.key, Forget: true}})
	m.dirtyPod(a)
	return a
}

// podHint applies what a source told by itself about a pod.
func (m *machine) podHint(i int, h collectors.Hint) {
	if h.Pod.UID == "" {
		return
	}
	if h.Kind != collectors.HintDeleted {
		m.setPodLayer(i, h.Pod)
		return
	}
	if p := m.pods.byID[h.Pod.UID]; p != nil {
		m.podDeleted(p, i)
	}
}

// podDeleted: a source has it no more. It is gone once every source that
// described it says so and its containers have ended.
func (m *machine) podDeleted(p *pod, i int) {
	if p.layers[i] == nil {
		return
	}
	p.gone[i] = true
	m.closePod(p)
}

// closePod has a look, some time later, at whether a pod is over: what ends a pod
// and what tells of it come in any order, and between two containers of one
// there may be none.
func (m *machine) closePod(p *pod) {
	if p.closing || p.forgotten || p.goneAt != 0 || p.live() {
		return
	}
	p.closing = true
	m.at(m.now+goneCheck, func() {
		p.closing = false
		if p.forgotten || p.goneAt != 0 || p.live() {
			return
		}
		if m.deniedPod(p) {
			m.podGone(p)
		}
	})
}

// deniedPod reports whether no source has the pod any more; those that did are
// asked again, once for each end of a container.
func (m *machine) deniedPod(p *pod) bool {
	all := true
	for i := range p.asks {
		if p.layers[i] != nil && !p.gone[i] {
			all = false
			m.sendPod(p, i)
		}
	}
	return all
}

func (m *machine) podGone(p *pod) {
	p.goneAt = m.now
	m.dirtyPod(p)
	m.at(m.now+ghostAge, func() {
		if p.goneAt != 0 && p.goneAt+ghostAge <= m.now {
			m.dropPod(p)
		}
	})
}

func (m *machine) dropPod(p *pod) {
	if p.forgotten {
		return
	}
	p.forgotten = true
	for _, id := range p.ids {
		if m.pods.byID[id] == p {
			delete(m.pods.byID, id)
		}
	}
	for c := range p.members {
		c.pods = slices.DeleteFunc(c.pods, func(o *pod) bool { return o == p })
	}
	m.pods.all = slices.DeleteFunc(m.pods.all, func(o *pod) bool { return o == p })
}

// askPods asks each source that knows pods about one, once; those whose first
// list is still to come have it in there, most likely.
func (m *machine) askPods(p *pod) {
	for i := range p.asks {
		if a := &p.asks[i]; !m.cfg.sources[i].pods || a.busy || a.waits || a.answered || a.done {
			continue
		}
		if !m.pods.listed[i] && m.now < m.begun+firstList {
			m.retryPod(p, i, locateDelay)
			continue
		}
		m.sendPod(p, i)
	}
}

func (m *machine) sendPod(p *pod, i int) {
	a := &p.asks[i]
	if a.busy || !m.cfg.sources[i].pods {
		return
	}
	a.busy = true
	uid := p.key
	if l := p.layers[i]; l != nil {
		uid = l.UID
	}
	m.request(request{kind: reqPod, source: i, uid: uid, podKey: p.key})
}

func (m *machine) retryPod(p *pod, i int, pause workload.KTime) {
	p.asks[i].waits = true
	m.at(m.now+pause, func() {
		p.asks[i].waits = false
		if !p.forgotten && p.goneAt == 0 {
			m.askPods(p)
		}
	})
}

// The pauses between two questions about a pod that a source does not know yet.
const (
	podPause    = 250 * workload.KTime(time.Millisecond)
	maxPodPause = 5 * workload.KTime(time.Minute)
)

// podAnswer applies what a source said about a pod.
func (m *machine) podAnswer(e evPodAnswer) {
	p := m.pods.byID[e.req.podKey]
	if p == nil || p.forgotten {
		return
	}
	if p.goneAt != 0 {
		p.asks[e.req.source].busy = false // too late: its list may bring it back
		return
	}
	i := e.req.source
	a := &p.asks[i]
	a.busy = false
	if e.err == nil && e.pod != nil && e.pod.UID != "" {
		m.setPodLayer(i, e.pod)
		return
	}
	m.dirtyPod(p)
	a.denied = errors.Is(e.err, collectors.ErrNotFound)
	switch {
	case p.layers[i] != nil: // it has been described: whether it is over was asked
		if errors.Is(e.err, collectors.ErrNotFound) {
			m.podDeleted(p, i)
		}
	case errors.Is(e.err, collectors.ErrNotMine), errors.Is(e.err, collectors.ErrNotPresent), e.err == nil:
		a.done = true // its list will tell
	case p.live():
		m.retryPod(p, i, min(podPause<<min(a.tries, 16), maxPodPause))
		a.tries++
	}
}

// podListEnd ends a complete list: what the source described before the list
// began and did not list is gone there.
func (m *machine) podListEnd(e evPodListEnd) {
	m.pods.listed[e.source] = true
	if !e.complete {
		return
	}
	for _, p := range slices.Clone(m.pods.all) {
		if p.layers[e.source] != nil && !p.gone[e.source] && p.layerAt[e.source] < e.began {
			m.podDeleted(p, e.source)
		}
	}
}

// flushPods turns what changed in this step into store changes.
func (m *machine) flushPods() {
	for _, p := range m.pods.dirty {
		p.dirty = false
		m.publishPod(p)
	}
	clear(m.pods.dirty)
	m.pods.dirty = m.pods.dirty[:0]
}

func (m *machine) publishPodLayer(p *pod, i int) {
	l := *p.layers[i] // a shallow copy: its parts stay as the source made them
	l.Sources = []workload.Provenance{{Source: m.cfg.sources[i].name, At: m.now}}
	m.out.changes = append(m.out.changes, store.Change{Pod: &store.PodChange{UID: p.key, Source: m.cfg.sources[i].name, Layer: &l}})
}

// publishPod writes the correlator's own layer: what the containers say of their
// pod, which of them are sandboxes, and who has not answered yet.
func (m *machine) publishPod(p *pod) {
	if p.forgotten || len(p.members) == 0 && len(p.layers) == 0 && p.goneAt == 0 {
		return
	}
	l := &workload.Pod{PodRef: workload.PodRef{UID: p.key}, Missing: p.missing(m)}
	members := p.sorted()
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
	m.out.changes = append(m.out.changes, store.Change{Pod: &store.PodChange{UID: p.key, Source: kernelSource, Layer: l, Gone: p.goneAt}})
}

// leastRef: where containers disagree on the name, which one is taken must not
// depend on who came first.
func leastRef(name, namespace string, ref *workload.PodRef) (string, string) {
	if ref.Name != "" && (name == "" || strings.Compare(ref.Namespace+"/"+ref.Name, namespace+"/"+name) < 0) {
		return ref.Name, ref.Namespace
	}
	return name, namespace
}

// sorted gives the containers in the order in which they became known.
func (p *pod) sorted() []*container {
	cs := make([]*container, 0, len(p.members))
	for c := range p.members {
		cs = append(cs, c)
	}
	slices.SortFunc(cs, func(a, b *container) int { return int(int64(a.serial - b.serial)) })
	return cs
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

// missing names the sources that have not said yet what they know; one that does
// not know the pod has.
func (p *pod) missing(m *machine) []string {
	var names []string
	for i, a := range p.asks {
		if m.cfg.sources[i].pods && !a.answered && !a.done && !a.denied && p.goneAt == 0 {
			names = append(names, m.cfg.sources[i].name)
		}
	}
	return names
}
