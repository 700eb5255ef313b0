// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"errors"
	"slices"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// newTaskRig has Docker, which knows containers, and ECS.
func newTaskRig(t *testing.T) *podRig {
	r := &podRig{t: t, now: 1e9, s: store.New(store.Options{})}
	r.m = newMachine(config{sources: []sourceInfo{{name: "docker", prefill: true}, {name: "ecs", tasks: true}}})
	return r
}

const aTask = "arn:aws:ecs:us-west-2:111122223333:task/default/158d1c8083dd49d6b527399fd6414f5c"

func inTask(id string, state workload.State) *workload.Container {
	return &workload.Container{
		ID: workload.ContainerID{Runtime: "docker", ID: id}, Name: "ecs-web", State: state,
		Task: &workload.TaskRef{ARN: aTask, Cluster: "default", Family: "shop", Revision: "7", Container: "web"},
	}
}

func TestATaskIsKnownByItsContainersAndAskedForOnce(t *testing.T) {
	r := newTaskRig(t)
	r.feed(evTaskListEnd{source: 1, complete: true, began: r.now})
	r.feed(evListed{source: 0, container: inTask(idA, workload.StateRunning)})
	got, ok := r.s.Task(aTask)
	if !ok || got.Family != "shop" || got.Cluster != "default" || !slices.Equal(got.Missing, []string{"ecs"}) {
		t.Fatalf("by its labels alone: %+v", got)
	}
	var asked []request
	for _, q := range r.reqs {
		if q.kind == reqTask {
			asked = append(asked, q)
		}
	}
	if len(asked) != 1 || asked[0].groupID != aTask || asked[0].source != 1 {
		t.Fatalf("asked %+v", asked)
	}
	r.feed(evTaskAnswer{req: asked[0], task: &workload.Task{ARN: aTask, Cluster: "default", Family: "shop", Service: "web", Known: "RUNNING"}})
	answer, ok := r.s.ContainerAnswer(workload.ContainerID{Runtime: "docker", ID: idA})
	if !ok || answer.Task == nil || answer.Task.Service != "web" || len(answer.Task.Missing) != 0 {
		t.Errorf("the container's task is %+v", answer.Task)
	}
}

func TestATaskThatECSDoesNotKnowIsStillTheLabels(t *testing.T) {
	r := newTaskRig(t)
	r.feed(evTaskListEnd{source: 1, complete: true, began: r.now})
	r.feed(evListed{source: 0, container: inTask(idA, workload.StateRunning)})
	r.feed(evTaskAnswer{req: request{kind: reqTask, source: 1, groupKey: aTask}, err: collectors.ErrNotFound})
	if got, ok := r.s.Task(aTask); !ok || got.Family != "shop" || len(got.Missing) != 0 {
		t.Errorf("task %+v", got)
	}
	r.reqs = nil
	r.after(300)
	if !slices.ContainsFunc(r.reqs, func(q request) bool { return q.kind == reqTask }) {
		t.Error("it is not asked for again")
	}
	r.feed(evTaskAnswer{req: request{kind: reqTask, source: 1, groupKey: aTask}, err: errors.Join(collectors.ErrUnavailable)})
	if got, _ := r.s.Task(aTask); got == nil || !slices.Equal(got.Missing, []string{"ecs"}) {
		t.Errorf("of a source that cannot say: %+v", got)
	}
}

func TestATaskEndsWithItsContainersAndWhenECSSaysSo(t *testing.T) {
	r := newTaskRig(t)
	hint := func(kind collectors.HintKind, task *workload.Task) {
		r.feed(evHint{source: 1, hint: collectors.Hint{Kind: kind, Task: task}})
	}
	r.feed(evListed{source: 0, container: inTask(idA, workload.StateRunning)})
	hint(collectors.HintCreated, &workload.Task{ARN: aTask, Cluster: "default", Family: "shop", Known: "RUNNING"})
	hint(collectors.HintDeleted, &workload.Task{ARN: aTask})
	r.after(5000)
	if c := r.s.Counts(); c.Tasks != 1 || c.TaskTombstones != 0 {
		t.Fatalf("it is gone while its container runs: %+v", c)
	}
	r.feed(evHint{source: 0, hint: collectors.Hint{Kind: collectors.HintDeleted, ID: workload.ContainerID{Runtime: "docker", ID: idA}}})
	r.after(5000)
	if c := r.s.Counts(); c.Tasks != 0 || c.TaskTombstones != 1 {
		t.Errorf("it is not gone: %+v", c)
	}
	if got, ok := r.s.Task(aTask); !ok || got.Known != "" || got.Family != "shop" {
		t.Errorf("the tombstone: %+v", got)
	}
}
