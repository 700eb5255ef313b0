// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// Root in a container to which the socket is mounted may ask about the container's own
// process alone, in the host's PID namespace as well, unless it was granted more.
func TestAContainerMayAskOnlyAboutItselfUnlessItIsGranted(t *testing.T) {
	docker := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	docker.Run("--name", "neighbour", collectortest.BusyboxImage, "/bin/busybox", "sleep", "7330")
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Args: []string{"--access-name", "sensor*"}})
	ask := func(name string, flags []string, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		run := append([]string{"run", "--rm", "--network", "none", "--name", name}, flags...)
		run = append(run, "--volume", filepath.Dir(agent.Socket)+":/run/pidigree:ro", "--volume", programs.Pidigree+":/pidigree:ro", collectortest.BusyboxImage,
			"/pidigree", args[0], "--socket", "/run/pidigree/"+filepath.Base(agent.Socket))
		return docker.Exec(ctx, append(run, args[1:]...)...)
	}
	const refused = "a process in a container may ask only about itself: ask from the host, or grant its container everything with the agent's access settings"
	for name, flags := range map[string][]string{"nosy": nil, "nosy-on-the-host": {"--pid", "host"}} {
		for _, args := range [][]string{{"list"}, {"who", "1"}, {"status"}} {
			if out, err := ask(name, flags, args...); err == nil || !strings.Contains(err.Error(), refused) || strings.Contains(err.Error(), "as root") {
				t.Errorf("%s asks %s: %q, %v", name, args, out, err)
			}
		}
	}
	if out, err := ask("sensor-1", nil, "list"); err != nil || !strings.Contains(out, "neighbour") {
		t.Errorf("one that was granted it lists %q, %v", out, err)
	}
	if out := agent.Command(t.Context(), "list"); out.Code != 0 || !strings.Contains(out.Stdout, "neighbour") {
		t.Errorf("root on the host: %+v", out)
	}
}
