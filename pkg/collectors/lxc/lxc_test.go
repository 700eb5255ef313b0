// SPDX-License-Identifier: Apache-2.0

package lxc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/cgroupdir"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is a directory of containers, on the machine's own LXC.
type host struct {
	tb   testing.TB
	path string
}

func newHost(tb testing.TB) *host {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("LXC's containers are root's: run the tests as root")
	}
	dir, err := os.MkdirTemp("/tmp", "pdl") // a longer path is a hash in the socket's name
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return &host{tb: tb, path: dir}
}

var serial atomic.Int64

// define makes a container that sleeps, and gives its name. extra are further lines of
// its configuration.
func (h *host) define(extra ...string) string {
	h.tb.Helper()
	name := fmt.Sprintf("pd%d-x%d", os.Getpid(), serial.Add(1))
	root := filepath.Join(h.path, name, "rootfs")
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp", "etc"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			h.tb.Fatal(err)
		}
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		h.tb.Fatal(err)
	}
	data, err := os.ReadFile(busybox)
	if err == nil {
		err = os.WriteFile(root+"/bin/busybox", data, 0o755)
	}
	if err != nil {
		h.tb.Fatal(err)
	}
	h.configure(name, append([]string{
		"# made by a test", "lxc.uts.name = box", "lxc.rootfs.path = dir:" + root, "lxc.net.0.type = empty",
		"lxc.mount.auto = proc:mixed sys:mixed", "lxc.apparmor.profile = unconfined", "lxc.init.cmd = /bin/busybox sleep 600",
	}, extra...)...)
	return name
}

func (h *host) configure(name string, lines ...string) {
	h.tb.Helper()
	if err := os.WriteFile(filepath.Join(h.path, name, "config"), []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		h.tb.Fatal(err)
	}
}

// start starts a container and gives its init, by LXC's own word.
func (h *host) start(name string) workload.PID {
	h.tb.Helper()
	h.tb.Cleanup(func() { h.stop(name) })
	log := filepath.Join(h.path, name, "log")
	h.lxc("lxc-start", name, "--logfile", log, "--logpriority", "INFO")
	out := h.lxc("lxc-info", name, "-p", "-H")
	pid, err := strconv.ParseUint(strings.TrimSpace(out), 10, 32)
	if err != nil {
		text, _ := os.ReadFile(log)
		h.tb.Fatalf("lxc-info: %v in %q; the log:\n%s", err, out, text)
	}
	return workload.PID(pid)
}

func (h *host) lxc(program, name string, args ...string) string {
	h.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, append([]string{"-P", h.path, "-n", name}, args...)...).CombinedOutput()
	if err != nil {
		h.tb.Fatalf("%s: %v: %s", program, err, out)
	}
	return string(out)
}

func (h *host) stop(name string) {
	// It fails where it does not run.
	_ = exec.Command("lxc-stop", "-k", "-P", h.path, "-n", name).Run()
	_ = exec.Command("lxc-wait", "-P", h.path, "-n", name, "-s", "STOPPED", "-t", "20").Run()
}

func (h *host) collector() *Collector { return New(Options{Paths: []string{h.path}}) }

func (h *host) id(name string) workload.ContainerID {
	return workload.ContainerID{Runtime: "lxc", Instance: h.path, ID: name}
}

// TestConformance runs on real containers of the machine's LXC.
func TestConformance(t *testing.T) {
	h := newHost(t)
	collectortest.Run(t, collectortest.Harness{
		New: func(testing.TB) collectors.Collector { return h.collector() },
		Start: func(tb testing.TB) *collectortest.Started {
			h := &host{tb: tb, path: h.path}
			name := h.define()
			pid := h.start(name)
			return &collectortest.Started{
				Want: &workload.Container{
					ID: h.id(name), Name: name, Runtime: "lxc", Hostname: "box", State: workload.StateRunning,
					Run: &workload.Run{Init: workload.ProcessKey{PID: pid}},
				},
				Evidence: workload.Evidence{Claims: []workload.ContainerID{{Runtime: "lxc", ID: name}}, Cgroups: collectortest.CgroupsOf(tb, pid)},
				Stop:     func() { h.stop(name) },
				Remove:   func() {},
			}
		},
		Unknown: workload.ContainerID{Runtime: "lxc", ID: "nobody"},
	})
}

func TestWhereAContainersCgroupsAre(t *testing.T) {
	h := newHost(t)
	for name, tc := range map[string]struct {
		extra   []string
		payload string // %s is the container's name
	}{
		"by default":        {nil, "/lxc.payload.%s"},
		"in a directory":    {[]string{"lxc.cgroup.dir = pdl"}, "/pdl/lxc.payload.%s"},
		"as Proxmox has it": {[]string{"lxc.cgroup.dir.monitor = pdl/monitor", "lxc.cgroup.dir.container = pdl/box", "lxc.cgroup.dir.container.inner = ns"}, "/pdl/box"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &host{tb: t, path: h.path}
			c := h.define(tc.extra...)
			pid := h.start(c)
			got, err := h.collector().Lookup(t.Context(), h.id(c))
			if err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(tc.payload, "%s", c)
			if r := got.Run; r == nil || !r.Registers || r.Init.PID != pid || r.Init.Start == 0 || len(r.ClaimedPaths) != 1 || r.ClaimedPaths[0] != want {
				t.Errorf("run %+v, want the init %d in %s", r, pid, want)
			}
		})
	}
}

// Where a cgroup of the name is left over, LXC adds a number to that of the next one.
func TestALeftOverCgroupIsNotTheContainers(t *testing.T) {
	h := newHost(t)
	c := h.define()
	for _, kind := range []string{"monitor", "payload"} {
		for _, top := range cgroupdir.Mounts("/sys/fs/cgroup") {
			dir := top + "/lxc." + kind + "." + c
			if os.Mkdir(dir, 0o755) == nil {
				t.Cleanup(func() { _ = unix.Rmdir(dir) }) // LXC may have removed it
			}
		}
	}
	if f, err := h.collector().Lookup(t.Context(), h.id(c)); !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("before it runs: %+v, %v", f, err)
	}
	pid := h.start(c)
	got, err := h.collector().Lookup(t.Context(), h.id(c))
	if err != nil || got.Run == nil || got.Run.Init.PID != pid || got.Run.ClaimedPaths[0] != "/lxc.payload."+c+"-1" {
		t.Errorf("%+v, %v; want the init %d", got, err, pid)
	}
}

// One that lxc-freeze stops is paused until it is thawed, and told of at the next look.
func TestAFrozenContainerIsPaused(t *testing.T) {
	h := newHost(t)
	name := h.define()
	h.start(name)
	var hints []collectors.Hint
	w := &watch{c: h.collector(), fn: func(hint collectors.Hint) { hints = append(hints, hint) }, seen: map[workload.ContainerID]*known{}}
	for _, step := range []struct {
		program string
		kind    collectors.HintKind
		want    workload.State
	}{
		{"lxc-info", collectors.HintStarted, workload.StateRunning},
		{"lxc-freeze", collectors.HintChanged, workload.StatePaused},
		{"lxc-unfreeze", collectors.HintChanged, workload.StateRunning},
	} {
		h.lxc(step.program, name)
		if got, err := h.collector().Lookup(t.Context(), h.id(name)); err != nil || got.State != step.want || got.Run == nil || !got.Run.Registers {
			t.Errorf("after %s: %+v, %v; want it %s", step.program, got, err, step.want)
		}
		hints = nil
		if err := w.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(hints) != 1 || hints[0].Kind != step.kind || hints[0].Layer.State != step.want {
			t.Errorf("after %s: hints %+v", step.program, hints)
		}
		if err := w.look(t.Context()); err != nil || len(hints) != 1 {
			t.Errorf("after %s, nothing having changed: %+v, %v", step.program, hints, err)
		}
	}
}

// A container that may be among those that were not looked at is not denied.
func TestAPartOfTheDirectoriesDeniesNobody(t *testing.T) {
	h := newHost(t)
	evidence := workload.Evidence{Cgroups: []workload.CgroupPath{{Path: "/lxc.payload.nobody"}}}
	if _, err := h.collector().Locate(t.Context(), evidence); !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("%v, want ErrNotFound", err)
	}
	for i := range maxContainers + 1 {
		if err := os.Mkdir(h.path+"/d"+strconv.Itoa(i), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.collector().Locate(t.Context(), evidence); !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("%v, want ErrUnavailable", err)
	}
}

// Whoever makes the cgroups that LXC would, and binds the socket, is not LXC's monitor
// unless he is a process of the host's.
func TestWhoIsInAMonitorsCgroupIsNotTheMonitor(t *testing.T) {
	h := newHost(t)
	c := h.define()
	l, err := net.Listen("unix", "@"+h.path+"/"+c+"/command") // as a container in the host's network could
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// In namespaces of its own, with a child that is the first of a PID namespace.
	villain := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "busybox", "sleep", "600")
	if err := villain.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = villain.Process.Kill()
		_ = villain.Wait()
	}()
	children := fmt.Sprintf("/proc/%d/task/%[1]d/children", villain.Process.Pid)
	for text, err := os.ReadFile(children); len(text) == 0; text, err = os.ReadFile(children) {
		if err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Millisecond)
	}
	for _, top := range cgroupdir.Mounts("/sys/fs/cgroup") {
		dir := top + "/lxc.monitor." + c
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
			if data, err := os.ReadFile(filepath.Dir(dir) + "/" + file); err == nil {
				_ = os.WriteFile(dir+"/"+file, data, 0o644)
			}
		}
		if err := os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(villain.Process.Pid)), 0o644); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = os.WriteFile(top+"/cgroup.procs", []byte(strconv.Itoa(villain.Process.Pid)), 0o644)
			for unix.Rmdir(dir) == unix.EBUSY {
				<-time.After(10 * time.Millisecond)
			}
		}()
	}
	if f, err := h.collector().Lookup(t.Context(), h.id(c)); !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("%+v, %v; want ErrNotFound", f, err)
	}
}

func TestConfigurationsThatAreNone(t *testing.T) {
	h := newHost(t)
	good := h.define()
	pid := h.start(good)
	bad := []string{}
	for _, text := range []string{"<html>\n<body>503</body>", "lxc.uts.name box", "\x00\xff\xfe", "lxc.cgroup.dir = ../../x", "uts.name = x"} {
		c := h.define()
		h.configure(c, text)
		bad = append(bad, c)
	}
	c := h.define()
	if err := os.Chmod(filepath.Join(h.path, c, "config"), 0o666); err != nil {
		t.Fatal(err)
	}
	bad = append(bad, c)
	col := h.collector()
	for _, c := range bad {
		if f, err := col.Lookup(t.Context(), h.id(c)); !errors.Is(err, collectors.ErrNotFound) {
			t.Errorf("Lookup of %s = %+v, %v; want ErrNotFound", c, f, err)
		}
	}
	n := 0
	for f, err := range col.List(t.Context()) {
		if err != nil || f.Run == nil || f.Run.Init.PID != pid {
			t.Errorf("List has %+v, %v", f, err)
		}
		n++
	}
	if n != 1 {
		t.Errorf("List has %d containers, want one", n)
	}
	complaints, alive := 0, 0
	ctx, cancel := context.WithCancel(t.Context())
	err := col.Watch(ctx, func(hint collectors.Hint) {
		switch {
		case hint.Err != nil:
			complaints++
		case hint.Kind == collectors.HintAlive:
			if alive++; alive == 2 {
				cancel()
			}
			if err := os.Mkdir(filepath.Join(h.path, "more"+strconv.Itoa(alive)), 0o755); err != nil { // another look
				t.Error(err)
			}
		}
	})
	if !errors.Is(err, context.Canceled) || complaints != len(bad) {
		t.Errorf("%d complaints about %d files; Watch ended with %v", complaints, len(bad), err)
	}
}

// FuzzParse: no configuration leads out of the cgroup file systems.
func FuzzParse(f *testing.F) {
	f.Add("lxc.uts.name = a\n# c\nlxc.cgroup.dir = \"x/y\"\n")
	f.Add("lxc.cgroup.dir.monitor=/a//b/\nlxc.cgroup.dir.container=..\n")
	f.Fuzz(func(t *testing.T, data string) {
		c, err := parse(data)
		if err != nil {
			return
		}
		for _, p := range c.places("a") {
			for _, path := range []string{p.Monitor, p.Payload} {
				if !strings.HasPrefix(path, "/") || strings.Contains(path+"/", "/../") {
					t.Errorf("a cgroup at %q", path)
				}
			}
		}
	})
}
