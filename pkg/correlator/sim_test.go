// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"cmp"
	"container/heap"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/workload"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "replay this seed of the simulator alone")
	simRuns  = flag.Int("sim.runs", 300, "how many seeds the simulator runs")
	simSteps = flag.Int("sim.steps", 150, "how many acts of the world each run has")
	simTrace = flag.Bool("sim.trace", false, "print every input of the machine")
)

// The simulator: a small world in which containers start, fork, exec, are
// attacked and die, a transport that delays, reorders, duplicates and loses what
// the machine hears of it, and a model (the world itself) that every answer is
// held against. Nothing here knows the machine's rules.

type simContainer struct {
	id                 string
	paths              map[uint32]string
	cgroups            map[uint32]uint64
	hostPID, odd, dead bool
	pidns, mntns       uint32
	init               *simProc
	state              bool // the runtime has written its state
}

type simProc struct {
	key      workload.ProcessKey
	parent   *simProc
	truth    *simContainer // nil: the host
	cgroups  map[uint32]uint64
	pidns    []workload.PIDNamespace
	mntns    uint32
	user     bool
	settling bool // between fork and exec of a runtime: either answer is fair
	attacker bool
	dead     bool
}

type simWorld struct {
	t       *testing.T
	rng     *rand.Rand
	seed    uint64
	now     workload.KTime
	m       *machine
	queue   simQueue
	seq     int
	procs   []*simProc
	conts   []*simContainer
	names   map[workload.CgroupID]string
	parents map[workload.CgroupID]uint64
	nextID  uint64
	nextNS  uint32
	pids    map[workload.PID]bool
	answers map[workload.ProcessKey]*workload.Process
	layers  map[workload.ContainerID]map[string]bool
	loss    float64
	lostAny bool
	shell   *simProc
	right, unknown, conflict,
	checked int
}

// simItem is something under way to the machine.
type simItem struct {
	at  workload.KTime
	seq int
	in  any
}
type simQueue []simItem

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simItem)) }
func (q *simQueue) Pop() any {
	o := *q
	x := o[len(o)-1]
	*q = o[:len(o)-1]
	return x
}

var simHierarchies = []uint32{0, 3, 9}

const simMS = workload.KTime(time.Millisecond)

func TestAnswersAreNeverWrongWhateverTheTransportDoes(t *testing.T) {
	seeds := make([]uint64, 0, *simRuns)
	for i := range *simRuns {
		seeds = append(seeds, uint64(i)+1)
	}
	if *simSeed != 0 {
		seeds = []uint64{*simSeed}
	}
	var total simWorld
	for _, seed := range seeds {
		w := newSimWorld(t, seed)
		w.run(*simSteps)
		total.right += w.right
		total.unknown += w.unknown
		total.conflict += w.conflict
		total.checked += w.checked
		if t.Failed() {
			t.Fatalf("replay with: go test ./pkg/correlator -run %s -sim.seed=%d -sim.trace", t.Name(), seed)
		}
	}
	t.Logf("%d runs, %d answers: %d right, %d unknown, %d conflict, 0 wrong", len(seeds), total.checked, total.right, total.unknown, total.conflict)
	if total.right*2 < total.checked {
		t.Errorf("only %d of %d answers were right: the machine knows too little", total.right, total.checked)
	}
}

func newSimWorld(t *testing.T, seed uint64) *simWorld {
	w := &simWorld{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), now: simMS,
		names: map[workload.CgroupID]string{}, parents: map[workload.CgroupID]uint64{}, pids: map[workload.PID]bool{},
		answers: map[workload.ProcessKey]*workload.Process{}, nextID: 10, nextNS: 100,
		layers: map[workload.ContainerID]map[string]bool{},
	}
	w.m = newMachine(config{
		sources:     []sourceInfo{{name: "oci", prefill: true, files: true}, {name: "docker", prefill: true}},
		strip:       func(abs string) (workload.CgroupPath, bool) { return workload.CgroupPath{Path: abs}, true },
		hostMountNS: 1,
	})
	if w.rng.IntN(2) == 0 {
		w.loss = []float64{0.02, 0.2, 1}[w.rng.IntN(3)]
	}
	root := map[uint32]uint64{}
	for _, h := range simHierarchies {
		root[h] = 1
		w.names[workload.CgroupID{Hierarchy: h, ID: 1}] = "/"
	}
	w.shell = w.newProc(nil, nil, root, nil, 1)
	w.snapshot()
	return w
}

func (w *simWorld) run(steps int) {
	for range steps {
		w.act()
		w.advance(workload.KTime(w.rng.Int64N(int64(20 * simMS))))
		w.check(false)
	}
	w.loss = 0
	for range 3 {
		if w.lostAny {
			w.deliver(kernel.Event{Type: kernel.Lost, Time: w.now, Count: 1}, 0)
		}
		w.advance(3000 * simMS)
	}
	w.check(true)
}

// act makes one thing happen in the world.
func (w *simWorld) act() {
	c := w.anyContainer()
	switch n := w.rng.IntN(100); {
	case n < 18 || c == nil:
		w.start()
	case n < 40:
		w.fork(w.anyOf(c), c.truth())
	case n < 50:
		w.fork(w.shell, nil)
	case n < 58:
		w.execInto(c)
	case n < 70:
		w.exit(w.anyOf(c))
	case n < 76:
		w.kill(c)
	case n < 84:
		w.attackMove(c)
	case n < 90:
		w.attackName(c)
	case n < 94:
		w.exec(w.anyOf(c))
	case n < 97:
		w.honestNsenter(c)
	default:
		w.advance(200 * simMS)
	}
}

func (c *simContainer) truth() *simContainer { return c }

func (w *simWorld) anyContainer() *simContainer {
	live := slices.DeleteFunc(slices.Clone(w.conts), func(c *simContainer) bool { return c.dead || c.init.dead })
	if len(live) == 0 {
		return nil
	}
	return live[w.rng.IntN(len(live))]
}

func (w *simWorld) anyOf(c *simContainer) *simProc {
	var ps []*simProc
	for _, p := range w.procs {
		if !p.dead && p.truth == c && p.user {
			ps = append(ps, p)
		}
	}
	if len(ps) == 0 {
		return c.init
	}
	return ps[w.rng.IntN(len(ps))]
}

// newProc makes a process with a PID that may have been used before.
func (w *simWorld) newProc(parent *simProc, truth *simContainer, cg map[uint32]uint64, ns []workload.PIDNamespace, mnt uint32) *simProc {
	pid := workload.PID(2 + w.rng.IntN(400))
	for w.pids[pid] {
		pid++
	}
	w.pids[pid] = true
	w.now += 1000
	p := &simProc{key: workload.ProcessKey{PID: pid, Start: uint64(w.now)}, parent: parent, truth: truth, cgroups: maps.Clone(cg), mntns: mnt, pidns: slices.Clone(ns)}
	w.procs = append(w.procs, p)
	return p
}

func (w *simWorld) fork(parent *simProc, truth *simContainer) *simProc {
	p := w.newProc(parent, truth, parent.cgroups, parent.pidns, parent.mntns)
	for i := range p.pidns {
		p.pidns[i].PID = 2 + workload.PID(w.rng.IntN(1000))
	}
	p.user, p.attacker, p.settling = parent.user, parent.attacker, parent.settling
	w.deliver(kernel.Event{Type: kernel.Fork, Process: w.kproc(p)}, 0)
	return p
}

func (w *simWorld) exec(p *simProc) {
	w.deliver(kernel.Event{Type: kernel.Exec, Process: w.kproc(p)}, 0)
}

func (w *simWorld) exit(p *simProc) {
	if p == w.shell {
		return
	}
	if p.truth != nil && p == p.truth.init {
		w.kill(p.truth)
		return
	}
	p.dead = true
	for _, q := range w.procs {
		if q.parent == p {
			q.parent = w.reaper(q)
		}
	}
	delete(w.pids, p.key.PID)
	w.deliver(kernel.Event{Type: kernel.Exit, Process: w.kproc(p), Exit: workload.Exit{Known: true}}, 0)
}

func (w *simWorld) reaper(p *simProc) *simProc {
	if p.truth != nil && !p.truth.hostPID && !p.truth.init.dead && p != p.truth.init {
		return p.truth.init
	}
	return w.shell
}

func (w *simWorld) mkdir(h uint32, parent uint64, path string) uint64 {
	w.nextID++
	id := workload.CgroupID{Hierarchy: h, ID: w.nextID}
	w.names[id] = path
	w.parents[id] = parent
	w.deliver(kernel.Event{Type: kernel.CgroupMkdir, Cgroup: kernel.Cgroup{ID: id, Parent: parent, Level: 2, Path: path}}, 1)
	return w.nextID
}

func (w *simWorld) move(p *simProc, h uint32, to uint64) {
	p.cgroups[h] = to
	w.deliver(kernel.Event{Type: kernel.CgroupAttach, Process: w.kproc(p), Cgroup: kernel.Cgroup{ID: workload.CgroupID{Hierarchy: h, ID: to}}}, 1)
}

// start is what a runtime does: cgroups, init, namespaces, state, user program.
func (w *simWorld) start() {
	c := &simContainer{id: fmt.Sprintf("%016x%016x%016x%016x", w.rng.Uint64(), w.rng.Uint64(), w.rng.Uint64(), w.rng.Uint64()), paths: map[uint32]string{}, cgroups: map[uint32]uint64{}, hostPID: w.rng.IntN(5) == 0, odd: w.rng.IntN(4) == 0}
	w.nextNS += 2
	c.pidns, c.mntns = w.nextNS, w.nextNS+1
	path := "/docker/" + c.id
	if c.odd {
		path = "/any/where" + c.id[:5]
	}
	runc := w.fork(w.shell, nil)
	ns := []workload.PIDNamespace{{Inum: c.pidns, PID: 1}}
	if c.hostPID {
		ns = nil
	}
	p := w.newProc(runc, c, runc.cgroups, ns, c.mntns)
	c.init, p.settling = p, true
	w.conts = append(w.conts, c)
	w.deliver(kernel.Event{Type: kernel.Fork, Process: w.kproc(p)}, 0)
	for _, i := range w.rng.Perm(len(simHierarchies)) {
		h := simHierarchies[i]
		c.paths[h] = path
		c.cgroups[h] = w.mkdir(h, w.dockerDir(h), path)
	}
	for _, i := range w.rng.Perm(len(simHierarchies)) {
		w.move(p, simHierarchies[i], c.cgroups[simHierarchies[i]])
	}
	w.advance(workload.KTime(w.rng.Int64N(int64(8 * simMS))))
	c.state = true
	if w.rng.IntN(3) > 0 {
		w.send(evHint{source: 0, hint: collectors.Hint{Kind: collectors.HintStarted, ID: w.oci(c).ID, Layer: w.oci(c)}}, simMS)
	}
	if w.rng.IntN(8) == 0 { // the start fails
		w.kill(c)
		return
	}
	p.user = true
	w.exec(p)
	p.settling = false
	w.exit(runc)
}

func (w *simWorld) dockerDir(h uint32) uint64 {
	for id, n := range w.names {
		if id.Hierarchy == h && n == "/docker" {
			return id.ID
		}
	}
	return w.mkdir(h, 1, "/docker")
}

func (w *simWorld) execInto(c *simContainer) {
	runc := w.fork(w.shell, nil)
	p := w.newProc(runc, c, runc.cgroups, nil, c.mntns)
	if !c.hostPID {
		p.pidns = []workload.PIDNamespace{{Inum: c.pidns, PID: 7}}
	}
	p.settling = true
	w.deliver(kernel.Event{Type: kernel.Fork, Process: w.kproc(p)}, 0)
	for _, h := range simHierarchies {
		w.move(p, h, c.cgroups[h])
	}
	p.settling, p.user = false, true
	w.exec(p)
	w.exit(runc)
}

func (w *simWorld) kill(c *simContainer) {
	for _, p := range w.procs {
		if p.truth == c && !p.dead && p != c.init {
			w.exit(p)
		}
	}
	p := c.init
	p.dead, c.dead = true, true
	delete(w.pids, p.key.PID)
	w.deliver(kernel.Event{Type: kernel.Exit, Process: w.kproc(p), Exit: workload.Exit{Known: true, Code: 3}}, 0)
	for _, h := range simHierarchies {
		w.deliver(kernel.Event{Type: kernel.CgroupRmdir, Cgroup: kernel.Cgroup{ID: workload.CgroupID{Hierarchy: h, ID: c.cgroups[h]}, Path: c.paths[h]}}, 1)
	}
}

// attackMove puts a process of c into another container's cgroups, all or some.
func (w *simWorld) attackMove(c *simContainer) {
	v := w.anyContainer()
	if v == c || v == nil {
		return
	}
	p := w.fork(w.anyOf(c), c)
	p.attacker = true
	for _, h := range simHierarchies {
		if w.rng.IntN(4) > 0 {
			w.move(p, h, v.cgroups[h])
		}
	}
	w.fork(p, c)
	w.exec(p)
}

// attackName makes a child cgroup that bears another container's name.
func (w *simWorld) attackName(c *simContainer) {
	v := w.anyContainer()
	if v == nil {
		return
	}
	p := w.fork(w.anyOf(c), c)
	for _, h := range simHierarchies {
		if w.rng.IntN(2) == 0 && p.cgroups[h] == c.cgroups[h] {
			w.move(p, h, w.mkdir(h, c.cgroups[h], c.paths[h]+"/docker-"+v.id+".scope"))
		}
	}
	w.exec(p)
}

// honestNsenter enters a container's namespaces from the host, and not its cgroup.
func (w *simWorld) honestNsenter(c *simContainer) {
	if c.hostPID {
		return
	}
	w.advance(500 * simMS) // a person is slow
	p := w.newProc(w.shell, nil, w.shell.cgroups, []workload.PIDNamespace{{Inum: c.pidns, PID: 70}}, c.mntns)
	w.deliver(kernel.Event{Type: kernel.Fork, Process: w.kproc(p)}, 0)
	w.exec(p)
}

func (w *simWorld) kproc(p *simProc) kernel.Process {
	k := kernel.Process{Key: p.key, PIDNSLevel: uint8(len(p.pidns)), MountNS: p.mntns, ExeInMountNS: p.user}
	copy(k.PIDNS[:], p.pidns)
	if p.parent != nil {
		k.Parent, k.ParentStart = p.parent.key.PID, p.parent.key.Start
	}
	for _, h := range simHierarchies {
		k.Cgroups.IDs[k.Cgroups.N] = workload.CgroupID{Hierarchy: h, ID: p.cgroups[h]}
		k.Cgroups.N++
	}
	return k
}

// deliver sends a kernel event through ring 0 or 1: in order within a ring, the
// rings apart, some lost (and counted), some twice.
func (w *simWorld) deliver(e kernel.Event, ring int) {
	w.now += 1000
	if e.Time == 0 {
		e.Time = w.now
	}
	if e.Type != kernel.Lost && w.rng.Float64() < w.loss {
		w.lostAny = true
		// The source counts what it loses, and says so within a second.
		at := w.now + workload.KTime(w.rng.Int64N(int64(time.Second)))
		w.push(at, evEvent{kernel.Event{Type: kernel.Lost, Time: at, Count: 1}})
		return
	}
	lag := workload.KTime(ring) * 3 * simMS * workload.KTime(w.seed%3)
	w.push(w.now+lag, evEvent{e})
	if w.rng.IntN(50) == 0 {
		w.push(w.now+lag, evEvent{e})
	}
}

func (w *simWorld) send(in any, most workload.KTime) {
	w.push(w.now+workload.KTime(w.rng.Int64N(int64(most))), in)
}

func (w *simWorld) push(at workload.KTime, in any) {
	w.seq++
	heap.Push(&w.queue, simItem{at, w.seq, in})
}

// advance lets time pass and everything that is due arrive.
func (w *simWorld) advance(d workload.KTime) {
	end := w.now + d
	for {
		at := end + 1
		if len(w.queue) > 0 {
			at = w.queue[0].at
		}
		if n := w.m.next(); n != 0 {
			at = min(at, max(n, w.now))
		}
		if at > end {
			break
		}
		w.now = max(w.now, at)
		if len(w.queue) > 0 && w.queue[0].at <= w.now {
			w.feed(heap.Pop(&w.queue).(simItem).in)
		} else {
			w.feed(evTick{})
		}
	}
	w.now = end
}

func (w *simWorld) feed(in any) {
	if *simTrace {
		w.t.Logf("%d: %T %+v", w.now/1000, in, in)
	}
	out := w.m.step(w.now, in)
	for _, c := range out.changes {
		if p := c.Process; p != nil {
			w.answers[p.Key] = p
		}
	}
	for _, r := range slices.Clone(out.requests) {
		w.carryOut(r)
	}
}

// carryOut answers a request from the world as it is now; the answer takes a while.
func (w *simWorld) carryOut(r request) {
	switch r.kind {
	case reqLineage:
		w.send(w.lineage(r.cgroup), 2*simMS)
	case reqProcess:
		w.send(w.readProcess(r.pid), simMS)
	case reqSnapshot:
		w.snapshot()
	case reqLocate:
		a := evAnswer{req: r, err: collectors.ErrNotFound}
		for _, c := range w.conts {
			if r.source == 0 && c.state && !c.dead && slices.ContainsFunc(r.evidence.Cgroups, func(g workload.CgroupPath) bool { return g.Path == c.paths[0] }) {
				a.located, a.err = w.oci(c).ID, nil
			}
		}
		w.send(a, 3*simMS)
	default:
		w.send(w.ask(r), 20*simMS)
	}
}

func (w *simWorld) ask(r request) evAnswer {
	a := evAnswer{req: r, err: collectors.ErrNotFound}
	if w.rng.IntN(10) == 0 {
		a.err = collectors.ErrUnavailable
		return a
	}
	for _, c := range w.conts {
		switch {
		case c.id != r.id.ID || c.dead:
		case r.source == 0 && c.state:
			a.container, a.err = w.oci(c), nil
		case r.source == 1 && !c.odd:
			a.container, a.err = &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: c.id}, Name: "n" + c.id[:4]}, nil
		}
	}
	return a
}

func (w *simWorld) oci(c *simContainer) *workload.Container {
	return &workload.Container{ID: workload.ContainerID{Runtime: "runc", ID: c.id}, Run: &workload.Run{
		Init: workload.ProcessKey{PID: c.init.key.PID, Start: c.init.key.Start / workload.TickNS * workload.TickNS, Ticks: true}, ClaimedPaths: []string{c.paths[0]}, Registers: true,
	}}
}

func (w *simWorld) lineage(id workload.CgroupID) evLineage {
	l := evLineage{id: id}
	for g := id; ; g.ID = w.parents[g] {
		name, ok := w.names[g]
		if !ok {
			return evLineage{id: id, err: errors.New("gone")}
		}
		l.lineage = append(l.lineage, workload.CgroupPath{CgroupID: g, Path: name})
		if name == "/" {
			return l
		}
	}
}

func (w *simWorld) readProcess(pid workload.PID) evProcess {
	for _, p := range w.procs {
		if p.key.PID == pid && !p.dead {
			return evProcess{pid: pid, proc: w.kproc(p)}
		}
	}
	return evProcess{pid: pid, gone: true}
}

func (w *simWorld) snapshot() {
	at := w.now
	w.push(at, evEvent{kernel.Event{Type: kernel.SnapshotBegin, Time: at}})
	for _, p := range w.procs {
		if !p.dead {
			w.push(at, evEvent{kernel.Event{Type: kernel.Task, Time: at, Process: w.kproc(p)}})
		}
	}
	w.push(at, evEvent{kernel.Event{Type: kernel.SnapshotEnd, Time: at}})
}

// check holds every answer against the world. At the end, with everything heard
// or repaired, what was never attacked must be known.
func (w *simWorld) check(end bool) {
	slices.SortFunc(w.procs, func(a, b *simProc) int { return cmp.Compare(a.key.Start, b.key.Start) })
	for _, p := range w.procs {
		a := w.answers[p.key]
		if p.dead || p.settling || a == nil || !a.Key.Same(p.key) || a.Exit != nil {
			if end && !p.dead {
				w.t.Fatalf("seed %d: pid %v of %v is not in the store at the end: %+v", w.seed, p.key, p.truth.short(), a)
			}
			continue
		}
		w.checked++
		switch {
		case a.Status == workload.StatusUnknown:
			w.unknown++
		case a.Status == workload.StatusConflict && (p.attacker || !end && p.truth != nil):
			w.conflict++
		case a.Status == workload.StatusHost && p.truth == nil, a.Status == workload.StatusContainer && p.truth != nil && a.Container.ID == p.truth.id:
			w.right++
			continue
		default:
			w.t.Fatalf("seed %d at %d: WRONG: %v is %v (attacker %v, host pid %v), answer %v %v %q", w.seed, w.now/1000, p.key, p.truth.short(), p.attacker, p.truth != nil && p.truth.hostPID, a.Status, a.Container, a.Reason)
		}
		if end && !p.attacker && !w.lostAny && a.Status != workload.StatusHost {
			w.t.Fatalf("seed %d: %v of %v is %v at the end: %s", w.seed, p.key, p.truth.short(), a.Status, a.Reason)
		}
	}
}

func (c *simContainer) short() string {
	if c == nil {
		return "the host"
	}
	return c.id[:12]
}
