// SPDX-License-Identifier: Apache-2.0

// Package kernel turns what the kernel reports into Events. It owns loading,
// attaching and reading the BPF programs, counting what they lost, and a
// polling source that stands in where they cannot load.
//
// There are two sources with the same methods:
//
//	func NewTracer(TracerOptions) (*Tracer, error) // BPF
//	func NewPoller(PollerOptions) (*Poller, error) // diffs of /proc and cgroupfs
//
//	Run(ctx, func(Event)) error      // events since New, until ctx ends or Close
//	Snapshot(ctx, func(Event)) error // SnapshotBegin, Task..., SnapshotEnd
//	Flush(ctx) error                 // what was pending at the call has been delivered
//	Stats() Stats
//	Close() error
//
// and Probe, which says what a host lacks for the Tracer.
//
// # Order and time
//
// Run calls fn from one goroutine, and one Run at a time may be under way; fn
// must not block, nor call Flush or Close. Snapshot may run beside it, with a
// function of its own. Events of cgroups (CgroupMkdir, CgroupRmdir,
// CgroupAttach) and events of processes (Fork, Exec, Exit) come by two ways:
// within each, events have the order that the kernel reported them in; between
// them there is none, but for the cgroup events being delivered first where
// both wait. Event.Time, CLOCK_BOOTTIME, is the order across them.
//
// An event of a cgroup, and an exec in another cgroup than the parent's (the
// first program of a container looks like that), is delivered at once. The
// others follow in batches, within BatchInterval, unless somebody waits for
// them (Prompt).
//
// # What an event carries
//
//   - Fork, Exec, Exit: Process. Exec in two cases at once: the cgroups are the
//     task's at that instant. Exit comes once, for the last thread, with Exit
//     set; the program's file (ExeInode) is gone by then.
//   - CgroupMkdir, CgroupRmdir: Cgroup. The kernel cuts the path at 1023 bytes
//     (PathCut).
//   - CgroupAttach: Process after the move, and Cgroup, where it was moved to in
//     that one hierarchy. No event for a child made by CLONE_INTO_CGROUP: its
//     Fork and Exec already carry the cgroup.
//   - Task: Process, for each process with a living thread. Zombies are left out.
//   - Lost: Count events never came (a full ring, or programs that the kernel
//     skipped), or, with 0, nobody knows how many: it comes every second while a
//     program is missing. Whoever keeps state takes a Snapshot and compares.
//
// PIDs are those of the PID namespace that procfs was mounted for, normally the
// initial one. Where that is a namespace further down (the agent in
// systemd-nspawn or LXC), processes outside of it are left out, and PIDNSLevel
// and PIDNS count from there.
//
// # Keys
//
// A Tracer's keys have Start in nanoseconds and, from 6.9 on, Inode. A Poller's,
// and those of a Snapshot that had to fall back to /proc, have Ticks set and
// Inode where this kernel has pidfs. ProcessKey.Same compares the two kinds.
//
// # What a Poller cannot see
//
// What began and ended between two scans; the exit status; whether a cgroup was
// removed and made again with the same inode. It tells an exec by the stack's
// new address, and emits a CgroupAttach without path where a process's cgroups
// changed.
package kernel
