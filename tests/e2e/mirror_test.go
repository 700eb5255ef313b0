// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"flag"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

var mirrorRounds = flag.Int("mirror.rounds", 100, "how many processes are started beside a mirror")

// A process is in a client's mirror soon after its exec, which is the kernel's time of
// it until a lookup by somebody who does nothing but look has it; and it goes with it.
func TestAProcessIsInAMirrorSoonAfterItsExec(t *testing.T) {
	agent := harness.StartAgent(t, programs, harness.AgentOptions{})
	c := connect(t, agent)
	m, err := c.Mirror(t.Context(), client.MirrorOptions{Processes: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	took := make([]time.Duration, 0, *mirrorRounds)
	for range *mirrorRounds {
		took = append(took, mirrorHas(t, m))
	}
	slices.Sort(took)
	t.Logf("%d processes: exec until it is in the mirror: median %s, p90 %s, p99 %s", len(took),
		took[len(took)/2].Round(time.Microsecond), took[len(took)*9/10].Round(time.Microsecond), took[len(took)*99/100].Round(time.Microsecond))
}

// mirrorHas starts a process and gives how long after its exec it was looked up.
func mirrorHas(t *testing.T, m *client.Mirror) time.Duration {
	t.Helper()
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := workload.PID(cmd.Process.Pid)
	within := func(what string, fits func() bool) {
		t.Helper()
		for began := time.Now(); !fits(); runtime.Gosched() {
			if time.Since(began) > patience {
				t.Fatalf("%s is not told of", what)
			}
		}
	}
	var p *workload.Process
	within("its exec", func() (ok bool) {
		p, ok = m.Process(pid)
		return ok && p.Exec != 0
	})
	now := bootTime()
	if p.Comm != "sleep" || p.Key.PID != pid || p.Parent == 0 {
		t.Errorf("it is %+v", p)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	within("its end", func() bool {
		_, ok := m.Process(pid)
		return !ok
	})
	return time.Duration(now - p.Exec)
}
