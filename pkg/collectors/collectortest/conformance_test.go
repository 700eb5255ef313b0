// SPDX-License-Identifier: Apache-2.0

package collectortest_test

import (
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The fake keeps the contract that it stands for.
func TestTheFakeConforms(t *testing.T) {
	f := collectortest.NewFake("fake")
	f.SetReport(collectors.Report{Where: "memory"})
	var n atomic.Int32
	start := func(testing.TB) *collectortest.Started {
		id := workload.ContainerID{Runtime: "fake", Instance: "memory", ID: fmt.Sprintf("%064x", n.Add(1))}
		want := &workload.Container{ID: id, Name: "web", Labels: map[string]string{"a": "b"}, State: workload.StateRunning}
		f.Put(want)
		f.Emit(collectors.Hint{Kind: collectors.HintStarted, ID: id})
		return &collectortest.Started{
			Want:     want,
			Evidence: workload.Evidence{Claims: []workload.ContainerID{{ID: id.ID}}},
			Stop:     func() { f.Emit(collectors.Hint{Kind: collectors.HintExited, ID: id}) },
			Remove:   func() { f.Delete(id); f.Emit(collectors.Hint{Kind: collectors.HintDeleted, ID: id}) },
		}
	}
	collectortest.Run(t, collectortest.Harness{
		New:     func(testing.TB) collectors.Collector { return f },
		Start:   start,
		Unknown: workload.ContainerID{Runtime: "fake", Instance: "memory", ID: strings.Repeat("f", 64)},
	})
}

func TestTheDockerProxyCountsHangsCutsAndDropsEvents(t *testing.T) {
	e := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	p := collectortest.NewDockerProxy(t, e.Socket)
	through := func(d time.Duration, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return output(ctx, e.CLI, append([]string{"--host", "unix://" + p.Socket}, args...))
	}
	id := e.Run(collectortest.BusyboxImage)
	must := func(args ...string) string {
		t.Helper()
		out, err := through(20*time.Second, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got := must("inspect", "--format", "{{.Id}}", id); got != id {
		t.Errorf("inspect through the proxy: %q", got)
	}
	if n := p.Calls()["GET /containers/{id}/json"]; n != 1 {
		t.Errorf("calls: %v", p.Calls())
	}
	if got := must("exec", id, "echo", "hello"); got != "hello" {
		t.Errorf("exec through the proxy: %q", got)
	}
	// The client rounds down to seconds: the window ends after the start.
	until := strconv.FormatInt(time.Now().Add(time.Second).Unix(), 10)
	window := []string{"events", "--since", "1h", "--until", until, "--format", "{{.Action}}"}
	if got := must(window...); !strings.Contains(got, "start") {
		t.Errorf("events through the proxy: %q", got)
	}
	p.DropEvents(true)
	if got := must(window...); got != "" {
		t.Errorf("events that should be dropped: %q", got)
	}
	p.Hang()
	if out, err := through(300*time.Millisecond, "ps"); err == nil {
		t.Errorf("a hung engine answered %q", out)
	}
	p.Resume()
	must("ps")
	p.Remove()
	if _, err := through(20*time.Second, "ps"); err == nil {
		t.Error("an engine without a socket answered")
	}
	if err := p.Listen(); err != nil {
		t.Fatal(err)
	}
	must("ps")
}

// output runs an engine's client on another socket.
func output(ctx context.Context, cli func() (string, []string), args []string) (string, error) {
	bin, _ := cli()
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

func TestTheContainerdProxyCountsHangsAndDropsEvents(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	p := collectortest.NewContainerdProxy(t, e.Address)
	through := func(d time.Duration, args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		return output(ctx, e.CLI, append([]string{"--address", p.Socket}, args...))
	}
	e.Run("default", collectortest.BusyboxImage, "web", "sleep", "3600")
	got, err := through(20*time.Second, "containers", "ls", "--quiet")
	if err != nil || got != "web" {
		t.Errorf("containers through the proxy: %q, %v", got, err)
	}
	if p.Calls()["/containerd.services.containers.v1.Containers/ListStream"]+p.Calls()["/containerd.services.containers.v1.Containers/List"] == 0 {
		t.Errorf("calls: %v", p.Calls())
	}
	for _, drop := range []bool{false, true} {
		p.DropEvents(drop)
		if heard := hears(t, e, p); heard == drop {
			t.Errorf("DropEvents(%v): heard of an event: %v", drop, heard)
		}
	}
	p.Hang()
	if out, err := through(300*time.Millisecond, "containers", "ls"); err == nil {
		t.Errorf("a hung engine answered %q", out)
	}
	p.Resume()
	p.Refuse()
	if err := p.Listen(); err != nil {
		t.Fatal(err)
	}
	if got, err := through(20*time.Second, "containers", "ls", "--quiet"); err != nil || got != "web" {
		t.Errorf("containers after all: %q, %v", got, err)
	}
}

// hears says whether ctr events hears through the proxy of labels that change.
func hears(t *testing.T, e *collectortest.Containerd, p *collectortest.Proxy) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	bin, _ := e.CLI()
	cmd := exec.CommandContext(ctx, bin, "--address", p.Socket, "events")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	heard := make(chan bool, 1)
	go func() {
		b := make([]byte, 1)
		n, _ := out.Read(b)
		heard <- n > 0
	}()
	for i := 0; ; i++ { // nothing says when the subscription stands
		select {
		case h := <-heard:
			cancel()
			_ = cmd.Wait()
			return h
		default:
			e.Ctr("containers", "label", "web", "n="+strconv.Itoa(i))
		}
	}
}
