// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

func TestOracleSmoke(t *testing.T) {
	docker := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker})
	o := oracle.Start(t, oracle.Options{Work: programs.Work, Socket: agent.Socket, Command: []string{programs.Pidigree}})
	c := o.Container(oracle.Truth{Name: "web", Image: collectortest.BusyboxImage})
	c.SetID(docker.Run(append(c.DockerArgs(), collectortest.BusyboxImage, oracle.Work, "stay", "-threads", "2", "-children", "2")...))
	o.WaitReports(patience, c, 3)
	o.WaitKnown(patience, c)
	docker.Docker("exec", "web", oracle.Work, "stream", "-count", "100", "-kind", "fork,tree,exec,session,daemon")
	h := o.Host()
	cmd := h.HostCommand("stream", "-count", "100", "-kind", "fork,tree,exec,session,daemon")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	<-time.After(3 * time.Second)
	t.Log(o.Score())
}
