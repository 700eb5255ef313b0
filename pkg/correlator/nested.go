// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// An engine that runs in a container is believed about what is in that container, and
// about nothing else. Which container that is, the kernel says: its socket is served
// by a process, and that is a member of one. Its ids are in an instance of their own
// and joined with nobody's; a PID that it gives is one of its own PID namespace; and
// what it registers lies below a cgroup of that container, and is inside of it. So the
// worst that it can do is to misname its own.

// mayDescribe reports whether a source may say anything of an id: an engine in a
// container of the ids of its own instance, and of those nobody else.
func (m *machine) mayDescribe(i int, id workload.ContainerID) bool {
	return m.cfg.sources[i].nested == id.Nested()
}

// confined reports whether a description keeps to what its source may describe.
func (m *machine) confined(i int, l *workload.Container) bool {
	return m.mayDescribe(i, l.ID) && !slices.ContainsFunc(l.Aliases, func(id workload.ContainerID) bool { return !m.mayDescribe(i, id) })
}

// nestedHint takes the hints that are only an engine's in a container, and reports
// whether this was one, or is to be left alone.
func (m *machine) nestedHint(e evHint) bool {
	h := e.hint
	if m.cfg.sources[e.source].nested != "" && h.Kind == collectors.HintServer {
		m.served[e.source] = h.Server
		m.registerServed(e.source)
		return true
	}
	if h.Pod != nil || h.Task != nil {
		return m.cfg.sources[e.source].nested != "" // its pods and tasks are none of the host's
	}
	return h.Kind == collectors.HintServer || !m.mayDescribe(e.source, h.ID) || h.Layer != nil && !m.confined(e.source, h.Layer)
}

// registerServed tries the containers of an engine again, now that it is known who
// serves its socket.
func (m *machine) registerServed(i int) {
	for _, c := range slices.Clone(m.all) {
		if l := c.layers[i]; l != nil && l.Run != nil && l.Run.Registers && c.run == nil && !c.forgotten {
			c.registerTries = 0
			m.register(c, i, l.Run)
		}
	}
}

// registerNested registers what an engine in a container says of one of its own.
func (m *machine) registerNested(c *container, i int, r *workload.Run) {
	outer, p := m.inside(i, r.Init.PID)
	if p == nil {
		m.nestedLater(c, i, r)
		return
	}
	if o := m.runOf(p); o != nil && o != c || outer == c || outer.within(c) {
		m.conflicts++
		return
	}
	if p.member != outer && p.member != c {
		m.conflicts++ // it is of another one in there
		return
	}
	if c.run != nil && c.run.init != p && c.run.init.exit == nil {
		m.conflicts++ // its init lives: this is not it
		return
	}
	gs := m.nestedCgroups(c, outer, p)
	if len(gs) == 0 {
		m.nestedLater(c, i, r)
		return
	}
	if c.run != nil && c.run.init == p {
		m.ownRest(c, gs)
	} else {
		c.parent = outer
		m.bind(c, i, p, gs)
		m.publishLayer(c, i) // it was kept until it was known whose inside it is
	}
	if p.halfKnown() {
		m.nestedLater(c, i, r)
	}
}

// inside gives the container that an engine runs in, and the process there that it
// calls an init: the first of a PID namespace of its own, alive. nil where that cannot
// be told (yet).
func (m *machine) inside(i int, pid workload.PID) (*container, *proc) {
	d := m.procs[m.served[i].PID]
	if d == nil || !d.kp.Key.Same(m.served[i]) || d.exit != nil || d.status != workload.StatusContainer || d.conf != workload.Confirmed {
		return nil, nil
	}
	own := innermost(d)
	p := m.inNamespace(d, own.Inum, pid)
	if p == nil || p.exit != nil || p.status != workload.StatusContainer || p.set == nil {
		return nil, nil
	}
	if in := innermost(p); in.PID != 1 || in.Inum == own.Inum {
		return nil, nil
	}
	return d.member, p
}

// inNamespace gives the one living process that has a PID in the engine's PID namespace.
func (m *machine) inNamespace(d *proc, inum uint32, pid workload.PID) (found *proc) {
	if inum == 0 { // the host's, or nested deeper than is known
		if d.kp.PIDNSLevel > 0 {
			return nil
		}
		return m.procs[pid]
	}
	for q := range m.inNS[inum] {
		if q.exit != nil || !slices.Contains(q.kp.PIDNS[:], workload.PIDNamespace{Inum: inum, PID: pid}) {
			continue
		}
		if found != nil {
			return nil // one of them has ended unheard
		}
		found = q
	}
	return found
}

// nestedCgroups finds the cgroups that bear the container's id, in or above the
// init's own, and next below one of the outer container's. A name that is that of a
// container of the host's is nobody's in there.
func (m *machine) nestedCgroups(c, outer *container, p *proc) (gs []*cgroup) {
	for _, g := range p.set.cgroups {
		if !g.known() {
			m.askLineage(g)
			continue
		}
		for a := g; a != nil && !a.root && (a.reg == nil || a.reg == c); a = a.parent {
			if a.claim.ID != c.key.ID {
				continue
			}
			if o := a.candidate; o != nil && (o.run != nil || len(o.layers) > 0) {
				m.conflicts++
				return nil
			}
			if a.deepestAbove() == outer {
				gs = append(gs, a)
			}
			break
		}
	}
	return gs
}

// ownRest adds the hierarchies that were not known at the registration.
func (m *machine) ownRest(c *container, gs []*cgroup) {
	gs = slices.DeleteFunc(gs, func(g *cgroup) bool { return g.reg != nil || g.dead })
	if len(gs) == 0 || c.run.exit != nil {
		return
	}
	for _, g := range gs {
		m.own(g, c)
		c.run.cgroups = append(c.run.cgroups, g)
		c.run.paths = append(c.run.paths, workload.CgroupPath{CgroupID: g.id, Path: g.path})
	}
	m.gen++
	m.dirtyContainer(c)
	for _, g := range gs {
		m.resettle(g)
	}
}

// nestedLater tries again, for as long as registerLater does.
func (m *machine) nestedLater(c *container, i int, r *workload.Run) {
	if c.registerTries >= maxRegisterTries {
		return
	}
	pause := workload.KTime(time.Millisecond) << min(c.registerTries, 10)
	c.registerTries++
	m.at(m.now+pause, func() {
		if !c.forgotten && c.layers[i] != nil && c.layers[i].Run == r {
			m.registerNested(c, i, r)
		}
	})
}
