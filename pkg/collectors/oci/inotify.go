// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// notifier is one inotify instance, read through the runtime's poller, so that
// a deadline and a close end a read. Without a file it is blind: it has no watch
// and no event, and a read is a wait.
type notifier struct {
	fd   int
	file *os.File
	buf  []byte
}

// notice is one inotify event.
type notice struct {
	wd   int32
	mask uint32
	name string
}

func newNotifier() (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make an inotify instance: %w", err)
	}
	return &notifier{fd: fd, file: os.NewFile(uintptr(fd), "inotify"), buf: make([]byte, 64<<10)}, nil
}

func (n *notifier) close() {
	if n.file != nil {
		_ = n.file.Close()
	}
}

// wake ends a read that is under way or comes next.
func (n *notifier) wake() {
	if n.file != nil {
		_ = n.file.SetReadDeadline(time.Unix(1, 0))
	}
}

// add watches a directory; the number is the kernel's name of the watch, the
// same for the same directory.
func (n *notifier) add(path string, mask uint32) (int32, error) {
	if n.file == nil {
		return -1, unix.ENOSPC
	}
	wd, err := unix.InotifyAddWatch(n.fd, path, mask|unix.IN_ONLYDIR)
	return int32(wd), err
}

func (n *notifier) remove(wd int32) {
	if n.file == nil {
		return
	}
	_, _ = unix.InotifyRmWatch(n.fd, uint32(wd)) // it may be gone already
}

// read waits for events until the deadline. The context is looked at after the
// deadline is set, so that a wake cannot be overwritten.
func (n *notifier) read(ctx context.Context, until time.Time) ([]notice, error) {
	if n.file == nil {
		return nil, pause(ctx, until)
	}
	if err := n.file.SetReadDeadline(until); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m, err := n.file.Read(n.buf)
	if err != nil {
		return nil, err
	}
	return parseNotices(n.buf[:m]), nil
}

// pause is a read of which nothing comes.
func pause(ctx context.Context, until time.Time) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return os.ErrDeadlineExceeded
	}
}

// parseNotices decodes struct inotify_event (include/uapi/linux/inotify.h): wd,
// mask, cookie and len of 4 bytes each, then the name, padded with NULs.
func parseNotices(buf []byte) []notice {
	var list []notice
	for len(buf) >= unix.SizeofInotifyEvent {
		end := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[12:]))
		if end > len(buf) {
			return list
		}
		name := buf[unix.SizeofInotifyEvent:end]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		list = append(list, notice{
			wd:   int32(binary.NativeEndian.Uint32(buf)),
			mask: binary.NativeEndian.Uint32(buf[4:]),
			name: string(name),
		})
		buf = buf[end:]
	}
	return list
}
