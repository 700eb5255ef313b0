// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
)

// readyTimeout is how long an agent may take until it has answered its first
// question: it loads BPF programs and lists the engines on two shared cores.
const readyTimeout = 30 * time.Second

// AgentOptions say how to start an agent. The zero value is an agent that knows
// of no engine at all.
type AgentOptions struct {
	// Docker, Containerd and Podman are the engines that it is told of.
	Docker     *collectortest.Dockerd
	Containerd *collectortest.Containerd
	Podman     *collectortest.Podman
	// PodmanUsers reads the podmans of all users of this machine.
	PodmanUsers bool
	// CRI is an engine that the kubelet uses: it is told of its CRI and, it being a
	// containerd, of that.
	CRI *collectortest.CRI
	// CRIEndpoint is used in place of the engine's own, for a proxy.
	CRIEndpoint string
	// Kubelet is asked on its read-only port; without one no kubelet is looked for.
	Kubelet *collectortest.Kubelet
	// DockerSocket and ContainerdAddress are used in place of the engines' own, for a proxy.
	DockerSocket      string
	ContainerdAddress string
	// OCIRoots are further state directories of runc, or globs of them.
	OCIRoots []string
	// NoOCI leaves out where the engines' runc keeps its state, as on a host
	// where nobody thought of it.
	NoOCI bool
	// Equal leaves the agent in the session of the tests and their engines, which
	// the kernel may schedule as one group. Otherwise it leads its own, as a service does.
	Equal bool
	// User is the uid and gid as which it runs, and is asked, without privileges. 0: root.
	User uint32
	// Args are added to the command line.
	Args []string
}

// Agent is a running `pidigree agent`.
type Agent struct {
	// Dir holds its socket and log.
	Dir string
	// Socket is where it answers.
	Socket string

	tb       testing.TB
	programs Programs
	argv     []string
	equal    bool
	user     uint32
	p        *process
}

// StartAgent starts an agent, waits until it is ready, and ends it with the
// test. An agent that does not end in order, or that wrote a stack trace, fails
// the test.
func StartAgent(tb testing.TB, programs Programs, opts AgentOptions) *Agent {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", "pde") // t.TempDir is too long for a socket's path
	if err != nil {
		tb.Fatal(err)
	}
	a := &Agent{Dir: dir, Socket: dir + "/run/pidigree.sock", tb: tb, programs: programs, equal: opts.Equal, user: opts.User}
	tb.Cleanup(a.cleanup)
	a.argv = append([]string{programs.Pidigree, "agent"}, a.flags(opts)...)
	if a.user != 0 {
		a.argv[0] = a.belongTo(a.user)
		id := strconv.FormatUint(uint64(a.user), 10)
		a.argv = append([]string{"setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--"}, a.argv...)
	}
	a.Start()
	return a
}

// belongTo makes the agent's directory a user's, and gives a copy of the program where
// that one may go.
func (a *Agent) belongTo(user uint32) string {
	a.tb.Helper()
	program := a.Dir + "/pidigree"
	b, err := os.ReadFile(a.programs.Pidigree)
	if err == nil {
		err = os.WriteFile(program, b, 0o755)
	}
	if err = errors.Join(err, os.Chown(a.Dir, int(user), int(user))); err != nil {
		a.tb.Fatal(err)
	}
	a.programs.Pidigree = program
	return program
}

// flags keep the agent to the test's own engines: every default place is
// replaced by one that is empty.
func (a *Agent) flags(opts AgentOptions) []string {
	none := a.Dir + "/none"
	docker, root, containerd := none+"/docker.sock", none+"/docker", []string{}
	oci := opts.OCIRoots
	if e := opts.Docker; e != nil {
		docker, root = e.Socket, e.Root
		containerd = append(containerd, e.Containerd)
		oci = append(oci, e.RuncRoot)
	}
	if e := opts.Containerd; e != nil {
		containerd = append(containerd, e.Address)
		oci = append(oci, e.RuncRoot+"/*") // one for each namespace
	}
	cri := none + "/cri.sock"
	if e := opts.CRI; e != nil {
		cri = e.Address
		containerd = append(containerd, e.Address)
		oci = append(oci, e.RuncRoot+"/*")
	}
	if opts.CRIEndpoint != "" {
		cri = opts.CRIEndpoint
	}
	kubelet := "none"
	if e := opts.Kubelet; e != nil {
		kubelet = e.ReadOnly
	}
	podman, users := none+"/podman", "off"
	if opts.PodmanUsers {
		users = "auto"
	}
	if e := opts.Podman; e != nil {
		podman = e.Root
		oci = append(oci, e.RuncRoot)
	}
	if opts.NoOCI {
		oci = opts.OCIRoots
	}
	if opts.DockerSocket != "" {
		docker = opts.DockerSocket
	}
	if opts.ContainerdAddress != "" {
		containerd[len(containerd)-1] = opts.ContainerdAddress
	}
	if len(containerd) == 0 {
		containerd = append(containerd, none+"/containerd.sock")
	}
	return append([]string{
		"--socket", a.Socket, "--run-dir", none, "--log-level", "debug", "--lxc-paths", none + "/lxc", "--incus-sockets", none + "/lxd.sock",
		"--docker-host", docker, "--docker-root", root,
		"--containerd-address", strings.Join(containerd, ","),
		"--cri-endpoints", cri,
		"--podman-roots", podman, "--podman-users", users,
		"--kubelet-address", kubelet, "--ecs-address", "none",
		"--oci-roots", strings.Join(oci, ","),
	}, opts.Args...)
}

// Start starts the agent, again after Stop or Kill, and waits until it is ready.
func (a *Agent) Start() {
	a.tb.Helper()
	p, err := start(a.Dir+"/log", cleanEnv(), !a.equal, a.argv...)
	if err != nil {
		a.tb.Fatal(err)
	}
	a.p = p
	ctx, cancel := context.WithTimeout(a.tb.Context(), readyTimeout)
	defer cancel()
	if err := await(ctx, a.ready); err != nil {
		a.tb.Fatalf("the agent is not ready: %v; its log ends:\n%s", err, p.tail())
	}
}

// ready asks for the status by the library: a command each few milliseconds would
// take half of the CPUs that the agent starts on.
func (a *Agent) ready(ctx context.Context) error {
	if !a.p.running() {
		a.tb.Fatalf("the agent ended at once: %v; its log ends:\n%s", a.p.err, a.p.tail())
	}
	c, err := client.New(client.Options{Socket: a.Socket, AnyOwner: a.user != 0})
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := c.Status(ctx)
	switch {
	case err != nil:
		return fmt.Errorf("status: %w", err)
	case !s.Ready:
		return errors.New("status says that it is not ready")
	}
	return nil
}

// PID is the agent's.
func (a *Agent) PID() int { return a.p.pid }

// Signal sends a signal to the agent.
func (a *Agent) Signal(s syscall.Signal) error { return a.p.signal(s) }

// Stop ends the agent in order.
func (a *Agent) Stop() {
	a.tb.Helper()
	if err := a.p.stop(syscall.SIGTERM, 10*time.Second); err != nil {
		a.tb.Errorf("stop the agent: %v", err)
	}
}

// Kill ends the agent with SIGKILL.
func (a *Agent) Kill() {
	_ = a.p.signal(syscall.SIGKILL)
	<-a.p.done
}

// Log is the end of what the agent logged.
func (a *Agent) Log() string { return a.p.tail() }

func (a *Agent) cleanup() {
	if a.p != nil {
		if a.p.running() {
			a.describe()
			a.Stop()
		}
		log := a.p.tail()
		if strings.Contains(log, "\ngoroutine ") {
			a.tb.Errorf("the agent wrote a stack trace")
		}
		if a.tb.Failed() {
			a.tb.Logf("the agent's log ends:\n%s", log)
		}
	}
	if err := os.RemoveAll(a.Dir); err != nil {
		a.tb.Errorf("remove %s: %v", a.Dir, err)
	}
}

// describe shows what the agent knows where the test has failed.
func (a *Agent) describe() {
	if !a.tb.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, args := range [][]string{{"status"}, {"list", "--all", "-o", "json"}} {
		out := a.Command(ctx, args...)
		a.tb.Logf("pidigree %s:\n%s%s", strings.Join(args, " "), out.Stdout[:min(len(out.Stdout), 8000)], out.Stderr)
	}
}

// Output is what one command did.
type Output struct {
	Stdout, Stderr string
	Code           int
	Took           time.Duration
}

// Command runs one command of pidigree against this agent. It may be called concurrently.
func (a *Agent) Command(ctx context.Context, args ...string) Output {
	return command(ctx, a.programs, a.user, "", append([]string{"--socket", a.Socket}, args...)...)
}

// Command runs pidigree with a standard input and gives what it did.
func Command(ctx context.Context, programs Programs, stdin string, args ...string) Output {
	return command(ctx, programs, 0, stdin, args...)
}

func command(ctx context.Context, programs Programs, user uint32, stdin string, args ...string) Output {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, programs.Pidigree, args...)
	cmd.Env = cleanEnv()
	if user != 0 {
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	begin := time.Now()
	err := cmd.Run()
	out := Output{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode(), Took: time.Since(begin)}
	if err != nil && out.Code < 0 {
		out.Stderr += err.Error()
	}
	return out
}

// Who is `pidigree who ARGS -o json`, decoded. It fails the test where that is
// not one JSON object a line.
func (a *Agent) Who(args ...string) []Answer {
	a.tb.Helper()
	out := a.Command(a.tb.Context(), append([]string{"who", "-o", "json"}, args...)...)
	answers, err := decode(out.Stdout)
	if err != nil {
		a.tb.Fatalf("who %s: %v\nexit code %d, stdout %q, stderr %q", strings.Join(args, " "), err, out.Code, out.Stdout, out.Stderr)
	}
	return answers
}

// Await asks `who` until the answer is as wanted: want says what is still wrong.
func (a *Agent) Await(patience time.Duration, question string, want func(Answer) error) Answer {
	a.tb.Helper()
	ctx, cancel := context.WithTimeout(a.tb.Context(), patience)
	defer cancel()
	var last Answer
	err := await(ctx, func(ctx context.Context) error {
		out := a.Command(ctx, "who", "-o", "json", question)
		answers, err := decode(out.Stdout)
		if err != nil {
			return fmt.Errorf("%w (exit code %d, stderr %q)", err, out.Code, out.Stderr)
		}
		last = answers[0]
		return want(last)
	})
	if err != nil {
		a.tb.Fatalf("who %s: %v\nlast answer %+v", question, err, last)
	}
	return last
}

// decode reads objects, one a line.
func decode(stdout string) ([]Answer, error) {
	var answers []Answer
	for line := range strings.Lines(stdout) {
		var one Answer
		if err := json.Unmarshal([]byte(line), &one); err != nil {
			return nil, fmt.Errorf("%w: %q", err, line)
		}
		answers = append(answers, one)
	}
	if len(answers) == 0 {
		return nil, errors.New("no answer was printed")
	}
	return answers, nil
}

// cleanEnv is the caller's environment without settings of pidigree.
func cleanEnv() []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "PIDIGREE_") {
			env = append(env, kv)
		}
	}
	return append(env, "PATH=/usr/sbin:/sbin:"+os.Getenv("PATH"), "HOME="+filepath.Clean(os.TempDir()))
}
