// SPDX-License-Identifier: Apache-2.0

package tombfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The names in the directory.
const (
	fileName = "tombstones"
	newName  = "tombstones.new"
	lockName = "tombstones.lock"
)

const (
	dirMode  = 0o750
	fileMode = 0o600
)

// ErrInUse means that another agent keeps its tombstones there.
var ErrInUse = errors.New("another agent keeps its tombstones there")

// dir is the directory, held open: what is done in it is done in this one,
// whatever its path means later. lock is the agent's until it ends.
type dir struct {
	path string
	fd   int
	lock int
}

// openDir makes the directory where it is not there, and refuses one in which
// somebody else could put a file.
func openDir(path string) (_ *dir, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, dirMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	d := &dir{path: path, lock: -1}
	if d.fd, err = unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	switch {
	case !ours(st.Uid):
		return nil, fmt.Errorf("the directory %s belongs to uid %d: chown it to root", path, st.Uid)
	case st.Mode&0o002 != 0:
		return nil, fmt.Errorf("anybody may write to the directory %s: chmod o-w it", path)
	}
	return d, d.takeLock()
}

func ours(uid uint32) bool { return uid == 0 || int(uid) == os.Geteuid() }

func (d *dir) takeLock() (err error) {
	d.lock, err = unix.Openat(d.fd, lockName, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, fileMode)
	if err != nil {
		return d.failed("open", lockName, err)
	}
	switch err := unix.Flock(d.lock, unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("%w: choose another directory with --state-dir", ErrInUse)
	case err != nil:
		return d.failed("lock", lockName, err)
	}
	return nil
}

// open opens the file of an earlier agent: a regular one of ours that nobody
// else may read or write, of at most limit bytes, not by a link.
func (d *dir) open(limit int64) (_ *os.File, size int64, err error) {
	fd, err := unix.Openat(d.fd, fileName, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, 0, d.failed("open", fileName, err)
	}
	f := os.NewFile(uintptr(fd), filepath.Join(d.path, fileName))
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, 0, d.failed("stat", fileName, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, 0, fmt.Errorf("%w: it is no regular file", ErrBad)
	case !ours(st.Uid), st.Mode&0o077 != 0, st.Nlink != 1:
		return nil, 0, fmt.Errorf("%w: uid %d, mode %o, %d links: somebody else can write or read it", ErrBad, st.Uid, st.Mode&0o777, st.Nlink)
	case st.Size > limit:
		return nil, 0, fmt.Errorf("%w: it has %d bytes and may have %d", ErrBad, st.Size, limit)
	}
	return f, st.Size, nil
}

// create begins a new file beside the old one.
func (d *dir) create() (*os.File, error) {
	if err := unix.Unlinkat(d.fd, newName, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, d.failed("remove", newName, err)
	}
	fd, err := unix.Openat(d.fd, newName, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, fileMode)
	if err != nil {
		return nil, d.failed("create", newName, err)
	}
	return os.NewFile(uintptr(fd), filepath.Join(d.path, newName)), nil
}

// publish puts the new file in the place of the old one.
func (d *dir) publish() error {
	if err := unix.Renameat(d.fd, newName, d.fd, fileName); err != nil {
		return d.failed("rename", newName, err)
	}
	return nil
}

// discard removes a new file that is not complete.
func (d *dir) discard() { _ = unix.Unlinkat(d.fd, newName, 0) } // the next create tries again, and says why

func (d *dir) failed(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
}

// close may be called twice.
func (d *dir) close() {
	for _, fd := range []*int{&d.lock, &d.fd} {
		if *fd >= 0 {
			_ = unix.Close(*fd) // the lock goes with it
		}
		*fd = -1
	}
}
