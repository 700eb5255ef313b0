// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// maxEntries bounds the containers of one state directory, and those that Watch follows in all.
const maxEntries = 1 << 16

// dirent is one subdirectory. Its inode tells it from an earlier one of the
// same name: tmpfs, where state lives, never gives a number twice.
type dirent struct {
	name string
	ino  uint64
}

// subdirs lists the directories in a directory, without a stat for each.
func subdirs(path string) ([]dirent, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	var list []dirent
	buf := make([]byte, 16<<10)
	for len(list) < maxEntries {
		n, err := unix.Getdents(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		}
		if n == 0 {
			return list, nil
		}
		list = appendDirs(list, buf[:n], fd)
	}
	return list, nil
}

// appendDirs decodes struct linux_dirent64 (include/linux/dirent.h): inode and
// offset of 8 bytes, length of 2, type of 1, and the name with its NUL.
func appendDirs(list []dirent, buf []byte, fd int) []dirent {
	const nameAt = 19
	for len(buf) > nameAt {
		n := int(binary.NativeEndian.Uint16(buf[16:]))
		if n <= nameAt || n > len(buf) {
			return list
		}
		name := buf[nameAt:n]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		if typ := buf[18]; len(name) > 0 && name[0] != '.' && (typ == unix.DT_DIR || typ == unix.DT_UNKNOWN && isDirAt(fd, string(name))) {
			list = append(list, dirent{name: string(name), ino: binary.NativeEndian.Uint64(buf)})
		}
		buf = buf[n:]
	}
	return list
}

// isDirAt is for file systems that give no type with the name.
func isDirAt(fd int, name string) bool {
	var st unix.Stat_t
	return unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// isDir follows links: it is for the directories that an administrator named.
func isDir(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}
