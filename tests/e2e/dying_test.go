// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

var dyingEach = flag.Int("dying.each", 20, "how many containers die in each of four engines")

// Containers that end in every way there is, in four engines at once: what the agent
// says of each end is what was made to happen, and what the engine itself says.
func TestHowContainersEndInFourEngines(t *testing.T) {
	t.Chdir(t.TempDir()) // where podman is run, conmon leaves a file of the name oom
	s := &dyingStage{
		t:          t,
		docker:     collectortest.StartDockerd(t, collectortest.EngineOptions{}),
		containerd: collectortest.StartContainerd(t, collectortest.EngineOptions{}),
		cri:        collectortest.StartCRI(t, collectortest.EngineOptions{}),
		podman:     collectortest.StartPodman(t, collectortest.EngineOptions{}),
	}
	agent := harness.StartAgent(t, programs, harness.AgentOptions{
		Docker: s.docker, Containerd: s.containerd, CRI: s.cri, Podman: s.podman, Args: []string{"--grace", "1h"},
	})
	s.client = connect(t, agent)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	engines := map[string]func(context.Context) (map[string]ending, error){
		"docker": s.inDocker, "containerd": s.inContainerd, "cri": s.inCRI, "podman": s.inPodman,
	}
	var group sync.WaitGroup
	for engine, die := range engines {
		group.Go(func() {
			said, err := die(ctx)
			if err != nil {
				t.Errorf("%s: %v", engine, err)
				return
			}
			s.judge(engine, said)
		})
	}
	group.Wait()
}

// death is one way to end, and what it is to look like.
type death struct {
	command []string
	// hostPID: an init in a PID namespace of its own is deaf to most signals.
	hostPID bool
	// memory bounds the container in bytes, 0 for not at all.
	memory int64
	// killed: somebody else ends it with SIGKILL.
	killed bool
	want   workload.Exit
}

// tight is a memory limit that an engine starts a container with, and hungry eats
// more than that at once, over its buffer.
const tight = 24 << 20

const hungry = "/bin/busybox dd if=/dev/zero of=/dev/null bs=200M count=1"

// deathOf is the i-th way to end: exit codes, four signals that a container gives
// itself, exit codes that only look like a signal's, the killer's choice of the init
// and of a child, and a SIGKILL from outside.
func deathOf(i int) death {
	exits := func(code int) death {
		return death{command: []string{"/bin/sh", "-c", "exit " + strconv.Itoa(code)}, want: workload.Exit{Code: int32(code)}}
	}
	by := func(name string, sig int32) death {
		return death{command: []string{"/bin/sh", "-c", "kill -" + name + " $$"}, hostPID: true, want: workload.Exit{Code: 128 + sig, Signal: sig}}
	}
	switch i % 10 {
	case 3:
		return exits(128 + []int{9, 15, 11, 6}[i/10%4])
	case 4:
		return by("TERM", 15)
	case 5:
		return by("KILL", 9)
	case 6:
		return by("SEGV", 11)
	case 7:
		return by("ABRT", 6)
	case 8:
		if i/10%2 == 1 {
			return death{command: []string{"/bin/sh", "-c", hungry + "; exit 3"}, memory: tight, want: workload.Exit{Code: 3, OOM: true}}
		}
		return death{command: strings.Fields(hungry), memory: tight, want: workload.Exit{Code: 137, Signal: 9, OOM: true}}
	case 9:
		return death{command: []string{"/bin/sleep", "3600"}, killed: true, want: workload.Exit{Code: 137, Signal: 9}}
	}
	return exits((i/10*3 + i%10) * 37 % 256)
}

// ending is what an engine says of a container's end.
type ending struct {
	id       string
	state    string
	code     int32
	oom      bool
	finished time.Time
}

type dyingStage struct {
	t          *testing.T
	docker     *collectortest.Dockerd
	containerd *collectortest.Containerd
	cri        *collectortest.CRI
	podman     *collectortest.Podman
	client     *client.Client
}

func dyingName(engine string, i int) string { return fmt.Sprintf("dying-%s-%d", engine, i) }

func (s *dyingStage) inDocker(ctx context.Context) (map[string]ending, error) {
	return dieByCLI(ctx, "docker", s.docker.Exec)
}

func (s *dyingStage) inPodman(ctx context.Context) (map[string]ending, error) {
	return dieByCLI(ctx, "podman", s.podman.Exec)
}

// dieByCLI is what docker and podman have in common.
func dieByCLI(ctx context.Context, engine string, run func(context.Context, ...string) (string, error)) (map[string]ending, error) {
	var names []string
	for i := range *dyingEach {
		d, name := deathOf(i), dyingName(engine, i)
		args := []string{"run", "--detach", "--network", "none", "--name", name}
		if d.hostPID {
			args = append(args, "--pid", "host")
		}
		if d.memory > 0 {
			bytes := strconv.FormatInt(d.memory, 10)
			args = append(args, "--memory", bytes, "--memory-swap", bytes)
		}
		if _, err := run(ctx, slices.Concat(args, []string{collectortest.BusyboxImage}, d.command)...); err != nil {
			return nil, err
		}
		if d.killed {
			if _, err := run(ctx, "kill", name); err != nil {
				return nil, err
			}
		}
		names = append(names, name)
	}
	if _, err := run(ctx, append([]string{"wait"}, names...)...); err != nil {
		return nil, err
	}
	said := map[string]ending{}
	for some := range slices.Chunk(names, 50) {
		out, err := run(ctx, append([]string{"inspect", "--format", `{{.Id}} {{.Name}} {{json .State}}`}, some...)...)
		if err != nil {
			return nil, err
		}
		for line := range strings.Lines(out) {
			f := strings.SplitN(line, " ", 3)
			var st struct {
				Status     string
				ExitCode   int32
				OOMKilled  bool
				FinishedAt time.Time
			}
			if len(f) != 3 || json.Unmarshal([]byte(f[2]), &st) != nil {
				return nil, fmt.Errorf("inspect: %q", line)
			}
			said[strings.TrimPrefix(f[1], "/")] = ending{f[0], st.Status, st.ExitCode, st.OOMKilled, st.FinishedAt}
		}
	}
	return said, nil
}

// inContainerd hears the engine's own word in its events: ctr tells of no exit code
// that it has not been asked to delete.
func (s *dyingStage) inContainerd(ctx context.Context) (map[string]ending, error) {
	events, err := s.hearContainerd(ctx)
	if err != nil {
		return nil, err
	}
	rootfs := s.t.TempDir()
	harness.BusyboxRoot(s.t, rootfs)
	for i := range *dyingEach {
		d, name := deathOf(i), dyingName("containerd", i)
		var args []string
		if d.memory > 0 {
			args = append(args, "--memory-limit", strconv.FormatInt(d.memory, 10))
		}
		args = append(append(args, collectortest.BusyboxImage, name), d.command...)
		if d.hostPID {
			args = []string{"--config", hostPIDSpec(s.t, rootfs, d.command), name}
		}
		if _, err := s.containerd.Exec(ctx, s.containerd.RunArgs("default", args...)...); err != nil {
			return nil, err
		}
		if d.killed {
			if _, err := s.containerd.Exec(ctx, "--namespace", "default", "tasks", "kill", "--signal", "SIGKILL", name); err != nil {
				return nil, err
			}
		}
	}
	return events(ctx)
}

// hostPIDSpec writes a spec for a container in the host's PID namespace: ctr has no
// flag for that.
func hostPIDSpec(tb testing.TB, rootfs string, command []string) string {
	tb.Helper()
	spec := harness.RuncSpec(tb, append([]string{"/bin/busybox"}, slices.Concat([]string{"sh"}, command[1:])...)...)
	spec["root"] = map[string]any{"path": rootfs, "readonly": true}
	linux := spec["linux"].(map[string]any)
	linux["namespaces"] = []map[string]any{{"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}}
	dir := tb.TempDir()
	harness.WriteSpec(tb, dir, spec)
	return dir + "/config.json"
}

// hearContainerd collects the exits until all have been heard of.
func (s *dyingStage) hearContainerd(ctx context.Context) (func(context.Context) (map[string]ending, error), error) {
	cli, choose := s.containerd.CLI()
	cmd := exec.CommandContext(ctx, cli, append(choose, "events")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var mu sync.Mutex // guards said
	said := map[string]ending{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for in := bufio.NewScanner(out); in.Scan(); {
			mu.Lock()
			hearTask(in.Text(), said)
			mu.Unlock()
		}
	}()
	s.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
	})
	return func(ctx context.Context) (map[string]ending, error) {
		err := harness.Within(patience, func() error {
			mu.Lock()
			defer mu.Unlock()
			n := 0
			for _, e := range said {
				if !e.finished.IsZero() {
					n++
				}
			}
			if n < *dyingEach {
				return fmt.Errorf("%d of %d exits were heard", n, *dyingEach)
			}
			return ctx.Err()
		})
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(said), err
	}, nil
}

// hearTask reads one line of ctr events: time, zone, namespace, topic and JSON.
func hearTask(line string, said map[string]ending) {
	head, body, ok := strings.Cut(line, " {")
	var ev struct {
		ContainerID string    `json:"container_id"`
		ID          string    `json:"id"`
		Status      int32     `json:"exit_status"`
		At          time.Time `json:"exited_at"`
	}
	if !ok || !strings.Contains(head, " default /tasks/") || json.Unmarshal([]byte("{"+body), &ev) != nil {
		return
	}
	e := said[ev.ContainerID]
	switch {
	case strings.HasSuffix(head, "/tasks/oom"):
		e.oom = true
	case strings.HasSuffix(head, "/tasks/exit") && ev.ID == ev.ContainerID:
		e.id, e.state, e.code, e.finished = ev.ContainerID, "exited", ev.Status, ev.At
	default:
		return
	}
	said[ev.ContainerID] = e
}

func (s *dyingStage) inCRI(ctx context.Context) (map[string]ending, error) {
	pods := map[bool]string{}
	configs := map[bool]collectortest.PodConfig{}
	for _, host := range []bool{false, true} {
		p := collectortest.PodConfig{Name: fmt.Sprintf("dying-%t", host), Namespace: "shop", UID: fmt.Sprintf("55555555-0000-0000-0000-%012d", len(pods)), HostPID: host}
		sandbox, err := s.cri.RunPod(ctx, p)
		if err != nil {
			return nil, err
		}
		pods[host], configs[host] = sandbox, p
	}
	said := map[string]ending{}
	for i := range *dyingEach {
		d, name := deathOf(i), dyingName("cri", i)
		id, err := s.cri.RunContainer(ctx, pods[d.hostPID], configs[d.hostPID], collectortest.ContainerConfig{Name: name, Command: d.command, Memory: d.memory})
		if err == nil && d.killed {
			err = s.cri.StopContainer(ctx, id)
		}
		if err != nil {
			return nil, err
		}
		said[name] = ending{id: id}
	}
	for name, e := range said {
		if _, err := s.cri.Wait(ctx, e.id); err != nil {
			return nil, err
		}
		how, err := s.cri.EndOf(ctx, e.id)
		if err != nil {
			return nil, err
		}
		said[name] = ending{e.id, "exited", how.Code, how.Reason == "OOMKilled", how.Finished}
	}
	return said, nil
}

// judge compares what the agent says with what the engine says, and both with what
// was made to happen.
func (s *dyingStage) judge(engine string, said map[string]ending) {
	if len(said) != *dyingEach {
		s.t.Errorf("%s says how %d of %d ended", engine, len(said), *dyingEach)
	}
	var right, ooms, unheard int
	var wrong []error
	_ = harness.Within(patience, func() error {
		right, ooms, unheard, wrong = 0, 0, 0, nil
		told := map[string]*workload.Container{}
		for e, err := range s.client.List(s.t.Context(), workload.Selector{All: true}) {
			if err != nil {
				return err
			}
			if e.Container != nil {
				told[e.Container.ID.ID] = e.Container
			}
		}
		for i := range *dyingEach {
			name := dyingName(engine, i)
			if err := judgeEnding(told[said[name].id], deathOf(i).want, said[name]); err != nil {
				record, _ := json.Marshal(told[said[name].id])
				wrong = append(wrong, fmt.Errorf("%s: %w\n%s", name, err, record))
				continue
			}
			right++
			if deathOf(i).want.OOM {
				if ooms++; !said[name].oom {
					unheard++
				}
			}
		}
		return errors.Join(wrong...)
	})
	for _, err := range wrong {
		s.t.Error(err)
	}
	// An engine may know less than the kernel says: podman 4.3 does not find what its
	// conmon notes of the killer, containerd's CRI may hear of an end before the killer.
	s.t.Logf("%s: %d of %d ended as was made to happen and as the engine says; the out-of-memory killer chose %d, of which the engine itself knows %d",
		engine, right, *dyingEach, ooms, ooms-unheard)
}

func judgeEnding(c *workload.Container, want workload.Exit, said ending) error {
	switch {
	case c == nil:
		return fmt.Errorf("the agent does not know it (%+v)", said)
	case c.State != workload.StateExited || said.state != "exited" && said.state != "stopped":
		return fmt.Errorf("its state is %q, the engine's word %q", c.State, said.state)
	case c.Exit == nil || !c.Exit.Known || c.Exit.At == 0:
		return fmt.Errorf("its exit is %+v", c.Exit)
	case c.Exit.Code != want.Code || c.Exit.Signal != want.Signal:
		return fmt.Errorf("code %d by signal %d, it was %d by %d", c.Exit.Code, c.Exit.Signal, want.Code, want.Signal)
	case c.Exit.Code != said.code:
		return fmt.Errorf("code %d, the engine says %d", c.Exit.Code, said.code)
	case c.Exit.OOM != want.OOM || said.oom && !want.OOM:
		return fmt.Errorf("out of memory: %t, it was %t and the engine says %t", c.Exit.OOM, want.OOM, said.oom)
	case !c.Finished.Equal(said.finished):
		return fmt.Errorf("finished at %s, the engine says %s", c.Finished, said.finished)
	}
	return nil
}
