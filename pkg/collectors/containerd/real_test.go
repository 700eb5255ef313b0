// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

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

func TestTheCollectorKeepsTheContractOnARealContainerd(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	var n atomic.Int64
	at := func(tb testing.TB, socket string) collectors.Collector {
		return newCollector(tb, Options{Address: socket})
	}
	collectortest.Run(t, collectortest.Harness{
		New:     func(tb testing.TB) collectors.Collector { return at(tb, e.Address) },
		NewAt:   at,
		Proxy:   func(tb testing.TB) *collectortest.Proxy { return collectortest.NewContainerdProxy(tb, e.Address) },
		Unknown: workload.ContainerID{Runtime: "containerd", Instance: e.Address, Namespace: "default", ID: "nobody"},
		Start: func(tb testing.TB) *collectortest.Started {
			id := fmt.Sprintf("web-%d", n.Add(1))
			e.Run("default", "--label", "team=red", collectortest.BusyboxImage, id, "sleep", "3600")
			pid := e.InitPID("default", id)
			return &collectortest.Started{
				Want: &workload.Container{
					ID:      workload.ContainerID{Runtime: "containerd", Instance: e.Address, Namespace: "default", ID: id},
					Name:    id,
					Runtime: "containerd",
					Image:   workload.ImageRef{Name: collectortest.BusyboxImage, Tag: "1"},
					Labels:  map[string]string{"team": "red", collectortest.BusyboxLabel: "image"},
				},
				Evidence: workload.Evidence{
					Cgroups: collectortest.CgroupsOf(tb, workload.PID(pid)),
					Claims:  []workload.ContainerID{{Namespace: "default", ID: id}},
					Init:    workload.ProcessKey{PID: workload.PID(pid)},
				},
				Stop:   func() { e.Ctr("tasks", "kill", "--signal", "9", id) },
				Remove: func() { e.Ctr("tasks", "rm", id); e.Ctr("containers", "rm", id) },
			}
		},
	})
}

// watching runs Watch until the test ends, and gives its hints.
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
	return hints
}

// hears makes sure that a Watch listens: nothing says when it begins to.
func hears(tb testing.TB, e *collectortest.Containerd, hints <-chan collectors.Hint) {
	tb.Helper()
	for i := range 50 {
		id := fmt.Sprintf("probe-%d", i)
		e.Ctr("containers", "create", collectortest.BusyboxImage, id)
		e.Ctr("containers", "rm", id)
		select {
		case <-hints:
			for { // up to the last that this caused
				if h := collectortest.AwaitHint(tb, hints, "the last probe", func(collectors.Hint) bool { return true }); h.Kind == collectors.HintDeleted && h.ID.ID == id {
					return
				}
			}
		case <-time.After(200 * time.Millisecond):
		}
	}
	tb.Fatal("Watch hears nothing")
}

func TestWatchTellsTheLifeOfATaskAndNotOfItsExecs(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	c := newCollector(t, Options{Address: e.Address})
	hints := watching(t, c)
	hears(t, e, hints)
	e.Run("default", "--label", "team=red", collectortest.BusyboxImage, "web", "sleep", "300")
	id := c.idOf("default", "web")

	if h := collectortest.AwaitKind(t, hints, collectors.HintCreated, "web"); h.Layer.Image.Name != collectortest.BusyboxImage || h.Layer.Run != nil {
		t.Errorf("container create: %+v", h.Layer)
	}
	h := collectortest.AwaitKind(t, hints, collectors.HintCreated, "web")
	if r := h.Layer.Run; r == nil || !r.Registers || int(r.Init.PID) != e.InitPID("default", "web") {
		t.Errorf("task create: %+v", r)
	}
	if want := e.State + "/io.containerd.runtime.v2.task/default/web"; h.Layer.Bundle != want {
		t.Errorf("bundle %q, want %q", h.Layer.Bundle, want)
	}
	if at, err := c.Locate(t.Context(), workload.Evidence{Bundle: h.Layer.Bundle}); err != nil || at != id {
		t.Errorf("Locate by bundle: %v, %v", at, err)
	}
	if h = collectortest.AwaitKind(t, hints, collectors.HintStarted, "web"); h.Layer.State != workload.StateRunning || h.Layer.Started.IsZero() {
		t.Errorf("start: %+v", h.Layer)
	}
	e.Ctr("tasks", "pause", "web")
	if h = collectortest.AwaitKind(t, hints, collectors.HintChanged, "web"); h.Layer.State != workload.StatePaused {
		t.Errorf("pause: %q", h.Layer.State)
	}
	e.Ctr("tasks", "resume", "web")
	if h = collectortest.AwaitKind(t, hints, collectors.HintChanged, "web"); h.Layer.State != workload.StateRunning {
		t.Errorf("resume: %q", h.Layer.State)
	}
	e.Ctr("containers", "label", "web", "team=blue")
	if h = collectortest.AwaitKind(t, hints, collectors.HintChanged, "web"); h.Layer.Labels["team"] != "blue" || h.Layer.Labels[collectortest.BusyboxLabel] != "image" {
		t.Errorf("update: %v", h.Layer.Labels)
	}
	_, _ = e.Exec(t.Context(), "tasks", "exec", "--exec-id", "x1", "web", "false")
	e.Ctr("tasks", "kill", "--signal", "9", "web")
	if h = collectortest.AwaitKind(t, hints, collectors.HintExited, "web"); h.Layer.Exit == nil || h.Layer.Exit.Code != 137 {
		t.Errorf("the first exit heard is not the container's: %+v", h.Layer.Exit)
	}
	e.Ctr("tasks", "rm", "web")
	got, err := c.Lookup(t.Context(), id)
	if err != nil || got.State != workload.StateExited || got.Exit == nil || got.Exit.Code != 137 || got.Finished.IsZero() || got.Run.Registers {
		t.Errorf("after the task is gone: %+v %+v, %v", got, got.Exit, err)
	}
	e.Ctr("containers", "rm", "web")
	collectortest.AwaitKind(t, hints, collectors.HintDeleted, "web")
	if len(c.memory.tasks) != 0 || len(c.memory.byPID) != 0 {
		t.Errorf("remembers %v, %v of deleted containers", c.memory.tasks, c.memory.byPID)
	}
}

func TestASecondTaskOfAContainerIsANewRun(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	c := newCollector(t, Options{Address: e.Address})
	hints := watching(t, c)
	hears(t, e, hints)
	e.Run("default", collectortest.BusyboxImage, "web", "sleep", "300")
	first := collectortest.AwaitKind(t, hints, collectors.HintStarted, "web")
	e.Ctr("tasks", "kill", "--signal", "9", "web")
	collectortest.AwaitKind(t, hints, collectors.HintExited, "web")
	e.Ctr("tasks", "rm", "web")
	e.Ctr("tasks", "start", "--detach", "--null-io", "web")
	second := collectortest.AwaitKind(t, hints, collectors.HintStarted, "web")
	if second.Layer.Run.Init == first.Layer.Run.Init || second.Layer.Exit != nil || !second.Layer.Run.Registers {
		t.Errorf("second run: %+v, first %+v", second.Layer.Run, first.Layer.Run)
	}
}

func TestNamespacesThatComeLaterAreFollowedAndOthersAreNot(t *testing.T) {
	t.Cleanup(func() { removeCgroups("ctd-shop", "ctd-toys") })
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	all := newCollector(t, Options{Address: e.Address})
	some := newCollector(t, Options{Address: e.Address, Namespaces: []string{"default", "ctd-toys"}})
	hints, fewer := watching(t, all), watching(t, some)
	hears(t, e, hints)
	hears(t, e, fewer)
	for _, ns := range []string{"ctd-shop", "ctd-toys"} {
		e.ImportBusybox(ns)
		e.Run(ns, collectortest.BusyboxImage, "in-"+ns, "sleep", "300")
		collectortest.AwaitKind(t, hints, collectors.HintStarted, "in-"+ns)
	}
	collectortest.AwaitHint(t, fewer, "ctd-toys", func(h collectors.Hint) bool {
		if h.ID.Namespace == "ctd-shop" {
			t.Errorf("a hint of a namespace that is not followed: %v", h.ID)
		}
		return h.Kind == collectors.HintStarted && h.ID.ID == "in-ctd-toys"
	})
	if got, err := all.Lookup(t.Context(), workload.ContainerID{ID: "in-ctd-shop"}); err != nil || got.ID.Namespace != "ctd-shop" {
		t.Errorf("Lookup by the bare id: %+v, %v", got, err)
	}
	if _, err := some.Lookup(t.Context(), all.idOf("ctd-shop", "in-ctd-shop")); !errors.Is(err, collectors.ErrNotMine) {
		t.Errorf("Lookup in a namespace that is not followed: %v", err)
	}
	ids := map[string]bool{}
	for l, err := range some.List(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		ids[l.ID.ID] = true
	}
	if ids["in-ctd-shop"] || !ids["in-ctd-toys"] {
		t.Errorf("List has %v", ids)
	}
}

// removeCgroups removes what runc leaves of a namespace that only these tests use.
func removeCgroups(namespaces ...string) {
	for _, ns := range namespaces {
		dirs, _ := filepath.Glob("/sys/fs/cgroup/*/" + ns)
		below, _ := filepath.Glob("/sys/fs/cgroup/memory/*/*/" + ns)
		for _, d := range append(dirs, below...) {
			_ = os.Remove(d)
		}
	}
}

func TestListKnowsWhatHappenedBeforeTheWatch(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	e.Run("default", collectortest.BusyboxImage, "lives", "sleep", "300")
	e.Run("default", collectortest.BusyboxImage, "died", "sh", "-c", "exit 7")
	c := newCollector(t, Options{Address: e.Address})
	hears(t, e, watching(t, c))
	got := map[string]*workload.Container{}
	for { // until the short one is reaped
		for l, err := range c.List(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			got[l.ID.ID] = l
		}
		if got["died"].State == workload.StateExited {
			break
		}
	}
	if l := got["lives"]; l.State != workload.StateRunning || l.Run == nil || int(l.Run.Init.PID) != e.InitPID("default", "lives") || !l.Run.Registers {
		t.Errorf("lives: %+v %+v", l, l.Run)
	}
	if x := got["died"].Exit; x == nil || !x.Known || x.Code != 7 {
		t.Errorf("died: %+v", x)
	}
	// A Lookup after it has the task too, at no further call, and Locate finds the init's cgroup.
	for _, id := range []string{"lives", "died"} {
		l, err := c.Lookup(t.Context(), c.idOf("default", id))
		if err != nil || l.State != got[id].State || l.Run == nil {
			t.Errorf("Lookup %s: %+v, %v", id, l, err)
		}
	}
	init := got["lives"].Run.Init
	for _, ev := range []workload.Evidence{{Init: init}, {Cgroups: collectortest.CgroupsOf(t, init.PID)[:1]}} {
		if at, err := c.Locate(t.Context(), ev); err != nil || at != got["lives"].ID {
			t.Errorf("Locate %+v: %v, %v", ev, at, err)
		}
	}
}

func TestAnImagesDigestIsSaidOnlyWhereItIsSure(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	digest := strings.Fields(strings.Split(e.Ctr("images", "ls", "name=="+collectortest.BusyboxImage), "\n")[1])[2]
	e.Run("default", collectortest.BusyboxImage, "before", "sleep", "300")
	for _, watch := range []bool{false, true} {
		c := newCollector(t, Options{Address: e.Address})
		if watch {
			hears(t, e, watching(t, c))
		}
		got, err := c.Lookup(t.Context(), c.idOf("default", "before"))
		for deadline := time.Now().Add(10 * time.Second); watch && err == nil && got.Image.Digest == "" && time.Now().Before(deadline); {
			got, err = c.Lookup(t.Context(), c.idOf("default", "before")) // the images are being listed
		}
		if err != nil || got.Image.Digest != digest {
			t.Errorf("watch %v: digest %q, %v; want %q", watch, got.Image.Digest, err, digest)
		}
	}
	// The name is given again: what "before" was made of cannot be known from it any more.
	e.Ctr("images", "label", collectortest.BusyboxImage, "a=b")
	c := newCollector(t, Options{Address: e.Address})
	if got, err := c.Lookup(t.Context(), c.idOf("default", "before")); err != nil || got.Image.Digest != "" || got.Image.Name == "" {
		t.Errorf("after the name changed: %+v, %v", got.Image, err)
	}
}

func TestTwoLookupsOfOneStartAreTwoCalls(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	p := collectortest.NewContainerdProxy(t, e.Address)
	c := newCollector(t, Options{Address: p.Socket})
	hints := watching(t, c)
	hears(t, e, hints)
	late, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.AwaitCall(late, "/containerd.services.images.v1.Images/List", 1); err != nil { // the one at the start of a Watch
		t.Fatal(err)
	}
	p.ResetCalls()
	e.Run("default", collectortest.BusyboxImage, "web", "sleep", "300")
	for _, kind := range []collectors.HintKind{collectors.HintCreated, collectors.HintStarted} {
		collectortest.AwaitKind(t, hints, kind, "web")
		if _, err := c.Lookup(t.Context(), c.idOf("default", "web")); err != nil {
			t.Fatal(err)
		}
	}
	got, err := c.Lookup(t.Context(), c.idOf("default", "web"))
	if err != nil || got.State != workload.StateRunning || got.Image.Digest == "" {
		t.Errorf("%+v, %v", got, err)
	}
	if n := p.Calls(); len(n) != 1 || n["/containerd.services.containers.v1.Containers/Get"] != 3 {
		t.Errorf("three Lookups made %v", n)
	}
}

func TestDockersContainerdIsAnsweredWithoutANameOfItsOwn(t *testing.T) {
	e := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	id := e.Run("--name", "web", collectortest.BusyboxImage, "sleep", "300")
	c := newCollector(t, Options{Address: e.Containerd})
	want := workload.ContainerID{Runtime: "containerd", Instance: e.Containerd, Namespace: "moby", ID: id}
	for _, ask := range []workload.ContainerID{want, {ID: id}, {Runtime: "docker", ID: id}, {Runtime: "runc", Instance: "/x/moby", Namespace: "moby", ID: id}} {
		got, err := c.Lookup(t.Context(), ask)
		if err != nil || got.ID != want || got.Name != "" || got.Runtime != "docker" || got.Hostname != id[:12] {
			t.Errorf("Lookup %+v: %+v, %v", ask, got, err)
		}
	}
	pid := e.InitPID(id)
	for name, ev := range map[string]workload.Evidence{
		"claim":   {Claims: []workload.ContainerID{{Runtime: "docker", ID: id}}, Cgroups: collectortest.CgroupsOf(t, workload.PID(pid))},
		"cgroups": {Cgroups: collectortest.CgroupsOf(t, workload.PID(pid))},
		"init":    {Init: workload.ProcessKey{PID: workload.PID(pid)}},
	} {
		if at, err := c.Locate(t.Context(), ev); err != nil || at != want {
			t.Errorf("Locate by %s: %v, %v", name, at, err)
		}
	}
	fake := workload.Evidence{Claims: []workload.ContainerID{{Runtime: "docker", ID: id}}, Cgroups: []workload.CgroupPath{{Path: "/docker/mallory/docker-" + id + ".scope"}}}
	if at, err := c.Locate(t.Context(), fake); !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("Locate by a cgroup that someone named: %v, %v", at, err)
	}
}

func TestARestartedContainerdIsFoundByTheNextCall(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	e.Run("default", collectortest.BusyboxImage, "web", "sleep", "300")
	c := newCollector(t, Options{Address: e.Address})
	ended, hints := make(chan error, 1), make(chan collectors.Hint, 64)
	go func() { ended <- c.Watch(t.Context(), func(h collectors.Hint) { hints <- h }) }()
	hears(t, e, hints)
	e.Kill()
	if err := <-ended; !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("Watch of a killed containerd: %v", err)
	}
	if _, err := c.Lookup(t.Context(), c.idOf("default", "web")); !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("Lookup while it is dead: %v", err)
	}
	if err := e.Start(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if _, err := c.Lookup(t.Context(), c.idOf("default", "web")); err != nil {
		t.Errorf("first Lookup after %v: %v", time.Since(began), err)
	}
	if _, err := c.Probe(t.Context()); err != nil {
		t.Error(err)
	}
}
