// SPDX-License-Identifier: Apache-2.0

package tombfile

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const second = workload.KTime(time.Second)

var boot = BootID{1, 2, 3, 16}

func key(n int) workload.ProcessKey {
	return workload.ProcessKey{PID: workload.PID(n), Start: uint64(n) * 1000, Inode: uint64(5000 + n)}
}

func id(n int) workload.ContainerID {
	return workload.ContainerID{Runtime: "docker", ID: fmt.Sprintf("%064x", n)}
}

// process n is in container n; it has ended where code is 0 or more.
func process(n, code int) *workload.Process {
	p := &workload.Process{
		Key: key(n), Comm: "sh", Status: workload.StatusContainer, Confidence: workload.Confirmed,
		Container: id(n), Started: workload.KTime(n * 1000),
	}
	if code >= 0 {
		p.Exit = &workload.Exit{Known: true, Code: int32(code), At: 10*second + workload.KTime(n)}
	}
	return p
}

func container(n int) *workload.Container {
	return &workload.Container{
		ID: id(n), Name: fmt.Sprintf("web-%d", n), Image: workload.ImageRef{Name: "busybox:1"}, State: workload.StateRunning,
		Confidence: workload.Confirmed, Labels: map[string]string{"a": "b"}, Run: &workload.Run{Init: key(n), Started: workload.KTime(n * 1000)},
	}
}

func pod(n int) *workload.Pod {
	return &workload.Pod{PodRef: workload.PodRef{UID: fmt.Sprintf("pod-%d", n), Name: "web", Namespace: "shop"}, Phase: "Running", Labels: map[string]string{"a": "b"}}
}

func task(n int) *workload.Task {
	return &workload.Task{ARN: fmt.Sprintf("arn-%d", n), Cluster: "prod", Family: "shop", Known: "RUNNING", Tags: map[string]string{"a": "b"}}
}

// world is a store with n processes and their containers; the odd ones have ended.
func world(n int) *store.Store {
	s := store.New(store.Options{Base: 1 << 40, Grace: time.Hour})
	s.SetAsOf(20 * second)
	for i := 1; i <= n; i++ {
		s.Apply(live(i)...)
		if i%2 == 1 {
			s.Apply(dead(i)...)
		}
	}
	return s
}

func live(n int) []store.Change {
	return []store.Change{
		{Container: &store.ContainerChange{ID: id(n), Source: store.KernelSource, Layer: container(n)}},
		{Process: process(n, -1)},
	}
}

func dead(n int) []store.Change {
	c := container(n)
	c.Run.Exit = process(n, 7).Exit
	c.Exit = c.Run.Exit
	return []store.Change{
		{Process: process(n, 7)},
		{Container: &store.ContainerChange{ID: id(n), Source: store.KernelSource, Layer: c, Gone: 11 * second}},
	}
}

// open makes a File over s in dir, with a /proc of another boot than any.
func open(t *testing.T, dir string, s Store, change func(*Options)) *File {
	t.Helper()
	f, err := tryOpen(t, dir, s, change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func tryOpen(t *testing.T, dir string, s Store, change func(*Options)) (*File, error) {
	t.Helper()
	proc := t.TempDir()
	if err := os.MkdirAll(filepath.Join(proc, "sys/kernel/random"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%x-%x-%x-%x-%x\n", boot[:4], boot[4:6], boot[6:8], boot[8:10], boot[10:])
	if err := os.WriteFile(filepath.Join(proc, "sys/kernel/random/boot_id"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	o := Options{Dir: dir, Store: s, Procfs: proc, Run: 1 << 40, Now: func() workload.KTime { return 30 * second }}
	if change != nil {
		change(&o)
	}
	return Open(o)
}

// host is one on which nobody lives but these.
func host(alive ...workload.ProcessKey) Host {
	return Host{Now: 60 * second, Wall: time.Unix(1e9, 0), Grace: time.Hour, Alive: func(k workload.ProcessKey) bool {
		return slices.Contains(alive, k)
	}}
}
