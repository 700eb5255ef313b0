// SPDX-License-Identifier: Apache-2.0

package store

import "github.com/pidigree/pidigree/pkg/workload"

// The reasons of the store's own unknowns.
const (
	reasonAbsent    = "not in the store"
	reasonContainer = "its container is not in the store"
	reasonTick      = "several processes had this PID within one clock tick"
	reasonAt        = "no process is known to have had this PID then"
)

// Resolve says what a process belongs to, from memory: right as of AsOf, as far
// as no event was missed. It takes no lock and allocates nothing.
func (s *Store) Resolve(k workload.ProcessKey) (a workload.Answer) {
	s.begin(&a)
	n, ambiguous := s.pids.match(k)
	switch {
	case n != nil:
		n.answer(&a)
	case ambiguous:
		a.Reason = reasonTick
	}
	return a
}

// PID answers for the newest process known to have had the PID, also when it is
// gone. False: none is known. Whether the PID is still that process's is for
// the caller to check.
func (s *Store) PID(pid workload.PID) (a workload.Answer, known bool) {
	s.begin(&a)
	n := s.pids.head(pid)
	if n != nil {
		n.answer(&a)
	}
	return a, n != nil
}

// PIDAt answers for the process that had the PID at an instant: started at or
// before it, ended after it. Where a process's end was not seen, nothing is
// known of the PID from its start to the next one's.
func (s *Store) PIDAt(pid workload.PID, at workload.KTime) (a workload.Answer, known bool) {
	s.begin(&a)
	for n := s.pids.head(pid); n != nil; n = n.older.Load() {
		from := started(n.proc)
		if from > at {
			continue
		}
		if e := n.proc.Exit; from == 0 || e != nil && e.At <= at && !n.seenAt(at) {
			break
		}
		n.answer(&a)
		return a, true
	}
	a.Reason = reasonAt
	return a, false
}

func started(p *workload.Process) workload.KTime {
	if p.Started != 0 {
		return p.Started
	}
	return workload.KTime(p.Key.Start)
}

// ContainerAnswer is what there is to say about a container by its key, its id
// or an alias, with its chain, pod and task. False: no such container.
func (s *Store) ContainerAnswer(id workload.ContainerID) (a workload.Answer, known bool) {
	s.begin(&a)
	v := s.viewOf(id)
	if v == nil || v.dropped {
		return a, false
	}
	v.answer(&a)
	return a, true
}

// CgroupAnswer is ContainerAnswer for the container that ByCgroup finds.
func (s *Store) CgroupAnswer(id workload.CgroupID) (a workload.Answer, known bool) {
	s.begin(&a)
	it := s.cgroups.get(id)
	if it == nil {
		return a, false
	}
	it.latest.Load().answer(&a)
	return a, true
}

// begin makes a the unknown answer that it stays if nothing is found. Instant
// and revision are read before the entities: what is said is at least that new,
// so that a watch from the revision misses nothing. (Answers are filled in
// place: copying one right after its fields were written stalls the processor.)
func (s *Store) begin(a *workload.Answer) {
	a.Status, a.Reason = workload.StatusUnknown, reasonAbsent
	a.AsOf, a.Revision = s.AsOf(), s.Revision()
}

func (v *view) answer(a *workload.Answer) {
	a.Status, a.Confidence, a.Exited, a.Reason = workload.StatusContainer, v.merged.Confidence, v.gone || v.merged.State == workload.StateExited, ""
	a.Containers, a.Pod, a.Task = v.chain, v.podNow(), v.taskNow()
}

func (n *node) answer(a *workload.Answer) {
	a.Process, a.Confidence, a.Reason = n.proc, n.conf.confidence(), ""
	a.Exited = n.flags&flagExited != 0
	if n.flags&flagService != 0 {
		a.Service = n.proc.Service
	}
	if n.restored() {
		a.Reason = n.proc.Reason // how it ended, where nobody saw it
	}
	switch n.status {
	case codeContainer:
		n.cell.answer(a)
	case codeHost:
		a.Status = workload.StatusHost
	case codeConflict:
		a.Status, a.Reason = workload.StatusConflict, n.proc.Reason
	default:
		a.Reason = n.proc.Reason
	}
}

// answer adds the container; where there is none to add, nothing is known. One
// that has been dropped will do for a process that is gone like it, one that was
// restored only for those restored with it.
func (c *cell) answer(a *workload.Answer) {
	var v *view
	if c != nil {
		v = c.view.Load()
	}
	if v == nil || v.dropped && !a.Exited || v.restored && !c.loose {
		a.Confidence, a.Reason = workload.ConfidenceNone, reasonContainer
		return
	}
	a.Status, a.Containers, a.Pod = workload.StatusContainer, v.chain, v.podNow()
	a.Task = v.taskNow()
}
