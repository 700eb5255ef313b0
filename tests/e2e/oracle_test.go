// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"encoding/json"

	"github.com/pidigree/pidigree/pkg/agent"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// The long form: -oracle.lookups=10000000 -oracle.duration=2h -timeout=3h. It
// ends with whichever comes last of the numbers, and in any case with the duration.
var (
	oracleLookups   = flag.Uint64("oracle.lookups", 0, "go on until so many lookups were made, a tenth of them over the socket")
	oracleProcesses = flag.Uint64("oracle.processes", 0, "and so many processes have reported, half as many lookups on reused PIDs and under 20 ms")
	oracleDuration  = flag.Duration("oracle.duration", 35*time.Second, "but no longer than this")
)

// truthBed is a host with everything on it, an agent in this process and an oracle.
type truthBed struct {
	t          *testing.T
	docker     *collectortest.Dockerd
	containerd *collectortest.Containerd
	runcDir    string
	o          *oracle.Oracle
	serial     int
	load       sync.WaitGroup
	ctx        context.Context
}

// No answer is wrong, whatever the processes do: in every way of asking, of
// every kind of container, about processes of every age.
func TestTheOracleHearsNoWrongAnswer(t *testing.T) {
	b := newTruthBed(t)
	ctx, stop := context.WithTimeout(t.Context(), *oracleDuration)
	defer stop()
	b.ctx = ctx
	settled := b.stayers()
	b.o.WaitKnown(patience, settled...)
	b.streams()
	b.churn()
	b.until(ctx)
	stop()
	b.load.Wait()
	s := b.o.Score()
	t.Logf("\n%s", s)
	b.hold(s)
}

// hold says what the figures must be. Wrong answers have failed the test already.
func (b *truthBed) hold(s oracle.Score) {
	b.t.Helper()
	for _, d := range b.o.Doubts() {
		b.t.Log(d)
	}
	if old := s.Settled("all"); old.Rate(oracle.Unknown) >= 0.0001 {
		b.t.Errorf("%d of %d answers about processes older than 100 ms were unknown", old[oracle.Unknown], old.Judged())
	}
	if n := s.Sum(nil)[oracle.Conflict]; n > 0 {
		b.t.Errorf("%d answers were conflict, and nobody attacks", n)
	}
	if n := s.Sum(nil)[oracle.Failed]; n > 0 {
		b.t.Errorf("%d questions were not answered; the last because %s", n, s.LastFailure)
	}
	if s.Strays > 0 || s.Never > 0 {
		b.t.Errorf("%d strays, %d processes that were never known", s.Strays, s.Never)
	}
}

// until waits until enough was asked.
func (b *truthBed) until(ctx context.Context) {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if *oracleLookups == 0 && *oracleProcesses == 0 {
			continue
		}
		if enough(b.o.Score()) {
			return
		}
	}
}

func enough(s oracle.Score) bool {
	young := s.Sum(func(c oracle.Cell) bool { return c.Age == oracle.Under20ms })
	reused := s.Sum(func(c oracle.Cell) bool { return c.Reused })
	socket := s.Sum(func(c oracle.Cell) bool { return c.Way == oracle.Socket })
	return s.Sum(nil).All() >= *oracleLookups && socket.All() >= *oracleLookups/10 &&
		s.Processes >= *oracleProcesses && young.Judged() >= *oracleProcesses/2 && reused.All() >= *oracleProcesses/2
}

func newTruthBed(t *testing.T) *truthBed {
	b := &truthBed{t: t}
	b.docker = collectortest.StartDockerd(t, collectortest.EngineOptions{})
	b.containerd = collectortest.StartContainerd(t, collectortest.EngineOptions{})
	b.containerd.ImportBusybox("other")
	var err error
	if b.runcDir, err = os.MkdirTemp("/tmp", "pdr"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(b.runcDir) })
	a := b.agent()
	rate := 3000
	if *oracleLookups > 0 {
		rate = -1
	}
	b.o = oracle.Start(t, oracle.Options{Work: programs.Work, Library: a, Socket: b.socket(), Command: []string{programs.Pidigree}, Rate: rate})
	return b
}

func (b *truthBed) socket() string { return b.runcDir + "/run/pidigree.sock" }

// agent embeds an agent in this process: it is asked as a library and over its socket.
func (b *truthBed) agent() *agent.Agent {
	none := b.runcDir + "/none"
	a, err := agent.New(agent.Options{
		RunDir: none, Socket: b.socket(), DockerHosts: []string{b.docker.Socket}, DockerRoot: b.docker.Root,
		ContainerdAddresses: []string{b.docker.Containerd, b.containerd.Address},
		OCIRoots:            []string{b.docker.RuncRoot, b.containerd.RuncRoot + "/*", b.runcDir + "/state"},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	})
	select {
	case <-a.Ready():
	case <-time.After(30 * time.Second):
		b.t.Fatal("the agent is not ready")
	}
	return a
}

// name gives a container's name, no two of which are the same.
func (b *truthBed) name(kind string) string {
	b.serial++
	return kind + "-" + strconv.Itoa(b.serial)
}

// The start functions register a container and start it in the background.
// What is before the image goes to the engine, the rest to the workload.

func (b *truthBed) dockerRun(flags []string, work ...string) *oracle.Party {
	b.t.Helper()
	p := b.o.Container(oracle.Truth{Name: b.name("docker"), Image: collectortest.BusyboxImage, Labels: map[string]string{"kind": "docker", "made.by": work[0]}})
	args := append(append(p.DockerArgs(), flags...), collectortest.BusyboxImage, oracle.Work)
	return p.SetID(b.docker.Run(append(args, work...)...))
}

func (b *truthBed) ctrRun(namespace, id string, work ...string) *oracle.Party {
	b.t.Helper()
	p := b.o.Container(oracle.Truth{ID: id, Name: id, Image: collectortest.BusyboxImage, Labels: map[string]string{"namespace": namespace}, Twin: id == "twin"})
	args := append(p.CtrArgs(), collectortest.BusyboxImage, id, oracle.Work)
	b.containerd.Run(namespace, append(args, work...)...)
	return p
}

func (b *truthBed) runcRun(work ...string) *oracle.Party {
	b.t.Helper()
	id := b.name("bare")
	p := b.o.Container(oracle.Truth{ID: id, NoLabels: true})
	b.bundle(id, p, work)
	b.runc("run", "--detach", "--bundle", b.runcDir+"/"+id, id)
	b.t.Cleanup(func() {
		_ = exec.Command("runc", "--root", b.runcDir+"/state", "delete", "--force", id).Run()
	})
	return p
}

// bundle makes a bundle with the oracle's mount.
func (b *truthBed) bundle(id string, p *oracle.Party, work []string) {
	b.t.Helper()
	dir := filepath.Join(b.runcDir, id)
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	bundle(b.t, dir, append([]string{oracle.Work}, work...)...)
	var config map[string]any
	text, err := os.ReadFile(dir + "/config.json")
	if err := errors.Join(err, json.Unmarshal(text, &config)); err != nil {
		b.t.Fatal(err)
	}
	config["mounts"] = append(config["mounts"].([]any), p.Mount())
	if text, err = json.Marshal(config); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/config.json", text, 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *truthBed) runc(args ...string) {
	b.t.Helper()
	if err := b.runcErr(args...); err != nil {
		b.t.Fatal(err)
	}
}

// runcErr runs runc with a log of its own: the container keeps its output open.
func (b *truthBed) runcErr(args ...string) error {
	log, err := os.CreateTemp(b.runcDir, "log")
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("runc", append([]string{"--root", b.runcDir + "/state"}, args...)...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("runc %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return os.Remove(log.Name())
}

// stayers starts what is there all the time, with threads and children.
func (b *truthBed) stayers() []*oracle.Party {
	tree := []string{"stay", "-threads", "2", "-children", "2", "-levels", "2"}
	host := b.o.Host()
	host.RunHost(tree[0], tree[1:]...)
	all := []*oracle.Party{
		host,
		b.dockerRun(nil, tree...),
		b.dockerRun([]string{"--pid", "host"}, tree...),
		b.dockerRun([]string{"--user", "1000:1000"}, tree...),
		b.ctrRun("default", "twin", tree...),
		b.ctrRun("other", "twin", tree...),
		b.runcRun(tree...),
	}
	around := b.dockerRun(nil, tree...)
	all = append(all, around, b.dockerRun([]string{"--cgroup-parent", "/docker/" + around.Truth().ID}, tree...))
	for _, p := range all {
		b.o.WaitReports(patience, p, 7)
	}
	return all
}

// streams start short-lived processes of every kind, everywhere, and processes
// that take each other's PIDs.
func (b *truthBed) streams() {
	kinds := []string{"stream", "-rate", "40", "-kind", "fork,tree,exec,session,daemon,fork"}
	host := b.o.Host()
	host.RunHost(kinds[0], kinds[1:]...)
	b.dockerRun(nil, kinds...)
	b.dockerRun([]string{"--pid", "host"}, kinds...)
	b.ctrRun("default", b.name("ctr"), kinds...)
	b.runcRun(kinds...)

	reuse := []string{"reuse", "-rate", "60", "-pids", reusedPIDs(b.t)}
	host.RunHost(reuse[0], reuse[1:]...)
	for range 2 {
		b.dockerRun([]string{"--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"}, reuse...)
	}
}

// reusedPIDs is a range of few PIDs at the end of all, where the kernel comes by seldom.
func reusedPIDs(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d-%d", n-40, n-33)
}

// churn starts and ends containers one after the other, side by side, until
// the context ends.
func (b *truthBed) churn() {
	b.repeat(func(ctx context.Context, i int) error {
		p := b.o.Container(oracle.Truth{Name: "brief-docker-" + strconv.Itoa(i), Image: collectortest.BusyboxImage})
		_, err := b.docker.Exec(ctx, append(append([]string{"run", "--rm", "--network", "none"}, p.DockerArgs()...),
			collectortest.BusyboxImage, oracle.Work, "stream", "-count", "6", "-kind", "fork,exec,daemon")...)
		return err
	})
	keeper := b.dockerRun(nil, "stay")
	b.repeat(func(ctx context.Context, _ int) error {
		_, err := b.docker.Exec(ctx, "exec", keeper.Truth().Name, oracle.Work, "once")
		return err
	})
	b.repeat(func(ctx context.Context, i int) error {
		id := "brief-ctr-" + strconv.Itoa(i)
		p := b.o.Container(oracle.Truth{ID: id, Name: id, Image: collectortest.BusyboxImage})
		_, err := b.containerd.Exec(ctx, append(append([]string{"--namespace", "default", "run", "--rm", "--runc-root", b.containerd.RuncRoot}, p.CtrArgs()...),
			collectortest.BusyboxImage, id, oracle.Work, "stream", "-count", "6", "-kind", "fork,exec,session")...)
		return err
	})
}

// repeat calls one until the context ends; a container that was started then ends in order.
func (b *truthBed) repeat(one func(ctx context.Context, i int) error) {
	b.load.Go(func() {
		for i := 0; b.ctx.Err() == nil; i++ {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), 60*time.Second)
			err := one(ctx, i)
			cancel()
			if err != nil {
				b.t.Error(err)
				return
			}
		}
	})
}
