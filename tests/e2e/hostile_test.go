// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"golang.org/x/sync/errgroup"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// post asks Docker's API, for what its command line cannot say.
func post(ctx context.Context, docker *collectortest.Dockerd, path string, body any) ([]byte, error) {
	data, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", docker.Socket)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://docker"+path, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	reply, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", resp.Status, reply)
	}
	return reply, err
}

// startLabelled starts a container with labels that no command line has room for.
func startLabelled(t *testing.T, docker *collectortest.Dockerd, name string, labels map[string]string) (id string) {
	t.Helper()
	reply, err := post(t.Context(), docker, "/containers/create?name="+name, map[string]any{
		"Image": collectortest.BusyboxImage, "Cmd": []string{"/bin/sleep", "3600"}, "Labels": labels,
		"HostConfig": map[string]any{"NetworkMode": "none"},
	})
	var made struct{ ID string }
	if err := errors.Join(err, json.Unmarshal(reply, &made)); err != nil {
		t.Fatal(err)
	}
	if _, err := post(t.Context(), docker, "/containers/"+made.ID+"/start", nil); err != nil {
		t.Fatal(err)
	}
	return made.ID
}

// monsters start a container with a label of 64 MiB and one with 100,000.
func monsters(t *testing.T, docker *collectortest.Dockerd) map[string]string {
	t.Helper()
	many := map[string]string{"com.docker.compose.project": "shop"}
	for i := range 100_000 {
		many[fmt.Sprintf("label-%06d", i)] = "the value of this one"
	}
	return map[string]string{
		"big":  startLabelled(t, docker, "big", map[string]string{"a": "b", "big": strings.Repeat("x", 64<<20)}),
		"many": startLabelled(t, docker, "many", many),
	}
}

// ordinaries is how many others there are.
const ordinaries = 20

// start is how one container's start went, by the agent's own stamps, from when
// its cgroup was made.
type start struct{ known, exec time.Duration }

// startOrdinary starts containers and gives, of each measure, the median and the most.
func startOrdinary(t *testing.T, docker *collectortest.Dockerd, agent *harness.Agent, prefix string) (median, most start) {
	t.Helper()
	var known, exec []time.Duration
	for i := range ordinaries {
		name := fmt.Sprintf("%s-%02d", prefix, i)
		id := docker.Run("--name", name, "--label", "own="+name, collectortest.BusyboxImage, "/bin/sleep", "3600")
		a := agent.Await(patience, strconv.Itoa(docker.InitPID(id)), named(name))
		if c := a.Container(); c.Labels["own"] != name || len(c.Truncated) > 0 {
			t.Errorf("%s: label %q, truncated %q", name, c.Labels["own"], c.Truncated)
		}
		if s, ok := startOf(t, agent, id); ok {
			known, exec = append(known, s.known), append(exec, s.exec)
		}
	}
	n := len(known)
	if n < ordinaries*3/4 {
		t.Fatalf("%d of %d containers have a whole timeline", n, ordinaries)
	}
	slices.Sort(known)
	slices.Sort(exec)
	return start{known[n/2], exec[n/2]}, start{known[n-1], exec[n-1]}
}

// startOf reads a container's timeline; false where the agent did not see all of the start.
func startOf(t *testing.T, agent *harness.Agent, id string) (s start, whole bool) {
	t.Helper()
	c, err := client.New(client.Options{Socket: agent.Socket})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	at := map[string]workload.KTime{}
	for e, err := range c.List(t.Context(), workload.Selector{Kinds: []workload.Kind{workload.KindContainer}}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Container == nil || e.Container.ID.ID != id {
			continue
		}
		for _, m := range e.Container.Timeline {
			at[m.What] = m.At
		}
	}
	made := at[workload.MarkCgroup]
	if made == 0 || at[workload.MarkKnown] == 0 || at[workload.MarkFirstExec] == 0 {
		t.Logf("the timeline of %s has not all marks: %v", id, at)
		return start{}, false
	}
	return start{time.Duration(at[workload.MarkKnown] - made), time.Duration(at[workload.MarkFirstExec] - made)}, true
}

// watchMemory gives the most anonymous memory that a process has until stop is called, in MiB.
func watchMemory(t *testing.T, pid int) (stop func() float64) {
	t.Helper()
	var most atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)); err == nil {
				most.Store(max(most.Load(), anonymous(b)))
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	end := func() float64 {
		cancel()
		<-done
		return float64(most.Load()) / 1024
	}
	t.Cleanup(func() { end() })
	return end
}

// anonymous reads RssAnon, in KiB.
func anonymous(status []byte) int64 {
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return n
}

func TestAMonstrousContainerCostsTheOthersNothing(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker})
	startOrdinary(t, docker, agent, "warm")
	stop := watchMemory(t, agent.PID())
	without, withoutMost := startOrdinary(t, docker, agent, "without")
	baseline := stop()

	stop = watchMemory(t, agent.PID())
	for name, id := range monsters(t, docker) {
		a := agent.Await(patience, strconv.Itoa(docker.InitPID(id)), named(name))
		if c := a.Container(); !slices.Equal(c.Truncated, []string{"labels"}) || len(c.Labels) > 256 {
			t.Errorf("%s: %d labels, truncated %q", name, len(c.Labels), c.Truncated)
		}
	}
	among, amongMost := startOrdinary(t, docker, agent, "among")
	// Each pause has the engine write all of their labels, and send them.
	ctx, cancel := context.WithCancel(t.Context())
	var restless errgroup.Group
	restless.Go(func() error {
		for ctx.Err() == nil {
			for _, what := range []string{"pause", "unpause"} {
				_, _ = docker.Exec(ctx, what, "big", "many") // fails at the end, when ctx does
			}
		}
		return nil
	})
	busy, busyMost := startOrdinary(t, docker, agent, "busy")
	cancel()
	_ = restless.Wait()
	most := stop()
	t.Logf("known (exec), median and last: without %v, %v; among %v, %v; among restless %v, %v", without, withoutMost, among, amongMost, busy, busyMost)
	t.Logf("RssAnon %.1f MiB without, %.1f among", baseline, most)
	if most-baseline > 32 {
		t.Errorf("the agent took %.1f MiB more", most-baseline)
	}
	// The machine is as busy as its other tests make it, and the engine with the
	// monsters: a start takes as long as it takes, and being known is a part of it.
	for what, s := range map[string]start{"at rest": among, "restless": busy} {
		if part := float64(s.known) / float64(s.exec); part > 1.3*float64(without.known)/float64(without.exec) && s.known > without.known+20*time.Millisecond {
			t.Errorf("among monsters %s the others were known after %v of %v until their exec; without after %v of %v", what, s.known, s.exec, without.known, without.exec)
		}
	}

	agent.Stop()
	restarted := time.Now()
	agent.Start()
	t.Logf("ready %v after a restart", time.Since(restarted))
	agent.Await(patience, strconv.Itoa(docker.InitPID("among-00")), named("among-00"))
	agent.Await(patience, strconv.Itoa(docker.InitPID("big")), named("big"))
	agent.Await(patience, strconv.Itoa(docker.InitPID("many")), named("many"))
}

// evil is in everything that this container says of itself. The mark finds it
// again where it may not be, however it is escaped.
const (
	evilMark = "m4rk"
	evil     = evilMark + "\x1b[2J\r\u202e\u200b" + evilMark
)

// TestNothingOfAContainersReachesAMetricOrALogRaw asks about, lists and watches
// a container with hostile labels, mounts, names of programs and cgroups.
func TestNothingOfAContainersReachesAMetricOrALogRaw(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // for a port that is free
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	docker := collectortest.StartDockerd(t, engineOptions(t))
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Args: []string{"--metrics-address", address}})
	// A program is called like its file, a script as well.
	file := "/\x1b[2J\r" + evilMark
	script := fmt.Sprintf("printf '#!/bin/sh\\nsleep 3600\\n' > '%[1]s'; chmod 755 '%[1]s'; exec '%[1]s'", file)
	id := docker.Run("--name", "evil", "--label", evil+"="+evil, "--env", "X="+evil, "--volume", "/"+evilMark+"\u202e", collectortest.BusyboxImage, "/bin/sh", "-c", script, evil)
	a := agent.Await(patience, strconv.Itoa(docker.InitPID(id)), func(a harness.Answer) error {
		if err := named("evil")(a); err != nil {
			return err
		}
		if a.Process == nil || !strings.Contains(a.Process.Comm, evilMark) {
			return fmt.Errorf("its program is %+v", a.Process)
		}
		return nil
	})
	if a.Container().Labels[evil] != evil {
		t.Errorf("its labels are %q", a.Container().Labels)
	}
	pid := strconv.Itoa(docker.InitPID(id))
	for _, args := range [][]string{{"who", pid}, {"who", pid, "-o", "wide"}, {"explain", pid}, {"list"}, {"list", "processes", "-o", "wide"}, {"status"}, {"who", evil}} {
		out := agent.Command(t.Context(), args...)
		checkPlain(t, strings.Join(args, " "), out.Stdout+out.Stderr)
	}
	resp, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(metrics), "pidigree_containers 1") {
		t.Fatalf("metrics: %v\n%s", err, metrics)
	}
	for _, what := range []string{evilMark, id, id[:12], "/docker", pid + "\"", docker.Root} {
		if strings.Contains(string(metrics), what) {
			t.Errorf("%q is in the metrics", what)
		}
	}
	docker.Docker("rm", "--force", "evil")
	checkPlain(t, "the log", agent.Log())
}

// checkPlain fails on what a terminal would act on.
func checkPlain(t *testing.T, what, text string) {
	t.Helper()
	for _, r := range text {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			t.Errorf("%s has %U: %q", what, r, text)
			return
		}
	}
}
