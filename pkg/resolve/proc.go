// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// pidfsMagic is PID_FS_MAGIC (include/uapi/linux/magic.h).
const pidfsMagic = 0x50494446

// hasPidfs reports whether pidfds have inodes of their own.
func hasPidfs() bool {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && st.Type == pidfsMagic
}

func bootTime() workload.KTime {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail: the clock exists since 2.6.39
	return workload.KTime(ts.Nano())
}

func openProc(procfs string, pid workload.PID) (int, error) {
	return unix.Open(filepath.Join(procfs, strconv.FormatUint(uint64(pid), 10)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

// stat is what is needed of /proc/PID/stat.
type stat struct {
	start  uint64 // ns since boot, rounded down to a tick
	parent workload.PID
	// stack is the address of its bottom, chosen anew by each exec; 0 without the
	// right to trace the process, and for kernel threads.
	stack uint64
}

// thread reports whether the directory is that of a thread that leads no
// process: /proc shows those too when asked by id.
func (s stat) thread(dir int, pid workload.PID) bool {
	tgid, err := tgidAt(dir)
	return err == nil && tgid != pid
}

// readStat reads beneath a /proc/PID directory. The comm may hold anything, so
// fields are counted from the last parenthesis.
func readStat(dir int) (stat, error) {
	b, err := readBeneath(dir, "stat")
	if err != nil {
		return stat{}, err
	}
	// They are counted from 1 in proc(5); the first after the comm is 3.
	f := bytes.Fields(b[bytes.LastIndexByte(b, ')')+1:])
	if len(f) < 28-2 {
		return stat{}, fmt.Errorf("malformed stat: %d fields after the name", len(f))
	}
	parent, err1 := strconv.ParseUint(string(f[4-3]), 10, 32)
	ticks, err2 := strconv.ParseUint(string(f[22-3]), 10, 64)
	stack, err3 := strconv.ParseUint(string(f[28-3]), 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return stat{}, fmt.Errorf("malformed stat: %w", err)
	}
	return stat{ticks * workload.TickNS, workload.PID(parent), stack}, nil
}

func readBeneath(dir int, name string) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	buf := make([]byte, 8192)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return nil, err
	}
	return buf[:n], nil
}

// threadGroup gives the process of a thread.
func threadGroup(procfs string, tid workload.PID) (workload.PID, error) {
	dir, err := openProc(procfs, tid)
	if err != nil {
		return 0, err
	}
	defer unix.Close(dir)
	return tgidAt(dir)
}

func tgidAt(dir int) (workload.PID, error) {
	b, err := readBeneath(dir, "status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(b) {
		if v, ok := bytes.CutPrefix(line, []byte("Tgid:")); ok {
			n, err := strconv.ParseUint(string(bytes.TrimSpace(v)), 10, 32)
			return workload.PID(n), err
		}
	}
	return 0, fs.ErrNotExist
}
