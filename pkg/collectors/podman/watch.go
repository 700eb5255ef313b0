// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// minSpacing is the least time between two looks, however often nudged.
	minSpacing = 100 * time.Millisecond
	// changeSpacing is that between two looks after changes of databases: a commit
	// is several writes. It is changeShare times what the last look took if that is
	// more: whoever writes without end makes the collector no busier than that.
	changeSpacing = 5 * time.Millisecond
	changeShare   = 9
)

// Nudge implements collectors.Nudger: the next look is now.
func (c *Collector) Nudge() {
	select {
	case c.nudged <- struct{}{}:
	default:
	}
}

// Watch implements collectors.Watcher: a look at each database's version, when it is
// written to, each second and when nudged, and at its records where that is another.
// What had been there at the beginning is not said: a list does.
func (c *Collector) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	ctx, cancel := context.WithCancel(ctx)
	n, err := notify(ctx)
	if err != nil {
		c.log.Warn("no inotify instance, podman's databases are looked at each second; raise fs.inotify.max_user_instances", "err", err)
	}
	defer n.close()
	defer cancel()
	w := watcher{c: c, n: n, fn: fn, stores: map[*store]*watched{}, seed: maphash.MakeSeed()}
	for {
		began := time.Now()
		if err := w.look(ctx); err != nil {
			return fmt.Errorf("podman: watch: %w", err)
		}
		fn(collectors.Hint{Kind: collectors.HintAlive})
		if err := c.untilDue(ctx, time.Since(began), n.changed); err != nil {
			return fmt.Errorf("podman: watch: %w", err)
		}
	}
}

// untilDue waits until the next look is due: when everything else is, after a nudge,
// or after a change, but in no case at once after the last, which took so long.
func (c *Collector) untilDue(ctx context.Context, took time.Duration, changed <-chan struct{}) error {
	ended := time.Now()
	spacing := min(minSpacing, c.interval/2)
	wait := beat.Until(c.interval)
	if wait < spacing {
		wait += c.interval
	}
	due := time.NewTimer(wait)
	defer due.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-due.C:
		return nil
	case <-c.nudged:
	case <-changed:
		spacing = min(max(changeSpacing, changeShare*took), c.interval)
	}
	due.Reset(spacing - time.Since(ended))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-due.C:
		return nil
	}
}

// watcher is the state of one Watch.
type watcher struct {
	c      *Collector
	n      *notifier
	fn     func(collectors.Hint)
	stores map[*store]*watched
	seed   maphash.Seed
	// refused: the kernel gave no watch, and that was said.
	refused bool
}

// watched is a store as of the last look.
type watched struct {
	begun   bool
	version versions
	images  [4]fileVersion
	wds     [2]int32
	// containers are the sums and states of the records, pods the sums.
	containers map[string]seenRecord
	pods       map[string]uint64
}

type seenRecord struct {
	sum   uint64
	state workload.State
	// runDir is set where there is a check; checkedAt is its file's version, health what it said.
	runDir    string
	checkedAt safefile.Stamp
	health    workload.Health
}

// fileVersion tells two versions of a file apart.
type fileVersion struct {
	ino     uint64
	size    int64
	changed unix.Timespec
}

// versions are those of a store's databases, by their files.
type versions [3]fileVersion

// look compares every store with what it was.
func (w *watcher) look(ctx context.Context) error {
	for _, s := range w.c.known() {
		if w.stores[s] == nil {
			w.stores[s] = &watched{containers: map[string]seenRecord{}, pods: map[string]uint64{}}
			s.told.begin()
		}
		if err := w.lookAt(ctx, s, w.stores[s]); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			w.c.log.Debug("store not read", "path", s.root, "err", err)
		}
	}
	return nil
}

func (w *watcher) lookAt(ctx context.Context, s *store, now *watched) error {
	images := now.images
	v := w.versions(s, now)
	if now.begun && now.images != images {
		w.fn(collectors.Hint{Kind: collectors.HintImages})
	}
	if now.begun {
		w.lookAtHealth(s, now)
		if owes := s.told.owes(); v == now.version && !owes {
			return nil
		}
	}
	if err := w.lookAtContainers(ctx, s, now); err != nil {
		return err
	}
	if err := w.lookAtPods(ctx, s, now); err != nil {
		return err
	}
	now.begun, now.version = true, v
	return nil
}

// versions stats the databases, and has changes that come later told. What is written
// while they are read afterwards shows the next time.
func (w *watcher) versions(s *store, now *watched) (v versions) {
	dir, err := s.open()
	if err != nil {
		return v
	}
	defer unix.Close(dir)
	now.images = imageVersions(dir)
	if err := w.n.follow(dir, &now.wds); err != nil && !w.refused {
		w.refused = true
		w.c.log.Warn("podman's databases are looked at each second; raise fs.inotify.max_user_watches", "path", s.root, "err", err)
	}
	for i, d := range databases {
		path := d.file
		if d.dir != "" {
			path = d.dir + "/" + d.file
		}
		var st unix.Stat_t
		if unix.Fstatat(dir, path, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
			v[i].ino, v[i].size, v[i].changed = st.Ino, st.Size, st.Ctim
		}
	}
	return v
}

func (w *watcher) lookAtContainers(ctx context.Context, s *store, now *watched) error {
	ids, err := s.ids(ctx)
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(ids))
	for _, id := range ids {
		there[id] = true
		if err := w.container(ctx, s, now, id); err != nil && ctx.Err() != nil {
			return err
		}
	}
	for id, was := range now.containers {
		if !there[id] {
			delete(now.containers, id)
			s.told.removed(id)
			w.removed(ctx, s, id, was)
		}
	}
	return nil
}

// container looks at one record, and says what has become of it.
func (w *watcher) container(ctx context.Context, s *store, now *watched, id string) (err error) {
	denied := s.told.met(id)
	defer func() {
		if denied && err != nil {
			s.told.deny(id)
		}
	}()
	var r record
	err = s.view(ctx, func(d database) (err error) {
		r, err = d.container(id)
		return err
	})
	if err != nil {
		return err
	}
	sum := maphash.Bytes(w.seed, r.config) ^ maphash.Bytes(w.seed, r.state)<<1
	was, known := now.containers[id]
	if known && was.sum == sum && !denied {
		return nil
	}
	d, err := s.translate(&r)
	if err != nil {
		return err
	}
	out := s.complete(&d)
	seen := seenRecord{sum: sum, state: out.State, health: out.Health, checkedAt: d.checkedAt}
	if d.checked {
		seen.runDir = d.state.RunDir
	}
	now.containers[id] = seen
	if now.begun {
		w.fn(collectors.Hint{Kind: kindOf(known, was.state, out.State), ID: out.ID, Layer: out})
	}
	return nil
}

// kindOf says what the difference between two records means.
func kindOf(known bool, was, is workload.State) collectors.HintKind {
	switch {
	case !known && is == workload.StateCreated:
		return collectors.HintCreated
	case is == workload.StateRunning && was != workload.StateRunning && was != workload.StatePaused:
		return collectors.HintStarted
	case is == workload.StateExited && was != workload.StateExited:
		return collectors.HintExited
	case !known:
		return collectors.HintCreated
	}
	return collectors.HintChanged
}

// removed says that a container is gone, and how it ended where podman remembers:
// of `podman run --rm` nothing else is left.
func (w *watcher) removed(ctx context.Context, s *store, id string, was seenRecord) {
	var code int64
	err := s.view(ctx, func(d database) (err error) {
		code, err = d.exitCode(id)
		return err
	})
	whole := s.id(id)
	if exit := exitOf(code, false); err == nil && exit != nil && was.state != workload.StateExited {
		w.fn(collectors.Hint{Kind: collectors.HintExited, ID: whole, Layer: &workload.Container{ID: whole, Runtime: name, State: workload.StateExited, Exit: exit}})
	}
	w.fn(collectors.Hint{Kind: collectors.HintDeleted, ID: whole})
}

func (w *watcher) lookAtPods(ctx context.Context, s *store, now *watched) error {
	ids, err := s.podIDs(ctx)
	if err != nil {
		return err
	}
	there := make(map[string]bool, len(ids))
	for _, id := range ids {
		there[id] = true
		var r record
		err := s.view(ctx, func(d database) (err error) {
			r, err = d.pod(id)
			return err
		})
		switch {
		case errors.Is(err, collectors.ErrNotFound):
			continue
		case err != nil:
			return err
		}
		sum := maphash.Bytes(w.seed, r.config) ^ maphash.Bytes(w.seed, r.state)<<1
		was, known := now.pods[id]
		if known && was == sum {
			continue
		}
		p, err := s.describePod(&r)
		if err != nil {
			continue
		}
		now.pods[id] = sum
		kind := collectors.HintChanged
		if !known {
			kind = collectors.HintCreated
		}
		if now.begun {
			w.fn(collectors.Hint{Kind: kind, Pod: p})
		}
	}
	for id := range now.pods {
		if !there[id] {
			delete(now.pods, id)
			w.fn(collectors.Hint{Kind: collectors.HintDeleted, Pod: &workload.Pod{PodRef: workload.PodRef{UID: id}, Runtime: name}})
		}
	}
	return nil
}
