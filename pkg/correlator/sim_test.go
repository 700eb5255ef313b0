// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"container/heap"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "replay this schedule of the simulator alone")
	simFrom  = flag.Uint64("sim.from", 0, "the first seed; 0: 1, or with -sim.for one taken from the clock")
	simRuns  = flag.Int("sim.runs", 3000, "how many schedules the simulator runs")
	simFor   = flag.Duration("sim.for", 0, "run for so long instead of -sim.runs")
	simSteps = flag.Int("sim.steps", 0, "how many acts of the world a schedule has; 0: 6 to 18, each 16th seed 50 to 150")
	simKeep  = flag.Bool("sim.keep", false, "go on after a failure, up to 20, and print each")
	simTrace = flag.Bool("sim.trace", false, "print every input of the machine")
)

// The simulator. A schedule is one seed: a world (truth_test.go) in which
// containers start, fork, exec, are attacked and die (sim_acts_test.go); a
// transport that delays, reorders, duplicates, loses and skips what the machine
// hears of it, and sources that hang, fail and lie (here); and the model that
// every answer is held against (sim_check_test.go). Acts and transport draw from
// random streams of their own, so one world can be heard in two ways.

const simMS = workload.KTime(time.Millisecond)

// sim is one schedule.
type sim struct {
	*truth
	seed  uint64
	trace func(format string, args ...any)
	air   *rand.Rand // the transport's
	m     *machine
	bugs  bugSet
	st    *store.Store
	queue simQueue
	seq   uint64
	life  int // crashes of the agent so far
	// snapped is when the snapshot under way is through.
	snapped workload.KTime
	booted  workload.KTime // when the first snapshot of this agent was through
	tick    workload.KTime

	faults  simFaults
	lastAt  [2]workload.KTime // of each ring: in order within it
	missed  bool              // something was lost, skipped or crashed: history is not known
	pending map[simAsk]int
	unsaid  []store.Change // not in the store yet
	// stepwise: the store hears of each step, as the shell has it; else when somebody
	// asks, for that was half of the time. What the machine says is checked in any case.
	stepwise bool
	spare    []request

	right, unknown, conflict, checked, inputs int
}

// simFaults are what this world suffers from, until calm.
type simFaults struct {
	loss    float64
	skip    kernel.Type // this program is missing
	counted bool        // what is lost is said within a second, else only at the end
	lag     workload.KTime
	stalled [2]workload.KTime // a ring's reader is late until then
	down    [2]simDown        // sources
	until   [2]workload.KTime
	liar    bool // the engine
}

type simDown uint8

const (
	simUp simDown = iota
	simSlow
	simHung
	simFailing
)

type simAsk struct {
	source int
	key    workload.ContainerID
}

// simItem is something under way to the machine; a func() is something that happens then.
type simItem struct {
	at   workload.KTime
	seq  uint64
	life int
	in   any
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
	o[len(o)-1] = simItem{}
	*q = o[:len(o)-1]
	return x
}

func TestAnswersAreNeverWrongWhateverTheTransportDoes(t *testing.T) {
	if *simSeed != 0 {
		w, err := simulate(simOptions{seed: *simSeed, steps: *simSteps, trace: traceTo(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("seed %d: %d inputs, %d answers checked", *simSeed, w.inputs, w.checked)
		return
	}
	total := simulateMany(t)
	if total.failure != nil {
		steps, err := shortest(simOptions{seed: total.seed, steps: *simSteps})
		t.Fatalf("%v\nreplay it with: go test ./pkg/correlator -run %s -sim.seed=%d -sim.trace\nat its shortest: %v\nreplay that with the same and -sim.steps=%d",
			total.failure, t.Name(), total.seed, err, steps)
	}
	if total.right*2 < total.checked {
		t.Errorf("only %d of %d answers were right: the machine knows too little", total.right, total.checked)
	}
}

func traceTo(t *testing.T) func(string, ...any) {
	if !*simTrace {
		return nil
	}
	return t.Logf
}

// simTotal adds up schedules.
type simTotal struct {
	runs, right, unknown, conflict, checked, inputs int
	failures                                        int
	failure                                         error
	seed                                            uint64 // of the failure
}

// simulateMany runs schedules on all CPUs, by number or by time.
func simulateMany(t *testing.T) simTotal {
	from, begin := max(*simFrom, 1), time.Now()
	if *simFor > 0 && *simFrom == 0 {
		from = uint64(begin.Unix()) << 20
	}
	most := 1
	if *simKeep {
		most = 20
	}
	var next atomic.Uint64
	next.Store(from)
	var mu sync.Mutex
	var total simTotal
	var stop atomic.Bool
	var wg sync.WaitGroup
	defer debug.SetGCPercent(debug.SetGCPercent(800)) // worlds are small and short-lived
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !stop.Load() {
				seed := next.Add(1) - 1
				if *simFor > 0 && time.Since(begin) > *simFor || *simFor == 0 && seed >= from+uint64(*simRuns) {
					return
				}
				w, err := simulate(simOptions{seed: seed, steps: *simSteps})
				mu.Lock()
				total.add(w, err)
				if err != nil && *simKeep {
					t.Log(err)
				}
				stop.Store(total.failures >= most)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	d := time.Since(begin)
	t.Logf("%d schedules (seeds %d to %d) in %.1f s, %.0f a second on %d CPUs; %d inputs of the machine; %d answers checked: %d right, %d unknown, %d conflict; %d failures",
		total.runs, from, from+uint64(total.runs)-1, d.Seconds(), float64(total.runs)/d.Seconds(), runtime.GOMAXPROCS(0), total.inputs, total.checked, total.right, total.unknown, total.conflict, total.failures)
	return total
}

func (s *simTotal) add(w *sim, err error) {
	s.runs++
	s.right += w.right
	s.unknown += w.unknown
	s.conflict += w.conflict
	s.checked += w.checked
	s.inputs += w.inputs
	if err != nil {
		s.failures++
	}
	if err != nil && (s.failure == nil || w.seed < s.seed) {
		s.failure, s.seed = err, w.seed
	}
}

// shortest gives the least number of acts with which the seed fails.
func shortest(o simOptions) (steps int, err error) {
	for o.steps = 1; o.steps < 150; o.steps++ {
		if _, err = simulate(o); err != nil {
			break
		}
	}
	return o.steps, err
}

type simOptions struct {
	seed  uint64
	steps int
	bugs  bugSet
	trace func(string, ...any)
}

// simulate runs one schedule; each 8th is heard a second time by another
// transport, and must end in the same state where nothing was lost.
func simulate(o simOptions) (*sim, error) {
	w, err := runSchedule(o, 1)
	if err != nil || o.seed%8 != 0 || w.missed || w.faults.liar {
		return w, err
	}
	other, err := runSchedule(o, 2)
	w.booted = max(w.booted, other.booted) // who came before one of the two was through may end in two ways
	other.booted = w.booted
	if err == nil && !other.missed && w.digest() != other.digest() {
		err = fmt.Errorf("seed %d: the end depends on the order of the inputs:\n%s\nor\n%s", o.seed, w.digest(), other.digest())
	}
	return w, err
}

type simFailure struct{ error }

func runSchedule(o simOptions, air uint64) (w *sim, err error) {
	w = &sim{
		seed: o.seed, bugs: o.bugs, trace: o.trace, air: rand.New(rand.NewPCG(o.seed, air)),
		pending: map[simAsk]int{}, stepwise: o.seed%8 == 1 || o.seed%128 == 0,
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case simFailure:
			err = r
		default:
			err = fmt.Errorf("seed %d: panic: %v\n%s", o.seed, r, debug.Stack())
		}
	}()
	w.truth = newTruth(rand.New(rand.NewPCG(o.seed, 0)), w.deliver)
	w.chooseFaults()
	w.boot()
	steps := o.steps
	if steps == 0 {
		steps = simLength(o.seed)
	}
	w.run(steps)
	return w, nil
}

// simLength: most worlds are small, so that there are many, and some long, for
// ids that come again and faults that meet.
func simLength(seed uint64) int {
	if seed%16 == 0 {
		return 50 + int(seed/16%5)*25
	}
	return 6 + int(seed%4)*4
}

func (w *sim) fail(format string, args ...any) {
	panic(simFailure{fmt.Errorf("seed %d at %d us: %s", w.seed, w.now/1000, fmt.Sprintf(format, args...))})
}

// chooseFaults draws from the world's stream: both ways of hearing a world suffer alike.
func (w *sim) chooseFaults() {
	f := &w.faults
	f.counted = w.rng.IntN(4) > 0
	if w.rng.IntN(2) == 0 {
		f.loss = []float64{0.02, 0.2, 1}[w.rng.IntN(3)]
	}
	if w.rng.IntN(4) == 0 {
		f.skip = kernel.Type(1 + w.rng.IntN(int(kernel.CgroupAttach)))
	}
	f.lag = workload.KTime(w.rng.IntN(3)) * 3 * simMS
	f.liar = w.rng.IntN(6) == 0
}

// boot starts an agent that knows nothing: it takes a snapshot, and its sources list.
// Each fourth world has an engine that has no files and can only be called.
func (w *sim) boot() {
	w.m = newMachine(config{
		sources:     []sourceInfo{{name: "oci", prefill: true, files: true}, {name: "docker", prefill: w.seed%4 != 2, lists: true}},
		strip:       func(abs string) (workload.CgroupPath, bool) { return workload.CgroupPath{Path: abs}, true },
		hostMountNS: 1, idsComeAgain: w.reuse,
	})
	w.m.bugs = w.bugs
	w.st, w.unsaid = store.New(store.Options{}), nil
	w.life++
	w.snapped, w.booted = 0, 0
	clear(w.pending)
	w.lastAt = [2]workload.KTime{}
	w.snapshot()
	for i := range 2 {
		w.list(i)
	}
}

func (w *sim) run(steps int) {
	for range steps {
		w.act()
		w.advance(workload.KTime(w.rng.Int64N(int64(20 * simMS))))
	}
	w.checkAll(false)
	w.calm()
	w.checkAll(true)
}

// calm ends the faults and gives the machine the time to mend what it must.
func (w *sim) calm() {
	f := &w.faults
	*f = simFaults{liar: f.liar}
	w.advance(1100 * simMS) // what a late reader has yet to read
	if w.missed {
		w.deliver(kernel.Event{Type: kernel.Lost, Time: w.pass(), Count: 1}, 0)
	}
	w.advance(5000 * simMS)
	for i := range 2 { // the supervisor's relist
		w.list(i)
	}
	w.advance(5000 * simMS)
	// What is kept of the dead for late facts goes with the next to die.
	w.advance(ghostAge + 3000*simMS)
	p := w.fork(w.shell)
	w.exit(p)
	w.advance(2000 * simMS)
}

// deliver sends a kernel event through ring 0 or 1: in order within a ring, the
// rings apart, some lost, some twice, some never made.
func (w *sim) deliver(e kernel.Event, ring int) {
	f := &w.faults
	if w.m == nil {
		return
	}
	if e.Type != kernel.Lost && (e.Type == f.skip || f.loss > 0 && w.air.Float64() < f.loss) {
		w.missed = true
		if f.counted { // the source counts what it loses, and says so within a second
			at := w.now + workload.KTime(w.air.Int64N(int64(time.Second)))
			w.push(at, evEvent{kernel.Event{Type: kernel.Lost, Time: at, Count: 1}})
		}
		return
	}
	at := w.now
	if ring == 1 && f.lag > 0 {
		at += workload.KTime(w.air.Int64N(int64(f.lag)))
	}
	at = max(at, f.stalled[ring], w.lastAt[ring])
	w.lastAt[ring] = at
	w.push(at, evEvent{e})
	if w.air.IntN(50) == 0 {
		w.push(at+workload.KTime(w.air.IntN(2))*workload.KTime(w.air.Int64N(int64(5*simMS))), evEvent{e})
	}
}

func (w *sim) push(at workload.KTime, in any) {
	w.seq++
	heap.Push(&w.queue, simItem{at, w.seq, w.life, in})
}

func (w *sim) later(most workload.KTime, in any) {
	w.push(w.now+workload.KTime(w.air.Int64N(int64(most))), in)
}

// advance lets time pass and everything that is due arrive.
func (w *sim) advance(d workload.KTime) {
	end := w.now + d
	for {
		at := max(w.tick, w.now)
		if len(w.queue) > 0 {
			at = min(at, w.queue[0].at)
		}
		if n := w.m.next(); n != 0 {
			at = min(at, max(n, w.now))
		}
		if at > end {
			break
		}
		w.now = max(w.now, at)
		if len(w.queue) > 0 && w.queue[0].at <= w.now {
			w.arrive(heap.Pop(&w.queue).(simItem))
			continue
		}
		w.tick = w.now + 1000*simMS
		w.feed(evTick{})
	}
	w.now = end
}

// stop is a SIGSTOP of the agent: nothing is heard and no timer runs, then all at once.
func (w *sim) stop(d workload.KTime) { w.now += d }

func (w *sim) arrive(i simItem) {
	if i.life != w.life {
		return // it was for an agent that has crashed
	}
	if fn, ok := i.in.(func()); ok {
		fn()
		return
	}
	w.feed(i.in)
}

func (w *sim) feed(in any) {
	w.inputs++
	if w.trace != nil {
		w.trace("%d: %s", w.now/1000, describe(in))
	}
	if a, ok := in.(evAnswer); ok && a.req.kind != reqLocate {
		w.pending[simAsk{a.req.source, a.req.key}]--
	}
	out := w.m.step(w.now, in)
	w.unsaid = append(w.unsaid, out.changes...)
	if w.stepwise {
		w.publish()
	}
	for _, c := range out.changes {
		if c.Process != nil {
			if w.trace != nil {
				w.trace("%d:     says %v %v %.64s %q", w.now/1000, c.Process.Key, c.Process.Status, c.Process.Container.ID, c.Process.Reason)
			}
			w.checkProcess(c.Process)
		}
	}
	if len(out.requests) == 0 {
		return
	}
	rs := append(w.spare[:0], out.requests...)
	w.spare = nil // a sweep feeds the machine at once
	for i := range rs {
		if w.trace != nil {
			w.trace("%d:     wants %s", w.now/1000, describe(rs[i]))
		}
		w.carryOut(&rs[i])
	}
	clear(rs)
	w.spare = rs
}

// publish puts what the machine has said into the store. Of what it said of one
// container by one source in between, nobody has read anything but the last.
func (w *sim) publish() {
	last := map[simLayer]int{}
	for i, c := range w.unsaid {
		if c.Container != nil {
			last[simLayer{c.Container.ID, c.Container.Source}] = i
		}
	}
	first := map[simLayer]bool{}
	kept := w.unsaid[:0]
	for i, c := range w.unsaid {
		if c.Container != nil && !c.Container.Forget {
			k := simLayer{c.Container.ID, c.Container.Source}
			if first[k] && last[k] != i {
				continue
			}
			first[k] = true
		}
		if c.Container != nil && c.Container.Forget { // what comes after begins anew
			clear(first)
		}
		kept = append(kept, c)
	}
	w.st.Apply(kept...)
	w.st.SetAsOf(w.now)
	w.unsaid = w.unsaid[:0]
}

type simLayer struct {
	id     workload.ContainerID
	source string
}

// carryOut answers a request from the world as it is now; the answer takes a while.
func (w *sim) carryOut(r *request) {
	switch r.kind {
	case reqLineage:
		w.later(2*simMS, w.lineage(r.cgroup))
	case reqProcess:
		pid := r.pid
		w.later(simMS, func() { w.later(simMS, w.readProcess(pid)) })
	case reqSnapshot:
		w.snapshot()
	case reqSweep:
		w.later(simMS, w.sweep)
	case reqLocate:
		w.reply(r, w.locate(r), 3*simMS)
	default:
		k := simAsk{r.source, r.key}
		if w.pending[k]++; w.pending[k] > 1 {
			w.fail("source %d is asked twice at once about %v", r.source, r.key)
		}
		w.reply(r, w.ask(r), 20*simMS)
	}
}

// reply sends a source's answer, as its health allows.
func (w *sim) reply(r *request, a evAnswer, most workload.KTime) {
	down := w.faults.down[r.source]
	if w.now >= w.faults.until[r.source] {
		down = simUp
	}
	switch down {
	case simSlow:
		most = 3000 * simMS
	case simHung: // the deadline of the call
		w.push(w.now+5000*simMS, evAnswer{req: *r, err: collectors.ErrUnavailable})
		return
	case simFailing:
		a = evAnswer{req: *r, err: collectors.ErrUnavailable}
	}
	w.later(most, a)
}

func (w *sim) locate(r *request) evAnswer {
	a := evAnswer{req: *r, err: collectors.ErrNotFound}
	if r.source != 0 {
		return a
	}
	left := 0
	for _, c := range w.conts {
		if !w.hasState(c) || !w.oci(c).Run.Init.Same(r.evidence.Init) &&
			!slices.ContainsFunc(r.evidence.Cgroups, func(g workload.CgroupPath) bool { return g.Path == c.paths[0] }) {
			continue
		}
		a.located, a.err = w.oci(c).ID, nil
		if !c.dead {
			return a
		}
		left++
	}
	if left > 1 { // none of them lives
		return evAnswer{req: *r, err: collectors.ErrNotFound}
	}
	return a
}

// hasState reports whether the low-level runtime's state of a container is there.
func (w *sim) hasState(c *simContainer) bool { return c.state && (!c.dead || w.now < c.left) }

func (w *sim) ask(r *request) evAnswer {
	a := evAnswer{req: *r, err: collectors.ErrNotFound}
	if w.air.IntN(10) == 0 {
		a.err = collectors.ErrUnavailable
		return a
	}
	for _, c := range slices.Backward(w.conts) {
		switch {
		case c.id != r.id.ID:
		case r.source == 0 && w.hasState(c):
			if a.container == nil || a.container.State == workload.StateExited {
				a.container, a.err = w.oci(c), nil
			}
		case c.dead:
		case r.source == 1 && !c.odd:
			a.container, a.err = w.engine(c), nil
		}
	}
	return a
}

// oci is the low-level runtime's state: init, start in ticks, cgroup.
func (w *sim) oci(c *simContainer) *workload.Container {
	state := workload.StateRunning
	if c.init.dead {
		state = workload.StateExited
	}
	return &workload.Container{ID: workload.ContainerID{Runtime: "runc", ID: c.id}, State: state, Run: &workload.Run{
		Init: workload.ProcessKey{PID: c.init.key.PID, Start: c.init.key.Start / workload.TickNS * workload.TickNS, Ticks: true}, ClaimedPaths: []string{c.paths[0]}, Registers: true,
	}}
}

func (c *simContainer) name() string { return "n" + c.id[52:] }

// engine is what the engine says; that of a liar is about somebody else.
func (w *sim) engine(c *simContainer) *workload.Container {
	l := &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: c.id}, Name: c.name(), State: workload.StateRunning}
	if w.air.IntN(2) == 0 {
		l.Run = &workload.Run{Init: workload.ProcessKey{PID: c.init.key.PID}, Registers: true}
	}
	if !w.faults.liar || w.air.IntN(3) == 0 {
		return l
	}
	p := w.procs[w.air.IntN(len(w.procs))]
	switch v := p.truth; w.air.IntN(4) {
	case 0, 1: // someone else's process
		l.Run = &workload.Run{Init: workload.ProcessKey{PID: p.key.PID}, Registers: true}
	case 2: // and its cgroup with it
		if v != nil && !v.odd && !v.strange {
			l.Run = &workload.Run{Init: workload.ProcessKey{PID: v.init.key.PID}, ClaimedPaths: []string{v.paths[0]}, Registers: true}
		}
	case 3: // someone else's id
		if v != nil && !v.strange {
			l.ID.ID = v.id
			for _, c := range w.conts { // what was said of an id holds for each of its lives
				c.named = c.named || c.id == v.id
			}
		}
	}
	return l
}

// list is what a source says at start-up.
func (w *sim) list(source int) {
	began := w.now
	if w.faults.down[source] != simUp && w.now < w.faults.until[source] {
		w.later(50*simMS, evListEnd{source: source, began: began})
		return
	}
	at := w.now
	for _, c := range w.conts {
		if source == 0 && !w.hasState(c) || source == 1 && (c.dead || c.odd) {
			continue
		}
		l := w.oci(c)
		if source == 1 {
			l = w.engine(c)
		}
		at += workload.KTime(w.air.Int64N(int64(simMS)))
		w.push(at, evListed{source: source, container: l})
	}
	w.push(at, evListEnd{source: source, complete: true, began: began})
}

func (w *sim) lineage(id workload.CgroupID) evLineage {
	l := evLineage{id: id, at: w.now}
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

// readProcess is /proc: start in ticks, no inode.
func (w *sim) readProcess(pid workload.PID) evProcess {
	p := w.alive(pid)
	if p == nil {
		return evProcess{pid: pid, gone: true, at: w.now}
	}
	k := w.seen(p)
	k.Key = workload.ProcessKey{PID: pid, Start: p.key.Start / workload.TickNS * workload.TickNS, Ticks: true}
	return evProcess{pid: pid, proc: k, at: w.now}
}

// seen is a process as the kernel shows it now.
func (w *truth) seen(p *simProc) kernel.Process {
	k := kernel.Process{Key: p.key, PIDNSLevel: uint8(len(p.pidns)), MountNS: p.mntns, ExeInMountNS: p.user}
	copy(k.PIDNS[:], p.pidns)
	if p.parent != nil {
		k.Parent, k.ParentStart = p.parent.key.PID, p.parent.key.Start
	}
	for _, h := range w.hierarchies {
		k.Cgroups.IDs[k.Cgroups.N] = workload.CgroupID{Hierarchy: h, ID: p.cgroups[h]}
		k.Cgroups.N++
	}
	return k
}

// snapshot reads all processes in three goes, some milliseconds apart; each part
// is under way for a while, so events overtake it.
func (w *sim) snapshot() {
	at := w.now
	if w.snapped > at { // one after the other
		w.push(min(w.snapped, at+5*simMS), w.snapshot)
		return
	}
	w.push(at, evEvent{kernel.Event{Type: kernel.SnapshotBegin, Time: at}})
	w.snapped = at + 60000*simMS // until it is through
	w.readPart(slices.Clone(w.procs), 3)
}

// readPart reads one part of the processes now, and the rest after it.
func (w *sim) readPart(ps []*simProc, parts int) {
	n := len(ps) / parts
	for _, p := range ps[:n] {
		if !p.dead {
			w.push(w.now+workload.KTime(w.air.Int64N(int64(2*simMS))), evEvent{kernel.Event{Type: kernel.Task, Time: w.now, Process: w.seen(p)}})
		}
	}
	if parts > 1 {
		w.push(w.now+2*simMS+workload.KTime(w.air.Int64N(int64(2*simMS))), func() { w.readPart(ps[n:], parts-1) })
		return
	}
	end := w.now + 2*simMS
	w.snapped = end + 1
	if w.booted == 0 {
		w.booted = end
	}
	w.push(end, evEvent{kernel.Event{Type: kernel.SnapshotEnd, Time: end}})
}

func (w *sim) sweep() {
	for _, id := range w.m.idleCgroups() {
		if _, there := w.names[id]; !there {
			w.feed(evEvent{kernel.Event{Type: kernel.CgroupRmdir, Time: w.now, Cgroup: kernel.Cgroup{ID: id}}})
		}
	}
}

// crash is a kill -9 of the agent and its next start, over the same world.
func (w *sim) crash() {
	w.missed = true
	w.boot()
}
