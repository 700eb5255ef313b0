// SPDX-License-Identifier: Apache-2.0

// Package resolve turns questions into answers: a PID, a thread id, a process
// key, a cgroup, a container's id or name, now or in the kept past.
//
// It owns the rule that a bare PID is never answered from memory alone: it
// opens a pidfd (before 6.9, or for another /proc, the /proc/PID directory),
// makes the key of the process that this holds, looks that up, and so speaks of
// one process instance only. A hit costs three system calls and waits for no
// lock, or one for hundreds of PIDs that are asked about again and again: their
// pidfds are held. A miss asks the correlator to observe the process, once. Runtimes are not waited
// for, unless the question says how long, with one exception: a container that has just begun and about which
// an engine that is well is giving its first answer at that moment.
//
// What the kernel's events do not say of a process (its program, command line,
// user and present parent) is read from /proc for who asks for it, within budgets,
// and not kept: a question that does not ask for it costs nothing more.
//
// All methods may be called concurrently.
package resolve

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	pcgroup "github.com/pidigree/pidigree/pkg/cgroup"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Observer is what may bring more into the store. *correlator.Correlator is one.
type Observer interface {
	// Observe brings what the kernel knows of a process now, where known does not
	// already report true after pending events were delivered.
	Observe(ctx context.Context, pid workload.PID, known func() bool) error
	// Settle waits, shortly, for what engines that are well are saying about a
	// container for the first time, and reports whether any of it came.
	Settle(ctx context.Context, id workload.ContainerID) bool
}

// Options configure a Resolver. Store, Cgroups and Observer are required.
type Options struct {
	Store    *store.Store
	Cgroups  *pcgroup.FS
	Observer Observer
	// Procfs is the host's /proc. Default "/proc".
	Procfs string
	// Copy: the store is a copy of another host's, whose PIDs and cgroups are asked about.
	// They are answered from the store alone: a PID for the newest process known to have
	// had it, and nothing about the past.
	Copy bool
}

// Resolver answers questions.
type Resolver struct {
	store    *store.Store
	cgroups  *pcgroup.FS
	observer Observer
	procfs   string
	copy     bool
	// pidfs: a pidfd's inode is the process's own (6.9 and later).
	pidfs bool
	held  *held // used where there is pidfs

	details details
	users   users
}

// New makes a resolver.
func New(o Options) (*Resolver, error) {
	if o.Store == nil || o.Cgroups == nil || o.Observer == nil {
		return nil, errors.New("new resolver: store, cgroups and observer are required")
	}
	if o.Procfs == "" {
		o.Procfs = "/proc"
	}
	return &Resolver{
		store: o.Store, cgroups: o.Cgroups, observer: o.Observer, procfs: o.Procfs, copy: o.Copy,
		pidfs: !o.Copy && o.Procfs == "/proc" && hasPidfs(), held: newHeld(mayHold()),
		details: details{slots: make(chan struct{}, readers)},
	}, nil
}

// Close closes the descriptors of processes. The resolver answers as before,
// without holding any.
func (r *Resolver) Close() { r.held.close() }

// Held is how many processes are held by a descriptor, because they are asked
// about again and again.
func (r *Resolver) Held() int { return int(r.held.count.Load()) }

// Resolve answers one question. The error says what is wrong with the question
// (workload.ErrInvalid, ErrNotFound, ErrAmbiguous); unknown and conflict are answers.
func (r *Resolver) Resolve(ctx context.Context, q workload.Query) workload.Result {
	res := r.once(ctx, q)
	if owed(&q, &res) && r.settle(ctx, res.Answer.Container().ID) {
		res = r.once(ctx, q)
	}
	var b Reading
	r.fill(ctx, &res, &b)
	return res
}

// fill reads what was asked for beyond the answer.
func (r *Resolver) fill(ctx context.Context, res *workload.Result, b *Reading) {
	if r.copy || !res.Query.Detail && !res.Query.Family || res.Err != nil || res.Answer.Process == nil {
		return
	}
	if res.Query.Family {
		res.Family = r.family(ctx, res.Answer.Process)
	}
	if res.Query.Detail {
		res.Answer.Process = r.Detail(ctx, res.Answer.Process, b)
	}
}

// once answers from what is known, or within the time that the question gives.
func (r *Resolver) once(ctx context.Context, q workload.Query) workload.Result {
	res := workload.Result{Query: q}
	res.Answer, res.Err = r.answer(ctx, q)
	if q.Wait > 0 && res.Err == nil && !complete(res.Answer) {
		res.Answer, res.Err = r.wait(ctx, q)
	}
	if q.Explain && res.Err == nil {
		res.Explanation = r.explain(res.Answer)
	}
	return res
}

func (r *Resolver) answer(ctx context.Context, q workload.Query) (workload.Answer, error) {
	switch {
	case q.PID != 0 && !q.At.IsZero():
		return r.past(q.PID, q.At)
	case !q.At.IsZero():
		return workload.Answer{}, fmt.Errorf("resolve: only a PID can be asked about the past: %w", workload.ErrInvalid)
	case q.PID != 0:
		return r.PID(ctx, q.PID)
	case !q.Key.IsZero():
		return r.Key(ctx, q.Key)
	case !q.Cgroup.IsZero():
		return r.cgroup(ctx, q.Cgroup)
	case q.CgroupPath != "":
		return r.cgroupPath(ctx, q.CgroupPath)
	case q.Container != "":
		return r.container(q.Container)
	}
	return workload.Answer{}, fmt.Errorf("resolve: the question asks about nothing: %w", workload.ErrInvalid)
}

// complete reports whether waiting could add anything.
func complete(a workload.Answer) bool {
	switch a.Status {
	case workload.StatusHost, workload.StatusConflict:
		return true
	case workload.StatusContainer:
		return a.Exited || a.Confidence == workload.Confirmed && len(a.Missing()) == 0
	}
	return a.Exited
}

// wait asks again with growing pauses until the answer is complete or the time
// is up; the last answer stands.
func (r *Resolver) wait(ctx context.Context, q workload.Query) (workload.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, q.Wait)
	defer cancel()
	t := time.NewTimer(0)
	defer t.Stop()
	for pause := time.Millisecond; ; pause = min(2*pause, 20*time.Millisecond) {
		a, err := r.answer(ctx, q)
		if err != nil || complete(a) {
			return a, err
		}
		t.Reset(pause)
		select {
		case <-ctx.Done():
			return a, nil
		case <-t.C:
		}
	}
}

// Key answers for one process instance.
func (r *Resolver) Key(ctx context.Context, k workload.ProcessKey) (workload.Answer, error) {
	if k.PID > workload.MaxPID {
		return workload.Answer{}, invalidPID(k.PID)
	}
	if a := r.store.Resolve(k); r.settled(&a) {
		return a, nil
	}
	return r.observe(ctx, k)
}

// observe is the way of a miss, apart so that a hit allocates nothing.
func (r *Resolver) observe(ctx context.Context, k workload.ProcessKey) (workload.Answer, error) {
	var a workload.Answer
	err := r.observer.Observe(ctx, k.PID, func() bool {
		a = r.store.Resolve(k)
		return r.settled(&a)
	})
	a = r.store.Resolve(k)
	if a.Process == nil && errors.Is(err, workload.ErrNotFound) {
		return a, fmt.Errorf("process %d: %w", k.PID, workload.ErrNotFound)
	}
	return a, nil
}

// settled reports whether memory has an answer that a closer look at the
// process cannot better: what another pidigree says counts once nobody here can tell.
func (r *Resolver) settled(a *workload.Answer) bool {
	return a.Process != nil && (a.Exited || a.Status != workload.StatusUnknown && (a.Process.Source == "" || r.copy))
}

// PID answers for whoever has the PID now; a PID that nobody has is answered
// for the last process known to have had it.
func (r *Resolver) PID(ctx context.Context, pid workload.PID) (workload.Answer, error) {
	if pid == 0 || pid > workload.MaxPID {
		return workload.Answer{}, invalidPID(pid)
	}
	if r.copy {
		return r.copied(pid)
	}
	if r.pidfs {
		return r.byPidfd(ctx, pid)
	}
	return r.byProc(ctx, pid)
}

// copied answers for a PID of another host.
func (r *Resolver) copied(pid workload.PID) (workload.Answer, error) {
	a, ok := r.store.PID(pid)
	if !ok {
		return a, fmt.Errorf("process %d: %w", pid, workload.ErrNotFound)
	}
	return a, nil
}

func invalidPID(pid workload.PID) error {
	return fmt.Errorf("%d is no PID (1 to %d): %w", pid, workload.MaxPID, workload.ErrInvalid)
}

func (r *Resolver) byPidfd(ctx context.Context, pid workload.PID) (workload.Answer, error) {
	if k, ok := r.held.key(pid); ok {
		return r.Key(ctx, k)
	}
	fd, err := unix.PidfdOpen(int(pid), 0)
	switch {
	case errors.Is(err, unix.ESRCH):
		r.held.drop(pid)
		return r.gone(ctx, pid)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		return r.thread(ctx, pid)
	case err != nil:
		return r.byProc(ctx, pid)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return workload.Answer{}, errors.Join(fmt.Errorf("stat pidfd of %d: %w", pid, err), unix.Close(fd))
	}
	k := workload.ProcessKey{PID: pid, Inode: st.Ino}
	if !r.held.take(k, fd) {
		_ = unix.Close(fd) // nothing was written to it
	}
	return r.Key(ctx, k) // which is of that process alone, whoever has the PID by now
}

// byProc holds the process by its /proc directory: reads beneath it fail with
// ESRCH once it is gone, whoever has the PID then.
func (r *Resolver) byProc(ctx context.Context, pid workload.PID) (workload.Answer, error) {
	dir, err := openProc(r.procfs, pid)
	if err != nil {
		return r.goneOr(ctx, pid, err)
	}
	defer unix.Close(dir)
	st, err := readStat(dir)
	switch {
	case err != nil:
		return r.goneOr(ctx, pid, err)
	case st.thread(dir, pid):
		return r.thread(ctx, pid)
	}
	a, err := r.Key(ctx, workload.ProcessKey{PID: pid, Start: st.start, Ticks: true})
	switch again, rerr := readStat(dir); {
	case rerr != nil:
		return r.goneOr(ctx, pid, rerr)
	case again.start != st.start:
		return r.gone(ctx, pid)
	}
	return a, err
}

// goneOr takes only what the end of a process gives for its end. An agent that
// has no file descriptor left, for one, cannot look, and has seen nothing.
func (r *Resolver) goneOr(ctx context.Context, pid workload.PID, err error) (workload.Answer, error) {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return r.gone(ctx, pid)
	}
	return workload.Answer{}, fmt.Errorf("look at process %d: %w: %w", pid, workload.ErrUnavailable, err)
}

// gone answers for a PID that no process has.
func (r *Resolver) gone(ctx context.Context, pid workload.PID) (workload.Answer, error) {
	a, ok := r.store.PID(pid)
	if ok && !a.Exited {
		// Its exit is under way to us.
		_ = r.observer.Observe(ctx, pid, func() bool { a, ok = r.store.PID(pid); return ok && a.Exited })
		a, ok = r.store.PID(pid)
	}
	switch {
	case !ok:
		return a, fmt.Errorf("process %d: %w", pid, workload.ErrNotFound)
	case !a.Exited:
		a.Exited = true // the kernel just said so
	}
	return a, nil
}

// thread answers for the process of a thread, saying so.
func (r *Resolver) thread(ctx context.Context, tid workload.PID) (workload.Answer, error) {
	pid, err := threadGroup(r.procfs, tid)
	switch {
	case err != nil:
		return r.goneOr(ctx, tid, err)
	case pid == tid:
		return r.gone(ctx, tid)
	}
	a, err := r.PID(ctx, pid)
	if err != nil {
		return a, err
	}
	a.Thread = tid
	r.checkThread(&a, tid, pid)
	return a, nil
}

// checkThread reports a thread that is in another cgroup than its process: the
// answer for the process is not one for the thread.
func (r *Resolver) checkThread(a *workload.Answer, tid, pid workload.PID) {
	mine, err1 := r.cgroups.OfPID(tid)
	its, err2 := r.cgroups.OfPID(pid)
	if err1 != nil || err2 != nil || sameCgroups(mine, its) {
		return
	}
	if a.Reason == "" {
		a.Reason = "the thread is in another cgroup than its process"
	}
}

func sameCgroups(a, b []workload.CgroupPath) bool {
	in := map[workload.CgroupID]bool{}
	for _, g := range a {
		in[g.CgroupID] = true
	}
	for _, g := range b {
		if !in[g.CgroupID] {
			return false
		}
	}
	return len(a) == len(b)
}

// past answers for who had the PID at an instant.
func (r *Resolver) past(pid workload.PID, at time.Time) (workload.Answer, error) {
	if pid > workload.MaxPID {
		return workload.Answer{}, invalidPID(pid)
	}
	if r.copy {
		return workload.Answer{}, fmt.Errorf("the past is kept by the agent that this one is a copy of: ask there: %w", workload.ErrUnavailable)
	}
	if at.After(time.Now()) {
		return workload.Answer{}, fmt.Errorf("%s is in the future: %w", at.Format(time.RFC3339), workload.ErrInvalid)
	}
	a, ok := r.store.PIDAt(pid, bootTime()-workload.KTime(time.Since(at)))
	if !ok {
		return a, fmt.Errorf("process %d at %s: %w", pid, at.Format(time.RFC3339), workload.ErrNotFound)
	}
	return a, nil
}

// container answers for an id, a prefix or a name.
func (r *Resolver) container(ref string) (workload.Answer, error) {
	found := r.store.FindContainers(ref)
	switch {
	case len(found) == 0:
		return workload.Answer{}, fmt.Errorf("container %q: %w", ref, workload.ErrNotFound)
	case len(found) > 1 && live(found[0]) == live(found[1]):
		return workload.Answer{}, fmt.Errorf("%q could be %s or %s: %w", ref, found[0].ID, found[1].ID, workload.ErrAmbiguous)
	}
	a, ok := r.store.ContainerAnswer(found[0].ID)
	if !ok {
		return a, fmt.Errorf("container %q: %w", ref, workload.ErrNotFound)
	}
	return a, nil
}

func live(c *workload.Container) bool { return c.State != workload.StateExited }
