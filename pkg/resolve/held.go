// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"math/bits"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// maxHeld bounds the descriptors, and with them what the kernel keeps of
	// processes that have ended since: about 1 KiB each.
	maxHeld = 4096
	// heldShare is the share of the process's limit of descriptors that may be
	// held: the others are the agent's.
	heldShare = 4
	// ways is in how many places a PID may be. Neighbours are in different sets.
	ways = 4
	// lately is how many PIDs are remembered for having been asked about.
	lately = 2 * maxHeld
)

// held are pidfds of processes that are asked about again and again, by which
// one poll(2) tells of hundreds of PIDs whose they are now. To open, stat and
// close each anew takes three system calls for a PID, and longer than all else
// about its answer.
//
// It is as strong as opening anew, whose proof is that the number belongs to
// the struct pid that was opened, whose inode is its key for ever. A held pidfd
// is of such a struct pid. It is not readable only while a task that has not
// ended is attached to that (kernel/fork.c and fs/pidfs.c, pidfd_poll), and the
// number is given up only when no task is (kernel/pid.c, free_pid): so the
// number is still this one's, and opening would find the same inode.
//   - A zombie and whatever was reaped is readable, and is looked at anew, as is
//     whoever has the number afterwards.
//   - A thread that calls execve and does not lead its process takes the leader's
//     struct pid over (fs/exec.c, de_thread): key and number stay.
//   - A leader that has ended before its threads is not readable, and still has
//     the number.
//   - Numbers are those of our own PID namespace in both ways, and a struct pid
//     never changes them.
//
// It needs no capability: a poll asks nobody's permission, as a signal 0 would.
type held struct {
	// mu is locked to close and to add, and read-locked to look: a number that
	// was closed could be any other file's by then. Nobody waits for it.
	mu     sync.RWMutex
	sets   [][ways]slot // a power of two of them, or none
	closed bool
	count  atomic.Int64

	asked []atomic.Uint32 // PIDs that were asked about lately, by their last bits
}

// slot holds a process, or none where the PID is 0.
type slot struct {
	pid   workload.PID
	fd    int32
	inode uint64
	used  atomic.Bool // since the hand passed
}

// newHeld holds so many processes at most, rounded down to a power of two.
func newHeld(most int) *held {
	h := &held{asked: make([]atomic.Uint32, lately)}
	if n := min(most, maxHeld) / ways; n > 0 {
		h.sets = make([][ways]slot, 1<<(bits.Len(uint(n))-1))
	}
	return h
}

// mayHold is how many descriptors the limit of this process leaves.
func mayHold() int {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return int(min(l.Cur/heldShare, maxHeld))
}

func (h *held) set(pid workload.PID) *[ways]slot {
	if len(h.sets) == 0 {
		return nil
	}
	return &h.sets[int(pid)&(len(h.sets)-1)]
}

// find gives the slot of a PID. The caller has mu, for reading at least.
func (h *held) find(pid workload.PID) *slot {
	set := h.set(pid)
	if set == nil {
		return nil
	}
	for i := range set {
		if s := &set[i]; s.pid == pid {
			return s
		}
	}
	return nil
}

// look is a poll over held processes.
type look struct {
	fds  [lookSize]unix.PollFd
	keys [lookSize]workload.ProcessKey
	n    int
}

// lookSize is how many processes are looked at by one call.
const lookSize = 256

// add takes a PID in, where it is held. The caller has mu until it has polled.
func (l *look) add(h *held, pid workload.PID) bool {
	s := h.find(pid)
	if s == nil {
		return false
	}
	if !s.used.Load() {
		s.used.Store(true)
	}
	l.fds[l.n] = unix.PollFd{Fd: s.fd, Events: unix.POLLIN}
	l.keys[l.n] = workload.ProcessKey{PID: pid, Inode: s.inode}
	l.n++
	return true
}

// poll looks. Where it fails, as with more descriptors than the process may
// open by now, nothing was proved.
func (l *look) poll() bool {
	if l.n == 0 {
		return false
	}
	_, err := unix.Poll(l.fds[:l.n], 0)
	return err == nil
}

// alive reports whether process i of the look has its PID.
func (l *look) alive(i int) bool { return l.fds[i].Revents == 0 }

// key gives the key of the process that has the PID now, where it is held.
func (h *held) key(pid workload.PID) (workload.ProcessKey, bool) {
	if !h.mu.TryRLock() {
		return workload.ProcessKey{}, false
	}
	defer h.mu.RUnlock()
	s := h.find(pid)
	if s == nil {
		return workload.ProcessKey{}, false
	}
	if !s.used.Load() {
		s.used.Store(true)
	}
	p := [...]unix.PollFd{{Fd: s.fd, Events: unix.POLLIN}}
	_, err := unix.Poll(p[:], 0)
	return workload.ProcessKey{PID: pid, Inode: s.inode}, err == nil && p[0].Revents == 0
}

// take takes the pidfd of a process over that was asked about before, lately.
// False: it stays the caller's.
func (h *held) take(k workload.ProcessKey, fd int) bool {
	if asked := &h.asked[int(k.PID)&(len(h.asked)-1)]; asked.Load() != uint32(k.PID) {
		asked.Store(uint32(k.PID))
		return false
	}
	if !h.mu.TryLock() {
		return false
	}
	defer h.mu.Unlock()
	if h.closed || len(h.sets) == 0 {
		return false
	}
	s := h.find(k.PID)
	switch {
	case s == nil:
		s = free(h.set(k.PID))
	case s.inode == k.Inode:
		return false // it is held, and has ended
	}
	h.empty(s)
	s.pid, s.inode, s.fd = k.PID, k.Inode, int32(fd)
	s.used.Store(true)
	h.count.Add(1)
	return true
}

// free gives a slot that is empty, or whose process was not asked about since
// the last time that one was needed.
func free(set *[ways]slot) *slot {
	for i := range set {
		if set[i].pid == 0 {
			return &set[i]
		}
	}
	for i := range set {
		if !set[i].used.Swap(false) {
			return &set[i]
		}
	}
	return &set[0]
}

// drop lets go of whoever had a PID that nobody has.
func (h *held) drop(pid workload.PID) {
	if !h.mu.TryLock() {
		return
	}
	defer h.mu.Unlock()
	if s := h.find(pid); s != nil {
		h.empty(s)
	}
}

// empty closes what a slot has. The caller has mu.
func (h *held) empty(s *slot) {
	if s.pid == 0 {
		return
	}
	_ = unix.Close(int(s.fd)) // nothing was written to it
	s.pid, s.fd, s.inode = 0, -1, 0
	h.count.Add(-1)
}

// close lets go of all, for good.
func (h *held) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for i := range h.sets {
		for j := range h.sets[i] {
			h.empty(&h.sets[i][j])
		}
	}
}
