// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/workload"
)

// proc is one process, alive or a ghost.
type proc struct {
	kp     kernel.Process
	serial uint64
	set    *cgset
	// setAt is the stamp of the fact that the set comes from; older facts are ignored.
	setAt workload.KTime
	// seenAt is the stamp of the last fact that showed it alive.
	seenAt workload.KTime
	// member is the container it belongs to (rule 5), nil for none.
	member *container
	// taint is why it is in conflict, for good; its descendants inherit it.
	taint string
	// lost: how it came to be is not known, so its namespaces decide.
	lost  bool
	entry workload.Entry
	// user: it has run the user's code, or was forked by one that had.
	user    bool
	started workload.KTime
	execAt  workload.KTime
	exit    *workload.Exit

	// What was last judged, and whether it waits to be published.
	status  workload.Status
	conf    workload.Confidence
	reason  string
	service *workload.Service
	foreign bool
	dirty   bool
	young   bool // a timer will judge it again
}

// move is an attach event of a process that is not known yet.
type move struct {
	at workload.KTime
	to workload.CgroupID
}

// Bounds on what is remembered for late facts.
const (
	maxMoves     = 1024
	maxGhosts    = 8192
	ghostAge     = 10 * workload.KTime(time.Second)
	lineageRetry = 50 * workload.KTime(time.Millisecond)
)

// ghosts are processes that have ended: a runtime's state or a late answer may
// still give them a name. Bounded in number and age, oldest first.
type ghosts struct {
	queue []*proc
	byPID map[workload.PID]*proc
}

func (m *machine) fork(e *kernel.Event) {
	pid := e.Process.Key.PID
	if old := m.procs[pid]; old != nil {
		if old.kp.Key.Same(e.Process.Key) {
			m.adopt(old, e)
			return
		}
		m.end(old, workload.Exit{At: e.Time}, e.Time)
	}
	if m.isGhost(e.Process.Key) {
		return // a duplicate, or late: its exit has been applied
	}
	p := m.newProc(e)
	p.started = e.Time
	m.inherit(p, e)
	m.place(p, e.Process.Cgroups, e.Time)
	m.replayMoves(p)
}

func (m *machine) newProc(e *kernel.Event) *proc {
	m.seq++
	p := &proc{kp: e.Process, serial: m.seq, seenAt: e.Time}
	m.procs[e.Process.Key.PID] = p
	for _, ns := range e.Process.PIDNS {
		if ns.Inum != 0 {
			if m.inNS[ns.Inum] == nil {
				m.inNS[ns.Inum] = map[*proc]struct{}{}
			}
			m.inNS[ns.Inum][p] = struct{}{}
		}
	}
	m.dirtyProc(p)
	return p
}

// forget drops the last trace of a ghost.
func (m *machine) forget(p *proc) {
	delete(m.claimed, p)
	if m.ghosts.byPID[p.kp.Key.PID] == p {
		delete(m.ghosts.byPID, p.kp.Key.PID)
	}
	for _, ns := range p.kp.PIDNS {
		if in := m.inNS[ns.Inum]; in != nil {
			delete(in, p)
			if len(in) == 0 {
				delete(m.inNS, ns.Inum)
			}
		}
	}
	m.leave(p)
}

// inherit takes membership from the parent, and nothing else (rule 6).
func (m *machine) inherit(p *proc, e *kernel.Event) {
	parent := m.procs[e.Process.Parent]
	if parent == nil || parent == p || !startsAs(parent, e.Process.ParentStart) {
		p.lost = true
		return
	}
	p.member, p.taint, p.user, p.entry = parent.member, parent.taint, parent.user, parent.entry
	// A parent with the host's own namespaces and no container's cgroup cannot have come from a container.
	p.lost = parent.lost && (parent.status != workload.StatusHost || m.looksContained(parent))
}

func startsAs(p *proc, start uint64) bool {
	if start == 0 {
		return true
	}
	return p.kp.Key.Same(workload.ProcessKey{PID: p.kp.Key.PID, Start: start})
}

// adopt completes a process that a snapshot showed before its fork event came.
func (m *machine) adopt(p *proc, e *kernel.Event) {
	p.kp.Key = betterKey(p.kp.Key, e.Process.Key)
	if p.started == 0 {
		p.started = e.Time
		m.dirtyProc(p)
	}
	if !p.lost || p.member != nil {
		return
	}
	m.inherit(p, e)
	m.settle(p)
}

// betterKey keeps what either key knows: a key from /proc lacks the exact start.
func betterKey(a, b workload.ProcessKey) workload.ProcessKey {
	if a.Ticks && !b.Ticks && b.Start != 0 {
		a.Start, a.Ticks = b.Start, false
	}
	if a.Inode == 0 {
		a.Inode = b.Inode
	}
	return a
}

// exec refreshes a process and finds the first user program of a container: one
// whose file lies in the task's own mount namespace and whose parent is outside
// the container. The runtime's re-exec fails the first test, hooks and children
// of the user's the second.
func (m *machine) exec(e *kernel.Event) {
	p := m.current(e)
	if p == nil {
		return
	}
	p.execAt = e.Time
	p.kp.Comm = e.Process.Comm
	m.refresh(p, e)
	m.dirtyProc(p)
	m.userExec(p)
	if p.member == nil && !p.set.settled(m) {
		m.locate(p)
	}
}

// userExec marks the first user instruction of a run.
func (m *machine) userExec(p *proc) {
	if p.execAt == 0 || p.user || !p.kp.ExeInMountNS || p.member == nil {
		return
	}
	if parent := m.lookup(p.kp.Parent); parent != nil && parent != p && parent.member == p.member {
		return
	}
	p.user = true
	if r := p.member.run; r != nil && r.init == p && r.firstExec == 0 {
		r.firstExec = p.execAt
		if !p.kp.Key.Ticks { // else it was found by polling: when it ran is not known
			p.member.mark(workload.MarkFirstExec, "kernel", p.execAt)
		}
		m.startedRun(p.member)
	}
}

// current gives the process of an event, made if it is new to us.
func (m *machine) current(e *kernel.Event) *proc {
	p := m.procs[e.Process.Key.PID]
	if p != nil && p.kp.Key.Same(e.Process.Key) {
		p.kp.Key = betterKey(p.kp.Key, e.Process.Key)
		return p
	}
	if m.isGhost(e.Process.Key) {
		return nil
	}
	if p != nil {
		m.end(p, workload.Exit{At: e.Time}, e.Time)
	}
	p = m.newProc(e)
	p.lost = true
	m.fromParent(p)
	return p
}

// fromParent handles a process whose fork was missed. Its real parent, checked
// by start time, is the one that forked it or an ancestor's reaper, and a reaper
// inside a container only ever inherits what came from there: so membership of
// the parent is membership of the child. Without one, namespaces decide.
func (m *machine) fromParent(p *proc) {
	parent := m.procs[p.kp.Parent]
	if parent == nil || parent == p || p.kp.ParentStart == 0 || !startsAs(parent, p.kp.ParentStart) {
		return
	}
	if parent.member == nil && parent.taint == "" {
		return
	}
	p.member, p.taint, p.user, p.entry = parent.member, parent.taint, parent.user, parent.entry
}

func (m *machine) refresh(p *proc, e *kernel.Event) {
	if e.Time < p.seenAt {
		return
	}
	p.seenAt = e.Time
	k := e.Process
	k.Key = betterKey(p.kp.Key, e.Process.Key)
	p.kp = k
	m.place(p, e.Process.Cgroups, e.Time)
}

// task is a process of a snapshot: the truth at its stamp.
func (m *machine) task(e *kernel.Event) {
	if e.Process.KernelThread {
		return
	}
	if m.snapshot.active {
		m.snapshot.seen[e.Process.Key.PID] = e.Process.Key
	}
	p := m.current(e)
	if p == nil {
		return
	}
	if p.started == 0 && !p.kp.Key.Ticks {
		p.started = workload.KTime(p.kp.Key.Start)
	}
	m.refresh(p, e)
	if p.member == nil && !p.set.settled(m) {
		m.locate(p)
	}
}

// processRead applies what /proc says of one process.
func (m *machine) processRead(e evProcess) {
	if e.gone {
		if p := m.procs[e.pid]; p != nil && p.seenAt < m.now {
			m.end(p, workload.Exit{At: m.now}, m.now)
		}
		m.registerWaiting(e.pid, nil)
		return
	}
	m.task(&kernel.Event{Type: kernel.Task, Time: m.now, Process: e.proc})
	m.registerWaiting(e.pid, m.procs[e.pid])
}

func (m *machine) attach(e *kernel.Event) {
	p := m.procs[e.Process.Key.PID]
	if p == nil || !p.kp.Key.Same(e.Process.Key) && e.Process.Key.Start != 0 {
		if len(m.moves) < maxMoves {
			m.moves[e.Process.Key.PID] = append(m.moves[e.Process.Key.PID], move{e.Time, e.Cgroup.ID})
		}
		return
	}
	m.moved(p, move{e.Time, e.Cgroup.ID})
}

func (m *machine) replayMoves(p *proc) {
	ms, ok := m.moves[p.kp.Key.PID]
	if !ok {
		return
	}
	delete(m.moves, p.kp.Key.PID)
	for _, mv := range ms {
		m.moved(p, mv)
	}
}

// moved replaces one hierarchy's cgroup, if the move is newer than what is known.
func (m *machine) moved(p *proc, mv move) {
	if mv.at < p.setAt || p.set == nil {
		return
	}
	key := p.set.key
	for i := range key.Slice() {
		if key.IDs[i].Hierarchy == mv.to.Hierarchy {
			key.IDs[i] = mv.to
			m.place(p, key, mv.at)
			return
		}
	}
}

// place puts a process into its cgroups as of an instant and judges it.
func (m *machine) place(p *proc, key kernel.CgroupSet, at workload.KTime) {
	if at < p.setAt {
		return
	}
	p.setAt = at
	if p.set == nil || p.set.key != key {
		s := m.setOf(key)
		s.procs[p] = struct{}{}
		m.leave(p)
		p.set = s
		m.dirtyProc(p)
	}
	m.settle(p)
}

// settle applies rule 5 to one process and publishes it where the verdict changed.
func (m *machine) settle(p *proc) {
	if p.set == nil {
		return
	}
	v := m.verdict(p.set)
	before := *p
	if p.lost && p.member == nil && p.taint == "" {
		m.fromParent(p)
	}
	m.join(p, v)
	m.judge(p, v)
	m.noteClaimed(p)
	p.service = v.service
	if p.status != before.status || p.conf != before.conf || p.member != before.member ||
		p.reason != before.reason || p.entry != before.entry || p.service != before.service || p.foreign != before.foreign {
		if p.status == workload.StatusConflict && before.status != workload.StatusConflict {
			m.conflicts++
		}
		m.dirtyProc(p)
	}
	if p.member != before.member {
		m.userExec(p)
	}
}

// join decides which container a process belongs to.
func (m *machine) join(p *proc, v *verdict) {
	switch y := v.reg; {
	case p.taint != "" || y == nil || p.member == y:
	case v.rival != nil:
	case p.member == nil:
		if z := m.foreignPIDNS(p, y); z != nil {
			p.taint = "in the cgroup of " + y.label() + " with the PID namespace of " + z.label()
			return
		}
		// Whoever comes in with namespaces that are not the host's may come from
		// a container that is not registered yet, or whose start was missed.
		if (p.lost || m.looksContained(p)) && !m.provenMember(p, y) {
			return
		}
		p.member, p.lost = y, false
		p.entry = y.entryOf(p)
	case y.within(p.member):
		p.member, p.entry = y, y.entryOf(p)
	case p.member.within(y):
	default:
		p.taint = "came from " + p.member.label() + " and is in the cgroup of " + y.label()
	}
	if p.member != nil && p.member.run != nil && p.member.run.init == p {
		p.entry = workload.EntryInit
	}
}

// provenMember decides for a process in y's cgroup whose history was lost: by
// the parent, where that is one of y's; else by y's own PID namespace; else, for
// a container in the host's PID namespace, by its mount namespace. What none of
// them shows may as well be an intruder.
func (m *machine) provenMember(p *proc, y *container) bool {
	if y.run == nil || y.run.init == p {
		return true
	}
	if parent := m.lookup(p.kp.Parent); parent != nil && parent != p && startsAs(parent, p.kp.ParentStart) && p.kp.ParentStart != 0 {
		if parent.member != nil && parent.member != y && !y.within(parent.member) {
			p.taint = "came from " + parent.member.label() + " and is in the cgroup of " + y.label()
			return false
		}
		if parent.member == y {
			return true
		}
	}
	own := innermost(y.run.init)
	if own.Inum == 0 {
		return p.kp.MountNS != 0 && p.kp.MountNS == y.run.init.kp.MountNS
	}
	for _, ns := range p.kp.PIDNS {
		if ns.Inum == own.Inum {
			return true
		}
	}
	return false
}

// foreignPIDNS gives another registered container whose init's PID namespace
// the process is in or below, unless y's own init is in it too (--pid container:).
func (m *machine) foreignPIDNS(p *proc, y *container) *container {
	for _, ns := range p.kp.PIDNS {
		z := m.byPIDNS[ns.Inum]
		if ns.Inum == 0 || z == nil || z == y || y.within(z) {
			continue
		}
		if y.run != nil && y.run.inPIDNS(ns.Inum) {
			continue
		}
		return z
	}
	return nil
}

// judge turns membership and cgroups into a status.
func (m *machine) judge(p *proc, v *verdict) {
	p.conf, p.reason, p.foreign = workload.ConfidenceNone, "", false
	switch {
	case p.taint != "":
		p.status, p.reason = workload.StatusConflict, p.taint
	case v.rival != nil:
		p.status = workload.StatusConflict
		p.reason = "its cgroups name both " + v.reg.label() + " and " + v.rival.label()
	case p.member != nil:
		p.status, p.conf = workload.StatusContainer, workload.Confirmed
	case v.reg != nil:
		p.status = workload.StatusUnknown
		p.reason = "in the cgroup of " + v.reg.label() + ", but how it came there was not seen"
	case !v.known:
		p.status, p.reason = workload.StatusUnknown, "its cgroup is not known yet"
	case len(v.claims) > 0:
		m.judgeClaim(p, v)
	default:
		m.judgeHost(p)
	}
}

// judgeClaim handles a name that nobody has registered. It is believed, as a
// claim, only when it is the only one and every source has said that it does
// not know that id: whoever borrows a name that a source knows gets nothing.
func (m *machine) judgeClaim(p *proc, v *verdict) {
	c := v.candidate
	p.status = workload.StatusUnknown
	switch {
	case m.borrowed(p) != nil:
		p.reason = "its cgroup's name claims " + shortID(v.claims[0].ID) + ", its namespaces are those of " + m.borrowed(p).label()
	case len(v.claims) > 1:
		p.reason = "its cgroup's path claims several containers and none is registered"
	case c == nil || c.pending():
		p.reason = "its cgroup's name claims " + shortID(v.claims[0].ID) + ", which no source has registered yet"
	case c.registered() || len(c.layers) > 0:
		p.reason = "its cgroup's name claims " + shortID(v.claims[0].ID) + ", whose own cgroup is another one or not registered"
	default:
		p.status, p.conf = workload.StatusContainer, workload.Claimed
		c.claimedOnly = true
		m.dirtyContainer(c)
	}
}

// borrowed gives the registered container whose namespaces a process is in that
// sits in a cgroup of no registered container: no name is believed of such a one.
func (m *machine) borrowed(p *proc) *container {
	if !m.looksContained(p) {
		return nil
	}
	for _, c := range m.all {
		if c.run == nil || c.run.exit != nil {
			continue
		}
		in := innermost(c.run.init)
		if in.Inum != 0 && slices.ContainsFunc(p.kp.PIDNS[:], func(n workload.PIDNamespace) bool { return n.Inum == in.Inum }) {
			return c
		}
		if mnt := c.run.init.kp.MountNS; mnt == p.kp.MountNS && mnt != m.cfg.hostMountNS {
			return c
		}
	}
	return nil
}

// noteClaimed keeps the processes that are named by a claim alone: each new
// registration may show that the claim was borrowed.
func (m *machine) noteClaimed(p *proc) {
	if p.conf == workload.Claimed {
		m.claimed[p] = struct{}{}
	} else {
		delete(m.claimed, p)
	}
}

func (m *machine) judgeHost(p *proc) {
	if o := p.set.owner; o != nil && o.goneAt == 0 && m.looksContained(p) {
		p.status, p.reason = workload.StatusUnknown, "a source says that it belongs to "+o.label()+", whose cgroup is not registered yet"
		return
	}
	if m.looksContained(p) && p.set.located < maxLocate {
		p.status, p.reason = workload.StatusUnknown, "in namespaces of its own; the sources are being asked"
		m.locateSoon(p.set)
		return
	}
	if m.tooYoung(p) {
		p.status, p.reason = workload.StatusUnknown, "in namespaces of its own and just made; it may be on its way into a container"
		return
	}
	for _, ns := range p.kp.PIDNS {
		if z := m.byPIDNS[ns.Inum]; z != nil && ns.Inum != 0 {
			p.foreign = true
			if p.lost {
				p.status, p.reason = workload.StatusUnknown, "in the PID namespace of "+z.label()+" and in no container's cgroup"
				return
			}
		}
	}
	p.status = workload.StatusHost
}

// tooYoung reports whether a process may still be a runtime's, on its way into a
// container: made in new namespaces, with its move and exec under way to us.
func (m *machine) tooYoung(p *proc) bool {
	until := p.started + youngFor
	if p.started == 0 || p.exit != nil || !m.looksContained(p) || m.now >= until {
		return false
	}
	if !p.young {
		p.young = true
		m.at(until, func() {
			if m.procs[p.kp.Key.PID] == p {
				m.settle(p)
			}
		})
	}
	return true
}

// youngFor is longer than a loss takes to be noticed and repaired.
const youngFor = 1500 * workload.KTime(time.Millisecond)

// exit turns a process into a ghost.
func (m *machine) exit(e *kernel.Event) {
	p := m.current(e)
	if p == nil {
		return
	}
	if p.set == nil {
		m.place(p, e.Process.Cgroups, e.Time)
	}
	x := e.Exit
	if x.At == 0 {
		x.At = e.Time
	}
	m.end(p, x, e.Time)
}

// end records that a process is gone. Its cgroups are kept for late registrations.
func (m *machine) end(p *proc, x workload.Exit, at workload.KTime) {
	if m.procs[p.kp.Key.PID] == p {
		delete(m.procs, p.kp.Key.PID)
	}
	delete(m.moves, p.kp.Key.PID)
	p.exit = &x
	m.ghosts.queue = append(m.ghosts.queue, p)
	m.ghosts.byPID[p.kp.Key.PID] = p
	m.dirtyProc(p)
	if c := p.member; c != nil && c.run != nil && c.run.init == p {
		m.runEnded(c, x, at)
	}
	m.trimGhosts()
}

func (m *machine) trimGhosts() {
	q := m.ghosts.queue
	n := 0
	for n < len(q) && (len(q)-n > maxGhosts || q[n].exit.At+ghostAge < m.now) {
		p := q[n]
		q[n] = nil
		n++
		m.forget(p)
	}
	m.ghosts.queue = q[n:]
}

// lookup gives the process with a PID, or the last ghost with it.
func (m *machine) lookup(pid workload.PID) *proc {
	if p := m.procs[pid]; p != nil {
		return p
	}
	return m.ghosts.byPID[pid]
}

func (m *machine) isGhost(k workload.ProcessKey) bool {
	p := m.ghosts.byPID[k.PID]
	return p != nil && p.kp.Key.Same(k)
}

func sortedProcs(ps map[workload.PID]*proc) []*proc {
	s := make([]*proc, 0, len(ps))
	for _, p := range ps {
		s = append(s, p)
	}
	slices.SortFunc(s, compareProcs)
	return s
}
