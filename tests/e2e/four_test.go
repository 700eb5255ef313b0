// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

var (
	fourEach   = flag.Int("four.each", 5, "how many containers each of four engines runs; 125 are the budget's 500")
	fourStarts = flag.Int("four.starts", 5, "how often the agent is started beside them")
)

// What an agent beside four engines is held to.
const (
	fourComplete = 2 * time.Second // from its exec to when nothing is missing of any container
	fourMemory   = 80              // MiB of RssAnon, at most
)

// fourPod is how many containers one pod has.
const fourPod = 5

// Four engines at once, which start their containers side by side beside an agent:
// every process is named by the engine's own word, whoever watches over it is in no
// container, and an agent that starts beside all of them is soon complete.
func TestFourEnginesAtOnce(t *testing.T) {
	s := &fourStage{
		t:          t,
		docker:     collectortest.StartDockerd(t, collectortest.EngineOptions{}),
		containerd: collectortest.StartContainerd(t, collectortest.EngineOptions{}),
		cri:        collectortest.StartCRI(t, collectortest.EngineOptions{}),
		podman:     collectortest.StartPodman(t, collectortest.EngineOptions{}),
	}
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: s.docker, Containerd: s.containerd, CRI: s.cri, Podman: s.podman})
	s.client = connect(t, agent)
	memory := watchMemory(t, agent.PID())
	s.start(*fourEach)
	s.awaitComplete(patience)
	s.checkAll()
	beside := memory()

	var took, cpu []time.Duration
	most := beside
	for range *fourStarts {
		agent.Kill()
		began := time.Now()
		agent.Start()
		memory = watchMemory(t, agent.PID())
		s.client = connect(t, agent)
		s.awaitComplete(patience)
		took = append(took, time.Since(began))
		cpu = append(cpu, cpuTime(t, agent.PID()))
		s.checkAll()
		most = max(most, memory())
	}
	slices.Sort(took)
	slices.Sort(cpu)
	median := took[len(took)/2]
	t.Logf("%d containers over four engines: %d PIDs right, %d answers; complete %s (median), %s (most) after the agent's exec, which took %s of CPU (median); RssAnon %.1f MiB at most, %.1f while they were started",
		len(s.all), s.pids, s.asked, median.Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), cpu[len(cpu)/2], most, beside)
	if median > fourComplete {
		t.Errorf("complete after %s, not within %s; all starts: %v", median, fourComplete, took)
	}
	if most > fourMemory {
		t.Errorf("RssAnon was %.1f MiB, more than %d", most, fourMemory)
	}
}

// fourResident is a container by the word of the engine that made it.
type fourResident struct {
	runtime, id, name string
	pod               workload.PodRef
	init              int
}

type fourStage struct {
	t          *testing.T
	docker     *collectortest.Dockerd
	containerd *collectortest.Containerd
	cri        *collectortest.CRI
	podman     *collectortest.Podman
	client     *client.Client
	all        []fourResident
	pids       int // processes of containers, in the last check
	asked      int
}

// fourCommand is an init with a child.
var fourCommand = []string{"/bin/sh", "-c", "sleep 3600 & sleep 3600"}

// start has each engine make n containers, all four at once.
func (s *fourStage) start(n int) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 10*time.Minute)
	defer cancel()
	engines := []func(context.Context, int) ([]fourResident, error){s.startDocker, s.startContainerd, s.startCRI, s.startPodman}
	lists := make([][]fourResident, len(engines))
	group, ctx := errgroup.WithContext(ctx)
	for i, one := range engines {
		group.Go(func() (err error) {
			lists[i], err = one(ctx, n)
			return err
		})
	}
	err := group.Wait()
	s.all = slices.Concat(lists...)
	s.t.Cleanup(func() { // so many ends at once take the engines less time than one after the other
		for _, r := range s.all {
			_ = syscall.Kill(r.init, syscall.SIGKILL)
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if len(s.all) != 4*n || slices.ContainsFunc(s.all, func(r fourResident) bool { return r.init == 0 }) {
		s.t.Fatalf("the engines name the inits of %d containers of %d: %+v", len(s.all), 4*n, s.all)
	}
}

// inspected reads lines of an id, a name and a PID.
func inspected(runtime, out string) (list []fourResident, _ error) {
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) != 3 {
			return nil, fmt.Errorf("%s inspect: %q", runtime, line)
		}
		pid, err := strconv.Atoi(f[2])
		if err != nil {
			return nil, err
		}
		list = append(list, fourResident{runtime: runtime, id: f[0], name: strings.TrimPrefix(f[1], "/"), init: pid})
	}
	return list, nil
}

// cliRuns is what docker and podman have in common.
func cliRuns(ctx context.Context, runtime string, n int, exec func(context.Context, ...string) (string, error)) ([]fourResident, error) {
	args := []string{"inspect", "--format", "{{.Id}} {{.Name}} {{.State.Pid}}"}
	for i := range n {
		name := fmt.Sprintf("four-%s-%d", runtime, i)
		if _, err := exec(ctx, append([]string{"run", "--detach", "--network", "none", "--name", name, collectortest.BusyboxImage}, fourCommand...)...); err != nil {
			return nil, err
		}
		args = append(args, name)
	}
	out, err := exec(ctx, args...)
	if err != nil {
		return nil, err
	}
	return inspected(runtime, out)
}

func (s *fourStage) startDocker(ctx context.Context, n int) ([]fourResident, error) {
	return cliRuns(ctx, "docker", n, s.docker.Exec)
}

func (s *fourStage) startPodman(ctx context.Context, n int) ([]fourResident, error) {
	return cliRuns(ctx, "podman", n, s.podman.Exec)
}

func (s *fourStage) startContainerd(ctx context.Context, n int) (list []fourResident, _ error) {
	for i := range n {
		name := "four-containerd-" + strconv.Itoa(i)
		if _, err := s.containerd.Exec(ctx, s.containerd.RunArgs("default", append([]string{collectortest.BusyboxImage, name}, fourCommand...)...)...); err != nil {
			return nil, err
		}
	}
	out, err := s.containerd.Exec(ctx, "--namespace", "default", "tasks", "ls")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 && f[2] == "RUNNING" {
			pid, err := strconv.Atoi(f[1])
			if err != nil {
				return nil, err
			}
			list = append(list, fourResident{runtime: "containerd", id: f[0], name: f[0], init: pid})
		}
	}
	return list, nil
}

func (s *fourStage) startCRI(ctx context.Context, n int) (list []fourResident, _ error) {
	pods := map[string]workload.PodRef{}
	var sandbox string
	var p collectortest.PodConfig
	for i := range n {
		if i%fourPod == 0 {
			p = collectortest.PodConfig{Name: "four-" + strconv.Itoa(i), Namespace: "shop", UID: fmt.Sprintf("44444444-0000-0000-0000-%012d", i)}
			var err error
			if sandbox, err = s.cri.RunPod(ctx, p); err != nil {
				return nil, err
			}
		}
		id, err := s.cri.RunContainer(ctx, sandbox, p, collectortest.ContainerConfig{Name: "four-cri-" + strconv.Itoa(i), Command: fourCommand})
		if err != nil {
			return nil, err
		}
		pods[id] = workload.PodRef{UID: p.UID, Name: p.Name, Namespace: p.Namespace}
	}
	said, err := s.cri.Containers(ctx)
	for _, c := range said {
		list = append(list, fourResident{runtime: "containerd", id: c.ID, name: c.Name, pod: pods[c.ID], init: c.PID})
	}
	return list, err
}

// awaitComplete waits until every container is told with all that there is to say. It
// watches, for a list again and again would take the agent's time from it.
func (s *fourStage) awaitComplete(d time.Duration) {
	s.t.Helper()
	left := map[string]error{}
	want := map[string]fourResident{}
	for _, r := range s.all {
		want[r.id], left[r.id] = r, fmt.Errorf("%s is not told of", r.name)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), d)
	defer cancel()
	// An agent that is too busy yet for a connection is asked again.
	if err := harness.Within(d, func() error { return s.hear(ctx, want, left) }); err != nil {
		s.t.Fatal(errors.Join(append(slices.Collect(maps.Values(left)), err)...))
	}
}

// hear watches until nothing is left.
func (s *fourStage) hear(ctx context.Context, want map[string]fourResident, left map[string]error) error {
	for ch, err := range s.client.Watch(ctx, workload.Selector{NoSandboxes: true}) {
		if err != nil {
			return err
		}
		c := ch.Entity.Container
		if c == nil {
			continue
		}
		r, ours := want[c.ID.ID]
		if !ours {
			continue
		}
		if left[r.id] = r.is(c); left[r.id] == nil {
			delete(left, r.id)
		}
		if len(left) == 0 {
			return nil
		}
	}
	return errors.New("the watch has ended")
}

// is says what is wrong or missing.
func (r fourResident) is(c *workload.Container) error {
	switch {
	case c.ID.ID != r.id || c.Name != r.name || c.Runtime != r.runtime || c.Image.Name != collectortest.BusyboxImage:
		return fmt.Errorf("%s of %s, %s, is said to be %q of %s, %s, from %s", r.name, r.runtime, r.id, c.Name, c.Runtime, c.ID, c.Image.Name)
	case c.State != workload.StateRunning || c.Run == nil || int(c.Run.Init.PID) != r.init:
		return fmt.Errorf("%s, whose init is %d, is %s: %+v", r.name, r.init, c.State, c.Run)
	case c.Labels[collectortest.BusyboxLabel] != "image" && r.runtime != "containerd":
		return fmt.Errorf("%s has the labels %v", r.name, c.Labels)
	case r.pod != (workload.PodRef{}) && (c.Pod == nil || *c.Pod != r.pod):
		return fmt.Errorf("%s of pod %s is in %+v", r.name, r.pod.Name, c.Pod)
	case len(c.Missing) > 0:
		return fmt.Errorf("%s: %q have not answered", r.name, c.Missing)
	}
	return nil
}

// checkAll asks about every process of the containers, and about whoever made them.
func (s *fourStage) checkAll() {
	s.t.Helper()
	of := map[int]*fourResident{}
	var queries []workload.Query
	ask := func(pid int, r *fourResident) {
		if _, asked := of[pid]; !asked {
			of[pid] = r
			queries = append(queries, workload.Query{PID: workload.PID(pid)})
		}
	}
	s.pids = 0
	for i := range s.all {
		r := &s.all[i]
		members := append([]int{r.init}, harness.Children(r.init)...)
		if len(members) != 2 {
			s.t.Fatalf("%s has the processes %d", r.name, members)
		}
		for _, pid := range members {
			ask(pid, r)
		}
		s.pids += len(members)
		stat := harness.ProcFile(s.t, r.init, "stat")
		parent, err := strconv.Atoi(strings.Fields(stat[strings.LastIndex(stat, ")"):])[2])
		if err != nil {
			s.t.Fatal(err)
		}
		ask(parent, nil) // its shim or conmon
	}
	for some := range slices.Chunk(queries, 500) {
		results, err := s.client.Resolve(s.t.Context(), some...)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, res := range results {
			s.asked++
			if err := judgeFour(of[int(res.Query.PID)], res); err != nil {
				s.t.Errorf("process %d: %v", res.Query.PID, err)
			}
		}
	}
}

func judgeFour(r *fourResident, res workload.Result) error {
	a := res.Answer
	switch {
	case res.Err != nil:
		return res.Err
	case r == nil && (a.Status == workload.StatusContainer || a.Status == workload.StatusConflict):
		return fmt.Errorf("it makes containers, and is %s: %+v (%s)", a.Status, a.Container(), a.Reason)
	case r == nil:
		return nil
	case a.Status != workload.StatusContainer || a.Confidence != workload.Confirmed || a.Exited || len(a.Containers) != 1:
		return fmt.Errorf("it is of %s, and is %s, %s, in %d containers (%s)", r.name, a.Status, a.Confidence, len(a.Containers), a.Reason)
	case r.pod != (workload.PodRef{}) && (a.Pod == nil || a.Pod.PodRef != r.pod):
		return errors.Join(fmt.Errorf("its pod is %+v", a.Pod), r.is(a.Container()))
	}
	return r.is(a.Container())
}
