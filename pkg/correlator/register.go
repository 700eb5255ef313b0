// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// register takes a source's word about a run and checks it (rule 4): the init
// must be the process that the source means, by its start ticks, and must be in
// the cgroup that the source says, or below it.
func (m *machine) register(c *container, i int, r *workload.Run) {
	if m.cfg.sources[i].nested != "" {
		m.registerNested(c, i, r)
		return
	}
	p := m.lookup(r.Init.PID)
	if c.contradicts(r, p) {
		m.conflicts++
		return
	}
	if c.run != nil && c.run.init == p && len(c.run.paths) > 0 && sameInit(p, r.Init) {
		m.registerRest(c, i, r, p) // said again, perhaps by another source
		return
	}
	if p == nil || !sameInit(p, r.Init) {
		m.wait(c, i, r)
		return
	}
	m.registerRun(c, i, r, p)
}

// contradicts reports whether a bare PID, or the living process that has it, is
// another than that of a source which says when its init started, and so means one
// process alone.
func (c *container) contradicts(r *workload.Run, p *proc) bool {
	if r.Init.Start != 0 || r.Init.Inode != 0 {
		return false
	}
	for i := range c.asks {
		o := c.waiting[i]
		if o == nil && c.layers[i] != nil {
			o = c.layers[i].Run
		}
		if o == nil || o.Init.Start == 0 {
			continue
		}
		if o.Init.PID != r.Init.PID || p != nil && p.exit == nil && !p.kp.Key.Same(o.Init) {
			return true
		}
	}
	return false
}

// outlived reports whether the init of a bare PID, which a source has named, had
// ended when this process with that PID was made.
func (c *container) outlived(i int, p *proc) bool {
	return uint64(c.initAt[i]) < p.kp.Key.Start
}

// sameInit compares with the key that a source gave, which may lack the start:
// then only a live process will do.
func sameInit(p *proc, k workload.ProcessKey) bool {
	if k.Start == 0 && k.Inode == 0 {
		return p.exit == nil
	}
	return p.kp.Key.Same(k)
}

// wait puts a run aside until its init has been read from /proc: the runtime's
// state may be seen before the process's fork event.
func (m *machine) wait(c *container, i int, r *workload.Run) {
	if c.waiting == nil {
		c.waiting = map[int]*workload.Run{}
	}
	c.waiting[i] = r
	pid := r.Init.PID
	if !slices.Contains(m.waiting[pid], c) {
		m.waiting[pid] = append(m.waiting[pid], c)
		m.request(request{kind: reqProcess, pid: pid})
	}
}

// registerWaiting goes on with the runs that waited for a process; p is nil when it is gone.
func (m *machine) registerWaiting(pid workload.PID, p *proc) {
	cs := m.waiting[pid]
	delete(m.waiting, pid)
	if p == nil {
		p = m.ghosts.byPID[pid]
	}
	for _, c := range cs {
		for _, i := range c.sources() {
			r := c.waiting[i]
			if r == nil || r.Init.PID != pid {
				continue
			}
			delete(c.waiting, i)
			if p != nil && sameInit(p, r.Init) && !c.forgotten {
				m.registerRun(c, i, r, p)
			}
		}
		m.resettleClaims(c)
		m.checkComplete(c)
	}
}

// sources lists the sources that have said something, in order.
func (c *container) sources() []int {
	var is []int
	for i := range c.asks {
		if c.layers[i] != nil || c.waiting[i] != nil {
			is = append(is, i)
		}
	}
	return is
}

// registerRun binds the cgroups of a checked init to a container.
func (m *machine) registerRun(c *container, i int, r *workload.Run, p *proc) {
	if p.set == nil {
		return
	}
	bare := r.Init.Start == 0 && r.Init.Inode == 0
	if bare && c.gone[i] {
		return // whoever has the PID by now, the source has since deleted the container
	}
	if bare && (c.outlived(i, p) || c.contradicts(r, p) || p.kp.PIDNSLevel > 0 && innermost(p).PID != 1) {
		m.conflicts++ // no init is such a one; whose it is, the runtime's state may tell
		return
	}
	if bare && m.exactPending(c, c.asks[i].namedAt) {
		m.registerLater(c, i, r, p) // and, after the last try, registerBare
		return
	}
	if bare && !m.confirmed(c, i) {
		return // its next answer goes on
	}
	if o := p.initOf; o != nil && bare && o != c && !o.forgotten && !o.sharesID(c) {
		m.conflicts++ // who says when it started calls it another's init
		return
	}
	if o := p.member; o != nil && o != c && bare && !o.sharesID(c) {
		m.conflicts++ // it came from another container, where names like c's may be given
		return
	}
	if !bare { // a bare PID may be another's by now
		p.initOf = c
	}
	if other := m.runOf(p); other != nil && other != c {
		if !other.sharesID(c) {
			m.conflicts++ // one of the two sources lies, or reads an old file: the first one keeps it
			return
		}
		m.merge(other, c)
		return
	}
	if c.run != nil && c.run.init != p {
		switch {
		case startedBefore(startOf(p), startOf(c.run.init)):
			return // an answer about an earlier run, late
		case c.run.init.exit == nil:
			m.registerLater(c, i, r, p) // its init lives, as far as is known: one of the two is not it
			return
		}
	}
	if r.Homeless {
		m.bindHomeless(c, i, r, p)
		return
	}
	gs := m.cgroupsToRegister(c, r, p)
	if len(gs) == 0 || len(r.ClaimedPaths) == 0 && slices.ContainsFunc(gs, func(g *cgroup) bool { return g.belowClaim(c) }) {
		if c.registerTries >= missedMove && p.exit == nil && !p.read {
			p.read = true
			m.request(request{kind: reqProcess, pid: p.kp.Key.PID})
		}
		m.registerLater(c, i, r, p)
		return
	}
	for _, g := range gs {
		if g.reg != nil && g.reg != c && g.reg.run != nil && g.reg.run.exit == nil && !m.bugs.has(bugSecondClaimWins) {
			m.conflicts++ // two runtimes claim one cgroup: the first one keeps it
			return
		}
	}
	m.bind(c, i, p, gs)
	if p.halfKnown() {
		m.registerLater(c, i, r, p)
	}
}

// exactPending reports whether a source that would say when the init started has
// yet to answer a question that was put after an instant, that of the bare PID, or
// could not: a bare PID waits for it, since it may be any process that lives. What
// was denied before may have been written since. One that cannot say is asked for
// minutes (unavailableTries), and then given up: a shorter wait would take silence
// for a denial, while its state may call that very process another's init.
func (m *machine) exactPending(c *container, at workload.KTime) bool {
	for i := range c.asks {
		a := &c.asks[i]
		if !m.cfg.sources[i].files || a.answered {
			continue
		}
		m.askFirst(c, i)
		if a.silent && a.stage != askDone || a.stage == askFirst && (a.tries == 0 || a.deniedOf < at) {
			return true
		}
	}
	return false
}

// confirmed reports whether an engine has called the same bare PID an init before and
// after a source with files denied to have the container. Else the container may have
// ended between the one's word and the other's, and it was the denial that was true: the
// engine is asked once more. Where no such source is there, the engine's word is all.
func (m *machine) confirmed(c *container, i int) bool {
	a := &c.asks[i]
	switch {
	case a.confirmAt != 0:
		return a.toldOf >= a.confirmAt
	case !slices.ContainsFunc(c.asks, func(o ask) bool { return o.denied }):
		return true
	}
	a.confirmAt = m.now
	m.askOnceMore(c, i)
	return false
}

// registerBare registers what has waited for exactPending, at once.
func (m *machine) registerBare(c *container) {
	for i := range c.asks {
		if l := c.layers[i]; l != nil && l.Run != nil && l.Run.Registers && l.Run.Init.PID != 0 && l.State != workload.StateExited && c.run == nil && !c.forgotten && !m.exactPending(c, c.asks[i].namedAt) {
			m.register(c, i, l.Run)
		}
	}
}

// halfKnown reports whether the lineage of one of its cgroups is still being read.
func (p *proc) halfKnown() bool {
	return p.set != nil && slices.ContainsFunc(p.set.cgroups, func(g *cgroup) bool { return !g.known() })
}

// registerRest adds the hierarchies whose lineage was not known at the
// registration: below another container, what is not registered would be that one's.
func (m *machine) registerRest(c *container, i int, r *workload.Run, p *proc) {
	if p.set == nil || c.run.exit != nil {
		return
	}
	var rest []*cgroup
	for _, g := range m.cgroupsToRegister(c, r, p) {
		if g.reg == nil && !g.dead {
			rest = append(rest, g)
			m.own(g, c)
			c.run.cgroups = append(c.run.cgroups, g)
			c.run.paths = append(c.run.paths, workload.CgroupPath{CgroupID: g.id, Path: g.path})
		}
	}
	if len(rest) > 0 {
		m.gen++
		m.dirtyContainer(c)
	}
	for _, g := range rest {
		m.resettle(g)
	}
	if p.halfKnown() {
		m.registerLater(c, i, r, p)
	}
}

// initPlaced registers what was not where the init was when its run was registered:
// the runtime's word may come between two of its moves, or before those are heard.
func (m *machine) initPlaced(p *proc) {
	c := m.runOf(p)
	if c == nil || len(c.run.paths) == 0 || c.run.exit != nil {
		return
	}
	l := c.layers[c.run.source]
	if l == nil || l.Run == nil || !sameInit(p, l.Run.Init) || !slices.ContainsFunc(p.set.cgroups, func(g *cgroup) bool { return !c.registeredIn(g.id.Hierarchy) }) {
		return
	}
	m.registerRest(c, c.run.source, l.Run, p)
}

// registeredIn reports whether a cgroup of a hierarchy is registered for the run.
func (c *container) registeredIn(hierarchy uint32) bool {
	return slices.ContainsFunc(c.run.cgroups, func(g *cgroup) bool { return g.id.Hierarchy == hierarchy })
}

// startOf makes keys of different PIDs comparable by their start.
func startOf(p *proc) workload.ProcessKey {
	return workload.ProcessKey{Start: p.kp.Key.Start, Ticks: p.kp.Key.Ticks}
}

// registerLater tries again: a lineage may not be known yet, or the init's move
// into its cgroup may still be under way to us.
func (m *machine) registerLater(c *container, i int, r *workload.Run, p *proc) {
	again := func() {
		if !c.forgotten && c.layers[i] != nil && c.layers[i].Run == r {
			m.register(c, i, r)
		}
	}
	pause := workload.KTime(time.Millisecond) << min(c.registerTries, 10)
	for _, g := range p.set.cgroups {
		if !g.known() {
			m.askLineage(g)
			g.awaited = again // the last one will do: it is tried below, too
			pause = max(pause, lineageRetry)
		}
	}
	if c.registerTries >= maxRegisterTries {
		return
	}
	c.registerTries++
	m.at(m.now+pause, again)
}

// missedMove is after how many tries, some 30 ms, an init that is not where its source
// says is read: its move there may have been lost, or nobody tells of moves.
const missedMove = 5

// lineageKnown registers who has waited for a lineage, once all of its init's are
// known: the next try may be a second away.
func (m *machine) lineageKnown(g *cgroup) {
	again := g.awaited
	if again == nil || !g.known() {
		return
	}
	g.awaited = nil
	for s := range g.sets {
		if slices.ContainsFunc(s.cgroups, func(o *cgroup) bool { return !o.known() }) {
			return // the next of them goes on
		}
	}
	m.at(m.now, again)
}

// maxRegisterTries spans about eight seconds of growing pauses.
const maxRegisterTries = 17

// runOf gives the container whose run has this init, be it in conflict or not.
func (m *machine) runOf(p *proc) *container {
	if c := p.runs; c != nil && c.run != nil && c.run.init == p {
		return c
	}
	return nil
}

// cgroupsToRegister finds the cgroup in each hierarchy: the one that the source
// named, at or above the init's own; never a hierarchy's root. A source that
// names no cgroup (an engine that gave a PID) registers the one whose name
// claims the very id.
func (m *machine) cgroupsToRegister(c *container, r *workload.Run, p *proc) []*cgroup {
	claimed := make([]workload.CgroupPath, 0, len(r.ClaimedPaths))
	for _, path := range r.ClaimedPaths {
		cp, ok := m.cfg.strip(path)
		if !ok { // below no mount: a path inside whichever hierarchy
			cp = workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: anyHierarchy}, Path: path}
		}
		claimed = append(claimed, cp)
	}
	var gs []*cgroup
	for _, g := range p.set.cgroups {
		for a := g; a != nil && !a.root && a.named; a = a.parent {
			if a.namedFor(c) && !m.bugs.has(bugLyingInitRegisters) {
				m.dispute(a, p)
				break
			}
			if m.bugs.has(bugLyingInitRegisters) || a.matches(claimed) || len(r.ClaimedPaths) == 0 && c.has(a.claim.ID) {
				gs = append(gs, a)
				break
			}
		}
	}
	return gs
}

// namedFor reports whether the cgroup's name is that of another container, which
// some source knows or may know yet: the evidence disagrees then.
func (g *cgroup) namedFor(c *container) bool {
	if !isLongHex(g.claim.ID) || c.has(g.claim.ID) {
		return false
	}
	o := g.candidate
	return o != nil && !o.forgotten && (o.pending() || len(o.layers) > 0 || o.run != nil)
}

// belowClaim reports whether a cgroup above is named for another container that a
// source may yet register: whose names are below it is then that one's business.
func (g *cgroup) belowClaim(c *container) bool {
	for a := g.parent; a != nil && a.reg == nil; a = a.parent {
		if o := a.candidate; o != nil && o != c && !o.forgotten && isLongHex(a.claim.ID) && !c.has(a.claim.ID) && o.run == nil && o.pending() {
			return true
		}
	}
	return false
}

// dispute remembers that a source has put another container into a cgroup than
// its name says: the name is not to be believed. One that was known before the init
// came there may be an earlier cgroup's of that id, whose removal was not heard.
func (m *machine) dispute(g *cgroup, init *proc) {
	if !g.disputed {
		g.disputed = true
		m.gen++
		m.resettle(g)
		if g.knownAt < init.arrived() {
			m.askLineage(g)
		}
	}
}

// anyHierarchy is the number of no hierarchy: matches finds its path in those
// that a source is silent about.
const anyHierarchy = 1<<32 - 1

// matches reports whether a source named this cgroup: the same path in the same
// hierarchy, or in another one where the source is silent about this one.
func (g *cgroup) matches(claimed []workload.CgroupPath) bool {
	other := false
	for _, cp := range claimed {
		if cp.Hierarchy == g.id.Hierarchy {
			return cp.Path == g.path
		}
		other = other || cp.Path == g.path
	}
	return other
}

// sharesID reports whether both have an id in common, whoever's it is. The same
// container has the same id in every layer of its runtimes.
func (c *container) sharesID(o *container) bool {
	return c.key.OfUser() == o.key.OfUser() && c.key.Nested() == o.key.Nested() && slices.ContainsFunc(o.ids, func(id workload.ContainerID) bool { return c.has(id.ID) })
}

func (c *container) has(id string) bool {
	return id != "" && slices.ContainsFunc(c.ids, func(o workload.ContainerID) bool { return o.ID == id })
}

// own registers a cgroup. Nobody need be asked any more whose its path might be.
func (m *machine) own(g *cgroup, c *container) {
	g.reg = c
	o := g.guessed
	if o == nil || o == c {
		return
	}
	g.guessed = nil
	o.dropGuess(g)
	if !g.released {
		o.claimedBy--
	}
	if !m.guessedInVain(o) {
		m.maybeDrop(o)
	}
}

// bind makes the registration and judges again everybody whom it concerns.
func (m *machine) bind(c *container, i int, p *proc, gs []*cgroup) {
	if c.run != nil {
		m.endRun(c)
	}
	over := c.run
	p.runs = c
	c.run = &run{init: p, source: i, at: m.now, cgroups: gs, homeless: len(gs) == 0}
	if over != nil && m.bugs.has(bugRunStaysOver) {
		c.run.exit = over.exit
	}
	c.goneAt, c.registerTries = 0, 0
	for _, g := range gs {
		m.own(g, c)
		c.run.paths = append(c.run.paths, workload.CgroupPath{CgroupID: g.id, Path: g.path})
	}
	c.mark(workload.MarkRegistered, m.cfg.sources[i].name, m.now)
	m.gen++
	m.ownPIDNS(c, p)
	for _, g := range gs {
		m.resettle(g)
	}
	for _, q := range sortedSet(m.claimed) {
		m.settle(q)
	}
	if p.exit != nil {
		m.runEnded(c, *p.exit, p.exit.At)
	}
	m.askAll(c)
	m.checkKnown(c)
	m.dirtyContainer(c)
	m.at(m.now+startGrace, func() { m.startedRun(c) })
}
