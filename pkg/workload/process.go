// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"maps"
	"slices"
)

// Status is the kind of an Answer.
type Status string

// The statuses. Unknown and Conflict are answers, not errors: nothing was
// guessed.
const (
	StatusUnknown   Status = "unknown"
	StatusContainer Status = "container"
	StatusHost      Status = "host"
	StatusConflict  Status = "conflict"
)

// Confidence says what an identity rests on.
type Confidence string

// Confirmed rests on a registered cgroup (rule 4); Claimed on a name that
// nothing contradicted.
const (
	ConfidenceNone Confidence = ""
	Confirmed      Confidence = "confirmed"
	Claimed        Confidence = "claimed"
)

// Entry says how a process came into its container.
type Entry string

// A member is the container's init or below it, or was put in by exec.
const (
	EntryNone Entry = ""
	EntryInit Entry = "init"
	EntryExec Entry = "exec"
)

// PIDNamespace is a PID namespace and the PID of a process in it.
type PIDNamespace struct {
	// Inum is the namespace's inode, as in /proc/PID/ns/pid.
	Inum uint32
	PID  PID
}

// Process is one process instance.
type Process struct {
	Key    ProcessKey
	Parent PID
	Comm   string
	// Exe is the path of the program as the process's mount namespace names it. The
	// kernel's events do not say it: it comes with Detail.
	Exe string
	// Cgroups holds one id for each hierarchy.
	Cgroups []CgroupID
	// PIDNamespaces holds the namespaces below the initial one, outermost first.
	PIDNamespaces []PIDNamespace
	// MountNS is the mount namespace's inode.
	MountNS uint32

	Status     Status
	Confidence Confidence
	// Container is the innermost container that it belongs to, zero for none.
	Container ContainerID
	Entry     Entry
	// ForeignNamespaces is set for a process in another workload's namespaces (nsenter).
	ForeignNamespaces bool
	// Reason says in a few words why the status is unknown or conflict.
	Reason  string
	Service *Service

	Started KTime
	// Exec is the time of its last exec, 0 if none was seen.
	Exec KTime
	Exit *Exit

	// Source is SourceRemote where what it belongs to is another pidigree's word, or it
	// is known from there alone; empty where it was found out here.
	Source string
	// Stale is set while that one is away, of a process that lived when it was last heard.
	Stale bool

	// Detail is there where somebody asked for it, and of a process that lives.
	Detail *ProcessDetail
}

// SourceRemote is the name of another pidigree as a source, in Process.Source and in
// Provenance.
const SourceRemote = "remote"

// ProcessDetail is what the kernel's events do not say of a process. It is read
// from /proc when somebody asks, of the very process that the key names, and is
// not kept. What could not be read is empty.
type ProcessDetail struct {
	// Command is the command line by its arguments, as the process has it now: its own words.
	Command []string
	// CommandHidden is set where the command line is not for who asks.
	CommandHidden bool
	// UID and EUID are the real and the effective user id, as the host numbers them.
	UID, EUID uint32
	// User is the host's name for EUID, of a process of the host's: in a container
	// the same number may have another name, or none.
	User string
	// Parent is its parent now, zero where it has none that can be seen.
	Parent ProcessKey
	// Namespaces are the inodes of its namespaces, by kind: cgroup, ipc, mnt, net,
	// pid, time, user, uts.
	Namespaces map[string]uint64
	// Truncated names the fields that a budget cut.
	Truncated []string
}

// Family is the processes above and below one, each by its key, as they are now.
type Family struct {
	// Ancestors are the parent, its parent and so on, the nearest first.
	Ancestors []Process
	// Children are those that it is the parent of, the oldest first.
	Children []Process
	// Truncated names the fields that a budget cut.
	Truncated []string
}

// Clone makes a deep copy that may be changed.
func (d *ProcessDetail) Clone() *ProcessDetail {
	if d == nil {
		return nil
	}
	n := *d
	n.Command = slices.Clone(d.Command)
	n.Namespaces = maps.Clone(d.Namespaces)
	n.Truncated = slices.Clone(d.Truncated)
	return &n
}

// Clone makes a deep copy that may be changed.
func (p *Process) Clone() *Process {
	if p == nil {
		return nil
	}
	n := *p
	n.Cgroups = slices.Clone(p.Cgroups)
	n.PIDNamespaces = slices.Clone(p.PIDNamespaces)
	n.Service = clonePtr(p.Service)
	n.Exit = clonePtr(p.Exit)
	n.Detail = p.Detail.Clone()
	return &n
}

// Revision orders the changes of one store, from 1 upward.
type Revision uint64

// Answer is what pidigree says about one process, cgroup or container. The
// slices and pointers are shared and must not be changed.
type Answer struct {
	Status     Status
	Confidence Confidence
	// Exited is set where the process, or the container asked for, is gone.
	Exited bool
	// Process is nil where the question was not about a process.
	Process *Process
	// Thread is the thread id that was asked for, where it was not the process id.
	Thread PID
	// Containers is the chain, outermost first; empty unless Status is StatusContainer.
	Containers []*Container
	Pod        *Pod
	Task       *Task
	Service    *Service
	// Reason says in a few words why Status is unknown or conflict.
	Reason string
	// AsOf is the instant that the answer was right at; it stays right as far as no event was missed.
	AsOf KTime
	// Revision is the store's at the answer.
	Revision Revision
}

// Container gives the innermost container, nil if there is none.
func (a Answer) Container() *Container {
	if len(a.Containers) == 0 {
		return nil
	}
	return a.Containers[len(a.Containers)-1]
}

// Missing names the sources that could still add to the answer.
func (a Answer) Missing() []string {
	if c := a.Container(); c != nil {
		return c.Missing
	}
	return nil
}

// Evidence is what is known of a container before any source has named it.
type Evidence struct {
	// Cgroups are its cgroups, at most one for each hierarchy.
	Cgroups []CgroupPath
	// Claims are the ids that the names of its cgroups claim, innermost first.
	Claims []ContainerID
	// Init is a process in it, zero if none was seen.
	Init ProcessKey
	// Bundle is the OCI bundle's directory, empty if unknown.
	Bundle string
}
