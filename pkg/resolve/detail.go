// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Budgets of what is read of a process for who asks. Most of it is the process's
// own words, and it may have made the reading slow.
const (
	// maxCommand bounds the bytes that are read of a command line, maxArgs its arguments.
	maxCommand = 4096
	maxArgs    = 128
	// maxExe is PATH_MAX: the kernel gives no longer path.
	maxExe = 4096
	// readers is how many processes are read at the same time.
	readers = 4
	// readPatience is how long one process is waited for. The command line is in its
	// memory, whose lock (mmap_lock) it can make the kernel hold.
	readPatience = 100 * time.Millisecond
	// maxSlow is after how many of such waits in vain a call reads no more processes.
	maxSlow = 3
	// maxTries is how often a process is read that meanwhile runs another program.
	maxTries = 3
)

// Reading is what one call may still spend on slow processes. The zero value is a
// call's beginning. It is for one goroutine.
type Reading struct{ slow int }

// details counts the readings.
type details struct {
	// slots has room for each reading under way: one that hangs keeps its own.
	slots            chan struct{}
	read, gone, slow atomic.Uint64
}

// DetailCounts says how readings of processes ended: with a detail, with a process
// that was gone, and with one that was not waited for any longer.
type DetailCounts struct{ Read, Gone, Slow uint64 }

// DetailCounts counts what Detail has done so far.
func (r *Resolver) DetailCounts() DetailCounts {
	return DetailCounts{r.details.read.Load(), r.details.gone.Load(), r.details.slow.Load()}
}

// Detail gives a copy of the process with Detail and Exe, read now from the very
// process that the key names, or p itself where that has ended, or is not to be
// read within the budgets. It blocks for readPatience at most.
func (r *Resolver) Detail(ctx context.Context, p *workload.Process, b *Reading) *workload.Process {
	if p == nil || p.Exit != nil || b.slow >= maxSlow {
		return p
	}
	late := time.NewTimer(readPatience)
	defer late.Stop()
	select {
	case r.details.slots <- struct{}{}:
	case <-late.C:
		return r.tooSlow(p, b)
	case <-ctx.Done():
		return p
	}
	// Nobody waits for a reader that hangs in the kernel, not even Close: its wait is
	// a killable one, which the end of this process ends.
	out := make(chan *workload.Process, 1)
	go func() {
		defer func() { <-r.details.slots }()
		out <- r.readDetail(p)
	}()
	select {
	case q := <-out:
		if q == nil {
			r.details.gone.Add(1)
			return p
		}
		r.details.read.Add(1)
		return q
	case <-late.C:
		return r.tooSlow(p, b)
	case <-ctx.Done():
		return p
	}
}

func (r *Resolver) tooSlow(p *workload.Process, b *Reading) *workload.Process {
	b.slow++
	r.details.slow.Add(1)
	return p
}

// DetailAll gives the entities with Detail for each process that lives. What one
// reader takes slowly is read slowly: nothing is read ahead.
func (r *Resolver) DetailAll(ctx context.Context, in iter.Seq[workload.Entity]) iter.Seq[workload.Entity] {
	if r.copy {
		return in // nothing of this host's processes is about them
	}
	return func(yield func(workload.Entity) bool) {
		var b Reading
		for e := range in {
			if e.Process != nil && !e.Gone {
				e.Process = r.Detail(ctx, e.Process, &b)
			}
			if !yield(e) {
				return
			}
		}
	}
}

// instance is one living process, held by its /proc directory: whatever is read
// beneath that is this process's, or an error once it has ended.
type instance struct {
	dir int
	key workload.ProcessKey
	stat
}

// open holds whoever has the PID now. The caller closes dir. Its error is that of
// a process that is gone, or may not be looked at.
func (r *Resolver) open(pid workload.PID) (instance, error) {
	dir, err := openProc(r.procfs, pid)
	if err != nil {
		return instance{}, err
	}
	i := instance{dir: dir, key: workload.ProcessKey{PID: pid, Ticks: true}}
	if r.pidfs {
		i.key.Inode = pidfdInode(pid)
	}
	// Read after the pidfd was opened: where the directory's process still lives, it
	// has had the PID all the time, and the pidfd is its own.
	if i.stat, err = readStat(dir); err != nil {
		return instance{}, errors.Join(err, unix.Close(dir))
	}
	i.key.Start = i.start
	return i, nil
}

// pidfdInode gives 0 where the PID is nobody's, or that of a thread.
func pidfdInode(pid workload.PID) uint64 {
	fd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		return 0
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return 0
	}
	return st.Ino
}

// readDetail gives nil where the process is gone, or another one.
func (r *Resolver) readDetail(p *workload.Process) *workload.Process {
	i, err := r.open(p.Key.PID)
	if err != nil {
		return nil
	}
	defer unix.Close(i.dir)
	if !i.key.Same(p.Key) {
		return nil
	}
	for range maxTries {
		q := *p
		d := &workload.ProcessDetail{Namespaces: readNamespaces(i.dir)}
		q.Exe, q.Detail = readExe(i.dir), d
		if !readUser(i.dir, d) {
			return nil
		}
		readCommand(i.dir, d)
		d.Parent = r.parentOf(i)
		if p.Status == workload.StatusHost {
			d.User = r.users.name(r.procfs, d.EUID)
		}
		now, err := readStat(i.dir)
		if err != nil {
			return nil
		}
		if now.stack == i.stack {
			return &q
		}
		i.stat = now // another program: what was read may be of either
	}
	return nil
}

// namespaces are the kinds of proc(5), by their names there.
func namespaces() []string {
	return []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}
}

func readNamespaces(dir int) map[string]uint64 {
	m := map[string]uint64{}
	for _, kind := range namespaces() {
		var st unix.Stat_t
		if unix.Fstatat(dir, "ns/"+kind, &st, 0) == nil {
			m[kind] = st.Ino
		}
	}
	return m
}

// readExe gives the path as the kernel prints it: of a deleted file with " (deleted)".
func readExe(dir int) string {
	buf := make([]byte, maxExe)
	n, err := unix.Readlinkat(dir, "exe", buf)
	if err != nil {
		return "" // a kernel thread, or one that we may not trace
	}
	return strings.ToValidUTF8(string(buf[:n]), "\uFFFD")
}

// readUser fills the users in. Without them there is no detail: a user who was not
// read is not root.
func readUser(dir int, d *workload.ProcessDetail) bool {
	ids, ok := readUIDs(dir)
	d.UID, d.EUID = ids[0], ids[1]
	return ok
}

// readUIDs reads the line Uid of status: real, effective, saved, of the file
// system. A name cannot forge it: status escapes newlines in it.
func readUIDs(dir int) (ids [4]uint32, ok bool) {
	b, err := readBeneath(dir, "status")
	if err != nil {
		return ids, false
	}
	_, rest, _ := bytes.Cut(b, []byte("\nUid:"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	f := bytes.Fields(line)
	if len(f) != len(ids) {
		return ids, false
	}
	for i := range ids {
		id, err := strconv.ParseUint(string(f[i]), 10, 32)
		if err != nil {
			return ids, false
		}
		ids[i] = uint32(id)
	}
	return ids, true
}

// Owner gives the user as whom the living process that the key names runs, by its
// real, its effective and its saved user id. It is false where those differ, and where
// the process has ended. It reads /proc and waits for nobody.
func (r *Resolver) Owner(k workload.ProcessKey) (uid uint32, ok bool) {
	i, err := r.open(k.PID)
	if err != nil {
		return 0, false
	}
	defer unix.Close(i.dir)
	if !i.key.Same(k) {
		return 0, false
	}
	ids, ok := readUIDs(i.dir)
	return ids[0], ok && ids[1] == ids[0] && ids[2] == ids[0]
}

// readCommand reads the command line within its budget.
func readCommand(dir int, d *workload.ProcessDetail) {
	b, err := readUpTo(dir, "cmdline", maxCommand+1)
	if err != nil || len(b) == 0 {
		return
	}
	var cut bool
	if d.Command, cut = arguments(b); cut {
		d.Truncated = append(d.Truncated, "command")
	}
}

// arguments takes a command line apart, and says whether it was cut. Each argument
// ends with a NUL; a process may have written anything over its own.
func arguments(b []byte) (args []string, cut bool) {
	if len(b) > maxCommand {
		b, cut = b[:maxCommand], true
	}
	for a := range bytes.SplitSeq(bytes.TrimSuffix(b, []byte{0}), []byte{0}) {
		if len(args) == maxArgs {
			return args, true
		}
		args = append(args, strings.ToValidUTF8(string(a), "\uFFFD"))
	}
	return args, cut
}

// readUpTo reads a file beneath a directory, n bytes of it at most.
func readUpTo(dir int, name string, n int) ([]byte, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	b := make([]byte, 0, n)
	for len(b) < n {
		got, err := unix.Read(fd, b[len(b):n])
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, err
		case got == 0:
			return b, nil
		default:
			b = b[:len(b)+got]
		}
	}
	return b, nil
}

// parentOf gives the key of the process that is the parent now: whoever has its PID
// while the child says before and after that it is its parent. A parent that ends
// leaves its children to another one. Zero for none, and where it cannot be told.
func (r *Resolver) parentOf(child instance) workload.ProcessKey {
	before, err := readStat(child.dir)
	if err != nil || before.parent == 0 {
		return workload.ProcessKey{}
	}
	p, err := r.open(before.parent)
	if err != nil {
		return workload.ProcessKey{}
	}
	_ = unix.Close(p.dir) // nothing was written to it
	if after, err := readStat(child.dir); err != nil || after.parent != before.parent {
		return workload.ProcessKey{}
	}
	return p.key
}
