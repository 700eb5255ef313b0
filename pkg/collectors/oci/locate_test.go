// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

func at(h uint32, path string) []workload.CgroupPath {
	return []workload.CgroupPath{{CgroupID: workload.CgroupID{Hierarchy: h}, Path: path}}
}

func claim(ids ...string) (list []workload.ContainerID) {
	for _, id := range ids {
		list = append(list, workload.ContainerID{Runtime: "docker", ID: id})
	}
	return list
}

// hybridRoot stands for the cgroup root of a host with hybrid cgroups, which is
// what makeRunc's states are from: no cgroup2 itself.
func hybridRoot(t testing.TB) string { return t.TempDir() }

// TestLocate runs without a Watch, with one, and with one that has heard of
// nothing yet: the index must not change an answer.
func TestLocate(t *testing.T) {
	for _, watching := range []string{"no", "yes", "deaf", "no, in a crowd", "deaf, in a crowd"} {
		run := testRun(t)
		moby := mkdir(t, run+"/docker/runtime-runc/moby")
		if strings.HasSuffix(watching, "crowd") {
			for i := range fewStates {
				makeRunc(t, moby, fmt.Sprint("other", i), fmt.Sprint("/docker/other", i))
			}
		}
		makeRunc(t, moby, "victim", "/docker/victim")
		makeRunc(t, moby, "nested", "/docker/victim/nested")
		anywhere := makeRunc(t, mkdir(t, run+"/containerd/runc/shop"), "web", "/any/path/at-all")
		c := newCollector(t, Options{RunDir: run, CgroupRoot: hybridRoot(t)})
		switch watching {
		case "yes":
			startWatch(t, c)
		case "deaf", "deaf, in a crowd":
			idx := newIndex()
			idx.setRoots(c.roots())
			c.index.Store(idx)
		}
		other := sleeper(t)
		for _, tc := range []struct {
			name string
			e    workload.Evidence
			want string
		}{
			{"a claim that its cgroup bears out", workload.Evidence{Claims: claim("victim"), Cgroups: at(8, "/docker/victim")}, "victim"},
			{"a claim alone", workload.Evidence{Claims: claim("victim")}, "victim"},
			{"a claim by namespace", workload.Evidence{Claims: []workload.ContainerID{{Namespace: "shop", ID: "web"}}}, "web"},
			{"a claim in the wrong namespace", workload.Evidence{Claims: []workload.ContainerID{{Namespace: "toys", ID: "web"}}}, ""},
			{"a cgroup named after someone else's container", workload.Evidence{Claims: claim("victim", "x"), Cgroups: at(8, "/docker/x/docker-victim.scope")}, ""},
			{"--cgroup-parent of another container", workload.Evidence{Claims: claim("nested", "victim"), Cgroups: at(0, "/docker/victim/nested")}, "nested"},
			{"a cgroup path without an id", workload.Evidence{Cgroups: at(8, "/any/path/at-all")}, "web"},
			{"a cgroup below the container's", workload.Evidence{Cgroups: at(8, "/any/path/at-all/child")}, ""},
			{"the same path in the wrong kind of hierarchy", workload.Evidence{Cgroups: at(0, "/pids/any/path/at-all")}, ""},
			{"a bundle", workload.Evidence{Bundle: anywhere + "/"}, "web"},
			{"a bundle that nobody runs", workload.Evidence{Bundle: "/nowhere/web"}, ""},
			{"another process", workload.Evidence{Init: other}, ""},
			{"the root of a hierarchy", workload.Evidence{Cgroups: at(0, "/")}, ""},
			{"nothing", workload.Evidence{}, ""},
			{"hostile claims", workload.Evidence{Claims: claim("../victim", "", "a/b", "\x00"), Cgroups: at(8, "/docker/../victim")}, ""},
		} {
			got, err := c.Locate(t.Context(), tc.e)
			if got.ID != tc.want || (tc.want == "") != errors.Is(err, collectors.ErrNotFound) {
				t.Errorf("%s (watching: %s): %v, %v; want %q", tc.name, watching, got, err, tc.want)
			}
		}
	}
}

// Those who locate while somebody else reads the states wait, and one more look
// serves them all: it began after they had asked.
func TestThoseWhoLocateTogetherReadTheStatesOnce(t *testing.T) {
	run := testRun(t)
	root := mkdir(t, run+"/runc")
	const crowd = 100
	for i := range crowd {
		makeRunc(t, root, fmt.Sprint("c", i), fmt.Sprint("/c/", i))
	}
	c := newCollector(t, Options{RunDir: run, CgroupRoot: hybridRoot(t)})
	c.scans.turn <- struct{}{} // somebody reads
	var all sync.WaitGroup
	for i := range crowd + 1 { // the last one is none of them yet
		all.Go(func() {
			id := fmt.Sprint("c", i)
			got, err := c.Locate(t.Context(), workload.Evidence{Cgroups: at(8, fmt.Sprint("/c/", i))})
			if err != nil || got.ID != id {
				t.Errorf("%s is %v, %v", id, got, err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	all.Go(func() {
		if _, err := c.Locate(ctx, workload.Evidence{Cgroups: at(8, "/c/1")}); !errors.Is(err, context.Canceled) {
			t.Errorf("whoever does not wait any longer is told %v", err)
		}
	})
	for c.scans.waiting.Load() < crowd+2 {
		runtime.Gosched()
	}
	makeRunc(t, root, fmt.Sprint("c", crowd), fmt.Sprint("/c/", crowd))
	cancel()
	for c.scans.waiting.Load() > crowd+1 {
		runtime.Gosched()
	}
	<-c.scans.turn
	all.Wait()
	if n := c.scans.made.Load(); n != 1 {
		t.Errorf("the states were read %d times", n)
	}
	if c.scans.last != nil {
		t.Error("what was read is kept though nobody waits")
	}
}

// A scan that could not read a state does not say that it is nobody's.
func TestAScanThatCouldNotReadAStateDeniesNothing(t *testing.T) {
	run := testRun(t)
	root := mkdir(t, run+"/runc")
	for i := range fewStates + 1 {
		makeRunc(t, root, fmt.Sprint("c", i), fmt.Sprint("/c/", i))
	}
	c := newCollector(t, Options{RunDir: run, CgroupRoot: hybridRoot(t)})
	asked := workload.Evidence{Cgroups: at(8, "/somebody/else")}
	if _, err := c.Locate(t.Context(), asked); !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("a cgroup of none of them: %v", err)
	}
	write(t, root+"/c0/state.json", []byte("{"))
	if _, err := c.Locate(t.Context(), asked); !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("it may be that of the one that could not be read: %v", err)
	}
	if got, err := c.Locate(t.Context(), workload.Evidence{Cgroups: at(8, "/c/1")}); err != nil || got.ID != "c1" {
		t.Errorf("the others are not found: %v, %v", got, err)
	}
}

func TestAnIdOfSeveralLivingContainersIsNotGuessed(t *testing.T) {
	run := testRun(t)
	for _, ns := range []string{"shop", "toys"} {
		makeRunc(t, mkdir(t, run+"/containerd/runc/"+ns), "web", "/"+ns+"/web")
	}
	c := newCollector(t, Options{RunDir: run})
	if got, err := c.Lookup(t.Context(), workload.ContainerID{ID: "web"}); !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("Lookup by the bare id: %+v, %v", got, err)
	}
	for _, ns := range []string{"shop", "toys"} {
		got, err := c.Lookup(t.Context(), workload.ContainerID{Namespace: ns, ID: "web"})
		if err != nil || got.ID.Namespace != ns {
			t.Errorf("Lookup in %s: %+v, %v", ns, got, err)
		}
		id, err := c.Locate(t.Context(), workload.Evidence{Claims: claim("web"), Cgroups: at(8, "/"+ns+"/web")})
		if err != nil || id.Namespace != ns {
			t.Errorf("Locate in %s: %v, %v", ns, id, err)
		}
	}
	// Left over after a crash: the init is gone, so it does not count.
	dead := selfKey(t)
	dead.Start -= workload.TickNS
	write(t, run+"/containerd/runc/toys/web/state.json", runcFile(t, "web", dead, "/b", nil))
	if got, err := c.Lookup(t.Context(), workload.ContainerID{ID: "web"}); err != nil || got.ID.Namespace != "shop" {
		t.Errorf("Lookup with one living: %+v, %v", got, err)
	}
}

// makeTask makes a shim's bundle, before any state.
func makeTask(tb testing.TB, run, ns, id, options string) string {
	tb.Helper()
	dir := mkdir(tb, filepath.Join(run, "containerd", taskDir, ns, id))
	write(tb, dir+"/config.json", mustJSON(tb, map[string]any{
		"hostname": "h", "linux": map[string]any{"cgroupsPath": "/" + ns + "/" + id},
		"annotations": map[string]string{
			"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": "main",
			"io.kubernetes.cri.image-name": "docker.io/library/busybox:1.36", "io.kubernetes.cri.sandbox-name": "web",
			"io.kubernetes.cri.sandbox-namespace": "shop", "io.kubernetes.cri.sandbox-uid": "1-2-3",
		},
	}))
	if options != "" {
		write(tb, dir+"/options.json", []byte(options))
	}
	return dir
}

func TestABundleIsDescribedBeforeItsState(t *testing.T) {
	run := testRun(t)
	dir := makeTask(t, run, "k8s.io", "4f3a", "")
	c := newCollector(t, Options{RunDir: run})
	got, err := c.Prefill(t.Context(), workload.ContainerID{ID: "4f3a"})
	if err != nil {
		t.Fatal(err)
	}
	want := workload.ContainerID{Runtime: "runc", Instance: run + "/containerd/runc/k8s.io", Namespace: "k8s.io", ID: "4f3a"}
	if got.ID != want || got.Run != nil || got.Name != "main" || got.Image.Tag != "1.36" || got.Bundle != dir || got.Pod == nil || got.Pod.UID != "1-2-3" {
		t.Errorf("%+v %+v, want %+v", got, got.Pod, want)
	}
	for name, tc := range map[string]struct {
		e    workload.Evidence
		want bool
	}{
		"its own cgroup":      {workload.Evidence{Claims: claim("4f3a"), Cgroups: at(4, "/below/k8s.io/4f3a")}, true},
		"a cgroup named so":   {workload.Evidence{Claims: claim("4f3a"), Cgroups: at(4, "/docker/x/cri-containerd-4f3a.scope")}, false},
		"its bundle":          {workload.Evidence{Bundle: dir}, true},
		"a process elsewhere": {workload.Evidence{Init: selfKey(t)}, false},
	} {
		if id, err := c.Locate(t.Context(), tc.e); (err == nil) != tc.want || tc.want && id != want {
			t.Errorf("Locate by %s: %v, %v", name, id, err)
		}
	}
	// Then the state comes, and the id does not change.
	makeRunc(t, mkdir(t, want.Instance), "4f3a", "/k8s.io/4f3a")
	if after, err := c.Lookup(t.Context(), workload.ContainerID{ID: "4f3a"}); err != nil || after.ID != want || after.Run == nil {
		t.Errorf("after: %+v, %v", after, err)
	}
}

func TestAShimsOptionsLeadToTheState(t *testing.T) {
	run := testRun(t)
	state := mkdir(t, filepath.Join(t.TempDir(), "elsewhere"))
	for i, key := range []string{"root", "Root"} {
		id := fmt.Sprintf("c%d", i)
		makeTask(t, run, "shop", id, fmt.Sprintf(`{%q:%q,"binary_name":"/usr/bin/crun"}`, key, state))
		makeRunc(t, mkdir(t, state+"/shop"), id, "/shop/"+id)
		c := newCollector(t, Options{RunDir: run})
		got, err := c.Lookup(t.Context(), workload.ContainerID{ID: id})
		want := workload.ContainerID{Runtime: "runc", Instance: state + "/shop", Namespace: "shop", ID: id}
		if err != nil || got.ID != want || got.Runtime != "containerd" || got.Run == nil {
			t.Errorf("Lookup: %+v, %v", got, err)
		}
		if ids := listed(t, newCollector(t, Options{RunDir: run})); len(ids) != i+1 {
			t.Errorf("List has %q", ids)
		}
	}
	check(t, os.Chown(state+"/shop", 1000, 1000))
	if got, err := newCollector(t, Options{RunDir: run}).Lookup(t.Context(), workload.ContainerID{ID: "c0"}); err != nil || got.Run != nil {
		t.Errorf("a state directory that is a user's: %+v, %v", got, err)
	}
}

func TestPodAnnotationsAreBelievedOnlyWhereKubernetesWritesThem(t *testing.T) {
	run := testRun(t)
	makeTask(t, run, "default", "faker", "")
	makeTask(t, run, "moby", "faker2", "")
	c := newCollector(t, Options{RunDir: run})
	for _, id := range []string{"faker", "faker2"} {
		got, err := c.Prefill(t.Context(), workload.ContainerID{ID: id})
		if err != nil || got.Pod != nil || got.Image.Name != "" || got.Name == "main" {
			t.Errorf("%s: %+v, %v", id, got, err)
		}
	}
}

func TestNewRefusesRootsThatAreNoAbsoluteGlob(t *testing.T) {
	for _, g := range []string{"relative/*", "/a/[", ""} {
		if _, err := New(Options{Roots: []string{g}}); err == nil {
			t.Errorf("%q is taken", g)
		}
	}
}
