/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The few fields of kernel structs that the programs read, written by hand.
 *
 * preserve_access_index turns every access into a CO-RE relocation, so order,
 * size and neighbours here mean nothing: the loader finds each field by name in
 * the running kernel's BTF. A field that is renamed, or missing somewhere
 * between 5.10 and 7.2, is read behind bpf_core_field_exists only.
 */
#ifndef PIDIGREE_KERNEL_TYPES_H
#define PIDIGREE_KERNEL_TYPES_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;
typedef _Bool bool;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct ns_common {
	u32 inum;
};

struct pid_namespace {
	struct ns_common ns;
};

struct upid {
	s32 nr;
	struct pid_namespace *ns;
};

struct pid {
	u32 level;
	/* 6.9 and later; inside an anonymous struct there, which CO-RE sees through. */
	u64 ino;
	/* [1] on 5.10, a flexible array later: only its offset is used. */
	struct upid numbers[1];
};

typedef struct {
	s32 counter;
} atomic_t;

struct mm_struct;

struct signal_struct {
	atomic_t live;
	s32 group_exit_code;
	u32 flags;
	struct mm_struct *oom_mm;
};

struct mnt_namespace {
	struct ns_common ns;
};

struct nsproxy {
	struct mnt_namespace *mnt_ns;
};

struct super_block {
	u32 s_dev;
};

struct inode {
	struct super_block *i_sb;
	unsigned long i_ino;
};

struct vfsmount {
	u32 mnt_flags;
};

struct mount {
	struct vfsmount mnt;
	struct mnt_namespace *mnt_ns;
};

struct path {
	struct vfsmount *mnt;
};

struct file {
	struct inode *f_inode;
	struct path f_path;
};

struct mm_struct {
	struct file *exe_file;
};

struct list_head {
	struct list_head *next;
	struct list_head *prev;
};

struct kernfs_node {
	u64 id;
};

struct cgroup_root {
	s32 hierarchy_id;
};

struct cgroup;

struct cgroup_subsys {
	struct cgroup_root *root;
};

struct cgroup_subsys_state {
	struct cgroup *cgroup;
	struct cgroup_subsys *ss;
	struct cgroup_subsys_state *parent;
};

struct cgroup {
	struct cgroup_subsys_state self;
	s32 level;
	struct kernfs_node *kn;
	struct cgroup_root *root;
};

struct css_set {
	/* CGROUP_SUBSYS_COUNT long: only its offset is used. */
	struct cgroup_subsys_state *subsys[1];
	struct cgroup *dfl_cgrp;
	struct list_head cgrp_links;
};

struct cgrp_cset_link {
	struct cgroup *cgrp;
	struct list_head cgrp_link;
};

struct task_struct {
	u32 flags;
	s32 exit_code;
	s32 pid;
	s32 tgid;
	u64 start_boottime;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	struct pid *thread_pid;
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	struct css_set *cgroups;
	char comm[16];
};

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop

#endif
