// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// on makes a collector on a podman.
func on(t testing.TB, e *collectortest.Podman) *Collector {
	t.Helper()
	c, err := New(Options{Roots: []string{DefaultRoot + "-none", e.Root}, EnvAllow: []string{"REGION"}, Interval: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Tests that leave podman as it was share one.
func TestOnPodman4(t *testing.T) {
	e := collectortest.StartPodman(t, collectortest.EngineOptions{})
	onOnePodman(t, e, 50)
}

// The same of podman 5, whose database is SQLite: that of a newer release, in its own root directory.
func TestOnPodman5(t *testing.T) {
	root, err := collectortest.GuestRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	onOnePodman(t, collectortest.StartPodmanIn(t, root, collectortest.EngineOptions{}), 10)
}

func onOnePodman(t *testing.T, e *collectortest.Podman, runs int) {
	for name, test := range map[string]func(*testing.T, *collectortest.Podman){
		"a pod and its containers are known":               testPod,
		"images are those that podman prints":              testImages,
		"an end is said with its code, --rm or not":        testEnds,
		"a check is said":                                  testHealth,
		"a conmon that is gone takes no container's PID":   testNoConmon,
		"without its database the storage still has names": testStorageAlone,
		"podman runs undisturbed beside it":                func(t *testing.T, e *collectortest.Podman) { testUndisturbed(t, e, runs) },
	} {
		t.Run(name, func(t *testing.T) { test(t, e) })
	}
	t.Run("it conforms", func(t *testing.T) { testConformance(t, e) })
}

func testConformance(t *testing.T, e *collectortest.Podman) {
	n := 0
	collectortest.Run(t, collectortest.Harness{
		New: func(t testing.TB) collectors.Collector { return on(t, e) },
		Start: func(t testing.TB) *collectortest.Started {
			n++
			return startWeb(t, e, fmt.Sprintf("web%d", n))
		},
		Unknown: workload.ContainerID{Runtime: "podman", Instance: e.Root, ID: strings.Repeat("f", 64)},
	})
}

func startWeb(t testing.TB, e *collectortest.Podman, name string) *collectortest.Started {
	t.Helper()
	id := e.Run("--name", name, "--label", "team=blue", "--env", "REGION=eu", "--env", "SECRET=x", "--hostname", "host1",
		"--user", "1000:1000", "--cap-add", "SYS_ADMIN", "--read-only", "--ipc", "host", "--pids-limit", "100",
		"--volume", "/tmp:/data:ro", collectortest.BusyboxImage)
	prefill := &workload.Container{
		ID:       workload.ContainerID{Runtime: "podman", Instance: e.Root, ID: id},
		Name:     name,
		Runtime:  "podman",
		Image:    workload.ImageRef{Name: collectortest.BusyboxImage, Tag: "1", ID: "sha256:" + e.Inspect(id, "{{.Image}}")},
		Labels:   map[string]string{"team": "blue", collectortest.BusyboxLabel: "image"},
		Env:      map[string]string{"REGION": "eu", "SECRET": ""},
		State:    workload.StateRunning,
		Hostname: "host1",
		User:     "1000:1000",
	}
	want := prefill.Clone()
	want.Limits = &workload.Limits{Pids: 100}
	want.Run = &workload.Run{Init: workload.ProcessKey{PID: workload.PID(e.InitPID(id))}, Registers: true}
	return &collectortest.Started{
		Want:     want,
		Prefill:  prefill,
		Evidence: workload.Evidence{Claims: []workload.ContainerID{{Runtime: "podman", ID: id}}},
		Stop:     func() { e.Podman("kill", id) },
		Remove:   func() { e.Podman("rm", "--force", "--time", "0", id) },
	}
}

// The checks are run by hand: podman leaves them to systemd's timers. What they look at
// has one path in the container and outside: an exec by a podman in another root
// directory sees this machine's files.
func testHealth(t *testing.T, e *collectortest.Podman) {
	c := on(t, e)
	dir := e.Dir + "/checked"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	id := e.Run("--name", "checked", "--volume", dir+":"+dir, "--health-cmd", "/bin/busybox test -e "+dir+"/well",
		"--health-interval", "disable", "--health-retries", "1", collectortest.BusyboxImage)
	t.Cleanup(func() { e.Podman("rm", "--force", "--time", "0", id) })
	hints := make(chan collectors.Hint, 1000)
	go func() { _ = c.Watch(t.Context(), func(h collectors.Hint) { hints <- h }) }()
	collectortest.AwaitHint(t, hints, "the first look", func(h collectors.Hint) bool { return h.Kind == collectors.HintAlive })
	is := func(want workload.Health) {
		t.Helper()
		l, err := c.Lookup(t.Context(), workload.ContainerID{Runtime: "podman", Instance: e.Root, ID: id})
		if err != nil || l.Health != want {
			t.Fatalf("it is %+v, %v, want %s", l, err, want)
		}
	}
	await := func(want workload.Health) {
		t.Helper()
		collectortest.AwaitHint(t, hints, "a check that says "+string(want), func(h collectors.Hint) bool {
			return h.ID.ID == id && h.Layer != nil && h.Layer.Health == want && h.Layer.State == workload.StateRunning
		})
		is(want)
	}
	is(workload.HealthStarting)
	if _, err := e.Exec(t.Context(), "healthcheck", "run", "checked"); err == nil {
		t.Fatal("the check does not fail")
	}
	await(workload.HealthUnhealthy)
	if err := os.WriteFile(dir+"/well", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	e.Podman("healthcheck", "run", "checked")
	await(workload.HealthHealthy)
	e.Podman("stop", "--time", "0", "checked")
	is("")
}

func testPod(t *testing.T, e *collectortest.Podman) {
	pod := e.Pod("shop", "--label", "tier=front")
	id := e.Run("--pod", "shop", "--name", "till", collectortest.BusyboxImage)
	t.Cleanup(func() { e.Podman("pod", "rm", "--force", "--time", "0", "shop") })
	c := on(t, e)
	p, err := c.LookupPod(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if p.Name != "shop" || p.Labels["tier"] != "front" || p.Runtime != "podman" || len(p.Sandboxes) != 1 || p.Created.IsZero() {
		t.Errorf("pod %+v", p)
	}
	listed := map[string]bool{}
	for p, err := range c.ListPods(t.Context()) {
		if err != nil {
			t.Error(err)
			continue
		}
		listed[p.UID] = true
	}
	if !listed[pod] {
		t.Errorf("pods listed: %v", listed)
	}
	for id, sandbox := range map[string]bool{id: false, p.Sandboxes[0].ID: true} {
		one, err := c.Lookup(t.Context(), workload.ContainerID{ID: id})
		if err != nil {
			t.Fatal(err)
		}
		if one.Pod == nil || *one.Pod != (workload.PodRef{UID: pod, Name: "shop"}) || one.Sandbox != sandbox || one.Run == nil {
			t.Errorf("container of the pod: %+v %v, sandbox %v, run %+v", one.Pod, one.Name, one.Sandbox, one.Run)
		}
	}
}

func testEnds(t *testing.T, e *collectortest.Podman) {
	c := on(t, e)
	hints := make(chan collectors.Hint, 1000)
	ended := make(chan struct{})
	alive := make(chan struct{}, 1)
	go func() {
		defer close(ended)
		_ = c.Watch(t.Context(), func(h collectors.Hint) {
			if h.Kind != collectors.HintAlive {
				hints <- h
				return
			}
			select {
			case alive <- struct{}{}:
			default:
			}
		})
	}()
	<-alive
	// One that is removed at once, and one that stays; their ids are told by the hints.
	for _, args := range [][]string{{"run", "--rm", "--name", "gone"}, {"run", "--name", "stays"}} {
		_, _ = e.Exec(t.Context(), append(args, "--network", "none", collectortest.BusyboxImage, "/bin/sh", "-c", "sleep 1; exit 7")...)
		c.Nudge()
		if code := awaitExit(t, hints); code != 7 {
			t.Errorf("%v: exit code %d, want 7", args, code)
		}
	}
	one, err := c.Lookup(t.Context(), workload.ContainerID{ID: e.Inspect("stays", "{{.Id}}")})
	if err != nil || one.Exit == nil || one.Exit.Code != 7 || one.State != workload.StateExited || one.Finished.IsZero() {
		t.Errorf("the one that stays: %+v, %v", one, err)
	}
	e.Podman("rm", "stays")
}

func awaitExit(t *testing.T, hints <-chan collectors.Hint) int32 {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		select {
		case h := <-hints:
			if h.Kind == collectors.HintExited && h.Layer != nil && h.Layer.Exit != nil {
				return h.Layer.Exit.Code
			}
		case <-late:
			t.Error("no hint of an exit with its code")
			return -1
		}
	}
}

// The database's PID is believed only while conmon vouches for it.
func testNoConmon(t *testing.T, e *collectortest.Podman) {
	id := e.Run("--name", "orphan", collectortest.BusyboxImage)
	t.Cleanup(func() { e.Podman("rm", "--force", "--time", "0", "orphan") })
	c := on(t, e)
	pid := e.InitPID(id)
	key, parent, ok := c.initOf(id, int64(pid), 0)
	if !ok || key.PID != workload.PID(pid) || key.Start == 0 || parent != int64(e.Conmon(id)) {
		t.Fatalf("init %d of its conmon: %v, %v", pid, key, ok)
	}
	conmon := e.Conmon(id)
	for what, call := range map[string]func() (workload.ProcessKey, int64, bool){
		"conmon itself":         func() (workload.ProcessKey, int64, bool) { return c.initOf(id, int64(conmon), 0) },
		"another container's":   func() (workload.ProcessKey, int64, bool) { return c.initOf(strings.Repeat("a", 64), int64(pid), 0) },
		"another user's":        func() (workload.ProcessKey, int64, bool) { return c.initOf(id, int64(pid), 1000) },
		"any process":           func() (workload.ProcessKey, int64, bool) { return c.initOf(id, int64(os.Getpid()), 0) },
		"none":                  func() (workload.ProcessKey, int64, bool) { return c.initOf(id, 0, 0) },
		"past the last of them": func() (workload.ProcessKey, int64, bool) { return c.initOf(id, 1<<40, 0) },
	} {
		if key, _, ok := call(); ok {
			t.Errorf("%s is taken for the init: %v", what, key)
		}
	}
}

// So many containers alone, and twice as many beside a collector that reads without
// pause, in turns: none fails, and none waits for it.
func testUndisturbed(t *testing.T, e *collectortest.Podman, runs int) {
	const rounds = 15
	c := on(t, e)
	var alone, beside []time.Duration
	reads := 0
	for round := range rounds {
		stop, done := make(chan struct{}), make(chan struct{})
		if round%3 > 0 {
			go func() {
				defer close(done)
				reads += readUntil(t, c, stop)
			}()
		} else {
			close(done)
		}
		for range runs / (rounds / 3) {
			began := time.Now()
			if _, err := e.Exec(t.Context(), "run", "--rm", "--network", "none", collectortest.BusyboxImage, "/bin/true"); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); round%3 > 0 {
				beside = append(beside, took)
			} else {
				alone = append(alone, took)
			}
		}
		close(stop)
		<-done
	}
	slices.Sort(alone)
	slices.Sort(beside)
	t.Logf("podman run: alone median %v most %v, beside %d reads median %v most %v", alone[len(alone)/2], alone[len(alone)-1],
		reads, beside[len(beside)/2], beside[len(beside)-1])
	if beside[len(beside)/2] > 2*alone[len(alone)/2] {
		t.Errorf("podman takes twice as long beside the collector")
	}
	if reads < 100 {
		t.Errorf("only %d reads", reads)
	}
}

// readUntil reads everything again and again, as nobody would, and counts.
func readUntil(t *testing.T, c *Collector, stop <-chan struct{}) (n int) {
	for {
		for _, err := range c.List(t.Context()) {
			if err != nil {
				t.Error(err)
			}
		}
		select {
		case <-stop:
			return n
		case <-time.After(10 * time.Millisecond):
			n++
		}
	}
}

func testStorageAlone(t *testing.T, e *collectortest.Podman) {
	id := e.Run("--name", "named", collectortest.BusyboxImage)
	t.Cleanup(func() { e.Podman("rm", "--force", "--time", "0", "named") })
	c := on(t, e)
	s := c.known()[1]
	one, err := s.stored(id)
	if err != nil {
		t.Fatal(err)
	}
	got := s.describeStored(one).Container
	if got.Name != "named" || got.Image.Name != collectortest.BusyboxImage || got.Created.IsZero() || got.Labels != nil {
		t.Errorf("by the storage: %+v", got)
	}
}
