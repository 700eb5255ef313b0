// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

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
		if c.asks[i].stage == askIdle {
			m.askInFull(c, i)
		}
	}
	m.checkComplete(c)
	m.dirtyContainer(c)
}

// askInFull asks an engine for the second and last time. One without files has
// been asked in full already: it is asked again only if, some time after the
// start, none of its events has told of it.
func (m *machine) askInFull(c *container, i int) {
	a := &c.asks[i]
	if l := c.layers[i]; !m.cfg.sources[i].prefill && l != nil {
		if l.State != workload.StateUnknown && l.State != workload.StateCreated {
			a.stage = askDone
			return
		}
		if m.now < c.run.at+startGrace {
			return // bind has set a timer
		}
	}
	m.askOnceMore(c, i)
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

// killedForMemory notes for the run that it is of that the out-of-memory killer chose
// a process: an engine says so of a container whichever of its processes it was.
func (m *machine) killedForMemory(p *proc) {
	c := p.member
	if c == nil || c.run == nil || c.run.oom || startedBefore(p.kp.Key, c.run.init.kp.Key) {
		return
	}
	c.run.oom = true
	m.dirtyContainer(c)
}

// goneCheck is when, after an exit, the sources are asked whether the container
// still exists, if none has said so by itself.
const goneCheck = 2 * workload.KTime(time.Second)

func (m *machine) checkGone(c *container, r *run) {
	if c.forgotten || c.goneAt != 0 || c.run != r {
		return
	}
	if r != nil && c.deletedByAll() { // while its init lived, as far as was known
		m.containerGone(c)
		return
	}
	for _, i := range c.sources() {
		if !c.gone[i] && !c.asks[i].busy {
			m.askOnceMore(c, i)
		}
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
