// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

const (
	// later is how much later an answer may be where every event is lost.
	later = 2 * time.Second
	// someStarts is how many containers ask about themselves in each form.
	someStarts = 16
	// burst is how many processes a shell of the flood runs before it ends: one
	// that outlives the test is gone soon.
	burst = 500
)

var floodFor = flag.Duration("flood", 10*time.Second, "how long a container's start is hidden in a flood")

// losing are the programs with an agent that loses every kernel event.
func losing(t *testing.T) harness.Programs {
	t.Helper()
	p := programs
	p.Pidigree = filepath.Join(t.TempDir(), "pidigree")
	cmd := exec.Command("go", "build", "-tags", "pidigree_lose_events", "-o", p.Pidigree, "./cmd/agent")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if log, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	return p
}

// Containers that ask about themselves are told the same, and those that nobody
// asks about are known, and known to have ended, at most two seconds later.
func TestWithoutKernelEventsTheAnswersAreTheSame(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	for _, f := range []struct {
		name     string
		programs harness.Programs
		args     []string
		drop     bool // the engine's events are lost, too
		reason   string
	}{
		{"every event lost", losing(t), nil, true, ""},
		{"all but one program missing", programs, []string{"--disable-programs", "fork,exec,exit,cgroup_mkdir,cgroup_attach"}, false, "degraded: no fork, exec, exit, cgroup_mkdir, cgroup_attach events: "},
		{"no BPF", programs, []string{"--bpf", "off"}, false, "degraded: no kernel events: "},
	} {
		t.Run(f.name, func(t *testing.T) {
			opts := harness.AgentOptions{Docker: docker, Args: f.args}
			if f.drop {
				engine, below := collectortest.NewDockerProxy(t, docker.Socket), collectortest.NewContainerdProxy(t, docker.Containerd)
				engine.DropEvents(true)
				below.DropEvents(true)
				opts.DockerSocket, opts.ContainerdAddress = engine.Socket, below.Socket
			}
			agent := harness.StartAgent(t, f.programs, opts)
			askInTime(t, dockerFleet(docker), filepath.Dir(agent.Socket))
			var most time.Duration
			for range 3 {
				most = max(most, quiet(t, agent, docker))
			}
			t.Logf("known after %s at most", most.Round(time.Millisecond))
			if most > later {
				t.Errorf("known after %s, more than %s", most, later)
			}
			var s struct {
				ModeReason string `json:"modeReason"`
			}
			out := agent.Command(t.Context(), "status", "-o", "json")
			if err := json.Unmarshal([]byte(out.Stdout), &s); err != nil || !strings.HasPrefix(s.ModeReason, f.reason) {
				t.Errorf("%v: %q, want %q", err, s.ModeReason, f.reason)
			}
		})
	}
}

// askInTime starts some of a fleet, and holds what each was told, and how long
// it had to wait for that, to account.
func askInTime(t *testing.T, fl fleet, socketDir string) {
	t.Helper()
	reports, errs := ask(t, fl, socketDir, someStarts)
	var most time.Duration
	for i, r := range reports {
		if errs[i] != nil {
			t.Errorf("container %d: %v\nanswer %s", i, errs[i], brief(r))
		}
		most = max(most, time.Duration(r.After-r.Before))
	}
	t.Logf("%s: answered after %s at most; %s", fl.name, round(most), leads(reports))
	if most > later {
		t.Errorf("an answer came after %s, more than %s", most, later)
	}
}

// quiet starts and kills a container that asks nothing, and gives how long the
// list took at most to have it as it is.
func quiet(t *testing.T, agent *harness.Agent, docker *collectortest.Dockerd) time.Duration {
	t.Helper()
	id := docker.Run(collectortest.BusyboxImage, "/bin/sleep", "3600")
	began := time.Now()
	took := listed(t, agent, id, "running", docker.InitPID(id), began)
	docker.Docker("kill", id)
	return max(took, listed(t, agent, id, "exited", 0, time.Now()))
}

// listed waits until the list has a container in a state, without a question
// about it, and gives how long that took since then.
func listed(t *testing.T, agent *harness.Agent, id, state string, pid int, since time.Time) time.Duration {
	t.Helper()
	var last string
	for time.Since(since) < patience {
		out := agent.Command(t.Context(), "list", "--all", "-o", "json")
		for line := range strings.Lines(out.Stdout) {
			var c struct {
				ID, State string
				PID       int
			}
			if err := json.Unmarshal([]byte(line), &c); err != nil {
				t.Fatalf("%v: %q", err, line)
			}
			if c.ID != id {
				continue
			}
			last = line
			if c.State == state && (pid == 0 || c.PID == pid) {
				return time.Since(since)
			}
		}
	}
	t.Fatalf("%s is not listed as %s with PID %d after %s: %.2000s", id, state, pid, patience, last)
	return 0
}

// An attacker floods the kernel with processes and cgroups, to hide a start.
// None is missed, and every event is accounted for.
func TestNoStartIsHiddenByAFlood(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker})
	stop := make(chan struct{})
	made := flood(t, stop)
	var missed, starts int
	began := time.Now()
	for ; time.Since(began) < *floodFor || starts < 3; starts++ {
		want := identity{name: fmt.Sprintf("hidden-%d-%d", os.Getpid(), starts), image: askerImage, label: strconv.Itoa(starts)}
		if r, err := askOne(t.Context(), dockerFleet(docker), filepath.Dir(agent.Socket), want); err != nil {
			missed++
			t.Errorf("start %d: %v: %s", starts, err, brief(r))
		}
	}
	close(stop)
	processes, cgroups := made()
	took := time.Since(began).Seconds()
	t.Logf("%d starts among %d processes (%.0f a second) and %d cgroups (%.0f a second): %d missed",
		starts, processes, float64(processes)/took, cgroups, float64(cgroups)/took, missed)
	balanced(t, agent, uint64(processes))
}

// flood starts and ends processes and cgroups as fast as it can, until stop.
func flood(t *testing.T, stop <-chan struct{}) (made func() (processes, cgroups int64)) {
	t.Helper()
	root := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	dir, err := os.MkdirTemp(root, "pidigree-flood-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	var wg sync.WaitGroup
	var processes, cgroups atomic.Int64
	until := func(n *atomic.Int64, f func(i int64) error) {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := f(n.Load()); err != nil {
					t.Error(err)
					return
				}
				n.Add(1)
			}
		})
	}
	run := fmt.Sprintf("i=0; while [ $i -lt %d ]; do /bin/true || exit 1; i=$((i+1)); done", burst)
	for range runtime.NumCPU() {
		until(&processes, func(int64) error { return exec.Command("/bin/sh", "-c", run).Run() })
	}
	until(&cgroups, func(i int64) error {
		sub := filepath.Join(dir, fmt.Sprintf("docker-%064x.scope", i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			return err
		}
		return os.Remove(sub)
	})
	return func() (int64, int64) {
		wg.Wait()
		return processes.Load() * (burst + 1), cgroups.Load()
	}
}

// balanced waits until what the programs saw is what was delivered, filtered and
// lost. Others use this host, too: there may be events in a ring at any moment.
func balanced(t *testing.T, agent *harness.Agent, least uint64) {
	t.Helper()
	type counts = map[string]uint64
	var s struct {
		Kernel struct{ Events, Seen, Filtered, Lost, Skipped counts }
	}
	var why string
	for began := time.Now(); time.Since(began) < patience; {
		out := agent.Command(t.Context(), "status", "-o", "json")
		if err := json.Unmarshal([]byte(out.Stdout), &s); err != nil {
			t.Fatal(err)
		}
		why = ""
		k := s.Kernel
		for typ, seen := range k.Seen {
			if diff := int64(seen - k.Events[typ] - k.Filtered[typ] - k.Lost[typ]); diff != 0 {
				why += fmt.Sprintf("%s: %d; ", typ, diff)
			}
		}
		if why == "" {
			break
		}
	}
	t.Logf("seen %v = delivered %v + filtered %v + lost %v; skipped %v", s.Kernel.Seen, s.Kernel.Events, s.Kernel.Filtered, s.Kernel.Lost, s.Kernel.Skipped)
	if why != "" {
		t.Errorf("not accounted for: %s", why)
	}
	if s.Kernel.Seen["exec"] < least {
		t.Errorf("%d execs seen of at least %d", s.Kernel.Seen["exec"], least)
	}
}
