// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/tests/e2e/oracle/report"
)

// maxPending bounds the processes that are there at one time.
const maxPending = 16

// A maker makes processes by bare system calls. What a child needs is made
// before the fork: it has one thread, and a lock that another one held stays
// locked for ever, so it may neither allocate nor grow its stack.
type maker struct {
	dir     string
	message report.Message
	pending map[int]bool // children, by their PIDs here
	// A pipe holds a byte for each process that there may be yet: who has been
	// scored puts its own back. Of a daemon, or of a child's child, nobody else
	// tells when it has ended.
	places, back int

	wire [report.Size]byte
	addr syscall.RawSockaddrUnix
	alen uintptr
	path *byte    // of the program to execute
	argv []*byte  // its arguments
	envv []*byte  // none
	size uintptr  // of wire
	tids [2]int32 // for clone3
	args cloneArgs
}

// cloneArgs is struct clone_args, include/uapi/linux/sched.h, as of 5.5 (set_tid).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls uint64
	setTID, setTIDSize                                                   uint64
}

func newMaker(dir string) (*maker, error) {
	m := &maker{dir: dir, size: report.Size, pending: map[int]bool{}}
	var err error
	if m.message, err = report.Prepare(dir); err != nil {
		return nil, err
	}
	m.message.Flags |= report.Exact
	sock := filepath.Join(dir, report.SocketFile)
	if len(sock) >= len(m.addr.Path) {
		return nil, fmt.Errorf("%s is too long for a socket", sock)
	}
	m.addr.Family = unix.AF_UNIX
	for i := range len(sock) {
		m.addr.Path[i] = int8(sock[i])
	}
	m.alen = unsafe.Sizeof(m.addr.Family) + uintptr(len(sock)) + 1
	if m.path, err = syscall.BytePtrFromString(program(dir)); err != nil {
		return nil, err
	}
	if m.argv, err = syscall.SlicePtrFromStrings([]string{"other", "once", "-dir", dir}); err != nil {
		return nil, err
	}
	if m.envv, err = syscall.SlicePtrFromStrings(nil); err != nil {
		return nil, err
	}
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	m.places, m.back = pipe[0], pipe[1]
	return m, m.putBack(maxPending)
}

// take waits until n more processes may be there.
func (m *maker) take(n int) error {
	var b [1]byte
	for ; n > 0; n-- {
		if _, err := unix.Read(m.places, b[:]); err == unix.EINTR {
			n++
		} else if err != nil {
			return err
		}
	}
	return nil
}

func (m *maker) putBack(n int) error {
	_, err := unix.Write(m.back, make([]byte, n))
	return err
}

// make makes a process of a kind, or a few that belong together.
func (m *maker) make(kind string) error {
	switch kind {
	case "fork":
		return m.start(plan{})
	case "tree":
		return m.start(plan{levels: 3})
	case "exec":
		return m.start(plan{exec: true})
	case "session":
		return m.start(plan{setsid: true})
	case "daemon":
		return m.start(plan{setsid: true, daemon: true})
	}
	return fmt.Errorf("no kind %q: fork, tree, exec, session or daemon", kind)
}

// A plan says what a child does beside reporting.
type plan struct {
	levels int  // fork again so many times, each level reports
	setsid bool // in a session of its own
	daemon bool // by a parent that ends at once
	exec   bool // and then execute the program, which reports once more
}

func (m *maker) start(p plan) error {
	m.args = cloneArgs{}
	return m.fork(p)
}

// forkAs makes a process with this PID on the host, and in every PID namespace
// on the way: the caller's and, where the caller is in a container, the host's.
func (m *maker) forkAs(pid int) error {
	m.tids = [2]int32{int32(pid), int32(pid)}
	levels := uint64(1)
	if inNamespace {
		levels = 2
	}
	m.args = cloneArgs{exitSignal: uint64(unix.SIGCHLD), setTID: uint64(uintptr(unsafe.Pointer(&m.tids))), setTIDSize: levels}
	return m.fork(plan{})
}

// inNamespace: the initial PID namespace has a fixed inode, PROC_PID_INIT_INO.
var inNamespace = func() bool {
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/pid", &st) == nil && st.Ino != 0xEFFFFFFC
}()

func (m *maker) fork(p plan) error {
	if err := m.take(1 + p.levels); err != nil {
		return err
	}
	m.message.Born = report.SinceBoot()
	m.wire = m.message.Encode()
	pid, errno := rawFork(m, p)
	if errno != 0 {
		return errors.Join(errno, m.putBack(1+p.levels))
	}
	m.pending[pid] = true
	return nil
}

// reap takes those that have ended, and waits for all where it is told to; it never
// lets too many live. The orphans that come to an init are its own to reap: left,
// they would use up the host's PIDs. A child that could not report is an error: the
// oracle is gone.
func (m *maker) reap(all bool) error {
	for {
		options := unix.WNOHANG
		if n := len(m.pending); all && n > 0 || n >= maxPending {
			options = 0
		}
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, options, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			clear(m.pending)
			return nil
		case pid == 0:
			return nil
		case status.Exited() && status.ExitStatus() != 0:
			return fmt.Errorf("child %d could not report: status %d", pid, status.ExitStatus())
		default:
			delete(m.pending, pid)
		}
	}
}

// rawFork forks; the child never returns. clone3 is for a chosen PID alone:
// engines forbid it by default.
//
//go:nosplit
//go:norace
func rawFork(m *maker, p plan) (int, syscall.Errno) {
	var pid uintptr
	var errno syscall.Errno
	if m.args.setTIDSize != 0 {
		pid, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(&m.args)), unsafe.Sizeof(m.args), 0)
	} else {
		pid, _, errno = syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	}
	if errno != 0 {
		return 0, errno
	}
	if pid == 0 {
		rawChild(m, p)
	}
	return int(pid), 0
}

// rawChild is all that a child does.
//
//go:nosplit
//go:norace
func rawChild(m *maker, p plan) {
	if p.setsid {
		syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0)
	}
	if p.daemon {
		if pid, _, _ := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0); pid != 0 {
			rawExit(0)
		}
	}
	for ; p.levels > 0; p.levels-- {
		if pid, _, _ := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0); pid != 0 {
			break // this one reports; the next level goes on
		}
	}
	rawReport(m)
	if p.exec {
		syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(m.path)), uintptr(unsafe.Pointer(&m.argv[0])), uintptr(unsafe.Pointer(&m.envv[0])))
		rawExit(1)
	}
	rawExit(0)
}

// rawReport connects, reports and waits to be scored.
//
//go:nosplit
//go:norace
func rawReport(m *maker) {
	pid, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
	*(*uint32)(unsafe.Pointer(&m.wire[report.NSPIDAt])) = uint32(pid)
	fd, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if errno != 0 {
		rawExit(2)
	}
	if _, _, errno = syscall.RawSyscall(unix.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&m.addr)), m.alen); errno != 0 {
		rawExit(3)
	}
	if n, _, _ := syscall.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&m.wire)), m.size); n != report.Size {
		rawExit(4)
	}
	// The byte that ends the wait goes where the message was.
	syscall.RawSyscall(unix.SYS_READ, fd, uintptr(unsafe.Pointer(&m.wire)), 1)
	syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	syscall.RawSyscall(unix.SYS_WRITE, uintptr(m.back), uintptr(unsafe.Pointer(&m.wire)), 1)
}

//go:nosplit
//go:norace
func rawExit(status uintptr) {
	for {
		syscall.RawSyscall(unix.SYS_EXIT_GROUP, status, 0, 0)
	}
}

// The layout is shared with the decoder by its constants; this is what rawReport
// relies on beyond them.
var _ = func() struct{} {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		fmt.Fprintln(os.Stderr, "work: only on a little-endian machine")
		os.Exit(1)
	}
	return struct{}{}
}()
