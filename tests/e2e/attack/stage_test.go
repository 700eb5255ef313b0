// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// A stage is what all attacks share: the engines, an agent, an oracle that asks
// it in the background, a victim, and bystanders.
type stage struct {
	docker     *collectortest.Dockerd
	containerd *collectortest.Containerd
	agent      *harness.Agent
	client     *client.Client
	o          *oracle.Oracle
	// lies is a state directory of runc's that the agent watches and no runtime uses.
	lies string
	// guest: this is the systemd-nspawn guest. Its PIDs are not the host's,
	// systemd is PID 1, and cgroup v2 is all there is.
	guest bool

	victim *member
	// podded is a bystander in a pod; nil in the guest.
	podded *member
	// podmans is a bystander of root's podman; nil in the guest.
	podmans    *member
	bystanders []*member
	serial     int
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{guest: *inGuest}
	options := collectortest.EngineOptions{}
	if s.guest {
		options.Args = []string{"--exec-opt", "native.cgroupdriver=systemd"}
	}
	s.docker = collectortest.StartDockerd(t, options)
	s.containerd = collectortest.StartContainerd(t, collectortest.EngineOptions{})
	s.lies = shortDir(t) + "/lies"
	if err := os.Mkdir(s.lies, 0o700); err != nil {
		t.Fatal(err)
	}
	var podman *collectortest.Podman
	known := harness.AgentOptions{Docker: s.docker, Containerd: s.containerd, OCIRoots: []string{s.lies}}
	if !s.guest { // runc of its own cannot run there without the controllers of cgroup v2
		known.CRI = collectortest.StartCRI(t, collectortest.EngineOptions{})
		podman = collectortest.StartPodman(t, collectortest.EngineOptions{})
		known.Podman = podman
	}
	s.agent = harness.StartAgent(t, programs, known)
	s.client = s.dial(t, s.agent.Socket)
	s.o = oracle.Start(t, oracle.Options{Work: programs.Work, Socket: s.agent.Socket, Command: []string{programs.Pidigree}})
	s.victim = s.start(t, "victim")
	s.victim.party.Group("victim")
	for i := range 3 {
		m := s.start(t, fmt.Sprint("bystander-", i))
		m.party.Group("bystander")
		s.bystanders = append(s.bystanders, m)
	}
	if known.CRI != nil {
		s.podded = s.startInPod(t, known.CRI)
		s.podmans = s.startWithPodman(t, podman)
		s.bystanders = append(s.bystanders, s.podded, s.podmans)
	}
	host := s.o.Host().Group("bystander")
	host.RunHost("stay", "-children", "2")
	s.o.WaitReports(patience, host, 3)
	s.o.WaitKnown(patience, host)
	s.everybodyIsKnown(t)
	return s
}

// startInPod starts a bystander as the kubelet would.
func (s *stage) startInPod(t *testing.T, e *collectortest.CRI) *member {
	t.Helper()
	name := s.name("bystander-pod")
	m := &member{name: name, t: t, party: s.o.Container(oracle.Truth{Name: name, Image: collectortest.BusyboxImage}).Group("bystander")}
	p := collectortest.PodConfig{Name: "web-0", Namespace: "shop", UID: "11111111-2222-3333-4444-555555555555"}
	sandbox, err := e.RunPod(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	m.id, err = e.RunContainer(t.Context(), sandbox, p, collectortest.ContainerConfig{
		Name: name, Command: []string{oracle.Work, "stay"}, Labels: m.party.Truth().Labels, Mounts: map[string]string{oracle.Dir: m.party.Dir},
	})
	if err != nil {
		t.Fatal(err)
	}
	m.party.SetID(m.id)
	m.pid = e.InitOf(m.id)
	return m
}

// startWithPodman starts a bystander of root's podman.
func (s *stage) startWithPodman(t *testing.T, e *collectortest.Podman) *member {
	t.Helper()
	name := s.name("bystander-podman")
	m := &member{name: name, t: t, party: s.o.Container(oracle.Truth{Name: name, Image: collectortest.BusyboxImage}).Group("bystander")}
	m.id = e.Run(append(m.party.DockerArgs(), collectortest.BusyboxImage, oracle.Work, "stay")...)
	m.party.SetID(m.id)
	m.pid = e.InitPID(m.id)
	return m
}

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pda") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (s *stage) dial(t *testing.T, socket string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// everybodyIsKnown fails the test where the victim or a bystander is not.
func (s *stage) everybodyIsKnown(t *testing.T) {
	t.Helper()
	for _, m := range append(slices.Clone(s.bystanders), s.victim) {
		s.is(t, m.pid, m)
	}
}

// part runs one attack, as often as is asked for, and holds everybody who has no
// part in it to what they were promised.
func (s *stage) part(t *testing.T, name string, attack func(*testing.T, *stage)) {
	t.Run(name, func(t *testing.T) {
		before := s.o.Score()
		begin := time.Now()
		for range *rounds {
			attack(t, s)
			if t.Failed() {
				break
			}
		}
		s.everybodyIsKnown(t)
		score := s.o.Score().Since(before)
		for _, group := range []string{"bystander", "victim"} {
			n := score.Settled(group)
			t.Logf("%-9s %6d answers: unknown %.3f %%, conflict %.3f %%", group, n.Judged(), 100*n.Rate(oracle.Unknown), 100*n.Rate(oracle.Conflict))
			if n.Judged() == 0 {
				t.Errorf("nobody was asked about the %s", group)
			}
			if group == "bystander" && n.Rate(oracle.Unknown) >= 0.001 || n[oracle.Conflict] > 0 {
				t.Errorf("%s: %d of %d unknown, %d conflict\n%s", group, n[oracle.Unknown], n.Judged(), n[oracle.Conflict], strings.Join(s.o.Doubts(), "\n"))
			}
		}
		a := score.Group("attacker")
		t.Logf("attackers %6d answers: %d right, %d unknown, %d conflict, %d wrong; %s", a.All(), a[oracle.Right]+a[oracle.Partial], a[oracle.Unknown], a[oracle.Conflict], a[oracle.Wrong], time.Since(begin).Round(time.Millisecond))
	})
}

// member is a container whose init is a villain.
type member struct {
	id, name string
	// pid is that of its init, in the agent's PID namespace, which is ours.
	pid   int
	party *oracle.Party

	t       *testing.T
	orders  io.WriteCloser
	answers *bufio.Reader
}

// armed are the flags of a container that can attack: root with SYS_ADMIN, and
// with the cgroups of the host where it can write them.
var armed = []string{"--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined",
	"--cgroupns", "host", "--volume", "/sys/fs/cgroup:" + cgroupsInside}

// cgroupsInside is where the host's cgroups are in an armed container.
const cgroupsInside = "/hostcg"

// name makes a name that no other container has.
func (s *stage) name(kind string) string {
	s.serial++
	return fmt.Sprintf("%s-%d", kind, s.serial)
}

// attacker starts a container with all that an attack needs.
func (s *stage) attacker(t *testing.T, flags ...string) *member {
	t.Helper()
	m := s.start(t, "attacker", append(slices.Clone(armed), flags...)...)
	m.party.OwnOrConflict()
	s.is(t, m.pid, m)
	return m
}

// start runs a container of Docker's in the foreground: orders go in by its input.
func (s *stage) start(t *testing.T, kind string, flags ...string) *member {
	t.Helper()
	name := s.name(kind)
	m := &member{name: name, t: t, party: s.o.Container(oracle.Truth{Name: name, Image: collectortest.BusyboxImage})}
	file := filepath.Join(shortDir(t), "cid")
	cli, args := s.docker.CLI()
	args = append(args, "run", "--interactive", "--rm", "--network", "none", "--cidfile", file, "--volume", programs.Villain+":/villain:ro")
	args = append(append(args, m.party.DockerArgs()...), flags...)
	m.run(exec.Command(cli, append(args, collectortest.BusyboxImage, "/villain")...), func() error {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_, err := s.docker.Exec(ctx, "rm", "--force", name)
		return err
	})
	id, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m.id = string(id)
	m.party.SetID(m.id)
	m.pid = s.docker.InitPID(m.id)
	return m
}

// run starts the engine's client and awaits the villain's first word. With the
// test's end the villain's input ends, and so does it; else remove does it.
func (m *member) run(cmd *exec.Cmd, remove func() error) {
	m.t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	m.orders, m.answers = in, bufio.NewReader(out)
	m.t.Cleanup(func() {
		_ = in.Close()
		kill := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer kill.Stop()
		_, _ = io.Copy(io.Discard, m.answers) // until it has ended
		_ = cmd.Wait()
		_ = remove() // most often it is gone by itself
	})
	if word := m.answer(); word != "here" {
		_ = in.Close()
		m.t.Fatalf("%s says %q; %q", m.name, word, stderr.String())
	}
}

func (m *member) answer() string {
	line, err := m.answers.ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

// order gives the villain one line and returns its answer.
func (m *member) order(words ...string) (string, error) {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
		if !strconv.CanBackquote(w) {
			quoted[i] = strconv.QuoteToASCII(w)
		}
	}
	if _, err := fmt.Fprintln(m.orders, strings.Join(quoted, "\t")); err != nil {
		return "", err
	}
	answer := m.answer()
	if text, bad := strings.CutPrefix(answer, "error "); bad {
		return "", fmt.Errorf("%s, told to %s: %s", m.name, words[0], text)
	}
	return answer, nil
}

func (m *member) must(t *testing.T, words ...string) string {
	t.Helper()
	answer, err := m.order(words...)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// sitter is a process that a villain has started.
type sitter struct {
	m *member
	// pid is ours of it, inside its own.
	pid, inside int
}

// sitter starts one.
func (m *member) sitter(t *testing.T, words ...string) sitter {
	t.Helper()
	var inside int
	if _, err := fmt.Sscanf(m.must(t, words...), "pid %d", &inside); err != nil {
		t.Fatal(err)
	}
	return sitter{m, harness.Child(t, m.pid, inside), inside}
}

func (p sitter) end(t *testing.T) {
	t.Helper()
	p.m.must(t, "end", strconv.Itoa(p.inside))
}

func (p sitter) move(t *testing.T, dirs []string) {
	t.Helper()
	p.m.must(t, append([]string{"move", strconv.Itoa(p.inside)}, dirs...)...)
}

// ask puts one question by PID.
func (s *stage) ask(t *testing.T, pid int) workload.Answer {
	t.Helper()
	return s.askWith(t, workload.Query{PID: workload.PID(pid)})
}

func (s *stage) askWith(t *testing.T, q workload.Query) workload.Answer {
	t.Helper()
	results, err := s.client.Resolve(t.Context(), q)
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		t.Fatalf("%+v: %v", q, err)
	}
	return results[0].Answer
}

// askAll asks about a live process by PID, by PID and start, and by a pidfd.
func (s *stage) askAll(t *testing.T, pid int) []workload.Answer {
	t.Helper()
	key := workload.ProcessKey{PID: workload.PID(pid), Start: harness.StartTicks(t, pid) * workload.TickNS, Ticks: true}
	answers := []workload.Answer{s.ask(t, pid), s.askWith(t, workload.Query{Key: key})}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	a, err := s.client.ResolvePIDFD(t.Context(), fd)
	if err != nil {
		t.Fatal(err)
	}
	return append(answers, a)
}

// is awaits that a live process is named as its container's, confirmed.
func (s *stage) is(t *testing.T, pid int, m *member) {
	t.Helper()
	err := harness.Within(patience, func() error {
		a := s.ask(t, pid)
		if a.Status != workload.StatusContainer || a.Confidence != workload.Confirmed || a.Exited || a.Container().Name != m.name {
			return fmt.Errorf("PID %d is %s, %s, %q (%s), exited %t, not of %s", pid, a.Status, a.Confidence, idOf(a), a.Reason, a.Exited, m.name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// isNoVictim fails on an answer about an attacker's process that names anybody
// but the attacker.
func (m *member) isNoVictim(t *testing.T, a workload.Answer) {
	t.Helper()
	if a.Status == workload.StatusHost {
		t.Errorf("WRONG: %s's process is said to be the host's", m.name)
	}
	for _, c := range a.Containers {
		if c.ID.ID != m.id {
			t.Errorf("WRONG: %s's process is said to be of %s, %q", m.name, c.ID, c.Name)
		}
	}
}

func idOf(a workload.Answer) string {
	if c := a.Container(); c != nil {
		return c.ID.ID
	}
	return ""
}

// inside and outside translate between our path of a cgroup and an armed container's.
func inside(dir string) string { return cgroupsInside + strings.TrimPrefix(dir, "/sys/fs/cgroup") }

func outside(dir string) string { return "/sys/fs/cgroup" + strings.TrimPrefix(dir, cgroupsInside) }

// removeCgroups removes a directory and up to n of those around it.
func removeCgroups(t *testing.T, dir string, levels int) {
	t.Helper()
	for ; levels > 0; dir, levels = filepath.Dir(dir), levels-1 {
		err := harness.Within(patience, func() error {
			if err := unix.Rmdir(dir); !errors.Is(err, unix.ENOENT) {
				return err
			}
			return nil
		})
		if err != nil {
			t.Errorf("remove %q: %v", dir, err)
		}
	}
}
