// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
)

func taskColumns() []column {
	return []column{
		{head: "FAMILY", max: 40}, {head: "SERVICE", max: 32}, {head: "CLUSTER", max: 32}, {head: "STATE", max: 16},
		{head: "LAUNCHED", max: 20}, {head: "ZONE", max: 20}, {head: "ARN", max: 120},
	}
}

func taskRow(e workload.Entity) []painted {
	t := e.Task
	return []painted{
		cell(taskFamily(t)), cell(t.Service), cell(t.Cluster), taskState(e), cell(t.LaunchType), cell(t.Zone), cell(t.ARN),
	}
}

// taskFamily is FAMILY:REVISION, as ECS writes it.
func taskFamily(t *workload.Task) string {
	return strings.TrimSuffix(t.Family+":"+t.Revision, ":")
}

// taskState is ECS's word, where it has been heard.
func taskState(e workload.Entity) painted {
	switch {
	case e.Gone:
		return painted{"gone", dim}
	case e.Task.Known == "":
		return painted{"present", green}
	case e.Task.Known != "RUNNING":
		return painted{e.Task.Known, yellow}
	}
	return painted{e.Task.Known, green}
}
