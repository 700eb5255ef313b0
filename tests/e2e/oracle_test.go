// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
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

	"github.com/pidigree/pidigree/pkg/agent"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// The short form takes oracle.duration, and what it still needs until everything
// was asked once. The long form is that with -oracle.lookups: `make torture PARTS=oracle`. It ends
// with whichever comes last of the numbers, and in any case with the duration, and
// has attackers and faults beside it.
var (
	oracleLookups   = flag.Uint64("oracle.lookups", 0, "go on until so many lookups were made, a tenth of them over the socket")
	oracleProcesses = flag.Uint64("oracle.processes", 0, "and so many processes have reported, half as many lookups on reused PIDs and under 20 ms")
	oracleDuration  = flag.Duration("oracle.duration", 20*time.Second, "but no longer than this")
)

// truthBed is a host with everything on it, an agent in this process and an oracle.
type truthBed struct {
	t       *testing.T
	engines *truthEngines
	dir     string
	o       *oracle.Oracle
	load    sync.WaitGroup
	ctx     context.Context
	noted   *lastWords
	siege   *siege // nil in the short form
}

// truthEngines are there for all the forms, and so are the serial numbers of
// the containers.
type truthEngines struct {
	docker     *collectortest.Dockerd
	containerd *collectortest.Containerd
	podman     *collectortest.Podman
	rootless   *collectortest.Podman
	lxd        *collectortest.LXD
	// kube is an engine as the kubelet uses it, with one pod.
	kube    *collectortest.CRI
	sandbox string
	serial  atomic.Int64
}

// kubePod is the pod of all of kube's containers.
var kubePod = collectortest.PodConfig{Name: "web-0", Namespace: "shop", UID: "11111111-2222-3333-4444-555555555555"}

// A truthForm is a way in which an agent may have to do without something.
type truthForm struct {
	name string
	set  func(*agent.Options)
	late bool          // the agent starts when everything is there
	part time.Duration // of -oracle.duration, as its divisor
	// old is what part of the answers about processes older than 100 ms may be unknown.
	old float64
	// without names what is not asked so.
	without []string
}

func truthForms() []truthForm {
	// A short form may be over before the command line was alone once.
	brief := []string{"without an agent"}
	return []truthForm{
		{name: "everything on", part: 1, old: 0.0001},
		{name: "an agent that comes late", late: true, part: 4, old: 0.0001, without: brief},
		{name: "cgroup programs not loaded", part: 4, old: 0.0001, without: brief, set: func(o *agent.Options) {
			o.DisablePrograms = []string{"cgroup_mkdir", "cgroup_rmdir", "cgroup_attach"}
		}},
		// What no program reports is found by asking; what the answer then says
		// of the past may be less.
		{name: "process programs not loaded", part: 4, old: 1, without: brief, set: func(o *agent.Options) {
			o.DisablePrograms = []string{"fork", "exec", "exit"}
		}},
		{name: "no BPF", part: 4, old: 1, without: append(brief, "by start", "younger than 100 ms"), set: func(o *agent.Options) { o.NoBPF = true }},
	}
}

// No answer is wrong, whatever the processes do: in every way of asking, of
// every kind of container, about processes of every age.
func TestTheOracleHearsNoWrongAnswer(t *testing.T) {
	noted := &lastWords{}
	t.Cleanup(func() { noted.repeat(t) }) // the last of all: the engines log before
	var docker collectortest.EngineOptions
	if long() {
		docker.Args = []string{"--live-restore"} // containers that outlive a dockerd that is killed
	}
	engines := &truthEngines{
		docker:     collectortest.StartDockerd(t, docker),
		containerd: collectortest.StartContainerd(t, collectortest.EngineOptions{}),
		podman:     collectortest.StartPodman(t, collectortest.EngineOptions{}),
		rootless:   collectortest.StartRootlessPodman(t, collectortest.EngineOptions{}),
		lxd:        collectortest.StartLXD(t),
		kube:       collectortest.StartCRI(t, collectortest.EngineOptions{}),
	}
	var err error
	if engines.sandbox, err = engines.kube.RunPod(t.Context(), kubePod); err != nil {
		t.Fatal(err)
	}
	engines.containerd.ImportBusybox("other")
	for _, f := range truthForms() {
		t.Run(f.name, func(t *testing.T) { hearTheTruth(t, engines, f, noted) })
	}
}

func long() bool { return *oracleLookups > 0 }

// lastWords are the failures of all forms, to be said again at the end, where
// whoever sees only the end of a long output sees them.
type lastWords struct {
	mu    sync.Mutex // guards lines
	lines []string
}

func (l *lastWords) note(form, format string, args ...any) {
	text, _, _ := strings.Cut(fmt.Sprintf(format, args...), "\n")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, fmt.Sprintf("%s: %.500s", form, text))
}

func (l *lastWords) repeat(t *testing.T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) > 0 {
		t.Logf("what failed, once more:\n%s", strings.Join(l.lines, "\n"))
	}
}

// listener is the test as the oracle sees it.
type listener struct {
	testing.TB
	b *truthBed
}

func (l listener) Errorf(format string, args ...any) {
	l.Helper()
	l.b.errorf(format, args...)
}

func (l listener) Fatal(args ...any) {
	l.Helper()
	l.b.errorf("%s", fmt.Sprint(args...))
	l.FailNow()
}

// errorf fails the test and notes why.
func (b *truthBed) errorf(format string, args ...any) {
	b.t.Helper()
	b.noted.note(b.t.Name(), format, args...)
	b.t.Errorf(format, args...)
}

func hearTheTruth(t *testing.T, engines *truthEngines, f truthForm, noted *lastWords) {
	b := &truthBed{t: t, engines: engines, noted: noted}
	var err error
	if b.dir, err = os.MkdirTemp("/tmp", "pdr"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		b.clear()
		_ = os.RemoveAll(b.dir)
	})
	a := &truthAgent{t: t, options: b.agentOptions(f)}
	opts := oracle.Options{Work: programs.Work, Library: a, Socket: b.socket(), Command: []string{programs.Pidigree}, Env: b.env(), Rate: 3000, Timeout: time.Minute}
	var proxy *collectortest.Proxy
	if long() {
		// Most lookups are about short-lived processes then, all of them as often.
		opts.Rounds, opts.Linger = 1, time.Second
		proxy = collectortest.NewDockerProxy(t, engines.docker.Socket)
		a.options.DockerHosts = []string{proxy.Socket}
	}
	if !f.late {
		a.start()
	}
	b.o = oracle.Start(listener{t, b}, opts)
	begin, most := time.Now(), *oracleDuration/f.part
	if !long() {
		most += 3 * time.Minute // on a busy machine it takes its time until everything was there once
	}
	ctx, stop := context.WithTimeout(t.Context(), most)
	defer stop()
	b.ctx = ctx
	settled := b.stayers()
	if f.late {
		a.start()
	}
	b.o.WaitKnown(patience, settled...)
	early := b.o.Score()
	b.o.ForgetDoubts()
	if long() {
		b.siege = b.besiege(proxy, settled[1:3])
	}
	b.streams()
	b.churn()
	if b.siege != nil {
		b.load.Go(b.siege.fail) // only now: what is started above is to start
	}
	b.until(ctx, begin.Add(*oracleDuration/f.part), early, f)
	stop()
	b.load.Wait()
	s := b.o.Score().Since(early)
	t.Logf("\n%s", s)
	b.hold(s, f)
	if b.siege != nil {
		b.siege.hold(s)
	}
}

// hold says what the figures must be. Wrong answers have failed the test already.
func (b *truthBed) hold(s oracle.Score, f truthForm) {
	b.t.Helper()
	if old := s.Settled("all"); old.Rate(oracle.Unknown) >= f.old && b.siege == nil {
		b.errorf("%d of %d answers about processes older than 100 ms were unknown", old[oracle.Unknown], old.Judged())
		for _, d := range b.o.Doubts() {
			b.t.Log(d)
		}
	}
	if n := s.Group("all")[oracle.Conflict]; n > 0 {
		b.errorf("%d answers were conflict, and were not about attackers", n)
		for _, d := range b.o.Doubts() {
			b.t.Log(d)
		}
	}
	// By itself the command line asks the engines, which may have failed.
	if n := s.Sum(func(c oracle.Cell) bool { return c.Way != oracle.Alone || b.siege == nil })[oracle.Failed]; n > 0 {
		b.errorf("%d questions were not answered; the last of each way because %q", n, s.Failures)
	}
	if s.Strays > 0 {
		b.errorf("%d strays, the last because %s", s.Strays, s.LastStray)
	}
	for _, what := range missing(s, f) {
		b.errorf("no process was answered right %s", what)
	}
	if long() && !enough(s) {
		b.errorf("the time was over before there were %d lookups and %d processes", *oracleLookups, *oracleProcesses)
	}
}

// missing is what was to be asked about and was not there.
func missing(s oracle.Score, f truthForm) (all []string) {
	for what, choose := range map[string]func(oracle.Cell) bool{
		"by thread":           func(c oracle.Cell) bool { return c.By == oracle.ByThread },
		"by pidfd":            func(c oracle.Cell) bool { return c.By == oracle.ByPidfd },
		"by start":            func(c oracle.Cell) bool { return c.By == oracle.ByStart },
		"by ticks":            func(c oracle.Cell) bool { return c.By == oracle.ByTicks },
		"by cgroup id":        func(c oracle.Cell) bool { return c.By == oracle.ByCgroupID },
		"by cgroup path":      func(c oracle.Cell) bool { return c.By == oracle.ByCgroupPath },
		"by container id":     func(c oracle.Cell) bool { return c.By == oracle.ByID },
		"by name":             func(c oracle.Cell) bool { return c.By == oracle.ByName },
		"by the library":      func(c oracle.Cell) bool { return c.Way == oracle.Library },
		"by the socket":       func(c oracle.Cell) bool { return c.Way == oracle.Socket },
		"without an agent":    func(c oracle.Cell) bool { return c.Way == oracle.Alone },
		"by the command line": func(c oracle.Cell) bool { return c.Way == oracle.Command },
		"younger than 100 ms": func(c oracle.Cell) bool { return c.Age <= oracle.Under100ms },
		"on reused PIDs":      func(c oracle.Cell) bool { return c.Reused },
	} {
		if s.Sum(choose)[oracle.Right] == 0 && !slices.Contains(f.without, what) {
			all = append(all, what)
		}
	}
	slices.Sort(all)
	return all
}

// until waits until enough was asked: in the short form something of everything,
// once the time is over.
func (b *truthBed) until(ctx context.Context, least time.Time, early oracle.Score, f truthForm) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s := b.o.Score().Since(early)
		if long() && enough(s) && b.siege.complete() || !long() && time.Now().After(least) && len(missing(s, f)) == 0 {
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

func (b *truthBed) socket() string { return b.dir + "/run/pidigree.sock" }

// env tells the command line of the test's engines, for when it is alone.
func (b *truthBed) env() []string {
	o := b.agentOptions(truthForm{})
	return []string{
		"PIDIGREE_RUN_DIR=" + o.RunDir, "PIDIGREE_DOCKER_HOST=" + o.DockerHosts[0], "PIDIGREE_DOCKER_ROOT=" + o.DockerRoot,
		"PIDIGREE_LXC_PATHS=" + strings.Join(o.LXCPaths, ","), "PIDIGREE_INCUS_SOCKETS=" + strings.Join(o.IncusSockets, ","),
		"PIDIGREE_PODMAN_ROOTS=" + strings.Join(o.PodmanRoots, ","), "PIDIGREE_PODMAN_USERS=auto",
		"PIDIGREE_CONTAINERD_ADDRESS=" + strings.Join(o.ContainerdAddresses, ","), "PIDIGREE_CRI_ENDPOINTS=" + strings.Join(o.CRIEndpoints, ","), "PIDIGREE_OCI_ROOTS=" + strings.Join(o.OCIRoots, ","),
	}
}

// agentOptions keep the agent to the test's own engines.
func (b *truthBed) agentOptions(f truthForm) agent.Options {
	docker, containerd, kube := b.engines.docker, b.engines.containerd, b.engines.kube
	o := agent.Options{
		RunDir: b.dir + "/none", Socket: b.socket(), DockerHosts: []string{docker.Socket}, DockerRoot: docker.Root,
		PodmanRoots:         []string{b.engines.podman.Root},
		LXCPaths:            []string{b.dir + "/lxc"},
		IncusSockets:        []string{b.engines.lxd.Socket},
		ContainerdAddresses: []string{docker.Containerd, containerd.Address, kube.Address},
		CRIEndpoints:        []string{kube.Address},
		OCIRoots:            []string{docker.RuncRoot, containerd.RuncRoot + "/*", kube.RuncRoot + "/*", b.engines.podman.RuncRoot, b.dir + "/state"},
	}
	if f.set != nil {
		f.set(&o)
	}
	return o
}

// truthAgent embeds an agent in this process: it is asked as a library and over
// its socket. Before its start there is nobody to ask.
type truthAgent struct {
	t       *testing.T
	options agent.Options
	running atomic.Pointer[agent.Agent]
}

// Resolve implements oracle.Asker.
func (a *truthAgent) Resolve(ctx context.Context, q workload.Query) workload.Result {
	if running := a.running.Load(); running != nil {
		return running.Resolve(ctx, q)
	}
	return workload.Result{Query: q, Err: workload.ErrUnavailable}
}

func (a *truthAgent) start() {
	a.t.Helper()
	running, err := agent.New(a.options)
	if err != nil {
		a.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- running.Run(ctx) }()
	a.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			a.t.Error(err)
		}
	})
	select {
	case <-running.Ready():
	case <-time.After(30 * time.Second):
		a.t.Fatal("the agent is not ready")
	}
	a.running.Store(running)
}

// name gives a container's name, no two of which are the same.
func (b *truthBed) name(kind string) string {
	return kind + "-" + strconv.FormatInt(b.engines.serial.Add(1), 10)
}

// clear removes the containers, so that the next form finds none. What has
// ended meanwhile fails to be ended, which nobody minds.
func (b *truthBed) clear() {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	pods, err := b.engines.kube.Containers(ctx)
	for _, c := range pods {
		err = errors.Join(err, b.engines.kube.RemoveContainer(ctx, c.ID))
	}
	if err != nil {
		b.t.Error(err)
	}
	if err := errors.Join(b.engines.lxd.DeleteAll(ctx), b.clearLXC()); err != nil {
		b.t.Error(err)
	}
	ids, err := b.engines.docker.Exec(ctx, "ps", "--all", "--quiet")
	if err == nil && ids != "" {
		_, err = b.engines.docker.Exec(ctx, append([]string{"rm", "--force"}, strings.Fields(ids)...)...)
	}
	if err != nil {
		b.t.Error(err)
	}
	for _, podman := range []*collectortest.Podman{b.engines.podman, b.engines.rootless} {
		if _, err := podman.Exec(ctx, "rm", "--all", "--force", "--time", "0"); err != nil {
			b.t.Error(err)
		}
	}
	for _, ns := range []string{"default", "other"} {
		ids, err := b.engines.containerd.Exec(ctx, "--namespace", ns, "containers", "ls", "--quiet")
		if err != nil {
			b.t.Error(err)
		}
		for id := range strings.FieldsSeq(ids) {
			_, _ = b.engines.containerd.Exec(ctx, "--namespace", ns, "tasks", "rm", "--force", id)
			_, _ = b.engines.containerd.Exec(ctx, "--namespace", ns, "containers", "rm", id)
		}
	}
}

// clearLXC ends LXC's containers.
func (b *truthBed) clearLXC() (err error) {
	dirs, _ := os.ReadDir(b.dir + "/lxc") // none, if the test ended before
	for _, d := range dirs {
		_, _ = b.lxc("lxc-stop", d.Name(), "--kill")
		_, werr := b.lxc("lxc-wait", d.Name(), "-s", "STOPPED", "-t", "20")
		err = errors.Join(err, werr)
	}
	return err
}

// The start functions register a container and start it in the background.
// What is before the image goes to the engine, the rest to the workload.

func (b *truthBed) dockerRun(flags []string, work ...string) *oracle.Party {
	b.t.Helper()
	p := b.o.Container(oracle.Truth{Name: b.name("docker"), Image: collectortest.BusyboxImage, Labels: map[string]string{"kind": "docker", "made.by": work[0]}})
	args := append(append(p.DockerArgs(), flags...), collectortest.BusyboxImage, oracle.Work)
	return p.SetID(b.engines.docker.Run(append(args, work...)...))
}

// podmanRun is the same of root's podman, or of a user's, whose containers have no cgroup of their own.
func (b *truthBed) podmanRun(podman *collectortest.Podman, flags []string, work ...string) *oracle.Party {
	b.t.Helper()
	p := b.o.Container(oracle.Truth{Name: b.name("podman"), Image: collectortest.BusyboxImage, Labels: map[string]string{"kind": "podman", "made.by": work[0]}, Homeless: podman.UID != 0})
	if err := os.Chmod(filepath.Dir(p.Dir), 0o711); err != nil { // another user is to reach what is below
		b.t.Fatal(err)
	}
	args := append(append(p.DockerArgs(), flags...), collectortest.BusyboxImage, oracle.Work)
	return p.SetID(podman.Run(append(args, work...)...))
}

func (b *truthBed) ctrRun(namespace, id string, work ...string) *oracle.Party {
	b.t.Helper()
	p := b.o.Container(oracle.Truth{ID: id, Name: id, Image: collectortest.BusyboxImage, Labels: map[string]string{"namespace": namespace}, Twin: id == "twin"})
	args := append(p.CtrArgs(), collectortest.BusyboxImage, id, oracle.Work)
	b.engines.containerd.Run(namespace, append(args, work...)...)
	return p
}

func (b *truthBed) kubeRun(work ...string) *oracle.Party {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	p, err := b.kubeRunErr(ctx, "pod", work...)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// kubeRunErr is for other goroutines than the test's.
func (b *truthBed) kubeRunErr(ctx context.Context, kind string, work ...string) (*oracle.Party, error) {
	t := oracle.Truth{Name: b.name(kind), Image: collectortest.BusyboxImage, Labels: map[string]string{"made.by": work[0]}}
	p := b.o.Container(t)
	id, err := b.engines.kube.RunContainer(ctx, b.engines.sandbox, kubePod, collectortest.ContainerConfig{
		Name: t.Name, Command: append([]string{oracle.Work}, work...), Labels: p.Truth().Labels, Mounts: map[string]string{oracle.Dir: p.Dir},
	})
	if err == nil {
		p.SetID(id)
	}
	return p, err
}

// lxcRun starts a container of LXC's; lxcStart is for other goroutines than the test's.
func (b *truthBed) lxcRun(work ...string) *oracle.Party {
	b.t.Helper()
	p, err := b.lxcStart("lxc", work...)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *truthBed) lxcStart(kind string, work ...string) (*oracle.Party, error) {
	name := b.name(kind)
	p := b.o.Container(oracle.Truth{ID: name, Name: name, NoLabels: true})
	err := defineLXC(b.dir+"/lxc", name, strings.Join(append([]string{oracle.Work}, work...), " "),
		"lxc.mount.entry = "+p.Dir+" "+strings.TrimPrefix(oracle.Dir, "/")+" none bind,ro,create=dir 0 0")
	if err == nil {
		_, err = b.lxc("lxc-start", name)
	}
	return p, err
}

func (b *truthBed) lxc(program, name string, args ...string) (string, error) {
	return lxcCommand(program, b.dir+"/lxc", name, args...)
}

// lxdRun starts a container of LXD's, unprivileged; lxdStart is for other goroutines.
func (b *truthBed) lxdRun(work ...string) *oracle.Party {
	b.t.Helper()
	p, err := b.lxdStart(b.t.Context(), "lxd", work...)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *truthBed) lxdStart(ctx context.Context, kind string, work ...string) (*oracle.Party, error) {
	name := b.name(kind)
	p := b.o.Container(oracle.Truth{ID: name, Name: name, NoLabels: true}) // its keys begin with user., and the oracle's own does not
	if err := os.Chmod(filepath.Dir(p.Dir), 0o711); err != nil {           // its root is another user
		return p, err
	}
	return p, b.engines.lxd.Create(ctx, name, p.Dir, oracle.Dir, append([]string{oracle.Work}, work...)...)
}

// machineRun starts a container of systemd-nspawn's, of which it tells the agent as
// machined would. It ends with the form.
func (b *truthBed) machineRun(work ...string) *oracle.Party {
	b.t.Helper()
	p := b.o.Container(oracle.Truth{NoLabels: true}).NoCgroups() // in most hierarchies it is in the host's
	m := collectortest.StartMachine(b.t, collectortest.MachineOptions{
		Args: []string{"--bind-ro=" + p.Dir + ":" + oracle.Dir}, Command: append([]string{oracle.Work}, work...),
	})
	p.Renamed(m.Name)
	p.SetID(m.Name)
	dir := b.agentOptions(truthForm{}).RunDir + "/systemd/machines"
	err := os.MkdirAll(dir, 0o755)
	if err == nil {
		err = os.WriteFile(dir+"/"+m.Name, []byte(m.File(b.t)), 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = os.Remove(dir + "/" + m.Name) })
	return p
}

func (b *truthBed) runcRun(work ...string) *oracle.Party {
	b.t.Helper()
	id := b.name("bare")
	p := b.o.Container(oracle.Truth{ID: id, NoLabels: true})
	b.bundle(id, p, append([]string{oracle.Work}, work...), func(map[string]any) {})
	b.runc("run", "--detach", "--bundle", b.dir+"/"+id, id)
	b.t.Cleanup(func() {
		_ = exec.Command("runc", "--root", b.dir+"/state", "delete", "--force", id).Run()
	})
	return p
}

// bundle makes a bundle with the oracle's mount and what edit makes of it.
func (b *truthBed) bundle(id string, p *oracle.Party, argv []string, edit func(config map[string]any)) {
	b.t.Helper()
	dir := filepath.Join(b.dir, id)
	if err := os.Mkdir(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	bundle(b.t, dir, argv...)
	var config map[string]any
	text, err := os.ReadFile(dir + "/config.json")
	if err := errors.Join(err, json.Unmarshal(text, &config)); err != nil {
		b.t.Fatal(err)
	}
	config["mounts"] = append(config["mounts"].([]any), p.Mount())
	edit(config)
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
	log, err := os.CreateTemp(b.dir, "log")
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command("runc", append([]string{"--root", b.dir + "/state"}, args...)...)
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
		b.kubeRun(tree...),
		b.runcRun(tree...),
		b.podmanRun(b.engines.podman, nil, tree...),
		b.podmanRun(b.engines.podman, []string{"--pid", "host"}, tree...),
		b.podmanRun(b.engines.rootless, nil, tree...),
		b.lxcRun(tree...),
		b.lxdRun(tree...),
		b.machineRun(tree...),
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
	rate, few := "40", 8
	if long() {
		rate, few = "100", 64
	}
	kinds := []string{"stream", "-rate", rate, "-kind", "fork,tree,exec,session,daemon,fork"}
	host := b.o.Host()
	host.RunHost(kinds[0], kinds[1:]...)
	b.dockerRun(nil, kinds...)
	b.dockerRun([]string{"--pid", "host"}, kinds...)
	b.ctrRun("default", b.name("ctr"), kinds...)
	b.kubeRun(kinds...)
	b.runcRun(kinds...)
	b.podmanRun(b.engines.podman, nil, kinds...)
	b.lxcRun(kinds...)
	b.lxdRun(kinds...)
	b.machineRun(kinds...)

	reuse := []string{"reuse", "-rate", "60", "-pids", reusedPIDs(b.t, few)}
	host.RunHost(reuse[0], reuse[1:]...)
	for range 2 {
		b.dockerRun([]string{"--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined"}, reuse...)
	}
}

// reusedPIDs is a range of few PIDs at the end of all, where the kernel comes by seldom,
// that nobody has now: who stays may have been started there.
func reusedPIDs(t *testing.T, few int) string {
	t.Helper()
	free := 0
	for pid := harness.PIDMax(t) - 33; pid > 1000; pid-- {
		if _, err := os.Lstat("/proc/" + strconv.Itoa(pid)); err == nil { // a thread's, too
			free = 0
			continue
		}
		if free++; free == few {
			return fmt.Sprintf("%d-%d", pid, pid+few-1)
		}
	}
	t.Fatalf("there are no %d PIDs in a row that nobody has", few)
	return ""
}

// churn starts and ends containers one after the other, side by side, until
// the context ends.
func (b *truthBed) churn() {
	b.repeat(func(ctx context.Context) error {
		p := b.o.Container(oracle.Truth{Name: b.name("brief-docker"), Image: collectortest.BusyboxImage})
		_, err := b.engines.docker.Exec(ctx, append(append([]string{"run", "--rm", "--network", "none"}, p.DockerArgs()...),
			collectortest.BusyboxImage, oracle.Work, "stream", "-count", "6", "-kind", "fork,exec,daemon")...)
		return err
	})
	b.repeat(func(ctx context.Context) error {
		p := b.o.Container(oracle.Truth{Name: b.name("brief-podman"), Image: collectortest.BusyboxImage})
		_, err := b.engines.podman.Exec(ctx, append(append([]string{"run", "--rm", "--network", "none"}, p.DockerArgs()...),
			collectortest.BusyboxImage, oracle.Work, "stream", "-count", "6", "-kind", "fork,exec,daemon")...)
		return err
	})
	keeper := b.dockerRun(nil, "stay")
	b.repeat(func(ctx context.Context) error {
		_, err := b.engines.docker.Exec(ctx, "exec", keeper.Truth().Name, oracle.Work, "once")
		return err
	})
	b.repeat(func(context.Context) error {
		p, err := b.lxcStart("brief-lxc", "stream", "-count", "6", "-kind", "fork,exec,daemon")
		if err != nil {
			return err
		}
		_, err = b.lxc("lxc-wait", p.Truth().ID, "-s", "STOPPED", "-t", "50")
		return err
	})
	attached := b.lxcRun("stay")
	b.repeat(func(context.Context) error {
		_, err := b.lxc("lxc-attach", attached.Truth().ID, "--", oracle.Work, "once")
		return err
	})
	entered := b.lxdRun("stay")
	b.repeat(func(ctx context.Context) error {
		_, err := b.engines.lxd.Exec(ctx, "exec", entered.Truth().ID, "--", oracle.Work, "once")
		return err
	})
	b.repeat(func(ctx context.Context) error {
		p, err := b.lxdStart(ctx, "brief-lxd", "stream", "-count", "6", "-kind", "fork,exec,daemon")
		b.engines.lxd.Delete(p.Truth().ID)
		return err
	})
	b.repeat(func(ctx context.Context) error {
		p, err := b.kubeRunErr(ctx, "brief-pod", "stream", "-count", "6", "-kind", "fork,exec,daemon")
		if err != nil {
			return err
		}
		id := p.Truth().ID
		if _, err := b.engines.kube.Wait(ctx, id); err != nil {
			return err
		}
		return b.engines.kube.RemoveContainer(ctx, id)
	})
	b.repeat(func(ctx context.Context) error {
		id := b.name("brief-ctr")
		p := b.o.Container(oracle.Truth{ID: id, Name: id, Image: collectortest.BusyboxImage})
		_, err := b.engines.containerd.Exec(ctx, append(append([]string{"--namespace", "default", "run", "--rm", "--runc-root", b.engines.containerd.RuncRoot}, p.CtrArgs()...),
			collectortest.BusyboxImage, id, oracle.Work, "stream", "-count", "6", "-kind", "fork,exec,session")...)
		return err
	})
}

// repeat calls one until the context ends; a container that was started then ends
// in order. What was asked of an engine while it failed may fail.
func (b *truthBed) repeat(one func(ctx context.Context) error) {
	b.load.Go(func() {
		for b.ctx.Err() == nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), 60*time.Second)
			faults := b.siege.begun()
			err := one(ctx)
			cancel()
			if b.siege != nil {
				pause(b.ctx, time.Second) // containers cost far more than processes, of which there are to be many
			}
			if err != nil && !b.siege.failed(faults) {
				b.t.Error(err)
				return
			}
		}
	})
}
