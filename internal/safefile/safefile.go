// SPDX-License-Identifier: Apache-2.0

// Package safefile opens and reads files that somebody hostile may have had a
// hand in: a runtime's state, a bundle, an engine's files. It is the only way by
// which collectors read them.
//
// Guarantees: a name leads nowhere but beneath its directory, through no link
// (openat2, Linux 5.6); opening a FIFO or a device neither blocks nor does
// anything; only a regular file that its owner alone can write is read, no
// further than a limit, whatever it grows to meanwhile; what Read gives is one
// version of the file. Nothing is kept; all functions may be called concurrently.
package safefile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

var (
	// ErrUntrusted means that someone other than the owner could have written
	// it, or that it is no regular file, or is reached through a link.
	ErrUntrusted = errors.New("not trusted")
	// ErrTooLarge means that it is larger than the limit; it is an ErrUntrusted, too.
	ErrTooLarge = fmt.Errorf("too large: %w", ErrUntrusted)
	// ErrChanging means that it changed each time while it was read.
	ErrChanging = errors.New("changes while it is read")
)

// Trust says what is believed. The zero value believes root, files up to 4 MiB.
type Trust struct {
	// Owner is a user besides root to whom a file or directory may belong: the
	// one who runs a rootless runtime. Default 0, root alone.
	Owner uint32
	// Max is the size of the largest file, in bytes. Default 4 MiB.
	Max int64
}

const defaultMax = 4 << 20

// strict keeps a lookup beneath its directory and follows no link of any kind.
const strict = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// OpenTop opens a directory by an absolute path that an administrator or a
// runtime chose, which may lead through links (/var/run). host is where the
// host's root directory is mounted. The caller closes the descriptor.
func OpenTop(host, path string, t Trust) (fd int, err error) {
	top, err := unix.Open(host, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, pathError("open", host, err)
	}
	defer unix.Close(top)
	fd, err = openat2(top, path, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return -1, pathError("open", path, err)
	}
	return t.dir(fd, path)
}

// OpenDir opens a directory beneath another one. The caller closes the descriptor.
func OpenDir(dir int, name string, t Trust) (fd int, err error) {
	fd, err = openat2(dir, name, unix.O_PATH|unix.O_DIRECTORY, strict)
	if err != nil {
		return -1, pathError("open", name, err)
	}
	return t.dir(fd, name)
}

// dir closes fd and fails unless its owner alone can change the directory.
func (t Trust) dir(fd int, path string) (int, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil {
		err = t.owned(&st)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, pathError("trust", path, err)
	}
	return fd, nil
}

// owned fails where a user other than root or the owner may write.
func (t Trust) owned(st *unix.Stat_t) error {
	switch {
	case st.Uid != 0 && st.Uid != t.Owner:
		return fmt.Errorf("owned by user %d: %w", st.Uid, ErrUntrusted)
	case st.Mode&unix.S_IWOTH != 0:
		return fmt.Errorf("writable by everyone: %w", ErrUntrusted)
	case st.Mode&unix.S_IWGRP != 0 && st.Gid != 0:
		return fmt.Errorf("writable by group %d: %w", st.Gid, ErrUntrusted)
	}
	return nil
}

// readable says whether a file may be read and believed.
func (t Trust) readable(st *unix.Stat_t) error {
	limit := t.Max
	if limit <= 0 {
		limit = defaultMax
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return fmt.Errorf("not a regular file: %w", ErrUntrusted)
	case st.Size > limit:
		return fmt.Errorf("%d bytes, more than %d: %w", st.Size, limit, ErrTooLarge)
	}
	return t.owned(st)
}

// Stamp tells two versions of a file apart.
type Stamp struct {
	Dev, Ino     uint64
	Size         int64
	Mtime, Ctime unix.Timespec
}

// StampOf gives the version of a file that the caller has looked at.
func StampOf(st *unix.Stat_t) Stamp {
	return Stamp{Dev: st.Dev, Ino: st.Ino, Size: st.Size, Mtime: st.Mtim, Ctime: st.Ctim}
}

// Stat gives the version of a file beneath dir, and fails like Read.
func Stat(dir int, name string, t Trust) (Stamp, error) {
	st, fd, err := open(dir, name, t)
	if err != nil {
		return Stamp{}, err
	}
	return StampOf(&st), unix.Close(fd)
}

// Read gives fn one version of the file name beneath dir, whole. A file that is
// renamed into place is read once; one that is written in place may need more:
// then fn is called again, and what it made of the content before is void, as
// it is when Read fails. fn must read to the end, or fail.
func Read(dir int, name string, t Trust, fn func(io.Reader) error) (Stamp, error) {
	_, fd, err := open(dir, name, t)
	if err != nil {
		return Stamp{}, err
	}
	defer unix.Close(fd)
	stamp, err := t.read(fd, fn)
	if err != nil {
		return Stamp{}, pathError("read", name, err)
	}
	return stamp, nil
}

// File is an open file that is read in place, at any offset, while others may
// write it: what its reader makes of it must be checked for having been one version.
type File struct {
	fd    descriptor
	owner uint32
	stamp Stamp
}

// Open opens a file like Read, for reading at offsets. The caller closes it.
func Open(dir int, name string, t Trust) (*File, error) {
	st, fd, err := open(dir, name, t)
	if err != nil {
		return nil, err
	}
	return &File{fd: descriptor(fd), owner: st.Uid, stamp: StampOf(&st)}, nil
}

// ReadAt implements io.ReaderAt. A file that has become shorter ends early.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.fd.ReadAt(p, off) }

// Stamp is the file's version when it was opened.
func (f *File) Stamp() Stamp { return f.stamp }

// Owner is the user whose file it was when it was opened.
func (f *File) Owner() uint32 { return f.owner }

// Now is the file's version by now.
func (f *File) Now() (Stamp, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.fd), &st); err != nil {
		return Stamp{}, err
	}
	return StampOf(&st), nil
}

// Close closes the descriptor.
func (f *File) Close() error { return unix.Close(int(f.fd)) }

// open opens a file for reading. It is looked at before it is opened, for
// opening a device can do something. O_NONBLOCK keeps the open of a FIFO that
// was put in its place since from blocking.
func open(dir int, name string, t Trust) (st unix.Stat_t, fd int, err error) {
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return st, -1, pathError("stat", name, err)
	}
	if err := t.readable(&st); err != nil {
		return st, -1, pathError("read", name, err)
	}
	fd, err = openat2(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW, strict)
	if err != nil {
		return st, -1, pathError("open", name, err)
	}
	if err = unix.Fstat(fd, &st); err == nil {
		err = t.readable(&st)
	}
	if err != nil {
		_ = unix.Close(fd)
		return st, -1, pathError("read", name, err)
	}
	return st, fd, nil
}

// read reads an open file until two looks at it agree.
func (t Trust) read(fd int, fn func(io.Reader) error) (Stamp, error) {
	for range 4 {
		var before, after unix.Stat_t
		if err := unix.Fstat(fd, &before); err != nil {
			return Stamp{}, err
		}
		if err := t.readable(&before); err != nil {
			return Stamp{}, err
		}
		ferr := fn(io.NewSectionReader(descriptor(fd), 0, before.Size))
		if err := unix.Fstat(fd, &after); err != nil {
			return Stamp{}, err
		}
		if StampOf(&before) != StampOf(&after) {
			continue // whatever fn says is of no version
		}
		return StampOf(&after), ferr
	}
	return Stamp{}, ErrChanging
}

// descriptor reads an open file without owning it.
type descriptor int

// ReadAt implements io.ReaderAt.
func (d descriptor) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		m, err := unix.Pread(int(d), p[n:], off+int64(n))
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return n, err
		case m == 0:
			return n, io.EOF
		}
		n += m
	}
	return n, nil
}

func openat2(dir int, path string, flags, resolve uint64) (int, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	var err error
	for range 16 {
		var fd int
		// EAGAIN: a rename elsewhere on the host raced with the walk, and the kernel could not be sure.
		if fd, err = unix.Openat2(dir, path, &how); !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
	return -1, err
}

// pathError names the operation. A link, or a way out of the directory, was put there by someone.
func pathError(op, path string, err error) error {
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EXDEV) {
		err = fmt.Errorf("%w: %w", err, ErrUntrusted)
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// Head reads the beginning of a file that the kernel makes (/proc/PID/cmdline),
// at most limit bytes, and says whether that was all.
func Head(path string, limit int) (data []byte, whole bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	data, err = io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, false, err
	}
	return data[:min(len(data), limit)], len(data) <= limit, nil
}
