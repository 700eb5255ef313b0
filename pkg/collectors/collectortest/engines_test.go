// SPDX-License-Identifier: Apache-2.0

package collectortest_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTwoDockerdsRunContainersSideBySide(t *testing.T) {
	a := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	b := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	for _, e := range []*collectortest.Dockerd{a, b} {
		id := e.Run("--name", "web", collectortest.BusyboxImage)
		pid := e.InitPID(id)
		cg, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil || !strings.Contains(string(cg), id) {
			t.Errorf("cgroup of %d: %q, %v; want id %s", pid, cg, err, id)
		}
		if _, err := os.Stat(e.RuncRoot + "/" + id + "/state.json"); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(e.Root + "/containers/" + id + "/config.v2.json"); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(e.Containerd); err != nil {
			t.Error(err)
		}
	}
}

func TestStacksTellInWhatAnEngineWaits(t *testing.T) {
	d := collectortest.StartDockerd(t, collectortest.EngineOptions{NoImages: true})
	c := collectortest.StartContainerd(t, collectortest.EngineOptions{NoImages: true})
	for engine, got := range map[string]string{"dockerd": d.Stacks(), "containerd": c.Stacks()} {
		for _, want := range []string{engine + " --", " wchan ", "goroutines:\n", "the kernel's log ends"} {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q is not in what it waits in:\n%.4000s", engine, want, got)
			}
		}
	}
}

func TestContainerdRunsATaskWithPrivateRuncState(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	e.Run("default", "--label", "a=b", collectortest.BusyboxImage, "web", "sleep", "3600")
	if pid := e.InitPID("default", "web"); pid <= 0 {
		t.Errorf("PID %d", pid)
	}
	for _, f := range []string{e.RuncRoot + "/default/web/state.json", e.State + "/io.containerd.runtime.v2.task/default/web/config.json"} {
		if _, err := os.Stat(f); err != nil {
			t.Error(err)
		}
	}
}
