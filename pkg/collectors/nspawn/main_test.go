// SPDX-License-Identifier: Apache-2.0

package nspawn

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

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/procdir"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machinesDir makes a directory like machined's.
func machinesDir(tb testing.TB) string {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("machines' files must be owned by root, and nspawn needs it: run the tests as root")
	}
	dir := filepath.Join(tb.TempDir(), "systemd/machines")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// put puts a file in its place at once, as machined does.
func put(tb testing.TB, dir, name, data string) {
	tb.Helper()
	tmp := filepath.Join(dir, ".#"+name)
	if err := os.WriteFile(tmp, []byte(data), 0o644); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		tb.Fatal(err)
	}
}

// now is the monotonic clock in microseconds, which machined writes.
func now(tb testing.TB) int64 {
	tb.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		tb.Fatal(err)
	}
	return ts.Nano() / 1000
}

// registered is the file that machined 252 writes of a container of nspawn's.
func registered(tb testing.TB, name, unit string, leader workload.PID) string {
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
`, name, strings.ReplaceAll(unit, `\`, `\\`), name, leader, time.Now().UnixMicro(), now(tb))
}

// container is a real container of systemd-nspawn's, in a scope below machine.slice
// where machined would have put it.
type container struct {
	name, unit string
	leader     workload.PID
	cgroups    []workload.CgroupPath

	supervisor *exec.Cmd
	ended      chan struct{}
	dirs       []string // its cgroups' directories
}

var containers atomic.Int64

// joinAndExec moves its shell into the two cgroups and becomes the rest.
const joinAndExec = `echo $$ >"$1/cgroup.procs" && echo $$ >"$2/cgroup.procs" && shift 2 && exec "$@"`

// start starts a container without machined, which needs systemd as PID 1.
func start(tb testing.TB) *container {
	tb.Helper()
	n := containers.Add(1)
	c := &container{name: fmt.Sprintf("pd%d-%d", os.Getpid(), n), ended: make(chan struct{})}
	c.unit = "machine-" + strings.ReplaceAll(c.name, "-", `\x2d`) + ".scope"
	for _, h := range []string{"systemd", "unified"} { // where nspawn makes cgroups on a hybrid host
		slice := "/sys/fs/cgroup/" + h
		if _, err := os.Stat(slice); err != nil {
			slice = "/sys/fs/cgroup" // v2 alone
		}
		dir := slice + "/machine.slice/" + c.unit
		if err := os.MkdirAll(dir, 0o755); err != nil {
			tb.Fatal(err)
		}
		c.dirs = append(c.dirs, dir)
	}
	root := rootfs(tb)
	argv := append([]string{"-c", joinAndExec, "sh"}, c.dirs...)
	argv = append(argv, "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--directory="+root, "--machine="+c.name, "--private-network",
		"--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe", "--as-pid2", "/bin/busybox", "sleep", "600")
	c.supervisor = exec.Command("/bin/sh", argv...)
	var console strings.Builder
	c.supervisor.Stdout, c.supervisor.Stderr = &console, &console
	if err := c.supervisor.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		defer close(c.ended)
		_ = c.supervisor.Wait() // stop kills it
	}()
	tb.Cleanup(func() { c.cleanup(tb) })
	late := time.Now().Add(30 * time.Second)
	for !c.up() {
		select {
		case <-c.ended:
			tb.Fatalf("systemd-nspawn ended at once:\n%s", &console)
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(late) {
			tb.Fatal("systemd-nspawn does not start its container")
		}
	}
	c.cgroups = collectortest.CgroupsOf(tb, c.leader)
	return c
}

// rootfs makes what nspawn takes for the root of an operating system.
func rootfs(tb testing.TB) string {
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
func (c *container) up() bool {
	d, err := procdir.Open("/proc", workload.PID(c.supervisor.Process.Pid))
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
	c.leader = children[0]
	return true
}

// stop ends the container, and with it nspawn.
func (c *container) stop() {
	if c.leader != 0 {
		select {
		case <-c.ended:
		default:
			_ = unix.Kill(int(c.leader), unix.SIGKILL)
		}
	} else {
		_ = c.supervisor.Process.Kill()
	}
	<-c.ended
}

func (c *container) cleanup(tb testing.TB) {
	c.stop()
	late := time.Now().Add(10 * time.Second)
	for _, dir := range c.dirs {
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
