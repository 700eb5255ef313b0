// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/workload"
)

func toldOf(e workload.Entity) Change { return Change{Remote: &RemoteChange{Entity: e}} }

func notAnyMore(e workload.Entity) Change {
	return Change{Remote: &RemoteChange{Entity: e, Unset: true}}
}

func toldOfProcess(p *workload.Process) Change {
	return toldOf(workload.Entity{Kind: workload.KindProcess, Process: p, Gone: p.Exit != nil})
}

func toldOfContainer(c *workload.Container, gone bool) Change {
	return toldOf(workload.Entity{Kind: workload.KindContainer, Container: c, Gone: gone})
}

// unnamed is a process that nobody here can name.
func unnamed(k workload.ProcessKey) *workload.Process {
	return &workload.Process{Key: k, Status: workload.StatusUnknown, Reason: "not known yet", Comm: "own"}
}

func TestAnotherPidigreeFillsInWhatIsNotKnownHere(t *testing.T) {
	s, id, k := New(Options{}), docker("web"), key(7, 70)
	s.Apply(toldOfContainer(&workload.Container{ID: id, Name: "web", Confidence: workload.Confirmed, Run: &workload.Run{Init: k}}, false), toldOfProcess(inContainer(k, id)))
	wantName(t, s, k, "web")
	a := s.Resolve(k)
	if c := a.Container(); c.Run == nil || c.Confidence != workload.Confirmed || len(c.Sources) != 1 || c.Sources[0].Source != RemoteSource {
		t.Errorf("the container is %+v", c)
	}
	if a.Process.Source != RemoteSource {
		t.Errorf("the process is of %q", a.Process.Source)
	}

	s.Apply(put(unnamed(k))) // seen here, and not named
	wantName(t, s, k, "web")
	if p := s.Resolve(k).Process; p.Comm != "own" || p.Source != RemoteSource {
		t.Errorf("the process is %+v", p)
	}
	s.Apply(put(onHost(k))) // named here
	if a := s.Resolve(k); a.Status != workload.StatusHost || a.Process.Source != "" {
		t.Errorf("%s, of %q", a.Status, a.Process.Source)
	}
	s.Apply(toldOfProcess(inContainer(k, id)))
	if a := s.Resolve(k); a.Status != workload.StatusHost {
		t.Errorf("it is %s after it was said again", a.Status)
	}
	s.Apply(put(unnamed(k)))
	wantName(t, s, k, "web")
	s.Apply(notAnyMore(workload.Entity{Kind: workload.KindProcess, Process: &workload.Process{Key: k}}))
	wantUnknown(t, s, k, "not known yet")

	// The engine here describes it: that counts alone, also what it does not say.
	s.Apply(putLayer(moby("web"), KernelSource, &workload.Container{ID: id}), putLayer(moby("web"), "docker", &workload.Container{ID: id, Name: "ours"}))
	c, _ := s.Container(id)
	if c.Name != "ours" || c.Run != nil || len(c.Sources) != 2 {
		t.Errorf("described here, it is %+v", c)
	}
	s.Apply(putLayer(moby("web"), "docker", nil))
	if c, _ := s.Container(id); c.Name != "web" || c.Run != nil {
		t.Errorf("with the engine gone, it is %+v", c)
	}
	if n := s.Counts().Containers; n != 1 {
		t.Errorf("%d containers", n)
	}
}

func TestWhatOnlyAnotherPidigreeKnewIsKeptAfterItsEnd(t *testing.T) {
	s, id, k := New(Options{Grace: 100}), docker("web"), key(7, 70)
	s.SetAsOf(10)
	c := &workload.Container{ID: id, Name: "web"}
	s.Apply(toldOfContainer(c, false), toldOfProcess(inContainer(k, id)))
	s.Apply(toldOfProcess(exited(inContainer(k, id), 11, 3)), toldOfContainer(c, true))
	if a := s.Resolve(k); !a.Exited || a.Process.Exit.Code != 3 || containerName(a) != "web" {
		t.Errorf("after its end: %+v", a)
	}
	e := workload.Entity{Kind: workload.KindContainer, Container: &workload.Container{ID: id}}
	s.Apply(notAnyMore(e))
	if s.Counts().ContainerTombstones != 1 {
		t.Error("its tombstone went with that of the other one")
	}
	s.Apply(toldOfContainer(c, false))
	if got := s.Counts(); got.ContainerTombstones != 0 || got.Containers != 1 {
		t.Errorf("started again there: %+v", got)
	}
	s.Apply(notAnyMore(e))
	s.Apply(expire(500))
	if got := s.Counts(); got.Containers+got.ContainerTombstones+got.Processes+got.ProcessTombstones != 0 {
		t.Errorf("left: %+v", got)
	}
}

func TestWhatIsSaidOfTheLivingIsStaleWhileTheOtherOneIsAway(t *testing.T) {
	s, id, k, dead := New(Options{}), docker("web"), key(7, 70), key(8, 80)
	s.Apply(put(unnamed(key(9, 90))), toldOfContainer(&workload.Container{ID: id, Name: "web"}, false), toldOfProcess(inContainer(k, id)),
		toldOfProcess(exited(inContainer(dead, id), 5, 0)), toldOfProcess(inContainer(key(9, 90), id)),
		toldOf(workload.Entity{Kind: workload.KindPod, Pod: aPod("p", "shop")}))
	check := func(stale bool) {
		t.Helper()
		c, _ := s.Container(id)
		p, _ := s.Pod("p")
		for what, is := range map[string]bool{
			"the container": c.Sources[0].Stale, "the pod": p.Sources[0].Stale,
			"the process": s.Resolve(k).Process.Stale, "the process that is not named here": s.Resolve(key(9, 90)).Process.Stale,
		} {
			if is != stale {
				t.Errorf("%s is stale: %v", what, is)
			}
		}
		if s.Resolve(dead).Process.Stale {
			t.Error("whoever has ended is stale")
		}
	}
	check(false)
	s.Apply(Change{Remote: &RemoteChange{Away: true}})
	check(true)
	rev := s.Revision()
	s.Apply(Change{Remote: &RemoteChange{Away: true}})
	if s.Revision() != rev {
		t.Error("to say it twice is news")
	}
	s.Apply(Change{Remote: &RemoteChange{Back: true}})
	check(false)
}

// liar makes up what another pidigree might say, of the same ids and PIDs.
type liar struct {
	*world
	r *rand.Rand
}

func (l *liar) change() Change {
	at := l.r.IntN(40)
	w := &world{r: l.r, now: l.now, keys: l.keys, scale: l.scale}
	switch {
	case at == 0:
		return Change{Remote: &RemoteChange{Away: true}}
	case at == 1:
		return Change{Remote: &RemoteChange{Back: true}}
	case at < 20:
		k := w.key()
		switch l.r.IntN(6) {
		case 0:
			k.Inode, k.Start = k.Inode+1000, k.Start+uint64(l.r.IntN(4))*max(w.scale, 1)
		case 1:
			k.PID = workload.PID(1 + l.r.IntN(20))
		case 2:
			k.Inode = 0
		}
		p := w.process(k)
		p.Comm = "lie"
		if l.r.IntN(3) == 0 {
			p = exited(p, w.now, 9)
		}
		if l.r.IntN(4) == 0 {
			return notAnyMore(workload.Entity{Kind: workload.KindProcess, Process: &workload.Process{Key: k}})
		}
		return toldOfProcess(p)
	case at < 30:
		ch := w.layer().Container
		c := ch.Layer
		c.ID, c.Name = ch.ID, "lie"
		c.Aliases, c.Run, c.Sandbox = append(c.Aliases, w.container()), &workload.Run{}, true
		e := workload.Entity{Kind: workload.KindContainer, Container: c, Gone: l.r.IntN(4) == 0}
		if l.r.IntN(4) == 0 {
			return notAnyMore(e)
		}
		return toldOf(e)
	default:
		ch := w.podChange().Pod
		p := ch.Layer
		if p == nil {
			p = aPod(ch.UID, "lie")
		}
		if p.UID == "" {
			p.UID = ch.UID
		}
		e := workload.Entity{Kind: workload.KindPod, Pod: p, Gone: l.r.IntN(4) == 0}
		if l.r.IntN(4) == 0 {
			return notAnyMore(e)
		}
		return toldOf(e)
	}
}

// A store that hears lies knows everything that one which hears none knows.
func TestNothingThatAnotherPidigreeSaysOverridesWhatIsKnownHere(t *testing.T) {
	for seed := range uint64(100) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { neverOverrides(t, seed, 400) })
	}
}

func neverOverrides(t *testing.T, seed uint64, steps int) {
	w := &world{r: rand.New(rand.NewPCG(seed, 0)), now: 1000, scale: seed % 2 * workload.TickNS}
	l := &liar{w, rand.New(rand.NewPCG(seed, 1))}
	opt := Options{Grace: 40, MaxProcessTombstones: 12, MaxContainerTombstones: 4, MaxPodTombstones: 3}
	plain, lied := New(opt), New(opt)
	follow := &follower{sel: workload.Selector{Kinds: all3, All: true}, copy: map[string]workload.Entity{}}
	follow.w = newWalker(lied, follow.sel)
	filled := 0
	for range steps {
		w.now += workload.KTime(w.r.IntN(3))
		plain.SetAsOf(w.now)
		lied.SetAsOf(w.now)
		var batch []Change
		for range 1 + w.r.IntN(4) {
			ch := w.change()
			if ch.Process != nil && w.r.IntN(3) == 0 {
				p := ch.Process.Clone()
				p.Status, p.Container, p.Confidence = workload.StatusUnknown, workload.ContainerID{}, workload.ConfidenceNone
				ch.Process = p
			}
			batch = append(batch, ch)
		}
		plain.Apply(batch...)
		lied.Apply(batch...)
		for range l.r.IntN(4) {
			lied.Apply(l.change())
		}
		filled += compareKnown(t, plain, lied, w)
		if w.r.IntN(4) == 0 {
			follow.read(t, lied)
			compareWhole(t, lied, follow)
		}
		if t.Failed() {
			return
		}
	}
	if filled == 0 {
		t.Error("nothing that it said has counted for anything")
	}
}

// compareKnown gives how many processes have a name in lied alone.
func compareKnown(t *testing.T, plain, lied *Store, w *world) (filled int) {
	t.Helper()
	for k, it := range plain.byKey {
		a, o := it.latest.Load(), lied.byKey[k]
		if o == nil {
			t.Errorf("container %s is not there", k)
			continue
		}
		b := o.latest.Load()
		if a.gone != b.gone {
			t.Errorf("container %s: gone %v, not %v", k, b.gone, a.gone)
		}
		engine := slices.ContainsFunc(it.layers, func(l layer) bool { return l.source != KernelSource })
		if engine && !reflect.DeepEqual(a.merged, b.merged) {
			t.Errorf("container %s: %s", k, cmp.Diff(a.merged, b.merged))
		}
		if !engine && (a.merged.Parent != b.merged.Parent || !reflect.DeepEqual(a.merged.Run, b.merged.Run) || a.merged.Confidence != b.merged.Confidence) {
			t.Errorf("container %s, of the correlator's: %s", k, cmp.Diff(a.merged, b.merged))
		}
		for _, id := range it.ids {
			if v := plain.viewOf(id); v != nil && v.key == k {
				if u := lied.viewOf(id); u == nil || u.key != k {
					t.Errorf("%s leads to %+v and not to %s", id, u, k)
				}
			}
		}
	}
	for uid, it := range plain.pods.byKey {
		a, o := it.latest.Load(), lied.pods.byKey[uid]
		if o == nil {
			t.Errorf("pod %s is not there", uid)
			continue
		}
		b := o.latest.Load()
		engine := slices.ContainsFunc(it.layers, func(l layerOf[pod]) bool { return l.source != KernelSource })
		if a.gone != b.gone || engine && !reflect.DeepEqual(a.merged, b.merged) {
			t.Errorf("pod %s: gone %v not %v; %s", uid, b.gone, a.gone, cmp.Diff(a.merged, b.merged))
		}
	}
	for _, k := range w.keys {
		a, b := plain.Resolve(k), lied.Resolve(k)
		if a.Process != nil && (b.Process == nil || b.Process.Comm == "lie" || a.Exited != b.Exited) {
			t.Errorf("%s is %+v, not %+v", k, b.Process, a.Process)
		}
		switch {
		case a.Process != nil && b.Process == nil:
		case a.Process != nil && a.Process.Status != workload.StatusUnknown && (b.Process.Status != a.Process.Status || b.Process.Container != a.Process.Container):
			t.Errorf("%s is %+v, not %+v", k, b.Process, a.Process)
		case a.Status == workload.StatusHost && b.Status != a.Status, a.Status == workload.StatusContainer && b.Status != a.Status:
			t.Errorf("%s is %s (%s), not %s; %+v", k, b.Status, b.Reason, a.Status, a.Process)
		case a.Status == workload.StatusUnknown && b.Status != a.Status:
			filled++
		}
	}
	for pid := range workload.PID(21) {
		a, known := plain.PID(pid)
		if b, _ := lied.PID(pid); known && !a.Exited && (b.Process == nil || b.Process.Key != a.Process.Key) {
			t.Errorf("PID %d is %+v, not %+v", pid, b.Process, a.Process)
		}
	}
	return filled
}

// compareWhole compares a copy from a stream with the store.
func compareWhole(t *testing.T, s *Store, f *follower) {
	t.Helper()
	have := map[string]workload.Entity{}
	for e := range s.All(f.sel) {
		have[entityID(e)] = e
	}
	if len(have) != len(f.copy) {
		t.Errorf("the copy has %d entities, the store %d", len(f.copy), len(have))
	}
	for id, e := range have {
		if c, ok := f.copy[id]; !ok || !reflect.DeepEqual(c, e) {
			t.Errorf("%s in the copy: %s", id, cmp.Diff(e, c))
		}
	}
}

// Another engine's id of the same container, and another's socket in it, are no other
// container where the id is one that nobody chose.
func TestTheSameContainerIsFoundByAnIDThatIsTheSameEverywhere(t *testing.T) {
	hex := strings.Repeat("4f3a", 16)
	there := workload.ContainerID{Runtime: "docker", Instance: "/there.sock", ID: hex}
	claimed := Change{Container: &ContainerChange{ID: docker(hex), Source: KernelSource, Layer: &workload.Container{ID: docker(hex), Confidence: workload.Claimed}}}
	far := toldOfContainer(&workload.Container{ID: there, Name: "web"}, false)
	for name, order := range map[string][]Change{"here first": {claimed, far}, "there first": {far, claimed}} {
		s := New(Options{})
		for _, ch := range order {
			s.Apply(ch)
		}
		if n := s.Counts().Containers; n != 1 {
			t.Errorf("%s: %d containers", name, n)
		}
		if c, _ := s.Container(docker(hex)); c == nil || c.Name != "web" || c.Confidence != workload.Claimed {
			t.Errorf("%s: %+v", name, c)
		}
	}
	for _, id := range []workload.ContainerID{
		{Runtime: "podman", Instance: workload.UserInstance(1000), ID: hex}, {Runtime: "docker", Instance: workload.NestedInstance("/x"), ID: hex},
		{Runtime: "docker", Instance: workload.RemoteInstance("node2", ""), ID: hex}, {Runtime: "docker", Instance: "/x", ID: "web"},
	} {
		s := New(Options{})
		s.Apply(claimed, toldOfContainer(&workload.Container{ID: id, Name: "web"}, false))
		if n := s.Counts().Containers; n != 2 {
			t.Errorf("%+v is joined with it", id)
		}
	}
}

func TestWhoIsKnownHereIsMeantByAName(t *testing.T) {
	s := New(Options{})
	far := workload.ContainerID{Runtime: "docker", Instance: workload.RemoteInstance("node2", ""), ID: "c1"}
	s.Apply(toldOfContainer(&workload.Container{ID: far, Name: "web"}, false), putLayer(docker("c2"), "docker", &workload.Container{ID: docker("c2"), Name: "web"}))
	if found := s.FindContainers("web"); len(found) != 1 || found[0].ID != docker("c2") {
		t.Errorf("web is %+v", found)
	}
	if found := s.FindContainers("c1"); len(found) != 1 || found[0].ID != far {
		t.Errorf("c1 is %+v", found)
	}
}

func TestWhatComesWhileTheOtherOneCountsAsAwayIsStaleToo(t *testing.T) {
	s := New(Options{})
	s.Apply(Change{Remote: &RemoteChange{Away: true}}, toldOfContainer(&workload.Container{ID: docker("web"), Name: "web"}, false),
		toldOf(workload.Entity{Kind: workload.KindPod, Pod: aPod("p", "shop")}), toldOfProcess(inContainer(key(7, 70), docker("web"))))
	c, _ := s.Container(docker("web"))
	p, _ := s.Pod("p")
	if !c.Sources[0].Stale || !p.Sources[0].Stale || !s.Resolve(key(7, 70)).Process.Stale {
		t.Error("it is fresh")
	}
}

// What it says by an alias, it takes back by its own id.
func TestWhatWasSaidByAnAliasIsTakenBack(t *testing.T) {
	s, far := New(Options{}), workload.ContainerID{Runtime: "lxd", ID: "x"}
	s.Apply(putLayer(docker("web"), KernelSource, &workload.Container{ID: docker("web")}),
		toldOfContainer(&workload.Container{ID: far, Name: "far", Aliases: []workload.ContainerID{docker("web")}}, false))
	if c, _ := s.Container(docker("web")); c.Name != "far" || s.Counts().Containers != 1 {
		t.Fatalf("%+v", c)
	}
	s.Apply(notAnyMore(workload.Entity{Kind: workload.KindContainer, Container: &workload.Container{ID: far}}))
	if c, _ := s.Container(docker("web")); c.Name != "" || len(c.Sources) != 1 {
		t.Errorf("%+v", c)
	}
}

func TestALifeThatOverlapsAKnownOneIsNotTaken(t *testing.T) {
	s, k := New(Options{}), workload.ProcessKey{PID: 5, Inode: 1, Start: 100 * workload.TickNS}
	s.Apply(put(exited(onHost(k), 200*workload.TickNS, 0)))
	in := inContainer(workload.ProcessKey{PID: 5, Inode: 2, Start: 150 * workload.TickNS}, docker("web"))
	s.Apply(toldOfContainer(&workload.Container{ID: docker("web"), Name: "lie"}, false), toldOfProcess(exited(in, 180*workload.TickNS, 0)))
	if a, _ := s.PIDAt(5, 160*workload.TickNS); a.Status != workload.StatusHost {
		t.Errorf("at that time it was %+v", a.Process)
	}
}

// The kernel shows that it runs, and no more: that it is paused the other one may say.
// That it has ended is known here.
func TestWhetherAContainerIsPausedTheOtherOneMaySay(t *testing.T) {
	s, id := New(Options{}), docker("web")
	kernel := func(state workload.State) Change {
		return putLayer(id, KernelSource, &workload.Container{ID: id, State: state})
	}
	is := func(want workload.State) {
		t.Helper()
		if c, _ := s.Container(id); c.State != want {
			t.Errorf("it is %q, not %q", c.State, want)
		}
	}
	s.Apply(kernel(workload.StateRunning), toldOfContainer(&workload.Container{ID: id, State: workload.StatePaused}, false))
	is(workload.StatePaused)
	s.Apply(toldOfContainer(&workload.Container{ID: id, State: workload.StateExited}, false))
	is(workload.StateRunning)
	s.Apply(toldOfContainer(&workload.Container{ID: id, State: workload.StateRestarting}, false), kernel(workload.StateExited))
	is(workload.StateExited)
}
