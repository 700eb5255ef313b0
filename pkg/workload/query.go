// SPDX-License-Identifier: Apache-2.0

package workload

import "time"

// Query is one question. Exactly one of Self, PID, Key, Cgroup, CgroupPath and
// Container is set.
type Query struct {
	// Self asks about the peer of the socket that the question came over.
	Self bool
	// PID is a process or thread id of the host.
	PID PID
	// Key asks about one process instance; an Answer never speaks of another.
	Key ProcessKey
	// Cgroup asks which workload a cgroup belongs to.
	Cgroup CgroupID
	// CgroupPath is a path inside a hierarchy ("/docker/4f3a") or below the host's cgroup mount.
	CgroupPath string
	// Container is an id, a unique prefix of one with 4 characters or more, or a name.
	Container string
	// At asks about the past: who had the PID then. Zero is now.
	At time.Time
	// Wait bounds how long to wait until the answer is complete. Zero: wait for no runtime but one
	// that is giving its first answer about a container that has just begun, and that 250 ms at most.
	Wait time.Duration
	// Explain fills Explanation.
	Explain bool
	// Detail reads, of a process that lives, what events do not say (Process.Detail).
	Detail bool
	// Family fills Family, for those who may ask about everything.
	Family bool
}

// Result is the outcome of one Query: an Answer (unknown and conflict are
// answers) or an error about the question itself.
type Result struct {
	Query       Query
	Answer      Answer
	Explanation []Hop
	// Family is nil where it was not asked for, or the process has ended.
	Family *Family
	Err    error
}

// Hop is one step of the evidence from the question to the workload.
type Hop struct {
	// What names the step: process, cgroup, claim, registration, layer, membership, ...
	What   string
	Detail string
	// Source is who said so, At when.
	Source string
	At     KTime
}

// Kind is the kind of an entity.
type Kind string

// The kinds of entities.
const (
	KindContainer Kind = "container"
	KindProcess   Kind = "process"
	KindPod       Kind = "pod"
	KindImage     Kind = "image"
	KindTask      Kind = "task"
	KindService   Kind = "service"
)

// Entity is one thing in the store; the field of its Kind is set.
type Entity struct {
	Kind      Kind
	Container *Container
	Process   *Process
	Pod       *Pod
	Image     *Image
	Task      *Task
	Service   *Service
	// Gone is set for a tombstone.
	Gone bool
	// Revision of the entity's last change.
	Revision Revision
}

// Key names the entity among all others, of every kind: of a container with its
// Instance, since engines of two people, or of two hosts, may give the same id.
func (e Entity) Key() string {
	switch {
	case e.Container != nil:
		id := e.Container.ID
		if id.Instance == "" {
			return "container " + id.String()
		}
		return "container " + id.String() + "\x00" + id.Instance
	case e.Pod != nil:
		return "pod " + e.Pod.UID
	case e.Task != nil:
		return "task " + e.Task.ARN
	case e.Image != nil:
		return "image " + e.Image.Key()
	case e.Process != nil:
		return "process " + e.Process.Key.String()
	case e.Service != nil:
		return "service " + e.Service.Cgroup
	}
	return string(e.Kind)
}

// Bare is what is left of the entity once it is gone: its id or key, as a ChangeUnset has it.
func (e Entity) Bare() Entity {
	n := Entity{Kind: e.Kind, Gone: true, Revision: e.Revision}
	switch {
	case e.Container != nil:
		n.Container = &Container{ID: e.Container.ID}
	case e.Pod != nil:
		n.Pod = &Pod{PodRef: PodRef{UID: e.Pod.UID}}
	case e.Task != nil:
		n.Task = &Task{ARN: e.Task.ARN}
	case e.Image != nil:
		i := e.Image
		n.Image = &Image{ID: i.ID, Runtime: i.Runtime, Instance: i.Instance, Namespace: i.Namespace}
	case e.Process != nil:
		n.Process = &Process{Key: e.Process.Key}
	case e.Service != nil:
		n.Service = &Service{Unit: e.Service.Unit, Cgroup: e.Service.Cgroup}
	}
	return n
}

// OnlyRemote reports whether the entity is as another pidigree alone says; of a unit
// nobody says whose word it is.
func (e Entity) OnlyRemote() bool {
	switch {
	case e.Process != nil:
		return e.Process.Source == SourceRemote
	case e.Container != nil:
		return OnlyRemote(e.Container.Sources)
	case e.Pod != nil:
		return OnlyRemote(e.Pod.Sources)
	case e.Task != nil:
		return OnlyRemote(e.Task.Sources)
	case e.Image != nil:
		return OnlyRemote(e.Image.Sources)
	}
	return false
}

// ChangeType says what a Change does to a reader's copy.
type ChangeType string

// The types of changes.
const (
	// ChangeSet puts or replaces the entity.
	ChangeSet ChangeType = "set"
	// ChangeUnset removes it.
	ChangeUnset ChangeType = "unset"
	// ChangeBookmark: everything up to Revision has been said; ends the first snapshot.
	ChangeBookmark ChangeType = "bookmark"
	// ChangeResync: the revision asked for cannot be resumed from; forget everything, a snapshot follows.
	ChangeResync ChangeType = "resync"
)

// Change is one element of a stream.
type Change struct {
	Type     ChangeType
	Revision Revision
	Entity   Entity
}

// Selector says which entities a list or a stream is about.
type Selector struct {
	// Kinds are the kinds wanted; empty means containers.
	Kinds []Kind
	// All includes those that are gone and still kept.
	All bool
	// From resumes a stream after this revision; 0 starts with a snapshot.
	From Revision
	// Include leaves only those that match, where it is not zero; Exclude leaves
	// those out that match.
	Include, Exclude Filter
	// NoSandboxes leaves out pods' sandbox containers.
	NoSandboxes bool
	// Detail reads, of each process of a list that lives, what events do not say
	// (Process.Detail). A stream of changes has none of it.
	Detail bool
}

// Filter matches containers, pods, tasks and images, and processes by their container. It
// matches where each of its parts does that is not empty, and a part where one of
// its patterns does; what nobody has said matches no pattern. A pattern is matched
// against the whole text: * stands for any characters, ? for one, [a-z] for one
// of them and \x for x itself.
type Filter struct {
	// Names are those of the container or pod, a task's family or service. An image has none.
	Names []string
	// Images are what the user asked for, with and without the tag, or the image's id;
	// of an image its names, its id and its digests.
	Images []string
	// Namespaces are the pod's, or containerd's where there is no pod; a task's is its cluster.
	Namespaces []string
	// Labels are KEY for one that is there, or KEY=VALUE; a task's are its tags, an
	// image's are its own.
	Labels []string
}

// IsZero reports whether the filter has no part.
func (f Filter) IsZero() bool {
	return len(f.Names)+len(f.Images)+len(f.Namespaces)+len(f.Labels) == 0
}

// AgentStatus is how the agent does.
type AgentStatus struct {
	Version string
	PID     PID
	Started time.Time
	// Mode is "ebpf", "polling", "one-shot" or "copy" (of another pidigree). ModeReason is empty, or says in one
	// line what the agent does without, why, and what makes up for it; it begins
	// with "degraded: ", but for one-shot.
	Mode       string
	ModeReason string
	// CgroupMode is v1, hybrid or v2.
	CgroupMode string
	Ready      bool
	Revision   Revision
	Containers int
	Processes  int
	Pods       int
	Tasks      int
	Images     int
	Watchers   int
	// Host is the host's name, as the kernel has it for the agent.
	Host string
	// BootID is the kernel's id of this boot (/proc/sys/kernel/random/boot_id): ids of
	// processes and cgroups, and each KTime, mean nothing in another one.
	BootID string
	// PIDNamespace is the inode of the PID namespace whose numbers the agent gives, 0 if
	// it cannot tell.
	PIDNamespace uint32
	Sources      []SourceStatus
	Kernel       KernelStatus
}

// SourceStatus is how one collector does.
type SourceStatus struct {
	Name string
	// State is "absent", "starting", "running" or "failing".
	State       string
	Where       string
	Version     string
	LastContact time.Time
	LastError   string
	LastErrorAt time.Time
	Restarts    uint64
	// Calls counts what it was asked, by method.
	Calls map[string]uint64
	// Errors counts failed calls (not found is no failure).
	Errors uint64
	// Entities counts what it describes: containers, pods, tasks and images.
	Entities int
	// Detail says in a few words what it can say here, or what it does without.
	Detail string
}

// KernelStatus counts what the kernel's side reports. Maps are by event type.
//
// Of each type, Seen = Events + Filtered + Lost, but for what is in a ring at
// that moment and for Stolen; and the kernel has generated Seen + Skipped.
type KernelStatus struct {
	Events map[string]uint64
	// Seen counts the runs of a program, Filtered those that are no event: threads,
	// and processes outside of our PID namespace.
	Seen, Filtered map[string]uint64
	// Lost counts events for which a ring had no room, summed over the CPUs.
	Lost map[string]uint64
	// Skipped counts program runs that the kernel skipped (recursion_misses). Where
	// a program is attached twice, from 7.0 on, an event is missed only if both were
	// skipped: then the smaller count of the two, no less than the events missed.
	Skipped map[string]uint64
	// Programs says of each BPF program whether it is attached.
	Programs map[string]string
	// Detached counts how often a program was found detached, or silent, and
	// attached again.
	Detached map[string]uint64
	// Stolen counts events that somebody else took out of a ring.
	Stolen uint64
	// Repairs counts scans after a loss, or because a program is missing.
	Repairs uint64
	// Lag is the age of the last event when it was applied, in nanoseconds.
	Lag time.Duration
}
