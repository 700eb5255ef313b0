// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/cilium/ebpf/rlimit"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/bpf"
	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/pkg/workload"
)

// TracerOptions configures a Tracer. The zero value works.
type TracerOptions struct {
	// Procfs is the host's /proc, "/proc" by default. Its PID namespace is the
	// one that events are numbered in.
	Procfs string
	// Sysfs is the host's /sys, "/sys" by default.
	Sysfs string
	// CgroupRoot is where the cgroup hierarchies are mounted, Sysfs/fs/cgroup by
	// default. Only used when a Snapshot has to read /proc.
	CgroupRoot string
	// Cgroups is how that Snapshot reads a process's cgroups; see CgroupReader.
	Cgroups CgroupReader
	// Logger gets the Tracer's own state changes; discarded by default.
	Logger *slog.Logger
	// ProcessRingBytes and CgroupRingBytes size the rings, rounded up to a power
	// of two: 8 MiB and 256 KiB by default. A fork, exec or exit takes 150 bytes
	// and 16 more for each v1 hierarchy.
	ProcessRingBytes, CgroupRingBytes int
	// Disable names programs that are not loaded.
	Disable []Type
	// BatchInterval is how long a process event may wait in its ring while there
	// are many such events, 50 ms by default, and five times as long while there
	// are few. An idle Tracer wakes up once in that time.
	BatchInterval time.Duration

	// twins attaches each program twice, as it is done on the kernels that need it
	// in any case.
	twins bool
}

func (o *TracerOptions) setDefaults() {
	o.Procfs = cmp.Or(o.Procfs, "/proc")
	o.Sysfs = cmp.Or(o.Sysfs, "/sys")
	o.ProcessRingBytes = ringBytes(cmp.Or(o.ProcessRingBytes, 8<<20))
	o.CgroupRingBytes = ringBytes(cmp.Or(o.CgroupRingBytes, 256<<10))
	o.BatchInterval = cmp.Or(o.BatchInterval, 50*time.Millisecond)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.twins = o.twins || preemptible()
}

// ringBytes rounds up to what the kernel takes: a power of two of whole pages.
func ringBytes(n int) int {
	n = min(max(n, os.Getpagesize()), 1<<30)
	return 1 << bits.Len(uint(n-1))
}

// lossInterval is how often the programs and their counters are looked at while
// nothing hints at a loss. While a program is missing, it is also how often a
// repair is asked for.
const lossInterval = time.Second

// RepairInterval is how often a Tracer asks for a repair, by a Lost event, while
// one of its programs is missing.
const RepairInterval = lossInterval

// Tracer reads the kernel's events through BPF. Programs are attached from
// NewTracer to Close, so what happens before Run waits in the rings.
type Tracer struct {
	opts    TracerOptions
	config  bpf.TracerTracerConfig
	known   []Hierarchy
	objs    *objects
	cgroups *ringbuf.Reader
	process *ringbuf.Reader
	waiter  *waiter
	proc    *procReader
	counts  counters
	flushes flushes
	prompt  atomic.Bool // see Prompt
	closed  chan struct{}

	closeOnce sync.Once
	running   sync.Mutex   // held by Run, and by Close to see it end
	snapshots sync.Mutex   // held by Snapshot: one iterator at a time
	mapped    sync.RWMutex // held for reading by Stats: maps and rings are still there

	// All below belong to Run.
	record   ringbuf.Record
	event    Event
	exits    exitFilter
	canary   canary
	handled  uint64
	lost     uint64
	lossRead time.Time
	strayed  bool
	// told is what the programs were told of prompt; wakes counts the turns since window began.
	told   bool
	window time.Time
	wakes  int
}

// NewTracer loads and attaches the programs. A program that this kernel does
// not take costs its own events only, and Stats says why; without any, the
// error wraps ErrUnsupported and names the reason in one line.
func NewTracer(o TracerOptions) (*Tracer, error) {
	o.setDefaults()
	if err := permitted(o); err != nil {
		return nil, err
	}
	cache := btf.NewCache()
	types, err := cache.Kernel()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBTF, err)
	}
	t := &Tracer{opts: o, closed: make(chan struct{})}
	if err := t.configure(types); err != nil {
		return nil, err
	}
	if err := t.load(cache); err != nil {
		return nil, err
	}
	if err := t.openRings(); err != nil {
		t.release()
		return nil, err
	}
	return t, nil
}

func (t *Tracer) configure(types *btf.Spec) (err error) {
	if t.known, err = readHierarchies(t.opts.Procfs); err != nil {
		return err
	}
	if t.config, err = kernelConfig(types, t.known); err != nil {
		return err
	}
	t.exits.off = t.config.HasGroupDead != 0 && !t.opts.twins
	t.proc = newProcReader(t.opts.Procfs, cgroupRoot(t.opts.CgroupRoot, t.opts.Sysfs), t.opts.Cgroups)
	t.config.PidNsInum = t.proc.nestedPIDNS()
	return nil
}

func (t *Tracer) load(types *btf.Cache) (err error) {
	// Needed before 5.11 only, and without CAP_SYS_RESOURCE it cannot be done.
	if err := rlimit.RemoveMemlock(); err != nil {
		t.opts.Logger.Debug("memlock limit stays", "err", err)
	}
	t.objs, err = load(loadOptions{
		config:       t.config,
		types:        types,
		processBytes: uint32(t.opts.ProcessRingBytes),
		cgroupBytes:  uint32(t.opts.CgroupRingBytes),
		disable:      t.opts.Disable,
		twins:        t.opts.twins,
		log:          t.opts.Logger,
	})
	if err != nil {
		return unsupported(err)
	}
	if t.objs.attached() == 0 {
		defer t.objs.close()
		return unsupported(t.objs.firstReason())
	}
	t.canary = newCanary(t.opts.Procfs, cgroupRoot(t.opts.CgroupRoot, t.opts.Sysfs))
	return nil
}

// unsupported wraps an error of bpf(2) in the sentinel that fits.
func unsupported(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: %w", ErrNotPermitted, err)
	default:
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
}

func (t *Tracer) openRings() (err error) {
	processMap := t.objs.maps[bpf.TracerMapProcessRing]
	cgroupMap := t.objs.maps[bpf.TracerMapCgroupRing]
	if t.process, err = ringbuf.NewReader(processMap); err != nil {
		return fmt.Errorf("open process ring: %w", err)
	}
	if t.cgroups, err = ringbuf.NewReader(cgroupMap); err != nil {
		return fmt.Errorf("open cgroup ring: %w", err)
	}
	// Reading never waits: that is the waiter's part, for both rings at once.
	t.process.SetDeadline(time.Unix(1, 0))
	t.cgroups.SetDeadline(time.Unix(1, 0))
	t.waiter, err = newWaiter(cgroupMap.FD(), processMap.FD())
	return err
}

// Run delivers events to fn until ctx ends, whose error it returns, or Close is
// called (ErrClosed). It may be called again after it has returned; what came
// in between was kept as far as there was room.
func (t *Tracer) Run(ctx context.Context, fn func(Event)) error {
	if !t.running.TryLock() {
		return ErrRunning
	}
	defer t.running.Unlock()
	if t.isClosed() {
		return ErrClosed
	}
	defer context.AfterFunc(ctx, t.waiter.wake)()
	for {
		asked := t.flushes.take()
		before := t.handled
		if err := t.drain(fn); err != nil {
			return err
		}
		answer(asked)
		switch {
		case t.isClosed():
			return ErrClosed
		case ctx.Err() != nil:
			return ctx.Err()
		}
		if err := t.waiter.wait(t.pause(t.handled - before)); err != nil {
			return err
		}
	}
}

const (
	// idleBatches is how many batch intervals the reader sleeps at most after one
	// that brought fewer than busyBatch events. What cannot wait wakes it: see
	// BatchInterval.
	idleBatches = 5
	busyBatch   = 32
	// promptWakes is how many turns of a prompt reader there are in a promptWindow:
	// a host that starts more processes than that has the rest in one batch.
	promptWakes  = 50
	promptWindow = 50 * time.Millisecond
)

// Prompt says whether somebody waits for each process event: then none waits for
// its batch while there are few of them, up to about a thousand a second; above
// that they come 50 ms late. Each then costs a wake-up, which is more than all the
// rest of it. It may be called at any time, and holds until it is called again.
func (t *Tracer) Prompt(on bool) {
	if t.prompt.Swap(on) != on {
		t.waiter.wake()
	}
}

// pause says when to look again after some events: on a host where nothing, or
// little, happens looking for it is all the work there is.
func (t *Tracer) pause(events uint64) time.Duration {
	prompt := t.prompt.Load()
	if prompt {
		if now := time.Now(); now.Sub(t.window) >= promptWindow {
			t.window, t.wakes = now, 0
		}
		if t.wakes++; t.wakes > promptWakes {
			t.tell(false)
			return promptWindow
		}
	}
	t.tell(prompt)
	switch {
	case prompt && t.process.AvailableBytes() > 0:
		return 0 // what came before the programs were told, or before the last was read, wakes nobody
	case events >= busyBatch:
		return t.opts.BatchInterval
	}
	return beat.Until(idleBatches * t.opts.BatchInterval)
}

// tell has the programs wake the reader for process events, or leave it asleep.
func (t *Tracer) tell(prompt bool) {
	if prompt == t.told {
		return
	}
	var on uint32
	if prompt {
		on = 1
	}
	if err := t.objs.maps[bpf.TracerMapPrompt].Put(uint32(0), on); err != nil {
		t.opts.Logger.Debug("process events stay as they are", "prompt", prompt, "err", err)
	}
	t.told = prompt // once is enough: without it events are late, and not lost
}

func (t *Tracer) isClosed() bool {
	select {
	case <-t.closed:
		return true
	default:
		return false
	}
}

// drain delivers what is in the rings and, where it is time for that, what was
// lost.
func (t *Tracer) drain(fn func(Event)) error {
	pending, err := t.drainRings(fn)
	if err != nil {
		return err
	}
	due := time.Since(t.lossRead) >= lossInterval
	if due {
		t.lossRead = time.Now()
		if err := t.check(fn); err != nil {
			return err
		}
	}
	if due || pending > t.opts.ProcessRingBytes/2 {
		t.reportLoss(fn)
	}
	return nil
}

// drainRings delivers everything that is in the rings as it begins, and gives
// how many bytes of processes that was; what comes in meanwhile is left to the
// next turn, so that a flood cannot hold it here. Cgroup events go first, also
// before each process event.
func (t *Tracer) drainRings(fn func(Event)) (pending int, err error) {
	if err := t.drainCgroups(fn); err != nil {
		return 0, err
	}
	pending = t.process.AvailableBytes()
	for left := pending; left > 0; {
		n, err := t.read(t.process, fn)
		if err != nil {
			return 0, err
		}
		if left -= n; n == 0 {
			break
		}
		if err := t.drainCgroups(fn); err != nil {
			return 0, err
		}
	}
	return pending, nil
}

func (t *Tracer) drainCgroups(fn func(Event)) error {
	for left := t.cgroups.AvailableBytes(); left > 0; {
		n, err := t.read(t.cgroups, fn)
		if err != nil {
			return err
		}
		if left -= n; n == 0 {
			break
		}
	}
	return nil
}

// read delivers one record and gives the room that it took in the ring, 0 if
// there was none.
func (t *Tracer) read(r *ringbuf.Reader, fn func(Event)) (int, error) {
	for {
		err := r.ReadInto(&t.record)
		if err == nil {
			break
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			// Said once at the end of the records, and once more before new ones.
			if r.AvailableBytes() > 0 {
				continue
			}
			return 0, nil
		}
		return 0, fmt.Errorf("read ring: %w", err)
	}
	raw := t.record.RawSample
	if _, err := decode(raw, &t.event); err != nil {
		t.counts.malformed.Add(1)
	} else {
		t.handle(fn)
	}
	// Records are aligned to 8 after a header of 8 (kernel/bpf/ringbuf.c).
	return (len(raw)+7)&^7 + 8, nil
}

// handle delivers the event that was decoded last.
func (t *Tracer) handle(fn func(Event)) {
	e := &t.event
	t.handled++
	switch e.Type {
	case Fork:
		t.canary.forked(&e.Process)
	case Exit:
		t.canary.exited(e.Process.Key)
		if t.exits.seen(e.Process.Key) {
			t.counts.duplicates.Add(1)
			return
		}
	case CgroupMkdir:
		t.noteHierarchy(e.Cgroup.ID.Hierarchy)
	default:
	}
	t.counts.deliver(fn, e)
}

// noteHierarchy counts cgroups of a hierarchy that was mounted after the
// programs were loaded: process events do not carry it.
func (t *Tracer) noteHierarchy(id uint32) {
	for _, h := range t.known {
		if h.ID == id {
			return
		}
	}
	t.counts.stray.Add(1)
	if !t.strayed {
		t.strayed = true
		t.opts.Logger.Warn("cgroup hierarchy is newer than the BPF programs", "hierarchy", id)
	}
}

// reportLoss tells fn of events lost since it was last called.
func (t *Tracer) reportLoss(fn func(Event)) {
	var s Stats
	t.fillKernelStats(&s)
	s.Stolen = t.counts.stolen.Load()
	total := s.LostTotal()
	if total <= t.lost && !t.canary.missed {
		return
	}
	e := Event{Type: Lost, Time: bootTime()}
	if total > t.lost {
		e.Count, t.lost = total-t.lost, total
		t.counts.lostAt.Store(uint64(e.Time))
	}
	t.canary.missed = false
	t.counts.deliver(fn, &e)
}

// Flush makes Run deliver everything that is pending now, and returns when it
// has. It waits for a Run if there is none. Run's function must not call it.
func (t *Tracer) Flush(ctx context.Context) error {
	return t.flushes.wait(ctx, t.waiter.wake, t.closed)
}

// Stats may be called at any time, also after Close, when what only the kernel
// knows is left out.
func (t *Tracer) Stats() Stats {
	s := Stats{Hierarchies: t.known}
	t.counts.fill(&s)
	t.mapped.RLock()
	defer t.mapped.RUnlock()
	if !t.isClosed() {
		t.fillKernelStats(&s)
		s.Rings = []RingStats{
			{Name: bpf.TracerMapCgroupRing, Bytes: t.cgroups.BufferSize(), Unread: t.cgroups.AvailableBytes()},
			{Name: bpf.TracerMapProcessRing, Bytes: t.process.BufferSize(), Unread: t.process.AvailableBytes()},
		}
	}
	return s
}

// fillKernelStats asks the kernel for losses and program runs.
func (t *Tracer) fillKernelStats(s *Stats) {
	t.fillCounts(s)
	for _, p := range t.objs.programs {
		s.Programs = append(s.Programs, p.stats())
	}
}

// fillCounts asks the kernel what became of the programs' runs.
func (t *Tracer) fillCounts(s *Stats) {
	s.Lost, s.Seen = make(map[Type][]uint64), make(map[Type]uint64)
	if s.Filtered == nil {
		s.Filtered = make(map[Type]uint64)
	}
	var cpus []bpf.TracerRecordCounts
	for _, tp := range tracepoints {
		if tp.typ == Task {
			continue
		}
		var lost []uint64
		for _, row := range []uint32{uint32(tp.typ), uint32(tp.typ) + uint32(bpf.TracerRecordTypeRECORD_TWIN)} {
			if t.objs.maps[bpf.TracerMapCounts].Lookup(row, &cpus) != nil {
				continue
			}
			if lost == nil {
				lost = make([]uint64, len(cpus))
			}
			for i := range cpus {
				s.Seen[tp.typ] += cpus[i].Seen
				s.Filtered[tp.typ] += cpus[i].Filtered
				lost[i] += cpus[i].Lost
			}
		}
		if sum(lost) > 0 {
			s.Lost[tp.typ] = lost
		}
	}
}

func (p *program) stats() ProgramStats {
	s := ProgramStats{Name: p.name, Tracepoint: p.tracepoint, Type: p.typ}
	p.mu.Lock()
	defer p.mu.Unlock()
	s.Attached, s.Disabled, s.Detached, s.BrokenAt = p.reason == nil, errors.Is(p.reason, errDisabled), p.detached, p.brokenAt
	if p.reason != nil {
		s.Reason = p.reason.Error()
	}
	if p.prog == nil {
		return s
	}
	if ps, err := p.prog.Stats(); err == nil {
		s.Skipped, s.Runs, s.Runtime = ps.RecursionMisses, ps.RunCount, ps.Runtime
	}
	if p.twin == nil {
		return s
	}
	if ps, err := p.twin.prog.Stats(); err == nil {
		s.Skipped, s.Runtime = min(s.Skipped, ps.RecursionMisses), s.Runtime+ps.Runtime
	}
	return s
}

// Close detaches the programs and waits for Run and Snapshot to return.
func (t *Tracer) Close() error {
	t.closeOnce.Do(func() {
		close(t.closed)
		t.waiter.wake()
		t.running.Lock()
		defer t.running.Unlock()
		t.snapshots.Lock()
		defer t.snapshots.Unlock()
		t.mapped.Lock()
		defer t.mapped.Unlock()
		t.release()
	})
	return nil
}

func (t *Tracer) release() {
	if t.waiter != nil {
		t.waiter.close()
	}
	if t.cgroups != nil {
		_ = t.cgroups.Close()
	}
	if t.process != nil {
		_ = t.process.Close()
	}
	t.objs.close()
}

// exitFilter finds the second exit event that two threads ending together can
// make where the kernel does not say which is the last, and that twins make of
// which two met in a mark (bpf/tracer.bpf.c). Such events are
// microseconds apart, so a small table indexed by PID is enough; one that slips
// through is a repetition that the correlator can bear.
type exitFilter struct {
	off  bool
	last [1024]workload.ProcessKey
}

func (f *exitFilter) seen(k workload.ProcessKey) bool {
	if f.off {
		return false
	}
	slot := &f.last[uint32(k.PID)%uint32(len(f.last))]
	if *slot == k {
		return true
	}
	*slot = k
	return false
}

// bootTime reads the clock that the programs stamp with.
func bootTime() workload.KTime {
	var ts unix.Timespec
	// Cannot fail: the clock is there since 2.6.39 and ts is ours.
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return workload.KTime(ts.Nano())
}
