// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// What the engine's check says is heard of, in the files, and in each call, as docker
// inspect prints it.
func TestHealthIsWhatTheEnginesCheckSays(t *testing.T) {
	e := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	c := on(t, e, e.Socket)
	ctx, cancel := context.WithCancel(t.Context())
	hints := make(chan collectors.Hint, 1000)
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx, func(h collectors.Hint) { hints <- h }) }()
	defer func() { cancel(); <-done }()
	for h := range hints { // it listens
		if h.Kind == collectors.HintAlive {
			break
		}
	}

	id := e.Run("--health-cmd", "test -f /tmp/well", "--health-interval", "300ms", "--health-retries", "2", "--health-start-period", "1h",
		collectortest.BusyboxImage, "sleep", "3600")
	plain := e.Run(collectortest.BusyboxImage, "sleep", "3600")
	everywhere := func(want workload.Health) {
		t.Helper()
		if said := e.Docker("inspect", "--format", "{{.State.Health.Status}}", id); said != string(want) {
			t.Fatalf("docker says %q, want %q", said, want)
		}
		cid := workload.ContainerID{Runtime: "docker", Instance: e.Socket, ID: id}
		for how, look := range map[string]func(context.Context, workload.ContainerID) (*workload.Container, error){"Lookup": c.Lookup, "Prefill": c.Prefill} {
			if got, err := look(t.Context(), cid); err != nil || got.Health != want {
				t.Errorf("%s: %q, %v; want %q", how, got.Health, err, want)
			}
		}
		for got, err := range c.List(t.Context()) {
			if err != nil {
				t.Fatal(err)
			}
			if got.ID.ID == id && got.Health != want || got.ID.ID == plain && got.Health != "" {
				t.Errorf("List: %s is %q, want %q", got.Name, got.Health, want)
			}
		}
	}
	hear := func(want workload.Health) {
		t.Helper()
		late := time.After(20 * time.Second)
		for {
			select {
			case h := <-hints:
				if h.ID.ID == id && h.Layer != nil && h.Layer.Health == want {
					return
				}
			case <-late:
				t.Fatalf("%q is not heard of", want)
			}
		}
	}
	hear(workload.HealthStarting)
	everywhere(workload.HealthStarting)
	e.Docker("exec", id, "touch", "/tmp/well")
	hear(workload.HealthHealthy)
	everywhere(workload.HealthHealthy)
	e.Docker("exec", id, "/bin/busybox", "rm", "/tmp/well")
	hear(workload.HealthUnhealthy)
	everywhere(workload.HealthUnhealthy)
	e.Docker("kill", id)
	hear("")
	if got, err := c.Lookup(t.Context(), workload.ContainerID{Runtime: "docker", Instance: e.Socket, ID: id}); err != nil || got.State != workload.StateExited || got.Health != "" {
		t.Errorf("after its end: %s, health %q, %v", got.State, got.Health, err)
	}
}

func TestTheHealthInAListsLine(t *testing.T) {
	for line, want := range map[string]workload.Health{
		"Up 3 seconds (healthy)":          workload.HealthHealthy,
		"Up 2 hours (unhealthy)":          workload.HealthUnhealthy,
		"Up 1 second (health: starting)":  workload.HealthStarting,
		"Up 3 seconds (Paused)":           "",
		"Up 3 seconds":                    "",
		"":                                "",
		"(":                               "",
		"Up (healthy) (x":                 "",
		"Up 3 seconds (health: whatever)": "",
	} {
		if got := healthIn(workload.StateRunning, line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	for _, s := range []workload.State{workload.StateExited, workload.StateCreated, workload.StateRestarting, workload.StateUnknown} {
		if got := healthIn(s, fmt.Sprintf("Up 3 seconds (%s)", workload.HealthHealthy)); got != "" {
			t.Errorf("%s: %q", s, got)
		}
	}
}
