// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"maps"
	"slices"
	"time"
)

// State is where a container is in its life.
type State string

// The states of a container, the same for every engine.
const (
	StateUnknown    State = ""
	StateCreated    State = "created"
	StateRunning    State = "running"
	StatePaused     State = "paused"
	StateRestarting State = "restarting"
	StateExited     State = "exited"
)

// Health is what the engine's own check of a container says.
type Health string

// The words of a check; none for a container that has none, or does not run.
const (
	HealthStarting  Health = "starting"
	HealthHealthy   Health = "healthy"
	HealthUnhealthy Health = "unhealthy"
)

// Exit says how a process or a container's init ended. Known is false where
// the process is gone but its status was lost.
type Exit struct {
	Known bool
	// Code is the exit code, 128+Signal for a process ended by a signal.
	Code int32
	// Signal is the signal that ended it, 0 for a normal exit.
	Signal int32
	// OOM is set where the kernel's out-of-memory killer chose it; of a container, as
	// engines say it, also where the killer chose another of its processes in that run.
	OOM bool
	// At is when it ended, 0 if unknown.
	At KTime
}

// ImageRef is the image of a container as its engine names it.
type ImageRef struct {
	// Name is what the user asked for, "docker.io/library/busybox:1.36".
	Name string
	// Tag is the tag part of Name, empty without one.
	Tag string
	// Digest is the manifest digest, "sha256:...", where the engine knows it.
	Digest string
	// ID is the image id (the config digest for Docker).
	ID string
}

// Run is one life of a container, from the start of its init to its end. A
// restarted container has several in turn.
type Run struct {
	// Init is the container's first process.
	Init ProcessKey
	// Cgroups are the cgroups registered for the run, one for each hierarchy.
	Cgroups []CgroupPath
	// ClaimedPaths are absolute paths on the host where the source says that
	// the cgroups are, or the path inside the hierarchies where it knows no
	// more; empty if it does not say. A claim, until checked.
	ClaimedPaths []string
	// Homeless is set by a source that knows that the run has no cgroup of its own:
	// its processes are in cgroups of the host's, and in the PID namespace whose
	// first process Init is.
	Homeless bool
	// Registers is set by a source whose word for Init registers cgroups (rule
	// 4): root-owned runtime state, a containerd task, a runtime's PID.
	Registers bool
	// Started is when the init's first user instruction ran, or the init was forked.
	Started KTime
	Exit    *Exit
}

// Network is one network that a container is attached to.
type Network struct {
	Name string
	IPs  []string
	MAC  string
}

// Port is a port of the container, published on the host where HostPort is not 0.
type Port struct {
	Container uint16
	Protocol  string
	HostIP    string
	HostPort  uint16
}

// Mount is a file system in the container, in short.
type Mount struct {
	Type        string
	Source      string
	Destination string
	ReadOnly    bool
}

// Limits are the resources that a container may use; 0 means no limit.
type Limits struct {
	MemoryBytes int64
	// NanoCPUs is the CPU quota in units of 1e-9 CPUs.
	NanoCPUs  int64
	CPUShares int64
	Pids      int64
}

// Security says how far a container is walled off.
type Security struct {
	Privileged   bool
	AddedCaps    []string
	HostPID      bool
	HostNetwork  bool
	HostIPC      bool
	ReadOnlyRoot bool
}

// Provenance says which source said something, and when.
type Provenance struct {
	Source string
	At     KTime
	// Stale is set while the source, another pidigree, is away: it was so when it was
	// last heard.
	Stale bool
}

// OnlyRemote reports whether another pidigree alone has said something about an entity.
func OnlyRemote(said []Provenance) bool {
	return len(said) > 0 && !slices.ContainsFunc(said, func(p Provenance) bool { return p.Source != SourceRemote })
}

// FromRemote reports whether what is said of an entity is another pidigree's word, and
// this host's correlator's at most.
func FromRemote(said []Provenance) bool {
	return slices.ContainsFunc(said, func(p Provenance) bool { return p.Source == SourceRemote })
}

// Mark is a point of a container's timeline.
type Mark struct {
	// What is one of the Mark* words.
	What string
	// Source is who saw it: "kernel", "oci", "docker", ...
	Source string
	At     KTime
}

// The words of a timeline.
const (
	MarkCgroup     = "cgroup made"       // first cgroup_mkdir
	MarkClaim      = "name read"         // the cgroup's name or path claims a container
	MarkLayer      = "described"         // a source's description arrived
	MarkRegistered = "cgroup registered" // rule 4
	MarkKnown      = "identity known"    // registered, and every source has said what it can before the start
	MarkComplete   = "complete"          // every source has answered in full or was given up
	MarkFirstExec  = "first user exec"
	MarkExit       = "exited"
)

// Container is what is known of one container: as one source says it (a layer)
// or merged. All times of the engine are wall clock.
type Container struct {
	ID ContainerID
	// Aliases are the ids of the same container at other sources.
	Aliases []ContainerID
	// Parent is the container whose inside this one runs in; zero for one that runs on the host.
	Parent ContainerID

	Name string
	// Runtime is the engine that users know it by: docker, containerd, runc, ...
	Runtime string
	Image   ImageRef
	Labels  map[string]string
	// Env holds only the variables on the allow-list.
	Env   map[string]string
	State State
	// Health is what the engine's check says while it runs; empty without one.
	Health   Health
	Created  time.Time
	Started  time.Time
	Finished time.Time
	Exit     *Exit
	Hostname string
	Networks []Network
	Ports    []Port
	Mounts   []Mount
	Limits   *Limits
	User     string
	Security *Security
	// Bundle is the OCI bundle's directory on the host.
	Bundle string
	// Sandbox marks a pod's sandbox (pause, infra) container.
	Sandbox bool
	Pod     *PodRef
	// Task is the ECS task that it is in, and what it is called there.
	Task *TaskRef
	// Role is what it is in its pod, where somebody said.
	Role Role
	// Attempt counts how often the kubelet has made the container anew in its pod, from 0.
	Attempt uint32
	// Annotations are those that its engine keeps beside the labels.
	Annotations map[string]string
	// Reason is the engine's word for why it ended: "Completed", "Error", "OOMKilled".
	Reason string

	// Run is the current or last run.
	Run *Run

	// Confidence is Confirmed once a cgroup is registered for it.
	Confidence Confidence
	// Sources are the layers, in order of arrival.
	Sources []Provenance
	// Missing names the sources that have not answered yet.
	Missing []string
	// Timeline is bounded to the first marks of the current run, oldest first.
	Timeline []Mark
	// Truncated names the fields that a budget cut.
	Truncated []string
	// Filtered is set where the agent's configuration hides it: it is in no list and
	// no stream, and no more is kept of it than its ids, its state and its run.
	Filtered bool
}

// Clone makes a deep copy that may be changed.
func (c *Container) Clone() *Container {
	if c == nil {
		return nil
	}
	n := *c
	n.Aliases = slices.Clone(c.Aliases)
	n.Labels = maps.Clone(c.Labels)
	n.Annotations = maps.Clone(c.Annotations)
	n.Env = maps.Clone(c.Env)
	n.Networks = slices.Clone(c.Networks)
	for i := range n.Networks {
		n.Networks[i].IPs = slices.Clone(n.Networks[i].IPs)
	}
	n.Ports = slices.Clone(c.Ports)
	n.Mounts = slices.Clone(c.Mounts)
	n.Sources = slices.Clone(c.Sources)
	n.Missing = slices.Clone(c.Missing)
	n.Timeline = slices.Clone(c.Timeline)
	n.Truncated = slices.Clone(c.Truncated)
	n.Exit = clonePtr(c.Exit)
	n.Limits = clonePtr(c.Limits)
	n.Pod = clonePtr(c.Pod)
	n.Task = clonePtr(c.Task)
	if n.Security = clonePtr(c.Security); n.Security != nil {
		n.Security.AddedCaps = slices.Clone(n.Security.AddedCaps)
	}
	n.Run = c.Run.Clone()
	return &n
}

// Clone makes a deep copy that may be changed.
func (r *Run) Clone() *Run {
	if r == nil {
		return nil
	}
	n := *r
	n.Cgroups = slices.Clone(r.Cgroups)
	n.ClaimedPaths = slices.Clone(r.ClaimedPaths)
	n.Exit = clonePtr(r.Exit)
	return &n
}

func clonePtr[T any](p *T) *T {
	if p == nil {
		return nil
	}
	v := *p
	return &v
}

// PodRef says which pod a container belongs to.
type PodRef struct {
	UID       string
	Name      string
	Namespace string
}

// Service is a systemd unit of the host's system manager: a service, a scope, a
// slice, as the path of its cgroup says and as the manager describes it. Values
// can be compared.
type Service struct {
	// Unit is the unit's name, empty for a process that is in a slice alone.
	Unit string
	// Slice is the slice that it is in.
	Slice string
	// Cgroup is the path of the unit's cgroup; it tells units apart.
	Cgroup string
	// User is the uid, in digits, of the user in whose slice (user-UID.slice) it is.
	User string
	// UserUnit and UserSlice are what that user's own manager calls it, below
	// user@UID.service. The user chooses them: they say nothing about the host.
	UserUnit, UserSlice string
	// Confidence is Confirmed where the system manager says that the unit has this
	// cgroup, else Claimed: the path alone says so.
	Confidence Confidence
	// Description and what follows is the manager's word, empty where it gave none.
	Description string
	// Active is active, activating, deactivating, failed, ...; Sub says it in the
	// words of the unit's type: running, exited, auto-restart.
	Active, Sub string
	// InvocationID is of this start of the unit, 32 hexadecimal digits.
	InvocationID string
	// MainPID is a service's main process, 0 for none.
	MainPID PID
}
