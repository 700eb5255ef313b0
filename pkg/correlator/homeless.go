// SPDX-License-Identifier: Apache-2.0

package correlator

import "github.com/pidigree/pidigree/pkg/workload"

// bindHomeless registers a run that has no cgroup of its own: a user's engine on
// cgroup v1 leaves its containers in the cgroups of whoever started them. Then the
// PID namespace that the init began stands in for the cgroup: nobody is in it but
// whom it made, or who was let in by its owner.
//
// It takes part where the cgroups say nothing: none that is known to be a container's,
// or is named for one.
func (m *machine) bindHomeless(c *container, i int, r *workload.Run, p *proc) {
	ns := innermost(p)
	switch v := m.verdict(p.set); {
	case c.run != nil && c.run.init == p: // said again
	case !v.known:
		m.registerLater(c, i, r, p)
	case v.reg != nil || len(v.claims) > 0 || ns.PID != 1 || ns.Inum == 0:
	case m.byPIDNS[ns.Inum] != nil && m.byPIDNS[ns.Inum] != c:
		m.conflicts++
	default:
		m.bind(c, i, p, nil)
	}
}

// homeless reports whether a container is registered by its PID namespace alone.
func (c *container) homeless() bool { return c.run != nil && c.run.homeless }

// joinHomeless lets a process that is in no container's cgroup, nor in one that is
// named for a container, into the container of its PID namespace.
func (m *machine) joinHomeless(p *proc, v *verdict) {
	if !v.known || len(v.claims) > 0 {
		return
	}
	for _, ns := range p.kp.PIDNS {
		y := m.byPIDNS[ns.Inum]
		if ns.Inum == 0 || y == nil {
			continue
		}
		if !y.homeless() || y.over(p.setAt) || y.begunAfter(p) {
			return // the outermost decides: what is below is its business
		}
		p.member, p.lost, p.entry = y, false, y.entryOf(p)
		if y.run.init == p {
			p.entry = workload.EntryInit
		}
		return
	}
}
