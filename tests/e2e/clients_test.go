// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// foreign builds a client that nobody here wrote, pinned in tools/clients, and gives
// its path.
func foreign(t *testing.T, name string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "-C", "../../tools/clients", "tool", "-n", name)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("build %s: %v: %s", name, err, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// grpcurl learns the API by reflection alone, and the standard health probe knows
// nothing of it at all.
func TestClientsThatNobodyHereWroteWorkAgainstIt(t *testing.T) {
	curl, probe := foreign(t, "grpcurl"), foreign(t, "grpc-health-probe")
	docker := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	pid := docker.InitPID(docker.Run("--name", "web", collectortest.BusyboxImage, "/bin/sleep", "7333"))
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker})
	agent.Await(patience, strconv.Itoa(pid), func(a harness.Answer) error {
		if a.Status != "container" {
			return fmt.Errorf("it is %s", a.Status)
		}
		return nil
	})
	run := func(argv ...string) (out string, code int) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
		text, err := cmd.CombinedOutput()
		if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(text), cmd.ProcessState.ExitCode()
	}
	call := func(method, request string) (out string, code int) {
		t.Helper()
		return run(curl, "-plaintext", "-unix", "-max-time", "3", "-d", request, agent.Socket, "pidigree.v1.PidigreeService/"+method)
	}

	if out, code := run(curl, "-plaintext", "-unix", agent.Socket, "list"); code != 0 || !strings.Contains(out, "pidigree.v1.PidigreeService") || !strings.Contains(out, "grpc.health.v1.Health") {
		t.Errorf("list: exit code %d: %s", code, out)
	}
	if out, code := run(curl, "-plaintext", "-unix", agent.Socket, "describe", "pidigree.v1.Query"); code != 0 || !strings.Contains(out, "cgroup_path") {
		t.Errorf("describe: exit code %d: %s", code, out)
	}
	var resolved struct {
		Results []struct {
			Answer struct{ Status string }
			Error  struct {
				Code    int
				Message string
			}
		}
		Containers []struct{ Name string }
	}
	out, code := call("Resolve", fmt.Sprintf(`{"queries":[{"pid":%d},{"pid":4194304},{}]}`, pid))
	if err := json.Unmarshal([]byte(out), &resolved); err != nil || code != 0 || len(resolved.Results) != 3 {
		t.Fatalf("Resolve: exit code %d, %v: %s", code, err, out)
	}
	r := resolved.Results
	if r[0].Answer.Status != "STATUS_CONTAINER" || len(resolved.Containers) != 1 || resolved.Containers[0].Name != "web" {
		t.Errorf("a container's process: %s", out)
	}
	if r[1].Error.Code != 5 || r[2].Error.Code != 3 || r[2].Error.Message == "" {
		t.Errorf("a PID that is nobody's, and no question: %s", out)
	}
	for _, c := range []struct {
		method, request string
		code            int // 64 and the status
		says            string
	}{
		{"List", `{}`, 0, `"name": "web"`},
		{"Status", `{}`, 0, `"ready": true`},
		{"Get", `{"container":"web"}`, 0, `"name": "web"`},
		{"Get", `{"container":"nobody"}`, 64 + 5, "NotFound"},
		{"List", `{"include":{"names":["["]}}`, 64 + 3, "InvalidArgument"},
		{"StreamEntities", `{}`, 64 + 4, `"name": "web"`}, // until its time is up
		{"Resolve", `{"queries":[{"pid":"x"}]}`, 1, "pid"},
	} {
		if out, code := call(c.method, c.request); code != c.code || !strings.Contains(out, c.says) {
			t.Errorf("%s %s: exit code %d, not %d, or without %q: %s", c.method, c.request, code, c.code, c.says, out)
		}
	}
	for service, serves := range map[string]bool{"": true, "pidigree.v1.PidigreeService": true, "no.such.Service": false} {
		out, code := run(probe, "-addr", "unix://"+agent.Socket, "-service", service)
		if (code == 0) != serves || strings.Contains(out, "status: SERVING") != serves {
			t.Errorf("health of %q: exit code %d: %s", service, code, out)
		}
	}
	// Nobody was harmed by any of it.
	if out := agent.Command(t.Context(), "who", strconv.Itoa(pid)); out.Code != 0 || !strings.Contains(out.Stdout, "web") {
		t.Errorf("afterwards: %+v", out)
	}
}
