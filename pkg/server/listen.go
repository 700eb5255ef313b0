// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// DefaultSocket is the host's one agent's socket.
	DefaultSocket = "/run/pidigree/pidigree.sock"
	// DefaultGroup owns the socket where the host has such a group, else the agent's own does, which is root's.
	DefaultGroup = "pidigree"
)

// maxPath is the size of sun_path without its terminating zero.
const maxPath = 107

// modes are those of the socket and its directory.
type modes struct{ dir, socket fs.FileMode }

func modesFor(others bool) modes {
	if others {
		return modes{0o755, 0o666}
	}
	return modes{0o750, 0o660}
}

// ErrInUse means that another agent has the socket.
var ErrInUse = errors.New("another agent answers there")

// Listen makes the agent's socket, mode 0660, owned by the caller and the group
// (by name or number; empty: DefaultGroup if it exists, else the caller's), in a
// directory that it makes with mode 0750 if it is not there. With others every user
// may connect (0666 and 0755), and ask what the server lets him.
//
// A socket that was left behind is replaced; one that somebody answers on, a
// file that is no socket and one of another owner are not, and the error says
// what to do. A lock file beside the socket keeps two agents that start at once
// apart. Closing the listener removes the socket.
func Listen(path, group string, others bool) (net.Listener, error) {
	l, err := listen(path, group, modesFor(others))
	if errors.Is(err, fs.ErrPermission) {
		return nil, fmt.Errorf("listen on %s: %w: become root, or choose another path with --socket", path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func listen(path, group string, m modes) (*listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("the path has %d bytes and may have %d: choose a shorter one", len(path), maxPath)
	}
	gid, err := groupID(group)
	if err != nil {
		return nil, err
	}
	if err := makeDir(filepath.Dir(path), int(gid), m.dir); err != nil {
		return nil, err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	l, err := bind(path, int(gid), m.socket)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &listener{UnixListener: l, path: path, lock: lock}, nil
}

// groupID gives the number of a group; see Listen.
func groupID(name string) (uint32, error) {
	wanted := name
	if name == "" {
		wanted = DefaultGroup
	}
	g, err := user.LookupGroup(wanted)
	if err != nil && name == "" {
		return defaultGID(), nil
	}
	if err != nil {
		n, numErr := strconv.ParseUint(name, 10, 32)
		if numErr != nil {
			return 0, fmt.Errorf("there is no group %q: make it with groupadd, or name another one", name)
		}
		return uint32(n), nil
	}
	n, err := strconv.ParseUint(g.Gid, 10, 32)
	return uint32(n), err
}

// defaultGID is root's, and for an agent that does not run as root its own.
func defaultGID() uint32 {
	if os.Geteuid() == 0 {
		return 0
	}
	return uint32(os.Getegid())
}

// makeDir makes the socket's directory. One that is there already keeps its
// mode, as it may be anybody's, but for the default one, which is ours.
func makeDir(dir string, gid int, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	err := os.Mkdir(dir, mode)
	if errors.Is(err, fs.ErrExist) && dir != filepath.Dir(DefaultSocket) {
		return checkDir(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return errors.Join(checkDir(dir), os.Chown(dir, -1, gid), os.Chmod(dir, mode))
}

// checkDir refuses a directory in which somebody else could replace the socket.
func checkDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is no directory: remove it, or choose another path with --socket", dir)
	case ok && !ours(st.Uid):
		return fmt.Errorf("the directory %s belongs to uid %d: chown it to root, or choose another path with --socket", dir, st.Uid)
	case info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0:
		return fmt.Errorf("anybody may write to the directory %s: chmod o-w it, or choose another path with --socket", dir)
	}
	return nil
}

func ours(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

// lockFile takes a lock that ends with the process.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%w: stop it, or choose another path with --socket", ErrInUse)
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// bind is called under the lock.
func bind(path string, gid int, mode fs.FileMode) (*net.UnixListener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The file gets the mode that the descriptor has (unix_bind_bsd in
	// net/unix/af_unix.c): there is no instant at which anybody may connect.
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var modeErr error
		err := c.Control(func(fd uintptr) { modeErr = unix.Fchmod(int(fd), 0o600) })
		return cmp.Or(err, modeErr)
	}}
	l, err := lc.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	ul := l.(*net.UnixListener)
	if err := errors.Join(os.Chown(path, -1, gid), os.Chmod(path, mode)); err != nil {
		return nil, errors.Join(err, ul.Close())
	}
	return ul, nil
}

// removeStale removes a socket of ours that nobody answers on.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case info.Mode().Type() != fs.ModeSocket:
		return errors.New("there is a file that is no socket: remove it, or choose another path with --socket")
	case ok && !ours(st.Uid):
		return fmt.Errorf("the socket there belongs to uid %d: remove it, or choose another path with --socket", st.Uid)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		_ = conn.Close() // nothing was said on it
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		// It was taken, or its queue is full: somebody holds it.
		return fmt.Errorf("%w: stop it, or choose another path with --socket", ErrInUse)
	}
	return os.Remove(path)
}

// listener removes the socket and then lets the lock go.
type listener struct {
	*net.UnixListener
	path string
	lock *os.File
	once sync.Once
}

// Close may be called twice, as gRPC does.
func (l *listener) Close() error {
	var err error
	l.once.Do(func() { err = errors.Join(l.UnixListener.Close(), l.lock.Close()) })
	return err
}
