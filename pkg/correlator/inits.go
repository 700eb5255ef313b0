// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Who is in the roots alone is in no cgroup that a source could be asked about. An
// init that was moved out of all of its own is such a one, and nothing that is seen
// of it tells it from a sandbox of the host's. The low-level runtime's state does: it
// names each init by PID and start, so it is asked about those. So is one in cgroups
// of the host's who has a PID namespace: a user's engine leaves its containers there,
// and what was asked about those cgroups was asked about somebody else in them.

// initAsk is where the machine is with asking whose init a process is.
type initAsk struct {
	asking   int // sources that have yet to answer
	silent   bool
	waits    bool // a timer for the next try is set
	hushed   int  // how often in a row one could not say, for the pause: 16 ms to 8 s
	deniedAt workload.KTime
}

// mayBeInit reports whether a process with namespaces of its own, in the roots alone
// or the first of a PID namespace, may be an init that the files know or that has no
// cgroup, and has the sources asked. They are asked once: who denies it after it was
// young has its state, if there is any.
func (m *machine) mayBeInit(p *proc) bool {
	a := &p.init
	if p.exit != nil || !p.set.inRoots() && (p.kp.PIDNSLevel == 0 || innermost(p).PID != 1) || !m.looksContained(p) || p.hostIn == p.set || a.deniedAt != 0 {
		return false
	}
	if a.asking > 0 || a.waits {
		return true
	}
	for i, s := range m.cfg.sources {
		if s.files || s.homeless {
			a.asking++
			m.request(request{kind: reqLocate, source: i, evidence: workload.Evidence{Init: p.kp.Key}, init: p})
		}
	}
	return a.asking > 0
}

// initLocated applies what a source said of a process that may be an init.
func (m *machine) initLocated(e evAnswer) {
	p := e.req.init
	a := &p.init
	a.asking--
	if m.procs[p.kp.Key.PID] != p {
		return
	}
	if e.err == nil && e.located.ID != "" {
		c := m.pointedAt(e)
		if p.initOf == nil {
			p.initOf = c
		}
		m.settle(p)
		return
	}
	a.silent = a.silent || e.err != nil && !denied(e.err) && !m.bugs.has(bugSilenceIsDenial)
	switch {
	case a.asking > 0:
	case a.silent: // who cannot say has not denied it
		a.silent, a.waits = false, true
		a.hushed = min(a.hushed+1, 10)
		m.at(m.now+8*workload.KTime(time.Millisecond)<<a.hushed, func() {
			a.waits = false
			m.settle(p)
		})
	default:
		a.deniedAt = m.now
		for _, q := range sortedSet(m.inMount[p.kp.MountNS]) {
			if q.exit == nil && q.member == nil {
				m.settle(q)
			}
		}
	}
}
