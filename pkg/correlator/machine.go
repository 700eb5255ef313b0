// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"container/heap"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// sourceInfo is what the machine knows of a collector.
type sourceInfo struct {
	name string
	// prefill: the source can be asked for what its files say.
	prefill bool
	// files: the source has nothing but files, so it is never asked twice for
	// the same run and may be retried often.
	files bool
	// homeless: its containers may have no cgroup of their own.
	homeless bool
	// pods: the source can be asked about pods.
	pods bool
	// lists: the source lists what it has by itself.
	lists bool
	// tasks: the source can be asked about tasks.
	tasks bool
	// nested is the instance of an engine that runs in a container; see nested.go.
	nested string
	// units: the source can be asked about units.
	units bool
}

// config is what a machine needs to know beforehand.
type config struct {
	sources []sourceInfo
	// strip turns a source's absolute cgroup path into hierarchy and path. Pure.
	strip func(abs string) (workload.CgroupPath, bool)
	// hostMountNS is the inode of the host's mount namespace, 0 if unknown.
	hostMountNS uint32
	// idsComeAgain: the kernel's ids of cgroups are of 32 bits; those of 64 never repeat.
	idsComeAgain bool
}

// The inputs of Step.
type (
	// evEvent is something that the kernel reported.
	evEvent struct{ kernel.Event }
	// evLineage answers reqLineage: the cgroup and its ancestors, leaf first, to the root.
	evLineage struct {
		id      workload.CgroupID
		lineage []workload.CgroupPath
		err     error
		// at is an instant before the reading.
		at workload.KTime
	}
	// evAnswer answers reqAsk and reqLocate.
	evAnswer struct {
		req       request
		container *workload.Container
		located   workload.ContainerID
		err       error
	}
	// evHint is a hint of a source.
	evHint struct {
		source int
		hint   collectors.Hint
	}
	// evListed is one container of a source's list; evListEnd closes the list.
	evListed struct {
		source    int
		container *workload.Container
	}
	evListEnd struct {
		source   int
		complete bool
		// began is when the list was asked for.
		began workload.KTime
		// absent: there is no such engine, and so no list.
		absent bool
	}
	// evProcess answers reqProcess: what /proc says now, or that it is gone.
	evProcess struct {
		pid  workload.PID
		proc kernel.Process
		gone bool
		// unread: it could not be read, which says nothing about it.
		unread bool
		// at is an instant before the reading: what is stamped later is newer.
		at workload.KTime
	}
	// evTick lets time pass.
	evTick struct{}
)

type requestKind uint8

const (
	// reqPrefill and reqLookup ask one source about one container.
	reqPrefill requestKind = iota + 1
	reqLookup
	// reqLocate asks one source which container the evidence belongs to.
	reqLocate
	// reqLineage reads a cgroup's path and ancestors.
	reqLineage
	// reqProcess reads one process from /proc.
	reqProcess
	// reqSnapshot reads all processes and cgroups, after a loss.
	reqSnapshot
	// reqPod asks one source about one pod.
	reqPod
	// reqTask asks one source about one task.
	reqTask
	// reqUnit asks one source about the unit of this name and cgroup (path).
	reqUnit
	// reqSweep looks which of the idle cgroups are gone, after a snapshot.
	reqSweep
)

// request is something that the shell has to do. It is comparable but for the evidence.
type request struct {
	kind     requestKind
	source   int
	key      workload.ContainerID // the entity that the answer is for
	id       workload.ContainerID // what to ask about
	evidence workload.Evidence
	cgroup   workload.CgroupID
	path     string // of the cgroup, where it is known
	pid      workload.PID
	set      *cgset // of reqLocate; opaque to the shell
	init     *proc  // of reqLocate, instead of a set: may it be an init
	asked    bool   // of reqLocate: a question waits for it
	groupID  string // of reqPod and reqTask: what to ask about
	groupKey string // of reqPod and reqTask: what the answer is for
	unit     *unit  // of reqUnit: the unit that the answer is for; of it the shell reads the name
}

// output is what a Step wants done.
type output struct {
	changes  []store.Change
	requests []request
}

// machine is the pure core. One goroutine at a time may use it.
type machine struct {
	cfg  config
	bugs bugSet // empty but in builds that test the simulator
	now  workload.KTime

	cgroups map[workload.CgroupID]*cgroup
	sets    map[kernel.CgroupSet]*cgset
	// removed is when cgroups were, for what is heard of their making after that; bounded.
	removed map[workload.CgroupID]workload.KTime
	// gen invalidates every cached verdict when it changes.
	gen uint64

	procs  map[workload.PID]*proc
	ghosts ghosts
	// moves are attach events for processes not yet known, by PID; bounded.
	moves map[workload.PID][]move

	conts   map[workload.ContainerID]*container
	byBare  map[string]*container
	byPIDNS map[uint32]*container
	// inNS are the processes in or below each PID namespace.
	inNS procsByNS
	// inMount are the processes in each mount namespace, the dead among them.
	inMount procsByNS
	all     []*container
	// begun is the instant of the first input.
	begun workload.KTime
	// partial are the sources that are there and have not said all that they have:
	// their last list was not complete, or the first has yet to come.
	partial map[int]bool
	// hasListed are the sources whose first list has ended, whole or not.
	hasListed map[int]bool
	// absent are those that are not there, as of the machine's begin.
	absent map[int]bool
	// claimed are the processes that are named by a claim alone.
	claimed map[*proc]struct{}
	// waiting are containers whose init is being read, by its PID.
	waiting map[workload.PID][]*container
	// served is who serves the socket of each engine in a container, by source.
	served map[int]workload.ProcessKey

	pods   *groups[workload.Pod]
	tasks  *groups[workload.Task]
	timers timers
	seq    uint64

	// units are those of the system manager, by the path of their cgroup.
	units map[string]*unit

	dirtyProcs []*proc
	dirtyConts []*container
	dirtyUnits []*unit
	out        output

	snapshot    snapshot
	repairAt    workload.KTime
	repairing   bool
	sweepAt     workload.KTime // 0: no second sweep is due
	repairs     uint64
	lastEventAt workload.KTime
	conflicts   uint64
}

func newMachine(cfg config) *machine {
	if cfg.strip == nil {
		cfg.strip = func(string) (workload.CgroupPath, bool) { return workload.CgroupPath{}, false }
	}
	m := &machine{
		cfg:     cfg,
		cgroups: map[workload.CgroupID]*cgroup{},
		sets:    map[kernel.CgroupSet]*cgset{},
		removed: map[workload.CgroupID]workload.KTime{},
		gen:     1,
		procs:   map[workload.PID]*proc{},
		ghosts:  ghosts{byPID: map[workload.PID]*proc{}},
		moves:   map[workload.PID][]move{},
		conts:   map[workload.ContainerID]*container{},
		byBare:  map[string]*container{},
		byPIDNS: map[uint32]*container{},
		inNS:    procsByNS{},
		inMount: procsByNS{},

		partial:   map[int]bool{},
		hasListed: map[int]bool{},
		absent:    map[int]bool{},
		claimed:   map[*proc]struct{}{},
		waiting:   map[workload.PID][]*container{},
		served:    map[int]workload.ProcessKey{},
	}
	m.units = map[string]*unit{}
	m.pods, m.tasks = newGroups(m, podKind), newGroups(m, taskKind)
	for i := range cfg.sources {
		m.partial[i] = true
	}
	return m
}

// step applies one input at an instant and says what is to be done. The output
// is valid until the next call.
func (m *machine) step(now workload.KTime, in any) output {
	m.out.changes = m.out.changes[:0]
	m.out.requests = m.out.requests[:0]
	m.now = max(m.now, now)
	if m.begun == 0 {
		m.begun = m.now
		m.at(m.begun+firstList, func() {
			for i := range m.cfg.sources {
				m.askUnasked(i)
			}
		})
	}
	m.handle(in)
	m.runTimers()
	m.flush()
	return m.out
}

func (m *machine) handle(in any) {
	switch e := in.(type) {
	case evEvent:
		m.event(&e.Event)
	case *kernel.Event:
		m.event(e)
	case evLineage:
		m.lineage(e)
	case evAnswer:
		m.answer(e)
	case evHint:
		if !m.nestedHint(e) {
			m.hint(e)
		}
	case evListed:
		if m.confined(e.source, e.container) {
			m.listed(e.source, e.container)
		}
	case evListEnd:
		m.listEnd(e)
	case evProcess:
		if e.unread {
			m.registerWaiting(e.pid, m.procs[e.pid])
			return
		}
		m.processRead(e)
	case evPodAnswer:
		m.pods.answer(e.req, e.pod, e.err)
	case evPod:
		if m.cfg.sources[e.source].nested == "" {
			m.pods.setLayer(e.source, e.pod)
		}
	case evPodListEnd:
		m.pods.listEnd(e.source, e.complete, e.began)
	case evTaskAnswer:
		m.tasks.answer(e.req, e.task, e.err)
	case evUnit:
		m.unitAnswer(e)
	case evTask:
		m.tasks.setLayer(e.source, e.task)
	case evTaskListEnd:
		m.tasks.listEnd(e.source, e.complete, e.began)
	case evImage:
		m.image(e)
	case evTick:
	}
}

func (m *machine) event(e *kernel.Event) {
	if e.Time > m.lastEventAt {
		m.lastEventAt = e.Time
	}
	switch e.Type {
	case kernel.Fork:
		m.fork(e)
	case kernel.Exec:
		m.exec(e)
	case kernel.Exit:
		m.exit(e)
	case kernel.CgroupMkdir:
		m.mkdir(e)
	case kernel.CgroupRmdir:
		m.rmdir(e)
	case kernel.CgroupAttach:
		m.attach(e)
	case kernel.Task:
		m.task(e)
	case kernel.SnapshotBegin:
		m.snapshot.begin(e.Time)
	case kernel.SnapshotEnd:
		m.snapshotEnd()
	case kernel.Lost:
		m.repair()
	}
}

func (m *machine) request(r request) { m.out.requests = append(m.out.requests, r) }

// repairPause is the least time between two repairs: a flood of losses must not
// turn into a flood of snapshots.
const repairPause = 250 * workload.KTime(time.Millisecond)

// repair asks for all processes from the task iterator, soon: something was lost.
func (m *machine) repair() {
	if m.repairing || m.bugs.has(bugLossIgnored) {
		return
	}
	m.repairing = true
	m.at(max(m.now, m.repairAt), func() {
		m.repairAt = m.now + repairPause
		m.repairs++
		m.repairing = false
		m.request(request{kind: reqSnapshot})
	})
}

// snapshot follows the tasks between SnapshotBegin and SnapshotEnd.
type snapshot struct {
	active bool
	at     workload.KTime
	seen   map[workload.PID]workload.ProcessKey
	unsure []*proc // to be judged when all have been read
}

func (s *snapshot) begin(at workload.KTime) {
	*s = snapshot{active: true, at: at, seen: map[workload.PID]workload.ProcessKey{}, unsure: s.unsure}
}

// judgeLater has a process judged at the snapshot's end, once.
func (s *snapshot) judgeLater(p *proc) {
	if !p.unsure {
		p.unsure = true
		s.unsure = append(s.unsure, p)
	}
}

// snapshotEnd ends every process that the snapshot should have had and had not:
// its exit was lost, so its status is not known.
func (m *machine) snapshotEnd() {
	s := m.snapshot
	m.snapshot = snapshot{}
	if !s.active {
		return
	}
	for _, p := range sortedProcs(m.procs) {
		p.whole = true
		key, ok := s.seen[p.kp.Key.PID]
		if ok && key.Same(p.kp.Key) {
			continue
		}
		if p.seenAt < s.at || m.bugs.has(bugSnapshotEndsTheNewborn) {
			m.end(p, workload.Exit{At: s.at}, s.at)
		}
	}
	for _, p := range s.unsure {
		p.unsure = false
	}
	for _, p := range s.unsure {
		m.settle(p)
	}
	m.dropMoves(s.at)
	m.sweep()
}

// sweep looks for cgroups whose removal was lost: at once, and again when the
// dead who were in them are forgotten.
func (m *machine) sweep() {
	m.request(request{kind: reqSweep})
	due := m.sweepAt == 0
	m.sweepAt = m.now + ghostAge + repairPause
	if due {
		m.at(m.sweepAt, m.sweepAgain)
	}
}

func (m *machine) sweepAgain() {
	if m.now < m.sweepAt { // there was another snapshot
		m.at(m.sweepAt, m.sweepAgain)
		return
	}
	m.sweepAt = 0
	m.trimGhosts()
	m.request(request{kind: reqSweep})
}

// settling reports whether a first answer is still awaited about a run that is
// there: what a one-shot question should wait for.
func (m *machine) settling() bool {
	for _, c := range m.all {
		for i := range c.asks {
			if a := &c.asks[i]; a.busy && !a.answered {
				return true
			}
		}
		if len(c.waiting) > 0 {
			return true
		}
	}
	for _, u := range m.units {
		if u.busy && u.tries == 0 && m.now < m.begun+unitRetry { // a manager that hangs is not waited for
			return true
		}
	}
	for _, g := range m.cgroups {
		if g.asked && !g.dead {
			return true
		}
	}
	return false
}

// timer is a deadline; seq keeps equal deadlines in order.
type timer struct {
	at  workload.KTime
	seq uint64
	fn  func()
}

type timers []timer

func (t timers) Len() int { return len(t) }
func (t timers) Less(i, j int) bool {
	return t[i].at < t[j].at || t[i].at == t[j].at && t[i].seq < t[j].seq
}
func (t timers) Swap(i, j int) { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)   { *t = append(*t, x.(timer)) }
func (t *timers) Pop() any {
	o := *t
	x := o[len(o)-1]
	o[len(o)-1] = timer{}
	*t = o[:len(o)-1]
	return x
}

// at runs fn in the first step at or after the instant.
func (m *machine) at(at workload.KTime, fn func()) {
	m.seq++
	heap.Push(&m.timers, timer{at: at, seq: m.seq, fn: fn})
}

func (m *machine) runTimers() {
	for len(m.timers) > 0 && m.timers[0].at <= m.now {
		heap.Pop(&m.timers).(timer).fn()
	}
}

// next is the earliest deadline, 0 if there is none.
func (m *machine) next() workload.KTime {
	if len(m.timers) == 0 {
		return 0
	}
	return m.timers[0].at
}
