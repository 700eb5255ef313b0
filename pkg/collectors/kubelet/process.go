// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/safefile"
)

// process is one life of a kubelet; zero for one that is not seen.
type process struct {
	pid int
	// start is when it began, in clock ticks since boot.
	start uint64
}

// ticks is USER_HZ, which is 100 on every architecture that Go runs on.
const ticks = 100

// age is how long it has run.
func (p process) age() time.Duration {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // exists since 2.6.39
	return time.Duration(now.Nano()) - time.Duration(p.start)*(time.Second/ticks)
}

// finder looks for the kubelet's process.
type finder struct {
	procfs string
	// traces are what a host has, below its root, that is or was a node.
	traces []string
	// ports are where a kubelet usually listens.
	ports []string
	// rescan is the pause between walks through all processes, hasty that where
	// something listens at such a port.
	rescan, hasty time.Duration

	mu     sync.Mutex // guards all below
	seen   process
	walked time.Time
}

func newFinder(procfs string) *finder {
	return &finder{
		procfs: procfs,
		traces: []string{"/var/lib/kubelet", "/etc/kubernetes"},
		ports:  []string{"127.0.0.1:10250", "127.0.0.1:10255"},
		rescan: 30 * time.Second,
		hasty:  5 * time.Second,
	}
}

// kubelet gives the kubelet's process. To look at every process of a host costs
// tens of milliseconds, so it is done only on a node, seldom, and sooner where
// something listens at the usual port.
func (f *finder) kubelet() (process, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.seen.pid != 0 && f.start(f.seen.pid) == f.seen.start {
		return f.seen, true
	}
	went := f.seen.pid != 0
	f.seen = process{}
	since := time.Since(f.walked)
	if !went && (since < f.hasty || !f.isNode() || since < f.rescan && !f.listening()) {
		return process{}, false
	}
	f.walked = time.Now()
	if went {
		f.walked = time.Time{} // its successor may come any moment
	}
	f.seen = f.walk()
	return f.seen, f.seen.pid != 0
}

// isNode says whether there is a trace of a kubelet, for the price of a few stats.
func (f *finder) isNode() bool {
	root := filepath.Join(f.procfs, f.initial(), "root")
	return slices.ContainsFunc(f.traces, func(p string) bool {
		_, err := os.Stat(filepath.Join(root, p))
		return err == nil
	})
}

// initial gives a process that is the host's, as far as this one may look at it:
// PID 1, a thread of the kernel's, or ourselves.
func (f *finder) initial() string {
	for _, p := range []string{"1", "2"} {
		if _, err := os.Stat(filepath.Join(f.procfs, p, "root")); err == nil {
			return p
		}
	}
	return "self"
}

func (f *finder) listening() bool {
	return slices.ContainsFunc(f.ports, func(addr string) bool {
		conn, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
}

// walk looks at all processes, and gives the one that has run longest.
func (f *finder) walk() process {
	dirs, err := os.ReadDir(f.procfs)
	if err != nil {
		return process{}
	}
	var found []process
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		comm, _, err := safefile.Head(f.path(pid, "comm"), 64)
		if err != nil || string(bytes.TrimSpace(comm)) != "kubelet" || f.trusted(pid) != nil {
			continue
		}
		if start := f.start(pid); start != 0 {
			found = append(found, process{pid, start})
		}
	}
	if len(found) == 0 {
		return process{}
	}
	return slices.MinFunc(found, func(a, b process) int { return cmp.Compare(a.start, b.start) })
}

func (f *finder) path(pid int, of string) string {
	return filepath.Join(f.procfs, strconv.Itoa(pid), of)
}

// start gives the start of a process in ticks, 0 if there is none. It is the 22nd
// field of stat, the 20th behind the name, which may hold anything.
func (f *finder) start(pid int) uint64 {
	stat, _, err := safefile.Head(f.path(pid, "stat"), 4<<10)
	if err != nil {
		return 0
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(fields[19], 10, 64)
	return n
}

// trusted fails for a process that may be a container's: any can call itself
// kubelet and name files and ports. The kubelet is root's, in the host's PID
// namespace, and has the host's root directory; what has all three inside of a
// container could do all that we can.
func (f *finder) trusted(pid int) error {
	var st, root, host unix.Stat_t
	if err := unix.Stat(f.path(pid, ""), &st); err != nil {
		return err
	}
	if st.Uid != 0 {
		return fmt.Errorf("process %d is user %d's", pid, st.Uid)
	}
	initial := filepath.Join(f.procfs, f.initial())
	own, err := os.Readlink(f.path(pid, "ns/pid"))
	if err != nil {
		return err
	}
	if hosts, err := os.Readlink(filepath.Join(initial, "ns/pid")); err != nil || hosts != own {
		return fmt.Errorf("process %d is in another PID namespace", pid)
	}
	if err := errors.Join(unix.Stat(f.path(pid, "root"), &root), unix.Stat(filepath.Join(initial, "root"), &host)); err != nil {
		return err
	}
	if root.Dev != host.Dev || root.Ino != host.Ino {
		return fmt.Errorf("process %d has another root directory", pid)
	}
	return nil
}

// args gives the arguments of a process.
func (f *finder) args(pid int) ([]string, error) {
	raw, _, err := safefile.Head(f.path(pid, "cmdline"), 128<<10)
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00"), nil
}
