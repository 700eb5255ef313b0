// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"maps"
	"slices"
	"time"
)

// Role is what a container is in its pod.
type Role string

// The roles of a container in a pod. A sidecar is an init container that goes
// on beside the others (restartPolicy Always).
const (
	RoleNone      Role = ""
	RoleMain      Role = "main"
	RoleInit      Role = "init"
	RoleSidecar   Role = "sidecar"
	RoleEphemeral Role = "ephemeral"
)

// Pod is a Kubernetes or podman pod: as one source says it (a layer) or merged.
// UID is its key: the kubelet's uid as the pod's cgroup has it, with dashes (of a
// static pod the hash of its manifest), or podman's 64 digits.
type Pod struct {
	PodRef
	// Runtime is the engine that runs it: containerd, cri-o, podman.
	Runtime     string
	Labels      map[string]string
	Annotations map[string]string
	// IPs are its addresses, the primary first; none where it has the host's network.
	IPs         []string
	HostNetwork bool
	// RuntimeHandler is the RuntimeClass's handler ("kata", "runsc"), empty for the default.
	RuntimeHandler string
	// Sandboxes are its sandbox containers, the newest first.
	Sandboxes []ContainerID
	// Phase is Kubernetes' word: Pending, Running, Succeeded, Failed, Unknown.
	Phase string
	// QoS is Guaranteed, Burstable or BestEffort.
	QoS        string
	Conditions []PodCondition
	Owners     []PodOwner
	// Containers are those that it is made of, whether they run or not.
	Containers []PodContainer
	Volumes    []PodVolume
	Node       string
	// ServiceAccount is the account that its processes have at the API server.
	ServiceAccount string
	// Static is set for a pod that the kubelet got from a file or an address.
	Static bool
	// ConfigHash is the hash of a static pod's manifest, by which its cgroup is
	// named where the API server gave the mirror pod a uid of its own.
	ConfigHash string
	Created    time.Time
	Started    time.Time
	// Deleted is when somebody asked for its deletion, zero if nobody did.
	Deleted time.Time

	// Sources are the layers, in order of arrival.
	Sources []Provenance
	// Missing names the sources that have not answered yet.
	Missing []string
	// Truncated names the fields that a budget cut.
	Truncated []string
	// Filtered is set where the agent's configuration hides it: it is in no list and
	// no stream, and no more is kept of it than its uid.
	Filtered bool
}

// PodOwner is what made a pod: a ReplicaSet, a Job, a Node.
type PodOwner struct {
	Kind string
	Name string
	UID  string
	// Controller is set for the one that manages it.
	Controller bool
}

// PodCondition is one condition of a pod's status.
type PodCondition struct {
	// Type is Ready, Initialized, PodScheduled, ...
	Type string
	// Status is True, False or Unknown.
	Status string
	Reason string
}

// PodContainer is a container of a pod as the pod names it.
type PodContainer struct {
	Name string
	Role Role
	// ID is zero until the engine has made it.
	ID    ContainerID
	Image string
	State State
	Ready bool
	// Restarts is the kubelet's count.
	Restarts uint32
}

// PodVolume is one volume of a pod, in short: its name, its kind ("configMap",
// "hostPath", "emptyDir"), and what it is of, where that has a name or a path.
type PodVolume struct {
	Name   string
	Kind   string
	Source string
}

// Clone makes a deep copy that may be changed.
func (p *Pod) Clone() *Pod {
	if p == nil {
		return nil
	}
	n := *p
	n.Labels = maps.Clone(p.Labels)
	n.Annotations = maps.Clone(p.Annotations)
	n.IPs = slices.Clone(p.IPs)
	n.Sandboxes = slices.Clone(p.Sandboxes)
	n.Conditions = slices.Clone(p.Conditions)
	n.Owners = slices.Clone(p.Owners)
	n.Containers = slices.Clone(p.Containers)
	n.Volumes = slices.Clone(p.Volumes)
	n.Sources = slices.Clone(p.Sources)
	n.Missing = slices.Clone(p.Missing)
	n.Truncated = slices.Clone(p.Truncated)
	return &n
}
