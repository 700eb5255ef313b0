// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// step is what is done to a container, and the state that it is in then.
type step struct {
	do   func(ctx context.Context, name string) (string, error)
	want workload.State
}

// The states of a container have the same names in every engine.
func TestStatesAreTheSameInEveryEngine(t *testing.T) {
	docker := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	containerd := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	cri := collectortest.StartCRI(t, collectortest.EngineOptions{})
	podman := collectortest.StartPodman(t, collectortest.EngineOptions{})
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Containerd: containerd, CRI: cri, Podman: podman})
	c := connect(t, agent)

	// on runs a client's command about the container, which stands in place of NAME.
	on := func(exec func(context.Context, ...string) (string, error), args string) func(context.Context, string) (string, error) {
		return func(ctx context.Context, name string) (string, error) {
			return exec(ctx, strings.Fields(strings.ReplaceAll(args, "NAME", name))...)
		}
	}
	pod := collectortest.PodConfig{Name: "states", Namespace: "shop", UID: "66666666-0000-0000-0000-000000000000"}
	sandbox, err := cri.RunPod(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	var id string // of the CRI's container
	// Docker's words are podman's.
	words := func(exec func(context.Context, ...string) (string, error)) []step {
		return []step{
			{on(exec, "create --name NAME --network none "+collectortest.BusyboxImage+" /bin/sleep 3600"), workload.StateCreated},
			{on(exec, "start NAME"), workload.StateRunning},
			{on(exec, "pause NAME"), workload.StatePaused},
			{on(exec, "unpause NAME"), workload.StateRunning},
			{on(exec, "kill NAME"), workload.StateExited},
			{on(exec, "start NAME"), workload.StateRunning},
		}
	}
	engines := map[string][]step{
		"docker": words(docker.Exec),
		"docker, restarting": {
			// Docker waits for longer before each next run: 100 ms, 200 ms, ... a minute.
			{on(docker.Exec, "run --detach --name NAME --network none --restart always "+collectortest.BusyboxImage+" /bin/false"), workload.StateRestarting},
			{on(docker.Exec, "stop NAME"), workload.StateExited},
		},
		"podman": words(podman.Exec),
		"containerd": {
			// What has never run cannot be told from what ran and whose task was deleted.
			{on(containerd.Exec, "--namespace default containers create "+collectortest.BusyboxImage+" NAME /bin/sleep 3600"), workload.StateUnknown},
			{on(containerd.Exec, "--namespace default tasks start --detach --null-io NAME"), workload.StateRunning},
			{on(containerd.Exec, "--namespace default tasks pause NAME"), workload.StatePaused},
			{on(containerd.Exec, "--namespace default tasks resume NAME"), workload.StateRunning},
			{on(containerd.Exec, "--namespace default tasks kill --signal SIGKILL NAME"), workload.StateExited},
		},
		"cri": { // which has no word for paused
			{func(ctx context.Context, name string) (string, error) {
				var err error
				id, err = cri.CreateContainer(ctx, sandbox, pod, collectortest.ContainerConfig{Name: name, Command: []string{"/bin/sleep", "3600"}})
				return "", err
			}, workload.StateCreated},
			{func(ctx context.Context, _ string) (string, error) { return "", cri.StartContainer(ctx, id) }, workload.StateRunning},
			{func(ctx context.Context, _ string) (string, error) { return "", cri.StopContainer(ctx, id) }, workload.StateExited},
		},
	}
	for engine, steps := range engines {
		t.Run(engine, func(t *testing.T) {
			name := "states-" + strings.ReplaceAll(engine, ", ", "-")
			for i, s := range steps {
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				_, err := s.do(ctx, name)
				cancel()
				if err != nil {
					t.Fatal(err)
				}
				if err := harness.Within(patience, func() error { return stateIs(t, c, name, s.want) }); err != nil {
					t.Errorf("step %d: %v", i, err)
				}
			}
		})
	}
}

// What Docker's check of a container says is said, and changes with its events.
func TestTheHealthOfAContainerIsFollowed(t *testing.T) {
	docker := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	c := connect(t, harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker}))
	docker.Run("--name", "checked", "--health-cmd", "test -f /tmp/well", "--health-interval", "300ms", "--health-retries", "2",
		"--health-start-period", "1h", collectortest.BusyboxImage, "/bin/sleep", "3600")
	for _, s := range []struct {
		do   []string
		want workload.Health
	}{
		{nil, workload.HealthStarting},
		{[]string{"exec", "checked", "/bin/touch", "/tmp/well"}, workload.HealthHealthy},
		{[]string{"exec", "checked", "/bin/busybox", "rm", "/tmp/well"}, workload.HealthUnhealthy},
		{[]string{"kill", "checked"}, ""},
	} {
		if s.do != nil {
			docker.Docker(s.do...)
		}
		if err := harness.Within(patience, func() error {
			e, err := c.Get(t.Context(), workload.KindContainer, "checked")
			if err == nil && e.Container.Health != s.want {
				err = fmt.Errorf("it is %q, not %q", e.Container.Health, s.want)
			}
			return err
		}); err != nil {
			t.Errorf("after %q: %v", s.do, err)
		}
	}
}

// stateIs says what is wrong. A container that does not run says how its last run ended.
func stateIs(t *testing.T, c *client.Client, name string, want workload.State) error {
	t.Helper()
	e, err := c.Get(t.Context(), workload.KindContainer, name)
	switch {
	case err != nil:
		return err
	case e.Container.State != want:
		return fmt.Errorf("%s is %q, not %q", name, e.Container.State, want)
	}
	ended := want == workload.StateExited || want == workload.StateRestarting
	if x := e.Container.Exit; ended != (x != nil && x.Known) {
		return fmt.Errorf("%s, %s, ended by %+v", name, want, x)
	}
	return nil
}
