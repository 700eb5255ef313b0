// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

func TestAContainerOfFiftyMillisecondsStaysAnswerable(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	containerd := collectortest.StartContainerd(t, engineOptions(t))
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Containerd: containerd})
	fleets := map[string]func(name string) (string, error){
		"docker": func(name string) (string, error) {
			return docker.Exec(t.Context(), "run", "--rm", "--network", "none", "--name", name, "--volume", agent.Dir+"/run:"+containerSocket,
				askerImage, "/bin/asker", "-sleep", "50ms", "-exit", "7")
		},
		"containerd": func(name string) (string, error) {
			return containerd.Exec(t.Context(), "--namespace", "default", "run", "--rm", "--runc-root", containerd.RuncRoot,
				"--mount", "type=bind,src="+agent.Dir+"/run,dst="+containerSocket+",options=rbind:rw",
				askerImage, name, "/bin/asker", "-sleep", "50ms", "-exit", "7")
		},
	}
	for engine, start := range fleets {
		t.Run(engine, func(t *testing.T) {
			for i := range 10 {
				name := "brief-" + engine + "-" + strconv.Itoa(i)
				out, _ := start(name) // it fails, as the container does: status 7
				var r report
				if err := json.Unmarshal([]byte(out), &r); err != nil || r.Answer.Process == nil {
					t.Fatalf("the container printed %q: %v", out, err)
				}
				// Asked by name and by the PID that it had.
				for _, question := range []string{name, strconv.Itoa(int(r.Answer.Process.Key.PID))} {
					agent.Await(patience, question, gone(name, 7))
				}
			}
		})
	}
}

// gone says what is wrong with an answer about an ended container.
func gone(name string, code int32) func(harness.Answer) error {
	return func(a harness.Answer) error {
		c := a.Container()
		if a.Status != "container" || !a.Exited || c.Name != name || c.Image != askerImage || c.Exit == nil || !c.Exit.Known || c.Exit.Code != code {
			return fmt.Errorf("it is %s, exited %t, %q from %q, exit %+v", a.Status, a.Exited, c.Name, c.Image, c.Exit)
		}
		return nil
	}
}

func TestAnAgentThatWasKilledKnowsEverythingAgain(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker})
	early := docker.Run("--name", "early", collectortest.BusyboxImage, "/bin/sleep", "3600")
	agent.Await(patience, strconv.Itoa(docker.InitPID(early)), named("early"))
	agent.Kill()
	late := docker.Run("--name", "late", collectortest.BusyboxImage, "/bin/sleep", "3600")
	agent.Start()
	for name, id := range map[string]string{"early": early, "late": late} {
		agent.Await(patience, strconv.Itoa(docker.InitPID(id)), named(name))
	}
}

func TestAnEngineThatAppearsLateIsPickedUp(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	proxy := collectortest.NewDockerProxy(t, docker.Socket)
	proxy.Remove()
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, DockerSocket: proxy.Socket, NoOCI: true})
	if s := status(t, agent).source("docker"); s.State != "absent" {
		t.Errorf("without an engine the source docker is %q (%s), not absent", s.State, s.LastError)
	}
	if strings.Contains(agent.Log(), "level=ERROR") {
		t.Errorf("an absent engine is not an error, but the log has one")
	}
	id := docker.Run("--name", "waiting", collectortest.BusyboxImage, "/bin/sleep", "3600")
	if err := proxy.Listen(); err != nil {
		t.Fatal(err)
	}
	agent.Await(patience, strconv.Itoa(docker.InitPID(id)), func(a harness.Answer) error {
		if a.Container().Name != "waiting" {
			return fmt.Errorf("it is %s %q", a.Status, a.Container().Name)
		}
		return nil
	})
}

// statusJSON is what the tests read of `pidigree status -o json`.
type statusJSON struct {
	Mode    string       `json:"mode"`
	Sources []sourceJSON `json:"sources"`
}

type sourceJSON struct {
	Name      string            `json:"name"`
	State     string            `json:"state"`
	LastError string            `json:"lastError"`
	Calls     map[string]uint64 `json:"calls"`
}

func (s statusJSON) source(name string) sourceJSON {
	for _, src := range s.Sources {
		if src.Name == name {
			return src
		}
	}
	return sourceJSON{}
}

func status(t *testing.T, agent *harness.Agent) statusJSON {
	t.Helper()
	out := agent.Command(t.Context(), "status", "-o", "json")
	var s statusJSON
	if err := json.Unmarshal([]byte(out.Stdout), &s); err != nil {
		t.Fatalf("status: %v: %q %q", err, out.Stdout, out.Stderr)
	}
	return s
}

// slow is far more than a command takes that waits for nobody, and far less
// than a call to a hung engine may.
const slow = time.Second

func TestAHungEngineDelaysNoLookup(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	containerd := collectortest.StartContainerd(t, engineOptions(t))
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Containerd: containerd})
	id := docker.Run("--name", "hanging", collectortest.BusyboxImage, "/bin/sleep", "3600")
	pid := strconv.Itoa(docker.InitPID(id))
	agent.Await(patience, pid, named("hanging"))
	if err := docker.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = docker.Signal(syscall.SIGCONT) })

	containerd.Run("default", collectortest.BusyboxImage, "meanwhile", "/bin/sleep", "3600")
	agent.Await(patience, strconv.Itoa(containerd.InitPID("default", "meanwhile")), named("meanwhile"))
	for _, question := range []string{pid, "hanging", "1", "self", "nobody-has-this-name"} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		out := agent.Command(ctx, "who", "-o", "json", question)
		cancel()
		if out.Took > slow {
			t.Errorf("who %s took %s beside a hung engine: %s%s", question, out.Took, out.Stdout, out.Stderr)
		}
	}
	if err := docker.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	after := docker.Run("--name", "afterwards", collectortest.BusyboxImage, "/bin/sleep", "3600")
	agent.Await(patience, strconv.Itoa(docker.InitPID(after)), named("afterwards"))
}

// What other containers of the machine do in the meantime only adds calls: each
// engine is asked whether it knows them. So a round that is within the limit
// shows it, and one that is not may be repeated.
func TestAStartCostsARuntimeTwoCallsAtMost(t *testing.T) {
	var over []string
	for range 3 {
		over = nil
		for engine, count := range countCalls(t) {
			t.Logf("%s: %d calls for %d starts, and %d windows of events and the like: %v", engine, count.calls, countedStarts, count.windows, count.by)
			if count.calls > 2*countedStarts {
				over = append(over, fmt.Sprintf("%s: %d calls for %d starts, more than 2 for each", engine, count.calls, countedStarts))
			}
		}
		if over == nil {
			return
		}
	}
	t.Error(over)
}

// countedStarts is how many containers of each engine countCalls starts.
const countedStarts = 10

// callCount is what an engine was asked.
type callCount struct {
	calls, windows int
	by             map[string]int
}

// countCalls starts containers, one after the other, and counts what the engine
// is asked until everything about them is known.
func countCalls(tb testing.TB) map[string]callCount {
	tb.Helper()
	docker := collectortest.StartDockerd(tb, engineOptions(tb))
	containerd := collectortest.StartContainerd(tb, engineOptions(tb))
	proxied := between(tb, docker, containerd)
	agent := harness.StartAgent(tb, programs, proxied.options)
	start := map[string]func(string) int{
		"docker": func(name string) int {
			return docker.InitPID(docker.Run("--name", name, collectortest.BusyboxImage, "/bin/sleep", "3600"))
		},
		"containerd": func(name string) int {
			containerd.Run("default", collectortest.BusyboxImage, name, "/bin/sleep", "3600")
			return containerd.InitPID("default", name)
		},
	}
	counts := map[string]callCount{}
	// containerd first: whether it knows Docker's containers is asked of it too,
	// and may be asked when its own are counted.
	for _, engine := range []string{"containerd", "docker"} {
		proxy := map[string]*collectortest.Proxy{"docker": proxied.docker, "containerd": proxied.containerd}[engine]
		proxy.ResetCalls()
		for i := range countedStarts {
			name := "counted-" + engine + "-" + strconv.Itoa(i)
			agent.Await(patience, strconv.Itoa(start[engine](name)), named(name))
			complete(agent, name)
		}
		counts[engine] = sum(proxy.Calls())
	}
	return counts
}

// sum tells what was asked because of the starts from what is asked anyway, at
// intervals or on a connection.
func sum(calls map[string]int) callCount {
	c := callCount{by: calls}
	for call, n := range calls {
		switch {
		case strings.HasSuffix(call, "/events"), strings.HasSuffix(call, "/Subscribe"), strings.HasSuffix(call, "/_ping"), strings.HasSuffix(call, "/Version"):
			c.windows += n
		default:
			c.calls += n
		}
	}
	return c
}

// complete waits until every source has answered about a container: only then
// have all the calls for its start been made.
func complete(agent *harness.Agent, name string) {
	agent.Await(patience, name, func(a harness.Answer) error {
		if len(a.Missing) > 0 {
			return fmt.Errorf("%v have not answered yet", a.Missing)
		}
		return nil
	})
}
