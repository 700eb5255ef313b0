// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/tombfile"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// tombsSource is the name under which Status says how the file of tombstones does.
const tombsSource = "tombstones"

// tombs is what has ended, across restarts of the agent.
type tombs struct {
	file *tombfile.File // nil where err is why
	err  error
	at   time.Time
	path string
	// restored is how many an earlier agent left.
	restored atomic.Int64
}

// openTombs never fails the start: an agent that cannot keep tombstones forgets
// them with its end, and says so.
func (a *Agent) openTombs(base workload.Revision) {
	if a.opts.StateDir == "" || a.opts.OneShot || a.mode == ModeCopy {
		return
	}
	t := &tombs{at: time.Now(), path: a.opts.StateDir}
	t.file, t.err = tombfile.Open(tombfile.Options{
		Dir: a.opts.StateDir, Store: a.store, Procfs: a.opts.Procfs, Run: base, Now: bootTime, Logger: a.log,
	})
	if t.err != nil {
		a.log.Warn("tombstones not kept: the next agent will not know what ended", "err", t.err)
	}
	a.tombs = t
}

func (t *tombs) close() {
	if t.file != nil {
		t.file.Close()
	}
}

// bootTime is CLOCK_BOOTTIME.
func bootTime() workload.KTime {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail: the clock exists since 2.6.39
	return workload.KTime(ts.Nano())
}

// loadPatience is how long a slow disk can put readiness off.
const loadPatience = time.Second

// remember makes the agent ready: once what lives is known, what has ended
// before is added to it. Then it keeps what ends, until ctx does.
func (a *Agent) remember(ctx context.Context) {
	if a.tombs == nil || a.tombs.file == nil {
		select {
		case <-ctx.Done():
			return
		case <-a.correlator.Ready():
		}
		if a.mode == ModeCopy {
			select {
			case <-ctx.Done():
				return
			case <-a.other.Whole():
			}
		}
		close(a.ready)
		return
	}
	loaded := make(chan *tombfile.Past, 1)
	go func() { loaded <- a.tombs.file.Load() }()
	defer func() {
		if loaded != nil {
			<-loaded // the file is not closed under it
		}
	}()
	select {
	case <-ctx.Done():
		return
	case <-a.correlator.Ready():
	}
	patience := time.NewTimer(loadPatience)
	defer patience.Stop()
	select {
	case past := <-loaded:
		loaded = nil
		a.restore(past)
		close(a.ready)
	case <-patience.C:
		close(a.ready)
		select {
		case past := <-loaded:
			loaded = nil
			a.restore(past)
		case <-ctx.Done():
			return
		}
	}
	a.tombs.file.Run(ctx)
}

// restore adds what has ended by now, of all that an earlier agent knew.
func (a *Agent) restore(past *tombfile.Past) {
	if past == nil {
		return
	}
	began := time.Now()
	ended := past.Ended(tombfile.Host{
		Now: bootTime(), Wall: time.Now(), Grace: cmp.Or(a.opts.Grace, store.DefaultGrace), Alive: a.alive,
	})
	n := a.store.Restore(ended)
	a.tombs.restored.Store(int64(n))
	a.log.Info("tombstones restored", "number", n, "took", time.Since(began).Round(time.Microsecond))
}

// alive reports whether a process is there, or may be. The store knows nearly
// all that are; the rest is looked up.
func (a *Agent) alive(k workload.ProcessKey) bool {
	if ans := a.store.Resolve(k); ans.Process != nil && !ans.Exited {
		return true
	}
	if _, err := os.Lstat(filepath.Join(a.opts.Procfs, strconv.FormatUint(uint64(k.PID), 10))); errors.Is(err, fs.ErrNotExist) {
		return false
	}
	p, err := a.source.Process(k.PID)
	if err != nil {
		return !errors.Is(err, kernel.ErrGone)
	}
	return p.Key.Same(k)
}

// tombsStatus says how the file does, as of a source.
func (a *Agent) tombsStatus() workload.SourceStatus {
	t := a.tombs
	s := workload.SourceStatus{Name: tombsSource, State: "failing", Where: t.path, LastErrorAt: t.at}
	if t.file == nil {
		s.LastError, s.Errors = oneLine(t.err), 1
		return s
	}
	st := t.file.Status()
	s.Where, s.LastContact, s.Errors = st.Path, st.Written, st.Errors
	switch {
	case st.Err != nil:
		s.LastError, s.LastErrorAt = oneLine(st.Err), st.At
	case st.Written.IsZero():
		s.State, s.LastErrorAt = "starting", time.Time{}
	default:
		s.State, s.LastErrorAt = "running", time.Time{}
	}
	s.Entities = int(t.restored.Load())
	return s
}

// measure puts the metrics; without a state directory there are none.
func (t *tombs) measure(put func(string, float64, ...string)) {
	if t == nil {
		return
	}
	st := tombfile.Status{Err: t.err, Errors: 1}
	if t.file != nil {
		st = t.file.Status()
	}
	put("pidigree_tombstones_restored", float64(t.restored.Load()))
	put("pidigree_tombstones_file_up", gauge(st.Err == nil && !st.Written.IsZero()))
	put("pidigree_tombstones_file_errors_total", float64(st.Errors))
	put("pidigree_tombstones_file_skipped_total", float64(st.Skipped))
	put("pidigree_tombstones_file_bytes", float64(st.Bytes))
}
