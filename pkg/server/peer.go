// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Peer is the process that connected to the socket, as the kernel recorded it
// at connect(2).
type Peer struct {
	// PID is 0 where the peer's PID cannot be seen from the agent's PID namespace.
	PID workload.PID
	// PIDFD holds the process (SO_PEERPIDFD, Linux 6.5 and later), so that PID
	// cannot be reused unnoticed; nil on older kernels. It is the server's and
	// is closed when the connection ends: use it through SyscallConn only.
	PIDFD *os.File
	// held tells when the peer has ended: PIDFD, or before Linux 6.5 a pidfd that was
	// opened by PID once the connection was accepted. Whoever has the PID by then is
	// another only if all PIDs came around in between.
	held *os.File
	// UID, GID and Groups are as the agent's user namespace numbers them.
	UID, GID uint32
	Groups   []uint32
	// Key names the process by its pidfs inode (6.9 and later). It has only the
	// PID on older kernels, and is zero where PID is.
	Key workload.ProcessKey
	// namespace is the peer's PID namespace, 0 where that is the agent's own. It
	// bounds connections and decides nothing else: whose PID it was is not checked
	// again.
	namespace uint64
	// standing is the connection's, nil for a Peer that has none.
	standing *standing
	// Remote is the name in the verified certificate of a peer on another host, of which
	// nothing else is known; empty for a process of this one.
	Remote string
}

// InNamespace reports whether the peer is in the agent's own PID namespace.
func (p Peer) InNamespace() bool { return p.namespace == 0 }

// ended reports whether the peer has: its PID is not its own any more then.
func (p Peer) ended() bool {
	if p.held == nil {
		return false // its PID is nobody's here
	}
	gone := true // where the connection has ended meanwhile, too
	if raw, err := p.held.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) {
			for err = unix.EINTR; errors.Is(err, unix.EINTR); {
				var n int
				n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
				gone = err != nil || n > 0
			}
		})
	}
	return gone
}

// AuthType implements credentials.AuthInfo.
func (Peer) AuthType() string { return "peercred" }

// GetCommonAuthInfo says that nobody is on the line between two ends of a unix
// socket.
func (Peer) GetCommonAuthInfo() credentials.CommonAuthInfo {
	return credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}
}

// peerOf gives the peer of a call. Every connection has one: see peerCredentials.
func peerOf(ctx context.Context) Peer {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(Peer); ok {
			return info
		}
	}
	// Nobody: an id that no process has, in no group.
	return Peer{UID: noID, GID: noID}
}

// noID is the id that chown and setresuid take for "leave it"; nobody has it.
const noID = ^uint32(0)

// identify asks the kernel who is at the other end. The caller closes
// the Peer.
func identify(conn *net.UnixConn) (Peer, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return Peer{}, err
	}
	var p Peer
	var idErr error
	if err := raw.Control(func(fd uintptr) { p, idErr = identifyFD(int(fd)) }); err != nil {
		return Peer{}, err
	}
	return p, idErr
}

func identifyFD(fd int) (Peer, error) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return Peer{}, fmt.Errorf("SO_PEERCRED: %w", err)
	}
	p := Peer{PID: workload.PID(max(cred.Pid, 0)), UID: cred.Uid, GID: cred.Gid, standing: &standing{}}
	if p.Groups, err = peerGroups(fd); err != nil {
		return Peer{}, fmt.Errorf("SO_PEERGROUPS: %w", err)
	}
	p.namespace = pidNamespace(p.PID)
	if p.PID == 0 {
		return p, nil
	}
	p.Key.PID = p.PID
	if p.PIDFD, err = peerPIDFD(fd); err != nil {
		return Peer{}, err
	}
	if p.held = p.PIDFD; p.held == nil {
		p.held, err = openPIDFD(p.PID)
		return p, err
	}
	p.Key.Inode, err = pidfsInode(p.PIDFD)
	if err != nil {
		return Peer{}, errors.Join(err, p.close())
	}
	return p, nil
}

func (p Peer) close() error {
	if p.held == nil {
		return nil
	}
	return p.held.Close()
}

// nobodysNamespace stands for those that cannot be told: no namespace has it.
const nobodysNamespace = ^uint64(0)

// ownNamespace is the agent's.
var ownNamespace = sync.OnceValue(func() uint64 { return namespaceAt("/proc/self/ns/pid") })

// pidNamespace gives a process's PID namespace, 0 where it is the agent's.
func pidNamespace(pid workload.PID) uint64 {
	if pid == 0 {
		return nobodysNamespace // it is not below ours
	}
	ns := namespaceAt(fmt.Sprintf("/proc/%d/ns/pid", pid))
	if ns == ownNamespace() {
		return 0
	}
	return ns
}

func namespaceAt(path string) uint64 {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return nobodysNamespace // it is gone, or hidden from us
	}
	return st.Ino
}

// peerPIDFD gives nil before Linux 6.5. A peer that was reaped already is an
// error on most kernels: nobody is left to answer.
func peerPIDFD(fd int) (*os.File, error) {
	pidfd, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	switch {
	case errors.Is(err, unix.ENOPROTOOPT):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("SO_PEERPIDFD: %w", err)
	}
	return os.NewFile(uintptr(pidfd), "peer pidfd"), nil
}

// openPIDFD holds whoever has the PID now. A peer that was reaped already is an error.
func openPIDFD(pid workload.PID) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open of the peer: %w", err)
	}
	return os.NewFile(uintptr(pidfd), "peer pidfd"), nil
}

// pidfsInode gives 0 where pidfds are no files of pidfs (before 6.9) and all
// have the same inode.
func pidfsInode(pidfd *os.File) (uint64, error) {
	raw, err := pidfd.SyscallConn()
	if err != nil {
		return 0, err
	}
	var fs unix.Statfs_t
	var st unix.Stat_t
	var statErr error
	err = raw.Control(func(fd uintptr) {
		statErr = errors.Join(unix.Fstatfs(int(fd), &fs), unix.Fstat(int(fd), &st))
	})
	if err := errors.Join(err, statErr); err != nil {
		return 0, fmt.Errorf("stat pidfd: %w", err)
	}
	if fs.Type != unix.PID_FS_MAGIC {
		return 0, nil
	}
	return st.Ino, nil
}

// peerGroups reads the supplementary groups (SO_PEERGROUPS, 4.13 and later).
// A process may have 65,536; the kernel says how many bytes it wants.
func peerGroups(fd int) ([]uint32, error) {
	buf := make([]byte, 4*64)
	for {
		n, err := getsockopt(fd, unix.SO_PEERGROUPS, buf)
		if errors.Is(err, unix.ERANGE) && n > len(buf) && n <= 4*65536 {
			buf = make([]byte, n)
			continue
		}
		if err != nil {
			return nil, err
		}
		groups := make([]uint32, n/4)
		for i := range groups {
			groups[i] = binary.NativeEndian.Uint32(buf[4*i:])
		}
		return groups, nil
	}
}

// getsockopt exists because x/sys has no form for an option of any length. It
// gives the length that the kernel says, which with ERANGE is what it wants.
func getsockopt(fd, opt int, buf []byte) (int, error) {
	n := uint32(len(buf))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, uintptr(opt),
		uintptr(unsafe.Pointer(&buf[0])), uintptr(unsafe.Pointer(&n)), 0)
	if errno != 0 {
		return int(n), errno
	}
	return int(n), nil
}

// peerCredentials hands on what the listener found out; the kernel has
// authenticated the peer. It also looks at the first bytes, which tell whether
// the peer speaks gRPC at all.
type peerCredentials struct {
	frames func(*peerConn) // takes over a connection that begins with wire.FramesPreface
}

// ServerHandshake implements credentials.TransportCredentials.
func (p peerCredentials) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	pc, ok := c.(*peerConn)
	if !ok {
		return nil, nil, fmt.Errorf("peer of a %T: only unix sockets have one", c)
	}
	first := make([]byte, len(wire.FramesPreface)) // HTTP/2's is as long
	if _, err := io.ReadFull(pc.UnixConn, first); err != nil {
		return nil, nil, io.EOF // it spoke neither
	}
	if string(first) != wire.FramesPreface {
		return &begunConn{peerConn: pc, first: first}, pc.peer, nil
	}
	if err := pc.dispatch(); err != nil {
		return nil, nil, err
	}
	p.frames(pc)
	return nil, nil, credentials.ErrConnDispatched
}

// ClientHandshake is not for servers.
func (peerCredentials) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, syscall.ENOTSUP
}

// Info implements credentials.TransportCredentials.
func (peerCredentials) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "peercred"}
}

// Clone implements credentials.TransportCredentials.
func (p peerCredentials) Clone() credentials.TransportCredentials { return p }

// OverrideServerName implements credentials.TransportCredentials.
func (peerCredentials) OverrideServerName(string) error { return nil }
