//go:build ignore

// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * Filter, stamp, submit: the programs say what happened to which process and
 * cgroup, and decide nothing. Tracepoints by BTF (5.5) and a task iterator
 * (5.8); the ring buffer sets the lower bound at 5.8, tested from 5.10 on.
 *
 * Each program is loaded by itself, sharing the maps, so that a tracepoint
 * that a kernel does not have costs one program.
 *
 * Pointers are followed directly, not by bpf_probe_read_kernel: the verifier
 * turns such a load into one that reads 0 where it would fault, at a third of
 * the cost of a helper call. A NULL along the way therefore reads as 0. The
 * helper is used where the verifier cannot type the pointer: container_of and
 * flexible arrays.
 */
#include "helpers.h"
#include "records.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Read as known constants by the verifier, which prunes what they rule out. */
const volatile struct tracer_config config;

/* Only so that the object's BTF has the types that no map or argument names. */
const enum record_type *const volatile unused_type;
const enum twin *const volatile unused_twin;
const struct record_process *const volatile unused_process;
const struct record_cgroup_id *const volatile unused_cgroup_id;
const struct record_cgroup *const volatile unused_cgroup;
const struct record_counts *const volatile unused_counts;

/* See scratch. Of the programs that have twins those of cgroups alone, 4 to 6, use it. */
#define TWIN_SCRATCH 3
/* The slots of marks for each record_type. */
#define MARK_BITS 10

/*
 * Life-cycle events of cgroups. Written by cgroup_mkdir, cgroup_rmdir and
 * cgroup_attach_task, always with a wake-up; read by Tracer.Run. A ring of
 * their own, so that a flood of forks cannot evict them. Full: counted as lost.
 */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_RINGBUF);
	MAP_NUMBER(max_entries, 256 * 1024);
} cgroup_ring SEC(".maps");

/*
 * fork, exec, exit. Read by Tracer.Run at intervals, because a wake-up costs
 * more than all the rest of an event; see prompt. Full: counted as lost.
 */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_RINGBUF);
	MAP_NUMBER(max_entries, 8 * 1024 * 1024);
} process_ring SEC(".maps");

/*
 * What became of each run of a program, by record_type, and of each run of its
 * twin, by record_type + RECORD_TWIN. Written here, read by user space. A slot has one
 * writer, as scratch below explains.
 */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 2 * RECORD_TWIN);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct record_counts);
} counts SEC(".maps");

/*
 * Whether somebody waits for each process: the reader is then woken by the first
 * record after the last that it has read. Written by user space.
 */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, 1);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u32);
} prompt SEC(".maps");

/* The longest record: a cgroup_attach. */
struct record_scratch {
	u8 bytes[sizeof(struct record_process) + MAX_HIERARCHIES * sizeof(struct record_cgroup_id) +
		 sizeof(struct record_cgroup) + MAX_PATH];
};

/*
 * Where records of variable length are put together; the index is the
 * record_type, and for a twin TWIN_SCRATCH less: one for each program. The
 * kernel does not run a tracing program again on the same CPU before it has
 * ended, so nobody else writes the slot.
 */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	MAP_NUMBER(max_entries, 8);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, struct record_scratch);
} scratch SEC(".maps");

/*
 * Which events one of their two programs has reported: a slot holds what tells
 * the event from the others that are under way. Written by the first of the two,
 * cleared by the second. Few, as few events are under way at a time; two that
 * meet in a slot are reported twice, which user space can bear, and never less.
 */
struct {
	MAP_NUMBER(type, BPF_MAP_TYPE_ARRAY);
	MAP_NUMBER(max_entries, 8 << MARK_BITS);
	MAP_TYPE(key, u32);
	MAP_TYPE(value, u64);
} marks SEC(".maps");

#define PF_KTHREAD 0x00200000 /* include/linux/sched.h */
#define SIGNAL_GROUP_EXIT 4   /* include/linux/sched/signal.h */
/* Levels searched for the namespace that user space numbers in. */
#define MAX_NESTING 8
/* Links looked at per css_set: v2 and 12 controllers and some named ones. */
#define MAX_LINKS 20

/*
 * Wake the reader at this much unread data, and again for each WAKE_STEP above
 * it: at the record that ends within WAKE_WINDOW of it, which is no less than
 * the longest record, so that none steps over it.
 */
#define WAKE_BYTES (64 * 1024)
#define WAKE_STEP (16 * 1024)
#define WAKE_WINDOW 512

INLINE struct record_counts *counts_of(u32 type)
{
	u32 row = config.twin == TWIN_SECOND ? type + RECORD_TWIN : type;

	return bpf_map_lookup_elem(&counts, &row);
}

/*
 * From 7.0 on a program can be preempted in its body, and what happens on that
 * CPU meanwhile is skipped (recursion_misses). So each program is attached twice
 * there, as twins: the kernel skips both for one event only if both stand on
 * that CPU. Whichever comes first to an event reports it; which one that is does
 * not matter, as attaching one again puts it last.
 *
 * Gives whether the event is left to this program, and counts it. id, not 0, tells
 * the event from others under way. The mark of an event whose second program was
 * skipped stays and harms nothing: should a later event look the same, its first
 * program takes the mark for the twin's, and its second then finds none and reports.
 */
INLINE bool is_ours(u32 type, u64 id)
{
	u32 slot = type << MARK_BITS | (id & ((1 << MARK_BITS) - 1));
	struct record_counts *n = counts_of(type);
	u64 *mark;

	if (config.twin) {
		mark = bpf_map_lookup_elem(&marks, &slot);
		if (mark && *mark == id) {
			*mark = 0;
			if (n)
				n->second += 1;
			return 0;
		}
		if (mark)
			*mark = id;
	}
	if (n)
		n->seen += 1;
	return 1;
}

/*
 * What happens to a task is one thing at a time. The number is in the low bits,
 * which choose the slot: of those that began one after the other none meet.
 */
INLINE u64 id_of_task(struct task_struct *task)
{
	return task->start_boottime << 32 | (u32)task->pid;
}

/* Numbered in the same way, and by each hierarchy for itself. */
INLINE u64 id_of_cgroup(struct cgroup *cgrp)
{
	return cgrp->kn->id ^ (u64)cgrp->root->hierarchy_id << 48;
}

/* Gives the programs' return value: the event ends here. */
INLINE int count_filtered(u32 type)
{
	struct record_counts *n = counts_of(type);

	if (n)
		n->filtered += 1;
	return 0;
}

INLINE void count_lost(u32 type)
{
	struct record_counts *n = counts_of(type);

	if (n)
		n->lost += 1;
}

INLINE void stamp(struct record_header *h, u32 type)
{
	h->type = type;
	h->cpu = bpf_get_smp_processor_id();
	h->time = bpf_ktime_get_boot_ns();
}

INLINE u32 cgroup_count(void)
{
	return 1 + config.v1_count + config.named_count;
}

INLINE void put_cgroup(struct record_cgroup_id *to, struct cgroup *cgrp)
{
	to->id = cgrp->kn->id;
	to->hierarchy = cgrp->root->hierarchy_id;
	to->pad = 0;
}

/*
 * The cgroup of one v1 hierarchy, through a controller that is bound to it. The
 * controller's own struct is asked for the hierarchy, as it is in the cache.
 */
INLINE void put_v1(struct record_cgroup_id *to, struct css_set *cset, u32 subsys)
{
	struct cgroup_subsys_state **slot, *css;

	slot = (void *)cset + FIELD_OFFSET(struct css_set, subsys) + (subsys & 31) * sizeof(void *);
	css = *slot;
	to->id = css->cgroup->kn->id;
	to->hierarchy = css->ss->root->hierarchy_id;
	to->pad = 0;
}

INLINE u64 read_pointer(const void *from)
{
	u64 p = 0;

	bpf_probe_read_kernel(&p, sizeof(p), from);
	return p;
}

INLINE u32 read_u32(const void *from)
{
	u32 v = 0;

	bpf_probe_read_kernel(&v, sizeof(v), from);
	return v;
}

INLINE u32 hierarchy_of(u64 cgrp)
{
	u64 root = read_pointer((void *)(cgrp + FIELD_OFFSET(struct cgroup, root)));

	return read_u32((void *)(root + FIELD_OFFSET(struct cgroup_root, hierarchy_id)));
}

/* The cgroup that an entry of a css_set's list of links leads to. */
INLINE u64 linked_cgroup(u64 entry)
{
	u64 link = entry - FIELD_OFFSET(struct cgrp_cset_link, cgrp_link);

	return read_pointer((void *)(link + FIELD_OFFSET(struct cgrp_cset_link, cgrp)));
}

/*
 * Hierarchies without a controller are only in the css_set's list of links. It
 * has the order that they were mounted in, so user space can say where to look
 * first; each entry on the way costs 40 ns. It is read without css_set_lock: it
 * changes only while the css_set is made or freed or a hierarchy (un)mounted,
 * and a wrong pointer ends at MAX_LINKS or reads as 0.
 */
INLINE u64 find_named(struct css_set *cset, u32 hierarchy, u32 hops, bool back)
{
	const u64 head = (u64)((void *)cset + FIELD_OFFSET(struct css_set, cgrp_links));
	const u64 step = back ? FIELD_OFFSET(struct list_head, prev) : FIELD_OFFSET(struct list_head, next);
	u64 cgrp, at = read_pointer((void *)(head + step));

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_LINKS && i < hops; i++)
		at = read_pointer((void *)(at + step));
	cgrp = linked_cgroup(at);
	if (hierarchy_of(cgrp) == hierarchy)
		return cgrp;
	at = read_pointer((void *)head);
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_LINKS && at && at != head; i++) {
		cgrp = linked_cgroup(at);
		if (hierarchy_of(cgrp) == hierarchy)
			return cgrp;
		at = read_pointer((void *)at);
	}
	return 0;
}

INLINE void put_named(struct record_cgroup_id *to, struct css_set *cset, u32 i)
{
	u32 hierarchy = config.named[i];
	u64 cgrp = find_named(cset, hierarchy, config.named_hops[i], config.named_back[i]);
	u64 kn = read_pointer((void *)(cgrp + FIELD_OFFSET(struct cgroup, kn)));

	to->id = read_pointer((void *)(kn + FIELD_OFFSET(struct kernfs_node, id)));
	to->hierarchy = hierarchy;
	to->pad = 0;
}

/* One id for each hierarchy: v2, then v1 by controller, then the named ones. */
INLINE void put_cgroups(struct record_process *r, struct css_set *cset)
{
	struct record_cgroup_id *to = (void *)(r + 1);

	r->cgroups = cgroup_count();
	put_cgroup(&to[0], cset->dfl_cgrp);
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_HIERARCHIES - 1; i++) {
		if (i >= config.v1_count)
			break;
		put_v1(&to[1 + i], cset, config.v1_subsys[i]);
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_NAMED; i++) {
		if (i >= config.named_count)
			break;
		put_named(&to[1 + config.v1_count + i], cset, i);
	}
}

/* struct upid on every 64-bit kernel since 4.19. */
struct upid_copy {
	u64 nr; /* with four bytes of padding above */
	u64 ns;
};

INLINE void read_upid(struct upid_copy *to, u64 pid, u32 level)
{
	u64 numbers = pid + FIELD_OFFSET(struct pid, numbers);

	to->nr = 0;
	to->ns = 0;
	bpf_probe_read_kernel(to, sizeof(*to), (void *)(numbers + level * sizeof(*to)));
}

INLINE u32 pid_ns_inum(u64 ns)
{
	return read_u32((void *)(ns + FIELD_OFFSET(struct pid_namespace, ns.inum)));
}

/*
 * The level of the namespace that user space numbers in: 0, or found by its
 * inode number, or -1 for a process outside of it.
 */
INLINE s32 own_level(struct task_struct *leader)
{
	struct upid_copy upid;
	u64 pid;
	u32 level;

	if (config.pid_ns_inum == 0)
		return 0;
	pid = read_pointer(&leader->thread_pid);
	level = read_u32((void *)(pid + FIELD_OFFSET(struct pid, level)));
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_NESTING; i++) {
		if (i > level)
			break;
		read_upid(&upid, pid, i);
		if (pid_ns_inum(upid.ns) == config.pid_ns_inum)
			return i;
	}
	return -1;
}

INLINE u32 number_at(struct task_struct *leader, s32 base)
{
	struct upid_copy upid;

	if (config.pid_ns_inum == 0)
		return leader->tgid;
	if (base < 0)
		return 0;
	read_upid(&upid, read_pointer(&leader->thread_pid), base);
	return (u32)upid.nr;
}

INLINE void put_pid(struct record_process *r, struct task_struct *leader, s32 base)
{
	struct pid *pid = leader->thread_pid;
	u32 level = pid->level - base;

	r->inode = FIELD_EXISTS(struct pid, ino) ? pid->ino : 0;
	r->pid_ns_level = level;
#pragma unroll
	for (u32 i = 0; i < MAX_PID_NAMESPACES; i++) {
		struct upid_copy upid;

		r->pid_ns[i].inum = 0;
		r->pid_ns[i].pid = 0;
		if (level <= i)
			continue;
		read_upid(&upid, read_pointer(&leader->thread_pid), base + i + 1);
		r->pid_ns[i].pid = (u32)upid.nr;
		r->pid_ns[i].inum = pid_ns_inum(upid.ns);
	}
}

/*
 * The program's file, and whether its mount is one of the task's own mount
 * namespace. A memfd is on a kernel-internal mount and a detached bind mount on
 * none, which is what a runtime's re-exec of itself runs from.
 */
INLINE u32 put_exe(struct record_process *r, struct task_struct *task)
{
	struct mm_struct *mm = task->mm;
	struct file *exe = mm->exe_file;
	struct inode *inode = exe->f_inode;
	u64 mnt = (u64)exe->f_path.mnt;
	u64 mnt_ns = 0;

	r->exe_inode = inode->i_ino;
	r->exe_dev = inode->i_sb->s_dev;
	if (mnt)
		mnt_ns = read_pointer(
			(void *)(mnt - FIELD_OFFSET(struct mount, mnt) + FIELD_OFFSET(struct mount, mnt_ns)));
	/* Another task's mm can go away under the iterator, but not and come back. */
	if (!mm || task->mm != mm) {
		r->exe_inode = 0;
		r->exe_dev = 0;
		return 0;
	}
	return mnt_ns && mnt_ns == (u64)task->nsproxy->mnt_ns ? PROCESS_EXE_IN_MOUNT_NS : 0;
}

/*
 * Everything but the header, the exit status and the program's file. The group
 * leader stands for the process; it stays there, a zombie, until the last
 * thread is gone. Namespaces are of the task at hand, as a dead leader has none.
 */
INLINE void put_process(struct record_process *r, struct task_struct *task, s32 base)
{
	struct task_struct *leader = task->group_leader;
	struct task_struct *parent = leader->real_parent->group_leader;

	r->start = leader->start_boottime;
	r->tgid = number_at(leader, base);
	r->parent = number_at(parent, own_level(parent));
	r->parent_start = parent->start_boottime;
	r->mount_ns = task->nsproxy->mnt_ns->ns.inum;
	r->flags = leader->flags & PF_KTHREAD ? PROCESS_KTHREAD : 0;
	r->exit_status = 0;
	r->exe_inode = 0;
	r->exe_dev = 0;
	/* Two loads in the place of a helper call. */
	((u64 *)r->comm)[0] = ((u64 *)leader->comm)[0];
	((u64 *)r->comm)[1] = ((u64 *)leader->comm)[1];
	put_pid(r, leader, base);
	put_cgroups(r, leader->cgroups);
}

INLINE struct record_process *reserve_process(u32 type)
{
	u64 size = sizeof(struct record_process) + cgroup_count() * sizeof(struct record_cgroup_id);
	struct record_process *r = bpf_ringbuf_reserve(&process_ring, size, 0);

	if (!r) {
		count_lost(type);
		return 0;
	}
	stamp(&r->header, type);
	return r;
}

/* 0 has the kernel wake a reader that has read all before the record. */
INLINE u64 wake_if_prompt(void)
{
	u32 key = 0;
	u32 *on = bpf_map_lookup_elem(&prompt, &key);

	return on && *on ? 0 : BPF_RB_NO_WAKEUP;
}

/* Once for each WAKE_STEP, not for each record: the reader may be slow to get a CPU. */
INLINE u64 wake_if_much(void)
{
	u64 unread = bpf_ringbuf_query(&process_ring, BPF_RB_AVAIL_DATA);

	if (unread >= WAKE_BYTES && (unread & (WAKE_STEP - 1)) < WAKE_WINDOW)
		return BPF_RB_FORCE_WAKEUP;
	return wake_if_prompt();
}

/* sched_process_fork(parent, child): also for threads, which are left out. */
SEC("tp_btf/sched_process_fork")
int process_fork(u64 *ctx)
{
	struct task_struct *child = (void *)ctx[1];
	struct record_process *r;
	s32 base;

	if (!is_ours(RECORD_FORK, id_of_task(child)))
		return 0;
	base = own_level(child);
	if (child->pid != child->tgid || base < 0)
		return count_filtered(RECORD_FORK);
	r = reserve_process(RECORD_FORK);
	if (!r)
		return 0;
	put_process(r, child, base);
	r->flags |= put_exe(r, child);
	bpf_ringbuf_submit(r, wake_if_much());
	return 0;
}

/*
 * sched_process_exec(task, old_pid, bprm). An exec in another css_set than the
 * parent's, that is in another cgroup in at least one hierarchy, is what the
 * first program of a container looks like: it is not left to the batch.
 */
SEC("tp_btf/sched_process_exec")
int process_exec(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct record_process *r;
	s32 base;
	u64 wake;

	if (!is_ours(RECORD_EXEC, id_of_task(task)))
		return 0;
	base = own_level(task);
	if (base < 0)
		return count_filtered(RECORD_EXEC);
	r = reserve_process(RECORD_EXEC);
	if (!r)
		return 0;
	put_process(r, task, base);
	r->flags |= put_exe(r, task);
	wake = wake_if_much();
	if ((u64)task->cgroups != (u64)task->real_parent->cgroups)
		wake = BPF_RB_FORCE_WAKEUP;
	bpf_ringbuf_submit(r, wake);
	return 0;
}

/*
 * Whether this is the process's last thread. Without the argument two threads
 * can both see the counter at 0: user space drops the second event.
 */
INLINE bool is_last_thread(u64 *ctx, struct task_struct *task)
{
	if (config.has_group_dead)
		return ctx[1] & 1;
	return task->signal->live.counter == 0;
}

/*
 * sched_process_exit(task[, group_dead]). Wakes the reader only where somebody
 * waits for each process: nothing has a program preempted as a wake-up does.
 */
SEC("tp_btf/sched_process_exit")
int process_exit(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];
	struct signal_struct *sig;
	struct record_process *r;
	s32 base;

	if (!is_ours(RECORD_EXIT, id_of_task(task)))
		return 0;
	if (!is_last_thread(ctx, task))
		return count_filtered(RECORD_EXIT);
	base = own_level(task->group_leader);
	if (base < 0)
		return count_filtered(RECORD_EXIT);
	r = reserve_process(RECORD_EXIT);
	if (!r)
		return 0;
	put_process(r, task, base);
	sig = task->signal;
	/* group_exit_code is 0 for a single-threaded exit(2) on 5.10. */
	if (sig->flags & SIGNAL_GROUP_EXIT)
		r->exit_status = sig->group_exit_code;
	else
		r->exit_status = task->group_leader->exit_code;
	if (sig->oom_mm)
		r->flags |= PROCESS_OOM;
	bpf_ringbuf_submit(r, wake_if_prompt());
	return 0;
}

INLINE void *scratch_of(u32 type)
{
	u32 slot = config.twin == TWIN_SECOND ? type - TWIN_SCRATCH : type;

	return bpf_map_lookup_elem(&scratch, &slot);
}

/* Gives how many bytes of path it wrote after to, 0 to MAX_PATH - 1, without the NUL. */
INLINE u64 put_cgroup_event(struct record_cgroup *to, struct cgroup *cgrp, u64 path)
{
	struct cgroup_subsys_state *above = cgrp->self.parent;
	s64 n;

	to->id = cgrp->kn->id;
	to->parent = above ? above->cgroup->kn->id : 0;
	to->hierarchy = cgrp->root->hierarchy_id;
	to->level = cgrp->level;
	to->pad = 0;
	n = bpf_probe_read_kernel_str(to + 1, MAX_PATH, (void *)path);
	n = n < 1 ? 0 : n - 1;
	/* 5.10 needs to see the bound in the register that goes on. */
	asm volatile("" : "+r"(n));
	n &= MAX_PATH - 1;
	to->path_len = n;
	return n;
}

INLINE int send_cgroup(u32 type, u64 *ctx)
{
	struct record_header *h;
	struct record_cgroup *c;
	u64 size;

	if (!is_ours(type, id_of_cgroup((struct cgroup *)ctx[0])))
		return 0;
	h = scratch_of(type);
	if (!h)
		return count_filtered(type); /* cannot be: the key is in range */
	c = (void *)(h + 1);
	stamp(h, type);
	size = put_cgroup_event(c, (struct cgroup *)ctx[0], ctx[1]);
	size += sizeof(*h) + sizeof(*c);
	if (bpf_ringbuf_output(&cgroup_ring, h, size, BPF_RB_FORCE_WAKEUP))
		count_lost(type);
	return 0;
}

/* cgroup_mkdir(cgroup, path) */
SEC("tp_btf/cgroup_mkdir")
int cgroup_mkdir(u64 *ctx)
{
	return send_cgroup(RECORD_CGROUP_MKDIR, ctx);
}

/* cgroup_rmdir(cgroup, path) */
SEC("tp_btf/cgroup_rmdir")
int cgroup_rmdir(u64 *ctx)
{
	return send_cgroup(RECORD_CGROUP_RMDIR, ctx);
}

/* cgroup_attach_task(cgroup, path, leader, threadgroup), after the move. */
SEC("tp_btf/cgroup_attach_task")
int cgroup_attach(u64 *ctx)
{
	struct task_struct *task = (void *)ctx[2];
	struct record_process *r;
	struct record_cgroup *c;
	u64 size;
	s32 base;

	if (!is_ours(RECORD_CGROUP_ATTACH, id_of_task(task)))
		return 0;
	base = own_level(task);
	if (task->pid != task->tgid || base < 0)
		return count_filtered(RECORD_CGROUP_ATTACH);
	r = scratch_of(RECORD_CGROUP_ATTACH);
	if (!r)
		return count_filtered(RECORD_CGROUP_ATTACH);
	stamp(&r->header, RECORD_CGROUP_ATTACH);
	put_process(r, task, base);
	r->flags |= put_exe(r, task);
	c = (void *)(r + 1) + cgroup_count() * sizeof(struct record_cgroup_id);
	size = put_cgroup_event(c, (struct cgroup *)ctx[0], ctx[1]);
	size += sizeof(*r) + cgroup_count() * sizeof(struct record_cgroup_id) + sizeof(*c);
	if (bpf_ringbuf_output(&cgroup_ring, r, size, BPF_RB_FORCE_WAKEUP))
		count_lost(RECORD_CGROUP_ATTACH);
	return 0;
}

/*
 * The task iterator: every process of the reader's PID namespace that has a
 * living thread. Zombies are left out: their exit was an event already. One
 * reader at a time, as the scratch slot is not guarded here.
 */
SEC("iter/task")
int process_snapshot(struct bpf_iter__task *ctx)
{
	struct seq_file *seq = ctx->meta->seq;
	struct task_struct *task = ctx->task;
	struct record_process *r;
	s32 base;

	if (!task || task->pid != task->tgid || task->signal->live.counter == 0)
		return 0;
	base = own_level(task);
	if (base < 0)
		return 0;
	r = scratch_of(RECORD_TASK);
	if (!r)
		return 0;
	stamp(&r->header, RECORD_TASK);
	put_process(r, task, base);
	r->flags |= put_exe(r, task);
	/* A full buffer makes the kernel call again for the same task. */
	bpf_seq_write(seq, r, sizeof(*r) + cgroup_count() * sizeof(struct record_cgroup_id));
	return 0;
}
