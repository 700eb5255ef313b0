// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"io/fs"
	"slices"
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

// step is a cgroup on the way of a walk.
type step struct {
	rel string
	ino uint64
}

// lineages walks the hierarchy once for many lineages: what is at a path when it
// is walked is below those that were walked before it, since no cgroup changes
// its parent. It ends with the last one that is wanted, or when it has seen so
// many others that asking for each is as well.
func (m *mount) lineages(wanted map[uint64]bool, fn func(uint64, Lineage)) error {
	var way []step
	left, seen := len(wanted), 0
	return m.walk(func(rel string, ino uint64) error {
		for len(way) > 0 && !isBelow(rel, way[len(way)-1].rel) {
			way = way[:len(way)-1]
		}
		way = append(way, step{rel, ino})
		if wanted[ino] {
			left--
			fn(ino, m.lineageOf(way))
		}
		if seen++; left == 0 || seen > walkAnyway+walkFor*len(wanted) {
			return fs.SkipAll
		}
		return nil
	})
}

// walkFor is how many cgroups may be walked by for each that is wanted, and
// walkAnyway how many more: a lineage alone costs some 25 us, a step of a walk 2.
const (
	walkFor    = 10
	walkAnyway = 1 << 12
)

func isBelow(rel, above string) bool {
	return above == "" || strings.HasPrefix(rel, above) && rel[len(above)] == '/'
}

// lineageOf gives the last of a way and those above it, leaf first.
func (m *mount) lineageOf(way []step) Lineage {
	l := make(Lineage, 0, len(way))
	for _, s := range slices.Backward(way) {
		l = append(l, workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: m.hierarchy, ID: s.ino}, Path: m.path(s.rel)})
	}
	return l
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
