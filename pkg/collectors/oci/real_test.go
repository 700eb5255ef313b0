// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

func tool(tb testing.TB, name string) string {
	tb.Helper()
	needRoot(tb)
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("%v: make test installs it, or install the package %s", err, name)
	}
	return path
}

// realBundle makes a bundle that a runtime can run: a static busybox that
// waits, and what edit makes of `runc spec`.
func realBundle(tb testing.TB, edit func(spec map[string]any)) string {
	tb.Helper()
	dir := mkdir(tb, filepath.Join(tb.TempDir(), "bundle"))
	mkdir(tb, dir+"/rootfs/bin")
	box, err := os.ReadFile(tool(tb, "busybox"))
	if err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(dir+"/rootfs/bin/busybox", box, 0o755); err != nil {
		tb.Fatal(err)
	}
	cmd := exec.Command(tool(tb, "runc"), "spec")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("runc spec: %v: %s", err, out)
	}
	data, err := os.ReadFile(dir + "/config.json")
	if err != nil {
		tb.Fatal(err)
	}
	var spec map[string]any
	if err := json.Unmarshal(data, &spec); err != nil {
		tb.Fatal(err)
	}
	process := spec["process"].(map[string]any)
	process["terminal"] = false
	process["args"] = []string{"/bin/busybox", "sleep", "300"}
	process["env"] = []string{"PATH=/bin", "APP=shop", "PASSWORD=x"}
	edit(spec)
	write(tb, dir+"/config.json", mustJSON(tb, spec))
	return dir
}

// runtimeCommand runs a runtime's client; the container's output is not the test's.
func runtimeCommand(tb testing.TB, name string, args ...string) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var errs bytes.Buffer
	log, err := os.CreateTemp(tb.TempDir(), "log")
	if err != nil {
		tb.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		data, _ := os.ReadFile(log.Name())
		errs.Write(data)
		tb.Errorf("%s %q: %v: %s", name, args, err, errs.String())
	}
}

func TestRealRuncIsDescribedFromCreateToDelete(t *testing.T) {
	runc := tool(t, "runc")
	id := fmt.Sprintf("pidigree-oci-%d", os.Getpid())
	cgroup := "/pidigree-oci/any-path-" + id
	bundle := realBundle(t, func(spec map[string]any) {
		spec["annotations"] = map[string]string{"org.example.team": "red", "bundle": "/not/the/bundle"}
		spec["linux"].(map[string]any)["cgroupsPath"] = cgroup
	})
	run := testRun(t)
	root := run + "/runc"
	c := newCollector(t, Options{RunDir: run, EnvAllow: []string{"APP"}})
	hints := startWatch(t, c) // before the directory exists
	t.Cleanup(func() { removeCgroups(t, "/pidigree-oci") })

	runtimeCommand(t, runc, "--root", root, "create", "--bundle", bundle, id)
	defer func() {
		if _, err := os.Stat(root + "/" + id); err == nil {
			runtimeCommand(t, runc, "--root", root, "delete", "--force", id)
		}
	}()
	created := collectortest.AwaitKind(t, hints, collectors.HintCreated, id)
	l := created.Layer
	if l == nil || l.Run == nil || !l.Run.Registers || l.State != workload.StateCreated {
		t.Fatalf("hint at create: %+v", l)
	}
	if want := (workload.ContainerID{Runtime: "runc", ID: id}); created.ID != want || l.ID != want {
		t.Errorf("id %+v, layer's %+v, want %+v", created.ID, l.ID, want)
	}
	if l.Bundle != bundle || l.Name != id || l.Hostname != "runc" || l.Env["APP"] != "shop" || len(l.Env) != 1 {
		t.Errorf("layer: %+v", l)
	}
	if l.Labels["org.example.team"] != "red" || l.Security == nil || l.Security.HostPID || !l.Security.ReadOnlyRoot {
		t.Errorf("labels %v, security %+v", l.Labels, l.Security)
	}
	runtimeCommand(t, runc, "--root", root, "start", id)
	collectortest.AwaitKind(t, hints, collectors.HintStarted, id)
	checkRun(t, c, created.ID)
	runtimeCommand(t, runc, "--root", root, "delete", "--force", id)
	collectortest.AwaitKind(t, hints, collectors.HintDeleted, id)
	if _, err := c.Lookup(t.Context(), created.ID); err == nil {
		t.Error("Lookup finds a deleted container")
	}
}

// checkRun compares what Lookup says with /proc, and asks Locate in every way.
func checkRun(t *testing.T, c *Collector, id workload.ContainerID) *workload.Container {
	t.Helper()
	got, err := c.Lookup(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if got.State != workload.StateRunning || got.Run == nil || !got.Run.Registers {
		t.Fatalf("Lookup: state %q, run %+v", got.State, got.Run)
	}
	init := got.Run.Init
	stat, err := os.ReadFile("/proc/" + pidString(init.PID) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	if ticks, _ := parseStat(stat); init.Start != ticks*workload.TickNS {
		t.Errorf("init began at %d, /proc says %d ticks", init.Start, ticks)
	}
	if status, err := os.ReadFile("/proc/" + pidString(init.PID) + "/status"); err != nil || !pidOne.Match(status) {
		t.Errorf("process %d is not the first of its PID namespace: %s, %v", init.PID, status, err)
	}
	cgroups := slices.DeleteFunc(collectortest.CgroupsOf(t, init.PID), func(p workload.CgroupPath) bool {
		return got.ID.Runtime == runtimeCrun && p.Hierarchy != 0 // made where v2 is the only one
	})
	for _, p := range cgroups {
		if !slices.ContainsFunc(got.Run.ClaimedPaths, func(s string) bool { return strings.HasSuffix(s, p.Path) }) {
			t.Errorf("no claimed path for hierarchy %d, %q: %q", p.Hierarchy, p.Path, got.Run.ClaimedPaths)
		}
		if _, err := os.Stat(got.Run.ClaimedPaths[0]); err != nil {
			t.Error(err)
		}
		at, err := c.Locate(t.Context(), workload.Evidence{Cgroups: []workload.CgroupPath{p}})
		if err != nil || at != got.ID {
			t.Errorf("Locate by cgroup %d:%s: %v, %v", p.Hierarchy, p.Path, at, err)
		}
	}
	for name, e := range map[string]workload.Evidence{
		"init":   {Init: init},
		"bundle": {Bundle: got.Bundle},
		"claim":  {Claims: []workload.ContainerID{{Runtime: "docker", ID: id.ID}}, Cgroups: cgroups},
	} {
		if at, err := c.Locate(t.Context(), e); err != nil || at != got.ID {
			t.Errorf("Locate by %s: %v, %v; want %v", name, at, err, got.ID)
		}
	}
	return got
}

// pidOne is the line of /proc/PID/status of a process that is PID 1 in a
// namespace below, as a container's init is, and the runtime's before it.
var pidOne = regexp.MustCompile(`(?m)^NSpid:.*\t\d+\t1$`)

// removeCgroups removes the cgroup that a test made, below every hierarchy.
func removeCgroups(tb testing.TB, path string) {
	tb.Helper()
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + path)
	more, _ := filepath.Glob("/sys/fs/cgroup/memory/*/*" + path)
	for _, d := range append(dirs, more...) {
		if err := os.Remove(d); err != nil {
			tb.Log(err)
		}
	}
}

func TestRealContainerdsRuncStateIsFoundThroughItsShimsOptions(t *testing.T) {
	t.Cleanup(func() { removeCgroups(t, "/oci-shop") }) // runc leaves the one above the container's
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	c := newCollector(t, Options{RunDir: testRun(t), Roots: []string{e.State + "/" + taskDir + "/*"}})
	hints := startWatch(t, c)
	e.ImportBusybox("oci-shop")
	e.Run("oci-shop", collectortest.BusyboxImage, "web", "sleep", "300")
	h := collectortest.AwaitHint(t, hints, "web", func(h collectors.Hint) bool { return h.ID.ID == "web" && h.Layer != nil })
	want := workload.ContainerID{Runtime: "runc", Instance: e.RuncRoot + "/oci-shop", Namespace: "oci-shop", ID: "web"}
	if h.ID != want || h.Layer.Runtime != "containerd" || h.Layer.Name != "web" {
		t.Errorf("hint for %+v (%s %q), want %+v", h.ID, h.Layer.Runtime, h.Layer.Name, want)
	}
	if int(h.Layer.Run.Init.PID) != e.InitPID("oci-shop", "web") {
		t.Errorf("init %v, containerd says %d", h.Layer.Run.Init, e.InitPID("oci-shop", "web"))
	}
	if h.Kind != collectors.HintStarted { // where the start is quicker than the read there is no create
		collectortest.AwaitKind(t, hints, collectors.HintStarted, "web")
	}
	checkRun(t, c, want)
	alias := []workload.ContainerID{{Runtime: "containerd", Instance: e.Address, Namespace: "oci-shop", ID: "web"}}
	if !slices.Equal(h.Layer.Aliases, alias) {
		t.Errorf("aliases %v, want %v", h.Layer.Aliases, alias)
	}
	killInit(t, e.InitPID("oci-shop", "web"))
	if got, err := c.Lookup(t.Context(), want); err != nil || got.State != workload.StateExited || !slices.Equal(got.Aliases, alias) {
		t.Errorf("once it has ended: %+v, %v", got, err) // it would be another than containerd's
	}
	e.Ctr("--namespace", "oci-shop", "tasks", "rm", "--force", "web")
	collectortest.AwaitKind(t, hints, collectors.HintDeleted, "web")
}

// killInit ends a process and returns when it has ended.
func killInit(tb testing.TB, pid int) {
	tb.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		tb.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil {
		tb.Fatal(err)
	}
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 || err != nil {
			tb.Fatalf("process %d has not ended: %v", pid, err)
		}
		return
	}
}

func TestTheCollectorKeepsTheContractOnRealRunc(t *testing.T) {
	runc := tool(t, "runc")
	root := testRun(t) + "/runc"
	prefix := fmt.Sprintf("pidigree-suite-%d", os.Getpid())
	t.Cleanup(func() { removeCgroups(t, "/pidigree-suite") })
	n := 0
	collectortest.Run(t, collectortest.Harness{
		New: func(tb testing.TB) collectors.Collector {
			return newCollector(tb, Options{RunDir: filepath.Dir(root), EnvAllow: []string{"APP"}})
		},
		Unknown: workload.ContainerID{Runtime: "runc", ID: "nobody"},
		Start: func(tb testing.TB) *collectortest.Started {
			n++
			id := fmt.Sprintf("%s-%d", prefix, n)
			bundle := realBundle(tb, func(spec map[string]any) {
				spec["annotations"] = map[string]string{"org.example.team": "red"}
				spec["linux"].(map[string]any)["cgroupsPath"] = "/pidigree-suite/" + id
			})
			runtimeCommand(tb, runc, "--root", root, "run", "--detach", "--bundle", bundle, id)
			remove := func() {
				if has(root, id) {
					runtimeCommand(tb, runc, "--root", root, "delete", "--force", id)
				}
			}
			tb.Cleanup(remove)
			pid := initOf(tb, runc, root, id)
			return &collectortest.Started{
				Want: &workload.Container{
					ID: workload.ContainerID{Runtime: "runc", ID: id}, Name: id, Runtime: "runc", State: workload.StateRunning,
					Hostname: "runc", User: "0:0", Env: map[string]string{"APP": "shop"}, Labels: map[string]string{"org.example.team": "red"},
					Run:      &workload.Run{Init: workload.ProcessKey{PID: pid}},
					Security: &workload.Security{ReadOnlyRoot: true},
				},
				Evidence: workload.Evidence{Cgroups: collectortest.CgroupsOf(tb, pid), Init: workload.ProcessKey{PID: pid}},
				Remove:   remove,
			}
		},
	})
}

// initOf asks the runtime itself.
func initOf(tb testing.TB, runtime, root, id string) workload.PID {
	tb.Helper()
	out, err := exec.CommandContext(tb.Context(), runtime, "--root", root, "state", id).Output()
	var s struct {
		PID workload.PID `json:"pid"`
	}
	if err == nil {
		err = json.Unmarshal(out, &s)
	}
	if err != nil || s.PID == 0 {
		tb.Fatalf("%s state %s: %s: %v", runtime, id, out, err)
	}
	return s.PID
}

// TestRealCrunIsDescribedFromCreateToDelete runs crun where it agrees to run:
// in a mount namespace whose /sys/fs/cgroup is cgroup2 alone.
func TestRealCrunIsDescribedFromCreateToDelete(t *testing.T) {
	crun := tool(t, "crun")
	id := fmt.Sprintf("pidigree-crun-%d", os.Getpid())
	bundle := realBundle(t, func(spec map[string]any) {
		linux := spec["linux"].(map[string]any)
		linux["cgroupsPath"] = "/pidigree-crun/" + id
		delete(linux, "resources") // a device filter needs RLIMIT_MEMLOCK raised, which not every root may
		spec["mounts"] = slices.DeleteFunc(spec["mounts"].([]any), func(m any) bool { return m.(map[string]any)["type"] == "cgroup" })
	})
	run := testRun(t)
	root := run + "/crun"
	c := newCollector(t, Options{RunDir: run})
	hints := startWatch(t, c)
	t.Cleanup(func() { removeCgroups(t, "/pidigree-crun") })

	command := func(args ...string) {
		t.Helper()
		const pureV2 = `umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"`
		runtimeCommand(t, tool(t, "unshare"), append([]string{"-m", "sh", "-c", pureV2, "sh", crun, "--root", root, "--cgroup-manager=cgroupfs"}, args...)...)
	}
	command("create", "--bundle", bundle, id)
	defer func() {
		if has(root, id) {
			command("delete", "--force", id)
		}
	}()
	created := collectortest.AwaitKind(t, hints, collectors.HintCreated, id)
	if want := (workload.ContainerID{Runtime: "crun", ID: id}); created.ID != want {
		t.Errorf("id %+v, want %+v", created.ID, want)
	}
	command("start", id)
	collectortest.AwaitKind(t, hints, collectors.HintStarted, id)
	checkRun(t, c, created.ID)
	command("delete", "--force", id)
	collectortest.AwaitKind(t, hints, collectors.HintDeleted, id)
}

func TestRealDockersContainersAndBuildStepsRegister(t *testing.T) {
	e := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	// The host's own /run as well: BuildKit runs runc with its default state directory.
	c := newCollector(t, Options{Roots: []string{e.ExecRoot + "/runtime-*/*", e.ExecRoot + "/containerd/daemon/" + taskDir + "/*"}})
	hints := startWatch(t, c)

	id := e.Run(collectortest.BusyboxImage, "sleep", "300")
	h := collectortest.AwaitHint(t, hints, id, func(h collectors.Hint) bool { return h.ID.ID == id && h.Layer != nil })
	want := workload.ContainerID{Runtime: "runc", Instance: e.RuncRoot, Namespace: "moby", ID: id}
	if h.ID != want || h.Layer.Runtime != "docker" || h.Layer.Name != "" || h.Layer.Hostname != id[:12] {
		t.Errorf("hint for %+v: %s %q %q; want %+v", h.ID, h.Layer.Runtime, h.Layer.Name, h.Layer.Hostname, want)
	}
	if h.Kind != collectors.HintStarted {
		collectortest.AwaitKind(t, hints, collectors.HintStarted, id)
	}
	got := checkRun(t, c, want)
	if int(got.Run.Init.PID) != e.InitPID(id) {
		t.Errorf("init %v, docker says %d", got.Run.Init, e.InitPID(id))
	}

	build(t, e, "300")
	step := collectortest.AwaitHint(t, hints, "a build step", func(h collectors.Hint) bool {
		return h.Layer != nil && strings.HasPrefix(h.Layer.Bundle, e.Root+"/buildkit/executor/")
	})
	if step.ID.Runtime != "runc" || step.ID.Instance != "" || step.Layer.Runtime != "buildkit" {
		t.Errorf("build step: %+v, runtime %q", step.ID, step.Layer.Runtime)
	}
	if step.Kind != collectors.HintStarted {
		collectortest.AwaitKind(t, hints, collectors.HintStarted, step.ID.ID)
	}
	checkRun(t, c, step.ID)
}

// build runs one RUN step by Docker's own BuildKit, until the test ends. The
// context comes by HTTP, which needs no client but the API.
func build(t *testing.T, e *collectortest.Dockerd, seconds string) {
	t.Helper()
	box, err := os.ReadFile(tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	for name, data := range map[string][]byte{
		"busybox":    box,
		"Dockerfile": []byte("FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"sleep\", \"" + seconds + "\"]\n"),
	} {
		if err := errors.Join(tw.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(data))}), second(tw.Write(data))); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(archive.Bytes()) }))
	t.Cleanup(files.Close)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", e.Socket)
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	url := "http://docker/v1.41/build?version=2&networkmode=none&nocache=1&remote=" + files.URL + "/context.tar"
	go func() {
		defer close(done)
		req, _ := http.NewRequestWithContext(ctx, http.MethodPost, url, nil)
		if resp, err := (&http.Client{Transport: transport}).Do(req); err == nil {
			_, _ = io.Copy(io.Discard, resp.Body)
			_ = resp.Body.Close()
		}
	}()
	t.Cleanup(func() { cancel(); <-done; transport.CloseIdleConnections() })
}

func second[T any](_ T, err error) error { return err }
