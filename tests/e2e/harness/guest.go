// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
)

// guestShare is where Guest.Share is seen inside the guest.
const guestShare = "/share"

// Guest is a booted systemd-nspawn container: systemd as PID 1, a pure cgroup v2
// view, PID, mount, network and cgroup namespaces of its own.
type Guest struct {
	// Share is a directory of the host that the guest sees as /share.
	Share string
	// Machine is its name.
	Machine string

	tb      testing.TB
	dir     string
	cgroups []string
	p       *process
	leader  int // the host's PID of the guest's systemd
}

// StartGuest makes the guest's root file system if there is none yet, boots it
// and waits until systemd has started everything. It ends with the test.
func StartGuest(tb testing.TB) *Guest {
	tb.Helper()
	root, err := collectortest.GuestRoot(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "pdn")
	if err != nil {
		tb.Fatal(err)
	}
	g := &Guest{Share: dir + "/share", tb: tb, dir: dir}
	tb.Cleanup(g.cleanup)
	for _, d := range []string{g.Share, dir + "/docker"} {
		if err := os.Mkdir(d, 0o755); err != nil {
			tb.Fatal(err)
		}
	}
	if err := g.boot(root); err != nil {
		tb.Fatalf("boot the guest: %v", err)
	}
	return g
}

// boot starts nspawn from cgroups of its own, so that the guest's are below
// those and nothing of the machine's is touched.
func (g *Guest) boot(root string) error {
	var err error
	if g.cgroups, err = makeCgroups(filepath.Base(g.dir)); err != nil {
		return err
	}
	g.Machine = "pidigree-" + strings.ToLower(filepath.Base(g.dir))
	argv := append([]string{"/bin/sh", "-c", joinAndExec, "sh", strconv.Itoa(len(g.cgroups))}, g.cgroups...)
	argv = append(argv, "systemd-nspawn", "--quiet", "--boot", "--directory="+root, "--volatile=overlay", "--machine="+g.Machine,
		"--register=no", "--keep-unit", "--private-network", "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe",
		// What Docker and BPF need beyond nspawn's defaults.
		"--capability=all", "--system-call-filter=add_key keyctl bpf perf_event_open",
		// overlay2 cannot lie on the overlay that --volatile makes.
		"--bind="+g.dir+"/docker:/var/lib/docker", "--bind="+g.Share+":"+guestShare)
	g.p, err = start(g.dir+"/console", append(cleanEnv(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1"), false, argv...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(g.tb.Context(), 60*time.Second)
	defer cancel()
	if err := await(ctx, g.booted); err != nil {
		return fmt.Errorf("%w; the console ends:\n%s", err, g.p.tail())
	}
	return nil
}

// joinAndExec moves its shell into the N cgroups and becomes the rest.
const joinAndExec = `n=$1; shift; while [ $n -gt 0 ]; do echo $$ >"$1/cgroup.procs" || exit 1; shift; n=$((n-1)); done; exec "$@"`

// booted finds the guest's systemd and asks it whether it is done.
func (g *Guest) booted(ctx context.Context) error {
	if !g.p.running() {
		g.tb.Fatalf("systemd-nspawn ended at once: %v; the console ends:\n%s", g.p.err, g.p.tail())
	}
	children := Children(g.p.pid)
	if len(children) != 1 {
		return fmt.Errorf("systemd-nspawn has %d children", len(children))
	}
	g.leader = children[0]
	// It prints running or degraded; a guest that lacks some unit is still good.
	out, _ := g.Run(ctx, "systemctl", "is-system-running")
	if state := strings.TrimSpace(out); state != "running" && state != "degraded" {
		return fmt.Errorf("the guest is %q", state)
	}
	return nil
}

// Register writes what machined would have written of the guest into a directory, and
// gives the host's PID of the guest's systemd. The guest's cgroups stand for its unit.
func (g *Guest) Register(dir string) (leader int) {
	g.tb.Helper()
	var mono unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono)
	text := fmt.Sprintf("# This is private data. Do not parse.\nNAME=%s\nSCOPE=%s\nSERVICE=systemd-nspawn\nLEADER=%d\nCLASS=container\nREALTIME=%d\nMONOTONIC=%d\n",
		g.Machine, filepath.Base(g.dir), g.leader, time.Now().UnixMicro(), mono.Nano()/1000)
	if err = errors.Join(err, os.WriteFile(dir+"/"+g.Machine, []byte(text), 0o644)); err != nil {
		g.tb.Fatal(err)
	}
	return g.leader
}

// Supervisor is the host's PID of the guest's nspawn.
func (g *Guest) Supervisor() int { return g.p.pid }

// HostPID finds the one process of the guest's whose command line ends so.
func (g *Guest) HostPID(end string) (int, error) {
	want, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", g.leader))
	if err != nil {
		return 0, err
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range dirs {
		cmdline, err := os.ReadFile(dir + "/cmdline")
		if err != nil || !strings.HasSuffix(string(cmdline), end) {
			continue
		}
		// It is in a PID namespace of its own, whose parent is the guest's.
		if in, err := os.Readlink(dir + "/ns/pid"); err == nil && in != want {
			return strconv.Atoi(filepath.Base(dir))
		}
	}
	return 0, fmt.Errorf("no process ends in %q", end)
}

// Run runs a program of the guest's in its namespaces and gives what it printed.
// It may be called concurrently.
func (g *Guest) Run(ctx context.Context, argv ...string) (string, error) {
	cmd := g.command(ctx, argv...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("in the guest: %s: %w: %s", strings.Join(argv, " "), err, strings.TrimSpace(stderr.String()))
	}
	return string(out), err
}

func (g *Guest) command(ctx context.Context, argv ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{
		"--target", strconv.Itoa(g.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--",
		"/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
	}, argv...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// Service starts a program as a transient unit of the guest's systemd: in a
// cgroup of its own, below system.slice, with everything that it starts.
func (g *Guest) Service(unit string, argv ...string) {
	g.tb.Helper()
	args := append([]string{"systemd-run", "--quiet", "--collect", "--unit=" + unit, "--property=Delegate=yes", "--property=KillMode=process"}, argv...)
	if out, err := g.Run(g.tb.Context(), args...); err != nil {
		g.tb.Fatalf("start the unit %s: %v %s", unit, err, out)
	}
}

// Await polls fn until it gives nil, and fails the test with its last error.
func (g *Guest) Await(patience time.Duration, fn func(context.Context) error) {
	g.tb.Helper()
	ctx, cancel := context.WithTimeout(g.tb.Context(), patience)
	defer cancel()
	if err := await(ctx, fn); err != nil {
		g.tb.Fatal(err)
	}
}

// Journal gives what a unit logged.
func (g *Guest) Journal(unit string) string {
	out, err := g.Run(context.Background(), "journalctl", "--no-pager", "--output=cat", "--lines=60", "--unit="+unit)
	if err != nil {
		return err.Error()
	}
	return out
}

// Docker starts the guest's dockerd with the systemd cgroup driver and waits
// until it answers. It gives the socket as the host sees it.
func (g *Guest) Docker() (socket string) {
	g.tb.Helper()
	g.Service("guest-docker", "dockerd", "--host=unix://"+guestShare+"/docker.sock", "--exec-opt", "native.cgroupdriver=systemd",
		"--bridge=none", "--iptables=false", "--ip6tables=false", "--userland-proxy=false")
	socket = g.Share + "/docker.sock"
	ctx, cancel := context.WithTimeout(g.tb.Context(), 60*time.Second)
	defer cancel()
	err := await(ctx, func(ctx context.Context) error {
		out, err := exec.CommandContext(ctx, "docker", "--host", "unix://"+socket, "info", "--format", "{{.CgroupDriver}} {{.CgroupVersion}}").CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != "systemd 2" {
			return fmt.Errorf("docker info says %q: %w", got, errors.Join(err, errors.New("not yet")))
		}
		return nil
	})
	if err != nil {
		g.tb.Fatalf("the guest's Docker: %v\n%s", err, g.Journal("guest-docker"))
	}
	return socket
}

// cleanup powers the guest off and removes its cgroups and files.
func (g *Guest) cleanup() {
	if g.p != nil {
		if g.tb.Failed() {
			g.tb.Logf("the guest's console ends:\n%s", g.p.tail())
		}
		if g.leader > 0 {
			// systemd's signal for an orderly, quick halt (SIGRTMIN+14: systemd(1)).
			_ = syscall.Kill(g.leader, syscall.Signal(34+14))
		}
		if err := g.p.stop(syscall.Signal(0), 20*time.Second); err != nil {
			g.tb.Logf("power the guest off: %v", err)
		}
	}
	for _, c := range g.cgroups {
		if err := removeCgroup(c); err != nil {
			g.tb.Errorf("remove %s: %v", c, err)
		}
	}
	if err := os.RemoveAll(g.dir); err != nil {
		g.tb.Errorf("remove %s: %v", g.dir, err)
	}
}

// makeCgroups makes a cgroup of this name in every mounted hierarchy.
func makeCgroups(name string) ([]string, error) {
	roots, err := mountPoints()
	if err != nil {
		return nil, err
	}
	var made []string
	for _, root := range roots {
		dir := filepath.Join(root, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return made, err
		}
		made = append(made, dir)
		// A new v1 cpuset takes no process before it has CPUs and memory nodes.
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if b, err := os.ReadFile(filepath.Join(root, file)); err == nil {
				if err := os.WriteFile(filepath.Join(dir, file), b, 0o644); err != nil {
					return made, err
				}
			}
		}
	}
	return made, nil
}

// mountPoints gives those of all cgroup hierarchies, mounted whole or not.
func mountPoints() ([]string, error) {
	f, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var roots []string
	s := bufio.NewScanner(f)
	for s.Scan() {
		if fields := strings.Fields(s.Text()); len(fields) > 2 && (fields[2] == "cgroup" || fields[2] == "cgroup2") && strings.HasPrefix(fields[1], CgroupRoot) {
			roots = append(roots, fields[1])
		}
	}
	return roots, s.Err()
}

// removeCgroup removes a cgroup and those below it. Its processes have ended,
// but the kernel may take a moment to say so.
func removeCgroup(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return await(ctx, func(context.Context) error {
		var dirs []string
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil // what vanishes meanwhile is what is wanted
		})
		for _, d := range slices.Backward(dirs) {
			if rm := syscall.Rmdir(d); rm != nil && !errors.Is(rm, fs.ErrNotExist) {
				err = rm
			}
		}
		return err
	})
}
