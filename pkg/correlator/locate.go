// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"errors"
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

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
	ev := m.evidence(p)
	if len(ev.Cgroups) == 0 { // the roots are nobody's
		s.located = maxLocate
		m.resettleSet(s)
		return
	}
	s.located++
	if len(m.cfg.sources) == 0 {
		s.located = maxLocate
	}
	for i := range m.cfg.sources {
		s.locating++
		m.request(request{kind: reqLocate, source: i, evidence: ev, set: s})
	}
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
	if s.silent { // who cannot say has not denied it: asked again for as long as anybody is there
		s.silent = false
		s.located = min(s.located, maxLocate-1)
		s.hushed = min(s.hushed+1, 10)
		m.at(m.now+8*workload.KTime(time.Millisecond)<<s.hushed, func() { m.locateSet(s) })
		return
	}
	if s.located >= maxLocate {
		m.resettleSet(s)
		return
	}
	pause := 4 * workload.KTime(time.Millisecond) << (2 * s.located)
	m.at(m.now+pause, func() { m.locateSet(s) })
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
