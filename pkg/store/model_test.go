// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

var seedFlag = flag.Uint64("seed", 1, "first seed of the model test; 0 takes the time, to look for new ones")

// model is a store that anyone can see is right: plain maps, everything worked
// out again at each question, no index, no log, no reader.
type model struct {
	grace              workload.KTime
	maxProcs, maxConts int
	asOf               workload.KTime
	seq                int
	procs              map[workload.ProcessKey]*modelProc
	conts              map[workload.ContainerID]*modelCont
	// last is what ids led to when their container was dropped. A process that
	// is gone may still be answered by it.
	last map[workload.ContainerID]string
	modelPods
}

type modelProc struct {
	p     *workload.Process
	since workload.KTime
	seq   int
}

type modelCont struct {
	key         workload.ContainerID
	layers      []layer
	gone, empty bool
	since       workload.KTime
	seq         int
	view        *workload.Container // merged, until the next change
}

func (c *modelCont) dead() bool { return c.gone || c.empty }
func (c *modelCont) merged() *workload.Container {
	if c.view == nil {
		c.view = merge(c.key, c.layers, c.dead())
	}
	return c.view
}

func (m *model) apply(ch Change) {
	m.seq += 2 // a change may end two processes
	switch {
	case ch.Process != nil:
		m.putProcess(ch.Process)
	case ch.Container != nil:
		m.changeContainer(ch.Container)
	case ch.Pod != nil:
		m.changePod(m, ch.Pod)
	case ch.Expire != 0:
		m.expire(ch.Expire)
	}
}

func (m *model) putProcess(p *workload.Process) {
	old, newest := m.procs[p.Key], true
	for _, o := range m.procs {
		newest = newest && (o.p.Key.PID != p.Key.PID || o.p.Key.Start <= p.Key.Start)
	}
	if p.Exit == nil && !newest { // whoever started later has the PID
		p = endedUnseen(p)
		if old != nil {
			p.Exit = old.p.Exit
		}
	}
	for _, o := range m.procs {
		if newest && o.p.Key.PID == p.Key.PID && o.p.Key != p.Key && o.p.Exit == nil {
			o.p, o.since, o.seq = endedUnseen(o.p), m.asOf, m.seq+1
		}
	}
	mp := &modelProc{p: p}
	if p.Exit != nil {
		mp.since, mp.seq = p.Exit.At, m.seq
		if old != nil && old.p.Exit != nil {
			mp.seq = old.seq
		}
		if mp.since == 0 {
			mp.since = m.asOf
			if old != nil && old.p.Exit != nil {
				mp.since = old.since
			}
		}
	}
	m.procs[p.Key] = mp
	m.bound()
}

func (m *model) changeContainer(ch *ContainerChange) {
	c := m.conts[ch.ID]
	switch {
	case c == nil && (ch.Layer == nil || ch.Forget):
		return
	case ch.Forget:
		for _, id := range idsOf(c.key, c.merged()) {
			delete(m.last, id)
		}
		delete(m.conts, ch.ID)
		return
	case c == nil:
		c = &modelCont{key: ch.ID}
		m.conts[ch.ID] = c
	}
	was := c.dead()
	c.view = nil
	at := slices.IndexFunc(c.layers, func(l layer) bool { return l.source == ch.Source })
	switch {
	case ch.Layer != nil && at >= 0:
		c.layers[at].c = ch.Layer
	case ch.Layer != nil:
		c.layers = append(c.layers, newLayer(ch.Source, ch.Layer))
	case at < 0 || was:
	case len(c.layers) == 1:
		c.empty, c.since = true, m.asOf
	default:
		c.layers = slices.Delete(c.layers, at, at+1)
	}
	if ch.Layer != nil && (c.empty || ch.Source == KernelSource && ch.Gone == 0 && (ch.Layer.Run == nil || ch.Layer.Run.Exit == nil)) {
		c.gone, c.empty = false, false
	}
	if ch.Gone != 0 {
		c.gone, c.empty, c.since = true, false, ch.Gone
	}
	if c.dead() && !was {
		c.seq = m.seq
	}
	m.bound()
}

// bound drops the oldest tombstones where there are too many.
func (m *model) bound() {
	procs, conts := m.tombs()
	// Those of the host go before those of containers, else the oldest.
	slices.SortStableFunc(procs, func(a, b *modelProc) int {
		switch in, other := !a.p.Container.IsZero(), !b.p.Container.IsZero(); {
		case in == other:
			return 0
		case in:
			return 1
		}
		return -1
	})
	for _, p := range procs[:max(0, len(procs)-m.maxProcs)] {
		delete(m.procs, p.p.Key)
	}
	for _, c := range conts[:max(0, len(conts)-m.maxConts)] {
		m.drop(c)
	}
}

func (m *model) tombs() (procs []*modelProc, conts []*modelCont) {
	for _, p := range m.procs {
		if p.p.Exit != nil {
			procs = append(procs, p)
		}
	}
	for _, c := range m.conts {
		if c.dead() {
			conts = append(conts, c)
		}
	}
	slices.SortFunc(procs, func(a, b *modelProc) int { return cmp.Or(cmp.Compare(a.since, b.since), a.seq-b.seq) })
	slices.SortFunc(conts, func(a, b *modelCont) int { return cmp.Or(cmp.Compare(a.since, b.since), a.seq-b.seq) })
	return procs, conts
}

func (m *model) drop(c *modelCont) {
	for _, id := range idsOf(c.key, c.merged()) {
		m.last[id] = c.merged().Name
	}
	delete(m.conts, c.key)
}

func (m *model) expire(now workload.KTime) {
	procs, conts := m.tombs()
	for _, p := range procs {
		if p.since <= now-m.grace {
			delete(m.procs, p.p.Key)
		}
	}
	for _, c := range conts {
		if c.since <= now-m.grace {
			m.drop(c)
		}
	}
	m.expirePods(now - m.grace)
}

// container says what an id means: a key, but the next one with the same id where that
// is a tombstone, else the only claimant, else the only living one.
func (m *model) container(id workload.ContainerID) *modelCont {
	keyed := m.conts[id]
	var all, live []*modelCont
	for _, c := range m.conts {
		if slices.Contains(idsOf(c.key, c.merged()), id) {
			all = append(all, c)
			if !c.dead() {
				live = append(live, c)
			}
		}
	}
	switch {
	case keyed != nil && keyed.dead() && len(live) == 1 && live[0].key.ID == id.ID:
		return live[0]
	case keyed != nil:
		return keyed
	case len(all) == 1:
		return all[0]
	case len(live) == 1:
		return live[0]
	}
	return nil
}

// world makes random changes to a small world, so that everything collides.
type world struct {
	r    *rand.Rand
	now  workload.KTime
	keys []workload.ProcessKey
	// scale is how many nanoseconds a start counts for, 0 for one.
	scale uint64
}

func (w *world) container() workload.ContainerID {
	id := docker(fmt.Sprintf("c%d", w.r.IntN(12)))
	if w.r.IntN(3) == 0 {
		return moby(id.ID)
	}
	return id
}

func (w *world) change() Change {
	switch w.r.IntN(24) {
	case 0, 1, 2, 3: // a process is born
		return put(w.process(w.born()))
	case 4, 5, 6: // one changes
		return put(w.process(w.key()))
	case 7, 8, 9, 10: // one goes, as far as anyone knows when
		at := w.now
		if w.r.IntN(4) == 0 {
			at = 0
		}
		return put(exited(w.process(w.key()), at, int32(w.r.IntN(3))))
	case 11, 12, 13, 14, 15:
		return w.layer()
	case 16:
		return putLayer(w.container(), w.source(), nil)
	case 17:
		return gone(w.container(), w.now)
	case 18:
		if w.r.IntN(3) == 0 {
			return forget(w.container())
		}
		return gone(w.container(), w.now)
	case 19, 20, 21, 22:
		return w.podChange()
	default:
		return expire(w.now)
	}
}

func (w *world) born() workload.ProcessKey {
	w.now++
	k := workload.ProcessKey{PID: workload.PID(1 + w.r.IntN(20)), Inode: uint64(len(w.keys) + 1), Start: uint64(w.now) * max(w.scale, 1)}
	w.keys = append(w.keys, k)
	return k
}

func (w *world) key() workload.ProcessKey {
	if len(w.keys) == 0 {
		w.born()
	}
	return w.keys[len(w.keys)-1-w.r.IntN(min(len(w.keys), 40))]
}

func (w *world) process(k workload.ProcessKey) *workload.Process {
	p := onHost(k)
	if w.r.IntN(3) > 0 {
		p = inContainer(k, w.container())
	}
	p.Comm = fmt.Sprint(w.r.IntN(3))
	return p
}

func (w *world) source() string { return []string{"docker", "containerd", KernelSource}[w.r.IntN(3)] }

func (w *world) layer() Change {
	id, source := w.container(), w.source()
	c := &workload.Container{Name: fmt.Sprintf("%s-%d", id.ID, w.r.IntN(4))}
	switch w.r.IntN(4) {
	case 0:
		c.ID = id
	case 1:
		c.ID = w.container()
	case 2:
		c.Aliases = []workload.ContainerID{w.container()}
	}
	if w.r.IntN(2) == 0 {
		c.Pod = &workload.PodRef{UID: w.pod(), Name: w.podName()}
	}
	if source == KernelSource && w.r.IntN(2) == 0 {
		c.Parent = w.container()
		c.Run = &workload.Run{}
	}
	return putLayer(id, source, c)
}

// follower is a client that keeps a copy from a watch, and reconnects at times.
type follower struct {
	sel  workload.Selector
	w    *walker
	copy map[string]workload.Entity
	at   workload.Revision
}

func entityID(e workload.Entity) string {
	if e.Kind == workload.KindProcess {
		return e.Process.Key.String()
	}
	if e.Kind == workload.KindPod {
		return "pod " + e.Pod.UID
	}
	return e.Container.ID.String()
}

func (f *follower) read(t *testing.T, s *Store) {
	for {
		b, ok := f.w.next(t.Context())
		if !ok {
			t.Fatal("the walk ended")
		}
		said := map[string]bool{}
		for _, c := range b.Changes {
			switch c.Type {
			case workload.ChangeResync:
				clear(f.copy)
				continue
			case workload.ChangeBookmark:
				continue
			}
			id := entityID(c.Entity)
			if said[id] && c.Entity.Kind != workload.KindContainer { // containers may share an ID here
				t.Errorf("%s twice in a batch", id)
			}
			said[id] = true
			if c.Type == workload.ChangeUnset || c.Entity.Gone && !f.sel.All {
				delete(f.copy, id)
				continue
			}
			f.copy[id] = c.Entity
		}
		f.at = max(f.at, b.Revision)
		if !b.More {
			return
		}
	}
}

// reconnect goes on from where it was, with the copy that it has.
func (f *follower) reconnect(s *Store) {
	sel := f.sel
	sel.From = f.at
	f.w = newWalker(s, sel)
}

func TestTheStoreAgreesWithTheModel(t *testing.T) {
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	for i := range uint64(12) {
		t.Run(fmt.Sprintf("seed=%d", seed+i), func(t *testing.T) { agree(t, seed+i, 300) })
		if t.Failed() {
			t.Fatalf("again with: go test ./pkg/store -run Model -seed %d", seed+i)
		}
	}
}

func agree(t *testing.T, seed uint64, steps int) {
	w := &world{r: rand.New(rand.NewPCG(seed, 0)), now: 1000}
	opt := Options{Grace: 40, MaxProcessTombstones: 12, MaxContainerTombstones: 4, MaxPodTombstones: 3, Base: workload.Revision(w.r.IntN(2) * 500)}
	s := New(opt)
	m := &model{
		grace: 40, maxProcs: 12, maxConts: 4, procs: map[workload.ProcessKey]*modelProc{},
		conts: map[workload.ContainerID]*modelCont{}, last: map[workload.ContainerID]string{},
		modelPods: modelPods{pods: map[string]*modelPod{}, lastPods: map[string]*workload.Pod{}, max: 3},
	}
	var fs []*follower
	for _, kinds := range [][]workload.Kind{{workload.KindContainer}, {workload.KindProcess}, {workload.KindPod}, all3} {
		for _, all := range []bool{false, true} {
			f := &follower{sel: workload.Selector{Kinds: kinds, All: all}, copy: map[string]workload.Entity{}}
			f.w = newWalker(s, f.sel)
			fs = append(fs, f)
		}
	}
	for range steps {
		w.now += workload.KTime(w.r.IntN(3))
		m.asOf = w.now
		s.SetAsOf(w.now)
		var batch []Change
		for range 1 + w.r.IntN(4) {
			ch := w.change()
			batch = append(batch, ch)
			m.apply(ch)
		}
		s.Apply(batch...)
		m.compare(t, s, w)
		for _, f := range fs {
			if w.r.IntN(10) == 0 {
				f.reconnect(s)
			}
			if w.r.IntN(4) == 0 {
				f.read(t, s)
				m.compareCopy(t, f)
			}
		}
		if t.Failed() {
			return
		}
	}
}

// compare asks the store all that the model knows.
func (m *model) compare(t *testing.T, s *Store, w *world) {
	t.Helper()
	for _, k := range w.keys[max(0, len(w.keys)-60):] {
		m.compareProcess(t, s, k)
	}
	for i := range 12 {
		for _, id := range []workload.ContainerID{docker(fmt.Sprintf("c%d", i)), moby(fmt.Sprintf("c%d", i))} {
			c, ok := s.Container(id)
			want := m.container(id)
			if want != nil {
				m.compareChain(t, s, id, want)
			}
			if ok != (want != nil) || ok && !reflect.DeepEqual(c, want.merged()) {
				t.Errorf("Container(%v) = %+v, %v, want %+v", id, c, ok, want)
			}
		}
	}
	m.comparePods(t, s)
	procs, conts := m.tombs()
	want := Counts{
		Pods: len(m.pods) - len(m.podTombs()), PodTombstones: len(m.podTombs()),
		Processes: len(m.procs) - len(procs), ProcessTombstones: len(procs),
		Containers: len(m.conts) - len(conts), ContainerTombstones: len(conts),
	}
	got := s.Counts()
	got.Watchers, got.DroppedTombstones, got.Rejected, got.Resyncs = 0, 0, 0, 0
	if got != want {
		t.Errorf("counts %+v, want %+v", got, want)
	}
}

// compareChain follows the parents. Where one is missing the store may still
// show what it was; where they form a ring, nothing is promised but an end.
func (m *model) compareChain(t *testing.T, s *Store, id workload.ContainerID, c *modelCont) {
	t.Helper()
	a, _ := s.ContainerAnswer(id)
	var want []*workload.Container
	exact := true
	for seen := map[*modelCont]bool{}; c != nil; {
		if seen[c] {
			return
		}
		seen[c] = true
		want = slices.Insert(want, 0, c.merged())
		up := c.merged().Parent
		if c = m.container(up); c == nil && !up.IsZero() {
			_, kept := m.last[up]
			exact = !kept
		}
	}
	got := a.Containers
	if n := min(len(got), len(want)); !exact && n > 0 { // at least the inner ones are right
		got, want = got[len(got)-n:], want[len(want)-n:]
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("chain of %v: %v, want %v (exact: %v)", id, names(a.Containers), names(want), exact)
	}
	if exact {
		m.compareAnswerPod(t, a)
	}
}

func (m *model) compareProcess(t *testing.T, s *Store, k workload.ProcessKey) {
	t.Helper()
	a := s.Resolve(k)
	mp := m.procs[k]
	switch {
	case mp == nil:
		if a.Process != nil || a.Status != workload.StatusUnknown {
			t.Errorf("Resolve(%v) = %+v, want unknown", k, a)
		}
		return
	case a.Process == nil || !sameProcess(a.Process, mp.p) || a.Exited != (mp.p.Exit != nil):
		t.Errorf("Resolve(%v) = %+v, want %+v", k, a.Process, mp.p)
	case mp.p.Status == workload.StatusHost:
		if a.Status != workload.StatusHost || a.Containers != nil {
			t.Errorf("Resolve(%v) = %+v, want host", k, a)
		}
	default:
		want := m.container(mp.p.Container)
		last, kept := m.last[mp.p.Container]
		switch {
		case want != nil && (a.Status != workload.StatusContainer || !reflect.DeepEqual(a.Container(), want.merged())):
			t.Errorf("Resolve(%v) = %s %q, want %q", k, a.Status, containerName(a), want.merged().Name)
		case want == nil && a.Status == workload.StatusUnknown && a.Containers == nil:
		case want == nil && (!a.Exited || !kept || containerName(a) != last):
			t.Errorf("Resolve(%v) = %s %q, want unknown", k, a.Status, containerName(a))
		}
	}
	var newest *workload.Process
	for _, o := range m.procs {
		if o.p.Key.PID == k.PID && (newest == nil || o.p.Key.Start > newest.Key.Start) {
			newest = o.p
		}
	}
	if a, ok := s.PID(k.PID); !ok || a.Process.Key != newest.Key {
		t.Errorf("PID(%d) = %+v, want %v", k.PID, a.Process, newest.Key)
	}
}

// compareCopy checks what a follower keeps. Two containers that are shown by
// one id are one to it, and no wonder.
func (m *model) compareCopy(t *testing.T, f *follower) {
	t.Helper()
	want := map[string][]workload.Entity{}
	if slices.Contains(f.sel.Kinds, workload.KindContainer) {
		for _, c := range m.conts {
			if f.sel.All || !c.dead() {
				id := c.merged().ID.String()
				want[id] = append(want[id], workload.Entity{Container: c.merged()})
			}
		}
	}
	if slices.Contains(f.sel.Kinds, workload.KindProcess) {
		for k, p := range m.procs {
			if f.sel.All || p.p.Exit == nil {
				want[k.String()] = []workload.Entity{{Process: p.p}}
			}
		}
	}
	m.addPods(f.sel, want)
	for id, es := range want {
		got, ok := f.copy[id]
		if !ok && m.sharedID(id) {
			continue
		}
		if !slices.ContainsFunc(es, func(e workload.Entity) bool {
			return ok && reflect.DeepEqual(e.Container, got.Container) && reflect.DeepEqual(e.Pod, got.Pod) && (e.Process == nil || sameProcess(e.Process, got.Process))
		}) {
			t.Errorf("%s: a follower of %v has %+v (%v), want one of %+v", id, f.sel, got, ok, es)
		}
	}
	for id := range maps.Keys(f.copy) {
		if want[id] == nil {
			t.Errorf("a follower of %v still has %s", f.sel, id)
		}
	}
}

// sharedID reports whether several containers are shown by an id: then the end
// of one hides the other until it changes.
func (m *model) sharedID(id string) bool {
	n := 0
	for _, c := range m.conts {
		if c.merged().ID.String() == id {
			n++
		}
	}
	return n > 1
}
