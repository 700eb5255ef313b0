// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// TaskRef says which ECS task a container belongs to.
type TaskRef struct {
	// ARN names the task: arn:PARTITION:ecs:REGION:ACCOUNT:task/CLUSTER/ID, in clusters of
	// long ago without the cluster.
	ARN string
	// Cluster is the cluster's name.
	Cluster string
	// Family and Revision name the task definition.
	Family   string
	Revision string
	// Container is what the task definition calls the container.
	Container string
}

// Task is an ECS task: as one source says it (a layer) or merged. ARN is its key.
type Task struct {
	ARN string
	// Cluster is the cluster's name.
	Cluster string
	// Family and Revision name the task definition.
	Family   string
	Revision string
	// Service is the ECS service that keeps it running, empty for one that was run by itself.
	Service string
	// LaunchType is ECS's word: EC2, FARGATE, EXTERNAL, MANAGED_INSTANCES.
	LaunchType string
	// Zone is the availability zone's name, ZoneID its id, which means the same zone in every account.
	Zone   string
	ZoneID string
	VPC    string
	// Instance is the ARN of the container instance that it runs on; none on Fargate.
	Instance string
	// Desired and Known are ECS's words for what the task is to be and what it was
	// last seen to be: PENDING, RUNNING, STOPPED, ...
	Desired string
	Known   string
	Limits  TaskLimits
	// Tags are the task's, InstanceTags its container instance's, where the agent is
	// configured to ask for them.
	Tags         map[string]string
	InstanceTags map[string]string
	// Containers are those that it is made of, whether they run or not.
	Containers []TaskContainer
	// PullStarted and PullStopped are when its images were pulled.
	PullStarted time.Time
	PullStopped time.Time
	// Stopped is when its essential containers had ended.
	Stopped time.Time

	// Sources are the layers, in order of arrival.
	Sources []Provenance
	// Missing names the sources that have not answered yet.
	Missing []string
	// Truncated names the fields that a budget cut.
	Truncated []string
	// Filtered is set where the agent's configuration hides it.
	Filtered bool
}

// TaskLimits are what a task as a whole may use; 0 means no limit.
type TaskLimits struct {
	// NanoCPUs is in units of 1e-9 CPUs.
	NanoCPUs    int64
	MemoryBytes int64
}

// TaskContainer is a container of a task as ECS names it.
type TaskContainer struct {
	// Name is that in the task definition.
	Name string
	// ID is zero until the engine has made it.
	ID    ContainerID
	Image string
	// Type is NORMAL, or one that ECS adds, such as CNI_PAUSE.
	Type    string
	Desired string
	Known   string
	// Health is HEALTHY, UNHEALTHY or UNKNOWN, empty where it has no check.
	Health string
	// Restarts counts those by its restart policy.
	Restarts uint32
	// Exited is set where it has ended and ExitCode is known.
	Exited   bool
	ExitCode int32
	Started  time.Time
	Finished time.Time
}

// Clone makes a deep copy that may be changed.
func (t *Task) Clone() *Task {
	if t == nil {
		return nil
	}
	n := *t
	n.Tags = maps.Clone(t.Tags)
	n.InstanceTags = maps.Clone(t.InstanceTags)
	n.Containers = slices.Clone(t.Containers)
	n.Sources = slices.Clone(t.Sources)
	n.Missing = slices.Clone(t.Missing)
	n.Truncated = slices.Clone(t.Truncated)
	return &n
}

// TaskName is what a task's ARN says. It is zero where the text is none.
type TaskName struct {
	// Partition is aws, aws-cn, aws-us-gov, aws-iso, aws-eusc, ...
	Partition string
	Region    string
	Account   string
	// Cluster is empty in the short form.
	Cluster string
	// ID is 32 hexadecimal digits, or a UUID.
	ID string
}

// ParseTaskARN takes a task's ARN apart. Text that is none, or has more to it, is not taken.
func ParseTaskARN(arn string) (TaskName, bool) {
	parts := strings.Split(arn, ":")
	if len(arn) > maxARN || len(parts) != 6 || parts[0] != "arn" || parts[2] != "ecs" {
		return TaskName{}, false
	}
	n := TaskName{Partition: parts[1], Region: parts[3], Account: parts[4]}
	rest, ok := strings.CutPrefix(parts[5], "task/")
	n.ID = rest
	if cluster, id, long := strings.Cut(rest, "/"); long {
		n.Cluster, n.ID = cluster, id
		ok = ok && isClusterName(cluster)
	}
	if !ok || !isPartition(n.Partition) || !consistsOf(n.Region, lower+digits+"-") || len(n.Account) != 12 || !consistsOf(n.Account, digits) || !isTaskID(n.ID) {
		return TaskName{}, false
	}
	return n, true
}

// ClusterARN gives the ARN of the task's cluster, which has the task's account and
// region; cluster is its name, or its ARN, which is given back if it is of the same.
func (n TaskName) ClusterARN(cluster string) string {
	if cluster == "" {
		cluster = n.Cluster
	}
	prefix := "arn:" + n.Partition + ":ecs:" + n.Region + ":" + n.Account + ":cluster/"
	cluster = strings.TrimPrefix(cluster, prefix)
	if n.ID == "" || !isClusterName(cluster) {
		return ""
	}
	return prefix + cluster
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
	maxARN = 512
)

// isPartition accepts the commercial partition and every other one, those to come
// as well.
func isPartition(s string) bool {
	return s == "aws" || strings.HasPrefix(s, "aws-") && len(s) <= 32 && consistsOf(s, lower+digits+"-")
}

func isClusterName(s string) bool {
	return len(s) <= 255 && consistsOf(s, lower+upper+digits+"-_")
}

func isTaskID(s string) bool {
	if len(s) == 36 {
		s = strings.ReplaceAll(s, "-", "")
	}
	return len(s) == 32 && consistsOf(s, digits+"abcdef")
}

// consistsOf reports whether s is not empty and has no other characters.
func consistsOf(s, of string) bool { return s != "" && strings.Trim(s, of) == "" }
