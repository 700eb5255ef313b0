// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// listedPod is what the command line says of a pod.
type listedPod struct {
	UID, Name, Namespace, Runtime string
	Labels, Annotations           map[string]string
	IPs, Sandboxes                []string
	Containers                    []struct{ Name, ID, State string }
}

// A pod that was there before the agent and one that comes later are listed with
// what only the CRI says of them, and no longer once they are removed.
func TestPodsAreListedWithWhatTheCRISays(t *testing.T) {
	e := collectortest.StartCRI(t, collectortest.EngineOptions{})
	sleeper := collectortest.ContainerConfig{Name: "main", Command: []string{"sleep", "3600"}}
	start := func(name, uid string) (collectortest.PodConfig, string) {
		t.Helper()
		p := collectortest.PodConfig{
			Name: name, Namespace: "shop", UID: uid, Network: true,
			Labels: map[string]string{"app": name}, Annotations: map[string]string{"team": "red"},
		}
		sandbox, err := e.RunPod(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := e.RunContainer(t.Context(), sandbox, p, sleeper); err != nil {
			t.Fatal(err)
		}
		return p, sandbox
	}
	early, earlySandbox := start("early", "11111111-0000-0000-0000-000000000001")
	agent := harness.StartAgent(t, programs, harness.AgentOptions{CRI: e})
	late, lateSandbox := start("late", "11111111-0000-0000-0000-000000000002")
	for sandbox, p := range map[string]collectortest.PodConfig{earlySandbox: early, lateSandbox: late} {
		within(t, func() error { return listedInFull(t, agent, e, p, sandbox) })
	}
	// One that ends at once: how, and how often it was made.
	failing := collectortest.ContainerConfig{Name: "failing", Attempt: 3, Command: []string{"sh", "-c", "exit 7"}}
	id, err := e.RunContainer(t.Context(), lateSandbox, late, failing)
	if err != nil {
		t.Fatal(err)
	}
	within(t, func() error {
		out := agent.Command(t.Context(), "list", "--all", "-o", "json").Stdout
		for line := range strings.Lines(out) {
			var c struct {
				ID, State, Reason string
				Attempt           uint32
			}
			if json.Unmarshal([]byte(line), &c) == nil && c.ID == id && c.State == "exited" && c.Reason == "Error" && c.Attempt == 3 {
				return nil
			}
		}
		return fmt.Errorf("%s is not listed as ended, with Error, attempt 3:\n%s", id, lineWith(out, id))
	})
	if err := e.RemovePod(t.Context(), lateSandbox); err != nil {
		t.Fatal(err)
	}
	within(t, func() error {
		if pods := listPods(t, agent); pods[late.UID].Name != "" || pods[early.UID].Name == "" {
			return fmt.Errorf("after the removal: %+v", pods)
		}
		return nil
	})
}

func within(t *testing.T, try func() error) {
	t.Helper()
	if err := harness.Within(patience, try); err != nil {
		t.Fatal(err)
	}
}

func listPods(t *testing.T, agent *harness.Agent) map[string]listedPod {
	t.Helper()
	pods := map[string]listedPod{}
	for line := range strings.Lines(agent.Command(t.Context(), "list", "pods", "-o", "json").Stdout) {
		var p listedPod
		if err := json.Unmarshal([]byte(line), &p); err != nil {
			t.Fatal(err)
		}
		pods[p.UID] = p
	}
	return pods
}

func listedInFull(t *testing.T, agent *harness.Agent, e *collectortest.CRI, want collectortest.PodConfig, sandbox string) error {
	t.Helper()
	p := listPods(t, agent)[want.UID]
	switch {
	case p.Name != want.Name || p.Namespace != want.Namespace || p.Runtime != "containerd":
		return fmt.Errorf("pod %s is %+v", want.Name, p)
	case p.Labels["app"] != want.Name || p.Annotations["team"] != "red":
		return fmt.Errorf("pod %s has labels %v, annotations %v", want.Name, p.Labels, p.Annotations)
	case len(p.IPs) != 1 || !strings.HasPrefix(p.IPs[0], e.Subnet):
		return fmt.Errorf("pod %s has the addresses %q", want.Name, p.IPs)
	case len(p.Containers) != 1 || p.Containers[0].Name != "main" || p.Containers[0].State != "running":
		return fmt.Errorf("pod %s has the containers %+v", want.Name, p.Containers)
	case !slices.ContainsFunc(p.Sandboxes, func(s string) bool { return strings.HasSuffix(s, sandbox) }):
		return fmt.Errorf("pod %s has the sandboxes %q", want.Name, p.Sandboxes)
	}
	return nil
}

// lineWith gives the line that has a text in it.
func lineWith(out, text string) string {
	for line := range strings.Lines(out) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}
