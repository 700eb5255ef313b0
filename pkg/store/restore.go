// SPDX-License-Identifier: Apache-2.0

package store

import "github.com/pidigree/pidigree/pkg/workload"

// Past is what an earlier agent of the same boot knew when it ended.
type Past struct {
	// Containers are all that it knew, so that a process leads to who its
	// container was.
	Containers []PastContainer
	// Processes are those that have ended.
	Processes []PastProcess
	// Pods and Tasks are all that it knew.
	Pods  []PastPod
	Tasks []PastTask
}

// PastTask is one task as it was known. It must not be changed any more.
type PastTask struct {
	*workload.Task
	// Ended makes it a tombstone, unless anybody living has its ARN.
	Ended bool
	// Since is from when the grace period counts, for one that has ended.
	Since workload.KTime
}

// PastPod is one pod as it was known. It must not be changed any more.
type PastPod struct {
	*workload.Pod
	// Ended makes it a tombstone, unless anybody living has one of its ids.
	Ended bool
	// Since is from when the grace period counts, for one that has ended.
	Since workload.KTime
}

// PastContainer is one container as it was known. It and what it points to
// must not be changed any more.
type PastContainer struct {
	*workload.Container
	// Ended makes it a tombstone, unless anybody living has one of its ids.
	Ended bool
	// Since is from when the grace period counts, for one that has ended.
	Since workload.KTime
}

// PastProcess is one process that has ended; Exit is set. It must not be
// changed any more.
type PastProcess struct {
	*workload.Process
	// Since is from when the grace period counts.
	Since workload.KTime
	// SeenUntil is the last instant at which it is known to have lived, where
	// nobody saw its end.
	SeenUntil workload.KTime
}

// restoreStep is how many entities are restored while the writer waits.
const restoreStep = 128

// Restore adds tombstones of an earlier agent of the same boot and says how
// many it took. It is called once, when what lives is known.
//
// What is restored gives way to everything else. A container, pod or task is left out, and
// taken out later, when the writer says anything of one of its ids; a container is found
// by no cgroup and is nobody's parent. A process is left out where the store
// knows it or another one that had its PID at its time or after it, and taken
// out when such a one turns up alive; a key finds it only where it can mean no
// other process. Watchers who did not ask for tombstones do not hear of them.
//
// It does not matter when the writer runs meanwhile: Restore takes turns with it.
func (s *Store) Restore(past Past) (kept int) {
	r := restoring{s: s, by: map[workload.ContainerID]*pastView{}, pods: map[string]*workload.Pod{}, tasks: map[string]*workload.Task{}}
	for _, p := range past.Pods {
		r.pods[p.UID] = p.Pod
	}
	for _, t := range past.Tasks {
		r.tasks[t.ARN] = t.Task
	}
	views := r.views(past.Containers)
	kept = r.steps(len(views), func(i int) bool {
		return past.Containers[i].Ended && s.restoreContainer(views[i], past.Containers[i].Since)
	})
	kept += r.steps(len(past.Pods), func(i int) bool {
		p := past.Pods[i]
		return p.Ended && s.pods.restore(p.UID, p.Pod, p.Since)
	})
	kept += r.steps(len(past.Tasks), func(i int) bool {
		t := past.Tasks[i]
		return t.Ended && s.tasks.restore(t.ARN, t.Task, t.Since)
	})
	return kept + r.steps(len(past.Processes), func(i int) bool { return s.restoreProcess(past.Processes[i], r.by) })
}

type restoring struct {
	s  *Store
	by map[workload.ContainerID]*pastView // nil for an id that two had
	// pods and tasks are what was known of them, by uid and by ARN.
	pods  map[string]*workload.Pod
	tasks map[string]*workload.Task
}

// pastView is a container as it was. cell is for the processes that were in it.
type pastView struct {
	view
	cell *cell
}

func (r restoring) steps(n int, do func(i int) bool) (kept int) {
	for from := 0; from < n; from += restoreStep {
		r.s.mu.Lock()
		for i := from; i < min(from+restoreStep, n); i++ {
			if do(i) {
				kept++
			}
		}
		r.s.publishBatchLocked()
		r.s.mu.Unlock()
	}
	return kept
}

// views makes the views with their chains, as far as all of a chain is known.
func (r restoring) views(cs []PastContainer) []*pastView {
	vs := make([]*pastView, len(cs))
	for i, c := range cs {
		v := &pastView{view: view{key: c.ID, merged: c.Container, gone: c.Ended, restored: true}}
		v.cell = &cell{id: c.ID, loose: true}
		vs[i] = v
		for _, id := range idsOf(c.ID, c.Container) {
			if _, twice := r.by[id]; twice {
				r.by[id] = nil
				continue
			}
			r.by[id] = v
		}
	}
	for _, v := range vs {
		r.chain(v)
	}
	return vs
}

// chain is put together from the innermost outward; a ring of parents ends at maxChain.
func (r restoring) chain(v *pastView) {
	for at := v; at != nil && len(v.chain) < maxChain; at = r.by[at.merged.Parent] {
		v.chain = append([]*workload.Container{at.merged}, v.chain...)
		if p := at.merged.Pod; p != nil && v.pod == nil {
			v.pod = r.pod(p)
		}
		if t := at.merged.Task; t != nil && v.task == nil {
			v.task = r.task(t)
		}
	}
	v.cell.view.Store(&v.view)
}

// pod gives what was known of a pod, or the reference alone where that is of
// another name.
func (r restoring) pod(ref *workload.PodRef) *workload.Pod {
	if p := r.pods[ref.UID]; p != nil && compatible(p.Name, ref.Name) && compatible(p.Namespace, ref.Namespace) {
		return p
	}
	return &workload.Pod{PodRef: *ref}
}

// task is pod for a task.
func (r restoring) task(ref *workload.TaskRef) *workload.Task {
	if t := r.tasks[ref.ARN]; t != nil && compatible(t.Family, ref.Family) && compatible(t.Cluster, ref.Cluster) {
		return t
	}
	return taskOf(ref)
}

// restoreContainer is for the writer, locked.
func (s *Store) restoreContainer(v *pastView, since workload.KTime) bool {
	ids := idsOf(v.key, v.merged)
	if v.key.IsZero() || s.claimed(ids) {
		return false
	}
	it := &contItem{key: v.key, gone: true, restored: true, since: since}
	s.byKey[it.key] = it
	s.conts.Add(1)
	s.restoredConts++
	v.rev = s.next()
	it.latest.Store(&v.view)
	s.contMarkers.void(v.merged.ID, v.rev)
	s.contLog.append(v.rev, it)
	s.setIDs(it, ids)
	s.settleContTomb(it, &v.view)
	return true
}

func (s *Store) claimed(ids []workload.ContainerID) bool {
	for _, id := range ids {
		if c := s.ids.get(id); c != nil && len(c.claims) > 0 {
			return true
		}
	}
	return false
}

// displace takes out what was restored under any of these ids: the writer
// speaks of them itself now.
func (s *Store) displace(ids []workload.ContainerID) {
	if s.restoredConts == 0 {
		return
	}
	for _, id := range ids {
		c := s.ids.get(id)
		if c == nil {
			continue
		}
		for _, it := range append([]*contItem(nil), c.claims...) {
			if it.restored {
				s.removeContainer(it, false)
			}
		}
	}
}

// restoreProcess is for the writer, locked.
func (s *Store) restoreProcess(p PastProcess, by map[workload.ContainerID]*pastView) bool {
	k := p.Key
	if k.PID == 0 || k.PID > workload.MaxPID || k.Start == 0 || p.Exit == nil || s.knowsBetter(k) {
		return false
	}
	item := &procItem{seenUntil: p.SeenUntil}
	n := newNode(p.Process, item, s.pastCell(p.Process, by), s.next())
	n.flags |= flagRestored
	s.pids.insert(n)
	item.latest.Store(n)
	s.procMarkers.void(k, n.rev)
	s.procLog.append(n.rev, item)
	s.procs.Add(1)
	s.restoredProcs++
	s.settleProcTomb(n)
	if item.tomb != nil && p.Since != 0 {
		item.tomb.in.move(item.tomb, p.Since)
	}
	return true
}

// knowsBetter reports whether a process that is known may be the one with this
// key, or lived with its PID when that one is said to have.
func (s *Store) knowsBetter(k workload.ProcessKey) bool {
	for n := s.pids.head(k.PID); n != nil; n = n.older.Load() {
		if n.key().Same(k) || !n.exited() && !startedAfter(n.key(), k) {
			return true
		}
	}
	return false
}

// pastCell leads a process to who its container was: to the living one only
// where that can be no other one of the same id.
func (s *Store) pastCell(p *workload.Process, by map[workload.ContainerID]*pastView) *cell {
	if p.Status != workload.StatusContainer || p.Container.IsZero() {
		return nil
	}
	was := by[p.Container]
	if now := s.viewOf(p.Container); now != nil && !now.restored && (was == nil || sameContainer(was.merged, now.merged)) && isLongHex(p.Container.ID) {
		return s.hold(p)
	}
	if was == nil {
		return &cell{id: p.Container, loose: true}
	}
	return was.cell
}

// sameContainer compares ids that nobody chose: a name may be given again.
func sameContainer(a, b *workload.Container) bool { return a.ID.ID == b.ID.ID && isLongHex(a.ID.ID) }

// isLongHex reports whether an id is made of 64 random digits, as those are that
// an engine makes up.
func isLongHex(id string) bool {
	if len(id) != 64 {
		return false
	}
	for i := range len(id) {
		if c := id[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// yieldTo takes out what was restored and cannot be true beside a process that
// lives: it would be that process, or have had its PID at its time or after it.
func (s *Store) yieldTo(p *workload.Process) {
	if s.restoredProcs == 0 || p.Exit != nil {
		return
	}
	for n := s.pids.head(p.Key.PID); n != nil; {
		older := n.older.Load()
		if n.restored() && !startedAfter(p.Key, n.key()) {
			s.dropProcess(n.item)
		}
		n = older
	}
}

func (n *node) restored() bool { return n.flags&flagRestored != 0 }

// seenAt reports whether a restored process, whose end nobody saw, was known to
// live at an instant.
func (n *node) seenAt(at workload.KTime) bool { return n.restored() && at <= n.item.seenUntil }

// GoneSince says from when the grace period of a tombstone counts, 0 for what
// lives or is not there. It waits for the writer.
func (s *Store) GoneSince(e workload.Entity) workload.KTime {
	s.mu.Lock()
	defer s.mu.Unlock()
	var d *tomb
	switch {
	case e.Process != nil:
		if n, _ := s.pids.match(e.Process.Key); n != nil {
			d = n.item.tomb
		}
	case e.Container != nil:
		if c := s.ids.get(e.Container.ID); c != nil {
			if it := c.owner(); it != nil {
				d = it.tomb
			}
		}
	case e.Pod != nil:
		d = s.pods.tombOf(e.Pod.UID)
	case e.Task != nil:
		d = s.tasks.tombOf(e.Task.ARN)
	}
	if d == nil {
		return 0
	}
	return d.since
}
