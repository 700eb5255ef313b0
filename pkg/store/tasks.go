// SPDX-License-Identifier: Apache-2.0

package store

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

type task = workload.Task

var taskKind = groupKind[task]{
	kind: workload.KindTask,
	merge: func(arn string, layers []layerOf[task], gone bool) *task {
		t := mergeBy(taskPrecedence, mergingOf[task]{arrived: layers, gone: gone})
		t.ARN = arn
		return t
	},
	ids:     func(arn string, _ []layerOf[task]) []string { return []string{arn} },
	put:     func(e *workload.Entity, t *task) { e.Task = t },
	named:   func(arn string, _ *task) *task { return &task{ARN: arn} },
	keyOf:   func(t *task) string { return t.ARN },
	sources: func(t *task) *[]workload.Provenance { return &t.Sources },
}

// tasks: ECS makes them.
var tasks = []string{srcECS, srcDocker, srcPodman, srcContainerd, srcCRI, srcOCI, KernelSource}

// taskPrecedence is the table of rule 7 for tasks.
var taskPrecedence = []ruleOf[task]{
	{"ARN", nil, false, "the entity's key", func(*task, mergingOf[task]) {}},
	{"Cluster", tasks, false, firstSays, pick(func(t *task) *string { return &t.Cluster }, notZero)},
	{"Family", tasks, false, firstSays, pick(func(t *task) *string { return &t.Family }, notZero)},
	{"Revision", tasks, false, firstSays, pick(func(t *task) *string { return &t.Revision }, notZero)},
	{"Service", tasks, false, firstSays, pick(func(t *task) *string { return &t.Service }, notZero)},
	{"LaunchType", tasks, false, firstSays, pick(func(t *task) *string { return &t.LaunchType }, notZero)},
	{"Zone", tasks, false, firstSays, pick(func(t *task) *string { return &t.Zone }, notZero)},
	{"ZoneID", tasks, false, firstSays, pick(func(t *task) *string { return &t.ZoneID }, notZero)},
	{"VPC", tasks, false, firstSays, pick(func(t *task) *string { return &t.VPC }, notZero)},
	{"Instance", tasks, false, firstSays, pick(func(t *task) *string { return &t.Instance }, notZero)},
	{"Desired", tasks, false, firstSays, pick(func(t *task) *string { return &t.Desired }, notZero)},
	{"Known", tasks, false, "the first that says it; of a tombstone only STOPPED or DELETED", mergeKnown},
	{"Limits", tasks, false, firstSays, pick(func(t *task) *workload.TaskLimits { return &t.Limits }, notZero)},
	{"Tags", tasks, false, firstWhole, pick(func(t *task) *map[string]string { return &t.Tags }, mapSaid)},
	{"InstanceTags", tasks, false, firstWhole, pick(func(t *task) *map[string]string { return &t.InstanceTags }, mapSaid)},
	{"Containers", tasks, false, firstWhole, pick(func(t *task) *[]workload.TaskContainer { return &t.Containers }, listSaid)},
	{"PullStarted", tasks, false, firstSays, pick(func(t *task) *time.Time { return &t.PullStarted }, notZero)},
	{"PullStopped", tasks, false, firstSays, pick(func(t *task) *time.Time { return &t.PullStopped }, notZero)},
	{"Stopped", tasks, false, firstSays, pick(func(t *task) *time.Time { return &t.Stopped }, notZero)},
	{"Sources", nil, false, "every layer with the time of its arrival, in the order of their first arrival", mergeSources(func(t *task) *[]workload.Provenance { return &t.Sources })},
	{"Missing", own, true, kernelAlone, pickOwn(func(t *task) *[]string { return &t.Missing }, listSaid)},
	{"Truncated", tasks, false, "what any layer had to cut", mergeTruncated(func(t *task) *[]string { return &t.Truncated })},
	{"Filtered", agent, true, hidden, func(*task, mergingOf[task]) {}},
}

// mergeKnown: what ECS said last of a task that is gone is what it was then, and
// only an end is still true.
func mergeKnown(dst *task, in mergingOf[task]) {
	pick(func(t *task) *string { return &t.Known }, notZero)(dst, in)
	if in.gone && dst.Known != "STOPPED" && dst.Known != "DELETED" {
		dst.Known = ""
	}
}

// Task gives a task, live or a tombstone, by its ARN.
func (s *Store) Task(arn string) (*workload.Task, bool) { return s.tasks.get(arn) }

func (ch *TaskChange) group() groupChange[task] {
	return groupChange[task]{key: ch.ARN, source: ch.Source, layer: ch.Layer, gone: ch.Gone, forget: ch.Forget}
}

// taskNow is podNow for a task: a reference may not borrow the description of one
// that is of another family or cluster.
func (v *view) taskNow() *workload.Task {
	if v.taskCell == nil {
		return v.task
	}
	t := v.taskCell.view.Load()
	if t == nil || t.restored || !compatible(t.merged.Family, v.task.Family) || !compatible(t.merged.Cluster, v.task.Cluster) {
		return v.task
	}
	return t.merged
}

func taskOf(ref *workload.TaskRef) *workload.Task {
	return &workload.Task{ARN: ref.ARN, Cluster: ref.Cluster, Family: ref.Family, Revision: ref.Revision}
}

func arnOf(ref *workload.TaskRef) string {
	if ref == nil {
		return ""
	}
	return ref.ARN
}
