// SPDX-License-Identifier: Apache-2.0

package ecs

import (
	"slices"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// TestConformance runs on the fake, which serves what was recorded.
func TestConformance(t *testing.T) {
	f := newAgent(t)
	n := 0
	collectortest.RunTasks(t, collectortest.TaskHarness{
		New: func(testing.TB) collectors.Collector { return f.collector(Options{Interval: 200 * time.Millisecond}) },
		Start: func(testing.TB) *collectortest.StartedTask {
			n++
			task := f.put(n)
			return &collectortest.StartedTask{
				Want: &workload.Task{ARN: arn(n), Cluster: "default", Family: "curltest", Revision: "26", Desired: "RUNNING", Known: "RUNNING"},
				Remove: func() {
					f.change(func() { f.tasks = slices.DeleteFunc(f.tasks, func(o *fakeTask) bool { return o == task }) })
				},
			}
		},
		Unknown: arn(1 << 30),
	})
}
