// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/shirou/gopsutil/v3/common"
	"github.com/shirou/gopsutil/v3/process"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// CgroupReader gives the cgroups of the process whose /proc/PID directory dir
// is, reading beneath it: then it is that process's, or an error. It may be
// called concurrently and does not close dir.
type CgroupReader func(dir *os.File) (CgroupSet, error)

// errGone means that the process ended, or is a zombie.
var errGone = errors.New("process is gone")

const (
	// initialPIDNS is PROC_PID_INIT_INO, include/linux/proc_ns.h.
	initialPIDNS = 0xEFFFFFFC
	// pidfsMagic is PID_FS_MAGIC, include/uapi/linux/magic.h. Before 6.9 a pidfd
	// is an anonymous inode, the same for all.
	pidfsMagic = 0x50494446
	// procFileLimit bounds what is read of one file; the largest, status, has some 1.5 KiB.
	procFileLimit = 64 << 10
)

// procReader reads processes from a procfs. Safe for concurrent use.
type procReader struct {
	root    string
	cgroups CgroupReader
	// pidfds: PIDs of root are those that pidfd_open(2) takes.
	pidfds bool
	// pids carries root to gopsutil, which takes it from a context.
	pidsEnv context.Context //nolint:containedctx // holds a setting, no lifetime
}

func newProcReader(root, cgroupRoot string, cgroups CgroupReader) *procReader {
	r := &procReader{root: root, cgroups: cgroups}
	if cgroups == nil {
		r.cgroups = newCgroupFiles(root, cgroupRoot).read
	}
	r.pidfds = r.ownPIDNS()
	r.pidsEnv = context.WithValue(context.Background(), common.EnvKey, common.EnvMap{common.HostProcEnvKey: root})
	return r
}

func inodeOf(path string) uint64 {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	return st.Ino
}

// ownPIDNS reports whether root's numbers are of our own PID namespace: then
// NSpid, which begins with procfs's namespace and ends with ours, has one.
func (r *procReader) ownPIDNS() bool {
	b, err := os.ReadFile(filepath.Join(r.root, "self/status"))
	return err == nil && len(parseNSpid(b)) == 1
}

// nestedPIDNS gives the PID namespace that root's numbers are of, or 0 where
// that is the initial one or cannot be told.
func (r *procReader) nestedPIDNS() uint32 {
	ns := "/proc/self/ns/pid"
	if !r.pidfds {
		ns = filepath.Join(r.root, "1/ns/pid")
	}
	if ino := inodeOf(ns); ino != initialPIDNS {
		return uint32(ino)
	}
	return 0
}

// pids lists the processes in ascending order.
func (r *procReader) pids() ([]workload.PID, error) {
	list, err := process.PidsWithContext(r.pidsEnv)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	pids := make([]workload.PID, 0, len(list))
	for _, p := range list {
		if p > 0 && workload.PID(p) <= workload.MaxPID {
			pids = append(pids, workload.PID(p))
		}
	}
	return pids, nil
}

// procStat is what a scan compares: the fields of /proc/PID/stat.
type procStat struct {
	comm   Comm
	zombie bool
	parent workload.PID
	// threads counts the dead leader too, until it is reaped.
	threads int
	kthread bool
	// start is in ns since boot, rounded down to a tick.
	start uint64
	// stack is the address of the stack's bottom, chosen anew by each exec. 0
	// without the right to trace the process, and for kernel threads.
	stack uint64
}

// dead reports whether no thread lives any more. A leader can be a zombie for
// long while its other threads go on.
func (s *procStat) dead() bool { return s.zombie && s.threads <= 1 }

// parseStat reads /proc/PID/stat. The name in it is hostile: it may hold
// parentheses and newlines, so the last parenthesis counts. Only status escapes
// it, stat gives it as it is.
func parseStat(b []byte) (s procStat, err error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return s, errors.New("stat has no name")
	}
	copy(s.comm[:len(s.comm)-1], b[open+1:end])
	// Fields are counted from 1 in proc(5); the one after the name is 3.
	var f [28 - 2][]byte
	n := 0
	for word := range bytes.FieldsSeq(b[end+1:]) {
		if n == len(f) {
			break
		}
		f[n] = word
		n++
	}
	if n < 20 {
		return s, fmt.Errorf("stat has %d fields after the name", n)
	}
	s.zombie = bytes.ContainsAny(f[0], "ZXx")
	parent, err1 := strconv.ParseUint(string(f[4-3]), 10, 32)
	flags, err2 := strconv.ParseUint(string(f[9-3]), 10, 64)
	threads, err3 := strconv.ParseUint(string(f[20-3]), 10, 31)
	ticks, err4 := strconv.ParseUint(string(f[22-3]), 10, 64)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return s, fmt.Errorf("parse stat: %w", err)
	}
	if ticks > 1<<63/workload.TickNS {
		return s, fmt.Errorf("stat has start time %d", ticks)
	}
	if n == len(f) {
		s.stack, _ = strconv.ParseUint(string(f[28-3]), 10, 64)
	}
	s.parent, s.threads = workload.PID(parent), int(threads)
	s.kthread = flags&0x00200000 != 0 // PF_KTHREAD
	s.start = ticks * workload.TickNS
	return s, nil
}

func (r *procReader) stat(pid workload.PID) (procStat, error) {
	return statAt(unix.AT_FDCWD, filepath.Join(r.dir(pid), "stat"))
}

func statAt(dir int, name string) (s procStat, err error) {
	err = readAt(dir, name, func(b []byte) (err error) {
		s, err = parseStat(b)
		return err
	})
	return s, err
}

func (r *procReader) dir(pid workload.PID) string {
	return filepath.Join(r.root, strconv.FormatUint(uint64(pid), 10))
}

// process reads one process whole. Everything is read beneath one directory
// handle, which gives ESRCH from the process's end on, even when its PID has
// been given to another one; stat is read last, so that all before it was that
// process's too. Fields that may not be read stay zero.
func (r *procReader) process(pid workload.PID) (Process, procStat, error) {
	dir, err := os.Open(r.dir(pid))
	if err != nil {
		return Process{}, procStat{}, goneOr(err)
	}
	defer dir.Close()
	fd := int(dir.Fd())
	p := Process{Key: workload.ProcessKey{PID: pid, Ticks: true}}
	if r.pidfds {
		p.Key.Inode = pidfdInode(pid)
	}
	// An error leaves the set empty, which says that nothing is known.
	p.Cgroups, _ = r.cgroups(dir)
	readPIDNS(fd, &p)
	p.MountNS = uint32(inodeAt(fd, "ns/mnt"))
	readExe(fd, &p)
	st, err := statAt(fd, "stat")
	if err != nil {
		return p, procStat{}, goneOr(err)
	}
	if st.dead() {
		return p, st, errGone
	}
	p.Key.Start, p.Parent, p.Comm, p.KernelThread = st.start, st.parent, st.comm, st.kthread
	return p, st, nil
}

// regroup reads the cgroups of a process anew, and changes nothing where that
// fails or the process is another one by now.
func (r *procReader) regroup(p *Process) {
	dir, err := os.Open(r.dir(p.Key.PID))
	if err != nil {
		return
	}
	defer dir.Close()
	set, err := r.cgroups(dir)
	if err != nil || set.N == 0 {
		return
	}
	if st, err := statAt(int(dir.Fd()), "stat"); err == nil && st.start == p.Key.Start {
		p.Cgroups = set
	}
}

// each reads the given processes and hands them over, without those that are gone.
func (r *procReader) each(stop func() error, pids []workload.PID, fn func(Process)) error {
	for _, pid := range pids {
		if err := stop(); err != nil {
			return err
		}
		p, _, err := r.process(pid)
		if errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read process %d: %w", pid, err)
		}
		fn(p)
	}
	return nil
}

// goneOr turns the errors that a process's end makes into errGone.
func goneOr(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) {
		return errGone
	}
	return err
}

// contents are what small files are read into, by turns: a start reads five of
// every process.
var contents = sync.Pool{New: func() any { return new([procFileLimit]byte) }}

// readAt reads a small file below a directory and shows it to look, which may not
// keep it.
func readAt(dir int, name string, look func([]byte) error) error {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	b := contents.Get().(*[procFileLimit]byte)
	defer contents.Put(b)
	for n := 0; ; {
		got, err := unix.Read(fd, b[n:])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return &os.PathError{Op: "read", Path: name, Err: err}
		default:
			if n += got; got == 0 || n == len(b) {
				return look(b[:n])
			}
		}
	}
}

func inodeAt(dir int, name string) uint64 {
	var st unix.Stat_t
	if unix.Fstatat(dir, name, &st, 0) != nil {
		return 0
	}
	return st.Ino
}

// pidfdInode gives the pidfs inode of whatever process has the PID now, 0
// before 6.9. The caller finds out afterwards whether it was still its own.
func pidfdInode(pid workload.PID) uint64 {
	fd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil || fs.Type != pidfsMagic {
		return 0
	}
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0
	}
	return st.Ino
}

// readPIDNS reads the process's numbers in the namespaces below procfs's own.
// Only the innermost namespace's inode can be read.
func readPIDNS(dir int, p *Process) {
	var numbers []workload.PID
	err := readAt(dir, "status", func(b []byte) error {
		numbers = parseNSpid(b)
		return nil
	})
	if err != nil || len(numbers) < 2 {
		return
	}
	below := numbers[1:]
	p.PIDNSLevel = uint8(len(below))
	for i, n := range below[:min(len(below), MaxPIDNamespaces)] {
		p.PIDNS[i].PID = n
	}
	if len(below) <= MaxPIDNamespaces {
		p.PIDNS[len(below)-1].Inum = uint32(inodeAt(dir, "ns/pid"))
	}
}

// parseNSpid finds the line NSpid of status: a process's number in procfs's
// namespace and then in each below. A name cannot forge it: status escapes
// newlines in it.
func parseNSpid(b []byte) []workload.PID {
	_, rest, ok := bytes.Cut(b, []byte("\nNSpid:"))
	if !ok {
		return nil
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	var pids []workload.PID
	for f := range bytes.FieldsSeq(line) {
		n, err := strconv.ParseUint(string(f), 10, 32)
		// MAX_PID_NS_LEVEL is 32 (include/linux/pid_namespace.h).
		if err != nil || len(pids) > 32 {
			return nil
		}
		pids = append(pids, workload.PID(n))
	}
	return pids
}

// readExe reads which file the process runs and whether that is on a mount of
// its own mount namespace.
func readExe(dir int, p *Process) {
	var st unix.Statx_t
	if unix.Statx(dir, "exe", 0, unix.STATX_INO|unix.STATX_MNT_ID, &st) != nil {
		return
	}
	p.ExeInode = st.Ino
	p.ExeDev = st.Dev_major<<20 | st.Dev_minor // MKDEV, include/linux/kdev_t.h
	if st.Mask&unix.STATX_MNT_ID == 0 {
		return
	}
	_ = readAt(dir, "mountinfo", func(b []byte) error { // none: it may not be read, or is gone
		p.ExeInMountNS = hasMount(b, st.Mnt_id)
		return nil
	})
}

// hasMount reports whether a mountinfo file has a mount of that id.
func hasMount(b []byte, id uint64) bool {
	want := append(strconv.AppendUint(nil, id, 10), ' ')
	for line := range bytes.Lines(b) {
		if bytes.HasPrefix(line, want) {
			return true
		}
	}
	return false
}
