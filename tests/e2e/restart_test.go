// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

var (
	restartKills    = flag.Int("restart.kills", 5, "how often the agent is killed with SIGKILL under churn")
	restartSeed     = flag.Uint64("restart.seed", 0, "when it is killed; 0 takes another one each time")
	restartSleepers = flag.Int("restart.sleepers", 20, "with how many containers of runc's readiness is measured")
)

// settled is how long before a kill a container must have ended for the next
// agent to owe an answer: an agent writes what has ended every half second, and
// an engine's last word takes its time on two cores that several tests share.
const settled = 2 * time.Second

// rebuilt is how long after its start an agent may still be learning what an
// engine has to say.
const rebuilt = 2 * time.Second

func TestAKilledAgentIsRebuiltExactly(t *testing.T) {
	seed := *restartSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-restart.seed=%d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	docker := collectortest.StartDockerd(t, engineOptions(t))
	containerd := collectortest.StartContainerd(t, engineOptions(t))
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Containerd: containerd})

	s := &restartStage{t: t, agent: agent, docker: docker, live: map[string]int{}}
	for i := range 4 {
		name := "stays-docker-" + strconv.Itoa(i)
		id := docker.Run("--name", name, "--label", "turn="+name, collectortest.BusyboxImage, "/bin/sh", "-c", "sleep 3600 & sleep 3600")
		s.live[name] = docker.InitPID(id)
		name = "stays-containerd-" + strconv.Itoa(i)
		containerd.Run("default", collectortest.BusyboxImage, name, "/bin/sleep", "3600")
		s.live[name] = containerd.InitPID("default", name)
	}
	for name, pid := range s.live {
		agent.Await(patience, strconv.Itoa(pid), named(name))
		complete(agent, name)
	}
	before := s.answers()

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	churned := make(chan error, 2)
	go func() { churned <- s.churnDocker(ctx) }()
	go func() { churned <- s.churnContainerd(ctx, containerd) }()
	var ready []time.Duration
	for kill := range *restartKills {
		s.awaitDead()
		pause(ctx, settled+time.Duration(rnd.IntN(2500))*time.Millisecond)
		killed := time.Now()
		agent.Kill()
		pause(ctx, time.Duration(rnd.IntN(200))*time.Millisecond)
		ready = append(ready, startTook(t, agent))
		s.outages = append(s.outages, outage{killed, time.Now()})
		s.check(before)
		if t.Failed() {
			t.Fatalf("after kill %d of %d", kill+1, *restartKills)
		}
	}
	cancel()
	for range 2 {
		if err := <-churned; err != nil {
			t.Error(err)
		}
	}
	slices.Sort(ready)
	t.Logf("%d kills, %d exact rebuilds; %d containers came and went, %d answers about the dead were owed and right; ready after %s (median), %s (most)",
		*restartKills, len(ready), len(s.dead), s.asked, ready[len(ready)/2], ready[len(ready)-1])
	if s.asked == 0 {
		t.Error("no container ended long enough before a kill: nothing was shown")
	}
}

// pause lets time go by that the test chose at random: it waits for nothing.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// startTook starts the agent again and gives the time from its exec to when it
// logged that it is ready.
func startTook(t *testing.T, agent *harness.Agent) time.Duration {
	t.Helper()
	began := time.Now()
	agent.Start()
	var at time.Time
	err := harness.Within(patience, func() error { // it says so to the log last
		log := agent.Log()
		i := strings.LastIndex(log, "msg=ready ")
		if i < 0 {
			return errors.New("the log does not say ready")
		}
		line := log[strings.LastIndexByte(log[:i], '\n')+1 : i]
		var err error
		at, err = time.Parse(time.RFC3339Nano, strings.TrimPrefix(strings.Fields(line)[0], "time="))
		if err == nil && at.Before(began) {
			err = fmt.Errorf("the last agent was ready at %s, this one began at %s", at, began)
		}
		return err
	})
	if err != nil {
		t.Fatalf("%v; the log ends:\n%s", err, agent.Log())
	}
	return at.Sub(began)
}

// dead is a container that has ended and was removed.
type dead struct {
	name string
	pid  int // 0: it was over before anybody looked
	code int32
	// from and at are when it was asked for and when it was gone.
	from, at time.Time
}

// outage is from the kill of one agent until the next is ready.
type outage struct{ killed, ready time.Time }

type restartStage struct {
	t      *testing.T
	agent  *harness.Agent
	docker *collectortest.Dockerd
	live   map[string]int // those that stay, with their inits

	quiet sync.RWMutex // held while a container comes and goes
	mu    sync.Mutex   // guards dead
	dead  []dead
	asked int

	outages []outage
}

func (s *restartStage) churnDocker(ctx context.Context) error {
	return s.churn(ctx, "docker", func(ctx context.Context, d *dead) error {
		if _, err := s.docker.Exec(ctx, "run", "--detach", "--network", "none", "--name", d.name, collectortest.BusyboxImage,
			"/bin/sh", "-c", fmt.Sprintf("usleep %d; exit %d", 100_000+int(d.code)*1000, d.code)); err != nil {
			return err
		}
		out, err := s.docker.Exec(ctx, "inspect", "--format", "{{.State.Pid}}", d.name)
		if err != nil {
			return err
		}
		if d.pid, err = strconv.Atoi(strings.TrimSpace(out)); err != nil {
			return err
		}
		if _, err := s.docker.Exec(ctx, "wait", d.name); err != nil {
			return err
		}
		_, err = s.docker.Exec(ctx, "rm", d.name)
		return err
	})
}

func (s *restartStage) churnContainerd(ctx context.Context, e *collectortest.Containerd) error {
	return s.churn(ctx, "containerd", func(ctx context.Context, d *dead) error {
		out, err := e.Exec(ctx, "--namespace", "default", "run", "--rm", "--runc-root", e.RuncRoot, collectortest.BusyboxImage, d.name,
			"/bin/sh", "-c", fmt.Sprintf("usleep 50000; exit %d", d.code))
		if exit := new(exec.ExitError); errors.As(err, &exit) && int32(exit.ExitCode()) == d.code {
			return nil // ctr ends as the container does
		}
		return fmt.Errorf("ctr run: %w: %s", err, out)
	})
}

// churn makes containers until ctx ends, each removed before the next.
func (s *restartStage) churn(ctx context.Context, engine string, one func(context.Context, *dead) error) error {
	for i := 0; ctx.Err() == nil; i++ {
		s.quiet.RLock()
		d := dead{name: fmt.Sprintf("churn-%s-%d", engine, i), code: int32(1 + i%100), from: time.Now()}
		err := one(context.WithoutCancel(ctx), &d)
		d.at = time.Now()
		s.quiet.RUnlock()
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
		s.mu.Lock()
		s.dead = append(s.dead, d)
		s.mu.Unlock()
	}
	return nil
}

// check holds the agent to the truth while nothing comes or goes.
func (s *restartStage) check(before map[int]harness.Answer) {
	s.t.Helper()
	s.quiet.Lock()
	defer s.quiet.Unlock()
	s.checkList()
	after := s.answers()
	// A process may rename itself (busybox does), which no event tells: an agent
	// that starts reads the name that it has by now.
	ignored := cmp.Options{cmpopts.IgnoreFields(harness.Answer{}, "Sources", "Missing"), cmpopts.IgnoreFields(harness.Process{}, "Comm")}
	if diff := cmp.Diff(before, after, ignored); diff != "" {
		s.t.Errorf("what lives is not what it was (-before the kill +after):\n%s", diff)
	}
	for pid, a := range after {
		if slices.ContainsFunc(a.Sources, func(src harness.Source) bool { return src.Source == "before restart" }) {
			s.t.Errorf("process %d lives and is answered from the past: %+v", pid, a)
		}
	}
	if a := s.agent.Who(strconv.Itoa(os.Getpid()))[0]; a.Status != "host" {
		s.t.Errorf("the test itself is %s", a.Status)
	}
	s.checkDead()
}

// checkList compares the containers, exited ones too, with those that the engines have.
func (s *restartStage) checkList() {
	s.t.Helper()
	var want []string
	for name := range s.live {
		want = append(want, name)
	}
	slices.Sort(want)
	var got []string
	deadline := time.Now().Add(rebuilt)
	for {
		if got = s.list(); slices.Equal(got, want) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Errorf("%s after its start the agent lists (-engines +agent):\n%s", rebuilt, cmp.Diff(want, got))
			return
		}
		pause(s.t.Context(), 20*time.Millisecond)
	}
}

func (s *restartStage) list() (names []string) {
	s.t.Helper()
	out := s.agent.Command(s.t.Context(), "list", "containers", "-o", "json")
	for line := range strings.Lines(out.Stdout) {
		var c harness.Container
		if err := json.Unmarshal([]byte(line), &c); err != nil {
			s.t.Fatalf("list: %v: %q %s", err, line, out.Stderr)
		}
		// Those without a name are of other engines of this machine: names of
		// cgroups.
		if c.Name != "" {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return names
}

// answers asks about every process of the containers that stay.
func (s *restartStage) answers() map[int]harness.Answer {
	s.t.Helper()
	var args []string
	for _, init := range s.live {
		args = append(args, strconv.Itoa(init))
		kids, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", init))
		if err != nil {
			s.t.Fatal(err)
		}
		args = append(args, strings.Fields(string(kids))...)
	}
	out := map[int]harness.Answer{}
	for _, a := range s.agent.Who(args...) {
		out[int(a.PID)] = a
	}
	if len(out) != len(args) || len(args) <= len(s.live) {
		s.t.Fatalf("%d answers about %d processes of %d containers", len(out), len(args), len(s.live))
	}
	return out
}

// lately is about how many of the dead a check asks, of those that are owed an
// answer and of the others each.
const lately = 8

// awaitDead waits until a container has come and gone that this agent saw whole.
func (s *restartStage) awaitDead() {
	s.t.Helper()
	var since time.Time
	if n := len(s.outages); n > 0 {
		since = s.outages[n-1].ready
	}
	for deadline := time.Now().Add(patience); ; pause(s.t.Context(), 20*time.Millisecond) {
		s.mu.Lock()
		done := slices.ContainsFunc(s.dead, func(d dead) bool { return d.from.After(since) })
		s.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no container came and went in %s", patience)
		}
	}
}

// checkDead asks about those that have ended, by name and by the PID that they
// had. Where an agent saw all of one's life, and had the time to write it down,
// all must be known; of the others nothing may be wrong.
func (s *restartStage) checkDead() {
	s.t.Helper()
	s.mu.Lock()
	all := slices.Clone(s.dead)
	s.mu.Unlock()
	left := map[bool]int{true: lately, false: lately}
	for _, d := range slices.Backward(all) {
		owed := !slices.ContainsFunc(s.outages, d.within)
		if left[owed]--; left[owed] < 0 {
			continue
		}
		questions := []string{d.name}
		if d.pid != 0 && !exists(d.pid) {
			questions = append(questions, strconv.Itoa(d.pid))
		}
		for _, q := range questions {
			out := s.agent.Command(s.t.Context(), "who", "-o", "json", q)
			var a harness.Answer
			if err := json.Unmarshal([]byte(out.Stdout), &a); err != nil && owed {
				s.t.Errorf("who %s: %v: %s", q, err, out.Stderr)
				continue
			}
			if err := d.want(a, owed); err != nil {
				s.t.Errorf("who %s: %v (owed: %t)", q, err, owed)
			}
			if owed {
				s.asked++
			}
		}
	}
}

// within reports whether an agent missed some of it, or had no time to write it down.
func (d dead) within(o outage) bool {
	return o.killed.Before(d.at.Add(settled)) && o.ready.After(d.from)
}

func exists(pid int) bool {
	_, err := os.Stat(filepath.Join("/proc", strconv.Itoa(pid)))
	return err == nil
}

// want says what is wrong with an answer. All of it must be there where it is owed.
func (d dead) want(a harness.Answer, owed bool) error {
	c := a.Container()
	if a.Status != "container" && !owed {
		return nil
	}
	wrong := a.Status != "container" || !a.Exited || c.Name != d.name || c.Image != collectortest.BusyboxImage
	if e := c.Exit; owed && (e == nil || !e.Known) || e != nil && e.Known && e.Code != d.code {
		wrong = true
	}
	if wrong {
		return fmt.Errorf("it is %s, exited %t, %q from %q, exit %+v (%s); want %q, exit %d", a.Status, a.Exited, c.Name, c.Image, c.Exit, a.Reason, d.name, d.code)
	}
	return nil
}

func TestAnAgentWithoutARoomForTombstonesRunsOn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Args: []string{"--state-dir", file}})
	if s := status(t, agent).source("tombstones"); s.State != "failing" || s.LastError == "" {
		t.Errorf("status says of the tombstones: %+v", s)
	}
	if strings.Count(agent.Log(), "tombstones not kept") != 1 {
		t.Errorf("the log does not say once that tombstones are not kept")
	}
	agent.Kill()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	agent.Start()
	if s := status(t, agent).source("tombstones"); s.State == "failing" {
		t.Errorf("status says of the tombstones: %+v", s)
	}
}

// Docker is stopped, its containers live on, and the agent starts: their names are in
// the files that it left.
func TestTheContainersOfAStoppedDockerAreNamed(t *testing.T) {
	docker := collectortest.StartDockerd(t, collectortest.EngineOptions{Args: []string{"--live-restore"}})
	id := docker.Run("--name", "left", collectortest.BusyboxImage, "sleep", "1000")
	pid := docker.InitPID(id)
	docker.Kill()
	if err := os.Remove(docker.Socket); err != nil {
		t.Fatal(err)
	}
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker})
	if a := agent.Who(strconv.Itoa(pid))[0]; a.Status != "container" || len(a.Containers) != 1 || a.Containers[0].Name != "left" {
		t.Errorf("its init is %+v", a)
	}
	if s := status(t, agent).source("docker"); s.State != "absent" {
		t.Errorf("status says of docker: %+v", s)
	}
	if err := docker.Start(); err != nil { // or its containers stay
		t.Fatal(err)
	}
}

func TestADamagedFileOfTombstonesIsNoFile(t *testing.T) {
	agent := harness.StartAgent(t, programs, harness.AgentOptions{})
	path := filepath.Join(filepath.Dir(agent.Socket), "tombstones")
	for _, spoil := range []func([]byte) []byte{
		func(b []byte) []byte { return b[:len(b)-3] },
		func(b []byte) []byte { b[20] ^= 1; return b },
		func([]byte) []byte { return []byte(strings.Repeat("x", 10_000)) },
		func([]byte) []byte { return nil },
	} {
		agent.Kill()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, spoil(b), 0o600); err != nil {
			t.Fatal(err)
		}
		agent.Start()
		if a := agent.Who(strconv.Itoa(os.Getpid()))[0]; a.Status != "host" || a.Exited {
			t.Errorf("the test itself is %+v", a)
		}
	}
	if n := strings.Count(agent.Log(), "tombstones ignored"); n != 3 {
		t.Errorf("%d files were ignored, want the three whose header is bad", n)
	}
}

// TestReadySoonBesideManyContainers measures from exec to ready, beside
// containers that bare runc made, which all have one root.
func TestReadySoonBesideManyContainers(t *testing.T) {
	n := *restartSleepers
	fleet := startSleepers(t, n)
	agent := harness.StartAgent(t, programs, harness.AgentOptions{OCIRoots: []string{fleet.root}})
	var ready []time.Duration
	for range 5 {
		agent.Kill()
		ready = append(ready, startTook(t, agent))
		var known int
		out := agent.Command(t.Context(), "list", "containers", "-o", "json")
		for line := range strings.Lines(out.Stdout) {
			var c harness.Container
			if err := json.Unmarshal([]byte(line), &c); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(c.ID, fleet.prefix) && c.State == "running" {
				known++
			}
		}
		if known != n {
			t.Errorf("when it was ready the agent knew %d of %d containers", known, n)
		}
	}
	slices.Sort(ready)
	t.Logf("%d containers: ready after %v", n, ready)
	if median := ready[len(ready)/2]; median > time.Second {
		t.Errorf("ready after %s, not within 1 s, beside %d containers", median, n)
	}
}

type sleepers struct {
	root, prefix string
}

// startSleepers makes n containers; they end with the test.
func startSleepers(t *testing.T, n int) sleepers {
	t.Helper()
	dir := t.TempDir()
	f := sleepers{root: filepath.Join(dir, "state"), prefix: "sleeper" + strconv.Itoa(os.Getpid()) + "x"}
	bundle := sleeperBundle(t, dir, f.prefix)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	runc := func(args ...string) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "runc", append([]string{"--root", f.root}, args...)...)
		cmd.Stdout, cmd.Stderr = log, log // a file: a container keeps it open, and nobody waits for that
		return cmd.Run()
	}
	var bundles []string
	for i := range n {
		bundles = append(bundles, bundle(i))
	}
	t.Cleanup(func() {
		sideBySide(n, func(i int) { // --force: it may not be there
			if err := runc("delete", "--force", f.prefix+strconv.Itoa(i)); err != nil {
				t.Errorf("runc delete: %v", err)
			}
		})
		removeSleeperCgroups(t, f.prefix)
	})
	sideBySide(n, func(i int) {
		if t.Failed() {
			return
		}
		if err := runc("run", "--detach", "--bundle", bundles[i], f.prefix+strconv.Itoa(i)); err != nil {
			b, _ := os.ReadFile(log.Name())
			t.Errorf("runc run: %v: %s", err, b)
		}
	})
	if t.Failed() {
		t.FailNow()
	}
	return f
}

// sideBySide calls one with 0 to n-1, a few at a time.
func sideBySide(n int, one func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				one(i)
			}
		})
	}
	all.Wait()
}

// sleeperBundle gives a bundle for each container, all with one root.
func sleeperBundle(t *testing.T, dir, prefix string) func(i int) string {
	t.Helper()
	harness.BusyboxRoot(t, dir+"/rootfs")
	spec := harness.RuncSpec(t, "/bin/busybox", "sleep", "3600")
	delete(spec["process"].(map[string]any), "rlimits")
	spec["root"] = map[string]any{"path": dir + "/rootfs", "readonly": true}
	return func(i int) string {
		spec["linux"].(map[string]any)["cgroupsPath"] = "/" + prefix + "/" + strconv.Itoa(i)
		to := filepath.Join(dir, "b", strconv.Itoa(i))
		harness.WriteSpec(t, to, spec)
		return to
	}
}

// removeSleeperCgroups removes the parent that runc made in each hierarchy.
func removeSleeperCgroups(t *testing.T, name string) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name, "/sys/fs/cgroup/*/*/" + name, "/sys/fs/cgroup/*/*/*/" + name} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			t.Error(err)
		}
		for _, d := range dirs {
			if err := os.Remove(d); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("remove the cgroup: %v", err)
			}
		}
	}
}
