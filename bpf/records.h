/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The wire format: what the programs write and pkg/kernel decodes. The Go
 * mirrors are generated from these structs; pkg/kernel's layout test compares
 * them with the object's BTF. No implicit padding, all natural alignment.
 *
 * fork, exec, exit, task:  process, cgroup_id[process.cgroups]
 * cgroup_attach:           the same, then cgroup, path[cgroup.path_len]
 * cgroup_mkdir, _rmdir:    header, cgroup, path[cgroup.path_len]
 */
#ifndef PIDIGREE_RECORDS_H
#define PIDIGREE_RECORDS_H

#include "kernel_types.h"

/* The same numbers as pkg/kernel's Type; also the index of the counts map. */
enum record_type {
	RECORD_FORK = 1,
	RECORD_EXEC = 2,
	RECORD_EXIT = 3,
	RECORD_CGROUP_MKDIR = 4,
	RECORD_CGROUP_RMDIR = 5,
	RECORD_CGROUP_ATTACH = 6,
	RECORD_TASK = 7,
	/* More by so much in the counts map: of the second of two programs. */
	RECORD_TWIN = 8,
};

/*
 * What became of the runs of one program on one CPU: seen are those that came to
 * an event before the program's twin, second all others. Those seen that are
 * neither filtered (threads, processes outside of our PID namespace) nor lost (no
 * room in the ring) are in a ring. Runs that the kernel skipped (recursion_misses)
 * are in none of these.
 */
struct record_counts {
	u64 seen;
	u64 second;
	u64 filtered;
	u64 lost;
};

#define MAX_HIERARCHIES 16
#define MAX_NAMED 4
#define MAX_PID_NAMESPACES 4
/* The tracepoints cut at 1024 themselves (TRACE_CGROUP_PATH_LEN); room for a kernel that does not. */
#define MAX_PATH 4096

#define PROCESS_KTHREAD 1u
#define PROCESS_OOM 2u
#define PROCESS_EXE_IN_MOUNT_NS 4u

struct record_header {
	u32 type;
	u32 cpu;
	u64 time; /* CLOCK_BOOTTIME, ns */
};

struct record_pid_namespace {
	u32 inum;
	u32 pid;
};

struct record_cgroup_id {
	u64 id;
	u32 hierarchy;
	u32 pad;
};

struct record_process {
	struct record_header header;
	u64 start;        /* start_boottime of the group leader, ns */
	u64 inode;        /* of its pidfd; 0 before 6.9 */
	u64 parent_start; /* start_boottime of the parent's group leader, ns */
	u64 exe_inode;
	u32 exe_dev;
	u32 tgid;
	u32 parent;
	u32 mount_ns;
	u32 exit_status; /* as from wait(2) */
	u32 flags;       /* PROCESS_* */
	u32 pid_ns_level;
	u32 cgroups; /* how many record_cgroup_id follow */
	char comm[16];
	struct record_pid_namespace pid_ns[MAX_PID_NAMESPACES];
};

struct record_cgroup {
	u64 id;
	u64 parent;
	u32 hierarchy;
	u32 level;
	u32 path_len; /* without the NUL */
	u32 pad;
};

/* Which of a tracepoint's two programs one is. */
enum twin {
	TWIN_NONE = 0, /* it is the only one */
	TWIN_FIRST = 1,
	TWIN_SECOND = 2,
};

/*
 * What user space found out about this kernel; constant once loaded, and but for
 * twin the same for all programs.
 */
struct tracer_config {
	/* sched_process_exit has the group_dead argument (6.17 and later). */
	u8 has_group_dead;
	/* How many of v1_subsys and named are in use. */
	u8 v1_count;
	u8 named_count;
	/* An enum twin. */
	u8 twin;
	/* One controller's index in css_set.subsys for each v1 hierarchy. */
	u8 v1_subsys[MAX_HIERARCHIES];
	/* The PID namespace to number in, where it is not the initial one; else 0. */
	u32 pid_ns_inum;
	/* hierarchy_id of hierarchies without a controller (name=systemd). */
	u32 named[MAX_NAMED];
	/* Where in css_set.cgrp_links they are to be looked for first: after so many
	 * entries, from the end of the list rather than from its front. */
	u8 named_hops[MAX_NAMED];
	u8 named_back[MAX_NAMED];
};

#endif
