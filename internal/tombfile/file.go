// SPDX-License-Identifier: Apache-2.0

package tombfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Interval is how often changes are written: what ended that long before the
// agent was killed is in the file.
const Interval = 500 * time.Millisecond

const (
	// maxFile bounds the file. With the store's bounds it takes 20,000 processes
	// of 200 bytes, 5,000 containers, 2,000 pods and 2,000 tasks of 2 KB, more than twice over.
	maxFile = 48 << 20
	// minGrowth is how much may be appended at least before the file is made anew.
	minGrowth = 1 << 20
	// chunk is how much is gathered for one write.
	chunk = 256 << 10
	// retryAfter is the pause after a write that failed.
	retryAfter = 10 * time.Second
	// heartbeat is how old the last instant in the file may be while nothing changes.
	heartbeat = 5 * workload.KTime(time.Second)
	// lastWrite bounds what is written after the agent was told to stop.
	lastWrite = time.Second
)

// Store is what is needed of *store.Store.
type Store interface {
	Watch(ctx context.Context, sel workload.Selector) iter.Seq[store.Batch]
	GoneSince(e workload.Entity) workload.KTime
}

// Options configure a File. Dir, Store and Now are required.
type Options struct {
	Dir   string
	Store Store
	// Procfs says which boot this is. Default "/proc".
	Procfs string
	// Run is the store's first revision.
	Run workload.Revision
	// Now is CLOCK_BOOTTIME.
	Now func() workload.KTime
	// Interval is for tests. Default Interval.
	Interval time.Duration
	// MaxBytes bounds the file. Default 48 MiB.
	MaxBytes int64
	// Logger gets what goes wrong, once. Default: none.
	Logger *slog.Logger
}

// Status says how a File does.
type Status struct {
	// Path is the file's.
	Path string
	// Err is why it is not being written, nil while it is; At is since when.
	Err error
	At  time.Time
	// Written is when it was written last.
	Written time.Time
	// Bytes is its size.
	Bytes int64
	// Errors counts writes that failed and old files that were ignored.
	Errors uint64
	// Skipped counts entities for which there was no room.
	Skipped uint64
	// Rewrites counts new files.
	Rewrites uint64
}

// File is the agent's file of tombstones.
type File struct {
	o    Options
	log  *slog.Logger
	boot BootID
	dir  *dir

	// The rest but status is Run's.
	out      *os.File // nil: a new one is to be begun
	enc      encoder
	cursor   workload.Revision
	size     int64 // written
	limit    int64 // size at which a new one is begun
	seen     workload.KTime
	snapshot bool // the new one is not in its place yet
	retry    time.Time

	mu     sync.Mutex // guards status
	status Status
}

// Open takes the directory for this agent. Close lets it go.
func Open(o Options) (*File, error) {
	if o.Dir == "" || o.Store == nil || o.Now == nil {
		return nil, errors.New("open tombstones: directory, store and clock are required")
	}
	if o.Procfs == "" {
		o.Procfs = "/proc"
	}
	if o.Interval <= 0 {
		o.Interval = Interval
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = maxFile
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f := &File{o: o, log: o.Logger, status: Status{Path: filepath.Join(o.Dir, fileName)}}
	b, err := os.ReadFile(filepath.Join(o.Procfs, "sys/kernel/random/boot_id"))
	if err != nil {
		return nil, fmt.Errorf("open tombstones: %w", err)
	}
	if f.boot, err = ParseBootID(string(b)); err != nil {
		return nil, fmt.Errorf("open tombstones: %w", err)
	}
	if f.dir, err = openDir(o.Dir); err != nil {
		return nil, fmt.Errorf("open tombstones: %w", err)
	}
	return f, nil
}

// Close lets the directory go. Run has ended.
func (f *File) Close() { f.dir.close() }

// Load reads what an earlier agent left. Nothing, where there is no file or none
// that can be used, which is logged.
func (f *File) Load() *Past {
	p, err := f.load()
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, ErrBoot):
		f.log.Info("tombstones ignored", "path", f.status.Path, "err", err)
	case err != nil:
		f.log.Warn("tombstones ignored: what ended before this start is not known", "path", f.status.Path, "err", err)
		f.mu.Lock()
		f.status.Errors++
		f.mu.Unlock()
	case p.Dropped > 0:
		f.log.Info("tombstones end in a record that is not whole", "path", f.status.Path, "bytes", p.Dropped)
	}
	return p
}

func (f *File) load() (*Past, error) {
	in, size, err := f.dir.open(2 * f.o.MaxBytes)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	return Read(in, size, f.boot)
}

// Run writes what changes in the store until ctx ends, and then once more.
func (f *File) Run(ctx context.Context) {
	defer f.drop()
	t := time.NewTimer(beat.Until(f.o.Interval))
	defer t.Stop()
	f.flush(ctx)
	for {
		select {
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWrite)
			defer cancel()
			f.flush(ctx)
			return
		case <-t.C:
			f.flush(ctx)
			t.Reset(beat.Until(f.o.Interval))
		}
	}
}

// flush writes what has changed. After a failure it begins anew, some time later.
func (f *File) flush(ctx context.Context) {
	if time.Now().Before(f.retry) {
		return
	}
	err := f.write(ctx)
	if err != nil {
		f.drop()
		f.retry = time.Now().Add(retryAfter)
	}
	f.note(err)
}

// note keeps the Status, and logs what is new in it.
func (f *File) note(err error) {
	f.mu.Lock()
	was := f.status.Err
	f.status.Err, f.status.Bytes = err, f.size
	if err != nil {
		f.status.Errors++
		if was == nil {
			f.status.At = time.Now()
		}
	} else {
		f.status.Written = time.Now()
	}
	f.mu.Unlock()
	switch {
	case err != nil && was == nil:
		f.log.Warn("tombstones not written: the next agent will not know what ended", "err", err)
	case err == nil && was != nil:
		f.log.Info("tombstones written again", "path", f.status.Path)
	}
}

// Status may be called concurrently.
func (f *File) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

// write appends what has changed since the last time, or begins a new file.
func (f *File) write(ctx context.Context) error {
	if f.out != nil && f.size > f.limit {
		f.drop()
	}
	if f.out == nil {
		if err := f.begin(); err != nil {
			return err
		}
	}
	changed := f.snapshot
	sel := workload.Selector{Kinds: []workload.Kind{workload.KindContainer, workload.KindProcess, workload.KindPod, workload.KindTask}, All: true, From: f.cursor}
	for b := range f.o.Store.Watch(ctx, sel) {
		if len(b.Changes) > 0 && b.Changes[0].Type == workload.ChangeResync {
			f.drop()
			if err := f.begin(); err != nil {
				return err
			}
		}
		changed = f.batch(b) || changed
		if err := f.send(chunk); err != nil {
			return err
		}
		if !b.More {
			break
		}
	}
	if ctx.Err() != nil && f.snapshot {
		return nil // not whole: the old file stays
	}
	if now := f.o.Now(); changed || now-f.seen >= heartbeat {
		f.enc.time(now)
		f.seen = now
	}
	if err := f.send(0); err != nil {
		return err
	}
	return f.complete()
}

// begin starts a new file, with all that there is.
func (f *File) begin() (err error) {
	if f.out, err = f.dir.create(); err != nil {
		return err
	}
	f.cursor, f.size, f.snapshot = 0, 0, true
	f.enc = encoder{}
	f.enc.header(f.boot, f.o.Run)
	f.mu.Lock()
	f.status.Rewrites++
	f.mu.Unlock()
	return nil
}

// batch encodes the changes and reports whether there were any.
func (f *File) batch(b store.Batch) (changed bool) {
	f.cursor = b.Revision
	for _, c := range b.Changes {
		if c.Type != workload.ChangeSet && c.Type != workload.ChangeUnset {
			continue
		}
		if c.Entity.OnlyRemote() {
			continue // that one keeps it
		}
		changed = true
		if !f.room() || !f.one(c) {
			f.mu.Lock()
			f.status.Skipped++
			f.mu.Unlock()
		}
	}
	return changed
}

// room reports whether there is any for one more: what there is at the
// beginning may fill half of the file.
func (f *File) room() bool {
	room := f.o.MaxBytes
	if f.snapshot {
		room /= 2
	}
	return f.size+int64(len(f.enc.buf)) < room
}

func (f *File) one(c workload.Change) bool {
	var since workload.KTime
	if c.Type == workload.ChangeSet && c.Entity.Gone {
		since = f.o.Store.GoneSince(c.Entity)
	}
	if f.enc.change(c, since) {
		return true
	}
	switch {
	case c.Entity.Container != nil:
		c.Entity.Container = lean(c.Entity.Container)
	case c.Entity.Pod != nil:
		c.Entity.Pod = leanPod(c.Entity.Pod)
	case c.Entity.Task != nil:
		c.Entity.Task = leanTask(c.Entity.Task)
	default:
		return false
	}
	return f.enc.change(c, since)
}

// lean leaves out what may be large.
func lean(c *workload.Container) *workload.Container {
	n := *c
	n.Labels, n.Annotations, n.Env, n.Mounts, n.Networks, n.Ports = nil, nil, nil, nil, nil, nil
	n.Truncated = append([]string{"labels", "annotations", "env", "mounts", "networks", "ports"}, c.Truncated...)
	return &n
}

func leanPod(p *workload.Pod) *workload.Pod {
	n := *p
	n.Labels, n.Annotations, n.Containers, n.Volumes = nil, nil, nil, nil
	n.Truncated = append([]string{"labels", "annotations", "containers", "volumes"}, p.Truncated...)
	return &n
}

func leanTask(t *workload.Task) *workload.Task {
	n := *t
	n.Tags, n.InstanceTags, n.Containers = nil, nil, nil
	n.Truncated = append([]string{"tags", "instanceTags", "containers"}, t.Truncated...)
	return &n
}

// send writes what was gathered, if it is more than least.
func (f *File) send(least int) error {
	if len(f.enc.buf) <= least {
		return nil
	}
	n, err := f.out.Write(f.enc.buf)
	f.size += int64(n)
	f.enc.buf = f.enc.buf[:0]
	return err
}

// complete puts a new file in its place.
func (f *File) complete() error {
	if !f.snapshot {
		return nil
	}
	if err := f.dir.publish(); err != nil {
		return err
	}
	f.snapshot = false
	f.limit = min(f.size+max(f.size, minGrowth), f.o.MaxBytes)
	return nil
}

// drop lets the file that is being written go.
func (f *File) drop() {
	if f.out == nil {
		return
	}
	_ = f.out.Close() // every write was checked
	f.out = nil
	if f.snapshot {
		f.dir.discard()
	}
}
