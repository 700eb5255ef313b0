// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/procdir"
	"github.com/pidigree/pidigree/pkg/workload"
)

// monotonic is that clock in microseconds, which machined writes.
func monotonic(tb testing.TB) int64 {
	tb.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		tb.Fatal(err)
	}
	return ts.Nano() / 1000
}

// File is what machined 252 writes of it.
func (m *Machine) File(tb testing.TB) string {
	tb.Helper()
	return fmt.Sprintf(`# This is private data. Do not parse.
NAME=%s
SCOPE=%s
SERVICE=systemd-nspawn
ROOT=/var/lib/machines/%s
ID=9a3c2e1f00000000000000000000abcd
LEADER=%d
CLASS=container
REALTIME=%d
MONOTONIC=%d
`, m.Name, strings.ReplaceAll(m.Unit, `\`, `\\`), m.Name, m.Leader, time.Now().UnixMicro(), monotonic(tb))
}

// Machine is a real container of systemd-nspawn's, in a scope below machine.slice where
// machined would have put it: machined itself needs systemd as PID 1.
type Machine struct {
	Name, Unit string
	Leader     workload.PID
	Cgroups    []workload.CgroupPath
	// Dirs are the directories of the unit's cgroups, cgroup2's the last.
	Dirs []string
	// Supervisor is nspawn itself.
	Supervisor *exec.Cmd

	ended chan struct{}
}

// MachineOptions say how to start a Machine. The zero value sleeps.
type MachineOptions struct {
	// Args are further ones of systemd-nspawn.
	Args []string
	// Command is the container's program.
	Command []string
}

var machines atomic.Int64

// joinAndExec moves its shell into the two cgroups and becomes the rest.
const joinAndExec = `echo $$ >"$1/cgroup.procs" && echo $$ >"$2/cgroup.procs" && shift 2 && exec "$@"`

// StartMachine starts a container, which ends with the test.
func StartMachine(tb testing.TB, opts MachineOptions) *Machine {
	tb.Helper()
	needRoot(tb)
	if opts.Command == nil {
		opts.Command = []string{"/bin/busybox", "sleep", "600"}
	}
	m := &Machine{Name: fmt.Sprintf("pd%d-%d", os.Getpid(), machines.Add(1)), ended: make(chan struct{})}
	m.Unit = "machine-" + strings.ReplaceAll(m.Name, "-", `\x2d`) + ".scope"
	for _, h := range []string{"systemd", "unified"} { // where nspawn makes cgroups on a hybrid host
		slice := "/sys/fs/cgroup/" + h
		if _, err := os.Stat(slice); err != nil {
			slice = "/sys/fs/cgroup" // v2 alone
		}
		dir := slice + "/machine.slice/" + m.Unit
		if err := os.MkdirAll(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
		m.Dirs = append(m.Dirs, dir)
	}
	root := machineRoot(tb)
	argv := append([]string{"-c", joinAndExec, "sh"}, m.Dirs...)
	argv = append(argv, "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--directory="+root, "--machine="+m.Name, "--private-network",
		"--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe", "--as-pid2")
	argv = append(append(argv, opts.Args...), opts.Command...)
	m.Supervisor = exec.Command("/bin/sh", argv...)
	var console strings.Builder
	m.Supervisor.Stdout, m.Supervisor.Stderr = &console, &console
	if err := m.Supervisor.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(m.ended)
		_ = m.Supervisor.Wait() // stop kills it
	}()
	tb.Cleanup(func() { m.cleanup(tb) })
	late := time.Now().Add(30 * time.Second)
	for !m.up() {
		select {
		case <-m.ended:
			tb.Fatalf("systemd-nspawn ended at once:\n%s", &console)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(late) {
			tb.Fatal("systemd-nspawn does not start its container")
		}
	}
	m.Cgroups = CgroupsOf(tb, m.Leader)
	return m
}

// machineRoot makes what nspawn takes for the root of an operating system.
func machineRoot(tb testing.TB) string {
	tb.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		tb.Fatal(err)
	}
	data, err := os.ReadFile(busybox)
	if err != nil {
		tb.Fatal(err)
	}
	root := tb.TempDir()
	for _, d := range []string{"bin", "usr", "etc", "proc", "sys", "dev", "tmp", "run", "var"} {
		if err := os.Mkdir(filepath.Join(root, d), 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.WriteFile(root+"/bin/busybox", data, 0o755); err != nil {
		tb.Fatal(err)
	}
	return root
}

// up finds the leader once it is in its cgroup and has made the container's program.
func (m *Machine) up() bool {
	d, err := procdir.Open("/proc", workload.PID(m.Supervisor.Process.Pid))
	if err != nil {
		return false
	}
	defer d.Close()
	children, err := d.Children()
	if err != nil || len(children) != 1 {
		return false
	}
	l, err := procdir.Open("/proc", children[0])
	if err != nil {
		return false
	}
	defer l.Close()
	cgroups, err := l.Cgroups()
	status, serr := l.Status() // before the leader, nspawn makes a process that makes it
	made, merr := l.Children()
	if errors.Join(err, serr, merr) != nil || !status.FirstOfNamespace() || len(made) == 0 {
		return false
	}
	if !slices.ContainsFunc(cgroups, func(g workload.CgroupPath) bool { return strings.HasSuffix(g.Path, "/payload") }) {
		return false
	}
	m.Leader = children[0]
	return true
}

// Stop ends the container, and with it nspawn.
func (m *Machine) Stop() {
	if m.Leader != 0 {
		select {
		case <-m.ended:
		default:
			_ = unix.Kill(int(m.Leader), unix.SIGKILL)
		}
	} else {
		_ = m.Supervisor.Process.Kill()
	}
	<-m.ended
}

func (m *Machine) cleanup(tb testing.TB) {
	m.Stop()
	late := time.Now().Add(10 * time.Second)
	for _, dir := range m.Dirs {
		for _, d := range []string{dir + "/payload", dir + "/supervisor", dir} {
			// Who has ended may be there for a moment.
			for err := unix.Rmdir(d); err != nil && err != unix.ENOENT; err = unix.Rmdir(d) {
				if time.Now().After(late) {
					tb.Errorf("remove %s: %v", d, err)
					break
				}
				<-time.After(10 * time.Millisecond)
			}
		}
		_ = unix.Rmdir(filepath.Dir(dir)) // unless another's is in there
	}
}
