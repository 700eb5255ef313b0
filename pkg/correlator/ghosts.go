// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"github.com/pidigree/pidigree/pkg/workload"
)

// ghosts are processes that have ended: a runtime's state or a late answer may
// still give them a name. Bounded in number and age, oldest first.
type ghosts struct {
	queue []*proc
	byPID map[workload.PID]*proc
}

// forget drops the last trace of a ghost.
func (m *machine) forget(p *proc) {
	delete(m.claimed, p)
	if m.ghosts.byPID[p.kp.Key.PID] == p {
		delete(m.ghosts.byPID, p.kp.Key.PID)
	}
	m.inMount.remove(p.kp.MountNS, p)
	for _, ns := range p.kp.PIDNS {
		m.inNS.remove(ns.Inum, p)
	}
	m.leave(p)
}

// end records that a process is gone. Its cgroups are kept for late registrations.
func (m *machine) end(p *proc, x workload.Exit, at workload.KTime) {
	if m.procs[p.kp.Key.PID] == p {
		delete(m.procs, p.kp.Key.PID)
	}
	p.exit = &x
	p.countOuter()
	m.ghosts.queue = append(m.ghosts.queue, p)
	m.ghosts.byPID[p.kp.Key.PID] = p
	m.dirtyProc(p)
	m.mainEnded(p)
	if x.OOM {
		m.killedForMemory(p)
	}
	if c := m.runOf(p); c != nil {
		m.runEnded(c, x, at)
	}
	m.wakeAlone(p)
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

// isGhost reports whether a process has ended: it is the last dead one with its
// PID, or that one came after it.
func (m *machine) isGhost(k workload.ProcessKey) bool {
	p := m.ghosts.byPID[k.PID]
	return p != nil && (p.kp.Key.Same(k) || startedBefore(k, p.kp.Key)) && !m.bugs.has(bugDeadRevived)
}
