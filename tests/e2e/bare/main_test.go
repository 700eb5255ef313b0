// SPDX-License-Identifier: Apache-2.0

package bare

import (
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// programs are built once, by TestMain, and only read by the tests.
var programs harness.Programs

func TestMain(m *testing.M) { harness.Main(m, &programs) }

// patience is how long a test waits for what has to become true soon: in an
// emulated machine, far longer than it takes.
const patience = 30 * time.Second

// forms are the ways in which the agent can see, each of which must give the
// same answers.
var forms = []struct {
	name, mode string
	args       []string
}{
	{"with kernel events", "ebpf", nil},
	{"by polling", "polling", []string{"--bpf", "off"}},
}

// eachForm runs a test on a stage with an agent of each form.
func eachForm(t *testing.T, test func(*testing.T, *stage)) {
	for _, f := range forms {
		t.Run(f.name, func(t *testing.T) {
			s := newStage(t)
			s.agent = harness.StartAgent(t, programs, harness.AgentOptions{OCIRoots: []string{s.root}, Args: f.args})
			conn, err := client.New(client.Options{Socket: s.agent.Socket})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			s.client = conn
			status, err := conn.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if status.Mode != f.mode {
				t.Fatalf("the agent's mode is %q, not %q: %s", status.Mode, f.mode, status.ModeReason)
			}
			test(t, s)
		})
	}
}
