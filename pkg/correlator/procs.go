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
	// placedAt is since when it has been seen in this set: a name that was known
	// before may be that of an earlier cgroup with the same id.
	placedAt workload.KTime
	// seenAt is the stamp of the last fact that showed it alive.
	seenAt workload.KTime
	// member is the container it belongs to (rule 5), nil for none.
	member *container
	// taint is why it is in conflict, for good; its descendants inherit it.
	taint string
	// lost: how it came to be is not known, so its namespaces decide.
	lost bool
	// left: in namespaces of its own and a member of nobody, it or one above it
	// was put into another cgroup. Sandboxes stay where they are made; so it is a
	// container's, coming or escaping.
	left bool
	// ending: its exit is being applied.
	ending bool
	// joined: it, or one above it, came into its PID namespace from outside (nsenter).
	joined bool
	entry  workload.Entry
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
	// initOf is the container that a source called it the init of, registered or not.
	initOf *container
	// hostIn is the set of cgroups in which it, or who forked it into the same
	// namespaces, was found to be the host's.
	hostIn *cgset
	// namedIn is the set of cgroups in which it, or who forked it there, was found to
	// be of the container that their name claims.
	namedIn *cgset
	// runs is the container whose run it is or was the init of.
	runs *container
	read bool // it is being read from /proc
	init initAsk
	// outerIn is the set that counts it as one of the host's PID namespace.
	outerIn *cgset
	unsure  bool // it waits for the snapshot's end
	whole   bool // all who were there with it have been read
}

// move is an attach event of a process that is not known yet.
type move struct {
	of workload.ProcessKey
	at workload.KTime
	to workload.CgroupID
}

// Bounds on what is remembered for late facts.
const (
	maxMoves     = 1024
	maxRemoved   = 1024
	maxGhosts    = 8192
	ghostAge     = 10 * workload.KTime(time.Second)
	lineageRetry = 50 * workload.KTime(time.Millisecond)
)

func (m *machine) fork(e *kernel.Event) {
	pid := e.Process.Key.PID
	if old := m.procs[pid]; old != nil {
		if m.same(old, e.Process.Key) {
			m.adopt(old, e)
			return
		}
		if startedBefore(e.Process.Key, old.kp.Key) && !m.bugs.has(bugLateForkEndsNext) {
			return // late: its PID is another's by now
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
	m.startedBy(p)
	m.replayMoves(p)
}

func (m *machine) newProc(e *kernel.Event) *proc {
	m.seq++
	p := &proc{kp: e.Process, serial: m.seq, seenAt: e.Time}
	m.procs[e.Process.Key.PID] = p
	for _, ns := range e.Process.PIDNS {
		if ns.Inum != 0 {
			m.inNS.add(ns.Inum, p)
		}
	}
	m.inMount.add(p.kp.MountNS, p)
	m.dirtyProc(p)
	return p
}

// procsByNS are processes by a namespace's inode number.
type procsByNS map[uint32]map[*proc]struct{}

func (b procsByNS) add(ns uint32, p *proc) {
	if b[ns] == nil {
		b[ns] = map[*proc]struct{}{}
	}
	b[ns][p] = struct{}{}
}

func (b procsByNS) remove(ns uint32, p *proc) {
	if delete(b[ns], p); len(b[ns]) == 0 {
		delete(b, ns)
	}
}

// inherit takes membership from the parent, and nothing else (rule 6).
func (m *machine) inherit(p *proc, e *kernel.Event) {
	parent := m.procs[e.Process.Parent]
	if parent == nil || parent == p || !startsAs(parent, e.Process.ParentStart) && !m.bugs.has(bugParentWithoutStart) {
		p.lost = true
		return
	}
	p.member, p.taint, p.user, p.entry = parent.member, parent.taint, parent.user, parent.entry
	// Born elsewhere than its parent is known to be: its parent has moved, or it was made so.
	p.left = p.left || parent.left || p.member == nil && m.looksContained(parent) && parent.set != nil && elsewhere(parent.set.key, e.Process.Cgroups)
	p.joined = parent.joined
	if p.kp.MountNS == parent.kp.MountNS && innermost(p).Inum == innermost(parent).Inum {
		p.hostIn, p.namedIn = parent.hostIn, parent.namedIn
	}
	if in := innermost(p); in.Inum != innermost(parent).Inum {
		p.joined = in.PID != 1
	}
	// A parent with the host's own namespaces and no container's cgroup cannot have come from a container.
	p.lost = parent.lost && (parent.status != workload.StatusHost || m.looksContained(parent))
}

// elsewhere reports whether two sets differ in a hierarchy that both know, or
// know none in common. The kernel's events tell of every hierarchy, /proc only of
// those that are mounted where we are: a guest in cgroup v2 alone, on a hybrid
// host. To know less of a process is not to have seen it move.
func elsewhere(a, b kernel.CgroupSet) bool {
	common := false
	for _, x := range a.Slice() {
		for _, y := range b.Slice() {
			if x.Hierarchy == y.Hierarchy && x.ID != y.ID {
				return true
			}
			common = common || x == y
		}
	}
	return !common
}

func (m *machine) same(p *proc, k workload.ProcessKey) bool {
	return p.kp.Key.Same(k) || m.bugs.has(bugKeyWithoutStart) && p.kp.Key.PID == k.PID
}

// startedBefore reports whether a is an earlier process than b, with the same PID.
func startedBefore(a, b workload.ProcessKey) bool {
	if a.Ticks || b.Ticks {
		return a.Start/workload.TickNS < b.Start/workload.TickNS
	}
	return a.Start < b.Start
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
	// It was made elsewhere than it was found.
	p.left = p.left || p.member == nil && m.looksContained(p) && p.set != nil && elsewhere(p.set.key, e.Process.Cgroups)
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
	if p == nil || m.bugs.has(bugExecForgotten) {
		return
	}
	if e.Time >= p.execAt { // else it is late, or there twice
		p.execAt = e.Time
		p.kp.Comm = e.Process.Comm
	}
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
	if p != nil && m.same(p, e.Process.Key) {
		p.kp.Key = betterKey(p.kp.Key, e.Process.Key)
		return p
	}
	if m.isGhost(e.Process.Key) {
		return nil
	}
	if p != nil && startedBefore(e.Process.Key, p.kp.Key) {
		return nil
	}
	if p != nil {
		m.end(p, workload.Exit{At: e.Time}, e.Time)
	}
	p = m.newProc(e)
	p.lost = true
	m.fromParent(p)
	m.wasMoved(p)
	return p
}

// wasMoved remembers that a process had been moved before it was known, which where
// it was found may not show: there and back.
func (m *machine) wasMoved(p *proc) {
	if p.member != nil || !m.looksContained(p) {
		return
	}
	for _, mv := range m.moves[p.kp.Key.PID] {
		if (mv.of.Start != 0 || mv.of.Inode != 0) && mv.of.Same(p.kp.Key) {
			p.left = true
		}
	}
}

// wasMovedBefore is wasMoved, where the move is heard only once the process is known.
func (m *machine) wasMovedBefore(p *proc, mv move) {
	if !p.lost || p.left || p.member != nil || !m.looksContained(p) || mv.of.Start == 0 && mv.of.Inode == 0 {
		return
	}
	p.left = true
	m.settle(p)
}

// fromParent handles a process whose fork was missed. Its real parent, checked
// by start time, is the one that forked it or an ancestor's reaper, and a reaper
// inside a container only ever inherits what came from there, or from a container
// that shares its PID namespace: so membership of the parent is membership of the
// child, unless it may be such an orphan. Without one, namespaces decide.
func (m *machine) fromParent(p *proc) {
	parent := m.procs[p.kp.Parent]
	if parent == nil || parent == p || (p.kp.ParentStart == 0 || !startsAs(parent, p.kp.ParentStart)) && !m.bugs.has(bugParentWithoutStart) {
		return
	}
	if parent.member == nil && parent.taint == "" || p.orphanOf(parent) {
		return
	}
	p.member, p.taint, p.user, p.entry = parent.member, parent.taint, parent.user, parent.entry
}

func (m *machine) refresh(p *proc, e *kernel.Event) {
	if k := betterKey(p.kp.Key, e.Process.Key); k != p.kp.Key { // whatever the stamp: a key does not age
		p.kp.Key = k
		m.dirtyProc(p)
	}
	if e.Time < p.seenAt {
		return
	}
	p.seenAt = e.Time
	k := e.Process
	k.Key = betterKey(p.kp.Key, e.Process.Key)
	if !m.looksContained(p) && p.set != nil { // a service's move may be heard with its new namespaces
		m.place(p, e.Process.Cgroups, e.Time)
	}
	if k.Comm != p.kp.Comm {
		m.dirtyProc(p) // the exec may have been lost
	}
	if k.MountNS != p.kp.MountNS {
		m.inMount.remove(p.kp.MountNS, p)
		m.inMount.add(k.MountNS, p)
	}
	p.kp = k
	p.countOuter()
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
	m.refresh(p, e)
	if p.started == 0 && !p.kp.Key.Ticks {
		p.started = workload.KTime(p.kp.Key.Start)
		m.dirtyProc(p)
	}
	if p.member == nil && !p.set.settled(m) {
		m.locate(p)
	}
}

// processRead applies what /proc says of one process.
func (m *machine) processRead(e evProcess) {
	if e.gone {
		if p := m.procs[e.pid]; p != nil && p.seenAt < e.at {
			m.end(p, workload.Exit{At: e.at}, e.at)
		}
		m.registerWaiting(e.pid, nil)
		return
	}
	if p := m.procs[e.pid]; p != nil {
		p.read = false
	}
	m.task(&kernel.Event{Type: kernel.Task, Time: e.at, Process: e.proc})
	if p := m.procs[e.pid]; p != nil {
		m.initSeen(p)
	}
	m.registerWaiting(e.pid, m.procs[e.pid])
}

func (m *machine) attach(e *kernel.Event) {
	p := m.procs[e.Process.Key.PID]
	if p == nil || !p.kp.Key.Same(e.Process.Key) && e.Process.Key.Start != 0 {
		if m.procs[e.Process.Key.PID] == nil || startedBefore(p.kp.Key, e.Process.Key) {
			m.keepMove(move{e.Process.Key, e.Time, e.Cgroup.ID})
		}
		return
	}
	m.moved(p, move{e.Process.Key, e.Time, e.Cgroup.ID})
}

// keepMove remembers a move for the process's first event: the last ones alone,
// since whoever moves to and fro would fill the memory.
func (m *machine) keepMove(mv move) {
	ms := m.moves[mv.of.PID]
	if len(ms) == 0 && len(m.moves) >= maxMoves {
		return
	}
	if len(ms) >= kernel.MaxHierarchies {
		ms = slices.Delete(ms, 0, 1)
	}
	m.moves[mv.of.PID] = append(ms, mv)
}

// dropMoves forgets the moves that a snapshot is newer than.
func (m *machine) dropMoves(before workload.KTime) {
	for pid, ms := range m.moves {
		if ms = slices.DeleteFunc(ms, func(mv move) bool { return mv.at < before }); len(ms) == 0 {
			delete(m.moves, pid)
		} else {
			m.moves[pid] = ms
		}
	}
}

func (m *machine) replayMoves(p *proc) {
	ms, ok := m.moves[p.kp.Key.PID]
	if !ok {
		return
	}
	delete(m.moves, p.kp.Key.PID)
	for _, mv := range ms {
		switch {
		case mv.of.Start == 0 && mv.of.Inode == 0, mv.of.Same(p.kp.Key), m.bugs.has(bugMovesByPIDAlone):
			m.moved(p, mv)
		case startedBefore(p.kp.Key, mv.of): // of the next one with this PID
			m.keepMove(mv)
		}
	}
}

// moved replaces one hierarchy's cgroup, if the move is newer than what is known.
func (m *machine) moved(p *proc, mv move) {
	if mv.at < p.setAt && !m.bugs.has(bugOlderMoveApplied) || p.set == nil {
		m.wasMovedBefore(p, mv)
		return
	}
	key := p.set.key
	for i := range key.Slice() {
		if key.IDs[i].Hierarchy == mv.to.Hierarchy || m.bugs.has(bugSwappedHierarchy) {
			key.IDs[i] = mv.to
			m.place(p, key, mv.at)
			return
		}
	}
}

// place puts a process into its cgroups as of an instant and judges it.
func (m *machine) place(p *proc, key kernel.CgroupSet, at workload.KTime) {
	if at < p.setAt && !m.bugs.has(bugOlderMoveApplied) {
		return
	}
	p.setAt = at
	if p.set == nil || p.set.key != key || p.set.over(at) {
		s := m.setOf(key, at)
		p.left = p.left || p.set != nil && elsewhere(p.set.key, key) && p.member == nil && m.looksContained(p)
		if m.bugs.has(bugMembershipLostOnMove) && p.set != nil {
			p.member = nil
		}
		s.procs[p] = struct{}{}
		m.leave(p)
		p.set = s
		p.placedAt = m.placing(at)
		p.countOuter()
		m.dirtyProc(p)
		m.initPlaced(p)
	}
	m.settle(p)
}

// placing is from when on a name is not older than a process that is found in its
// cgroup at an instant: within a snapshot no id comes again.
func (m *machine) placing(at workload.KTime) workload.KTime {
	if m.snapshot.active {
		return min(at, m.snapshot.at)
	}
	return at
}

// over reports whether one of the cgroups was gone before an instant: who is in
// one of that id then is in another.
func (s *cgset) over(at workload.KTime) bool {
	for _, g := range s.cgroups {
		if g.dead && at > g.goneAt {
			return true
		}
	}
	return false
}

// exit turns a process into a ghost.
func (m *machine) exit(e *kernel.Event) {
	p := m.current(e)
	if p == nil || m.bugs.has(bugExitForgotten) {
		return
	}
	p.ending = true
	if p.set == nil || e.Process.Cgroups.N > 0 { // its last move and exec may have been lost
		m.place(p, e.Process.Cgroups, e.Time)
	}
	x := e.Exit
	if x.At == 0 {
		x.At = e.Time
	}
	m.end(p, x, e.Time)
}

func sortedProcs(ps map[workload.PID]*proc) []*proc {
	s := make([]*proc, 0, len(ps))
	for _, p := range ps {
		s = append(s, p)
	}
	slices.SortFunc(s, compareProcs)
	return s
}
