// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"strings"

	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The inputs of Step about tasks, as those about pods.
type (
	// evTaskAnswer answers reqTask.
	evTaskAnswer struct {
		req  request
		task *workload.Task
		err  error
	}
	// evTask is one task of a source's list; evTaskListEnd closes the list.
	evTask struct {
		source int
		task   *workload.Task
	}
	evTaskListEnd struct {
		source   int
		complete bool
		// began is when the list was asked for.
		began workload.KTime
	}
)

var taskKind = groupKind[workload.Task]{
	request: reqTask,
	asked:   func(s sourceInfo) bool { return s.tasks },
	in: func(l *workload.Container) string {
		if l.Task == nil {
			return ""
		}
		return l.Task.ARN
	},
	key:     func(t *workload.Task) string { return t.ARN },
	also:    func(*workload.Task) string { return "" },
	own:     ownTask,
	sources: func(t *workload.Task) *[]workload.Provenance { return &t.Sources },
	change: func(arn, source string, l *workload.Task, gone workload.KTime, forget bool) store.Change {
		return store.Change{Task: &store.TaskChange{ARN: arn, Source: source, Layer: l, Gone: gone, Forget: forget}}
	},
	of: func(c *container) *[]*group[workload.Task] { return &c.tasks },
}

// ownTask is what the containers say of their task. Where they disagree, which one
// is taken must not depend on who came first.
func ownTask(t *group[workload.Task], members []*container, missing []string) *workload.Task {
	l := &workload.Task{ARN: t.key, Missing: missing}
	for _, c := range members {
		for _, i := range c.described() {
			ref := c.layers[i].Task
			if ref == nil || ref.ARN != t.key || ref.Family == "" {
				continue
			}
			if l.Family == "" || strings.Compare(ref.Family+":"+ref.Revision+" "+ref.Cluster, l.Family+":"+l.Revision+" "+l.Cluster) < 0 {
				l.Cluster, l.Family, l.Revision = ref.Cluster, ref.Family, ref.Revision
			}
		}
	}
	return l
}
