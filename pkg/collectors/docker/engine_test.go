// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// on makes a collector on an engine, behind its own socket or another.
func on(t testing.TB, e *collectortest.Dockerd, socket string) *Collector {
	t.Helper()
	c, err := New(Options{Host: socket, Root: e.Root, EnvAllow: []string{"REGION"}, Interval: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Tests that leave the engine as it was share one.
func TestOnOneEngine(t *testing.T) {
	e := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	for name, test := range map[string]func(*testing.T, *collectortest.Dockerd){
		"the files, the list and inspect agree":       testFilesListInspect,
		"each change is one hint with the files' say": testHints,
		"Watch keeps no stream open":                  testNoStream,
		"Watch keeps one connection, calls keep none": testConnections,
		"a list over the budget is read from files":   testListOverBudget,
		"Probe learns the root":                       testRoot,
	} {
		t.Run(name, func(t *testing.T) { test(t, e) })
	}
	t.Run("it conforms", func(t *testing.T) { testConformance(t, e) })
}

func testConformance(t *testing.T, e *collectortest.Dockerd) {
	n := 0
	collectortest.Run(t, collectortest.Harness{
		New: func(t testing.TB) collectors.Collector { return on(t, e, e.Socket) },
		Start: func(t testing.TB) *collectortest.Started {
			n++
			return startWeb(t, e, fmt.Sprintf("web%d", n))
		},
		Unknown: workload.ContainerID{Runtime: "docker", Instance: e.Socket, ID: strings.Repeat("f", 64)},
		NewAt:   func(t testing.TB, socket string) collectors.Collector { return on(t, e, socket) },
		Proxy:   func(t testing.TB) *collectortest.Proxy { return collectortest.NewDockerProxy(t, e.Socket) },
	})
}

func startWeb(t testing.TB, e *collectortest.Dockerd, name string) *collectortest.Started {
	t.Helper()
	id := e.Run("--name", name, "--label", "team=blue", "--env", "REGION=eu", "--env", "SECRET=x", "--hostname", "host1",
		"--user", "1000:1000", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "100", "--cap-add", "SYS_ADMIN",
		"--read-only", "--ipc", "host", "--volume", "/tmp:/data:ro", "--tmpfs", "/run", collectortest.BusyboxImage)
	want := &workload.Container{
		ID:       workload.ContainerID{Runtime: "docker", Instance: e.Socket, ID: id},
		Name:     name,
		Runtime:  "docker",
		Image:    workload.ImageRef{Name: collectortest.BusyboxImage, Tag: "1"},
		Labels:   map[string]string{"team": "blue", collectortest.BusyboxLabel: "image"},
		Env:      map[string]string{"REGION": "eu", "SECRET": ""},
		State:    workload.StateRunning,
		Hostname: "host1",
		User:     "1000:1000",
		Networks: []workload.Network{{Name: "none"}},
		Mounts:   []workload.Mount{{Type: "bind", Source: "/tmp", Destination: "/data", ReadOnly: true}},
		Limits:   &workload.Limits{MemoryBytes: 64 << 20, NanoCPUs: 500_000_000, Pids: 100},
		Security: &workload.Security{AddedCaps: []string{"CAP_SYS_ADMIN"}, HostIPC: true, ReadOnlyRoot: true},
	}
	prefill := want.Clone()
	want.Run = &workload.Run{Init: workload.ProcessKey{PID: workload.PID(e.InitPID(id))}, Registers: true}
	return &collectortest.Started{
		Want:     want,
		Prefill:  prefill,
		Evidence: workload.Evidence{Claims: []workload.ContainerID{{Runtime: "docker", ID: id}}},
		Stop:     func() { e.Docker("kill", id) },
		Remove:   func() { e.Docker("rm", id) },
	}
}

func testFilesListInspect(t *testing.T, e *collectortest.Dockerd) {
	started := startWeb(t, e, "agree")
	c := on(t, e, e.Socket)
	hex := started.Want.ID.ID
	file, err := c.Prefill(t.Context(), started.Want.ID)
	if err != nil {
		t.Fatal(err)
	}
	inspect, err := c.Lookup(t.Context(), started.Want.ID)
	if err != nil {
		t.Fatal(err)
	}
	summary, err := c.listOne(t.Context(), hex)
	if err != nil {
		t.Fatal(err)
	}
	f, err := c.readFiles(t.Context(), hex)
	if err != nil {
		t.Fatal(err)
	}
	list := c.over(f, c.fromSummary(summary))
	if inspect.Run == nil || !inspect.Run.Registers || inspect.Run.Init.Start != 0 {
		t.Errorf("run of inspect: %+v", inspect.Run)
	}
	inspect.Run = nil
	if d := cmp.Diff(file, inspect); d != "" {
		t.Errorf("inspect differs (-file +inspect):\n%s", d)
	}
	if d := cmp.Diff(file, list); d != "" {
		t.Errorf("list differs (-file +list):\n%s", d)
	}
}

// slowRuntime makes an engine whose starts take two seconds, all of it after the
// container's cgroup was made. What it gives with it waits for that moment.
func slowRuntime(t *testing.T) (e *collectortest.Dockerd, made func()) {
	t.Helper()
	dir := t.TempDir()
	script, fifo := dir+"/slow-runc", dir+"/made"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	told, err := os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0) // also for writing: no opener has to wait for another
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = told.Close() })
	body := "#!/bin/sh\ncase \" $* \" in *\" start \"*) echo >" + fifo + "; sleep 2;; esac\nexec runc \"$@\"\n"
	if err := os.WriteFile(script, []byte(body), 0o755); err != nil {
		t.Fatal(err)
	}
	e = collectortest.StartDockerd(t, collectortest.EngineOptions{Args: []string{"--add-runtime", "slow=" + script}})
	return e, func() {
		t.Helper()
		if err := told.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := told.Read(make([]byte, 1)); err != nil {
			t.Fatalf("runc made no container: %v", err)
		}
	}
}

func TestLookupDoesNotWaitForAStart(t *testing.T) {
	e, made := slowRuntime(t)
	p := collectortest.NewDockerProxy(t, e.Socket)
	c := on(t, e, p.Socket)
	if _, err := c.Probe(t.Context()); err != nil {
		t.Fatal(err)
	}
	id := e.Docker("create", "--name", "slow", "--network", "none", "--runtime", "slow", "--label", "a=b", collectortest.BusyboxImage)
	started := make(chan error, 1)
	go func() {
		_, err := e.Exec(t.Context(), "start", "slow")
		started <- err
	}()
	made() // the container is there, and with it its cgroup
	p.ResetCalls()
	began := time.Now()
	got, err := c.Lookup(t.Context(), c.id(id))
	took := time.Since(began)
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "slow" || got.Labels["a"] != "b" || got.Image.Name != collectortest.BusyboxImage || got.State != workload.StateCreated {
		t.Errorf("during the start: %+v", got)
	}
	if n := p.Calls()["GET /containers/json"]; n != 1 {
		t.Errorf("calls: %v", p.Calls())
	}
	// The control: an inspect at the same moment does wait.
	began = time.Now()
	if _, err := c.client().ContainerInspect(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	blocked := time.Since(began)
	t.Logf("Lookup %v, inspect %v", took, blocked)
	if took > 500*time.Millisecond || blocked < 2*took {
		t.Errorf("Lookup took %v, an inspect %v", took, blocked)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	up, err := c.Lookup(t.Context(), c.id(id))
	if err != nil || up.State != workload.StateRunning || up.Run == nil || int(up.Run.Init.PID) != e.InitPID(id) {
		t.Errorf("once up: %+v, %v", up, err)
	}
	if n := p.Calls()["GET /containers/json"] + p.Calls()["GET /containers/{id}/json"]; n != 3 {
		t.Errorf("with the control's, calls: %v", p.Calls())
	}
}

// watcher collects hints.
type watcher struct {
	more chan struct{} // holds one: there are new hints

	mu    sync.Mutex // guards all below
	hints []collectors.Hint
}

func (w *watcher) add(h collectors.Hint) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hints = append(w.hints, h)
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (w *watcher) of(id string) (out []collectors.Hint) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, h := range w.hints {
		if h.ID.ID == id {
			out = append(out, h)
		}
	}
	return out
}

// watch runs Watch until the test ends.
func watch(t *testing.T, c *Collector) *watcher {
	t.Helper()
	w := &watcher{more: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx, w.add) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Watch: %v", err)
		}
	})
	return w
}

// until waits for n hints of a container, nudging.
func (w *watcher) until(t *testing.T, c *Collector, id string, n int) []collectors.Hint {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		if got := w.of(id); len(got) >= n {
			return got
		}
		c.Nudge() // each window gives one sign of life at least
		select {
		case <-w.more:
		case <-late:
			t.Fatalf("%d hints, want %d: %+v", len(w.of(id)), n, w.of(id))
		}
	}
}

func testHints(t *testing.T, e *collectortest.Dockerd) {
	c := on(t, e, e.Socket)
	w := watch(t, c)
	// The label poses as the attribute of the die event that has the exit code.
	id := e.Run("--name", "changes", "--label", "exitCode=0", "--label", "name=liar", "--label", "image=liar", collectortest.BusyboxImage, "sh", "-c", "sleep 3600")
	w.until(t, c, id, 2)
	e.Docker("pause", id)
	e.Docker("unpause", id)
	e.Docker("rename", "changes", "changed")
	e.Docker("update", "--cpus", "0.5", id)
	changed := w.until(t, c, id, 6)
	e.Docker("kill", id)
	died := w.until(t, c, id, 7)
	e.Docker("rm", id)
	all := w.until(t, c, id, 8)

	var kinds []collectors.HintKind
	for _, h := range all {
		kinds = append(kinds, h.Kind)
	}
	const created, started, change = collectors.HintCreated, collectors.HintStarted, collectors.HintChanged
	if want := []collectors.HintKind{created, started, change, change, change, change, collectors.HintExited, collectors.HintDeleted}; !slices.Equal(kinds, want) {
		t.Errorf("kinds %v, want %v", kinds, want)
	}
	last := changed[5].Layer
	if last == nil || last.Name != "changed" || last.Image.Name != collectortest.BusyboxImage || last.Labels["name"] != "liar" || last.Limits.NanoCPUs != 500_000_000 {
		t.Errorf("layer of the update: %+v", last)
	}
	exit := died[6].Layer
	if exit == nil || exit.State != workload.StateExited || exit.Exit != nil && exit.Exit.Code != 137 {
		t.Errorf("layer of the end: %+v", exit)
	}
	if all[7].Layer != nil {
		t.Errorf("layer of the removal: %+v", all[7].Layer)
	}
}

func testNoStream(t *testing.T, e *collectortest.Dockerd) {
	p := collectortest.NewDockerProxy(t, e.Socket)
	c := on(t, e, p.Socket)
	w := watch(t, c)
	id := e.Run(collectortest.BusyboxImage)
	w.until(t, c, id, 2)
	if n := len(w.of("")); n < 2 {
		t.Errorf("%d signs of life", n)
	}
	calls := p.Calls()
	if calls["GET /events"] < 2 {
		t.Errorf("calls %v, want several windows", calls)
	}
	for call := range calls {
		if call != "GET /events" && call != "HEAD /_ping" {
			t.Errorf("Watch also called %s", call)
		}
	}
}

// testConnections: the windows of one Watch share a connection, which ends with
// it; any other call has one of its own.
func testConnections(t *testing.T, e *collectortest.Dockerd) {
	l := listening{path: filepath.Join(t.TempDir(), "s"), endings: make(chan struct{}, 64)}
	l.forward(t, e.Socket)
	c := on(t, e, l.path)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const windows = 5
	alive, ended := 0, make(chan error, 1)
	go func() {
		ended <- c.Watch(ctx, func(h collectors.Hint) {
			if h.Kind == collectors.HintAlive {
				if alive++; alive == windows {
					cancel()
				}
			}
		})
	}()
	if err := <-ended; !errors.Is(err, context.Canceled) || alive < windows {
		t.Fatalf("Watch ended after %d windows: %v", alive, err)
	}
	if n := l.accepted.Load(); n != 1 {
		t.Errorf("%d windows over %d connections", alive, n)
	}
	l.closed(t) // by us: the engine keeps what is idle
	for range 3 {
		if _, err := c.listOne(t.Context(), strings.Repeat("0", 64)); !errors.Is(err, collectors.ErrNotFound) {
			t.Fatal(err)
		}
	}
	if n := l.accepted.Load() - 1; n != 4 {
		t.Errorf("3 calls, and one for the version of the API, over %d connections", n)
	}
	l.closed(t)
}

// listening passes connections on to a socket, and counts them.
type listening struct {
	path     string
	accepted atomic.Int64
	ended    int64         // only closed counts
	endings  chan struct{} // one for each connection that has ended
}

func (l *listening) forward(t *testing.T, to string) {
	t.Helper()
	socket, err := net.Listen("unix", l.path)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup // Add is only called from within it, so never beside Wait at zero
	running.Go(func() {
		for {
			down, err := socket.Accept()
			if err != nil {
				return // closed at the end of the test
			}
			l.accepted.Add(1)
			running.Go(func() {
				pipe(down, to)
				l.endings <- struct{}{}
			})
		}
	})
	t.Cleanup(func() {
		_ = socket.Close()
		running.Wait()
	})
}

// pipe carries a connection to a socket until the one who made it ends it.
func pipe(down net.Conn, to string) {
	defer down.Close()
	up, err := net.Dial("unix", to)
	if err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() { _, _ = io.Copy(down, up) })
	_, _ = io.Copy(up, down)
	_ = up.Close()
	back.Wait()
}

// closed waits until every connection has ended.
func (l *listening) closed(t *testing.T) {
	t.Helper()
	late := time.After(20 * time.Second)
	for l.ended < l.accepted.Load() {
		select {
		case <-l.endings:
			l.ended++
		case <-late:
			t.Fatal("a connection is still open")
		}
	}
}

func TestAnEngineThatRestartsEndsTheWatchAndIsListedAgain(t *testing.T) {
	e := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	c := on(t, e, e.Socket)
	listed := make(chan collectors.Listing, 100)
	heard := make(chan workload.ContainerID, 100)
	states := make(chan string, 100)
	s, err := collectors.NewSupervisor(collectors.SupervisorOptions{
		Collectors:  []collectors.Collector{c},
		OnListed:    func(_ string, l collectors.Listing) { listed <- l },
		OnContainer: func(_ string, c *workload.Container) { heard <- c.ID },
		OnHint:      func(_ string, h collectors.Hint) { heard <- h.ID },
		OnState:     func(_, state string) { states <- state },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	defer func() { cancel(); <-done }()
	list := func() {
		t.Helper()
		late := time.After(20 * time.Second)
		for {
			select {
			case l := <-listed:
				if l.Complete {
					return
				}
			case <-late:
				t.Fatalf("no complete list; %+v", s.Status())
			}
		}
	}
	list()
	e.Kill()
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	// Made while the collector may still be finding out: listed or heard of.
	id := c.id(e.Docker("create", collectortest.BusyboxImage))
	late := time.After(20 * time.Second)
	for got := (workload.ContainerID{}); got != id; {
		select {
		case got = <-heard:
		case <-late:
			t.Fatalf("nothing of a container made after a restart; %+v", s.Status())
		}
	}
	// What is heard of comes before the state: one that fails already does not begin to.
	for s.Status()[0].State != "running" {
		select {
		case <-time.After(10 * time.Millisecond):
		case <-late:
			t.Fatalf("it does not run after a restart: %+v", s.Status())
		}
	}
	for len(states) > 0 { // those of the restart
		<-states
	}
	if err := e.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := s.Lookup(t.Context(), "docker", c.id(strings.Repeat("a", 64))); !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("Lookup of a stopped engine: %v", err)
	}
	if d := time.Since(began); d > 4*time.Second {
		t.Errorf("Lookup of a stopped engine took %v", d)
	}
	for state := ""; state != "failing"; {
		select {
		case state = <-states:
		case <-time.After(20 * time.Second):
			t.Fatalf("a stopped engine is not failing: %+v", s.Status())
		}
	}
	for len(listed) > 0 {
		<-listed
	}
	if err := e.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	list()
	if st := s.Status()[0]; st.Restarts == 0 || st.Where != e.Socket || !strings.HasPrefix(st.Version, "2") {
		t.Errorf("status %+v", st)
	}
}

func TestOnePoisonedContainerHidesNoOther(t *testing.T) {
	e := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	p := collectortest.NewDockerProxy(t, e.Socket)
	c := on(t, e, p.Socket)
	labels := map[string]string{"a": "b", "big": strings.Repeat("x", 8<<20)}
	for i := range 10_000 {
		labels[fmt.Sprintf("l%06d", i)] = "v"
	}
	poisoned, err := c.client().ContainerCreate(t.Context(), &container.Config{Image: collectortest.BusyboxImage, Labels: labels}, nil, nil, nil, "poisoned")
	if err != nil {
		t.Fatal(err)
	}
	good := e.Docker("create", "--name", "good", collectortest.BusyboxImage)
	p.ResetCalls()
	names := map[string]string{}
	for got, err := range c.List(t.Context()) {
		if err != nil {
			t.Error(err)
			continue
		}
		names[got.ID.ID] = got.Name
	}
	if names[poisoned.ID] != "poisoned" || names[good] != "good" {
		t.Errorf("listed %v", names)
	}
	for what, ask := range map[string]func(context.Context, workload.ContainerID) (*workload.Container, error){"Lookup": c.Lookup, "Prefill": c.Prefill} {
		got, err := ask(t.Context(), c.id(poisoned.ID))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if got.Name != "poisoned" || got.Image.Name != collectortest.BusyboxImage || len(got.Labels) != 256 || !slices.Contains(got.Truncated, "labels") {
			t.Errorf("%s: name %q, image %q, %d labels, truncated %v", what, got.Name, got.Image.Name, len(got.Labels), got.Truncated)
		}
	}
	if calls := p.Calls(); len(calls) > 0 {
		t.Errorf("the engine was made to send it: %v", calls)
	}
}

func testListOverBudget(t *testing.T, e *collectortest.Dockerd) {
	var ids []string
	for range 3 {
		ids = append(ids, e.Docker("create", collectortest.BusyboxImage))
	}
	c := on(t, e, e.Socket)
	c.maxReply = 1500
	api, err := newAPI(c.socket, c.transport(), c.maxReply)
	if err != nil {
		t.Fatal(err)
	}
	c.api = api
	var got []string
	for one, err := range c.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, one.ID.ID)
	}
	for _, id := range ids {
		if !slices.Contains(got, id) {
			t.Errorf("%s is not listed", id)
		}
	}
}

func testRoot(t *testing.T, e *collectortest.Dockerd) {
	id := e.Docker("create", "--name", "rooted", collectortest.BusyboxImage)
	c, err := New(Options{Host: e.Host})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Prefill(t.Context(), c.id(id)); err == nil {
		t.Error("Prefill found the container before the root was known")
	}
	r, err := c.Probe(t.Context())
	if err != nil || r.Where != e.Socket || r.Version == "" || r.Detail != "reads "+e.Root {
		t.Errorf("Probe = %+v, %v", r, err)
	}
	if got, err := c.Prefill(t.Context(), c.id(id)); err != nil || got.Name != "rooted" {
		t.Errorf("Prefill = %+v, %v", got, err)
	}
}
