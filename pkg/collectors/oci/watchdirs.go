// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"errors"

	"golang.org/x/sys/unix"
)

// watch adds events to a directory's watch. It gives nil where there is none to
// be had; the rescan then has to do. The kernel is asked each time, for the name
// may be another directory's by now.
func (w *watcher) watch(path string, mask uint32) *watched {
	d := w.dirs[path]
	want := mask
	if d != nil {
		want |= d.mask
	}
	wd, err := w.n.add(path, want)
	if err != nil {
		w.refused(err)
		return nil
	}
	if d != nil && d.wd == wd {
		d.mask = want
		return d
	}
	if d != nil { // another directory by the same name
		w.drop(d)
	}
	if o := w.byWD[wd]; o != nil { // the same directory by another name
		w.forget(o)
	}
	d = &watched{path: path, wd: wd, mask: want}
	w.dirs[path], w.byWD[wd] = d, d
	return d
}

// refused says once that the kernel gives no more watches. One for a directory
// that is gone by now is not missed.
func (w *watcher) refused(err error) {
	w.blind = w.blind || !missing(err)
	if !errors.Is(err, unix.ENOSPC) || w.full {
		return
	}
	w.full = true
	w.c.log.Warn("no more inotify watches, state is read each second; raise fs.inotify.max_user_watches", "err", err)
}

// drop ends a watch.
func (w *watcher) drop(d *watched) {
	w.n.remove(d.wd)
	w.forget(d)
}

func (w *watcher) dropPath(path string) {
	if d := w.dirs[path]; d != nil {
		w.drop(d)
	}
}

// forget removes what the kernel has ended already.
func (w *watcher) forget(d *watched) {
	delete(w.byWD, d.wd)
	if w.dirs[d.path] == d {
		delete(w.dirs, d.path)
	}
}
