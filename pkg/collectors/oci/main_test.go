// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// needRoot fails as a user: only root can make files that this package believes.
func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("state files must be owned by root: run the tests as root")
	}
}

// testRun makes a run directory that is trusted: t.TempDir is below a directory that everyone may write.
func testRun(tb testing.TB) string {
	tb.Helper()
	needRoot(tb)
	dir := filepath.Join(tb.TempDir(), "run")
	mkdir(tb, dir)
	return dir
}

func newCollector(tb testing.TB, opts Options) *Collector {
	tb.Helper()
	c, err := New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func mkdir(tb testing.TB, path string) string {
	tb.Helper()
	if err := os.MkdirAll(path, 0o711); err != nil {
		tb.Fatal(err)
	}
	return path
}

// write puts a file in its place at once, as runtimes do.
func write(tb testing.TB, path string, data []byte) {
	tb.Helper()
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(tmp, path); err != nil {
		tb.Fatal(err)
	}
}

func mustJSON(tb testing.TB, v any) []byte {
	tb.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// selfKey is the test's own process, which stands for a living init.
func selfKey(tb testing.TB) workload.ProcessKey {
	tb.Helper()
	data, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		tb.Fatal(err)
	}
	ticks, _ := parseStat(data)
	return workload.ProcessKey{PID: workload.PID(os.Getpid()), Ticks: true, Start: ticks * workload.TickNS}
}

// runcFile is a state.json as runc writes it, with the parts that matter.
func runcFile(tb testing.TB, id string, init workload.ProcessKey, bundle string, cgroups map[string]string) []byte {
	tb.Helper()
	return mustJSON(tb, map[string]any{
		"id": id, "init_process_pid": init.PID, "init_process_start": init.Start / workload.TickNS,
		"created": "2026-11-22T09:55:19.489221083Z", "cgroup_paths": cgroups,
		"config": map[string]any{"labels": []string{"org.example.team=red", "bundle=" + bundle}},
	})
}

// makeRunc makes the state and bundle of one runc container and gives its bundle.
func makeRunc(tb testing.TB, root, id, cgroup string) string {
	tb.Helper()
	bundle := mkdir(tb, filepath.Join(tb.TempDir(), "bundle"))
	write(tb, bundle+"/config.json", mustJSON(tb, map[string]any{
		"ociVersion": "1.0.2", "hostname": "h-" + id, "annotations": map[string]string{"org.example.team": "red"},
		"process": map[string]any{"user": map[string]int{"uid": 7, "gid": 8}, "env": []string{"A=1", "SECRET=x"}},
		"linux":   map[string]any{"namespaces": []map[string]string{{"type": "pid"}, {"type": "ipc"}}},
	}))
	dir := mkdir(tb, filepath.Join(root, id))
	paths := map[string]string{"pids": "/sys/fs/cgroup/pids" + cgroup, "": "/sys/fs/cgroup/unified" + cgroup}
	write(tb, dir+"/state.json", runcFile(tb, id, selfKey(tb), bundle, paths))
	return bundle
}

// startWatch runs Watch until the test ends, and gives its hints.
func startWatch(tb testing.TB, c *Collector) <-chan collectors.Hint {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	hints := make(chan collectors.Hint, 4096)
	done := make(chan error, 1)
	scanned := make(chan struct{}, 1)
	go func() {
		done <- c.Watch(ctx, func(h collectors.Hint) {
			if h.Kind == collectors.HintAlive { // the first scan is over
				scanned <- struct{}{}
				return
			}
			hints <- h
		})
	}()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			tb.Errorf("Watch: %v", err)
		}
	})
	select {
	case <-scanned:
	case <-time.After(10 * time.Second):
		tb.Fatal("Watch does not begin")
	}
	return hints
}

func pidString(p workload.PID) string { return strconv.FormatUint(uint64(p), 10) }
