// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Type is the kind of an Event.
type Type uint8

// The types of events.
const (
	// Fork: a process (not a thread) was made. Process is the child.
	Fork Type = iota + 1
	// Exec: a process runs a new program. Process.Comm is already the new one.
	Exec
	// Exit: the last thread of a process ended. Exit is set.
	Exit
	// CgroupMkdir and CgroupRmdir: Cgroup is set.
	CgroupMkdir
	CgroupRmdir
	// CgroupAttach: Process moved into Cgroup. Never fires for CLONE_INTO_CGROUP.
	CgroupAttach
	// Task: a process of a snapshot.
	Task
	// SnapshotBegin and SnapshotEnd enclose the Tasks of a snapshot. Time of
	// begin: every process alive then and still alive at the end is in it.
	SnapshotBegin
	SnapshotEnd
	// Lost: Count events were lost since the last such event; repair is due. Count
	// is 0 where it is not known how many: a program is missing, or was for a while.
	Lost
)

// String gives the name used in metrics and docs.
func (t Type) String() string {
	names := [...]string{"", "fork", "exec", "exit", "cgroup_mkdir", "cgroup_rmdir", "cgroup_attach", "task", "snapshot_begin", "snapshot_end", "lost"}
	if int(t) < len(names) {
		return names[t]
	}
	return "invalid"
}

// MaxHierarchies is how many cgroup hierarchies a process event can carry:
// CGROUP_SUBSYS_COUNT is 14 at most (include/linux/cgroup_subsys.h), plus v2
// and name=systemd.
const MaxHierarchies = 16

// MaxPIDNamespaces is how many PID namespaces below the initial one an event
// carries, outermost first; deeper ones are dropped, PIDNSLevel still counts them.
const MaxPIDNamespaces = 4

// CgroupSet is the cgroups of a process, one for each hierarchy, ordered by
// hierarchy. It is comparable.
type CgroupSet struct {
	N   uint8
	IDs [MaxHierarchies]workload.CgroupID
}

// Slice gives the ids; the array is shared.
func (s *CgroupSet) Slice() []workload.CgroupID { return s.IDs[:s.N] }

// Comm is a task's command name, NUL-padded (TASK_COMM_LEN).
type Comm [16]byte

// String gives the name up to the first NUL; hostile bytes are kept.
func (c Comm) String() string {
	if i := bytes.IndexByte(c[:], 0); i >= 0 {
		return string(c[:i])
	}
	return string(c[:])
}

// Process is what an event says about a process at that instant.
type Process struct {
	Key workload.ProcessKey
	// Parent is real_parent's tgid, ParentStart its start_boottime in ns (0 if not known).
	Parent      workload.PID
	ParentStart uint64
	Cgroups     CgroupSet
	// PIDNSLevel is 0 in the initial PID namespace.
	PIDNSLevel uint8
	PIDNS      [MaxPIDNamespaces]workload.PIDNamespace
	// MountNS is the mount namespace's inode number.
	MountNS uint32
	Comm    Comm
	// ExeInMountNS: the program's file is on a mount of the task's own mount
	// namespace. False for the runtime's re-exec of a memfd or a detached mount.
	ExeInMountNS bool
	// ExeInode is the program file's inode number, ExeDev its kernel dev_t; 0 if not known.
	ExeInode uint64
	ExeDev   uint32
	// KernelThread is set for kernel threads (PF_KTHREAD).
	KernelThread bool
}

// Cgroup is a cgroup in an event.
type Cgroup struct {
	ID workload.CgroupID
	// Parent is the id of the cgroup above, 0 if not known.
	Parent uint64
	// Level is its depth, the hierarchy's root being 0.
	Level uint32
	// Path is absolute within the hierarchy. The tracepoints cut it at 1023
	// bytes (TRACE_CGROUP_PATH_LEN); PathCut says so.
	Path    string
	PathCut bool
}

// Event is one thing that the kernel reported, or a snapshot's. Which fields
// are set depends on Type.
type Event struct {
	Type    Type
	CPU     uint32
	Time    workload.KTime
	Process Process
	Cgroup  Cgroup
	Exit    workload.Exit
	Count   uint64
}
