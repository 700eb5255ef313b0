// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// waiter sleeps until a ring wakes its reader, until wake is called, or for a
// while.
//
// The rings are watched edge-triggered: most records are submitted without a
// wake-up and shall wait for the batch, while a level-triggered wait would end
// at once as long as there is anything to read.
//
// It waits through the runtime's poller, which takes an epoll instance like any
// other file. A thread that sleeps in epoll_wait(2) by itself would look to the
// runtime like one that computes: its monitor would look for it up to 80 times,
// for 10 ms, after each wake-up, and that was most of what an idle agent cost.
type waiter struct {
	epoll *os.File
	raw   syscall.RawConn

	mu    sync.Mutex // guards all below: nobody may write to a number that is another file by now
	event int
}

func newWaiter(rings ...int) (*waiter, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make epoll: %w", err)
	}
	w := &waiter{event: -1}
	if err := unix.SetNonblock(fd, true); err != nil { // it says that the file can be polled
		_ = unix.Close(fd)
		return nil, fmt.Errorf("make epoll: %w", err)
	}
	w.epoll = os.NewFile(uintptr(fd), "epoll")
	if err := w.open(fd, rings); err != nil {
		w.close()
		return nil, fmt.Errorf("watch rings: %w", err)
	}
	return w, nil
}

func (w *waiter) open(fd int, rings []int) (err error) {
	if err := w.epoll.SetReadDeadline(time.Time{}); err != nil { // the poller did not take it
		return err
	}
	if w.raw, err = w.epoll.SyscallConn(); err != nil {
		return err
	}
	if w.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return err
	}
	for _, f := range append(rings, w.event) {
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(f)}
		if err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, f, &ev); err != nil {
			return err
		}
	}
	return nil
}

// wait returns early for any wake-up since the last return.
func (w *waiter) wait(d time.Duration) error {
	if err := w.epoll.SetReadDeadline(time.Now().Add(d)); err != nil {
		return fmt.Errorf("wait for rings: %w", err)
	}
	err := w.raw.Read(w.look)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("wait for rings: %w", err)
	}
	return nil
}

// look takes the wake-ups that there are; true ends the wait.
func (w *waiter) look(fd uintptr) bool {
	var events [4]unix.EpollEvent
	n, err := unix.EpollWait(int(fd), events[:], 0)
	return n > 0 || err != nil
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
	_ = w.epoll.Close()
	if w.event >= 0 {
		_ = unix.Close(w.event)
	}
	w.event = -1
}
