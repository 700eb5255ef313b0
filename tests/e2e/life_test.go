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

func TestAStartCostsARuntimeTwoCallsAtMost(t *testing.T) {
	for engine, counts := range countCalls(t) {
		t.Logf("%s was called for each of the starts: %v", engine, counts)
		for _, n := range counts {
			if n > 2 {
				t.Errorf("%s was called %d times for one start", engine, n)
			}
		}
	}
}

// countedStarts is how many containers of each engine countCalls starts.
const countedStarts = 10

// countCalls starts containers, one after the other, and counts for each how
// often its own engine is asked about it until everything is known.
func countCalls(tb testing.TB) map[string][]int {
	tb.Helper()
	docker := collectortest.StartDockerd(tb, engineOptions(tb))
	containerd := collectortest.StartContainerd(tb, engineOptions(tb))
	proxied := between(tb, docker, containerd)
	agent := harness.StartAgent(tb, programs, proxied.options)
	counts := map[string][]int{}
	for i := range countedStarts {
		name := "counted-docker-" + strconv.Itoa(i)
		id := docker.Run("--name", name, collectortest.BusyboxImage, "/bin/sleep", "3600")
		agent.Await(patience, strconv.Itoa(docker.InitPID(id)), named(name))
		complete(agent, name)
		counts["docker"] = append(counts["docker"], proxied.docker.CallsNaming(id))

		name = "counted-containerd-" + strconv.Itoa(i)
		containerd.Run("default", collectortest.BusyboxImage, name, "/bin/sleep", "3600")
		agent.Await(patience, strconv.Itoa(containerd.InitPID("default", name)), named(name))
		complete(agent, name)
		counts["containerd"] = append(counts["containerd"], proxied.containerd.CallsNaming(name))
	}
	return counts
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
