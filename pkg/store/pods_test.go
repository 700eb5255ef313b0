// SPDX-License-Identifier: Apache-2.0

package store

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/workload"
)

func putPod(uid, source string, p *workload.Pod) Change {
	return Change{Pod: &PodChange{UID: uid, Source: source, Layer: p}}
}

func aPod(uid, name string) *workload.Pod {
	return &workload.Pod{PodRef: workload.PodRef{UID: uid, Name: name, Namespace: "shop"}}
}

func inPod(id workload.ContainerID, uid, name string) *workload.Container {
	c := named(id, "web")
	c.Pod = &workload.PodRef{UID: uid, Name: name, Namespace: "shop"}
	return c
}

// podOf is the pod of the answer about a container.
func podOf(t *testing.T, s *Store, id workload.ContainerID) *workload.Pod {
	t.Helper()
	a, ok := s.ContainerAnswer(id)
	if !ok {
		t.Fatalf("%v is not known", id)
	}
	return a.Pod
}

func TestTheAnswersPodIsWhatAllSourcesSayOfIt(t *testing.T) {
	s := New(Options{})
	id := docker("c")
	s.Apply(putLayer(id, "docker", inPod(id, "u1", "web-0")), put(inContainer(key(7, 1), id)))
	if d := cmp.Diff(aPod("u1", "web-0"), podOf(t, s, id)); d != "" {
		t.Errorf("before anybody said more (-want +got):\n%s", d)
	}
	before := s.Revision()
	cri, kubelet := aPod("u1", "web-0"), aPod("u1", "web-0")
	cri.IPs, cri.Labels = []string{"10.0.0.7"}, map[string]string{"internal": "x"}
	kubelet.Phase, kubelet.Labels = "Running", map[string]string{"app": "shop"}
	s.Apply(putPod("u1", "cri", cri), putPod("u1", "kubelet", kubelet))
	for name, p := range map[string]*workload.Pod{"by container": podOf(t, s, id), "by process": s.Resolve(key(7, 1)).Pod} {
		if p.Phase != "Running" || p.Labels["app"] != "shop" || len(p.Labels) != 1 || !slices.Equal(p.IPs, []string{"10.0.0.7"}) || len(p.Sources) != 2 {
			t.Errorf("%s: %+v", name, p)
		}
	}
	if c, _ := s.Container(id); c.Pod.Name != "web-0" {
		t.Errorf("the container has %+v", c.Pod)
	}
	for e := range s.All(workload.Selector{}) {
		if e.Revision > before {
			t.Error("the container changed, though only its pod did")
		}
	}
}

func TestAContainerThatComesAfterItsPodShowsIt(t *testing.T) {
	s := New(Options{})
	p := aPod("u1", "web-0")
	p.Phase = "Running"
	outer, inner := docker("outer"), docker("inner")
	s.Apply(putPod("u1", "kubelet", p), putLayer(outer, "docker", inPod(outer, "u1", "web-0")))
	child := named(inner, "in")
	s.Apply(putLayer(inner, "docker", child), putLayer(inner, KernelSource, &workload.Container{Parent: outer}))
	for _, id := range []workload.ContainerID{outer, inner} {
		if got := podOf(t, s, id); got == nil || got.Phase != "Running" {
			t.Errorf("%v: %+v", id, got)
		}
	}
	s.Apply(putLayer(outer, "docker", inPod(outer, "u2", "web-0")))
	if got := podOf(t, s, inner); got == nil || got.UID != "u2" || got.Phase != "" {
		t.Errorf("after the outer one turned out to be in another pod: %+v", got)
	}
}

// Who may make containers may write any pod's uid onto one.
func TestAReferenceOfAnotherNameBorrowsNoDescription(t *testing.T) {
	s := New(Options{})
	id := docker("liar")
	p := aPod("u1", "web-0")
	p.ServiceAccount = "admin"
	s.Apply(putPod("u1", "kubelet", p), putLayer(id, "docker", inPod(id, "u1", "mine")))
	if d := cmp.Diff(aPod("u1", "mine"), podOf(t, s, id)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestAStaticPodIsFoundByTheHashOfItsManifest(t *testing.T) {
	s := New(Options{})
	id := docker("c")
	mirror := aPod("mirror-uid", "etcd-node1")
	mirror.ConfigHash, mirror.Static = "hash", true
	s.Apply(putPod("mirror-uid", "kubelet", mirror), putLayer(id, "docker", inPod(id, "hash", "etcd-node1")))
	if got := podOf(t, s, id); got.UID != "mirror-uid" || !got.Static {
		t.Errorf("by hash: %+v", got)
	}
	liar := aPod("liar", "etcd-node1")
	liar.ConfigHash = "other"
	s.Apply(putPod("liar", "kubelet", liar))
	if p, ok := s.Pod("other"); ok {
		t.Errorf("anybody may write that annotation: %+v", p)
	}
	own := aPod("hash", "etcd-node1")
	s.Apply(putPod("hash", "cri", own))
	if got := podOf(t, s, id); got.UID != "hash" {
		t.Errorf("a key comes before an alias: %+v", got)
	}
}

func TestTheLifeOfAPod(t *testing.T) {
	s := New(Options{Grace: 10, MaxPodTombstones: 2})
	s.SetAsOf(100)
	id := docker("c")
	p := aPod("u1", "web-0")
	p.Phase = "Running"
	s.Apply(putPod("u1", "kubelet", p), putLayer(id, "docker", inPod(id, "u1", "web-0")))
	s.Apply(Change{Pod: &PodChange{UID: "u1", Gone: 100}})
	got, ok := s.Pod("u1")
	if !ok || got.Phase != "" {
		t.Errorf("a tombstone: %t, %+v", ok, got)
	}
	s.Apply(putPod("u1", "kubelet", p))
	if c := s.Counts(); c.Pods != 0 || c.PodTombstones != 1 {
		t.Errorf("a late answer brought it back: %+v", c)
	}
	s.Apply(putPod("u1", KernelSource, aPod("u1", "web-0")))
	if c := s.Counts(); c.Pods != 1 || c.PodTombstones != 0 {
		t.Errorf("the correlator did not: %+v", c)
	}
	s.Apply(Change{Pod: &PodChange{UID: "u1", Gone: 101}}, expire(110))
	if _, ok := s.Pod("u1"); !ok {
		t.Error("dropped before its time")
	}
	if got := s.GoneSince(workload.Entity{Pod: podKind.named("u1", nil)}); got != 101 {
		t.Errorf("gone since %d", got)
	}
	s.Apply(expire(111))
	if _, ok := s.Pod("u1"); ok {
		t.Error("kept beyond its time")
	}
	if got := podOf(t, s, id); got.Name != "web-0" {
		t.Errorf("its container has %+v", got)
	}
	for _, uid := range []string{"a", "b", "c"} {
		s.Apply(putPod(uid, "cri", aPod(uid, uid)), Change{Pod: &PodChange{UID: uid, Gone: 120}})
	}
	if _, ok := s.Pod("a"); ok || s.Counts().PodTombstones != 2 || s.Counts().DroppedTombstones != 1 {
		t.Errorf("not bounded: %+v", s.Counts())
	}
}

func TestNothingIsLeftOfPodsThatAreGone(t *testing.T) {
	s := New(Options{Grace: 10})
	s.SetAsOf(100)
	id := docker("c")
	for range 300 {
		s.Apply(putPod("u1", "cri", aPod("u1", "x")), putLayer(id, "docker", inPod(id, "u1", "x")), forget(id))
		s.Apply(Change{Pod: &PodChange{UID: "u1", Gone: 100}}, expire(200))
	}
	if n := s.pods.index.n; n != 0 || len(s.pods.byKey) != 0 || len(s.pods.tombs.q) != 0 {
		t.Errorf("%d cells, %d pods, %d tombstones", n, len(s.pods.byKey), len(s.pods.tombs.q))
	}
}

func TestAWatchOfPodsHearsOfThem(t *testing.T) {
	s := New(Options{})
	w := newWalker(s, workload.Selector{Kinds: []workload.Kind{workload.KindPod}})
	read := func() (out []string) {
		b, _ := w.next(t.Context())
		for _, c := range b.Changes {
			if c.Entity.Pod != nil {
				out = append(out, string(c.Type)+" "+c.Entity.Pod.UID+" "+c.Entity.Pod.Name)
			}
		}
		return out
	}
	read()
	s.Apply(putPod("u1", "cri", aPod("u1", "web")), putLayer(docker("c"), "docker", named(docker("c"), "c")))
	if got := read(); !slices.Equal(got, []string{"set u1 web"}) {
		t.Errorf("%q", got)
	}
	s.Apply(Change{Pod: &PodChange{UID: "u1", Forget: true}})
	if got := read(); !slices.Equal(got, []string{"unset u1 "}) {
		t.Errorf("%q", got)
	}
}

func TestARestoredPodGivesWayToWhatLives(t *testing.T) {
	s := New(Options{Grace: 100 * 1e9})
	s.SetAsOf(50)
	old := aPod("u1", "web-0")
	old.Phase, old.Node = "Failed", "n1"
	id := docker("dead")
	c := was(id, "dead", true, 40)
	c.Pod = &old.PodRef
	n := s.Restore(Past{Containers: []PastContainer{c}, Pods: []PastPod{{Pod: old, Ended: true, Since: 40}, {Pod: aPod("u2", "lives")}}})
	if n != 2 || s.Counts().PodTombstones != 1 {
		t.Errorf("%d restored, %+v", n, s.Counts())
	}
	if got := podOf(t, s, id); got.Node != "n1" {
		t.Errorf("the dead container's pod: %+v", got)
	}
	live := docker("live")
	s.Apply(putLayer(live, "docker", inPod(live, "u1", "web-0")))
	if got := podOf(t, s, live); got.Node != "" {
		t.Errorf("answered from the past: %+v", got)
	}
	s.Apply(putPod("u1", KernelSource, aPod("u1", "web-0")))
	if got, ok := s.Pod("u1"); !ok || got.Node != "" || s.Counts().Pods != 1 || s.Counts().PodTombstones != 0 {
		t.Errorf("%+v, %+v", got, s.Counts())
	}
}

func TestThePodsTableNamesEveryFieldOnce(t *testing.T) {
	var have, want []string
	for _, r := range podPrecedence {
		have = append(have, r.field)
	}
	for f := range reflect.TypeFor[workload.Pod]().Fields() {
		if f.Anonymous {
			for g := range f.Type.Fields() {
				want = append(want, g.Name)
			}
			continue
		}
		want = append(want, f.Name)
	}
	slices.Sort(have)
	slices.Sort(want)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("fields of a pod (-) and of the table (+):\n%s", diff)
	}
}

func TestMergePod(t *testing.T) {
	ls := func(pairs ...any) (out []podLayer) {
		for i := 0; i < len(pairs); i += 2 {
			out = append(out, newLayer(pairs[i].(string), pairs[i+1].(*pod)))
		}
		return out
	}
	for name, c := range map[string]struct {
		layers []podLayer
		gone   bool
		want   pod
	}{
		"the kubelet's labels win, the runtime's addresses do": {
			layers: ls("cri", &pod{Labels: map[string]string{"a": "cri"}, IPs: []string{"1"}}, "kubelet", &pod{Labels: map[string]string{"a": "k"}, IPs: []string{"2"}}),
			want:   pod{Labels: map[string]string{"a": "k"}, IPs: []string{"1"}},
		},
		"the kernel's word is the last": {
			layers: ls("kernel", &pod{QoS: "Burstable", PodRef: workload.PodRef{Name: "k"}}, "cri", &pod{PodRef: workload.PodRef{Name: "c"}}),
			want:   pod{QoS: "Burstable", PodRef: workload.PodRef{Name: "c"}},
		},
		"static and host network are what anyone says": {
			layers: ls("kubelet", &pod{Static: true}, "cri", &pod{HostNetwork: true}),
			want:   pod{Static: true, HostNetwork: true},
		},
		"an end is still true of a tombstone": {layers: ls("kubelet", &pod{Phase: "Succeeded"}), gone: true, want: pod{Phase: "Succeeded"}},
		"that it ran is not":                  {layers: ls("kubelet", &pod{Phase: "Running"}), gone: true},
		"missing is the correlator's own":     {layers: ls("cri", &pod{Missing: []string{"x"}}, "kernel", &pod{Missing: []string{"kubelet"}}), want: pod{Missing: []string{"kubelet"}}},
		"what was cut anywhere is said":       {layers: ls("cri", &pod{Truncated: []string{"b"}}, "kubelet", &pod{Truncated: []string{"a", "b"}}), want: pod{Truncated: []string{"a", "b"}}},
	} {
		t.Run(name, func(t *testing.T) {
			got := *mergePod("u", c.layers, c.gone)
			got.Sources = nil
			c.want.UID = "u"
			if d := cmp.Diff(c.want, got); d != "" {
				t.Error(strings.ReplaceAll(d, "\u00a0", " "))
			}
		})
	}
}
