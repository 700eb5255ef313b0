// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// rescanBlind is how often directories are read again where the kernel gave no
// watch for one of them, rescanEvery where it gave all: then a rescan only finds
// what inotify cannot say, a directory that something was mounted over. It reads
// directories, not files.
const (
	rescanBlind = time.Second
	rescanEvery = 10 * time.Second
)

// The events of each kind of directory.
const (
	// maskAncestor: a directory that leads to roots comes.
	maskAncestor = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	// maskRoot: a container's directory comes or goes, or the root itself goes.
	maskRoot = maskAncestor | unix.IN_DELETE | unix.IN_MOVED_FROM
	// maskContainer: a file is complete (renamed into place, or closed), or the FIFO goes.
	maskContainer = unix.IN_MOVED_TO | unix.IN_CLOSE_WRITE | unix.IN_DELETE | unix.IN_DONT_FOLLOW
)

// Watch first hints at every container that has state, which a HintAlive ends,
// then at each change, the instant a state file is in its place. It blocks until
// ctx ends. Layers are whole: what Lookup would have said.
func (c *Collector) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	n, err := newNotifier()
	if err != nil {
		c.log.Warn("no inotify instance, state is read each second; raise fs.inotify.max_user_instances", "err", err)
		n = &notifier{}
	}
	defer n.close()
	w := newWatcher(c, n, fn)
	defer context.AfterFunc(ctx, n.wake)()
	w.firstLook(ctx)
	if c.index.CompareAndSwap(nil, w.idx) {
		defer c.index.CompareAndSwap(w.idx, nil)
	}
	fn(collectors.Hint{Kind: collectors.HintAlive})
	return w.run(ctx)
}

// firstLook is a rescan beside the List that most begin with a Watch.
func (w *watcher) firstLook(ctx context.Context) {
	defer w.c.looks.share()()
	w.rescan(ctx)
}

// watcher is the state of one Watch. Only its goroutine touches it, but for idx.
type watcher struct {
	c     *Collector
	n     *notifier
	fn    func(collectors.Hint)
	idx   *index
	dirs  map[string]*watched
	byWD  map[int32]*watched
	roots map[string]*watchedRoot
	// count is the number of containers followed.
	count int
	// stale: a directory on the way to the roots changed.
	stale bool
	// full is set once the kernel refused a watch, and said once.
	full bool
	// blind: something has no watch, as of the last rescan or since.
	blind bool
}

func newWatcher(c *Collector, n *notifier, fn func(collectors.Hint)) *watcher {
	return &watcher{
		c: c, n: n, fn: fn, idx: newIndex(), full: n.file == nil,
		dirs: make(map[string]*watched), byWD: make(map[int32]*watched), roots: make(map[string]*watchedRoot),
	}
}

// watched is a directory with an inotify watch.
type watched struct {
	path string
	wd   int32
	mask uint32
	// wants are the names or globs that an ancestor is watched for.
	wants map[string]bool
	// root is set for a root, container for a container's directory.
	root      *watchedRoot
	container *followed
}

// watchedRoot is a root with its containers or bundles by id.
type watchedRoot struct {
	root
	ids map[string]*followed
}

// followed is one container, or one bundle whose options are not known yet.
type followed struct {
	root *watchedRoot
	id   string
	ino  uint64
	// last is the last good reading, without the parsed file.
	last *reading
	// layer is kept from the create to the start, when only State changes.
	layer *workload.Container
	// seen is the version last read, bad ones too.
	seen stamp
	// settled: the bundle's options have been read.
	settled bool
}

func (f *followed) path() string { return filepath.Join(f.root.path, f.id) }

func (w *watcher) run(ctx context.Context) error {
	next := w.nextRescan()
	for {
		list, err := w.n.read(ctx, next)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("watch: read inotify: %w: %w", collectors.ErrUnavailable, err)
		}
		overflow := false
		for _, ev := range list {
			overflow = overflow || ev.mask&unix.IN_Q_OVERFLOW != 0
			w.handle(ev)
		}
		if overflow {
			w.c.log.Warn("inotify queue overflow, reading all state again")
			w.recheck()
		}
		if overflow || w.stale || !time.Now().Before(next) {
			w.rescan(ctx)
			next = w.nextRescan()
		} else if w.blind && time.Until(next) > rescanBlind {
			next = w.nextRescan()
		}
	}
}

func (w *watcher) nextRescan() time.Time {
	every := rescanEvery
	if w.blind {
		every = rescanBlind
	}
	return time.Now().Add(beat.Until(every))
}

// handle takes one event.
func (w *watcher) handle(ev notice) {
	d := w.byWD[ev.wd]
	if d == nil {
		return
	}
	if ev.mask&unix.IN_IGNORED != 0 { // the directory is gone, and its watch
		w.forget(d)
		w.stale = w.stale || d.container == nil
		return
	}
	if ev.mask&(unix.IN_DELETE_SELF|unix.IN_MOVE_SELF) != 0 || d.wanted(ev.name) {
		w.stale = true
	}
	if d.root != nil {
		w.handleRoot(d, ev)
	}
	if d.container != nil {
		w.handleContainer(d.container, ev)
	}
}

func (d *watched) wanted(name string) bool {
	for glob := range d.wants {
		if ok, _ := filepath.Match(glob, name); ok {
			return true
		}
	}
	return false
}

func (w *watcher) handleRoot(d *watched, ev notice) {
	switch {
	case ev.mask&unix.IN_ISDIR == 0 || !validID(ev.name):
	case ev.mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		w.follow(d.root, ev.name)
	case ev.mask&(unix.IN_DELETE|unix.IN_MOVED_FROM) != 0:
		// The event may be old and the name taken again: then the next look finds the other inode.
		if f := d.root.ids[ev.name]; f != nil && !w.alive(f) {
			w.unfollow(f)
		}
	}
}

// alive says whether the directory is still the one that is followed.
func (w *watcher) alive(f *followed) bool {
	var st unix.Stat_t
	return unix.Lstat(f.path(), &st) == nil && st.Ino == f.ino
}

func (w *watcher) handleContainer(f *followed, ev notice) {
	switch {
	case f.root.bundles:
		if ev.name == "options.json" {
			w.learn(f)
		}
	case ev.mask&unix.IN_DELETE != 0:
		if ev.name == fileFIFO {
			w.started(f)
		}
	case ev.name == fileState, ev.name == fileStatus, ev.name == fileYoukiConfig:
		w.readAgain(f)
	}
}

// rescan walks the globs and reads all roots' directories.
func (w *watcher) rescan(ctx context.Context) {
	w.stale, w.blind = false, false
	found := make(map[string]bool)
	var roots []root
	w.c.expand(w.watchAncestor, func(r root) {
		if ctx.Err() != nil {
			return
		}
		found[r.path] = true
		roots = append(roots, r)
		w.scanRoot(r)
	})
	if ctx.Err() != nil {
		return
	}
	w.idx.setRoots(roots)
	for path, r := range w.roots {
		if found[path] {
			continue
		}
		for _, f := range r.ids {
			w.unfollow(f)
		}
		delete(w.roots, path)
		if d := w.dirs[path]; d != nil {
			w.drop(d)
		}
	}
}

// watchAncestor is called before a directory is searched for elem.
func (w *watcher) watchAncestor(dir, elem string) {
	d := w.watch(dir, maskAncestor)
	if d == nil {
		return
	}
	if d.wants == nil {
		d.wants = make(map[string]bool)
	}
	d.wants[elem] = true
}

// scanRoot compares a root's directory with what is followed.
func (w *watcher) scanRoot(r root) {
	wr := w.roots[r.path]
	if wr == nil {
		wr = &watchedRoot{root: r, ids: make(map[string]*followed)}
		w.roots[r.path] = wr
	}
	if d := w.watch(r.path, maskRoot); d != nil {
		d.root = wr
	}
	list, err := subdirs(r.path)
	if err != nil && !missing(err) {
		w.c.log.Debug("state directory not read", "path", r.path, "err", err)
		return
	}
	there := make(map[string]uint64, len(list))
	for _, e := range list {
		there[e.name] = e.ino
	}
	for id, f := range wr.ids {
		if there[id] != f.ino {
			w.unfollow(f)
		}
	}
	for _, e := range list {
		if validID(e.name) {
			w.follow(wr, e.name)
		}
	}
}

// follow begins with a container, or looks again at one that has no watch.
func (w *watcher) follow(r *watchedRoot, id string) {
	f := r.ids[id]
	switch {
	case f == nil:
		if f = w.begin(r, id); f == nil {
			return
		}
	case w.dirs[f.path()] != nil || f.settled:
		return // what is new is announced, or nothing can be
	default:
		if w.blind = true; f.unchanged() {
			return
		}
	}
	if r.bundles {
		w.learn(f)
	} else {
		w.readAgain(f)
	}
}

// unchanged looks at the files of a container without a watch, and opens none.
func (f *followed) unchanged() bool {
	if f.last == nil || (f.last.life == workload.StateCreated) != has(f.path(), fileFIFO) {
		return false
	}
	now, err := stateStamp(f.path())
	return err == nil && now == f.seen
}

// begin watches first and reads then, so that nothing falls between.
func (w *watcher) begin(r *watchedRoot, id string) *followed {
	if w.count >= maxEntries {
		return nil
	}
	f := &followed{root: r, id: id}
	if d := w.watch(f.path(), maskContainer); d != nil {
		d.container = f
	}
	var st unix.Stat_t
	if err := unix.Lstat(f.path(), &st); err != nil {
		w.dropPath(f.path())
		return nil
	}
	f.ino = st.Ino
	r.ids[id] = f
	w.count++
	return f
}

// unfollow ends with a container, and says so if anyone was told of it.
func (w *watcher) unfollow(f *followed) {
	delete(f.root.ids, f.id)
	w.count--
	w.dropPath(f.path())
	w.idx.remove(f.root.path, f.id)
	if f.last != nil {
		w.fn(collectors.Hint{Kind: collectors.HintDeleted, ID: f.last.containerID()})
	}
}

// learn reads a shim's options, once they are there.
func (w *watcher) learn(f *followed) {
	if f.settled {
		return
	}
	b, err := w.c.readBundle(f.root.root, f.id)
	if err != nil {
		return
	}
	if w.c.learn(b) {
		w.stale = true
	}
	if f.settled = b.optioned; f.settled {
		w.dropPath(f.path())
	}
}

// readAgain reads a container's state if its file is another than before.
func (w *watcher) readAgain(f *followed) {
	var r *reading
	var layer *workload.Container
	var err error
	if f.last == nil {
		r, layer, err = w.c.look(f.root.root, f.id)
	} else {
		r, err = w.c.read(f.root.root, f.id)
	}
	if err != nil {
		if !errors.Is(err, errNoState) && !missing(err) {
			w.c.log.Debug("state not read", "container", f.id, "err", err)
		}
		return
	}
	if sameRun(f.last, r) && f.seen == r.stamp && f.last.life == r.life {
		return
	}
	kind := kindOf(f.last, r)
	if layer == nil {
		layer = w.c.describe(r)
	}
	w.idx.put(r, w.c.hierarchies(false).unified)
	f.seen, f.last, f.layer = r.stamp, r.small(), nil
	if r.life == workload.StateCreated {
		f.layer = layer
	}
	w.fn(collectors.Hint{Kind: kind, ID: layer.ID, Layer: layer})
}

// kindOf says what the difference between two readings means.
func kindOf(old, now *reading) collectors.HintKind {
	switch {
	case sameRun(old, now) && old.life == now.life:
		return collectors.HintChanged
	case now.life == workload.StateCreated:
		return collectors.HintCreated
	case now.life == workload.StateExited:
		return collectors.HintExited
	case sameRun(old, now) && old.life != workload.StateCreated:
		return collectors.HintChanged // paused, resumed
	}
	return collectors.HintStarted
}

// started: the FIFO is gone, so the user's program runs or is about to. Nothing is read.
func (w *watcher) started(f *followed) {
	if f.layer == nil {
		return
	}
	layer := *f.layer
	layer.State = workload.StateRunning
	f.layer = nil
	f.last.life = workload.StateRunning
	w.fn(collectors.Hint{Kind: collectors.HintStarted, ID: layer.ID, Layer: &layer})
}

// recheck reads every state again whose events may be among the lost.
func (w *watcher) recheck() {
	for _, r := range w.roots {
		for _, f := range r.ids {
			if !r.bundles {
				w.readAgain(f)
			}
		}
	}
}
