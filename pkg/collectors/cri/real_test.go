// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

func newCollector(tb testing.TB, opts Options) *Collector {
	tb.Helper()
	c, err := New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// must ends the test on an error.
func must[T any](tb testing.TB) func(T, error) T {
	return func(v T, err error) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return v
	}
}

var pods atomic.Int64

// newPod is the configuration of a pod that no other test has.
func newPod(network bool) collectortest.PodConfig {
	n := pods.Add(1)
	return collectortest.PodConfig{
		Name: fmt.Sprintf("web-%d", n), Namespace: "shop", UID: fmt.Sprintf("11111111-2222-3333-4444-%012d", n), Network: network,
		Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"team": "red"},
	}
}

var sleeper = collectortest.ContainerConfig{Name: "main", Command: []string{"sleep", "3600"}, Annotations: map[string]string{"hash": "4f3a"}}

func TestTheCollectorKeepsTheContractOnARealEngine(t *testing.T) {
	e := collectortest.StartCRI(t, collectortest.EngineOptions{})
	at := func(tb testing.TB, socket string) collectors.Collector {
		return newCollector(tb, Options{Endpoint: socket})
	}
	collectortest.Run(t, collectortest.Harness{
		New:     func(tb testing.TB) collectors.Collector { return at(tb, e.Address) },
		NewAt:   at,
		Proxy:   func(tb testing.TB) *collectortest.Proxy { return collectortest.NewContainerdProxy(tb, e.Address) },
		Unknown: workload.ContainerID{Runtime: "containerd", Instance: e.Address, Namespace: "k8s.io", ID: strings.Repeat("0", 64)},
		Start:   func(tb testing.TB) *collectortest.Started { return start(tb, e) },
	})
}

// start starts a pod of one container.
func start(tb testing.TB, e *collectortest.CRI) *collectortest.Started {
	tb.Helper()
	p := newPod(false)
	sandbox := must[string](tb)(e.RunPod(tb.Context(), p))
	id := must[string](tb)(e.RunContainer(tb.Context(), sandbox, p, sleeper))
	pid := workload.PID(e.InitOf(id))
	return &collectortest.Started{
		Want: &workload.Container{
			ID:      workload.ContainerID{Runtime: "containerd", Instance: e.Address, Namespace: "k8s.io", ID: id},
			Name:    "main",
			Runtime: "containerd",
			Image:   workload.ImageRef{Name: collectortest.BusyboxImage, Tag: "1"},
			Labels:  map[string]string{"io.kubernetes.pod.uid": p.UID},
			State:   workload.StateRunning,
			Run:     &workload.Run{Init: workload.ProcessKey{PID: pid}},
		},
		Evidence: workload.Evidence{
			Cgroups: collectortest.CgroupsOf(tb, pid),
			Claims:  []workload.ContainerID{{ID: id}},
			Init:    workload.ProcessKey{PID: pid},
		},
		Stop: func() {
			_, err := e.Runtime.StopContainer(context.Background(), &runtimeapi.StopContainerRequest{ContainerId: id})
			if err != nil {
				tb.Error(err)
			}
		},
		Remove: func() {
			_, err := e.Runtime.RemoveContainer(context.Background(), &runtimeapi.RemoveContainerRequest{ContainerId: id})
			if err != nil {
				tb.Error(err)
			}
		},
	}
}

func TestAPodsContainersAreDescribedInFull(t *testing.T) {
	e := collectortest.StartCRI(t, collectortest.EngineOptions{})
	c := newCollector(t, Options{Endpoint: e.Address})
	for _, network := range []bool{false, true} {
		p := newPod(network)
		p.CgroupParent = "/pidigree-test/pod" + p.UID
		t.Cleanup(func() { removeCgroups(p.CgroupParent, "/pidigree-test") })
		sandbox := must[string](t)(e.RunPod(t.Context(), p))
		t.Cleanup(func() { _ = e.RemovePod(context.Background(), sandbox) })
		ref := workload.PodRef{UID: p.UID, Name: p.Name, Namespace: p.Namespace}
		dead := collectortest.ContainerConfig{Name: "main", Command: []string{"sh", "-c", "exit 7"}}
		first := must[string](t)(e.RunContainer(t.Context(), sandbox, p, dead))
		again := sleeper
		again.Attempt = 1
		second := must[string](t)(e.RunContainer(t.Context(), sandbox, p, again))

		got := must[*workload.Container](t)(c.Lookup(t.Context(), workload.ContainerID{ID: second}))
		if got.Pod == nil || *got.Pod != ref || got.Attempt != 1 || got.Annotations["hash"] != "4f3a" || got.Sandbox || got.Started.IsZero() || got.Exit != nil {
			t.Errorf("container: %+v, pod %+v", got, got.Pod)
		}
		if got.Security == nil || got.Security.HostNetwork == network || got.Limits == nil || len(got.Mounts) == 0 {
			t.Errorf("spec: %+v, limits %+v, mounts %v", got.Security, got.Limits, got.Mounts)
		}
		if want := p.CgroupParent + "/" + second; got.Run == nil || !got.Run.Registers || !slices.Contains(got.Run.ClaimedPaths, want) {
			t.Errorf("run: %+v, want %s", got.Run, want)
		}
		ended := await(t, c, first, workload.StateExited)
		if ended.Exit == nil || !ended.Exit.Known || ended.Exit.Code != 7 || ended.Reason != "Error" || ended.Run != nil || ended.Finished.IsZero() {
			t.Errorf("ended: %+v, exit %+v", ended, ended.Exit)
		}
		box := must[*workload.Container](t)(c.Lookup(t.Context(), workload.ContainerID{ID: sandbox}))
		if !box.Sandbox || box.Name != p.Name || *box.Pod != ref || box.Image.Name != collectortest.PauseImage || box.Run == nil || int(box.Run.Init.PID) != e.InitOf(sandbox) {
			t.Errorf("sandbox: %+v, run %+v", box, box.Run)
		}
		checkPod(t, c, e, p, []string{sandbox}, second)
	}
}

// await looks a container up until it is in a state.
func await(t *testing.T, c *Collector, id string, state workload.State) *workload.Container {
	t.Helper()
	for {
		got := must[*workload.Container](t)(c.Lookup(t.Context(), workload.ContainerID{ID: id}))
		if got.State == state {
			return got
		}
	}
}

// checkPod holds LookupPod and ListPods to what was asked for.
func checkPod(t *testing.T, c *Collector, e *collectortest.CRI, p collectortest.PodConfig, sandboxes []string, container string) {
	t.Helper()
	var listed *workload.Pod
	for l, err := range c.ListPods(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if l.UID == p.UID {
			listed = l
		}
	}
	looked := must[*workload.Pod](t)(c.LookupPod(t.Context(), p.UID))
	for how, got := range map[string]*workload.Pod{"LookupPod": looked, "ListPods": listed} {
		if got == nil || got.Name != p.Name || got.Namespace != p.Namespace || got.Runtime != "containerd" || got.HostNetwork == p.Network || got.Created.IsZero() {
			t.Errorf("%s: %+v", how, got)
			continue
		}
		if got.Labels["app"] != "web" || got.Labels["io.kubernetes.pod.name"] != p.Name || got.Annotations["team"] != "red" {
			t.Errorf("%s: labels %v, annotations %v", how, got.Labels, got.Annotations)
		}
		if p.Network != (len(got.IPs) == 1 && strings.HasPrefix(got.IPs[0], e.Subnet)) {
			t.Errorf("%s: addresses %q, want one of %s", how, got.IPs, e.Subnet)
		}
		var ids []string
		for _, s := range got.Sandboxes {
			ids = append(ids, s.ID)
		}
		if !slices.Equal(ids, sandboxes) {
			t.Errorf("%s: sandboxes %v, want %v", how, ids, sandboxes)
		}
	}
	if len(listed.Containers) != 1 || listed.Containers[0].Name != "main" || listed.Containers[0].ID.ID != container || listed.Containers[0].Restarts != 1 {
		t.Errorf("containers: %+v", listed.Containers)
	}
}

// watching runs Watch until the test ends, and gives its hints. It has looked
// once when this returns.
func watching(tb testing.TB, c *Collector) <-chan collectors.Hint {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	hints := make(chan collectors.Hint, 4096)
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx, func(h collectors.Hint) { hints <- h }) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			tb.Errorf("Watch: %v", err)
		}
	})
	collectortest.AwaitHint(tb, hints, "a sign of life", func(h collectors.Hint) bool { return h.Kind == collectors.HintAlive })
	return hints
}

func TestWatchTellsTheLifeOfAPod(t *testing.T) {
	e := collectortest.StartCRI(t, collectortest.EngineOptions{})
	before := newPod(false)
	must[string](t)(e.RunPod(t.Context(), before))
	c := newCollector(t, Options{Endpoint: e.Address, Interval: 200 * time.Millisecond})
	hints := watching(t, c)

	p := newPod(true)
	sandbox := must[string](t)(e.RunPod(t.Context(), p))
	h := collectortest.AwaitHint(t, hints, "the sandbox", func(h collectors.Hint) bool {
		if h.Pod != nil && h.Pod.UID == before.UID {
			t.Error("a hint of what was there before")
		}
		return h.ID.ID == sandbox
	})
	if h.Kind != collectors.HintStarted || !h.Layer.Sandbox || h.Layer.Pod.UID != p.UID || h.Layer.Run == nil || !h.Layer.Run.Registers {
		t.Errorf("sandbox: %s %+v", h.Kind, h.Layer)
	}
	ofPod := func(fits func(collectors.Hint) bool) func(collectors.Hint) bool {
		return func(h collectors.Hint) bool { return h.Pod != nil && h.Pod.UID == p.UID && fits(h) }
	}
	h = collectortest.AwaitHint(t, hints, "the pod", ofPod(func(collectors.Hint) bool { return true }))
	if h.Kind == collectors.HintDeleted || len(h.Pod.IPs) != 1 || h.Pod.Sandboxes[0].ID != sandbox {
		t.Errorf("pod: %s %+v", h.Kind, h.Pod)
	}
	id := must[string](t)(e.RunContainer(t.Context(), sandbox, p, sleeper))
	if h = collectortest.AwaitKind(t, hints, collectors.HintStarted, id); h.Layer.Name != "main" || h.Layer.Pod.UID != p.UID || h.Layer.State != workload.StateRunning {
		t.Errorf("container: %+v", h.Layer)
	}
	if h = collectortest.AwaitKind(t, hints, collectors.HintChanged, id); h.Layer != nil {
		t.Errorf("a container that nobody has asked about: %+v", h.Layer)
	}
	h = collectortest.AwaitHint(t, hints, "the pod with its container", ofPod(func(h collectors.Hint) bool { return len(h.Pod.Containers) == 1 }))
	if h.Pod.Containers[0].ID.ID != id || len(h.Pod.IPs) != 1 {
		t.Errorf("pod: %+v", h.Pod)
	}
	must[*runtimeapi.StopContainerResponse](t)(e.Runtime.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: id}))
	collectortest.AwaitKind(t, hints, collectors.HintExited, id)
	if h = collectortest.AwaitKind(t, hints, collectors.HintChanged, id); h.Layer != nil {
		t.Errorf("the second hint of an end has a layer: %+v", h.Layer)
	}
	if err := e.RemovePod(t.Context(), sandbox); err != nil {
		t.Fatal(err)
	}
	gone := map[string]bool{}
	collectortest.AwaitHint(t, hints, "the pod's end", func(h collectors.Hint) bool {
		if h.Kind == collectors.HintDeleted {
			gone[h.ID.ID] = true
		}
		return h.Kind == collectors.HintDeleted && h.Pod != nil && h.Pod.UID == p.UID
	})
	if !gone[id] || !gone[sandbox] {
		t.Errorf("deleted: %v", gone)
	}
}

func TestTwoLookupsOfOneStartAreTwoCalls(t *testing.T) {
	e := collectortest.StartCRI(t, collectortest.EngineOptions{})
	proxy := collectortest.NewContainerdProxy(t, e.Address)
	c := newCollector(t, Options{Endpoint: proxy.Socket, Interval: time.Hour})
	hints := watching(t, c)
	p := newPod(true)
	proxy.ResetCalls()

	sandbox := must[string](t)(e.RunPod(t.Context(), p))
	if _, err := c.Lookup(t.Context(), workload.ContainerID{ID: strings.Repeat("1", 64)}); !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("Lookup of an id that nobody has: %v", err)
	}
	collectortest.AwaitKind(t, hints, collectors.HintStarted, sandbox) // it looks again for that id
	id := must[string](t)(e.CreateContainer(t.Context(), sandbox, p, sleeper))
	if got := must[*workload.Container](t)(c.Lookup(t.Context(), workload.ContainerID{ID: id})); got.State != workload.StateCreated || got.Pod.UID != p.UID {
		t.Errorf("created: %+v", got)
	}
	must[*runtimeapi.StartContainerResponse](t)(e.Runtime.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: id}))
	if got := must[*workload.Container](t)(c.Lookup(t.Context(), workload.ContainerID{ID: id})); got.State != workload.StateRunning || got.Run == nil {
		t.Errorf("running: %+v", got)
	}
	// The sandbox: once by the Watch, for it was new, and once by whoever asks.
	must[*workload.Container](t)(c.Lookup(t.Context(), workload.ContainerID{ID: sandbox}))
	for what, want := range map[string]int{id: 2, sandbox: 2} {
		if n := proxy.CallsNaming(what); n != want {
			t.Errorf("%d calls about %s, want %d; all: %v", n, what, want, proxy.Calls())
		}
	}
}

func TestARestartedEngineIsFoundByTheNextCall(t *testing.T) {
	e := collectortest.StartCRI(t, collectortest.EngineOptions{})
	s := start(t, e)
	c := newCollector(t, Options{Endpoint: e.Address, Interval: 100 * time.Millisecond})
	ended := make(chan error, 1)
	go func() { ended <- c.Watch(t.Context(), func(collectors.Hint) {}) }()
	must[*workload.Container](t)(c.Lookup(t.Context(), s.Want.ID))
	e.Kill()
	if err := <-ended; !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("Watch of a killed engine: %v", err)
	}
	if _, err := c.Lookup(t.Context(), s.Want.ID); !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("Lookup while it is dead: %v", err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	// The socket answers before the plugin has found its containers again.
	deadline, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		_, err := c.Lookup(deadline, s.Want.ID)
		if err == nil {
			return
		}
		if deadline.Err() != nil || !errors.Is(err, collectors.ErrUnavailable) && !errors.Is(err, collectors.ErrNotFound) {
			t.Fatalf("Lookup after the restart: %v", err)
		}
	}
}

func TestASocketWithoutACRIIsNoEngine(t *testing.T) {
	e := collectortest.StartDockerd(t, collectortest.EngineOptions{NoImages: true}) // dockerd's containerd has the plugin off
	proxy := collectortest.NewContainerdProxy(t, e.Containerd)
	c := newCollector(t, Options{Endpoint: proxy.Socket})
	for range 3 {
		if _, err := c.Probe(t.Context()); !errors.Is(err, collectors.ErrNotPresent) {
			t.Errorf("Probe: %v", err)
		}
	}
	if n := proxy.Calls(); n["/runtime.v1.RuntimeService/Version"] != 1 || n[alphaVersion] != 1 {
		t.Errorf("three probes made %v", n)
	}
}

func TestOneProbeSaysWhoItIs(t *testing.T) {
	e := collectortest.StartCRI(t, collectortest.EngineOptions{NoImages: true})
	r, err := newCollector(t, Options{Endpoint: "unix://" + e.Address}).Probe(t.Context())
	if err != nil || r.Where != e.Address || r.Version == "" || !strings.Contains(r.Detail, "containerd") {
		t.Errorf("%+v, %v", r, err)
	}
}

// removeCgroups removes what runc leaves of a pod's cgroup that only these tests use.
func removeCgroups(paths ...string) {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*")
	below, _ := filepath.Glob("/sys/fs/cgroup/memory/*/*")
	for _, p := range paths {
		for _, top := range append([]string{"/sys/fs/cgroup"}, append(tops, below...)...) {
			_ = os.Remove(top + p)
		}
	}
}
