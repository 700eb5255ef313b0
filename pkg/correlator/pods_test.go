// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The sources of podRig.
const (
	pOCI = iota
	pCRI
	pKubelet
)

// podRig drives a machine and keeps a store of what it says.
type podRig struct {
	t    *testing.T
	m    *machine
	s    *store.Store
	now  workload.KTime
	reqs []request
}

func newPodRig(t *testing.T) *podRig {
	r := &podRig{t: t, now: 1e9, s: store.New(store.Options{})}
	r.m = newMachine(config{sources: []sourceInfo{{name: "oci", prefill: true, files: true}, {name: "cri", pods: true}, {name: "kubelet", pods: true}}})
	return r
}

func (r *podRig) feed(in any) {
	r.now += 1000
	out := r.m.step(r.now, in)
	r.s.SetAsOf(r.now)
	r.s.Apply(out.changes...)
	r.reqs = append(r.reqs, out.requests...)
}

func (r *podRig) after(ms int) {
	for end := r.now + workload.KTime(ms)*simMS; r.now < end; {
		if next := r.m.next(); next == 0 || next > end {
			r.now = end
		} else {
			r.now = max(next, r.now)
		}
		r.feed(evTick{})
	}
}

// asked gives the questions about pods since the last call, as "source uid".
func (r *podRig) asked() (out []string) {
	for _, q := range r.reqs {
		if q.kind == reqPod {
			out = append(out, r.m.cfg.sources[q.source].name+" "+q.groupID)
		}
	}
	r.reqs = nil
	slices.Sort(out)
	return out
}

func (r *podRig) wantAsked(want ...string) {
	r.t.Helper()
	if got := r.asked(); !slices.Equal(got, want) {
		r.t.Errorf("asked %q, want %q", got, want)
	}
}

// answerPods answers what is asked about pods until nothing is.
func (r *podRig) answerPods(say func(source int, uid string) (*workload.Pod, error)) {
	for len(r.reqs) > 0 {
		q := r.reqs[0]
		r.reqs = r.reqs[1:]
		if q.kind == reqPod {
			p, err := say(q.source, q.groupID)
			r.feed(evPodAnswer{req: q, pod: p, err: err})
		}
	}
}

func (r *podRig) listEnds() {
	for i := range r.m.cfg.sources {
		r.feed(evPodListEnd{source: i, complete: true, began: r.now})
	}
}

func inPod(id, uid, name string, state workload.State) *workload.Container {
	return &workload.Container{
		ID: workload.ContainerID{Runtime: "containerd", Namespace: "k8s.io", ID: id}, Name: "app", State: state,
		Pod: &workload.PodRef{UID: uid, Name: name, Namespace: "shop"},
	}
}

func aPod(uid, name string) *workload.Pod {
	return &workload.Pod{PodRef: workload.PodRef{UID: uid, Name: name, Namespace: "shop"}}
}

// pod gives the pod as the store has it, and whether it lives.
func (r *podRig) pod(uid string) (p *workload.Pod, live bool) {
	for e := range r.s.All(workload.Selector{Kinds: []workload.Kind{workload.KindPod}, All: true}) {
		if e.Pod.UID == uid {
			return e.Pod, !e.Gone
		}
	}
	return nil, false
}

func (r *podRig) wantLive(uid string, want bool) *workload.Pod {
	r.t.Helper()
	p, live := r.pod(uid)
	if p == nil || live != want {
		r.t.Fatalf("pod %s: %+v, live %t, want %t", uid, p, live, want)
	}
	return p
}

func TestAPodIsThereWithItsFirstContainerAndEachSourceIsAskedOnce(t *testing.T) {
	r := newPodRig(t)
	r.listEnds()
	sandbox := inPod(idA, "u1", "web-0", workload.StateRunning)
	sandbox.Sandbox = true
	r.feed(evListed{source: pOCI, container: sandbox})
	p := r.wantLive("u1", true)
	if p.Name != "web-0" || p.Namespace != "shop" || !slices.Equal(p.Missing, []string{"cri", "kubelet"}) || len(p.Sandboxes) != 1 || p.Sandboxes[0].ID != idA {
		t.Errorf("%+v", p)
	}
	r.wantAsked("cri u1", "kubelet u1")
	r.feed(evListed{source: pOCI, container: inPod(idB, "u1", "web-0", workload.StateRunning)})
	r.wantAsked()
	full := aPod("u1", "web-0")
	full.Phase = "Running"
	r.feed(evPodAnswer{req: request{kind: reqPod, source: pKubelet, groupKey: "u1"}, pod: full})
	if p := r.wantLive("u1", true); p.Phase != "Running" || !slices.Equal(p.Missing, []string{"cri"}) {
		t.Errorf("%+v", p)
	}
	r.after(600_000)
	r.wantAsked()
}

func TestASourceThatDoesNotKnowThePodYetIsAskedAgainEverMoreSeldom(t *testing.T) {
	r := newPodRig(t)
	r.listEnds()
	r.feed(evListed{source: pOCI, container: inPod(idA, "u1", "web-0", workload.StateRunning)})
	n := 0
	for range 3600 {
		r.answerPods(func(source int, _ string) (*workload.Pod, error) {
			if source == pCRI {
				return nil, collectors.ErrNotMine
			}
			n++
			return nil, fmt.Errorf("look up: %w", collectors.ErrNotFound)
		})
		r.after(1000)
	}
	if n < 12 || n > 24 {
		t.Errorf("asked %d times in an hour", n)
	}
	if p := r.wantLive("u1", true); len(p.Missing) != 0 {
		t.Errorf("who does not know it has answered: %+v", p)
	}
	r.answerPods(func(int, string) (*workload.Pod, error) { return nil, collectors.ErrUnavailable })
	r.after(400_000)
	r.answerPods(func(int, string) (*workload.Pod, error) { return nil, collectors.ErrUnavailable })
	if p := r.wantLive("u1", true); !slices.Equal(p.Missing, []string{"kubelet"}) {
		t.Errorf("who cannot say has not: %+v", p)
	}
}

// At the start the first list says of a hundred pods at once what would else be
// a hundred questions.
func TestAtTheStartTheListIsWaitedFor(t *testing.T) {
	r := newPodRig(t)
	for n := range 100 {
		uid := fmt.Sprintf("u%d", n)
		r.feed(evListed{source: pOCI, container: inPod(strings.Repeat(fmt.Sprintf("%02x", n), 32), uid, "web", workload.StateRunning)})
	}
	r.wantAsked()
	for n := range 100 {
		for _, i := range []int{pCRI, pKubelet} {
			r.feed(evPod{source: i, pod: aPod(fmt.Sprintf("u%d", n), "web")})
		}
	}
	r.listEnds()
	r.after(10_000)
	r.wantAsked()
	if p := r.wantLive("u7", true); len(p.Missing) != 0 || len(p.Sources) != 3 {
		t.Errorf("%+v", p)
	}
}

func TestAPodEndsWhenItsContainersHaveAndTheSourcesDenyIt(t *testing.T) {
	r := newPodRig(t)
	r.listEnds()
	r.feed(evListed{source: pCRI, container: inPod(idA, "u1", "web-0", workload.StateRunning)})
	r.answerPods(func(_ int, uid string) (*workload.Pod, error) { return aPod(uid, "web-0"), nil })
	r.feed(evHint{source: pKubelet, hint: collectors.Hint{Kind: collectors.HintDeleted, Pod: aPod("u1", "")}})
	r.after(5000)
	r.wantLive("u1", true) // its container runs
	r.asked()
	r.feed(evListed{source: pCRI, container: inPod(idA, "u1", "web-0", workload.StateExited)})
	r.after(5000)
	r.wantAsked("cri u1")
	r.wantLive("u1", true) // CRI has not denied it
	r.feed(evPodAnswer{req: request{kind: reqPod, source: pCRI, groupKey: "u1"}, err: collectors.ErrNotFound})
	r.after(5000)
	if p := r.wantLive("u1", false); p.Name != "web-0" {
		t.Errorf("the tombstone says %+v", p)
	}
	r.feed(evListed{source: pCRI, container: inPod(idB, "u1", "web-0", workload.StateRunning)})
	r.wantLive("u1", true) // the kubelet has made it anew
}

func TestAPodThatNoSourceKnowsEndsWithItsContainers(t *testing.T) {
	r := newPodRig(t)
	r.listEnds()
	r.feed(evListed{source: pOCI, container: inPod(idA, "u1", "web-0", workload.StateRunning)})
	r.feed(evHint{source: pOCI, hint: collectors.Hint{Kind: collectors.HintDeleted, ID: inPod(idA, "", "", "").ID}})
	r.after(5000)
	r.wantLive("u1", false)
	r.after(60_000)
	if n := len(r.m.pods.all) + len(r.m.pods.byID); n != 0 {
		t.Errorf("%d pods are left in the machine", n)
	}
}

func TestWhatAListDoesNotHaveIsGoneThere(t *testing.T) {
	r := newPodRig(t)
	r.listEnds()
	r.feed(evPod{source: pKubelet, pod: aPod("u1", "a")})
	r.feed(evPod{source: pKubelet, pod: aPod("u2", "b")})
	began := r.now
	r.after(1000)
	r.feed(evPod{source: pKubelet, pod: aPod("u2", "b")})
	r.feed(evPodListEnd{source: pKubelet, complete: false, began: began})
	r.after(5000)
	r.wantLive("u1", true) // the list was not whole
	began = r.now
	r.feed(evPod{source: pKubelet, pod: aPod("u2", "b")})
	r.feed(evPodListEnd{source: pKubelet, complete: true, began: began})
	r.after(5000)
	r.wantLive("u1", false)
	r.wantLive("u2", true)
}

func TestAStaticPodAndItsMirrorAreOne(t *testing.T) {
	mirror := aPod("mirror", "etcd")
	mirror.Static, mirror.ConfigHash = true, "hash"
	for name, feed := range map[string][]any{
		"the container first": {evListed{source: pOCI, container: inPod(idA, "hash", "etcd", workload.StateRunning)}, evPod{source: pKubelet, pod: mirror}},
		"the mirror first":    {evPod{source: pKubelet, pod: mirror}, evListed{source: pOCI, container: inPod(idA, "hash", "etcd", workload.StateRunning)}},
		"both, then joined": {
			evPod{source: pKubelet, pod: aPod("mirror", "etcd")}, evListed{source: pOCI, container: inPod(idA, "hash", "etcd", workload.StateRunning)},
			evPod{source: pCRI, pod: aPod("hash", "etcd")}, evPod{source: pKubelet, pod: mirror},
		},
	} {
		r := newPodRig(t)
		r.listEnds()
		for _, in := range feed {
			r.feed(in)
		}
		if n := r.s.Counts().Pods; n != 1 {
			t.Errorf("%s: %d pods", name, n)
		}
		a, _ := r.s.ContainerAnswer(inPod(idA, "", "", "").ID)
		if a.Pod == nil || !a.Pod.Static {
			t.Errorf("%s: %+v", name, a.Pod)
		}
	}
	r := newPodRig(t)
	r.listEnds()
	liar := aPod("liar", "etcd")
	liar.ConfigHash = "hash" // but not static: anybody may write the annotation
	r.feed(evListed{source: pOCI, container: inPod(idA, "hash", "etcd", workload.StateRunning)})
	r.feed(evPod{source: pKubelet, pod: liar})
	if n := r.s.Counts().Pods; n != 2 {
		t.Errorf("a liar: %d pods", n)
	}
}

// The end state does not depend on the order of what is heard.
func TestTheOrderOfWhatIsHeardOfPodsDoesNotMatter(t *testing.T) {
	mirror := aPod("mirror", "etcd")
	mirror.Static, mirror.ConfigHash = true, "hash"
	cri := aPod("u1", "web-0")
	cri.IPs = []string{"10.0.0.1"}
	other := inPod(strings.Repeat("c3", 32), "u2", "other", workload.StateRunning)
	inputs := []any{
		evListed{source: pOCI, container: inPod(idA, "u1", "web-0", workload.StateRunning)},
		evListed{source: pCRI, container: inPod(idA, "u1", "web-0", workload.StateRunning)},
		evListed{source: pOCI, container: inPod(idB, "hash", "etcd", workload.StateRunning)},
		evListed{source: pOCI, container: other},
		evListed{source: pCRI, container: inPod(other.ID.ID, "u1", "web-0", workload.StateRunning)}, // the sources disagree
		evPod{source: pCRI, pod: cri}, evPod{source: pKubelet, pod: aPod("u1", "web-0")}, evPod{source: pKubelet, pod: mirror},
	}
	var want map[string]string
	for seed := range uint64(300) {
		r := newPodRig(t)
		r.listEnds()
		rnd := rand.New(rand.NewPCG(seed, 1))
		for _, i := range rnd.Perm(len(inputs)) {
			r.feed(inputs[i])
			if rnd.IntN(4) == 0 {
				r.feed(inputs[i]) // twice
			}
		}
		r.answerPods(func(int, string) (*workload.Pod, error) { return nil, collectors.ErrNotFound })
		r.after(20_000)
		got := map[string]string{}
		for e := range r.s.All(workload.Selector{Kinds: []workload.Kind{workload.KindPod}, All: true}) {
			p := *e.Pod
			p.Sources, p.UID = nil, ""
			slices.SortFunc(p.Sandboxes, func(a, b workload.ContainerID) int { return strings.Compare(a.ID, b.ID) })
			got[p.Name+fmt.Sprint(e.Gone)] = fmt.Sprintf("%+v", p)
		}
		if want == nil {
			want = got
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("seed %d (-first +this):\n%s", seed, d)
		}
	}
}
