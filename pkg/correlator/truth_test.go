// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The model of the truth: a small world of processes, cgroups and containers,
// and who is in whose. It knows none of the machine's rules. A process is of the
// container that it was made for, and so is whatever it forks, wherever it moves
// to; a process of the host's that enters a container's cgroup is of that one.

// simContainer is one life of a container; a restart is another with the same id.
type simContainer struct {
	id           string
	paths        map[uint32]string
	cgroups      map[uint32]uint64
	hostPID      bool
	odd          bool // its path says nothing, and the engine has no name for it
	dead, failed bool // failed: its user program never ran
	pidns, mntns uint32
	init         *simProc
	state        bool           // the runtime has written its state
	left         workload.KTime // until then the state of who is dead is left behind
	shares       *simContainer  // it was put into that one's cgroups
	contested    bool           // one of two in the same cgroups
	staged       bool           // a process in the host's namespaces made its init in its cgroups
	below        *simContainer  // it was put below that one's cgroups
	named        bool           // an engine lied about its name
	strange      bool           // no source knows it
}

type simProc struct {
	key      workload.ProcessKey
	parent   *simProc
	truth    *simContainer // nil: the host
	cgroups  map[uint32]uint64
	pidns    []workload.PIDNamespace
	mntns    uint32
	user     bool   // runs the user's code
	settling bool   // a runtime's, between fork and exec: the host is a fair answer too
	entered  uint64 // came from the host then: the host is a fair answer until all is heard
	attacker bool   // it or one above it attacked
	nsenter  bool   // a host process in a container's namespaces
	dead     bool
	code     int32
	execAt   workload.KTime
}

type truth struct {
	rng         *rand.Rand
	now         workload.KTime
	hierarchies []uint32
	shell       *simProc
	procs, gone []*simProc
	conts       []*simContainer
	byPID       map[workload.PID][]*simProc
	names       map[workload.CgroupID]string
	parents     map[workload.CgroupID]uint64
	nextID      map[uint32]uint64
	free        []simFree // removed cgroups, whose ids may come again
	reuse       bool
	nextNS      uint32
	inode       uint64 // 0: a kernel without pidfs
	tell        func(e kernel.Event, ring int)
}

type simFree struct {
	id workload.CgroupID
	at workload.KTime
}

func newTruth(rng *rand.Rand, tell func(kernel.Event, int)) *truth {
	w := &truth{
		rng: rng, tell: tell, now: 1000 * simMS, nextNS: 100, nextID: map[uint32]uint64{},
		hierarchies: [][]uint32{{0}, {0, 3}, {0, 3, 9}}[rng.IntN(3)], reuse: rng.IntN(4) == 0, inode: uint64(rng.IntN(2)),
		byPID: map[workload.PID][]*simProc{}, names: map[workload.CgroupID]string{}, parents: map[workload.CgroupID]uint64{},
	}
	roots := map[uint32]uint64{}
	for _, h := range w.hierarchies { // ids begin anew in each hierarchy, as on v1
		roots[h], w.nextID[h] = 1, 1
		w.names[workload.CgroupID{Hierarchy: h, ID: 1}] = "/"
	}
	w.shell = w.newProc(nil, nil, roots, nil, 1)
	return w
}

// pass lets a moment go by: no two facts have the same stamp.
func (w *truth) pass() workload.KTime { w.now += 1000; return w.now }

// newProc makes a process with a PID that may have been used before.
func (w *truth) newProc(parent *simProc, of *simContainer, cg map[uint32]uint64, ns []workload.PIDNamespace, mnt uint32) *simProc {
	pid := workload.PID(2 + w.rng.IntN(60))
	for w.alive(pid) != nil || w.usedThisTick(pid) {
		pid++
	}
	p := &simProc{key: workload.ProcessKey{PID: pid, Start: uint64(w.pass())}, parent: parent, truth: of, cgroups: maps.Clone(cg), mntns: mnt, pidns: slices.Clone(ns)}
	if w.inode > 0 {
		w.inode++
		p.key.Inode = w.inode
	}
	w.procs = append(w.procs, p)
	w.byPID[pid] = append(w.byPID[pid], p)
	return p
}

// usedThisTick: the kernel gives PIDs in a cycle, and needs far longer than a
// tick to come round. /proc and the runtimes tell one from the next by the tick.
func (w *truth) usedThisTick(pid workload.PID) bool {
	ps := w.byPID[pid]
	return len(ps) > 0 && ps[len(ps)-1].key.Start/workload.TickNS == uint64(w.now+1000)/workload.TickNS
}

// alive gives the living process with a PID.
func (w *truth) alive(pid workload.PID) *simProc {
	if ps := w.byPID[pid]; len(ps) > 0 && !ps[len(ps)-1].dead {
		return ps[len(ps)-1]
	}
	return nil
}

func (w *truth) fork(parent *simProc) *simProc {
	p := w.newProc(parent, parent.truth, parent.cgroups, parent.pidns, parent.mntns)
	for i := range p.pidns {
		p.pidns[i].PID = 2 + workload.PID(w.rng.IntN(1000))
	}
	p.user, p.attacker, p.settling, p.entered, p.nsenter = parent.user, parent.attacker, parent.settling, parent.entered, parent.nsenter
	w.say(kernel.Fork, p)
	return p
}

func (w *truth) exec(p *simProc) { p.execAt = w.say(kernel.Exec, p) }

// exit ends a process; its children get the reaper of their PID namespace.
func (w *truth) exit(p *simProc) {
	p.dead, p.code = true, w.rng.Int32N(3)
	for _, q := range w.procs {
		if q.parent == p {
			q.parent = w.shell
			if c := q.truth; c != nil && len(q.pidns) > 0 && q.pidns[0].Inum == c.pidns && !c.init.dead && q != c.init {
				q.parent = c.init
			}
		}
	}
	w.procs = slices.DeleteFunc(w.procs, func(q *simProc) bool { return q == p })
	w.gone = append(w.gone, p)
	w.say(kernel.Exit, p)
}

func (w *truth) say(t kernel.Type, p *simProc) workload.KTime {
	e := kernel.Event{Type: t, Time: w.pass(), Process: w.seen(p)}
	if t == kernel.Exit {
		e.Exit = workload.Exit{Known: true, Code: p.code}
	}
	w.tell(e, 0)
	return e.Time
}

// mkdir makes a cgroup, where the world is so with an id that another one had.
func (w *truth) mkdir(h uint32, parent uint64, path string) uint64 {
	w.nextID[h]++
	id := workload.CgroupID{Hierarchy: h, ID: w.nextID[h]}
	if i := slices.IndexFunc(w.free, func(f simFree) bool { return f.id.Hierarchy == h && w.now > f.at+1500*simMS }); w.reuse && i >= 0 {
		id = w.free[i].id
		w.free = slices.Delete(w.free, i, i+1)
	}
	w.names[id], w.parents[id] = path, parent
	w.tell(kernel.Event{Type: kernel.CgroupMkdir, Time: w.pass(), Cgroup: kernel.Cgroup{ID: id, Parent: parent, Level: uint32(strings.Count(path, "/")), Path: path}}, 1)
	return id.ID
}

// rmdir removes a cgroup and those below it.
func (w *truth) rmdir(id workload.CgroupID) {
	for _, c := range w.below(id) {
		w.rmdir(c)
	}
	path, there := w.names[id]
	if !there { // two runtimes shared it: freed twice, its id would be two cgroups' at once
		return
	}
	delete(w.names, id)
	delete(w.parents, id)
	w.free = append(w.free, simFree{id, w.pass()})
	w.tell(kernel.Event{Type: kernel.CgroupRmdir, Time: w.now, Cgroup: kernel.Cgroup{ID: id, Path: path}}, 1)
}

func (w *truth) move(p *simProc, h uint32, to uint64) {
	p.cgroups[h] = to
	w.tell(kernel.Event{Type: kernel.CgroupAttach, Time: w.pass(), Process: w.seen(p), Cgroup: kernel.Cgroup{ID: workload.CgroupID{Hierarchy: h, ID: to}}}, 1)
}
