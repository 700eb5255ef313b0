// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

const (
	// starts is how many containers ask about themselves, parallel how many at a time.
	starts   = 60
	parallel = 12
	// containerSocket is where a container finds the agent's socket.
	containerSocket = "/run/pidigree"
)

// report is what asker prints.
type report struct {
	Before, After workload.KTime
	Answer        workload.Answer
	Err           string
}

// An identity is what a container has to be told about itself.
type identity struct {
	name, image, label string
}

// A fleet starts containers that ask about themselves.
type fleet struct {
	name string
	// pod says which pod one is in; nil for a fleet without pods.
	pod func(identity) workload.PodRef
	// start runs one to its end and gives what it printed.
	start func(ctx context.Context, socketDir string, want identity) (string, error)
}

// A form is a way in which pidigree may have to do without something.
type form struct {
	name  string
	args  []string
	drop  bool // drop every runtime event
	equal bool // the agent is in one session with the engines
}

func forms() []form {
	return []form{
		{name: "everything on"},
		{name: "every runtime event dropped", drop: true},
		{name: "cgroup programs not loaded", args: []string{"--disable-programs", "cgroup_mkdir,cgroup_rmdir,cgroup_attach"}},
	}
}

func TestAContainerThatAsksAboutItselfIsToldItsName(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	containerd := collectortest.StartContainerd(t, engineOptions(t))
	for _, f := range forms() {
		t.Run(f.name, func(t *testing.T) {
			proxied := between(t, docker, containerd)
			proxied.docker.DropEvents(f.drop)
			proxied.containerd.DropEvents(f.drop)
			proxied.options.Args = f.args
			agent := harness.StartAgent(t, programs, proxied.options)
			for _, fl := range []fleet{dockerFleet(docker), containerdFleet(containerd)} {
				t.Run(fl.name, func(t *testing.T) { askAll(t, fl, filepath.Dir(agent.Socket)) })
			}
		})
	}
}

// proxies stand between the agent and the engines.
type proxies struct {
	docker, containerd *collectortest.Proxy
	options            harness.AgentOptions // of an agent that meets the engines there
}

// between puts proxies before the engines. Containerd's takes the place of its
// socket, because the containers' shims name that place and the agent goes by it;
// ctr itself is sent to the real one.
func between(tb testing.TB, docker *collectortest.Dockerd, containerd *collectortest.Containerd) proxies {
	tb.Helper()
	place, moved := containerd.Address, containerd.Address+".real"
	if err := os.Rename(place, moved); err != nil {
		tb.Fatal(err)
	}
	containerd.Address = moved
	p := proxies{docker: collectortest.NewDockerProxy(tb, docker.Socket), containerd: collectortest.NewContainerdProxy(tb, moved)}
	if err := os.Symlink(p.containerd.Socket, place); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.Rename(moved, place); err != nil {
			tb.Error(err)
		}
		containerd.Address = place
	})
	p.options = harness.AgentOptions{Docker: docker, DockerSocket: p.docker.Socket, Containerd: containerd, ContainerdAddress: place}
	return p
}

// The same of podman, which has no daemon that could be asked, or drop an event:
// its files alone say it.
func TestAPodmanContainerThatAsksAboutItselfIsToldItsName(t *testing.T) {
	podman := collectortest.StartPodman(t, engineOptions(t))
	for _, f := range forms() {
		if f.drop {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			agent := harness.StartAgent(t, programs, harness.AgentOptions{Podman: podman, Args: f.args})
			askAll(t, podmanFleet(podman), filepath.Dir(agent.Socket))
		})
	}
}

func podmanFleet(e *collectortest.Podman) fleet {
	return fleet{name: "podman", start: func(ctx context.Context, socketDir string, want identity) (string, error) {
		return e.Exec(ctx, "run", "--rm", "--network", "none", "--name", want.name, "--label", "test.n="+want.label,
			"--volume", socketDir+":"+containerSocket, want.image, "/bin/asker")
	}}
}

func dockerFleet(e *collectortest.Dockerd) fleet {
	return fleet{name: "docker", start: func(ctx context.Context, socketDir string, want identity) (string, error) {
		return e.Exec(ctx, dockerRun(socketDir, want)...)
	}}
}

// dockerRun is one docker run of an asker.
func dockerRun(socketDir string, want identity) []string {
	return []string{"run", "--rm", "--network", "none", "--name", want.name, "--label", "test.n=" + want.label,
		"--volume", socketDir + ":" + containerSocket, want.image, "/bin/asker"}
}

func containerdFleet(e *collectortest.Containerd) fleet {
	return fleet{name: "containerd", start: func(ctx context.Context, socketDir string, want identity) (string, error) {
		return e.Exec(ctx, "--namespace", "default", "run", "--rm", "--runc-root", e.RuncRoot, "--label", "test.n="+want.label,
			"--mount", "type=bind,src="+socketDir+",dst="+containerSocket+",options=rbind:rw", want.image, want.name, "/bin/asker")
	}}
}

// askAll starts the fleet, twelve at a time, and holds every answer to account.
func askAll(t *testing.T, fl fleet, socketDir string) {
	t.Helper()
	reports, errs := ask(t, fl, socketDir, starts)
	good := 0
	for i, err := range errs {
		if err == nil {
			good++
			continue
		}
		t.Errorf("container %d: %v\nanswer %s", i, err, brief(reports[i]))
	}
	t.Logf("%s: %d of %d were told their own name, image and labels; %s", fl.name, good, starts, leads(reports))
}

// ask starts n containers of the fleet and gives what each was told, and what was
// wrong with it.
func ask(tb testing.TB, fl fleet, socketDir string, n int) ([]report, []error) {
	tb.Helper()
	var group errgroup.Group
	group.SetLimit(parallel)
	reports := make([]report, n)
	errs := make([]error, n)
	unique := strconv.FormatInt(time.Now().UnixNano()%1e9, 36)
	for i := range n {
		group.Go(func() error {
			want := identity{name: fmt.Sprintf("asker-%s-%02d", unique, i), image: askerImage, label: strconv.Itoa(i)}
			reports[i], errs[i] = askOne(tb.Context(), fl, socketDir, want)
			return nil
		})
	}
	_ = group.Wait() // the goroutines return no errors: each has a place of its own for it
	return reports, errs
}

func askOne(ctx context.Context, fl fleet, socketDir string, want identity) (report, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	var r report
	out, err := fl.start(ctx, socketDir, want)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return r, fmt.Errorf("the container printed %q: %w", out, err)
	}
	if fl.pod != nil {
		return r, errors.Join(r.check(want), r.checkPod(fl.pod(want)))
	}
	return r, r.check(want)
}

// checkPod compares the pod that the container was told.
func (r report) checkPod(want workload.PodRef) error {
	c := r.Answer.Container()
	if c == nil || c.Pod == nil || *c.Pod != want {
		return fmt.Errorf("it was not told that its pod is %+v", want)
	}
	return nil
}

// check compares what the container was told with what it is.
func (r report) check(want identity) error {
	c := r.Answer.Container()
	switch {
	case r.Err != "":
		return fmt.Errorf("it got the error %q", r.Err)
	case r.Answer.Status != workload.StatusContainer:
		return fmt.Errorf("its status is %s: %s", r.Answer.Status, r.Answer.Reason)
	case r.Answer.Confidence != workload.Confirmed:
		return fmt.Errorf("it is %s, not confirmed", r.Answer.Confidence)
	case c.Name != want.name:
		return fmt.Errorf("its name is %q, not %q", c.Name, want.name)
	case c.Image.Name != want.image:
		return fmt.Errorf("its image is %q, not %q", c.Image.Name, want.image)
	case c.Labels["test.n"] != want.label:
		return fmt.Errorf("its labels are %v, without test.n=%s", c.Labels, want.label)
	}
	return nil
}

// brief prints an answer's essence for a failure.
func brief(r report) string {
	b, err := json.Marshal(r.Answer)
	if err != nil {
		return err.Error()
	}
	return string(b[:min(len(b), 4000)])
}

// leads says how long before the containers' first act they were known, and how
// the one that was known last came to be.
func leads(reports []report) string {
	var all []report
	for _, r := range reports {
		if r.known() > 0 {
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return "no timeline to tell leads from"
	}
	slices.SortFunc(all, func(a, b report) int { return cmp.Compare(a.lead(), b.lead()) })
	text := fmt.Sprintf("known before the first act by: least %s, median %s, most %s (%d timelines)",
		round(all[0].lead()), round(all[len(all)/2].lead()), round(all[len(all)-1].lead()), len(all))
	return text + "; the least: " + all[0].story()
}

// lead is how long before the first act the container was known.
func (r report) lead() time.Duration { return time.Duration(r.Before - r.known()) }

// story is the timeline, from the first mark, with the first act in it.
func (r report) story() string {
	marks := append(slices.Clone(r.Answer.Container().Timeline), workload.Mark{What: "first act", At: r.Before}, workload.Mark{What: "answer", At: r.After})
	slices.SortFunc(marks, func(a, b workload.Mark) int { return cmp.Compare(a.At, b.At) })
	var parts []string
	for _, m := range marks {
		parts = append(parts, fmt.Sprintf("%s %s %s", round(time.Duration(m.At-marks[0].At)), m.What, m.Source))
	}
	return strings.Join(parts, ", ")
}

// known is when the container was registered and described, by the boot clock; 0
// if its timeline does not say.
func (r report) known() workload.KTime {
	c := r.Answer.Container()
	if c == nil {
		return 0
	}
	registered, described := mark(c, workload.MarkRegistered), mark(c, workload.MarkLayer)
	if registered == 0 || described == 0 {
		return 0
	}
	return max(registered, described)
}

func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }

// mark gives the first mark of this kind.
func mark(c *workload.Container, what string) workload.KTime {
	for _, m := range c.Timeline {
		if m.What == what {
			return m.At
		}
	}
	return 0
}

// processWith waits for a process whose arguments contain this one, and gives
// its PID: a way to find a container's process without asking any engine.
func processWith(t *testing.T, argument string) int {
	t.Helper()
	deadline := time.Now().Add(patience)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(deadline) {
		if pid := findProcess(argument); pid != 0 {
			return pid
		}
		<-tick.C
	}
	t.Fatalf("no process with the argument %q appeared", argument)
	return 0
}

// findProcess looks for a sleep, not for the engines' clients that name it too.
func findProcess(argument string) int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimRight(string(b), "\x00"), "\x00")
		if len(args) == 2 && filepath.Base(args[0]) == "sleep" && args[1] == argument {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			return pid
		}
	}
	return 0
}
