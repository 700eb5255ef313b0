// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
	"golang.org/x/sys/unix"
)

// lineageOfID is FS.Lineage.
func (m *mount) lineageOfID(ino uint64) (Lineage, error) {
	h, err := m.openID(ino)
	if err != nil {
		return nil, err
	}
	defer h.close()
	rel, err := m.relOf(h.fd)
	if errors.Is(err, ErrBounds) {
		return m.lineageTooLong(h)
	}
	if err != nil {
		return nil, err
	}
	return m.lineage(h, m.path(rel))
}

// lineageOfPath is FS.LineageOfPath.
func (m *mount) lineageOfPath(path string) (Lineage, error) {
	rel, err := m.rel(path)
	if err != nil {
		return nil, err
	}
	h, err := m.open(rel)
	if err != nil {
		return nil, err
	}
	defer h.close()
	return m.lineage(h, path)
}

// lineage reads the ids from the leaf up through "..": the kernel's own parent
// links, which no rename or new directory of the same name can bend. The paths
// are prefixes of the leaf's.
func (m *mount) lineage(h handle, path string) (Lineage, error) {
	inos, err := m.ancestors(h)
	if err != nil {
		return nil, err
	}
	if len(inos) != depth(path)-depth(m.root)+1 {
		return nil, ErrGone // the mount was moved between the two looks
	}
	l := make(Lineage, len(inos))
	for i, ino := range inos {
		l[i] = workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: m.hierarchy, ID: ino}, Path: path}
		path = parent(path)
	}
	if got, err := m.inode(l[0].Path); err != nil {
		return nil, err
	} else if got != h.ino {
		return nil, ErrGone
	}
	return l, nil
}

// lineageTooLong is for a cgroup so deep that the kernel cannot print its path:
// the paths begin where it can.
func (m *mount) lineageTooLong(h handle) (Lineage, error) {
	inos, err := m.ancestors(h)
	if err != nil {
		return nil, err
	}
	l := make(Lineage, 0, len(inos))
	for _, ino := range inos {
		up, err := m.openID(ino)
		if err != nil {
			return nil, err
		}
		rel, err := m.relOf(up.fd)
		if err == nil {
			rest, err := m.lineage(up, m.path(rel))
			up.close()
			return append(l, rest...), err
		}
		up.close()
		if !errors.Is(err, ErrBounds) {
			return nil, err
		}
		l = append(l, workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: m.hierarchy, ID: ino}})
	}
	return l, nil
}

// hop is how many levels one fstatat climbs at most, so that the cost of a
// deep cgroup grows with its depth and not with the square.
const hop = 32

var ups = strings.Repeat("../", hop)

// ancestors gives the ids from the cgroup itself up to the mount's root.
func (m *mount) ancestors(h handle) ([]uint64, error) {
	inos := append(make([]uint64, 0, 8), h.ino)
	fd, owned := h.fd, false
	defer func() {
		if owned {
			unix.Close(fd)
		}
	}()
	for n := 1; inos[len(inos)-1] != m.rootIno; n++ {
		if len(inos) > MaxDepth {
			return nil, ErrBounds
		}
		var st unix.Stat_t
		if err := unix.Fstatat(fd, ups[:3*n-1], &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return nil, gone(err)
		}
		ino, err := m.checked(&st)
		if err != nil || ino == inos[len(inos)-1] { // the file system's root is above the mount's
			return nil, ErrOutside
		}
		inos = append(inos, ino)
		if n == hop {
			up, err := unix.Openat(fd, ups[:3*n-1], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				return nil, gone(err)
			}
			if owned {
				unix.Close(fd)
			}
			fd, owned, n = up, true, 0
		}
	}
	return inos, nil
}
