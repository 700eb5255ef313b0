// SPDX-License-Identifier: Apache-2.0

package store

import (
	"testing"

	"github.com/pidigree/pidigree/pkg/workload"
)

func setTask(arn, source string, l *workload.Task) Change {
	l.ARN = arn
	return Change{Task: &TaskChange{ARN: arn, Source: source, Layer: l}}
}

func TestAContainerHasItsTaskAndNotAnothersDescription(t *testing.T) {
	s := New(Options{})
	id := workload.ContainerID{Runtime: "docker", ID: "4f3a"}
	s.Apply(
		setTask("a1", "ecs", &workload.Task{Family: "shop", Cluster: "prod", Service: "web"}),
		Change{Container: &ContainerChange{ID: id, Source: "docker", Layer: &workload.Container{ID: id, Task: &workload.TaskRef{ARN: "a1", Family: "shop", Cluster: "prod"}}}},
	)
	if a, _ := s.ContainerAnswer(id); a.Task == nil || a.Task.Service != "web" {
		t.Errorf("task %+v", a.Task)
	}
	s.Apply(Change{Container: &ContainerChange{ID: id, Source: "docker", Layer: &workload.Container{ID: id, Task: &workload.TaskRef{ARN: "a1", Family: "other", Cluster: "prod"}}}})
	if a, _ := s.ContainerAnswer(id); a.Task == nil || a.Task.Service != "" || a.Task.Family != "other" {
		t.Errorf("a reference to a task of another family has its description: %+v", a.Task)
	}
	s.Apply(Change{Container: &ContainerChange{ID: id, Source: "ecs", Layer: &workload.Container{ID: id, Task: &workload.TaskRef{ARN: "a1", Family: "shop", Cluster: "prod"}}}})
	if a, _ := s.ContainerAnswer(id); a.Task == nil || a.Task.Service != "web" {
		t.Errorf("ECS's word on whose the container is does not win: %+v", a.Task)
	}
}

func TestTasksAreWatchedAndKeptForTheGrace(t *testing.T) {
	s := New(Options{Grace: 100})
	s.SetAsOf(10)
	s.Apply(setTask("a1", "ecs", &workload.Task{Family: "shop", Known: "RUNNING"}), setTask("a2", "ecs", &workload.Task{Family: "shop"}))
	var seen []string
	for e := range s.All(workload.Selector{Kinds: []workload.Kind{workload.KindTask}}) {
		seen = append(seen, e.Task.ARN)
	}
	if len(seen) != 2 {
		t.Errorf("listed %v", seen)
	}
	s.Apply(Change{Task: &TaskChange{ARN: "a1", Gone: 20}})
	if got, ok := s.Task("a1"); !ok || got.Known != "" || s.Counts().TaskTombstones != 1 {
		t.Errorf("tombstone %+v, %v", got, ok)
	}
	s.Apply(Change{Expire: 119})
	if _, ok := s.Task("a1"); !ok {
		t.Error("gone before its time")
	}
	s.Apply(Change{Expire: 120})
	if _, ok := s.Task("a1"); ok || s.Counts().TaskTombstones != 0 || s.Counts().Tasks != 1 {
		t.Errorf("kept beyond its time: %+v", s.Counts())
	}
}
