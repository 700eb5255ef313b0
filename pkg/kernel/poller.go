// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// PollerOptions configures a Poller. The zero value works.
type PollerOptions struct {
	// Procfs is "/proc" by default, Sysfs "/sys", CgroupRoot Sysfs/fs/cgroup.
	Procfs, Sysfs, CgroupRoot string
	// Cgroups is how a process's cgroups are read. The default reads its cgroup
	// file and takes the inodes of the directories below CgroupRoot.
	Cgroups CgroupReader
	// Interval is the time between scans, 250 ms by default.
	Interval time.Duration
	// Logger gets the Poller's own state changes; discarded by default.
	Logger *slog.Logger
}

func (o *PollerOptions) setDefaults() {
	o.Procfs = cmp.Or(o.Procfs, "/proc")
	o.Sysfs = cmp.Or(o.Sysfs, "/sys")
	o.CgroupRoot = cgroupRoot(o.CgroupRoot, o.Sysfs)
	o.Interval = cmp.Or(o.Interval, PollInterval)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

// PollInterval is PollerOptions.Interval by default.
const PollInterval = 250 * time.Millisecond

// Poller stands in for the Tracer where BPF does not load: it makes events of
// the differences between scans of /proc and of the cgroup directories.
type Poller struct {
	opts    PollerOptions
	files   *cgroupFiles
	proc    *procReader
	known   []Hierarchy
	counts  counters
	flushes flushes
	closed  chan struct{}
	nudge   chan struct{} // holds one: scan now

	closeOnce sync.Once
	running   sync.Mutex // held by Run, and by Close to see it end
	scans     atomic.Uint64
	scanNanos atomic.Int64

	toldMu sync.Mutex // guards told
	// told are the processes that were given out but by a scan, since the last
	// one: it alone can say that one of them has ended.
	told map[workload.PID]Process

	// All below belong to Run.
	processes map[workload.PID]*polled
	cgroups   map[workload.CgroupID]Cgroup
}

// NewPoller makes a first scan, which later ones are compared with: as with the
// Tracer, Run gives what happened since New.
func NewPoller(o PollerOptions) (*Poller, error) {
	o.setDefaults()
	p := &Poller{
		opts:   o,
		files:  newCgroupFiles(o.Procfs, o.CgroupRoot),
		closed: make(chan struct{}),
		nudge:  make(chan struct{}, 1),
	}
	p.proc = newProcReader(o.Procfs, o.CgroupRoot, o.Cgroups)
	var err error
	if p.known, err = readHierarchies(o.Procfs); err != nil {
		return nil, err
	}
	if err := p.scan(func(*Event) {}); err != nil {
		return nil, err
	}
	return p, nil
}

// Run is as Tracer.Run. A scan that fails is logged and made up by the next.
func (p *Poller) Run(ctx context.Context, fn func(Event)) error {
	if !p.running.TryLock() {
		return ErrRunning
	}
	defer p.running.Unlock()
	tick := time.NewTicker(p.opts.Interval)
	defer tick.Stop()
	for {
		select {
		case <-p.closed:
			return ErrClosed
		default:
		}
		asked := p.flushes.take()
		if err := p.scan(func(e *Event) { p.counts.deliver(fn, e) }); err != nil {
			p.opts.Logger.Warn("scan of processes is incomplete", "err", err)
		}
		answer(asked)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.closed:
			return ErrClosed
		case <-p.nudge:
		case <-tick.C:
		}
	}
}

// Snapshot is as Tracer.Snapshot, always from /proc.
func (p *Poller) Snapshot(ctx context.Context, fn func(Event)) error {
	err := snapshotProc(ctx, p.proc, func(e Event) {
		if e.Type == Task {
			p.tell(e.Process)
		}
		fn(e)
	})
	if err != nil {
		return err
	}
	p.counts.snapshots.Add(1)
	return nil
}

// Flush makes Run scan now, and returns when what that found was delivered.
func (p *Poller) Flush(ctx context.Context) error {
	return p.flushes.wait(ctx, p.scanNow, p.closed)
}

// maxTold is how many processes may be given out before a scan is due.
const maxTold = 4096

// tell has the next scan look whether this process has ended: one that began and
// ended between two scans would seem to live for ever.
func (p *Poller) tell(is ...Process) {
	p.toldMu.Lock()
	defer p.toldMu.Unlock()
	if p.told == nil {
		p.told = map[workload.PID]Process{}
	}
	for _, proc := range is {
		p.told[proc.Key.PID] = proc
	}
	if len(p.told) >= maxTold {
		p.scanNow()
	}
}

// untell forgets those whose end this scan has found: who was given out after
// it began would have a second end in the next one.
func (p *Poller) untell(exits []Event) {
	p.toldMu.Lock()
	defer p.toldMu.Unlock()
	for _, e := range exits {
		if t, ok := p.told[e.Process.Key.PID]; ok && t.Key.Same(e.Process.Key) {
			delete(p.told, t.Key.PID)
		}
	}
}

func (p *Poller) takeTold() map[workload.PID]Process {
	p.toldMu.Lock()
	defer p.toldMu.Unlock()
	told := p.told
	p.told = nil
	return told
}

func (p *Poller) scanNow() {
	select {
	case p.nudge <- struct{}{}:
	default:
	}
}

// Stats may be called at any time.
func (p *Poller) Stats() Stats {
	s := Stats{
		Hierarchies: p.known,
		Scans:       p.scans.Load(),
		ScanTime:    time.Duration(p.scanNanos.Load()),
	}
	p.counts.fill(&s)
	return s
}

// Close makes Run return and waits for it.
func (p *Poller) Close() error {
	p.closeOnce.Do(func() {
		close(p.closed)
		p.running.Lock()
		p.running.Unlock() //nolint:staticcheck // only to see Run end
	})
	return nil
}
