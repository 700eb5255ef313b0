// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
	"golang.org/x/sys/unix"
)

// walk visits the cgroups below the mount, parents first. It holds one
// descriptor at a time; what vanishes meanwhile is left out.
func (m *mount) walk(fn func(rel string, ino uint64) error) error {
	todo, seen, cut := []string{""}, 0, false
	for len(todo) > 0 {
		rel := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen++; seen > MaxWalk {
			return ErrBounds
		}
		names, err := m.visit(rel, fn)
		switch {
		case errors.Is(err, fs.SkipAll):
			return nil
		case errors.Is(err, fs.SkipDir), errors.Is(err, ErrGone):
			continue
		case err != nil:
			return err
		}
		for _, name := range slices.Backward(names) {
			child := strings.TrimPrefix(rel+"/"+name, "/")
			if len(m.path(child)) >= MaxPath || strings.Count(child, "/") >= MaxDepth || len(todo) > MaxWalk {
				cut = true
				continue
			}
			todo = append(todo, child)
		}
	}
	if cut {
		return ErrBounds
	}
	return nil
}

// leaf gives the id of a cgroup in which there are no others, which one system
// call tells: most are such, and each has dozens of files to list.
func (m *mount) leaf(rel string) (ino uint64, ok bool) {
	if !m.real || rel == "" {
		return 0, false
	}
	var st unix.Stat_t
	err := ignoringEINTR(func() error { return unix.Fstatat(int(m.dir.Fd()), rel, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil || st.Nlink != leafLinks {
		return 0, false
	}
	ino, err = m.checked(&st)
	return ino, err == nil
}

// leafLinks: a directory of cgroupfs has a link from itself, one from above and
// one from each below (fs/kernfs/inode.c, kernfs_refresh_inode).
const leafLinks = 2

// visit calls fn for one cgroup and lists those in it, by name.
func (m *mount) visit(rel string, fn func(string, uint64) error) ([]string, error) {
	if ino, ok := m.leaf(rel); ok {
		return nil, fn(rel, ino)
	}
	fd, err := m.openFD(rel, unix.O_RDONLY)
	h, err := m.adopt(fd, err)
	if err != nil {
		return nil, err
	}
	dir := os.NewFile(uintptr(h.fd), join(m.point, rel))
	defer dir.Close()
	if err := fn(rel, h.ino); err != nil {
		return nil, err
	}
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, gone(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// processes is FS.Processes.
func (m *mount) processes(ino uint64) ([]workload.PID, error) {
	h, err := m.openID(ino)
	if err != nil {
		return nil, err
	}
	defer h.close()
	return readProcs(h.fd)
}

// hasChildren is FS.HasChildren.
func (m *mount) hasChildren(ino uint64) bool {
	h, err := m.openID(ino)
	if err != nil {
		return false
	}
	defer h.close()
	var st unix.Stat_t
	return unix.Fstat(h.fd, &st) == nil && st.Nlink > leafLinks
}

// readProcs reads cgroup.procs of an open cgroup. The kernel does not promise
// an order, or that a process stands there once (cgroup-v2.rst).
func readProcs(dirfd int) ([]workload.PID, error) {
	fd, err := unix.Openat(dirfd, "cgroup.procs", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, gone(err)
	}
	file := os.NewFile(uintptr(fd), "cgroup.procs")
	defer file.Close()
	var pids []workload.PID
	sc := bufio.NewScanner(file)
	for sc.Scan() {
		n, err := strconv.ParseUint(sc.Text(), 10, 32)
		if err != nil || n > uint64(workload.MaxPID) {
			return nil, fmt.Errorf("parse cgroup.procs: %q is no process id", sc.Text())
		}
		if n == 0 { // in a PID namespace that the agent cannot see into
			continue
		}
		if pids = append(pids, workload.PID(n)); len(pids) > int(workload.MaxPID) {
			return nil, ErrBounds
		}
	}
	if err := sc.Err(); err != nil {
		return nil, gone(err)
	}
	slices.Sort(pids)
	return slices.Compact(pids), nil
}
