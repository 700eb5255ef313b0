// SPDX-License-Identifier: Apache-2.0

// Package dirwatch waits until something in a few directories may have changed, by
// inotify. It says that, and not what: who waits reads the directories again. What
// happens while nobody waits is one change, however often it happens, so a source of
// changes that is fast costs its reader no more than he wants to read.
//
// A Watcher is for one goroutine.
package dirwatch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// mask are the changes of a directory that count: entries that come, go or are
// written, and the end of the directory itself.
const mask = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_CLOSE_WRITE | unix.IN_DELETE | unix.IN_MOVED_FROM |
	unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_ONLYDIR

// Watcher is one inotify instance. The zero value hears of nothing: its Wait is a pause.
type Watcher struct {
	fd   int
	file *os.File
	buf  []byte
}

// New opens an instance. With an error, which the limits of the host can cause, the
// Watcher can be used all the same.
func New() (*Watcher, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return &Watcher{}, fmt.Errorf("make an inotify instance: %w", err)
	}
	return &Watcher{fd: fd, file: os.NewFile(uintptr(fd), "inotify"), buf: make([]byte, 16<<10)}, nil
}

// Close ends the instance.
func (w *Watcher) Close() {
	if w.file != nil {
		_ = w.file.Close()
	}
}

// Add watches the directory that has this name now. Adding it again does nothing,
// unless the name is another directory's by then.
func (w *Watcher) Add(path string) error {
	if w.file == nil {
		return nil
	}
	if _, err := unix.InotifyAddWatch(w.fd, path, mask); err != nil {
		return fmt.Errorf("watch %s: %w", path, err)
	}
	return nil
}

// Each calls look at once, and then whenever something may have changed or the time
// that look gave is over, but not within calm of its last return; until look or ctx
// gives an error, which it returns.
func (w *Watcher) Each(ctx context.Context, calm time.Duration, look func() (next time.Duration, _ error)) error {
	for {
		next, err := look()
		if err == nil {
			err = w.Wait(ctx, next)
		}
		if err == nil {
			err = pause(ctx, calm)
		}
		if err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Wait returns nil once something may have changed since the last Wait, or when the
// time is over, and the context's error when that ends.
func (w *Watcher) Wait(ctx context.Context, d time.Duration) error {
	if w.file == nil {
		return pause(ctx, d)
	}
	if err := w.file.SetReadDeadline(time.Now().Add(d)); err != nil {
		return err
	}
	// After the deadline is set, so that it is not set over this one.
	defer context.AfterFunc(ctx, func() { _ = w.file.SetReadDeadline(time.Unix(1, 0)) })()
	_, err := w.file.Read(w.buf)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("read inotify events: %w", err)
	}
	return nil
}
