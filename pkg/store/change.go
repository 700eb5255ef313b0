// SPDX-License-Identifier: Apache-2.0

package store

import "github.com/pidigree/pidigree/pkg/workload"

// Change is one step of a batch. Exactly one field is set.
type Change struct {
	// Process puts or replaces a process, by Key. With Exit set it becomes a tombstone.
	Process *workload.Process
	// Container changes one layer or the life of a container.
	Container *ContainerChange
	// Pod changes one layer or the life of a pod.
	Pod *PodChange
	// Task changes one layer or the life of a task.
	Task *TaskChange
	// Image changes one layer of an image.
	Image *ImageChange
	// Service puts or replaces a unit, or ends it.
	Service *ServiceChange
	// Remote is what another pidigree says of one entity.
	Remote *RemoteChange
	// Expire drops the tombstones that are older than the grace period at this instant.
	Expire workload.KTime
}

// ContainerChange is a change of one container entity.
type ContainerChange struct {
	// ID is the entity's key. It may differ from the layers' own ids, which become aliases.
	ID workload.ContainerID
	// Source owns the layer; "kernel" is the correlator's own.
	Source string
	// Layer replaces the source's layer; nil removes it. A container without layers is gone.
	Layer *workload.Container
	// Gone makes the entity a tombstone as of this instant, whatever its layers say.
	Gone workload.KTime
	// Back brings a tombstone back whose run has ended: who had deleted the container
	// was asked since, and has it. A run that has not ended needs no such word.
	Back bool
	// Forget removes the entity at once and without a tombstone: it was merged into another one.
	Forget bool
	// stale: Source is another pidigree, and away.
	stale bool
}

// PodChange is a change of one pod entity.
type PodChange struct {
	// UID is the entity's key: the uid that the pod's cgroup has. The layers' own
	// uids become aliases, and so does the ConfigHash of a static pod.
	UID string
	// Source owns the layer; "kernel" is the correlator's own.
	Source string
	// Layer replaces the source's layer; nil removes it. A pod without layers is gone.
	Layer *workload.Pod
	// Gone makes the entity a tombstone as of this instant, whatever its layers say.
	Gone workload.KTime
	// Forget removes the entity at once and without a tombstone: it was merged into another one.
	Forget bool
}

// TaskChange is a change of one task entity.
type TaskChange struct {
	// ARN is the entity's key.
	ARN string
	// Source owns the layer; "kernel" is the correlator's own.
	Source string
	// Layer replaces the source's layer; nil removes it. A task without layers is gone.
	Layer *workload.Task
	// Gone makes the entity a tombstone as of this instant, whatever its layers say.
	Gone workload.KTime
	// Forget removes the entity at once and without a tombstone.
	Forget bool
}

// ImageChange is a change of one image entity.
type ImageChange struct {
	// Key is the entity's: the image's Key, which its layers have too.
	Key string
	// Source owns the layer.
	Source string
	// Layer replaces the source's layer; nil removes it. An image without layers is gone.
	Layer *workload.Image
}

// ServiceChange is a change of one unit. It has one source, the correlator, who
// joins what the cgroups and the system manager say.
type ServiceChange struct {
	// Service is the unit as it is now. Cgroup is the entity's key.
	Service *workload.Service
	// Gone makes it a tombstone as of this instant.
	Gone workload.KTime
}
