// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

var taskRefMessage = table(
	text(1, func(t *workload.TaskRef) *string { return &t.ARN }),
	text(2, func(t *workload.TaskRef) *string { return &t.Cluster }),
	text(3, func(t *workload.TaskRef) *string { return &t.Family }),
	text(4, func(t *workload.TaskRef) *string { return &t.Revision }),
	text(5, func(t *workload.TaskRef) *string { return &t.Container }),
)

var taskLimitsMessage = table(
	number(1, func(l *workload.TaskLimits) *int64 { return &l.NanoCPUs }),
	number(2, func(l *workload.TaskLimits) *int64 { return &l.MemoryBytes }),
)

var taskContainerMessage = table(
	text(1, func(c *workload.TaskContainer) *string { return &c.Name }),
	value(2, containerIDMessage, func(c *workload.TaskContainer) *workload.ContainerID { return &c.ID }),
	text(3, func(c *workload.TaskContainer) *string { return &c.Image }),
	text(4, func(c *workload.TaskContainer) *string { return &c.Type }),
	text(5, func(c *workload.TaskContainer) *string { return &c.Desired }),
	text(6, func(c *workload.TaskContainer) *string { return &c.Known }),
	text(7, func(c *workload.TaskContainer) *string { return &c.Health }),
	number(8, func(c *workload.TaskContainer) *uint32 { return &c.Restarts }),
	boolean(9, func(c *workload.TaskContainer) *bool { return &c.Exited }),
	number(10, func(c *workload.TaskContainer) *int32 { return &c.ExitCode }),
	instant(11, func(c *workload.TaskContainer) *time.Time { return &c.Started }),
	instant(12, func(c *workload.TaskContainer) *time.Time { return &c.Finished }),
)

var taskMessage = table(
	text(1, func(t *workload.Task) *string { return &t.ARN }),
	text(2, func(t *workload.Task) *string { return &t.Cluster }),
	text(3, func(t *workload.Task) *string { return &t.Family }),
	text(4, func(t *workload.Task) *string { return &t.Revision }),
	text(5, func(t *workload.Task) *string { return &t.Service }),
	text(6, func(t *workload.Task) *string { return &t.LaunchType }),
	text(7, func(t *workload.Task) *string { return &t.Zone }),
	text(8, func(t *workload.Task) *string { return &t.ZoneID }),
	text(9, func(t *workload.Task) *string { return &t.VPC }),
	text(10, func(t *workload.Task) *string { return &t.Instance }),
	text(11, func(t *workload.Task) *string { return &t.Desired }),
	text(12, func(t *workload.Task) *string { return &t.Known }),
	value(13, taskLimitsMessage, func(t *workload.Task) *workload.TaskLimits { return &t.Limits }),
	textMap(14, func(t *workload.Task) *map[string]string { return &t.Tags }),
	textMap(15, func(t *workload.Task) *map[string]string { return &t.InstanceTags }),
	list(16, taskContainerMessage, func(t *workload.Task) *[]workload.TaskContainer { return &t.Containers }),
	instant(17, func(t *workload.Task) *time.Time { return &t.PullStarted }),
	instant(18, func(t *workload.Task) *time.Time { return &t.PullStopped }),
	instant(19, func(t *workload.Task) *time.Time { return &t.Stopped }),
	list(20, provenanceMessage, func(t *workload.Task) *[]workload.Provenance { return &t.Sources }),
	texts(21, func(t *workload.Task) *[]string { return &t.Missing }),
	texts(22, func(t *workload.Task) *[]string { return &t.Truncated }),
	boolean(23, func(t *workload.Task) *bool { return &t.Filtered }),
)
