// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
	"golang.org/x/sys/unix"
)

// procEntry is a line of /proc/PID/cgroup (kernel/cgroup/cgroup.c,
// proc_cgroup_show).
type procEntry struct {
	hierarchy   uint32
	controllers string
	// path is all after the second colon, as it is: the kernel escapes nothing there.
	path string
}

// maxProcCgroup is the most that the file can hold: 16 hierarchies (see
// kernel.MaxHierarchies), each with a path of MaxPath and a little more.
const maxProcCgroup = 16 * (MaxPath + 256)

var errMalformed = errors.New("malformed cgroup line")

// parseProcCgroup reads the file's lines, ordered by hierarchy. A line that is
// not understood is an error: to leave one out would be to guess.
func parseProcCgroup(s string) ([]procEntry, error) {
	out := make([]procEntry, 0, 12)
	for line := range strings.Lines(s) {
		line = strings.TrimSuffix(line, "\n")
		number, rest, ok1 := strings.Cut(line, ":")
		controllers, path, ok2 := strings.Cut(rest, ":")
		id, err := strconv.ParseUint(number, 10, 32)
		if !ok1 || !ok2 || err != nil || !strings.HasPrefix(path, "/") {
			return nil, fmt.Errorf("%w %.80q", errMalformed, line)
		}
		out = append(out, procEntry{uint32(id), controllers, path})
	}
	slices.SortStableFunc(out, func(a, b procEntry) int { return int(int64(a.hierarchy) - int64(b.hierarchy)) })
	return out, nil
}

// OfPID gives the cgroups of a process (or of a thread, by its id), one for
// each hierarchy, ordered by hierarchy. A bare PID may have been reused since
// the caller learned it: see OfProc.
//
// An entry that could not be resolved to a directory has an ID of 0 and the
// path as the kernel wrote it: the hierarchy is not mounted, the cgroup lies
// outside what the mount or the cgroup namespace shows ("/../x"), its path is
// too long to be printed, it was removed, or the process is exiting and has
// left its v1 cgroups already.
func (f *FS) OfPID(pid workload.PID) ([]workload.CgroupPath, error) {
	if pid == 0 || pid > workload.MaxPID {
		return nil, fmt.Errorf("cgroups of pid %d: %w", pid, ErrGone)
	}
	dir := filepath.Join(f.procfs, strconv.FormatUint(uint64(pid), 10))
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("cgroups of pid %d: %w", pid, goneProcess(err))
	}
	defer unix.Close(fd)
	cgroups, err := f.ofProc(fd)
	if err != nil {
		return nil, fmt.Errorf("cgroups of pid %d: %w", pid, err)
	}
	return cgroups, nil
}

// OfProc is OfPID for an open descriptor of the directory /proc/PID (O_PATH
// will do): the answer is about that very process, or ErrGone.
func (f *FS) OfProc(dirfd int) ([]workload.CgroupPath, error) {
	cgroups, err := f.ofProc(dirfd)
	if err != nil {
		return nil, fmt.Errorf("cgroups of process: %w", err)
	}
	return cgroups, nil
}

func (f *FS) ofProc(dirfd int) ([]workload.CgroupPath, error) {
	var buf [MaxPath]byte // enough for what is usual, and on the stack
	data, err := readAt(dirfd, "cgroup", buf[:0], maxProcCgroup)
	if err != nil {
		return nil, err
	}
	entries, err := parseProcCgroup(string(data))
	if err != nil {
		return nil, err
	}
	mayExit := leftV1(entries) || deletedV2(entries)
	exiting := false
	if mayExit {
		if exiting, err = isExiting(dirfd); err != nil {
			return nil, err
		}
	}
	t := f.table.Load()
	out := make([]workload.CgroupPath, len(entries))
	for i, e := range entries {
		out[i] = t.resolve(e, exiting)
	}
	runtime.KeepAlive(t)
	return out, nil
}

// resolve finds the directory of one line. Of an exiting process the kernel
// shows "/" in every v1 hierarchy, which is where it is not; in v2 it shows the
// cgroup that it died in, with " (deleted)" if that is removed.
func (t *table) resolve(e procEntry, exiting bool) workload.CgroupPath {
	out := workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: e.hierarchy}, Path: e.path}
	m := t.mounts[e.hierarchy]
	if m == nil || exiting && e.hierarchy != 0 || cut(e.path) {
		return out // a path that was cut may be the path of another cgroup
	}
	path, ok := m.ns.translate(e.path)
	if !ok {
		return out
	}
	ino, err := m.inode(path)
	name, marked := strings.CutSuffix(path, deletedMark)
	switch {
	case marked && exiting && e.hierarchy == 0:
		// The mark, or the end of a name? Where both could be, say neither.
		if errors.Is(err, ErrGone) {
			out.Path = name
		}
	case err == nil:
		out.ID, out.Path = ino, path
	}
	return out
}

// deletedMark is what the kernel puts behind the path of a v2 cgroup that was
// removed: only an exiting process can still be in one, because rmdir refuses
// while a live one is. On a live process it is the end of the name.
const deletedMark = " (deleted)"

func deletedV2(entries []procEntry) bool {
	return len(entries) > 0 && entries[0].hierarchy == 0 && strings.HasSuffix(entries[0].path, deletedMark)
}

// leftV1 reports whether the lines could be those of an exiting process: "/"
// in every v1 hierarchy. On most hosts that is rare for a live one.
func leftV1(entries []procEntry) bool {
	v1 := 0
	for _, e := range entries {
		if e.hierarchy == 0 {
			continue
		}
		if e.path != "/" {
			return false
		}
		v1++
	}
	return v1 > 0
}

// pfExiting is PF_EXITING (include/linux/sched.h), the same on every kernel.
const pfExiting = 0x4

// isExiting reads the task's flags. A task that is not exiting now was not when
// its cgroups were read: nobody comes back from there.
func isExiting(dirfd int) (bool, error) {
	var buf [1024]byte
	data, err := readAt(dirfd, "stat", buf[:0], 4096)
	if err != nil {
		return false, err
	}
	// The second field is the command in parentheses, hostile; field 3 is the
	// state, field 9 the flags (proc_pid_stat(5)).
	s := string(data)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 7 {
		return false, fmt.Errorf("parse stat: %d fields", len(fields))
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	if err != nil {
		return false, fmt.Errorf("parse stat: %w", err)
	}
	return flags&pfExiting != 0, nil
}

// readAt reads a small file of a process whole, into buf if it fits.
func readAt(dirfd int, name string, buf []byte, limit int) ([]byte, error) {
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, goneProcess(err))
	}
	defer unix.Close(fd)
	for {
		if len(buf) == cap(buf) {
			buf = slices.Grow(buf, cap(buf))
		}
		n, err := unix.Read(fd, buf[len(buf):cap(buf)])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", name, goneProcess(err))
		case n == 0:
			return buf, nil
		}
		if buf = buf[:len(buf)+n]; len(buf) > limit {
			return nil, fmt.Errorf("read %s: %w", name, ErrBounds)
		}
	}
}

// goneProcess maps what procfs says of a process that is no more, and of a
// cgroup whose path is longer than the kernel prints.
func goneProcess(err error) error {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENOTDIR):
		return ErrGone
	case errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.E2BIG):
		return ErrBounds
	}
	return err
}
