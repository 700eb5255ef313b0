// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// Of root's podman and of a user's, whose containers have no cgroup of their own here:
// the container's processes are its own, whoever started them; its conmon and
// the user's other processes are not.
func TestPodmansContainersAreNamedAndTheirConmonsAreNot(t *testing.T) {
	for _, tc := range []struct {
		name     string
		start    func(testing.TB, collectortest.EngineOptions) *collectortest.Podman
		late     bool
		rootless bool
	}{
		{name: "root", start: collectortest.StartPodman},
		{name: "root, an agent that comes late", start: collectortest.StartPodman, late: true},
		{name: "a user", start: collectortest.StartRootlessPodman, rootless: true},
		{name: "a user, an agent that comes late", start: collectortest.StartRootlessPodman, late: true, rootless: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			podman := tc.start(t, collectortest.EngineOptions{})
			opts := harness.AgentOptions{PodmanUsers: tc.rootless}
			if !tc.rootless {
				opts.Podman = podman
			}
			var agent *harness.Agent
			if !tc.late {
				agent = harness.StartAgent(t, programs, opts)
			}
			s := podmanStage(t, podman)
			if tc.late {
				agent = harness.StartAgent(t, programs, opts)
			}
			s.hold(t, agent)
		})
	}
}

// podmanProcesses are processes around one container, by what is to be said of them.
type podmanProcesses struct {
	id       string
	members  []int
	outsider []int
}

func podmanStage(t *testing.T, podman *collectortest.Podman) podmanProcesses {
	t.Helper()
	id := podman.Run("--name", "shop", "--label", "team=blue", collectortest.BusyboxImage, "/bin/sh", "-c", "sleep 7441 & exec sleep 7442")
	podman.Podman("exec", "--detach", "shop", "/bin/sleep", "7443")
	conmon, err := filepath.Glob(podman.RunRoot + "/*-containers/" + id + "/userdata/conmon.pid")
	if err != nil || len(conmon) != 1 {
		t.Fatalf("pid files of conmon: %q, %v", conmon, err)
	}
	text, err := os.ReadFile(conmon[0])
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return podmanProcesses{
		id:       id,
		members:  []int{podman.InitPID(id), processWith(t, "7441"), processWith(t, "7443")},
		outsider: []int{pid, os.Getpid()},
	}
}

func (s podmanProcesses) hold(t *testing.T, agent *harness.Agent) {
	t.Helper()
	for _, pid := range s.members {
		agent.Await(patience, strconv.Itoa(pid), func(a harness.Answer) error {
			switch c := a.Container(); {
			case a.Status != "container" || a.Confidence != "confirmed":
				return fmt.Errorf("it is %s %s (%s)", a.Confidence, a.Status, a.Reason)
			case c.ID != s.id || c.Name != "shop" || c.Runtime != "podman" || c.Labels["team"] != "blue":
				return fmt.Errorf("it is said to be of %+v", c)
			}
			return nil
		})
	}
	for _, pid := range s.outsider {
		if a := agent.Who(strconv.Itoa(pid))[0]; a.Status == "container" || a.Status == "conflict" {
			t.Errorf("process %d, which is no member, is %s: %+v (%s)", pid, a.Status, a.Containers, a.Reason)
		}
	}
}
