// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
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

// A user's containers have no cgroup of their own here, which the kernel would tell
// of at once: what tells is what podman writes.
func TestAUsersContainerIsKnownSoonAfterItsStart(t *testing.T) {
	const starts = 12
	podman := collectortest.StartRootlessPodman(t, collectortest.EngineOptions{})
	agent := harness.StartAgent(t, programs, harness.AgentOptions{PodmanUsers: true})
	c := connect(t, agent)
	// The store is known by its first container.
	first := podman.Run("--name", "first", collectortest.BusyboxImage)
	agent.Await(patience, strconv.Itoa(podman.InitPID(first)), named("first"))
	podman.Podman("rm", "--force", "--time", "0", "first")

	type word struct {
		name string
		at   workload.KTime
	}
	heard := make(chan word, 1000)
	go func() {
		for ch, err := range c.Watch(t.Context(), workload.Selector{}) {
			if err != nil {
				return
			}
			if c := ch.Entity.Container; c != nil && c.Name != "" && c.Run != nil && c.Confidence == workload.Confirmed && !ch.Entity.Gone {
				heard <- word{c.Name, bootTime()}
			}
		}
	}()
	var took []time.Duration
	for i := range starts {
		name := "soon-" + strconv.Itoa(i)
		id := podman.Run("--name", name, collectortest.BusyboxImage, "sleep", "3600")
		init := podman.InitPID(id)
		var at workload.KTime
		for timeout := time.After(patience); at == 0; {
			select {
			case w := <-heard:
				if w.name == name {
					at = w.at
				}
			case <-timeout:
				t.Fatalf("nobody heard of %s", name)
			}
		}
		began := harness.StartTicks(t, init) * workload.TickNS // when runc forked it
		took = append(took, time.Duration(uint64(at)-began))
		podman.Podman("rm", "--force", "--time", "0", name)
	}
	slices.Sort(took)
	t.Logf("%d containers of a user: known %s (median), %s (most) after their init was forked", starts, took[starts/2], took[starts-1])
	if median := took[starts/2]; median > 250*time.Millisecond {
		t.Errorf("known only %s after the init was forked (median)", median)
	}
}
