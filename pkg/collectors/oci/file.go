// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors"
)

// maxFile bounds a state file and a bundle's config.json. Docker's are 6 to 40
// KiB; annotations of a pod can be 256 KiB.
const maxFile = 4 << 20

// errUntrusted means that someone other than root could have written a file.
var errUntrusted = errors.New("not trusted")

// resolveStrict keeps a lookup beneath its directory and follows no link of any kind.
const resolveStrict = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openTop opens a directory by an absolute path that an administrator or a
// runtime chose, which may lead through links (/var/run). host is where the
// host's root directory is mounted.
func openTop(host, path string) (int, error) {
	top, err := unix.Open(host, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, pathError("open", host, err)
	}
	defer unix.Close(top)
	fd, err := openat2(top, path, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return -1, pathError("open", path, err)
	}
	return trustedDir(fd, path)
}

// openDir opens a directory beneath another one.
func openDir(dir int, name string) (int, error) {
	fd, err := openat2(dir, name, unix.O_PATH|unix.O_DIRECTORY, resolveStrict)
	if err != nil {
		return -1, pathError("open", name, err)
	}
	return trustedDir(fd, name)
}

// trustedDir closes fd and fails unless root alone can change the directory.
func trustedDir(fd int, path string) (int, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	if err == nil {
		err = trusted(&st)
	}
	if err != nil {
		unix.Close(fd)
		return -1, pathError("trust", path, err)
	}
	return fd, nil
}

// trusted fails where a user other than root may write.
func trusted(st *unix.Stat_t) error {
	switch {
	case st.Uid != 0:
		return fmt.Errorf("owned by user %d: %w", st.Uid, errUntrusted)
	case st.Mode&unix.S_IWOTH != 0:
		return fmt.Errorf("writable by everyone: %w", errUntrusted)
	case st.Mode&unix.S_IWGRP != 0 && st.Gid != 0:
		return fmt.Errorf("writable by group %d: %w", st.Gid, errUntrusted)
	}
	return nil
}

// stamp tells two versions of a file apart.
type stamp struct {
	ino          uint64
	size         int64
	mtime, ctime unix.Timespec
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim}
}

// readFile reads one version of a file in dir, whole.
//
// The file is looked at before it is opened, for opening a device can do
// something. O_NONBLOCK keeps the open of a FIFO that was put in its place
// since from blocking.
func readFile(dir int, name string) ([]byte, stamp, error) {
	var seen unix.Stat_t
	if err := unix.Fstatat(dir, name, &seen, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, stamp{}, pathError("stat", name, err)
	}
	if err := readable(&seen); err != nil {
		return nil, stamp{}, pathError("read", name, err)
	}
	fd, err := openat2(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, resolveStrict)
	if err != nil {
		return nil, stamp{}, pathError("open", name, err)
	}
	defer unix.Close(fd)
	data, s, err := readStable(fd)
	if err != nil {
		return nil, stamp{}, pathError("read", name, err)
	}
	return data, s, nil
}

// readable says whether a file may be read and believed.
func readable(st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return fmt.Errorf("not a regular file: %w", errUntrusted)
	}
	if st.Size > maxFile {
		return fmt.Errorf("%d bytes, more than %d: %w", st.Size, maxFile, errUntrusted)
	}
	return trusted(st)
}

// readStable reads an open file until two looks at it agree. A file that is
// renamed into place is read once; one that is written in place may need more.
func readStable(fd int) ([]byte, stamp, error) {
	for range 4 {
		var before, after unix.Stat_t
		if err := unix.Fstat(fd, &before); err != nil {
			return nil, stamp{}, err
		}
		if err := readable(&before); err != nil {
			return nil, stamp{}, err
		}
		data, err := readAll(fd, int(before.Size))
		if err != nil {
			return nil, stamp{}, err
		}
		if err := unix.Fstat(fd, &after); err != nil {
			return nil, stamp{}, err
		}
		if stampOf(&before) == stampOf(&after) && int64(len(data)) == before.Size {
			return data, stampOf(&after), nil
		}
	}
	return nil, stamp{}, fmt.Errorf("changes while it is read: %w", collectors.ErrUnavailable)
}

func readAll(fd, size int) ([]byte, error) {
	buf := make([]byte, size)
	n := 0
	for n < size {
		m, err := unix.Pread(fd, buf[n:], int64(n))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return buf[:n], nil
}

// exists says whether dir has an entry of that name.
func exists(dir int, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil
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
		err = fmt.Errorf("%w: %w", err, errUntrusted)
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

// missing says that a file or directory is not there.
func missing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)
}
