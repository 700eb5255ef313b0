// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mount is one mounted hierarchy. It never changes; the file closes itself
// when nobody holds the mount any more.
type mount struct {
	hierarchy uint32
	line      mountLine
	point     string
	root      string   // the path of the mount's root: what paths begin with
	ns        nsRoot   // how the kernel's paths become ours
	dir       *os.File // the mount's root, readable: open_by_handle_at takes no O_PATH descriptor
	rootIno   uint64
	// real is set on a cgroup file system, unset on a fixture. Only a real one
	// is known to have no symbolic links.
	real bool
	// handles is set where the kernel opens by id (5.5 and later, and
	// CAP_DAC_READ_SEARCH in the initial user namespace).
	handles bool
}

// errStale means that what mountinfo lists is hidden by another mount.
var errStale = errors.New("mount is hidden by another one")

func openMount(h uint32, l mountLine, self string) (*mount, error) {
	fd, err := unix.Open(l.point, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", l.point, err)
	}
	m := &mount{hierarchy: h, line: l, point: l.point, root: l.root, dir: os.NewFile(uintptr(fd), l.point)}
	if err := m.probe(); err != nil {
		m.dir.Close()
		return nil, fmt.Errorf("open %s: %w", l.point, err)
	}
	ups, rest := splitUps(l.root)
	if ups > 0 && rest != "/" {
		m.dir.Close() // a relative of the agent's own namespace: its paths have no name here
		return nil, fmt.Errorf("open %s: %w", l.point, ErrOutside)
	}
	if ups > 0 {
		m.root = "/"
		m.ns = m.findNamespace(ups, self)
	}
	return m, nil
}

// probe reads what only the open directory tells.
func (m *mount) probe() error {
	fd := int(m.dir.Fd())
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Dev != m.line.dev {
		return errStale
	}
	m.rootIno = st.Ino
	var sfs unix.Statfs_t
	if err := unix.Fstatfs(fd, &sfs); err != nil {
		return err
	}
	m.real = sfs.Type == unix.CGROUP_SUPER_MAGIC || sfs.Type == unix.CGROUP2_SUPER_MAGIC
	if h, err := m.openHandle(m.rootIno); m.real && err == nil {
		m.handles = true
		h.close()
	}
	return nil
}

// same reports whether the line still describes this mount.
func (m *mount) same(l mountLine) bool {
	if l.dev != m.line.dev || l.root != m.line.root || l.point != m.line.point {
		return false
	}
	var st unix.Stat_t
	err := unix.Lstat(l.point, &st)
	return err == nil && st.Dev == l.dev && st.Ino == m.rootIno
}

// path gives the path in the hierarchy of what is at rel below the mount.
func (m *mount) path(rel string) string { return join(m.root, rel) }

// rel gives where a path of the hierarchy is below the mount.
func (m *mount) rel(path string) (string, error) {
	if !validPath(path) {
		return "", ErrOutside
	}
	rel, ok := below(path, m.root)
	if !ok {
		return "", ErrOutside
	}
	return rel, nil
}

// inode gives the id of the cgroup at a path. On a real cgroup file system one
// fstatat does it, in half the time of openat2: there are no symbolic links, no
// ".." is let in, and what somebody mounted over a cgroup has another device.
func (m *mount) inode(path string) (uint64, error) {
	rel, err := m.rel(path)
	if err != nil {
		return 0, err
	}
	if !m.real {
		h, err := m.open(rel)
		if err != nil {
			return 0, err
		}
		defer h.close()
		return h.ino, nil
	}
	var st unix.Stat_t
	if rel == "" {
		return m.rootIno, nil
	}
	err = ignoringEINTR(func() error { return unix.Fstatat(int(m.dir.Fd()), rel, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return 0, gone(err)
	}
	return m.checked(&st)
}

// checked gives the inode of a directory that is on this mount's file system.
func (m *mount) checked(st *unix.Stat_t) (uint64, error) {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return 0, ErrGone
	}
	if st.Dev != m.line.dev {
		return 0, ErrOutside
	}
	return st.Ino, nil
}

// controllers lists what v2 has at this root.
func (m *mount) controllers() []string {
	fd, err := unix.Openat(int(m.dir.Fd()), "cgroup.controllers", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	file := os.NewFile(uintptr(fd), "cgroup.controllers")
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, MaxPath))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

// gone maps the errors by which the kernel says that a cgroup is not there:
// no such name, a stale handle, a directory removed while it was open.
func gone(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ESTALE), errors.Is(err, unix.ENODEV):
		return ErrGone
	case errors.Is(err, unix.ENAMETOOLONG):
		return ErrBounds
	case errors.Is(err, unix.EXDEV), errors.Is(err, unix.ELOOP):
		return ErrOutside
	}
	return err
}

// ignoringEINTR repeats a call that a signal (Go's own preemption) cut short.
func ignoringEINTR(fn func() error) error {
	for {
		if err := fn(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
