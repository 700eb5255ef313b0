// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"iter"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/internal/filter"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

func cid(id string) workload.ContainerID { return workload.ContainerID{Runtime: "docker", ID: id} }

func layer(c *workload.Container) store.Change {
	return store.Change{Container: &store.ContainerChange{ID: c.ID, Source: "docker", Layer: c}}
}

func podLayer(p *workload.Pod) store.Change {
	return store.Change{Pod: &store.PodChange{UID: p.UID, Source: "cri", Layer: p}}
}

// sightWorld has web and its sandbox in a pod, db, and a process in each and one of the host.
func sightWorld(t *testing.T, hide workload.Filter) sight {
	t.Helper()
	s := store.New(store.Options{})
	ref := &workload.PodRef{UID: "u1", Name: "shop-0", Namespace: "prod"}
	s.Apply(
		layer(&workload.Container{ID: cid("web"), Name: "web", Pod: ref, State: workload.StateRunning, Image: workload.ImageRef{Name: "nginx:1"}}),
		layer(&workload.Container{ID: cid("pause"), Name: "shop-0", Pod: ref, Sandbox: true}),
		layer(&workload.Container{ID: cid("db"), Name: "db", Labels: map[string]string{"app": "db"}}),
		podLayer(&workload.Pod{PodRef: *ref, Labels: map[string]string{"app": "shop"}}),
		store.Change{Process: process(10, "web")}, store.Change{Process: process(11, "db")}, store.Change{Process: process(12, "")},
	)
	m, err := filter.New(workload.Filter{}, hide)
	if err != nil {
		t.Fatal(err)
	}
	return sight{s, m}
}

func process(pid workload.PID, id string) *workload.Process {
	p := &workload.Process{Key: workload.ProcessKey{PID: pid, Start: uint64(pid) * 1000}, Status: workload.StatusHost}
	if id != "" {
		p.Status, p.Container, p.Confidence = workload.StatusContainer, cid(id), workload.Confirmed
	}
	return p
}

func keys(es iter.Seq[workload.Entity]) (out []string) {
	for e := range es {
		out = append(out, strings.TrimPrefix(e.Key(), "container docker://"))
	}
	slices.Sort(out)
	return out
}

func TestWhatASelectorShows(t *testing.T) {
	s := sightWorld(t, workload.Filter{})
	type f = workload.Filter
	for name, c := range map[string]struct {
		sel  workload.Selector
		want []string
	}{
		"everything":            {workload.Selector{}, []string{"db", "pause", "web"}},
		"no sandboxes":          {workload.Selector{NoSandboxes: true}, []string{"db", "web"}},
		"by name":               {workload.Selector{Include: f{Names: []string{"w*"}}}, []string{"web"}},
		"but for a name":        {workload.Selector{Exclude: f{Names: []string{"w*"}}}, []string{"db", "pause"}},
		"by the pod's label":    {workload.Selector{Include: f{Labels: []string{"app=shop"}}, NoSandboxes: true}, []string{"web"}},
		"pods by namespace":     {workload.Selector{Kinds: []workload.Kind{workload.KindPod}, Include: f{Namespaces: []string{"prod"}}}, []string{"pod u1"}},
		"no pod":                {workload.Selector{Kinds: []workload.Kind{workload.KindPod}, Exclude: f{Names: []string{"shop-*"}}}, nil},
		"processes by image":    {workload.Selector{Kinds: []workload.Kind{workload.KindProcess}, Include: f{Images: []string{"nginx"}}}, []string{"process 10@10000"}},
		"processes but for one": {workload.Selector{Kinds: []workload.Kind{workload.KindProcess}, Exclude: f{Names: []string{"web"}}}, []string{"process 11@11000", "process 12@12000"}},
		"a bad pattern":         {workload.Selector{Include: f{Names: []string{"["}}}, nil},
	} {
		if got := keys(s.list(c.sel)); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// reader keeps a copy of what a watch says.
type reader struct {
	next func() ([]workload.Change, bool)
	has  map[string]bool
	said []string
}

func (s sight) reader(t *testing.T, sel workload.Selector) *reader {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second) // a change that is not told is not waited for in vain
	next, stop := iter.Pull(s.watch(ctx, sel))
	t.Cleanup(func() { cancel(); stop() })
	r := &reader{next: next, has: map[string]bool{}}
	r.read(t)
	return r
}

// read takes the next batch.
func (r *reader) read(t *testing.T) {
	t.Helper()
	cs, ok := r.next()
	if !ok {
		t.Fatal("the watch ended")
	}
	r.said = nil
	for _, c := range cs {
		switch id := strings.TrimPrefix(c.Entity.Key(), "container docker://"); c.Type {
		case workload.ChangeSet:
			r.has[id] = true
			r.said = append(r.said, "set "+id)
		case workload.ChangeUnset:
			delete(r.has, id)
			r.said = append(r.said, "unset "+id)
		}
	}
}

func (r *reader) want(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for id := range r.has {
		got = append(got, id)
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the reader has %q, want %q", got, want)
	}
}

func TestAStreamFollowsWhatComesIntoSightAndLeavesIt(t *testing.T) {
	s := sightWorld(t, workload.Filter{})
	r := s.reader(t, workload.Selector{Include: workload.Filter{Names: []string{"w*"}}})
	r.want(t, "web")
	s.store.Apply(layer(&workload.Container{ID: cid("new"), Name: "worker"}))
	r.read(t)
	r.want(t, "new", "web")
	s.store.Apply(layer(&workload.Container{ID: cid("web"), Name: "renamed"}), layer(&workload.Container{ID: cid("db"), Name: "db2"}))
	r.read(t)
	r.want(t, "new")
	if !slices.Equal(r.said, []string{"unset web"}) {
		t.Errorf("said %q", r.said)
	}
}

// The labels that people choose are the pod's, which is heard of after its containers.
func TestAPodsLabelsBringItsContainersIntoSight(t *testing.T) {
	s := sightWorld(t, workload.Filter{})
	r := s.reader(t, workload.Selector{Include: workload.Filter{Labels: []string{"team=a"}}})
	r.want(t)
	labelled := &workload.Pod{PodRef: workload.PodRef{UID: "u1", Name: "shop-0", Namespace: "prod"}, Labels: map[string]string{"team": "a"}}
	s.store.Apply(podLayer(labelled))
	r.read(t)
	r.want(t, "pause", "web")
	labelled.Labels = nil
	other := *labelled
	other.Labels = map[string]string{}
	s.store.Apply(podLayer(&other))
	r.read(t)
	r.want(t)
}

// A filter on containers means their processes, too, whose own changes may come before
// their container has its name.
func TestAContainersNewNameBringsItsProcessesIntoSight(t *testing.T) {
	for name, kinds := range map[string][]workload.Kind{
		"processes":     {workload.KindProcess},
		"and container": {workload.KindProcess, workload.KindContainer},
	} {
		t.Run(name, func(t *testing.T) {
			s := sightWorld(t, workload.Filter{})
			sel := workload.Selector{Kinds: kinds, Include: workload.Filter{Names: []string{"late"}}}
			with := func(processes ...string) []string {
				if len(kinds) > 1 && len(processes) > 0 {
					return append([]string{"db"}, processes...)
				}
				return processes
			}
			r := s.reader(t, sel)
			r.want(t)
			from := s.store.Revision()
			s.store.Apply(layer(&workload.Container{ID: cid("db"), Name: "late"}))
			r.read(t)
			r.want(t, with("process 11@11000")...)
			s.store.Apply(store.Change{Process: process(13, "db")})
			r.read(t)
			r.want(t, with("process 11@11000", "process 13@13000")...)
			back := s.reader(t, workload.Selector{From: from, Kinds: kinds, Include: sel.Include})
			back.want(t, with("process 11@11000", "process 13@13000")...)
			s.store.Apply(layer(&workload.Container{ID: cid("db"), Name: "another"}))
			r.read(t)
			r.want(t)
			back.read(t)
			back.want(t)
			s.store.Apply(store.Change{Process: process(14, "db2")}) // before its container
			s.store.Apply(layer(&workload.Container{ID: cid("db2"), Name: "late"}))
			r.read(t)
			if !r.has["process 14@14000"] {
				t.Errorf("said %q of a process that came before its container", r.said)
			}
		})
	}
}

func TestWhoResumesIsToldToForgetWhatItMayHaveSeen(t *testing.T) {
	s := sightWorld(t, workload.Filter{})
	from := s.store.Revision()
	s.store.Apply(layer(&workload.Container{ID: cid("web"), Name: "renamed"}))
	r := s.reader(t, workload.Selector{From: from, Include: workload.Filter{Names: []string{"web"}}})
	if !slices.Equal(r.said, []string{"unset web"}) {
		t.Errorf("said %q", r.said)
	}
	s.store.Apply(layer(&workload.Container{ID: cid("web"), Name: "again"}), layer(&workload.Container{ID: cid("x"), Name: "web"}))
	r.read(t)
	if !slices.Equal(r.said, []string{"set x"}) {
		t.Errorf("said %q", r.said)
	}
}

func TestAHiddenContainerIsStillTheAnswerAndNeverTheHost(t *testing.T) {
	s := sightWorld(t, workload.Filter{Namespaces: []string{"prod"}})
	if got := keys(s.list(workload.Selector{})); !slices.Equal(got, []string{"db"}) {
		t.Errorf("listed %q", got)
	}
	if got := keys(s.list(workload.Selector{Kinds: []workload.Kind{workload.KindPod}})); got != nil {
		t.Errorf("listed %q", got)
	}
	s.reader(t, workload.Selector{}).want(t, "db")
	before := s.store.Resolve(process(10, "").Key)
	res := []workload.Result{
		{Answer: before, Explanation: []workload.Hop{{What: "container", Detail: cid("web").String() + ", name web, image nginx:1, running"}}},
		{Answer: s.store.Resolve(process(10, "").Key)}, {Answer: s.store.Resolve(process(11, "").Key)}, {Answer: s.store.Resolve(process(12, "").Key)},
	}
	s.conceal(res)
	a := res[0].Answer
	c := a.Container()
	if a.Status != workload.StatusContainer || a.Confidence != workload.Confirmed || c.ID != cid("web") || !c.Filtered || c.State != workload.StateRunning {
		t.Errorf("%+v, %+v", a, c)
	}
	if c.Name != "" || c.Image.Name != "" || c.Pod != nil || a.Pod.Name != "" || a.Pod.UID != "u1" || !a.Pod.Filtered {
		t.Errorf("says too much: %+v, %+v", c, a.Pod)
	}
	if d := res[0].Explanation[0].Detail; strings.Contains(d, "nginx") || !strings.Contains(d, "hidden") {
		t.Errorf("the evidence says %q", d)
	}
	if res[1].Answer.Container() != c {
		t.Error("equal containers are two")
	}
	if before.Container().Name != "web" {
		t.Error("the store's own container was changed")
	}
	if c := res[2].Answer.Container(); c.Filtered || c.Name != "db" || res[3].Answer.Status != workload.StatusHost {
		t.Errorf("%+v, %+v", c, res[3].Answer)
	}
}

func TestATaskIsHiddenAndItsContainersAreNot(t *testing.T) {
	s := sightWorld(t, workload.Filter{Labels: []string{"team=secret"}})
	ref := &workload.TaskRef{ARN: "a1", Family: "shop"}
	s.store.Apply(
		store.Change{Task: &store.TaskChange{ARN: "a1", Source: "ecs", Layer: &workload.Task{ARN: "a1", Family: "shop", Service: "web"}}},
		store.Change{Task: &store.TaskChange{ARN: "a2", Source: "ecs", Layer: &workload.Task{ARN: "a2", Family: "other"}}},
		layer(&workload.Container{ID: cid("web"), Name: "web", Task: ref}),
	)
	sel := workload.Selector{Kinds: []workload.Kind{workload.KindTask}}
	if got := keys(s.list(sel)); !slices.Equal(got, []string{"task a1", "task a2"}) {
		t.Errorf("listed %q", got)
	}
	sel.Include = workload.Filter{Names: []string{"web"}}
	if got := keys(s.list(sel)); !slices.Equal(got, []string{"task a1"}) {
		t.Errorf("those of the service: %q", got)
	}
	s.store.Apply(store.Change{Task: &store.TaskChange{ARN: "a1", Source: "ecs", Layer: &workload.Task{ARN: "a1", Family: "shop", Tags: map[string]string{"team": "secret"}}}})
	if got := keys(s.list(workload.Selector{Kinds: sel.Kinds})); !slices.Equal(got, []string{"task a2"}) {
		t.Errorf("with one hidden: %q", got)
	}
	a, _ := s.store.ContainerAnswer(cid("web"))
	res := []workload.Result{{Answer: a}}
	s.conceal(res)
	if got := res[0].Answer; got.Task == nil || got.Task.ARN != "a1" || got.Task.Family != "" || !got.Task.Filtered || got.Container().Name != "web" {
		t.Errorf("the answer has the task %+v", got.Task)
	}
}

// One id may be that of two containers, of two people's engines or two hosts'.
func TestContainersOfOneIDInTwoInstancesAreTwoToWhoFilters(t *testing.T) {
	ours := &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: "web"}}
	far := &workload.Container{ID: workload.ContainerID{Runtime: "docker", Instance: workload.RemoteInstance("node2", ""), ID: "web"}}
	a, b := workload.Entity{Container: ours}.Key(), workload.Entity{Container: far}.Key()
	if a == b {
		t.Errorf("both are %q", a)
	}
}
