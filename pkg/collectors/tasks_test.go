// SPDX-License-Identifier: Apache-2.0

package collectors_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestATaskIsReadFromLabels(t *testing.T) {
	const id = "158d1c8083dd49d6b527399fd6414f5c"
	labels := func(arn, cluster string) map[string]string {
		return map[string]string{
			"com.amazonaws.ecs.task-arn": arn, "com.amazonaws.ecs.cluster": cluster,
			"com.amazonaws.ecs.task-definition-family": "shop", "com.amazonaws.ecs.task-definition-version": "7",
			"com.amazonaws.ecs.container-name": "web",
		}
	}
	long := "arn:aws-cn:ecs:cn-north-1:111122223333:task/prod/" + id
	short := "arn:aws:ecs:us-west-2:111122223333:task/158d1c80-83dd-49d6-b527-399fd6414f5c"
	ref := func(arn, cluster string) *workload.TaskRef {
		return &workload.TaskRef{ARN: arn, Cluster: cluster, Family: "shop", Revision: "7", Container: "web"}
	}
	for what, tc := range map[string]struct {
		labels map[string]string
		want   *workload.TaskRef
	}{
		"a cluster by name":                     {labels(long, "prod"), ref(long, "prod")},
		"a cluster by ARN":                      {labels(long, "arn:aws-cn:ecs:cn-north-1:111122223333:cluster/prod"), ref(long, "prod")},
		"the ARN's cluster, not another one":    {labels(long, "other"), ref(long, "prod")},
		"a short ARN of long ago":               {labels(short, "prod"), ref(short, "prod")},
		"no ARN":                                {labels("", "prod"), nil},
		"text that is no ARN":                   {labels("arn:aws:ecs:us-west-2:1:task/x", "prod"), nil},
		"another service's":                     {labels(strings.Replace(long, ":ecs:", ":eks:", 1), "prod"), nil},
		"a partition of nobody's":               {labels(strings.Replace(long, "aws-cn", "aws/../x", 1), "prod"), nil},
		"more than an ARN":                      {labels(long+"/x", "prod"), nil},
		"a line break":                          {labels(long+"\n", "prod"), nil},
		"no labels":                             {nil, nil},
		"an account of letters":                 {labels(strings.Replace(long, "111122223333", "11112222333x", 1), "prod"), nil},
		"an ARN as long as a label may not be ": {labels(strings.Replace(long, "prod", strings.Repeat("p", 5000), 1), "prod"), nil},
	} {
		if d := cmp.Diff(tc.want, collectors.TaskOf(tc.labels)); d != "" {
			t.Errorf("%s (-want +got):\n%s", what, d)
		}
	}
}

func TestATaskIsCutToItsBudget(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	task := &workload.Task{
		ARN: "a", Family: "f\xff", Service: long, Known: "RUNNING",
		Tags:       map[string]string{"k": "v", "big": long},
		Containers: slices.Repeat([]workload.TaskContainer{{Name: "c", Image: long}}, 1000),
	}
	collectors.BoundTask(task)
	if len(task.Service) != 256 || task.Family != "f\uFFFD" || task.Known != "RUNNING" || len(task.Tags["big"]) != 4096 || task.Tags["k"] != "v" {
		t.Errorf("cut to %.300v", task)
	}
	if n := len(task.Containers); n > 64 || n == 0 || len(task.Containers[0].Image) != 1024 {
		t.Errorf("%d containers, image of %d bytes", n, len(task.Containers[0].Image))
	}
	if want := []string{"containers", "service", "tags"}; !slices.Equal(task.Truncated, want) {
		t.Errorf("Truncated = %v, want %v", task.Truncated, want)
	}
	c := &workload.Container{Task: &workload.TaskRef{ARN: "a", Container: long}}
	collectors.Bound(c)
	if len(c.Task.Container) != 256 || !slices.Equal(c.Truncated, []string{"task"}) {
		t.Errorf("a container's task: %d bytes, %v", len(c.Task.Container), c.Truncated)
	}
}
