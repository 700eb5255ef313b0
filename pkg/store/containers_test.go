// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestAContainerThatComesAfterItsProcessesNamesThem(t *testing.T) {
	s := New(Options{})
	id, k := docker("aaaa"), key(7, 1)
	s.Apply(put(inContainer(k, id)))
	wantUnknown(t, s, k, reasonContainer)
	s.Apply(putLayer(id, "docker", named(id, "web")))
	wantName(t, s, k, "web")
	s.Apply(putLayer(id, "docker", named(id, "renamed")))
	wantName(t, s, k, "renamed")
}

func TestAForgottenContainerNamesNobody(t *testing.T) {
	s := New(Options{})
	id, k := docker("aaaa"), key(7, 1)
	s.Apply(put(inContainer(k, id)), putLayer(id, "docker", named(id, "web")), forget(id))
	wantUnknown(t, s, k, reasonContainer)
	if _, ok := s.Container(id); ok {
		t.Error("it is still there")
	}
	if c := s.Counts(); c.Containers != 0 || c.ContainerTombstones != 0 {
		t.Errorf("counts %+v", c)
	}
}

func TestAnEntityMergedIntoAnotherLeavesItsProcessesToIt(t *testing.T) {
	s := New(Options{})
	d, m, k := docker("aaaa"), moby("aaaa"), key(7, 1)
	s.Apply(putLayer(m, "containerd", named(m, "aaaa")), put(inContainer(k, m)))
	wantName(t, s, k, "aaaa")
	both := named(d, "web")
	both.Aliases = []workload.ContainerID{m}
	s.Apply(putLayer(d, "docker", both), forget(m))
	wantName(t, s, k, "web") // though the process still names the former key
	for _, id := range []workload.ContainerID{d, m} {
		if c, ok := s.Container(id); !ok || c.Name != "web" {
			t.Errorf("Container(%v) = %v, %v", id, c, ok)
		}
	}
}

func TestAnAliasOfTwoContainersIsNobodys(t *testing.T) {
	s := New(Options{})
	a, b, shared, k := docker("aaaa"), docker("bbbb"), moby("shared"), key(7, 1)
	la, lb := named(a, "a"), named(b, "b")
	la.Aliases, lb.Aliases = []workload.ContainerID{shared}, []workload.ContainerID{shared}
	s.Apply(putLayer(a, "docker", la), putLayer(b, "docker", lb), put(inContainer(k, shared)))
	wantUnknown(t, s, k, reasonContainer)
	if _, ok := s.Container(shared); ok {
		t.Error("one of the two was picked")
	}
	s.Apply(gone(a, second)) // only one lives
	wantName(t, s, k, "b")
	s.Apply(putLayer(shared, "containerd", named(shared, "itself"))) // a key comes before aliases
	wantName(t, s, k, "itself")
}

func TestTheChainFollowsEveryChangeOfTheOuterContainers(t *testing.T) {
	s := New(Options{})
	k := key(7, 1)
	outer, mid, inner := docker("out0"), docker("mid0"), docker("in00")
	within := func(name string, id, parent workload.ContainerID) Change {
		c := named(id, name)
		c.Parent = parent
		return putLayer(id, KernelSource, c)
	}
	chain := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, names(s.Resolve(k).Containers)); diff != "" {
			t.Errorf("chain (-want +got):\n%s", diff)
		}
	}
	s.Apply(put(inContainer(k, inner)), within("inner", inner, mid))
	chain("inner") // its parent is not there yet
	s.Apply(within("mid", mid, outer))
	chain("mid", "inner")
	o := named(outer, "outer")
	o.Pod = &workload.PodRef{UID: "u"}
	s.Apply(putLayer(outer, KernelSource, o))
	chain("outer", "mid", "inner")
	if p := s.Resolve(k).Pod; p == nil || p.UID != "u" {
		t.Errorf("pod %+v, want the outer container's", p)
	}
	s.Apply(putLayer(outer, "docker", named(outer, "docker-in-docker")))
	chain("docker-in-docker", "mid", "inner")
	s.Apply(gone(outer, second), gone(mid, second))
	chain("docker-in-docker", "mid", "inner")
	s.Apply(expire(second + workload.KTime(DefaultGrace)))
	chain("docker-in-docker", "mid", "inner") // as it was to the end
	s.Apply(within("mid", mid, workload.ContainerID{}))
	chain("mid", "inner")
	s.Apply(forget(mid))
	chain("inner")
	if n := len(s.children); n != 1 {
		t.Errorf("%d parents remembered", n)
	}
}

func TestARingOfParentsEnds(t *testing.T) {
	s := New(Options{})
	ids := []workload.ContainerID{docker("aaaa"), docker("bbbb"), docker("cccc")}
	for range 3 {
		for i, id := range ids {
			c := named(id, id.ID)
			c.Parent = ids[(i+1)%len(ids)]
			s.Apply(putLayer(id, KernelSource, c), putLayer(id, "docker", named(id, fmt.Sprint(i))))
		}
	}
	self := named(docker("self"), "self")
	self.Parent = docker("self")
	s.Apply(putLayer(docker("self"), KernelSource, self))
	for _, id := range append(ids, docker("self")) {
		if a, ok := s.ContainerAnswer(id); !ok || len(a.Containers) > len(ids) {
			t.Errorf("chain of %v: %v", id, names(a.Containers))
		}
	}
}

func TestADeepChainIsCut(t *testing.T) {
	s := New(Options{})
	id := func(i int) workload.ContainerID { return docker(fmt.Sprintf("c%03d", i)) }
	for i := 99; i >= 0; i-- { // children first, so that every step renews those below
		c := named(id(i), fmt.Sprint(i))
		if i > 0 {
			c.Parent = id(i - 1)
		}
		s.Apply(putLayer(id(i), KernelSource, c))
	}
	a, _ := s.ContainerAnswer(id(99))
	if n := len(a.Containers); n == 0 || n > maxChain || a.Container().Name != "99" {
		t.Errorf("chain of %d", n)
	}
}

func TestByCgroupFindsTheInnermostThatRegisteredIt(t *testing.T) {
	cg := workload.CgroupID{Hierarchy: 3, ID: 42}
	with := func(id, parent workload.ContainerID, ids ...workload.CgroupID) Change {
		c := named(id, id.ID)
		c.Parent, c.Run = parent, &workload.Run{}
		for _, g := range ids {
			c.Run.Cgroups = append(c.Run.Cgroups, workload.CgroupPath{CgroupID: g})
		}
		return putLayer(id, KernelSource, c)
	}
	var none workload.ContainerID
	a, b := docker("aaaa"), docker("bbbb")
	for _, tc := range []struct {
		name    string
		changes []Change
		want    string
	}{
		{"nobody", nil, ""},
		{"the one", []Change{with(a, none, cg)}, "aaaa"},
		{"the same number in another hierarchy", []Change{with(a, none, workload.CgroupID{Hierarchy: 4, ID: 42})}, ""},
		{"the inner of two", []Change{with(a, none, cg), with(b, a, cg)}, "bbbb"},
		{"the inner of two, which came first", []Change{with(b, a, cg), with(a, none, cg)}, "bbbb"},
		{"two unrelated ones", []Change{with(a, none, cg), with(b, none, cg)}, ""},
		{"two unrelated ones, one of which ends", []Change{with(a, none, cg), with(b, none, cg), gone(a, second)}, "bbbb"},
		{"two unrelated ones, one of which goes in the other", []Change{with(a, none, cg), with(b, none, cg), with(b, a, cg)}, "bbbb"},
		{"a tombstone", []Change{with(a, none, cg), gone(a, second)}, "aaaa"},
		{"a tombstone whose number is used again", []Change{with(a, none, cg), gone(a, second), with(b, none, cg)}, "bbbb"},
		{"two tombstones: the last to go", []Change{with(a, none, cg), gone(a, second), with(b, none, cg), gone(b, 2*second)}, "bbbb"},
		{"an expired one", []Change{with(a, none, cg), gone(a, second), expire(second + workload.KTime(DefaultGrace))}, ""},
		{"a forgotten one", []Change{with(a, none, cg), forget(a)}, ""},
		{"one whose next run is elsewhere", []Change{with(a, none, cg), with(a, none)}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := New(Options{})
			s.Apply(tc.changes...)
			c, ok := s.ByCgroup(cg)
			if ok != (tc.want != "") || ok && c.Name != tc.want {
				t.Errorf("ByCgroup = %+v, %v", c, ok)
			}
			if a, known := s.CgroupAnswer(cg); known != ok || containerName(a) != tc.want {
				t.Errorf("CgroupAnswer = %q, %v", containerName(a), known)
			}
		})
	}
}

func TestATombstoneKeepsWhatTheContainerWas(t *testing.T) {
	s := New(Options{})
	id, k := docker("aaaa"), key(7, 1)
	p := inContainer(k, id)
	s.Apply(putLayer(id, "docker", named(id, "web")), putLayer(id, KernelSource, &workload.Container{}), put(p))
	s.Apply(put(exited(p, 5*second, 3)), gone(id, 5*second))
	s.Apply(putLayer(id, "docker", nil), putLayer(id, KernelSource, nil)) // docker run --rm
	a := s.Resolve(k)
	if c := a.Container(); c == nil || c.Name != "web" || c.State != workload.StateExited || !a.Exited || a.Process.Exit.Code != 3 {
		t.Errorf("answer %+v", a)
	}
	s.Apply(putLayer(id, "docker", &workload.Container{ID: id, Name: "web", Exit: &workload.Exit{Known: true, Code: 3}}))
	if c, _ := s.Container(id); c.Exit == nil || c.Exit.Code != 3 || c.State != workload.StateExited {
		t.Errorf("what the engine said late: %+v", c)
	}
	if c := s.Counts(); c.ContainerTombstones != 1 || c.Containers != 0 {
		t.Errorf("counts %+v", c)
	}
	run := &workload.Run{Init: key(8, 2)}
	s.Apply(putLayer(id, KernelSource, &workload.Container{State: workload.StateRunning, Run: run}))
	if c, _ := s.Container(id); c.State != workload.StateRunning {
		t.Errorf("started again it is %s", c.State)
	}
	if c := s.Counts(); c.ContainerTombstones != 0 || c.Containers != 1 {
		t.Errorf("counts %+v", c)
	}
}

func TestAContainerWithoutLayersIsGone(t *testing.T) {
	s := New(Options{})
	id := docker("aaaa")
	s.SetAsOf(10 * second)
	s.Apply(putLayer(id, "docker", named(id, "web")), putLayer(id, "oci", &workload.Container{}))
	s.Apply(putLayer(id, "docker", nil))
	if c, _ := s.Container(id); c.Name != "" || c.State == workload.StateExited {
		t.Errorf("with one layer left: %+v", c)
	}
	s.Apply(putLayer(id, "docker", named(id, "web")), putLayer(id, "oci", nil), putLayer(id, "docker", nil))
	if c, ok := s.Container(id); !ok || c.Name != "web" || c.State != workload.StateExited {
		t.Errorf("without layers: %+v, %v", c, ok)
	}
	s.Apply(putLayer(id, "docker", named(id, "again")))
	if c, _ := s.Container(id); c.State != workload.StateRunning {
		t.Errorf("listed again: %+v", c)
	}
	s.Apply(putLayer(id, "docker", nil), expire(10*second+workload.KTime(DefaultGrace)))
	if _, ok := s.Container(id); ok {
		t.Error("it has not expired")
	}
}

func TestWhatSaysNothingNewIsNoChange(t *testing.T) {
	s := New(Options{})
	id := docker("aaaa")
	layer := func(at workload.KTime) *workload.Container {
		c := named(id, "web")
		c.Labels = map[string]string{"a": "b"}
		c.Sources = []workload.Provenance{{Source: "docker", At: at}}
		return c
	}
	p := inContainer(key(7, 1), id)
	rev := s.Apply(putLayer(id, "docker", layer(5)), put(p))
	if got := s.Apply(putLayer(id, "docker", layer(9)), put(p.Clone())); got != rev {
		t.Errorf("revision %d, want %d still", got, rev)
	}
	if c, _ := s.Container(id); c.Sources[0].At != 5 {
		t.Errorf("sources %+v, want the first arrival", c.Sources)
	}
	s.Apply(gone(id, 5*second))
	rev = s.Revision()
	if got := s.Apply(gone(id, 6*second)); got != rev {
		t.Errorf("revision %d, want %d still", got, rev)
	}
}

func TestEachChangeOfAnEntityGetsTheNextRevision(t *testing.T) {
	s := New(Options{Base: 1000})
	if s.Revision() != 1000 {
		t.Errorf("revision %d", s.Revision())
	}
	a, b := docker("aaaa"), docker("bbbb")
	rev := s.Apply(putLayer(a, "docker", named(a, "a")), putLayer(b, "docker", named(b, "b")), put(onHost(key(7, 1))))
	if rev != 1003 || s.Revision() != 1003 {
		t.Errorf("revision %d after three changes", rev)
	}
	var got []workload.Revision
	for e := range s.All(workload.Selector{Kinds: []workload.Kind{workload.KindContainer, workload.KindProcess}}) {
		got = append(got, e.Revision)
	}
	if diff := cmp.Diff([]workload.Revision{1001, 1002, 1003}, got); diff != "" {
		t.Error(diff)
	}
}

func TestTombstonesStayForGraceAndNotLonger(t *testing.T) {
	s := New(Options{Grace: time.Minute})
	id := docker("aaaa")
	p, q := inContainer(key(7, 1), id), onHost(key(8, 1))
	s.Apply(putLayer(id, "docker", named(id, "web")), put(p), put(q))
	unseen := q.Clone()
	unseen.Exit = &workload.Exit{} // nobody knows when
	s.Apply(put(exited(p, 100*second, 0)), put(unseen), gone(id, 40*second))
	s.Apply(expire(99 * second))
	if _, ok := s.Container(id); !ok {
		t.Error("the container went early")
	}
	s.Apply(expire(100 * second))
	if _, ok := s.Container(id); ok {
		t.Error("the container is still there")
	}
	wantName(t, s, p.Key, "web") // a tombstone leads to what its container was last
	s.Apply(put(inContainer(key(9, 9), id)))
	wantUnknown(t, s, key(9, 9), reasonContainer) // the living do not
	s.Apply(expire(158 * second))
	if a := s.Resolve(q.Key); !a.Exited {
		t.Error("what went at an unknown time went early: the first Expire is when its minute begins")
	}
	s.Apply(expire(159 * second))
	wantUnknown(t, s, q.Key, reasonAbsent)
	s.Apply(expire(160 * second))
	wantUnknown(t, s, p.Key, reasonAbsent)
	if c := s.Counts(); c.Processes != 1 || c.ProcessTombstones != 0 || c.DroppedTombstones != 0 {
		t.Errorf("counts %+v", c)
	}
}

func TestTombstonesAreBoundedAndTheOldestGoFirst(t *testing.T) {
	s := New(Options{MaxProcessTombstones: 10, MaxContainerTombstones: 5})
	for i := range 100 {
		id := docker(fmt.Sprintf("%04d", i))
		p := inContainer(key(workload.PID(i+1), uint64(i+1)), id)
		at := workload.KTime(i+1) * second
		s.Apply(putLayer(id, "docker", named(id, id.ID)), put(p))
		s.Apply(put(exited(p, at, 0)), gone(id, at))
	}
	if c := s.Counts(); c.ProcessTombstones != 10 || c.ContainerTombstones != 5 || c.DroppedTombstones != 90+95 {
		t.Errorf("counts %+v", c)
	}
	wantUnknown(t, s, key(90, 90), reasonAbsent)
	wantName(t, s, key(91, 91), "0090")
	if _, ok := s.Container(docker("0094")); ok {
		t.Error("an old one was kept")
	}
	if _, ok := s.Container(docker("0095")); !ok {
		t.Error("a young one was dropped")
	}
	late := exited(onHost(key(5000, 1)), second, 0) // older than all that are kept
	s.Apply(put(late))
	wantUnknown(t, s, late.Key, reasonAbsent)
	wantName(t, s, key(91, 91), "0090")
}

func TestNothingIsLeftOfWhatIsGone(t *testing.T) {
	s := New(Options{MaxProcessTombstones: 50, MaxContainerTombstones: 50})
	for i := range 5_000 {
		id := docker(fmt.Sprintf("%04d", i))
		c := named(id, id.ID)
		c.Aliases = []workload.ContainerID{moby(id.ID)}
		c.Parent = docker("outer")
		c.Run = &workload.Run{Cgroups: []workload.CgroupPath{{CgroupID: workload.CgroupID{ID: uint64(i + 1)}}}}
		p := inContainer(key(workload.PID(i*7+1), uint64(i+1)), moby(id.ID))
		now := workload.KTime(i+1) * second
		s.Apply(put(p), putLayer(id, KernelSource, c))
		s.Apply(put(exited(p, now, 0)), gone(id, now), expire(now))
	}
	s.Apply(expire(10_000 * second))
	if c := s.Counts(); c.Containers+c.ContainerTombstones+c.Processes+c.ProcessTombstones != 0 {
		t.Errorf("counts %+v", c)
	}
	for what, n := range map[string]int{
		"ids": s.ids.n, "cgroups": s.cgroups.n, "byKey": len(s.byKey), "children": len(s.children), "claims": len(s.claims),
		"pids": s.pids.live, "process tombs": len(s.procTombs.q) + len(s.hostTombs.q), "container tombs": len(s.contTombs.q),
	} {
		if n != 0 {
			t.Errorf("%d %s left", n, what)
		}
	}
	if n := len(s.pids.slots.Load().slot); n > minPIDSlots {
		t.Errorf("%d slots for no process", n)
	}
	if n := len(s.procMarkers.byID) + len(s.contMarkers.byID); n > 100 {
		t.Errorf("%d removals remembered", n)
	}
	if n := len(s.procLog.window.Load().entries); n > 4*minLog {
		t.Errorf("a log of %d", n)
	}
}

func TestFindContainers(t *testing.T) {
	s := New(Options{})
	for _, c := range []struct{ id, name string }{
		{"4f3a00000001", "web"},
		{"4f3a00000002", "db"},
		{"abcd00000003", "4f3a"},         // a name like the beginning of others' ids
		{"ffff00000004", "4f3a00000001"}, // a name that is another's whole id
		{"eeee00000005", "web"},
	} {
		s.Apply(putLayer(docker(c.id), "docker", named(docker(c.id), c.name)),
			putLayer(docker(c.id), "oci", &workload.Container{ID: workload.ContainerID{Runtime: "runc", Namespace: "moby", ID: c.id}}))
	}
	s.Apply(gone(docker("4f3a00000002"), second), gone(docker("4f3a00000001"), 2*second))
	for _, tc := range []struct {
		name, ref string
		want      []string // ids
	}{
		{"a whole id", "4f3a00000002", []string{"4f3a00000002"}},
		{"a whole id, though another has it for a name", "4f3a00000001", []string{"4f3a00000001"}},
		{"an id with its runtime", "docker://4f3a00000001", []string{"4f3a00000001"}},
		{"an alias with runtime and namespace", "runc://moby/4f3a00000001", []string{"4f3a00000001"}},
		{"another runtime's", "podman://4f3a00000001", nil},
		{"a prefix that fits one", "4f3a00000002x"[:12], []string{"4f3a00000002"}},
		{"a prefix of two ids that is also a name: all of them, the living first", "4f3a",
			[]string{"abcd00000003", "4f3a00000001", "4f3a00000002"}},
		{"a prefix of four", "abcd", []string{"abcd00000003"}},
		{"a prefix too short", "abc", nil},
		{"a name of two, one of them gone", "web", []string{"eeee00000005", "4f3a00000001"}},
		{"part of a name", "we", nil},
		{"nothing", "", nil},
		{"more than an id", "4f3a000000012", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, c := range s.FindContainers(tc.ref) {
				got = append(got, c.ID.ID)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("FindContainers(%q) (-want +got):\n%s", tc.ref, diff)
			}
		})
	}
}

func FuzzFindContainers(f *testing.F) {
	s := New(Options{})
	ids := []string{"4f3a", "4f3a00000002", "abcd"}
	for _, id := range ids {
		s.Apply(putLayer(docker(id), "docker", named(docker(id), "n"+id)))
	}
	for _, seed := range []string{"", "4f3a", "4f3a0", "docker://abcd", "://", "n4f3a", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, ref string) {
		for _, c := range s.FindContainers(ref) {
			if matchRef(c, ref) == refNone {
				t.Errorf("FindContainers(%q) gave %v", ref, c.ID)
			}
			if slices.Contains(ids, ref) && c.ID.ID != ref {
				t.Errorf("FindContainers(%q) gave %v beside the whole id", ref, c.ID)
			}
		}
	})
}

func TestAllGivesWhatIsSelected(t *testing.T) {
	s := New(Options{})
	a, b := docker("aaaa"), docker("bbbb")
	p, q := onHost(key(7, 1)), onHost(key(8, 1))
	s.Apply(putLayer(a, "docker", named(a, "a")), putLayer(b, "docker", named(b, "b")), put(p), put(q))
	s.Apply(gone(b, second), put(exited(q, second, 0)))
	c, pr := workload.KindContainer, workload.KindProcess
	for _, tc := range []struct {
		name string
		sel  workload.Selector
		want []string
	}{
		{"containers, by default", workload.Selector{}, []string{"a"}},
		{"with the gone", workload.Selector{All: true}, []string{"a", "b gone"}},
		{"processes", workload.Selector{Kinds: []workload.Kind{pr}}, []string{"7"}},
		{"both, with the gone", workload.Selector{Kinds: []workload.Kind{pr, c}, All: true}, []string{"a", "b gone", "7", "8 gone"}},
		{"a kind that the store does not keep", workload.Selector{Kinds: []workload.Kind{workload.KindPod}}, nil},
		{"a revision is ignored", workload.Selector{From: 1000}, []string{"a"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for e := range s.All(tc.sel) {
				got = append(got, label(e))
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
	for range s.All(workload.Selector{All: true}) {
		break // a reader may stop
	}
}

// Who changes while all are given is in the log several times: stale ones, and
// one that is later than the walk.
func TestAllGivesEachOnceThoughItChangesMeanwhile(t *testing.T) {
	s := New(Options{})
	a, b, c := docker("aaaa"), docker("bbbb"), docker("cccc")
	s.Apply(putLayer(a, "docker", named(a, "a")), putLayer(b, "docker", named(b, "b")), putLayer(c, "docker", named(c, "c")))
	s.Apply(putLayer(b, "docker", named(b, "b2")))
	var got []string
	for e := range s.All(workload.Selector{}) {
		if len(got) == 0 {
			s.Apply(putLayer(b, "docker", named(b, "b3")))
			for i := range 2 * minLog { // until the log has dropped what is stale
				s.Apply(putLayer(c, "docker", named(c, fmt.Sprint("c", i%2))))
			}
		}
		got = append(got, label(e))
	}
	if diff := cmp.Diff([]string{"a", "b3", "c1"}, got); diff != "" {
		t.Error(diff)
	}
}

// label is an entity in a word or two.
func label(e workload.Entity) string {
	var l string
	switch e.Kind {
	case workload.KindContainer:
		l = e.Container.Name
	case workload.KindProcess:
		l = fmt.Sprint(e.Process.Key.PID)
	}
	if e.Gone {
		l += " gone"
	}
	return l
}

// What a batch says of a container is merged once, before the batch's next process
// and at its end; who ends within a batch has ended once, and who returns has too.
func TestABatchShowsEachContainerOnce(t *testing.T) {
	s := New(Options{})
	id := docker("aaaa")
	before := s.Revision()
	s.Apply(putLayer(id, "oci", named(id, "")), putLayer(id, "docker", named(id, "a")), putLayer(id, KernelSource, named(id, "")))
	if got := s.Revision() - before; got != 1 {
		t.Errorf("three layers in one batch were %d changes", got)
	}
	k := key(7, 70)
	before = s.Revision()
	s.Apply(putLayer(id, "docker", named(id, "b")), put(inContainer(k, id)), putLayer(id, "docker", named(id, "c")), putLayer(id, "docker", named(id, "d")))
	if got := s.Revision() - before; got != 3 {
		t.Errorf("a change, a process and two changes were %d changes", got)
	}
	wantName(t, s, k, "d")
	before = s.Revision()
	s.Apply(putLayer(id, "docker", named(id, "e")), gone(id, second), putLayer(id, KernelSource, named(id, "")), gone(id, 2*second))
	if got := s.Revision() - before; got != 3 {
		t.Errorf("an end, a return and an end were %d changes", got)
	}
	s.Apply(putLayer(docker("bbbb"), "docker", named(docker("bbbb"), "x")), forget(docker("bbbb")))
	if _, ok := s.ContainerAnswer(docker("bbbb")); ok || s.Counts().Containers+s.Counts().ContainerTombstones != 1 {
		t.Errorf("a container that was forgotten in the batch that brought it is there: %+v", s.Counts())
	}
}

func TestAnIDIsTheLivingContainersThoughItWasTheKeyOfOneThatIsGone(t *testing.T) {
	s := New(Options{Grace: 100})
	s.Apply(putLayer(moby("aaaa"), "containerd", named(moby("aaaa"), "first")))
	s.Apply(gone(moby("aaaa"), second))
	next := named(docker("aaaa"), "next")
	next.Aliases = []workload.ContainerID{moby("aaaa")}
	s.Apply(putLayer(docker("aaaa"), "docker", next))
	if a, ok := s.ContainerAnswer(moby("aaaa")); !ok || containerName(a) != "next" || a.Exited {
		t.Errorf("answered %q, exited %v", containerName(a), a.Exited)
	}
	s.Apply(gone(docker("aaaa"), 2*second))
	if a, ok := s.ContainerAnswer(moby("aaaa")); !ok || containerName(a) != "first" || !a.Exited {
		t.Errorf("once both are gone: %q, exited %v", containerName(a), a.Exited)
	}
}
