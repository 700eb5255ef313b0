// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/pidigree/pidigree/pkg/workload"
)

// errNoIterator means that the task iterator is not loaded.
var errNoIterator = errors.New("no task iterator")

// Snapshot gives fn SnapshotBegin, a Task for every process, and SnapshotEnd,
// from the task iterator, or from /proc where that does not work. It may be
// called beside Run and by several goroutines, which take turns. On an error
// there is no SnapshotEnd, and what was delivered is incomplete.
func (t *Tracer) Snapshot(ctx context.Context, fn func(Event)) error {
	t.snapshots.Lock()
	defer t.snapshots.Unlock()
	if t.isClosed() {
		return ErrClosed
	}
	begin := bootTime()
	raw, err := t.iterate(ctx)
	if err == nil {
		err = t.deliverTasks(ctx, begin, raw, fn)
	} else if ctx.Err() == nil {
		if !errors.Is(err, errNoIterator) {
			t.opts.Logger.Warn("task iterator does not work, reading /proc", "err", err)
		}
		t.counts.fallbacks.Add(1)
		err = snapshotProc(ctx, t.proc, fn)
	}
	if err == nil {
		t.counts.snapshots.Add(1)
	}
	return err
}

// iterate reads the iterator to its end before anything is decoded: if it
// breaks, nothing was delivered yet. Some 300 bytes a process.
func (t *Tracer) iterate(ctx context.Context) ([]byte, error) {
	it := t.iterator()
	if it == nil {
		return nil, errNoIterator
	}
	r, err := it.iter.Open()
	if err != nil {
		return nil, fmt.Errorf("open task iterator: %w", err)
	}
	defer r.Close()
	var all []byte
	// The kernel gives at most 32 KiB a read.
	chunk := make([]byte, 64<<10)
	for {
		n, err := r.Read(chunk)
		all = append(all, chunk[:n]...)
		switch {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, fmt.Errorf("read task iterator: %w", err)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
	}
}

func (t *Tracer) iterator() *program {
	for _, p := range t.objs.programs {
		if p.iter != nil {
			return p
		}
	}
	return nil
}

func (t *Tracer) deliverTasks(ctx context.Context, begin workload.KTime, raw []byte, fn func(Event)) error {
	fn(Event{Type: SnapshotBegin, Time: begin})
	had := make(map[workload.PID]struct{}, len(raw)/256)
	var e Event
	for len(raw) > 0 {
		n, err := decode(raw, &e)
		if err != nil {
			t.counts.malformed.Add(1)
			return fmt.Errorf("decode task iterator: %w", err)
		}
		raw = raw[n:]
		had[e.Process.Key.PID] = struct{}{}
		fn(e)
	}
	if err := t.addMissing(ctx, had, fn); err != nil {
		return err
	}
	fn(Event{Type: SnapshotEnd, Time: bootTime()})
	return nil
}

// addMissing completes a snapshot by the processes that /proc lists and the
// iterator passed over: usually those that began meanwhile, but there are
// kernels that hide some from BPF. Taking such a one for dead would be wrong.
func (t *Tracer) addMissing(ctx context.Context, had map[workload.PID]struct{}, fn func(Event)) error {
	pids, err := t.proc.pids()
	if err != nil {
		return err
	}
	missing := slices.DeleteFunc(pids, func(pid workload.PID) bool {
		_, ok := had[pid]
		return ok
	})
	return t.proc.each(ctx.Err, missing, func(p Process) {
		fn(Event{Type: Task, Time: bootTime(), Process: p})
	})
}

// snapshotProc is a snapshot of /proc: twenty times slower, and its keys have
// Ticks set.
func snapshotProc(ctx context.Context, r *procReader, fn func(Event)) error {
	fn(Event{Type: SnapshotBegin, Time: bootTime()})
	pids, err := r.pids()
	if err != nil {
		return err
	}
	// Kept until all are read: once PIDs have come round, a parent may have the higher one.
	found := make(map[workload.PID]Event, len(pids))
	order := make([]workload.PID, 0, len(pids))
	err = r.each(ctx.Err, pids, func(p Process) {
		found[p.Key.PID] = Event{Type: Task, Time: bootTime(), Process: p}
		order = append(order, p.Key.PID)
	})
	if err != nil {
		return err
	}
	for _, pid := range order {
		e := found[pid]
		if parent, ok := found[e.Process.Parent]; ok {
			e.Process.ParentStart = startOfParent(&e.Process, &parent.Process)
		}
		fn(e)
	}
	fn(Event{Type: SnapshotEnd, Time: bootTime()})
	return nil
}

// startOfParent is what was read of the process with the parent's PID, 0 where
// it began after the child: then it is another one, which has got that PID since.
func startOfParent(p, parent *Process) uint64 {
	if parent.Key.Start > p.Key.Start {
		return 0
	}
	return parent.Key.Start
}
