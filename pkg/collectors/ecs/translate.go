// SPDX-License-Identifier: Apache-2.0

package ecs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// taskJSON is what we read of a task, by introspection (amazon-ecs-agent,
// introspection v1) or from its metadata endpoint (tmds v3 and v4).
type taskJSON struct {
	ARN     string `json:"Arn"`
	TaskARN string
	Cluster string
	Family  string
	Version string // of introspection
	// Revision is Version at a metadata endpoint.
	Revision      string
	DesiredStatus string
	KnownStatus   string
	Limits        limitsJSON

	PullStartedAt      stamp
	PullStoppedAt      stamp
	ExecutionStoppedAt stamp
	AvailabilityZone   string
	AvailabilityZoneID string
	LaunchType         string
	VPCID              string
	ServiceName        string

	TaskTags              map[string]string
	ContainerInstanceTags map[string]string
	Containers            []containerJSON

	// cut names a field of the task's that could not be read.
	cut string
}

// limitsJSON is of a task in CPUs and MiB, of a container in shares and MiB.
type limitsJSON struct {
	CPU    float64
	Memory float64
}

type containerJSON struct {
	DockerID      string `json:"DockerId"`
	Name          string
	DockerName    string
	Image         string
	ImageID       string
	Labels        map[string]string
	DesiredStatus string
	KnownStatus   string
	ExitCode      *int32
	Limits        limitsJSON
	CreatedAt     stamp
	StartedAt     stamp
	FinishedAt    stamp
	Type          string
	RestartCount  uint32
	Health        *struct {
		Status string `json:"status"`
	}
	Networks []struct {
		NetworkMode   string
		IPv4Addresses []string
		IPv6Addresses []string
	}
}

// fields says which field of ours one of the answer's becomes.
var fields = map[string]string{
	"Cluster": "cluster", "Family": "family", "Version": "revision", "Revision": "revision", "DesiredStatus": "desired",
	"KnownStatus": "known", "Limits": "limits", "PullStartedAt": "pullStarted", "PullStoppedAt": "pullStopped",
	"ExecutionStoppedAt": "stopped", "AvailabilityZone": "zone", "AvailabilityZoneID": "zoneId", "LaunchType": "launchType",
	"VPCID": "vpc", "ServiceName": "service", "TaskTags": "tags", "ContainerInstanceTags": "instanceTags", "Containers": "containers",
}

// stamp is a time, empty where there is none. One that cannot be read is none, too.
type stamp string

func (s stamp) time() time.Time {
	t, err := time.Parse(time.RFC3339Nano, string(s))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// task translates.
func (in *taskJSON) task() *workload.Task {
	t := &workload.Task{
		ARN:     cmp.Or(in.ARN, in.TaskARN),
		Cluster: clusterName(in.Cluster),
		Family:  in.Family, Revision: cmp.Or(in.Version, in.Revision),
		Service: in.ServiceName, LaunchType: in.LaunchType,
		Zone: in.AvailabilityZone, ZoneID: in.AvailabilityZoneID, VPC: in.VPCID,
		Desired: in.DesiredStatus, Known: in.KnownStatus,
		Limits: workload.TaskLimits{NanoCPUs: scaled(in.Limits.CPU, 1e9), MemoryBytes: scaled(in.Limits.Memory, 1<<20)},
		Tags:   in.TaskTags, InstanceTags: in.ContainerInstanceTags,
		PullStarted: in.PullStartedAt.time(), PullStopped: in.PullStoppedAt.time(), Stopped: in.ExecutionStoppedAt.time(),
	}
	for _, c := range in.Containers {
		t.Containers = append(t.Containers, c.inTask())
	}
	if in.cut != "" {
		t.Truncated = append(t.Truncated, in.cut)
	}
	return t
}

// clusterName: a cluster is said by its name or by its ARN.
func clusterName(s string) string {
	if strings.HasPrefix(s, "arn:") {
		_, s, _ = strings.Cut(s, ":cluster/")
	}
	return s
}

// scaled gives a number in another unit, 0 for what is none.
func scaled(n, unit float64) int64 {
	if n > 0 && n < float64(1<<62)/unit {
		return int64(n * unit)
	}
	return 0
}

func (c *containerJSON) inTask() workload.TaskContainer {
	out := workload.TaskContainer{
		Name: c.Name, ID: containerID(c.DockerID), Image: c.Image, Type: c.Type,
		Desired: c.DesiredStatus, Known: c.KnownStatus, Restarts: c.RestartCount,
		Started: c.StartedAt.time(), Finished: c.FinishedAt.time(),
	}
	if c.Health != nil {
		out.Health = c.Health.Status
	}
	if c.ExitCode != nil {
		out.Exited, out.ExitCode = true, *c.ExitCode
	}
	return out
}

// containerID reads an id: Docker's, or TASK-DIGITS of Fargate; zero for any other text.
func containerID(s string) workload.ContainerID {
	if len(s) == 64 && strings.Trim(s, hex) == "" {
		return workload.ContainerID{Runtime: "docker", ID: s}
	}
	task, n, ok := strings.Cut(s, "-")
	if ok && len(task) == 32 && strings.Trim(task, hex) == "" && n != "" && len(n) <= 20 && strings.Trim(n, hex[:10]) == "" {
		return workload.ContainerID{Runtime: name, ID: s}
	}
	return workload.ContainerID{}
}

const hex = "0123456789abcdef"

// layer says of a container what nobody but ECS knows: of which task it is. On
// Fargate there is no engine to ask, and it says the rest as well.
func (c *containerJSON) layer(t *workload.Task, tc workload.TaskContainer) *workload.Container {
	out := &workload.Container{ID: tc.ID, Task: &workload.TaskRef{
		ARN: t.ARN, Cluster: t.Cluster, Family: t.Family, Revision: t.Revision, Container: tc.Name,
	}}
	if tc.ID.Runtime == name {
		out.Name, out.Runtime, out.Image = cmp.Or(c.DockerName, c.Name), name, workload.ImageRef{Name: c.Image, ID: c.ImageID}
		out.Labels, out.State = c.Labels, state(tc)
		out.Created, out.Started, out.Finished = c.CreatedAt.time(), tc.Started, tc.Finished
		if tc.Exited && out.State == workload.StateExited {
			out.Exit = &workload.Exit{Known: true, Code: tc.ExitCode}
		}
		for _, n := range c.Networks {
			out.Networks = append(out.Networks, workload.Network{Name: n.NetworkMode, IPs: slices.Concat(n.IPv4Addresses, n.IPv6Addresses)})
		}
	}
	collectors.Bound(out)
	return out
}

// state is ECS's last word on a container.
func state(c workload.TaskContainer) workload.State {
	switch c.Known {
	case "CREATED":
		return workload.StateCreated
	case "RUNNING", "RESOURCES_PROVISIONED":
		return workload.StateRunning
	case "STOPPED":
		return workload.StateExited
	}
	return workload.StateUnknown
}

// version tells whether a task is as it was: another container, another start or
// another status makes another one.
func (in *taskJSON) version() string {
	parts := []string{in.DesiredStatus + ">" + in.KnownStatus}
	for _, c := range in.Containers {
		parts = append(parts, fmt.Sprint(c.DockerID, "@", c.StartedAt, "-", c.FinishedAt))
	}
	slices.Sort(parts[1:])
	return strings.Join(parts, " ")
}

// busy: the task is on its way to where it will stay.
func busy(t *workload.Task) bool {
	return t.Known != t.Desired || slices.ContainsFunc(t.Containers, func(c workload.TaskContainer) bool {
		return c.ID.ID == "" || c.Known != "" && c.Known != c.Desired
	})
}

// over: nothing of it will run any more.
func over(t *workload.Task) bool { return t.Known == "STOPPED" || t.Known == "DELETED" }

// complete puts what an endpoint said over what the list said. The list is the
// younger one on statuses and on which containers there are.
func complete(listed, asked *workload.Task) *workload.Task {
	out := asked.Clone()
	out.ARN, out.Instance = listed.ARN, cmp.Or(listed.Instance, asked.Instance)
	out.Cluster = cmp.Or(listed.Cluster, asked.Cluster)
	out.Family, out.Revision = cmp.Or(listed.Family, asked.Family), cmp.Or(listed.Revision, asked.Revision)
	out.Desired, out.Known = cmp.Or(listed.Desired, asked.Desired), cmp.Or(listed.Known, asked.Known)
	out.Containers = nil
	for _, c := range listed.Containers {
		i := slices.IndexFunc(asked.Containers, func(a workload.TaskContainer) bool { return a.Name == c.Name && a.ID == c.ID })
		if i >= 0 {
			started := c.Started
			if c = asked.Containers[i]; !started.IsZero() {
				c.Started = started
			}
		}
		out.Containers = append(out.Containers, c)
	}
	for _, c := range asked.Containers { // introspection leaves out those that ECS adds
		if c.Type != "" && c.Type != "NORMAL" {
			out.Containers = append(out.Containers, c)
		}
	}
	out.Truncated = append(slices.Clone(listed.Truncated), asked.Truncated...)
	slices.Sort(out.Truncated)
	out.Truncated = slices.Compact(out.Truncated)
	return out
}
