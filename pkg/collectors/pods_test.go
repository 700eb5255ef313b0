// SPDX-License-Identifier: Apache-2.0

package collectors_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

func podNamed(uid string) *workload.Pod {
	return &workload.Pod{PodRef: workload.PodRef{UID: uid, Name: uid}}
}

// podsOnly is a source that knows pods and lists no containers, as the kubelet.
type podsOnly struct {
	collectors.Collector
	collectors.PodCollector
}

func TestPodsAreListedBesideContainersAndAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFakePods("both")
		k := collectortest.NewFakePods("kubelet")
		f.Put(web("a"))
		for _, uid := range []string{"u1", "u2"} {
			f.PutPod(podNamed(uid))
		}
		k.PutPod(podNamed("u1"))
		pods, listings := make(chan string, 10), make(chan collectors.PodListing, 10)
		r := start(t, collectors.SupervisorOptions{
			OnPod:        func(s string, p *workload.Pod) { pods <- s + " " + p.UID },
			OnPodsListed: func(_ string, l collectors.PodListing) { listings <- l },
		}, f, podsOnly{Collector: collectortest.Bare(k), PodCollector: k})
		synctest.Wait()
		close(pods)
		var got []string
		for p := range pods {
			got = append(got, p)
		}
		slices.Sort(got)
		if !slices.Equal(got, []string{"both u1", "both u2", "kubelet u1"}) || !slices.Equal(r.containers, []string{"both a"}) {
			t.Errorf("pods %v, containers %v", got, r.containers)
		}
		for range 2 {
			if l := <-listings; !l.Complete || len(l.UIDs) == 0 || l.Began.IsZero() {
				t.Errorf("%+v", l)
			}
		}
		st := r.state(t, "kubelet")
		if st.State != "running" || st.Calls["list-pods"] != 1 || st.Calls["list"] != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestALookupOfAPodIsBoundedCountedAndChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, bare := collectortest.NewFakePods("pods"), collectortest.NewFake("bare")
		static := podNamed("mirror")
		static.ConfigHash, static.Static = "hash", true
		f.PutPod(podNamed("u1"))
		r := start(t, collectors.SupervisorOptions{}, f, bare, podsOnly{Collector: collectortest.Bare(collectortest.NewFake("liar")), PodCollector: oneAnswer{static}})
		synctest.Wait()
		if p, err := r.LookupPod(t.Context(), "pods", "u1"); err != nil || p.UID != "u1" {
			t.Errorf("%+v, %v", p, err)
		}
		for name, c := range map[string]struct {
			source, uid string
			want        error
		}{
			"of another uid": {"liar", "u1", collectors.ErrUnavailable}, "not there": {"pods", "u9", collectors.ErrNotFound},
			"a source without pods": {"bare", "u1", collectors.ErrNotMine}, "no source": {"nobody", "u1", collectors.ErrNotPresent},
		} {
			if _, err := r.LookupPod(t.Context(), c.source, c.uid); !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if p, err := r.LookupPod(t.Context(), "liar", "hash"); err != nil || p.UID != "mirror" {
			t.Errorf("a static pod by its hash: %+v, %v", p, err)
		}
		f.Set(collectortest.Behaviour{Hung: true, Only: []string{"lookup-pod"}})
		began := time.Now()
		if _, err := r.LookupPod(t.Context(), "pods", "u1"); !errors.Is(err, collectors.ErrUnavailable) || time.Since(began) != 2*time.Second {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		f.Set(collectortest.Behaviour{Panic: true, Only: []string{"lookup-pod"}})
		if _, err := r.LookupPod(t.Context(), "pods", "u1"); !errors.Is(err, collectors.ErrUnavailable) {
			t.Errorf("a panic: %v", err)
		}
		if st := r.state(t, "pods"); st.Calls["lookup-pod"] != 4 || st.Errors != 2 {
			t.Errorf("%+v", st)
		}
	})
}

// oneAnswer says the same about every pod.
type oneAnswer struct{ p *workload.Pod }

func (o oneAnswer) LookupPod(context.Context, string) (*workload.Pod, error) { return o.p, nil }

func (o oneAnswer) ListPods(context.Context) iter.Seq2[*workload.Pod, error] {
	return func(yield func(*workload.Pod, error) bool) { yield(nil, nil) }
}
