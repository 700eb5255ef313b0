// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"errors"
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// settled reports whether registration has decided the set, so that nobody need be
// asked. Who is below a container's cgroup may be another's that is not registered.
func (s *cgset) settled(m *machine) bool {
	if s == nil {
		return true
	}
	v := m.verdict(s)
	return v.reg != nil && v.direct
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
	if !m.verdict(s).known || m.listsSoon() {
		m.locateSoon(s)
		return
	}
	ev := m.evidence(p)
	s.askedAt = m.now
	if len(ev.Cgroups) == 0 { // the roots are nobody's
		s.located = maxLocate
		m.resettleSet(s)
		return
	}
	s.located++
	if !slices.ContainsFunc(m.cfg.sources, func(s sourceInfo) bool { return s.nested == "" }) {
		s.located = maxLocate
	}
	for i := range m.cfg.sources {
		if m.cfg.sources[i].nested == "" { // what is in a container is not asked about
			s.locating++
			m.request(request{kind: reqLocate, source: i, evidence: ev, set: s})
		}
	}
	m.locateAbove(p, ev)
}

// listsSoon reports whether the machine has begun just now, and the files are still
// being listed: the list says of a thousand containers at once what would else be
// asked a thousand times, and each question reads what the list does.
func (m *machine) listsSoon() bool {
	return m.now < m.begun+firstList && m.unlisted()
}

// firstList is how long the first list of the files is waited for.
const firstList = 2 * workload.KTime(time.Second)

// maxAbove bounds how far up the files of the runtimes are asked.
const maxAbove = 16

// locateAbove asks those who read files about the cgroups above as well: a
// source knows a container's own cgroup, and whoever is in it may have made more
// below. Where there are more than anybody needs, nobody can deny all of them.
func (m *machine) locateAbove(p *proc, ev workload.Evidence) {
	s := p.set
	above := slices.Clone(s.cgroups)
	for range maxAbove {
		ev.Claims, ev.Cgroups = nil, nil
		for i, g := range above {
			if g != nil {
				above[i] = g.parent
			}
			if g = above[i]; g != nil && g.named && !g.root {
				ev.Cgroups = append(ev.Cgroups, workload.CgroupPath{CgroupID: g.id, Path: g.path})
			}
		}
		if len(ev.Cgroups) == 0 {
			return
		}
		for i := range m.cfg.sources {
			if m.cfg.sources[i].files {
				s.locating++
				m.request(request{kind: reqLocate, source: i, evidence: ev, set: s})
			}
		}
	}
	s.deep = true
}

// evidence is what is known of a process for a source to tell whose it is.
func (m *machine) evidence(p *proc) workload.Evidence {
	ev := workload.Evidence{Init: p.kp.Key, Claims: slices.Clone(m.verdict(p.set).claims)}
	for _, g := range p.set.cgroups {
		if g.named && !g.root {
			ev.Cgroups = append(ev.Cgroups, workload.CgroupPath{CgroupID: g.id, Path: g.path})
		}
	}
	return ev
}

func (m *machine) looksContained(p *proc) bool {
	return p.kp.PIDNSLevel > 0 || m.cfg.hostMountNS != 0 && p.kp.MountNS != 0 && p.kp.MountNS != m.cfg.hostMountNS
}

// located goes on with the container that a source found.
func (m *machine) located(e evAnswer) {
	if e.req.init != nil {
		m.initLocated(e)
		return
	}
	s := e.req.set
	if s == nil || m.sets[s.key] != s {
		return
	}
	if e.req.asked { // on behalf of a question, not one of the tries
		if e.err != nil || e.located.ID == "" {
			return
		}
		s.locating++
	}
	s.locating = max(0, s.locating-1)
	s.silent = s.silent || e.err != nil && !denied(e.err) && !m.bugs.has(bugSilenceIsDenial)
	if e.err == nil && e.located.ID != "" {
		s.owner, s.ownerAt = m.pointedAt(e), m.now
		return
	}
	if s.locating > 0 {
		return
	}
	if s.silent { // who cannot say has not denied it: asked again for as long as anybody is there
		s.silent = false
		s.located = min(s.located, maxLocate-1)
		s.hushed = min(s.hushed+1, 10)
		m.at(m.now+8*workload.KTime(time.Millisecond)<<s.hushed, func() { m.locateSet(s) })
		return
	}
	if s.located >= maxLocate {
		s.deniedAt = m.now
		m.resettleSet(s)
		return
	}
	pause := 4 * workload.KTime(time.Millisecond) << (2 * s.located)
	m.at(m.now+pause, func() { m.locateSet(s) })
}

// pointedAt has the sources asked about the container that one of them has found.
func (m *machine) pointedAt(e evAnswer) *container {
	c := m.find(e.located)
	if c == nil {
		c = m.newContainer(e.located)
		c.fromClaim = true // nobody has described it yet
	}
	m.alias(c, e.located)
	c.wanted = m.now + wantedFor
	m.askAll(c)
	m.askLife(c, e.req.source)
	return c
}

// askLife asks a source again about a container that it has found to be there,
// where all that is known of it is an earlier life: the start of this one was missed.
func (m *machine) askLife(c *container, i int) {
	a := &c.asks[i]
	if a.stage < askIdle || a.busy || c.registered() && c.run.exit == nil {
		return
	}
	m.askOnceMore(c, i)
}

// askOwner has the sources asked anew whose the set is: who they named has gone
// since, and somebody came later.
func (m *machine) askOwner(s *cgset) {
	s.owner, s.located = nil, 0
	m.locateSoon(s)
}

// denied reports whether a source has said that something is not its own.
func denied(err error) bool {
	return errors.Is(err, collectors.ErrNotFound) || errors.Is(err, collectors.ErrNotMine) || errors.Is(err, collectors.ErrNotPresent)
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
	if m.sets[s.key] != s || s.settled(m) {
		return
	}
	for _, p := range sortedSet(s.procs) {
		if p.exit == nil && p.member == nil && m.looksContained(p) {
			m.locate(p)
			return
		}
	}
}
