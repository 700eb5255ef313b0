// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// waiter sleeps until a ring wakes its reader, until wake is called, or for a
// while.
//
// The rings are watched edge-triggered: most records are submitted without a
// wake-up and shall wait for the batch, while a level-triggered wait would end
// at once as long as there is anything to read.
type waiter struct {
	epoll int

	mu    sync.Mutex // guards all below: nobody may write to a number that is another file by now
	event int
}

func newWaiter(rings ...int) (*waiter, error) {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make epoll: %w", err)
	}
	event, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epoll)
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	w := &waiter{epoll: epoll, event: event}
	for _, fd := range append(rings, event) {
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(fd)}
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
			w.close()
			return nil, fmt.Errorf("watch ring: %w", err)
		}
	}
	return w, nil
}

// wait returns early for any wake-up since the last return.
func (w *waiter) wait(d time.Duration) error {
	var events [4]unix.EpollEvent
	_, err := unix.EpollWait(w.epoll, events[:], int(d.Milliseconds()))
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("wait for rings: %w", err)
	}
	return nil
}

// wake ends wait, now or when it is next called. Any goroutine may call it.
func (w *waiter) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.event < 0 {
		return
	}
	var one [8]byte
	binary.NativeEndian.PutUint64(one[:], 1)
	// Fails only where the counter is full, and then the edge is there already.
	_, _ = unix.Write(w.event, one[:])
}

// close must not be called while wait is.
func (w *waiter) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.event >= 0 {
		_ = unix.Close(w.event)
		_ = unix.Close(w.epoll)
	}
	w.event = -1
}
