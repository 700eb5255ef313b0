// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pidigree/pidigree/internal/mtls/mtlstest"
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

// A user of the host asks about what he runs himself, in containers and outside, and
// learns nothing of what others run.
func TestAUserMayAskAboutHisOwnProcessesWhereThatIsConfigured(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	const user = 4711
	run := func(name string, flags ...string) string {
		args := append(flags, "--name", name, "--label", "app.kubernetes.io/name="+name, "--label", "token=hush", collectortest.BusyboxImage, "/bin/sleep", "7331")
		return strconv.Itoa(docker.InitPID(docker.Run(args...)))
	}
	his, roots := run("his", "--user", strconv.Itoa(user)), run("roots")
	shell := exec.CommandContext(t.Context(), "/bin/sleep", "7332")
	shell.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = shell.Process.Kill(); _ = shell.Wait() })
	none := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker})
	own := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Args: []string{"--others", "own", "--others-labels", "app.*"}})
	for _, agent := range []*harness.Agent{none, own} {
		if err := os.Chmod(agent.Dir, 0o755); err != nil { // it is the test's; the socket's own is the agent's
			t.Fatal(err)
		}
		agent.Await(10*time.Second, his, func(a harness.Answer) error {
			if a.Status != "container" {
				return fmt.Errorf("it is %s", a.Status)
			}
			return nil
		})
	}
	const denied = "may ask only about"
	for _, c := range []struct {
		agent         *harness.Agent
		args          []string
		code          int
		out, err, not string
	}{
		{own, []string{"who", his, "-o", "json"}, 0, `"labels":{"app.kubernetes.io/name":"his"}`, "", "hush"},
		{own, []string{"who", strconv.Itoa(shell.Process.Pid)}, 0, "host", "", denied},
		{own, []string{"who", "self", "-o", "json"}, 0, `"status":"host"`, "", denied},
		{own, []string{"who", roots}, 1, "", "PID " + roots + " is none", "roots"},
		{own, []string{"who", "4194304"}, 1, "", "", "roots"},
		{own, []string{"who", "his"}, 1, "", denied, "hush"},
		{own, []string{"list"}, 1, "", denied, "his"},
		{own, []string{"list", "processes"}, 1, "", denied, "his"},
		{own, []string{"watch"}, 1, "", denied, "his"},
		{own, []string{"status"}, 1, "", denied, "containers"},
		{none, []string{"who", his}, 1, "", "permission denied", "hush"},
	} {
		code, out, text := asUser(t, user, []string{"PIDIGREE_SOCKET=" + c.agent.Socket}, c.args...)
		if code != c.code || !strings.Contains(out, c.out) || !strings.Contains(text, c.err) || c.not != "" && strings.Contains(out+text, c.not) {
			t.Errorf("%q: exit code %d, output %q, error %q", c.args, code, out, text)
		}
	}
}

// Who is on another host asks with a certificate, and this host answers in place of no
// agent on another one.
func TestAnotherHostAsksOverTLS(t *testing.T) {
	docker := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	pid := strconv.Itoa(docker.InitPID(docker.Run("--name", "far", collectortest.BusyboxImage, "/bin/busybox", "sleep", "7332")))
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	ca := mtlstest.New(t, "ca")
	cert, key := ca.Issue("node1", nil)
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Args: []string{
		"--tls-listen", at, "--tls-cert", cert, "--tls-key", key, "--tls-ca", ca.CA, "--tls-allow", "gateway,sensor",
	}})
	as := func(name string, args ...string) harness.Output {
		cert, key := ca.Issue(name, nil)
		return harness.Command(t.Context(), programs, "", append([]string{args[0], "--socket", "tls://" + at, "--tls-cert", cert, "--tls-key", key, "--tls-ca", ca.CA}, args[1:]...)...)
	}
	for _, args := range [][]string{{"list"}, {"who", pid}, {"explain", pid}} {
		if out := as("gateway", args...); out.Code != 0 || !strings.Contains(out.Stdout, "far") {
			t.Errorf("%s: %+v", args, out)
		}
	}
	if out := as("gateway", "status"); out.Code != 0 || !strings.Contains(out.Stdout, strconv.Itoa(agent.PID())) {
		t.Errorf("status: %+v", out)
	}
	if out := as("gateway", "who", "self"); out.Code == 0 || !strings.Contains(out.Stderr, "has no process on this one") {
		t.Errorf("who of itself: %+v", out)
	}
	if out := as("stranger", "list"); out.Code == 0 || out.Stdout != "" || !strings.Contains(out.Stderr, "does not take this certificate") {
		t.Errorf("a stranger: %+v", out)
	}
	agent.Stop()
	if out := as("gateway", "who", pid); out.Code == 0 || out.Stdout != "" || !strings.Contains(out.Stderr, "connect to "+at) {
		t.Errorf("without an agent there: %+v", out)
	}
}
