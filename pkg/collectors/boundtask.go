// SPDX-License-Identifier: Apache-2.0

package collectors

import "github.com/pidigree/pidigree/pkg/workload"

// BoundTask cuts a task's description to the default Bounds.
func BoundTask(t *workload.Task) { Bounds{}.ApplyTask(t) }

// ApplyTask does for a task what Apply does for a container. The ARN is left alone:
// a collector takes no task without a valid one.
func (b Bounds) ApplyTask(task *workload.Task) {
	if task == nil {
		return
	}
	b = b.withDefaults()
	t := trimmer{left: b.Total}
	for field, s := range map[string]*string{
		"cluster": &task.Cluster, "family": &task.Family, "revision": &task.Revision, "service": &task.Service,
		"launchType": &task.LaunchType, "zone": &task.Zone, "zoneId": &task.ZoneID, "vpc": &task.VPC,
		"instance": &task.Instance, "desired": &task.Desired, "known": &task.Known,
	} {
		t.text(field, s, b.Name)
	}
	task.Containers = b.taskContainers(&t, task.Containers)
	task.Tags = b.dict(&t, "tags", task.Tags)
	task.InstanceTags = b.dict(&t, "instanceTags", task.InstanceTags)
	task.Truncated = t.truncated(task.Truncated)
}

func (b Bounds) taskContainers(t *trimmer, in []workload.TaskContainer) []workload.TaskContainer {
	out := each(t, "containers", in, b.Mounts, func(c *workload.TaskContainer) {
		t.text("containers", &c.Name, b.Name)
		t.text("containers", &c.Image, b.Image)
		t.text("containers", &c.Type, b.Name)
		t.text("containers", &c.Desired, b.Name)
		t.text("containers", &c.Known, b.Name)
		t.text("containers", &c.Health, b.Name)
	})
	return within(t, "containers", out, b.Bytes, func(c workload.TaskContainer) int {
		return len(c.Name) + len(c.ID.ID) + len(c.Image) + len(c.Type) + len(c.Desired) + len(c.Known) + len(c.Health)
	})
}
