// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// notifier says that a database may have changed, by inotify on the directories
// that databases are in. The zero value has no watch and says nothing.
//
// Who writes a database as fast as he can is heard as often as Watch is ready for
// it: until then nothing is read, and the kernel joins what is alike.
type notifier struct {
	fd   int
	file *os.File
	done chan struct{}
	// changed is sent to once for what a read has given.
	changed chan struct{}
}

// maskDatabase are the changes of a directory with a database in it.
const maskDatabase = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM

// notify begins; close ends it and waits for its goroutine.
func notify(ctx context.Context) (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return &notifier{}, fmt.Errorf("make an inotify instance: %w", err)
	}
	n := &notifier{fd: fd, file: os.NewFile(uintptr(fd), "inotify"), done: make(chan struct{}), changed: make(chan struct{})}
	go n.run(ctx)
	return n, nil
}

// run ends with its context.
func (n *notifier) run(ctx context.Context) {
	defer close(n.done)
	defer context.AfterFunc(ctx, func() { _ = n.file.SetReadDeadline(time.Unix(1, 0)) })()
	buf := make([]byte, 16<<10)
	for {
		m, err := n.file.Read(buf)
		if err != nil {
			return // the context has ended; else there is the interval
		}
		if !ofDatabase(buf[:m]) {
			continue
		}
		select {
		case n.changed <- struct{}{}:
		case <-ctx.Done():
			return
		}
	}
}

// close is called once the context of notify has ended.
func (n *notifier) close() {
	if n.file != nil {
		<-n.done
		_ = n.file.Close()
	}
}

// ofDatabase says whether one of the events is of a database, or of nothing that
// can be told: a directory that is gone, a queue that was full. An event is struct
// inotify_event (include/uapi/linux/inotify.h): wd, mask, cookie and len of 4 bytes
// each, then the name, padded with NULs.
func ofDatabase(buf []byte) bool {
	for len(buf) >= unix.SizeofInotifyEvent {
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		if end > len(buf) {
			return true
		}
		name, _, _ := bytes.Cut(buf[unix.SizeofInotifyEvent:end], []byte{0})
		if len(name) == 0 || bytes.HasPrefix(name, []byte("db.sql")) || string(name) == "bolt_state.db" || string(name) == "libpod" {
			return true
		}
		buf = buf[end:]
	}
	return false
}

// follow watches a store's directories, by that of the store which is open: watches
// that were of other directories by these names end.
func (n *notifier) follow(dir int, wds *[2]int32) error {
	if n.file == nil {
		return nil
	}
	var err error
	for i, name := range []string{".", "libpod"} {
		was := wds[i]
		wds[i], err = n.watch(dir, name)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			err = nil // not there yet, or no podman's
		}
		if was > 0 && was != wds[i] {
			_, _ = unix.InotifyRmWatch(n.fd, uint32(was)) // it may have gone with its directory
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// watch gives the kernel's number of the watch, the same for the same directory, or 0.
func (n *notifier) watch(dir int, name string) (int32, error) {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	// Of this very directory, whoever renames what meanwhile.
	wd, err := unix.InotifyAddWatch(n.fd, "/proc/self/fd/"+strconv.Itoa(fd), maskDatabase|unix.IN_ONLYDIR)
	if err != nil {
		return 0, fmt.Errorf("watch a directory: %w", err)
	}
	return int32(wd), nil
}
