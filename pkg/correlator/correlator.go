// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/beat"
	pcgroup "github.com/pidigree/pidigree/pkg/cgroup"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Source is what the kernel's side must do: *kernel.Tracer and *kernel.Poller.
type Source interface {
	// Run gives events until ctx ends; fn does not block.
	Run(ctx context.Context, fn func(kernel.Event)) error
	// Snapshot gives all processes, between SnapshotBegin and SnapshotEnd.
	Snapshot(ctx context.Context, fn func(kernel.Event)) error
	// Flush returns when what was pending at the call has been delivered.
	Flush(ctx context.Context) error
	// Process reads one process from /proc.
	Process(pid workload.PID) (kernel.Process, error)
}

// Cgroups is what is needed of *cgroup.FS.
type Cgroups interface {
	Lineage(id workload.CgroupID) (pcgroup.Lineage, error)
	// Lineages reads many, and gives back those that it did not.
	Lineages(ids []workload.CgroupID, fn func(workload.CgroupID, pcgroup.Lineage)) (rest []workload.CgroupID)
	Path(id workload.CgroupID) (string, error)
	StripMount(abs string) (hierarchy uint32, path string, ok bool)
	// Refresh finds hierarchies that were mounted since.
	Refresh() error
}

// Options configure a Correlator. Store, Source and Cgroups are required.
type Options struct {
	Store   *store.Store
	Source  Source
	Cgroups Cgroups
	// Collectors are the sources, supervised by the Correlator. May be empty.
	Collectors []collectors.Collector
	// FilesOnly names the collectors that have nothing but files: reading them
	// again costs no runtime anything. Default: "oci", "nspawn", "lxc".
	FilesOnly []string
	// Homeless names the collectors whose containers may have no cgroup of their own: a
	// process beside others of the host's may be one's init. Default: podman.
	Homeless []string
	// NoImages lists no images.
	NoImages bool
	// HostMountNS is the inode of the host's mount namespace, 0 if unknown.
	HostMountNS uint32
	// NestedCgroups is set where the agent's cgroup namespace is not the initial
	// one: paths in kernel events are the host's then, those of cgroupfs are not,
	// and only the latter are read.
	NestedCgroups bool
	// Logger gets state changes. Default: none.
	Logger *slog.Logger
	// Tick bounds how old an unnoticed deadline or tombstone can get. Default 1 s.
	Tick time.Duration
}

// Correlator runs the machine: it feeds it, carries out what it asks for and
// writes the store. Methods may be called concurrently.
type Correlator struct {
	opts  Options
	sup   *collectors.Supervisor
	names []string
	index map[string]int
	ready chan struct{}
	wake  chan struct{} // holds one: the earliest deadline has changed
	ctx   atomic.Pointer[context.Context]
	// snapshots makes one follow the other: the machine knows of one at a time.
	snapshots sync.Mutex

	// settled and unsettled count questions that waited for an engine.
	settled, unsettled atomic.Uint64

	work  sync.WaitGroup
	calls chan struct{} // a place for each request under way

	mu sync.Mutex // guards all below; held for one step
	m  *machine
	ev kernel.Event
	// listed are the sources whose first list has ended.
	listed   map[string]bool
	snapped  workload.KTime
	isReady  bool
	lagNanos int64
	deadline workload.KTime
	// settlers are what the questions wait for that wait for engines.
	settlers  map[*container]*settling
	questions int

	at func() workload.KTime // now, but in tests
}

// maxCalls bounds the requests that are carried out at once; more wait their turn.
const maxCalls = 256

// New makes a correlator; Run starts it.
func New(o Options) (*Correlator, error) {
	if o.Store == nil || o.Source == nil || o.Cgroups == nil {
		return nil, errors.New("new correlator: store, source and cgroups are required")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Tick <= 0 {
		o.Tick = time.Second
	}
	if o.Homeless == nil {
		o.Homeless = []string{"podman"}
	}
	if o.FilesOnly == nil {
		o.FilesOnly = []string{"oci", "nspawn", "lxc"}
	}
	c := &Correlator{
		opts: o, index: map[string]int{}, ready: make(chan struct{}), wake: make(chan struct{}, 1),
		calls: make(chan struct{}, maxCalls), listed: map[string]bool{},
		settlers: map[*container]*settling{}, at: now,
	}
	var err error
	c.sup, err = collectors.NewSupervisor(collectors.SupervisorOptions{
		Collectors: o.Collectors, Logger: o.Logger,
		OnHint:        func(s string, h collectors.Hint) { c.feed(evHint{source: c.index[s], hint: h}) },
		OnContainer:   func(s string, w *workload.Container) { c.feed(evListed{source: c.index[s], container: w}) },
		OnListed:      c.onListed,
		OnPod:         func(s string, p *workload.Pod) { c.feed(evPod{source: c.index[s], pod: p}) },
		OnPodsListed:  c.onPodsListed,
		OnTask:        func(s string, t *workload.Task) { c.feed(evTask{source: c.index[s], task: t}) },
		OnTasksListed: c.onTasksListed,
		OnImage: func(s string, i *workload.Image, gone bool) {
			c.feed(evImage{source: c.index[s], image: i, gone: gone})
		},
		NoImages: o.NoImages,
	})
	if err != nil {
		return nil, fmt.Errorf("new correlator: %w", err)
	}
	c.m = newMachine(c.config())
	return c, nil
}

func (c *Correlator) config() config {
	cfg := config{hostMountNS: c.opts.HostMountNS, idsComeAgain: bits.UintSize == 32, strip: func(abs string) (workload.CgroupPath, bool) {
		h, path, ok := c.opts.Cgroups.StripMount(abs)
		return workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: h}, Path: path}, ok
	}}
	for i, col := range c.opts.Collectors {
		_, prefill := col.(collectors.Prefiller)
		_, pods := col.(collectors.PodCollector)
		_, tasks := col.(collectors.TaskCollector)
		nested := ""
		if n, ok := col.(collectors.Nester); ok {
			nested = n.Nested()
		}
		_, units := col.(collectors.UnitCollector)
		_, lists := col.(collectors.Lister)
		c.index[col.Name()] = i
		c.names = append(c.names, col.Name())
		cfg.sources = append(cfg.sources, sourceInfo{name: col.Name(), prefill: prefill, pods: pods, tasks: tasks, lists: lists, units: units, nested: nested, files: slices.Contains(c.opts.FilesOnly, col.Name()), homeless: slices.Contains(c.opts.Homeless, col.Name())})
	}
	return cfg
}

// Ready is closed when the first snapshot has been applied and every source that
// is there has been listed once.
func (c *Correlator) Ready() <-chan struct{} { return c.ready }

// Sources says how the collectors do.
func (c *Correlator) Sources() []workload.SourceStatus { return c.sup.Status() }

// Stats is what the correlator itself counts.
type Stats struct {
	// Repairs counts snapshots taken after a loss.
	Repairs uint64
	// Conflicts counts processes found in conflict.
	Conflicts uint64
	// Lag is how old the last event was when it was applied.
	Lag time.Duration
	// Settled counts questions that waited for the first answer of an engine, and
	// got it; Unsettled those that waited in vain.
	Settled, Unsettled uint64
	// Processes, Cgroups and Containers are what the machine holds.
	Processes, Cgroups, Containers int
}

// Stats gives the counters.
func (c *Correlator) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{
		Repairs: c.m.repairs, Conflicts: c.m.conflicts, Lag: time.Duration(c.lagNanos),
		Settled: c.settled.Load(), Unsettled: c.unsettled.Load(),
		Processes: len(c.m.procs), Cgroups: len(c.m.cgroups), Containers: len(c.m.all),
	}
}

// Run correlates until ctx ends. It returns an error only where the kernel's
// side broke.
func (c *Correlator) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.ctx.Store(&ctx)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.opts.Source.Run(ctx, c.onEvent) })
	tasks := make(chan struct{}) // closed when all processes are known, and their cgroups
	g.Go(func() error {
		if err := c.snapshot(ctx, tasks); err != nil && ctx.Err() == nil {
			return fmt.Errorf("first snapshot: %w", err)
		}
		c.mu.Lock()
		c.snapped = c.at()
		c.mu.Unlock()
		c.checkReady()
		return nil
	})
	g.Go(func() error {
		select { // what a source names as an init is known then, with its cgroups, and not read by itself
		case <-tasks:
		case <-ctx.Done():
		}
		return c.sup.Run(ctx)
	})
	g.Go(func() error { c.clock(ctx); return nil })
	err := g.Wait()
	cancel()
	c.work.Wait()
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("correlate: %w", err)
	}
	return nil
}

// now is CLOCK_BOOTTIME, the clock of all stamps.
func now() workload.KTime {
	var ts unix.Timespec
	// Cannot fail: the clock exists since 2.6.39 and the pointer is good.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return workload.KTime(ts.Nano())
}

func (c *Correlator) onEvent(e kernel.Event) {
	at := c.at()
	if c.opts.NestedCgroups {
		e.Cgroup.PathCut = true
	}
	c.mu.Lock()
	c.ev = e
	if e.Time != 0 && e.Type != kernel.Task {
		c.lagNanos = int64(at - e.Time)
	}
	reqs := c.stepLocked(at, &c.ev)
	c.mu.Unlock()
	c.carryOut(reqs)
	if e.Type == kernel.CgroupRmdir {
		// Something ended: a good time to ask who was removed. A start needs no
		// such call, it is asked about by id.
		c.sup.Nudge()
	}
}

func (c *Correlator) feed(in any) { c.carryOut(c.step(in)) }

func (c *Correlator) step(in any) []request {
	at := c.at()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stepLocked(at, in)
}

// stepLocked steps the machine and writes the store: in one critical section, so
// that the store sees the changes in the machine's order.
func (c *Correlator) stepLocked(at workload.KTime, in any) []request {
	out := c.m.step(at, in)
	if len(out.changes) > 0 {
		c.opts.Store.Apply(out.changes...)
	}
	c.opts.Store.SetAsOf(at)
	if _, event := in.(*kernel.Event); !event && len(c.settlers) > 0 {
		c.settleLocked()
	}
	if next := c.m.next(); next != 0 && (c.deadline == 0 || next < c.deadline) {
		c.deadline = next
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
	if len(out.requests) == 0 {
		return nil
	}
	return slices.Clone(out.requests)
}

// clock steps the machine at its deadlines, and drops tombstones.
func (c *Correlator) clock(ctx context.Context) {
	t := time.NewTimer(c.opts.Tick)
	defer t.Stop()
	var expired workload.KTime
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case <-t.C:
			c.mu.Lock()
			c.deadline = 0
			c.mu.Unlock()
			c.feed(evTick{})
		}
		c.checkReady()
		at := c.at()
		if at-expired >= expireEvery {
			expired = at
			c.opts.Store.Apply(store.Change{Expire: at})
		}
		t.Reset(c.untilNext(at))
	}
}

func (c *Correlator) untilNext(at workload.KTime) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.m.next()
	c.deadline = next
	tick := c.opts.Tick
	if !c.isReady {
		tick = min(tick, readyTick)
	}
	if tick = beat.Until(tick); next == 0 {
		return tick
	}
	return min(tick, beat.After(max(time.Duration(next-at), 0)))
}

// carryOut does what the machine asked for, each request in a goroutine of its
// own: a slow one delays no other. Their number is bounded by the machine, which
// has one request under way for each container and source, and by maxCalls.
func (c *Correlator) carryOut(reqs []request) {
	if len(reqs) == 0 {
		return
	}
	ctxp := c.ctx.Load()
	if ctxp == nil || (*ctxp).Err() != nil {
		return
	}
	for _, r := range reqs {
		c.work.Go(func() { c.do(*ctxp, r) })
	}
}

func (c *Correlator) do(ctx context.Context, r request) {
	switch r.kind {
	case reqPrefill, reqLookup, reqLocate, reqPod, reqTask, reqUnit: // the supervisor bounds and times these
	default:
		select {
		case c.calls <- struct{}{}:
			defer func() { <-c.calls }()
		case <-ctx.Done():
			return
		}
	}
	switch r.kind {
	case reqPrefill, reqLookup, reqLocate:
		c.ask(ctx, r)
	case reqPod:
		p, err := c.sup.LookupPod(ctx, c.names[r.source], r.groupID)
		if ctx.Err() == nil {
			c.feed(evPodAnswer{req: r, pod: p, err: err})
		}
	case reqTask:
		t, err := c.sup.LookupTask(ctx, c.names[r.source], r.groupID)
		if ctx.Err() == nil {
			c.feed(evTaskAnswer{req: r, task: t, err: err})
		}
	case reqUnit:
		s, err := c.sup.LookupUnit(ctx, c.names[r.source], r.unit.plain.Unit, r.path)
		if ctx.Err() == nil {
			c.feed(evUnit{req: r, service: s, err: err})
		}
	case reqLineage:
		at := c.at()
		l, err := c.opts.Cgroups.Lineage(r.cgroup)
		c.feed(evLineage{id: r.cgroup, lineage: l, err: err, at: at})
	case reqProcess:
		c.readProcess(ctx, r.pid)
	case reqSnapshot:
		if err := c.snapshot(ctx, nil); err != nil && ctx.Err() == nil {
			c.opts.Logger.Warn("repair failed", "err", err)
		}
	case reqSweep:
		c.sweep()
	}
}

func (c *Correlator) ask(ctx context.Context, r request) {
	name := c.names[r.source]
	a := evAnswer{req: r}
	switch r.kind {
	case reqPrefill:
		a.container, a.err = c.sup.Prefill(ctx, name, r.id)
	case reqLookup:
		a.container, a.err = c.sup.Lookup(ctx, name, r.id)
	case reqLocate:
		a.located, a.err = c.sup.Locate(ctx, name, r.evidence)
	}
	if ctx.Err() == nil {
		c.feed(a)
	}
}

// unreadTries are how often a process is read that cannot be, for want of a file
// descriptor say, unreadPause apart. It has not ended for that.
const (
	unreadTries = 8
	unreadPause = 250 * time.Millisecond
)

func (c *Correlator) readProcess(ctx context.Context, pid workload.PID) {
	for try := 1; ; try++ {
		at := c.at()
		p, err := c.opts.Source.Process(pid)
		switch {
		case err == nil:
			c.feed(evProcess{pid: pid, proc: p, at: at})
			return
		case errors.Is(err, kernel.ErrGone):
			c.feed(evProcess{pid: pid, gone: true, at: at})
			return
		case try == unreadTries:
			c.opts.Logger.Debug("process unreadable", "pid", pid, "err", err)
			c.feed(evProcess{pid: pid, unread: true, at: at})
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(unreadPause):
		}
	}
}

// snapshot applies all processes, in steps of one process each so that events go
// on being applied between them. It closes tasks, if not nil, when it has applied all.
func (c *Correlator) snapshot(ctx context.Context, tasks chan<- struct{}) error {
	c.snapshots.Lock()
	defer c.snapshots.Unlock()
	var lineages []workload.CgroupID
	err := c.opts.Source.Snapshot(ctx, func(e kernel.Event) {
		if e.Type == kernel.Task && e.Process.KernelThread {
			return
		}
		c.carryOut(slices.DeleteFunc(c.step(evEvent{e}), func(r request) bool {
			if r.kind == reqLineage {
				lineages = append(lineages, r.cgroup)
			}
			return r.kind == reqLineage
		}))
	})
	c.readLineages(lineages)
	if tasks != nil {
		close(tasks)
	}
	return err
}

// readLineages reads what a snapshot has asked for, all at once.
func (c *Correlator) readLineages(ids []workload.CgroupID) {
	at := c.at()
	rest := c.opts.Cgroups.Lineages(ids, func(id workload.CgroupID, l pcgroup.Lineage) {
		c.feed(evLineage{id: id, lineage: l, at: at})
	})
	for _, id := range rest {
		c.carryOut([]request{{kind: reqLineage, cgroup: id}})
	}
}

// sweep forgets cgroups whose removal was lost.
func (c *Correlator) sweep() {
	if err := c.opts.Cgroups.Refresh(); err != nil {
		c.opts.Logger.Warn("hierarchies not read again", "err", err)
	}
	c.mu.Lock()
	idle := c.m.idleCgroups()
	c.mu.Unlock()
	at := c.at()
	for _, id := range idle {
		if _, err := c.opts.Cgroups.Path(id); errors.Is(err, pcgroup.ErrGone) {
			c.feed(evEvent{kernel.Event{Type: kernel.CgroupRmdir, Time: at, Cgroup: kernel.Cgroup{ID: id}}})
		}
	}
}

func (c *Correlator) onPodsListed(source string, l collectors.PodListing) {
	began := c.at() - workload.KTime(time.Since(l.Began))
	c.feed(evPodListEnd{source: c.index[source], complete: l.Complete, began: began})
}

func (c *Correlator) onTasksListed(source string, l collectors.TaskListing) {
	began := c.at() - workload.KTime(time.Since(l.Began))
	c.feed(evTaskListEnd{source: c.index[source], complete: l.Complete, began: began})
}

func (c *Correlator) onListed(source string, l collectors.Listing) {
	began := c.at() - workload.KTime(time.Since(l.Began))
	c.feed(evListEnd{source: c.index[source], complete: l.Complete, began: began})
	c.mu.Lock()
	c.listed[source] = true
	c.mu.Unlock()
	c.checkReady()
}

// readyTick is how often readiness is looked at; readyPatience is how long a
// source that hangs can put it off.
const (
	readyTick     = 5 * time.Millisecond
	readyPatience = 3 * workload.KTime(time.Second)
)

// checkReady closes Ready once the snapshot is in and every source that is there
// has been listed; those absent or failing are not waited for.
func (c *Correlator) checkReady() {
	for _, name := range c.newlyAbsent() {
		c.work.Go(func() {
			ctx := *c.ctx.Load()
			nothing := c.hasNothing(ctx, name)
			if ctx.Err() == nil {
				c.feed(evListEnd{source: c.index[name], complete: nothing, absent: nothing})
			}
		})
	}
	for _, s := range c.becomeReady() {
		if _, lists := c.sup.Collector(s.Name).(collectors.Lister); !lists || s.State == "absent" { // there is nothing to list
			c.feed(evListEnd{source: c.index[s.Name], complete: true})
		}
	}
}

// hasNothing reports whether an engine that is not there has left no files either:
// those of one that is stopped still name its containers.
func (c *Correlator) hasNothing(ctx context.Context, name string) bool {
	if !c.m.cfg.sources[c.index[name]].prefill {
		return true
	}
	_, err := c.sup.Prefill(ctx, name, workload.ContainerID{ID: strings.Repeat("0", 64)})
	return errors.Is(err, collectors.ErrNotPresent) || errors.Is(err, collectors.ErrNotMine)
}

// newlyAbsent gives, until Ready is closed, those sources once that turn out not to
// be there.
func (c *Correlator) newlyAbsent() (names []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isReady {
		return nil
	}
	for _, s := range c.sup.Status() {
		if s.State == "absent" && !c.listed[s.Name] {
			c.listed[s.Name] = true
			names = append(names, s.Name)
		}
	}
	return names
}

// becomeReady closes Ready where it is time, and gives the sources as they are then.
func (c *Correlator) becomeReady() []workload.SourceStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.isReady || c.snapped == 0 {
		return nil
	}
	if c.at() < c.snapped+readyPatience && !c.allListedLocked() {
		return nil
	}
	c.isReady = true
	close(c.ready)
	return c.sup.Status()
}

func (c *Correlator) allListedLocked() bool {
	for _, s := range c.sup.Status() {
		_, lists := c.sup.Collector(s.Name).(collectors.Lister)
		if lists && !c.listed[s.Name] && s.State != "absent" && s.State != "failing" {
			return false
		}
	}
	return !c.m.settling()
}

// Observe makes sure that what the kernel knows of a process now is in the
// store: pending events are delivered first, then, if that did not bring it, the
// process is read from /proc. ErrNotFound: there is no such process.
func (c *Correlator) Observe(ctx context.Context, pid workload.PID, known func() bool) error {
	if err := c.opts.Source.Flush(ctx); err != nil && ctx.Err() != nil {
		return fmt.Errorf("observe process %d: %w", pid, err)
	}
	if known != nil && known() {
		return nil
	}
	at := c.at()
	p, err := c.opts.Source.Process(pid)
	switch {
	case errors.Is(err, kernel.ErrGone):
		return fmt.Errorf("observe process %d: %w", pid, workload.ErrNotFound)
	case err != nil:
		return fmt.Errorf("observe process %d: %w", pid, err)
	}
	c.feed(evProcess{pid: pid, proc: p, at: at})
	for _, id := range c.unknownCgroups(pid) {
		at := c.at()
		l, err := c.opts.Cgroups.Lineage(id)
		c.feed(evLineage{id: id, lineage: l, err: err, at: at})
	}
	for _, r := range c.fromFiles(pid, (*machine).locateNow) {
		c.ask(ctx, r)
	}
	for _, r := range c.fromFiles(pid, (*machine).unreadFiles) {
		c.ask(ctx, r)
	}
	return nil
}

// fromFiles lists what files could still say about a process: somebody asks, so
// nobody waits for the next try. No runtime is called.
func (c *Correlator) fromFiles(pid workload.PID, what func(*machine, workload.PID) []request) []request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return what(c.m, pid)
}

// unknownCgroups lists the cgroups of a process whose lineage is not known yet.
func (c *Correlator) unknownCgroups(pid workload.PID) []workload.CgroupID {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.m.procs[pid]
	if p == nil || p.set == nil {
		return nil
	}
	var ids []workload.CgroupID
	for _, g := range p.set.cgroups {
		if !g.known() {
			ids = append(ids, g.id)
		}
	}
	return ids
}
