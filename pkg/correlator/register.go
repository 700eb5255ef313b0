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
	p := m.lookup(r.Init.PID)
	if c.run != nil && c.run.init == p && len(c.run.paths) > 0 && sameInit(p, r.Init) {
		return // said again, perhaps by another source
	}
	if p == nil || !sameInit(p, r.Init) {
		m.wait(c, i, r)
		return
	}
	m.registerRun(c, i, r, p)
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
	if other := m.runOf(p); other != nil && other != c {
		m.merge(other, c)
		return
	}
	gs := m.cgroupsToRegister(c, r, p)
	if len(gs) == 0 {
		m.registerLater(c, i, r, p)
		return
	}
	for _, g := range gs {
		if g.reg != nil && g.reg != c && g.reg.run != nil && g.reg.run.exit == nil {
			m.conflicts++ // two runtimes claim one cgroup: the first one keeps it
			return
		}
	}
	m.bind(c, i, p, gs)
}

// registerLater tries again: a lineage may not be known yet, or the init's move
// into its cgroup may still be under way to us.
func (m *machine) registerLater(c *container, i int, r *workload.Run, p *proc) {
	for _, g := range p.set.cgroups {
		if !g.known() {
			m.askLineage(g)
		}
	}
	if c.registerTries >= maxRegisterTries {
		return
	}
	pause := workload.KTime(time.Millisecond) << min(c.registerTries, 10)
	c.registerTries++
	m.at(m.now+pause, func() {
		if !c.forgotten && c.layers[i] != nil && c.layers[i].Run == r {
			m.register(c, i, r)
		}
	})
}

// maxRegisterTries spans about eight seconds of growing pauses.
const maxRegisterTries = 17

// runOf gives the container whose run has this init.
func (m *machine) runOf(p *proc) *container {
	if c := p.member; c != nil && c.run != nil && c.run.init == p {
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
			if a.matches(claimed) || len(r.ClaimedPaths) == 0 && c.has(a.claim.ID) {
				gs = append(gs, a)
				break
			}
		}
	}
	return gs
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

func (c *container) has(id string) bool {
	return id != "" && slices.ContainsFunc(c.ids, func(o workload.ContainerID) bool { return o.ID == id })
}

// bind makes the registration and judges again everybody whom it concerns.
func (m *machine) bind(c *container, i int, p *proc, gs []*cgroup) {
	if c.run != nil {
		m.endRun(c)
	}
	c.run = &run{init: p, source: i, at: m.now, cgroups: gs}
	c.goneAt, c.registerTries = 0, 0
	for _, g := range gs {
		g.reg = c
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

// startGrace is when engines are asked in full although no user exec was seen:
// the program of BPF may be missing, or the start may have failed.
const startGrace = 400 * workload.KTime(time.Millisecond)

// ownPIDNS remembers whose the init's PID namespace is, and finds processes of
// it that had already been taken for members of another container: with their
// history lost, only the namespace can tell where they came from.
func (m *machine) ownPIDNS(c *container, init *proc) {
	ns := innermost(init)
	if ns.Inum == 0 || ns.PID != 1 || m.byPIDNS[ns.Inum] != nil {
		return
	}
	m.byPIDNS[ns.Inum] = c
	for _, p := range sortedSet(m.inNS[ns.Inum]) {
		if p.member != nil && p.member != c && m.foreignPIDNS(p, p.member) == c {
			p.taint = "in the cgroup of " + p.member.label() + " with the PID namespace of " + c.label()
		}
		m.settle(p)
	}
}

func sortedSet(ps map[*proc]struct{}) []*proc {
	s := make([]*proc, 0, len(ps))
	for p := range ps {
		s = append(s, p)
	}
	slices.SortFunc(s, compareProcs)
	return s
}

func innermost(p *proc) workload.PIDNamespace {
	n := min(int(p.kp.PIDNSLevel), len(p.kp.PIDNS))
	if n == 0 || int(p.kp.PIDNSLevel) > len(p.kp.PIDNS) {
		return workload.PIDNamespace{}
	}
	return p.kp.PIDNS[n-1]
}

// inPIDNS reports whether the run's init is in or below a PID namespace.
func (r *run) inPIDNS(inum uint32) bool {
	return slices.ContainsFunc(r.init.kp.PIDNS[:], func(n workload.PIDNamespace) bool { return n.Inum == inum })
}

// entryOf tells the init and what made it from processes that came later.
func (c *container) entryOf(p *proc) workload.Entry {
	if c.run == nil || c.run.init == p || p.started != 0 && p.started <= c.run.init.started {
		return workload.EntryInit
	}
	return workload.EntryExec
}

// startedRun asks the engines once more when the user's program runs: now they
// can say everything, and inspect no longer blocks.
func (m *machine) startedRun(c *container) {
	if c.forgotten || c.run == nil {
		return
	}
	for i := range c.asks {
		a := &c.asks[i]
		if a.stage == askIdle {
			a.stage, a.tries = askSecond, 0
			m.send(c, i)
		}
	}
	m.checkComplete(c)
	m.dirtyContainer(c)
}

// runEnded records the end of a container's init, by the kernel's status.
func (m *machine) runEnded(c *container, x workload.Exit, at workload.KTime) {
	if c.run.exit != nil {
		return
	}
	c.run.exit = &x
	c.mark(workload.MarkExit, "kernel", at)
	for inum, o := range m.byPIDNS {
		if o == c && innermost(c.run.init).Inum == inum {
			delete(m.byPIDNS, inum)
		}
	}
	m.startedRun(c)
	m.at(m.now+goneCheck, func() { m.checkGone(c, c.run) })
}

// goneCheck is when, after an exit, the sources are asked whether the container
// still exists, if none has said so by itself.
const goneCheck = 2 * workload.KTime(time.Second)

func (m *machine) checkGone(c *container, r *run) {
	if c.forgotten || c.goneAt != 0 || c.run != r {
		return
	}
	for _, i := range c.sources() {
		a := &c.asks[i]
		if c.gone[i] || a.busy {
			continue
		}
		a.stage, a.tries = askSecond, 0
		m.send(c, i)
	}
}

// endRun closes the run before a new one of the same container.
func (m *machine) endRun(c *container) {
	for _, g := range c.run.cgroups {
		if g.reg == c {
			g.reg = nil
		}
	}
	ns := innermost(c.run.init).Inum
	if m.byPIDNS[ns] == c {
		delete(m.byPIDNS, ns)
	}
	c.timeline = slices.DeleteFunc(c.timeline, func(k workload.Mark) bool { return k.At <= c.run.at })
	c.complete, c.known = false, false
	for i := range c.asks {
		if a := &c.asks[i]; a.stage == askDone && a.answered && !m.cfg.sources[i].files {
			a.stage = askIdle
		}
	}
}

// unregister forgets a cgroup that is gone.
func (c *container) unregister(g *cgroup) {
	if g.reg != c {
		return
	}
	g.reg = nil
	if c.run != nil {
		c.run.cgroups = slices.DeleteFunc(c.run.cgroups, func(o *cgroup) bool { return o == g })
	}
}

// checkComplete notes when every source has answered or been given up.
func (m *machine) checkComplete(c *container) {
	m.checkKnown(c)
	if c.complete || c.run == nil || len(c.missing(m)) > 0 {
		return
	}
	c.complete = true
	c.mark(workload.MarkComplete, "correlator", m.now)
	m.dirtyContainer(c)
}

// checkKnown notes when the identity is there: nothing that a source still adds
// after the start changes who the container is.
func (m *machine) checkKnown(c *container) {
	if c.known || !c.registered() {
		return
	}
	for i := range c.asks {
		if a := &c.asks[i]; a.stage == askNone || a.stage == askFirst && !m.cfg.sources[i].files {
			return
		}
	}
	c.known = true
	c.mark(workload.MarkKnown, "correlator", m.now)
	m.dirtyContainer(c)
}

func (c *container) missing(m *machine) []string {
	var names []string
	for i := range c.asks {
		if a := &c.asks[i]; a.stage == askFirst || a.stage == askSecond || a.stage == askIdle && c.run != nil && c.run.exit == nil {
			names = append(names, m.cfg.sources[i].name)
		}
	}
	return names
}

// settled reports whether registration has decided the set, so that nobody need be asked.
func (s *cgset) settled(m *machine) bool {
	return s == nil || m.verdict(s).reg != nil
}

// maxLocate bounds how often the sources are asked about one set of cgroups.
const maxLocate = 4

// locate asks the sources whose process this is, where it has a container's
// namespaces and a cgroup that nobody has registered: the only way in when the
// events about it were lost or never come.
func (m *machine) locate(p *proc) {
	s := p.set
	if s == nil || s.located >= maxLocate || s.locating > 0 || !m.looksContained(p) {
		return
	}
	if c := m.verdict(s).candidate; c != nil && c.pending() {
		return
	}
	if !m.verdict(s).known {
		m.locateSoon(s)
		return
	}
	ev := workload.Evidence{Init: p.kp.Key}
	for _, g := range s.cgroups {
		if g.named && !g.root {
			ev.Cgroups = append(ev.Cgroups, workload.CgroupPath{CgroupID: g.id, Path: g.path})
		}
	}
	if len(ev.Cgroups) == 0 { // the roots are nobody's
		s.located = maxLocate
		m.resettleSet(s)
		return
	}
	ev.Claims = slices.Clone(m.verdict(s).claims)
	s.located++
	if len(m.cfg.sources) == 0 {
		s.located = maxLocate
	}
	for i := range m.cfg.sources {
		s.locating++
		m.request(request{kind: reqLocate, source: i, evidence: ev, set: s})
	}
}

func (m *machine) looksContained(p *proc) bool {
	return p.kp.PIDNSLevel > 0 || m.cfg.hostMountNS != 0 && p.kp.MountNS != 0 && p.kp.MountNS != m.cfg.hostMountNS
}

// located goes on with the container that a source found.
func (m *machine) located(e evAnswer) {
	s := e.req.set
	if s == nil || m.sets[s.key] != s {
		return
	}
	s.locating = max(0, s.locating-1)
	if e.err == nil && e.located.ID != "" {
		c := m.find(e.located)
		if c == nil {
			c = m.newContainer(e.located)
		}
		m.alias(c, e.located)
		c.wanted = m.now + wantedFor
		s.owner = c
		m.askAll(c)
		return
	}
	if s.locating > 0 {
		return
	}
	if s.located >= maxLocate {
		m.resettleSet(s)
		return
	}
	pause := 4 * workload.KTime(time.Millisecond) << (2 * s.located)
	m.at(m.now+pause, func() { m.locateSet(s) })
}

func (m *machine) resettleSet(s *cgset) {
	for _, p := range sortedSet(s.procs) {
		m.settle(p)
	}
}

// locateSoon has the sources asked about a set in a while, unless registration
// settles it before: that is the rule, and costs the runtimes nothing.
func (m *machine) locateSoon(s *cgset) {
	if s.soon {
		return
	}
	s.soon = true
	m.at(m.now+locateDelay, func() {
		s.soon = false
		m.locateSet(s)
	})
}

const locateDelay = 100 * workload.KTime(time.Millisecond)

// locateSet asks again on behalf of whoever is left in the set.
func (m *machine) locateSet(s *cgset) {
	if m.sets[s.key] != s || m.verdict(s).reg != nil {
		return
	}
	for _, p := range sortedSet(s.procs) {
		if p.exit == nil && m.looksContained(p) {
			m.locate(p)
			return
		}
	}
}
