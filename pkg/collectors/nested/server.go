// SPDX-License-Identifier: Apache-2.0

package nested

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Server is the process that serves a socket: the first that a connection has met
// since Forget. Methods may be called concurrently.
type Server struct {
	procfs string

	mu  sync.Mutex // guards all below
	key workload.ProcessKey
}

// NewServer reads processes in procfs, which is that of this process's PID namespace.
func NewServer(procfs string) *Server { return &Server{procfs: procfs} }

// Key gives the process, zero before a connection was made.
func (s *Server) Key() workload.ProcessKey {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.key
}

// Forget makes the next connection's process the server.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = workload.ProcessKey{}
}

// Dialed looks at a new connection: its peer has to be the process that the ones
// before had. A socket that another process has taken over is another engine.
func (s *Server) Dialed(c net.Conn) error {
	key, err := s.peer(c)
	if err != nil {
		return fmt.Errorf("%w: who serves the socket: %w", collectors.ErrUnavailable, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.key.IsZero() {
		s.key = key
	}
	if !s.key.Same(key) {
		return fmt.Errorf("%w: the socket is served by process %s, and was by %s", collectors.ErrUnavailable, key, s.key)
	}
	return nil
}

// peer gives the process that listens at the other end. Its pidfd holds it while its
// start is read, so the PID cannot become another's in between.
func (s *Server) peer(c net.Conn) (key workload.ProcessKey, _ error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return key, errors.New("it is no unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return key, err
	}
	var cred *unix.Ucred
	pidfd := -1
	err = raw.Control(func(fd uintptr) {
		if cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pidfd, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		}
	})
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return key, errors.New("this kernel does not tell (SO_PEERPIDFD, Linux 6.5)")
	case err != nil:
		return key, err
	}
	defer unix.Close(pidfd)
	unix.CloseOnExec(pidfd)
	if cred.Pid <= 0 {
		return key, errors.New("it is in another PID namespace than this one")
	}
	start, err := startTicks(fmt.Sprintf("%s/%d/stat", s.procfs, cred.Pid))
	if err != nil {
		return key, err
	}
	if ended(pidfd) {
		return key, fmt.Errorf("process %d has ended", cred.Pid)
	}
	return workload.ProcessKey{PID: workload.PID(cred.Pid), Start: start * workload.TickNS, Ticks: true}, nil
}

// ended: the pidfd of a process that has ended can be read.
func ended(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err != nil || n > 0
}

// startTicks reads the start of a process, the 22nd field of its stat. The second is
// its name, which may have anything in it.
func startTicks(path string) (uint64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("%s is cut short", path)
	}
	return strconv.ParseUint(string(fields[19]), 10, 64)
}
