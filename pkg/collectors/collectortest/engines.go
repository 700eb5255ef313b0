// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// commandTimeout bounds one command of an engine's client.
const commandTimeout = 60 * time.Second

// EngineOptions say how to start an engine. The zero value is good.
type EngineOptions struct {
	// Args are added to the daemon's command line.
	Args []string
	// Images are loaded beside BusyboxImage.
	Images []Image
	// NoImages loads nothing at all.
	NoImages bool
	// Root is a directory with another containerd and runc, which run in a chroot
	// there, in a mount namespace of their own; for StartContainerd and StartCRI.
	// Such a one can be started once only, and has no plugins for networks.
	Root string
}

// engine is a daemon with its client.
type engine struct {
	tb  testing.TB
	d   *daemon
	cli string
	// choose gives the client's arguments that make it ask this daemon, at the
	// address that it has by now: a test may put a proxy in its place.
	choose func() []string
	slow   sync.Once // a start that takes long is looked into
}

// PID is the daemon's.
func (e *engine) PID() int { pid, _ := e.d.current(); return pid }

// Signal sends a signal to the daemon alone: SIGSTOP hangs it.
func (e *engine) Signal(s syscall.Signal) error { return e.d.signal(s) }

// Log is the end of the daemon's log.
func (e *engine) Log() string { return e.d.tail() }

// Exec runs the client, docker or ctr, and gives its output.
func (e *engine) Exec(ctx context.Context, args ...string) (string, error) {
	defer e.watchStart(args)()
	return run(ctx, e.cli, append(e.choose(), args...)...)
}

// CLI is the path of the client and the arguments that choose this engine, for
// tests that run it by themselves.
func (e *engine) CLI() (string, []string) { return e.cli, e.choose() }

// must runs the client, gives its output, and ends the test if it fails.
func (e *engine) must(args ...string) string {
	e.tb.Helper()
	ctx, cancel := context.WithTimeout(e.tb.Context(), commandTimeout)
	defer cancel()
	out, err := e.Exec(ctx, args...)
	if err != nil {
		e.tb.Fatal(err)
	}
	return out
}

// kill ends the daemon with SIGKILL and waits for it.
func (e *engine) kill() {
	_, done := e.d.current()
	_ = e.d.signal(syscall.SIGKILL)
	<-done
}

// Dockerd is a private Docker engine with its own containerd.
type Dockerd struct {
	// Dir holds all of it, and goes with the test.
	Dir string
	// Host is "unix://" and Socket.
	Host   string
	Socket string
	// Root is --data-root, ExecRoot --exec-root.
	Root     string
	ExecRoot string
	// RuncRoot is where runc keeps the state of Docker's containers:
	// <RuncRoot>/<id>/state.json. Docker's namespace, moby, is its last element.
	RuncRoot string
	// Containerd is the socket of the containerd that dockerd runs.
	Containerd string

	engine
}

// StartDockerd starts a dockerd with no network, waits until it answers, loads
// the images and stops all of it when the test ends.
func StartDockerd(tb testing.TB, opts EngineOptions) *Dockerd {
	tb.Helper()
	needRoot(tb)
	bin, cli := tool(tb, "dockerd"), tool(tb, "docker")
	tool(tb, "runc")
	tool(tb, "containerd")
	dir := privateDir(tb, "pdd")
	e := &Dockerd{
		Dir:        dir,
		Socket:     dir + "/d.sock",
		Host:       "unix://" + dir + "/d.sock",
		Root:       dir + "/root",
		ExecRoot:   dir + "/exec",
		RuncRoot:   dir + "/exec/runtime-runc/moby",
		Containerd: dir + "/exec/containerd/containerd.sock",
	}
	e.engine = engine{tb: tb, cli: cli, choose: func() []string { return []string{"--host", e.Host} }}
	e.d = &daemon{name: "dockerd", log: dir + "/dockerd.log", argv: append([]string{
		bin, "--config-file", dir + "/daemon.json", "--host", e.Host, "--data-root", e.Root, "--exec-root", e.ExecRoot,
		"--pidfile", dir + "/d.pid", "--bridge=none", "--iptables=false", "--ip6tables=false", "--userland-proxy=false",
		"--shutdown-timeout=3",
	}, opts.Args...)}
	// Until Docker 25 the daemon lowers its own score unless it is told not to,
	// which takes CAP_SYS_RESOURCE; later ones do not know the flag.
	if help, _ := exec.CommandContext(tb.Context(), bin, "--help").Output(); strings.Contains(string(help), "--oom-score-adjust") {
		e.d.argv = append(e.d.argv, "--oom-score-adjust=0")
	}
	tb.Cleanup(e.cleanup)
	if err := os.WriteFile(dir+"/daemon.json", []byte("{}\n"), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := e.Start(); err != nil {
		tb.Fatal(err)
	}
	loadImages(tb, dir, opts, func(ctx context.Context, tar string) error {
		_, err := e.Exec(ctx, "load", "--quiet", "--input", tar)
		return err
	})
	return e
}

// Start starts the daemon again after Stop or Kill.
func (e *Dockerd) Start() error {
	return e.d.start(func(ctx context.Context) error {
		if err := socketAnswers(e.Socket); err != nil {
			return err
		}
		_, err := e.Exec(ctx, "version", "--format", "{{.Server.Version}}")
		return err
	})
}

// Stop ends the daemon in order; its containers end with it.
func (e *Dockerd) Stop() { e.d.stop() }

// Kill ends the daemon with SIGKILL, and its containerd with it; its containers
// live on until Start.
func (e *Dockerd) Kill() {
	e.kill()
	// Its PID may be anybody's by the time of Start, which dockerd takes for a dockerd.
	_ = os.Remove(e.Dir + "/d.pid")
	// dockerd takes a containerd that nobody has reaped for one that runs, and
	// waits for it in vain. Not every machine's PID 1 reaps.
	file := e.ExecRoot + "/containerd/containerd.pid"
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = poll(ctx, func() error { return ended(file) })
	_ = os.Remove(file)
}

// ended says whether the process of a pid file is gone, or dead and not reaped.
func ended(pidFile string) error {
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		return nil
	}
	stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
	if err != nil || strings.Contains(string(stat), ") Z ") {
		return nil
	}
	return fmt.Errorf("process %s lives", pid)
}

// Docker runs the docker client, gives its output, and ends the test if it fails.
func (e *Dockerd) Docker(args ...string) string {
	e.tb.Helper()
	return e.must(args...)
}

// Run is docker run --detach --network none ARGS; it gives the container's id.
func (e *Dockerd) Run(args ...string) string {
	e.tb.Helper()
	return e.Docker(append([]string{"run", "--detach", "--network", "none"}, args...)...)
}

// InitPID gives the host's PID of a running container's init.
func (e *Dockerd) InitPID(id string) int {
	e.tb.Helper()
	pid, err := strconv.Atoi(e.Docker("inspect", "--format", "{{.State.Pid}}", id))
	if err != nil || pid == 0 {
		e.tb.Fatalf("docker inspect %s: PID %d, %v", id, pid, err)
	}
	return pid
}

// cleanup ends everything, the hung and the killed included.
func (e *Dockerd) cleanup() {
	_ = e.d.signal(syscall.SIGCONT)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if ids, err := e.Exec(ctx, "ps", "--all", "--quiet"); err == nil && ids != "" {
		_, _ = e.Exec(ctx, append([]string{"rm", "--force", "--volumes"}, strings.Fields(ids)...)...)
	}
	e.d.stop()
	if e.tb.Failed() {
		e.tb.Logf("dockerd's log ends:\n%s", e.d.tail())
	}
	sweep(e.tb, e.Dir, filepath.Dir(e.RuncRoot))
}

// Containerd is a private containerd.
type Containerd struct {
	// Dir holds all of it, and goes with the test.
	Dir string
	// Address is the path of the socket.
	Address string
	Root    string
	// State holds the bundles: <State>/io.containerd.runtime.v2.task/<namespace>/<id>.
	State string
	// RuncRoot is where runc keeps the state of what Run starts:
	// <RuncRoot>/<namespace>/<id>/state.json. ctr on its own uses /run/containerd/runc.
	RuncRoot string

	engine
}

// StartContainerd starts a containerd with its CRI plugin on, waits until it
// answers, loads the images into the namespace default and stops all of it when
// the test ends.
func StartContainerd(tb testing.TB, opts EngineOptions) *Containerd {
	tb.Helper()
	needRoot(tb)
	bin, cli := tool(tb, "containerd"), tool(tb, "ctr")
	tool(tb, "runc")
	dir := privateDir(tb, "pdc")
	argv := append([]string{bin, "--config", dir + "/config.toml"}, opts.Args...)
	if opts.Root != "" {
		argv = inRoot(tb, opts.Root, dir, append([]string{"/usr/bin/containerd"}, argv[1:]...))
	}
	e := &Containerd{
		Dir:      dir,
		Address:  dir + "/c.sock",
		Root:     dir + "/root",
		State:    dir + "/state",
		RuncRoot: dir + "/runc",
	}
	e.engine = engine{tb: tb, cli: cli, choose: func() []string { return []string{"--address", e.Address} }}
	e.d = &daemon{name: "containerd", log: dir + "/containerd.log", argv: argv}
	tb.Cleanup(e.cleanup)
	if err := os.WriteFile(dir+"/config.toml", []byte(containerdConfig(dir)), 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := e.Start(); err != nil {
		tb.Fatal(err)
	}
	loadImages(tb, dir, opts, func(ctx context.Context, tar string) error { return e.Import(ctx, "default", tar) })
	return e
}

// containerdConfig keeps everything below dir. The CRI plugin is on, for its
// service is part of what a host's containerd has; it may not touch the OOM
// score or AppArmor where the tests run.
func containerdConfig(dir string) string {
	return fmt.Sprintf(`version = 2
root = %[1]q
state = %[2]q
oom_score = 0
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]

[grpc]
  address = %[3]q

[ttrpc]
  address = %[4]q

[plugins."io.containerd.internal.v1.opt"]
  path = %[5]q

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "registry.test/pause:1"
  disable_tcp_service = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  disable_apparmor = true

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = %[6]q

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
  SystemdCgroup = false
  Root = %[7]q
`, dir+"/root", dir+"/state", dir+"/c.sock", dir+"/c.sock.ttrpc", dir+"/opt", dir+"/cni", dir+"/runc")
}

// Start starts the daemon again after Stop or Kill.
func (e *Containerd) Start() error {
	return e.d.start(func(ctx context.Context) error {
		if err := socketAnswers(e.Address); err != nil {
			return err
		}
		_, err := e.Exec(ctx, "version")
		return err
	})
}

// Stop ends the daemon in order; its containers live on.
func (e *Containerd) Stop() { e.d.stop() }

// Kill ends the daemon with SIGKILL; its containers live on.
func (e *Containerd) Kill() { e.kill() }

// Ctr runs ctr, gives its output, and ends the test if it fails.
func (e *Containerd) Ctr(args ...string) string {
	e.tb.Helper()
	return e.must(args...)
}

// Import loads an image archive into a namespace.
func (e *Containerd) Import(ctx context.Context, namespace, tar string) error {
	_, err := e.Exec(ctx, "--namespace", namespace, "images", "import", tar)
	return err
}

// ImportBusybox gives a namespace other than default the BusyboxImage.
func (e *Containerd) ImportBusybox(namespace string) {
	e.tb.Helper()
	img, err := Busybox()
	if err != nil {
		e.tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(e.tb.Context(), commandTimeout)
	defer cancel()
	tar := writeImage(e.tb, e.Dir, img)
	if err := e.Import(ctx, namespace, tar); err != nil {
		e.tb.Fatal(err)
	}
}

// Run is ctr run --detach in a namespace, with runc's state below RuncRoot:
// flags, then the image, the id and the command. ctr fails where the id exists.
func (e *Containerd) Run(namespace string, args ...string) {
	e.tb.Helper()
	e.Ctr(e.RunArgs(namespace, args...)...)
}

// RunArgs are the arguments that Run gives to ctr.
func (e *Containerd) RunArgs(namespace string, args ...string) []string {
	return append([]string{"--namespace", namespace, "run", "--detach", "--null-io", "--runc-root", e.RuncRoot}, args...)
}

// InitPID gives the host's PID of a task's init.
func (e *Containerd) InitPID(namespace, id string) int {
	e.tb.Helper()
	for line := range strings.Lines(e.Ctr("--namespace", namespace, "tasks", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == id {
			pid, err := strconv.Atoi(f[1])
			if err == nil && pid > 0 {
				return pid
			}
		}
	}
	e.tb.Fatalf("ctr tasks ls: no PID for %s in %s", id, namespace)
	return 0
}

// cleanup ends everything, the hung and the killed included.
func (e *Containerd) cleanup() {
	_ = e.d.signal(syscall.SIGCONT)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	namespaces, err := e.Exec(ctx, "namespaces", "ls", "--quiet")
	if err == nil {
		for ns := range strings.FieldsSeq(namespaces) {
			e.empty(ctx, ns)
		}
	}
	e.d.stop()
	if e.tb.Failed() {
		e.tb.Logf("containerd's log ends:\n%s", e.d.tail())
	}
	sweep(e.tb, e.Dir, e.RuncRoot)
}

// empty removes the tasks and containers of one namespace; what it cannot, sweep can.
func (e *Containerd) empty(ctx context.Context, ns string) {
	tasks, _ := e.Exec(ctx, "--namespace", ns, "tasks", "ls", "--quiet")
	for id := range strings.FieldsSeq(tasks) {
		_, _ = e.Exec(ctx, "--namespace", ns, "tasks", "rm", "--force", id)
	}
	ids, _ := e.Exec(ctx, "--namespace", ns, "containers", "ls", "--quiet")
	for id := range strings.FieldsSeq(ids) {
		_, _ = e.Exec(ctx, "--namespace", ns, "containers", "rm", id)
	}
}

// loadImages makes the archives of the images and hands each to load.
func loadImages(tb testing.TB, dir string, opts EngineOptions, load func(context.Context, string) error) {
	tb.Helper()
	if opts.NoImages {
		return
	}
	busybox, err := Busybox()
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(tb.Context(), commandTimeout)
	defer cancel()
	for _, img := range append([]Image{busybox}, opts.Images...) {
		tar := writeImage(tb, dir, img)
		if err := load(ctx, tar); err != nil {
			tb.Fatal(err)
		}
		_ = os.Remove(tar)
	}
}

func writeImage(tb testing.TB, dir string, img Image) string {
	tb.Helper()
	f, err := os.CreateTemp(dir, "image*.tar")
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	if err := img.WriteTar(f); err != nil {
		tb.Fatal(err)
	}
	return f.Name()
}
