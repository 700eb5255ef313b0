// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// The bounds of the engine's operations against those with an agent that runs.
const (
	stoppedMost = 1.5 // with the agent stopped
	naiveLeast  = 5   // with a client that took a stream of events and does not read it
)

// TestAStoppedAgentSlowsNoEngine measures what people do with engines: with an
// agent that runs, with it stopped, and with a naive client that asked Docker for
// its events and stopped reading.
func TestAStoppedAgentSlowsNoEngine(t *testing.T) {
	d, c, k := startDocker(t), startContainerd(t), startKube(t)
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: d.Dockerd, Containerd: c.Containerd, CRI: k.CRI})
	m := newMeter(t, d, c, k)
	m.round(4) // warms up
	for run := range *stopRuns {
		half := *stopFor / 2
		running := m.during(half / 2)
		before := m.memory()
		if err := agent.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		stopped := m.during(*stopFor)
		after := m.memory()
		if err := agent.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		again := m.during(half / 2)
		m.compare(t, run, append2(running, again), stopped, before, after)
	}
	agent.Stop()
	usual, naive := m.besideANaiveReader(t)
	t.Logf("a naive reader beside it: rename %s, %s until its buffers are full: %.1f times", naive, usual, float64(naive)/float64(usual))
	// A busy machine's renames are slow, too: then it is not five times, but 100 ms all the same.
	if naive < naiveLeast*usual && naive-usual < 70*time.Millisecond {
		t.Errorf("a naive reader slows a rename from %s to %s, less than %d times: the comparison shows nothing", usual, naive, naiveLeast)
	}
}

// The operations that are measured.
const (
	opRename = "docker rename"
	opRun    = "docker run --rm"
	opExec   = "docker exec"
	opCtrRun = "ctr run --rm"
	opCtrEx  = "ctr task exec"
	opPod    = "a pod's container"
)

// samples are how long operations took.
type samples map[string][]time.Duration

func append2(a, b samples) samples {
	out := samples{}
	for op := range a {
		out[op] = append(slices.Clone(a[op]), b[op]...)
	}
	return out
}

func median(ds []time.Duration) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	return slices.Sorted(slices.Values(ds))[len(ds)/2]
}

// meter does the operations on containers of its own.
type meter struct {
	*testing.T
	d     docker
	c     containerd
	k     *kube
	id    string // Docker's, whose events are large for its label
	n     int
	pairs [2]string
}

func newMeter(t *testing.T, d docker, c containerd, k *kube) *meter {
	t.Helper()
	m := &meter{T: t, d: d, c: c, k: k, pairs: [2]string{"meter-a", "meter-b"}}
	var made struct{ ID string }
	err := d.call(t.Context(), "POST", "/containers/create?name="+m.pairs[0], map[string]any{
		"Image": collectortest.BusyboxImage, "Cmd": []string{"/bin/sleep", "3600"}, "Labels": map[string]string{"large": strings.Repeat("x", 60<<10)},
		"HostConfig": map[string]any{"NetworkMode": "none"},
	}, &made)
	if err := errors.Join(err, d.call(t.Context(), "POST", "/containers/"+made.ID+"/start", nil, nil)); err != nil {
		t.Fatal(err)
	}
	m.id = made.ID
	c.Run(namespace, collectortest.BusyboxImage, "meter", "/bin/sleep", "3600")
	return m
}

// during measures for a while.
func (m *meter) during(d time.Duration) samples {
	m.Helper()
	all := samples{}
	for began := time.Now(); time.Since(began) < d || len(all[opRun]) < 3; {
		all = merge(all, m.round(8))
	}
	return all
}

func merge(a, b samples) samples {
	for op := range b {
		a[op] = append(a[op], b[op]...)
	}
	return a
}

// round does each operation once, and renames several times.
func (m *meter) round(renames int) samples {
	m.Helper()
	s := samples{}
	ctx, cancel := command(m.Context())
	defer cancel()
	do := func(op string, f func() error) {
		began := time.Now()
		if err := f(); err != nil {
			m.Fatalf("%s: %v", op, err)
		}
		s[op] = append(s[op], time.Since(began))
	}
	for range renames {
		do(opRename, func() error { return m.rename(ctx) })
	}
	do(opRun, func() error {
		_, err := m.d.Exec(ctx, "run", "--rm", "--network", "none", collectortest.BusyboxImage, "/bin/true")
		return err
	})
	do(opExec, func() error { _, err := m.d.Exec(ctx, "exec", m.id, "/bin/true"); return err })
	m.n++
	id := "meter-" + strconv.Itoa(m.n)
	do(opCtrRun, func() error {
		_, err := m.c.ctr(ctx, "run", "--rm", "--runc-root", m.c.RuncRoot, collectortest.BusyboxImage, id, "/bin/true")
		return err
	})
	do(opCtrEx, func() error {
		_, err := m.c.ctr(ctx, "tasks", "exec", "--exec-id", id, "meter", "/bin/true")
		return err
	})
	for range 2 {
		do(opPod, func() error {
			id, err := m.k.RunContainer(ctx, m.k.sandbox, m.k.pod, collectortest.ContainerConfig{Name: id, Command: []string{"sleep", "3600"}})
			if err != nil {
				return err
			}
			return m.k.RemoveContainer(ctx, id)
		})
	}
	return s
}

func (m *meter) rename(ctx context.Context) error {
	m.pairs[0], m.pairs[1] = m.pairs[1], m.pairs[0]
	return m.d.call(ctx, "POST", "/containers/"+m.id+"/rename?name="+m.pairs[0], nil, nil)
}

// engineOfPods is the containerd with the CRI plugin.
const engineOfPods = "containerd, CRI"

// memory is that of the engines, in KiB.
func (m *meter) memory() map[string]int {
	all := map[string]int{"dockerd": memory(m.d.PID()), "containerd": memory(m.c.PID()), engineOfPods: memory(m.k.PID())}
	if pid, err := os.ReadFile(m.d.ExecRoot + "/containerd/containerd.pid"); err == nil {
		n, _ := strconv.Atoi(strings.TrimSpace(string(pid)))
		all["Docker's containerd"] = memory(n)
	}
	return all
}

// flat is how much an engine's memory may grow: its garbage collector's noise.
const flat = 32 << 10

func (m *meter) compare(t *testing.T, run int, running, stopped samples, before, after map[string]int) {
	t.Helper()
	var b strings.Builder
	for _, op := range []string{opRename, opRun, opExec, opCtrRun, opCtrEx, opPod} {
		with, without := median(stopped[op]), median(running[op])
		ratio := float64(with) / float64(without)
		fmt.Fprintf(&b, "\n%-16s %10s stopped (%d), %10s running (%d): %.2f times", op, with.Round(10*time.Microsecond), len(stopped[op]), without.Round(10*time.Microsecond), len(running[op]), ratio)
		if ratio > stoppedMost {
			t.Errorf("%s takes %.2f times as long while the agent is stopped, more than %.1f", op, ratio, stoppedMost)
		}
	}
	for _, name := range []string{"dockerd", "containerd", "Docker's containerd", engineOfPods} {
		fmt.Fprintf(&b, "\n%-20s %d KiB before, %d KiB after", name, before[name], after[name])
		if before[name] == 0 || after[name] > before[name]+flat {
			t.Errorf("%s has grown from %d to %d KiB while the agent was stopped", name, before[name], after[name])
		}
	}
	t.Logf("run %d, the agent stopped for %s:%s", run+1, *stopFor, b.String())
}

// besideANaiveReader opens a stream of Docker's events, reads nothing of it, and
// gives how long a rename takes before the stream is full, and then.
func (m *meter) besideANaiveReader(t *testing.T) (usual, naive time.Duration) {
	t.Helper()
	conn, err := net.Dial("unix", m.d.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "GET /events HTTP/1.1\r\nHost: docker\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	var took []time.Duration
	for n := range maxFill {
		began := time.Now()
		if err := m.rename(ctx); err != nil {
			t.Fatalf("after %d renames: %v", n, err)
		}
		took = append(took, time.Since(began))
		// Docker waits 100 ms for a reader whose buffers are full. A busy machine
		// is that slow now and then, but not each time.
		if last := took[max(0, n-19):]; len(last) == 20 && slices.Min(last) >= 90*time.Millisecond {
			t.Logf("the naive reader's buffers are full after %d renames", n-18)
			break
		}
	}
	return median(took[:len(took)-20]), median(took[len(took)-20:])
}

// maxFill is how many renames fill a naive reader's buffers in any case: Docker
// keeps 1024 events for it, and a socket a few that are so large.
const maxFill = 2000
