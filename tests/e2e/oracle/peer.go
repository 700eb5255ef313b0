// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/oracle/report"
)

// process is one process instance that has reported.
type process struct {
	party *Party
	conn  *net.UnixConn
	pidfd int
	pid   workload.PID
	inode uint64 // pidfs's, 0 before Linux 6.9
	nspid workload.PID
	// born is when it was made, in ns since boot, or a little earlier.
	born   uint64
	said   uint64 // when its own first instruction was, or its parent's fork
	met    uint64 // when its report was there: whoever has its PID and began later is another
	reused bool
	stays  bool

	refs atomic.Int64 // the pidfd is closed with the last

	mu     sync.Mutex // guards all below
	ticks  uint64     // start of /proc/PID/stat in ns, 0 until asked for
	own    uint64     // start as pidigree gave it, 0 until then
	groups []cgroupQuestion
	turn   int
}

// cgroupQuestion is a cgroup that the process is in.
type cgroupQuestion struct {
	id   workload.CgroupID
	path string
}

// accept takes reports until the oracle ends.
func (o *Oracle) accept() {
	for {
		conn, err := o.ln.AcceptUnix()
		if err != nil {
			if o.ctx.Err() == nil {
				o.tb.Errorf("the oracle's socket: %v", err)
			}
			return
		}
		o.running.Go(func() { o.serve(conn) })
	}
}

// reportTimeout bounds how long a peer may take for its message.
const reportTimeout = 10 * time.Second

// serve is the life of one report.
func (o *Oracle) serve(conn *net.UnixConn) {
	defer conn.Close()
	stop := make(chan struct{})
	defer close(stop)
	o.running.Go(func() { // so that no peer outlives the oracle
		select {
		case <-o.ctx.Done():
			_ = conn.SetDeadline(time.Now())
		case <-stop:
		}
	})
	p := &process{conn: conn, pidfd: -1}
	p.refs.Store(1)
	defer p.release()
	switch err := o.meet(p); {
	case errors.Is(err, io.EOF) && p.hasEnded():
		return // it was killed before it said anything: there is nobody to ask about
	case err != nil:
		o.tally.stray(err)
		return
	}
	o.enter(p)
	defer o.leave(p)
	o.firstRound(p)
	if !p.stays {
		o.linger()
		_, _ = conn.Write([]byte{'k'}) // one that was killed meanwhile does not read it
		o.leave(p)
		o.afterwards(p)
		return
	}
	_, _ = io.Copy(io.Discard, conn) // until it ends
}

// meet learns who it is: the kernel says which process, the nonce says whose.
func (o *Oracle) meet(p *process) error {
	who := p.identify() // first, while it lives
	if err := p.conn.SetReadDeadline(time.Now().Add(reportTimeout)); err != nil {
		return err
	}
	var b [report.Size]byte
	if _, err := io.ReadFull(p.conn, b[:]); err != nil {
		return err
	}
	m, err := report.Decode(b)
	if err != nil {
		return err
	}
	if err := p.conn.SetReadDeadline(time.Time{}); err != nil || o.ctx.Err() != nil {
		return errors.Join(err, o.ctx.Err())
	}
	p.nspid, p.reused, p.stays = workload.PID(m.NSPID), m.Flags&report.Reused != 0, m.Flags&report.Stay != 0
	o.mu.Lock()
	p.party = o.byNonce[m.Nonce]
	o.mu.Unlock()
	if p.party == nil {
		return errors.New("a report with a nonce that nobody was given")
	}
	if who != nil {
		return who
	}
	p.said, p.born, p.met = m.Born, m.Born, report.SinceBoot()
	if ticks := p.startTicks(); m.Flags&report.Exact == 0 && ticks != 0 { // it knows when it came to main, not when it was forked
		p.born = min(p.born, ticks+workload.TickNS)
	}
	return nil
}

// hasEnded reports whether a process that has closed its socket has ended: its files
// go a moment before it does. One whose pidfd could not be had was gone already.
func (p *process) hasEnded() bool {
	return p.pidfd < 0 || p.endsWithin(time.Second)
}

// identify takes the pidfd of the peer.
func (p *process) identify() (err error) {
	raw, err := p.conn.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	cerr := raw.Control(func(fd uintptr) {
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return
		}
		p.pidfd, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	})
	if cerr != nil {
		return cerr
	}
	if errors.Is(err, unix.ENOPROTOOPT) { // before 6.5: it waits, so its PID is still its own
		p.pidfd, err = unix.PidfdOpen(int(cred.Pid), 0)
	}
	if err != nil {
		p.pidfd = -1
		return fmt.Errorf("pidfd of a peer: %w", err)
	}
	unix.CloseOnExec(p.pidfd)
	p.pid = workload.PID(cred.Pid)
	var vfs unix.Statfs_t
	var st unix.Stat_t
	if unix.Fstatfs(p.pidfd, &vfs) == nil && vfs.Type == unix.PID_FS_MAGIC && unix.Fstat(p.pidfd, &st) == nil {
		p.inode = st.Ino
	}
	return nil
}

// release gives back one reference to the pidfd.
func (p *process) release() {
	if p.refs.Add(-1) == 0 && p.pidfd >= 0 {
		_ = unix.Close(p.pidfd)
	}
}

// alive reports whether the process has not ended; a zombie has.
func (p *process) alive() bool { return !p.endsWithin(0) }

// endsWithin waits for the end of the process; a signal to this one makes it wait anew.
func (p *process) endsWithin(d time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, int(d.Milliseconds()))
		if !errors.Is(err, unix.EINTR) {
			return err != nil || n > 0
		}
	}
}

// exiting is the kernel's PF_EXITING (include/linux/sched.h), in field 9 of /proc/PID/stat.
const exiting = 0x4

// ending reports whether every thread of the process is past its last
// instruction: the kernel says so some time before a pidfd does, when it has
// given back what the process had.
func (p *process) ending() bool {
	tasks, err := filepath.Glob(procPath(p.pid, "task", "*", "stat"))
	if err != nil {
		return false
	}
	for _, t := range tasks {
		b, err := os.ReadFile(t)
		fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
		if err != nil || len(fields) < 7 {
			continue // it is gone by now
		}
		if flags, err := strconv.ParseUint(string(fields[6]), 10, 64); err != nil || flags&exiting == 0 {
			return !p.alive() // if it has ended since, this is of whoever has its PID now
		}
	}
	return true
}

// startTicks is the start of /proc/PID/stat in nanoseconds, 0 if it cannot be
// said: the process must live through the reading.
func (p *process) startTicks() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ticks != 0 {
		return p.ticks
	}
	b, err := os.ReadFile(procPath(p.pid, "stat"))
	if err != nil || !p.alive() {
		return 0
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(string(fields[19]), 10, 64) // field 22 of proc(5), in clock ticks
	p.ticks = n * workload.TickNS
	return p.ticks
}

// thread gives one of the process's other threads, 0 if it has none.
func (p *process) thread() workload.PID {
	dir, err := os.ReadDir(procPath(p.pid, "task"))
	if err != nil || !p.alive() {
		return 0
	}
	p.mu.Lock()
	p.turn++
	turn := p.turn
	p.mu.Unlock()
	var tids []workload.PID
	for _, d := range dir {
		if n, err := strconv.ParseUint(d.Name(), 10, 32); err == nil && workload.PID(n) != p.pid {
			tids = append(tids, workload.PID(n))
		}
	}
	if len(tids) == 0 {
		return 0
	}
	return tids[turn%len(tids)]
}

// word is a PID as it is written.
func word(pid workload.PID) string { return strconv.FormatUint(uint64(pid), 10) }

// procPath is a path below a process's directory.
func procPath(pid workload.PID, names ...string) string {
	return filepath.Join(append([]string{"/proc", word(pid)}, names...)...)
}

// hasThread reports whether the thread is still the process's.
func (p *process) hasThread(tid workload.PID) bool {
	_, err := os.Stat(procPath(p.pid, "task", word(tid)))
	return err == nil && p.alive()
}

// age is how old the process is.
func (p *process) age() time.Duration {
	return time.Duration(report.SinceBoot() - p.born)
}

// enter makes the process one that the sweeps ask about.
func (o *Oracle) enter(p *process) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.live[p] = struct{}{}
	p.party.mu.Lock()
	p.party.reports++
	p.party.mu.Unlock()
	if p.inode != 0 {
		if _, again := o.met[p.inode]; again { // after an exec
			return
		}
		o.met[p.inode] = p.party
	}
	o.tally.processes.Add(1)
	if p.reused {
		o.tally.reused.Add(1)
	}
}

// leave takes it out again.
func (o *Oracle) leave(p *process) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.live, p)
}
