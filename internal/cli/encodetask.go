// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// taskRefJSON is a container's task.
type taskRefJSON struct {
	ARN       string `json:"arn"`
	Cluster   string `json:"cluster"`
	Family    string `json:"family"`
	Revision  string `json:"definitionRevision,omitempty"`
	Container string `json:"container,omitempty"`
}

type taskJSON struct {
	ARN          string              `json:"arn"`
	Cluster      string              `json:"cluster"`
	Family       string              `json:"family"`
	Revision     string              `json:"definitionRevision,omitempty"`
	Service      string              `json:"service,omitempty"`
	LaunchType   string              `json:"launchType,omitempty"`
	Zone         string              `json:"zone,omitempty"`
	ZoneID       string              `json:"zoneId,omitempty"`
	VPC          string              `json:"vpc,omitempty"`
	Instance     string              `json:"instance,omitempty"`
	Desired      string              `json:"desired,omitempty"`
	Known        string              `json:"known,omitempty"`
	Limits       *taskLimitsJSON     `json:"limits,omitempty"`
	Tags         map[string]string   `json:"tags,omitempty"`
	InstanceTags map[string]string   `json:"instanceTags,omitempty"`
	Containers   []taskContainerJSON `json:"containers,omitempty"`
	PullStarted  *time.Time          `json:"pullStarted,omitempty"`
	PullStopped  *time.Time          `json:"pullStopped,omitempty"`
	Stopped      *time.Time          `json:"stopped,omitempty"`
	Sources      []provenanceJSON    `json:"sources,omitempty"`
	Missing      []string            `json:"missing,omitempty"`
	Truncated    []string            `json:"truncated,omitempty"`
	Filtered     bool                `json:"filtered,omitempty"`
}

type taskLimitsJSON struct {
	NanoCPUs    int64 `json:"nanoCpus,omitempty"`
	MemoryBytes int64 `json:"memoryBytes,omitempty"`
}

type taskContainerJSON struct {
	Name     string     `json:"name"`
	ID       string     `json:"id,omitempty"`
	Image    string     `json:"image"`
	Type     string     `json:"type,omitempty"`
	Desired  string     `json:"desired,omitempty"`
	Known    string     `json:"known,omitempty"`
	Health   string     `json:"health,omitempty"`
	Restarts uint32     `json:"restarts,omitempty"`
	ExitCode *int32     `json:"exitCode,omitempty"`
	Started  *time.Time `json:"started,omitempty"`
	Finished *time.Time `json:"finished,omitempty"`
}

func taskObject(t *workload.Task) *taskJSON {
	if t == nil {
		return nil
	}
	o := &taskJSON{
		ARN: t.ARN, Cluster: t.Cluster, Family: t.Family, Revision: t.Revision, Service: t.Service, LaunchType: t.LaunchType,
		Zone: t.Zone, ZoneID: t.ZoneID, VPC: t.VPC, Instance: t.Instance, Desired: t.Desired, Known: t.Known,
		Tags: t.Tags, InstanceTags: t.InstanceTags, Containers: convert(t.Containers, taskContainerObject),
		PullStarted: timeObject(t.PullStarted), PullStopped: timeObject(t.PullStopped), Stopped: timeObject(t.Stopped),
		Missing: t.Missing, Truncated: t.Truncated, Filtered: t.Filtered,
	}
	if t.Limits != (workload.TaskLimits{}) {
		o.Limits = &taskLimitsJSON{t.Limits.NanoCPUs, t.Limits.MemoryBytes}
	}
	if len(t.Sources) > 0 {
		o.Sources = provenance(t.Sources)
	}
	return o
}

func taskContainerObject(c workload.TaskContainer) taskContainerJSON {
	o := taskContainerJSON{
		Name: c.Name, Image: c.Image, Type: c.Type, Desired: c.Desired, Known: c.Known, Health: c.Health, Restarts: c.Restarts,
		Started: timeObject(c.Started), Finished: timeObject(c.Finished),
	}
	if !c.ID.IsZero() {
		o.ID = c.ID.String()
	}
	if c.Exited {
		o.ExitCode = &c.ExitCode
	}
	return o
}

func taskRefObject(t *workload.TaskRef) *taskRefJSON {
	if t == nil {
		return nil
	}
	return &taskRefJSON{ARN: t.ARN, Cluster: t.Cluster, Family: t.Family, Revision: t.Revision, Container: t.Container}
}
