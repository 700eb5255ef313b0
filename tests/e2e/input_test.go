// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// A bad word to say, and what must come of it: an exit code, one line on
// standard error, and in it what to do.
type badInput struct {
	name string
	args []string
	code int
	says string // part of the line
}

func TestBadInputIsOneLineThatSaysWhatToDo(t *testing.T) {
	agent := harness.StartAgent(t, programs, harness.AgentOptions{})
	dir := t.TempDir()
	dead := deadSocket(t)
	foreign := foreignSocket(t)
	broken := write(t, dir+"/broken.yaml", "socket: [\n")
	unknown := write(t, dir+"/unknown.yaml", "soket: /tmp/x\n")
	at := func(socket string, args ...string) []string { return append([]string{"--socket", socket}, args...) }
	for _, c := range []badInput{
		{"a PID that is no number", at(agent.Socket, "who", "12x!"), 2, "not a PID"},
		{"a negative PID", at(agent.Socket, "who", "--", "-5"), 2, "not a PID"},
		{"a negative PID that looks like a flag", at(agent.Socket, "who", "-5"), 2, "not a PID"},
		{"PID 0", at(agent.Socket, "who", "0"), 2, "not a PID"},
		{"a huge PID", at(agent.Socket, "who", "99999999999999999999"), 2, "not a PID"},
		{"a PID above the kernel's limit", at(agent.Socket, "who", "4194305"), 2, "not a PID"},
		{"a PID that is gone", at(agent.Socket, "who", strconv.Itoa(gonePID(t))), 3, ""},
		{"no question", at(agent.Socket, "who"), 2, "who"},
		{"a container that nobody knows", at(agent.Socket, "who", "no-such-container"), 3, ""},
		{"a cgroup that is no path", at(agent.Socket, "who", "cgroup:x"), 2, "cgroup"},
		{"a missing socket", at(dir+"/none.sock", "status"), 1, "pidigree agent"},
		{"a dead socket", at(dead, "status"), 1, "pidigree agent"},
		{"a socket of someone else's", at(foreign, "status"), 1, "not root's"},
		{"a socket that is a file", at(broken, "status"), 1, "no socket"},
		{"an unknown command", []string{"whom", "1"}, 2, "unknown command"},
		{"a PID for a command", []string{"4242"}, 2, "who 4242"},
		{"an unknown flag", at(agent.Socket, "who", "--wiat", "1s", "1"), 2, "--wait"},
		{"an unknown flag of the agent", []string{"agent", "--frobnicate"}, 2, "unknown flag"},
		{"a configuration file that is broken", []string{"agent", "--config", broken}, 2, "broken.yaml"},
		{"an unknown configuration key", []string{"agent", "--config", unknown}, 2, "socket"},
		{"a configuration file that is not there", []string{"agent", "--config", dir + "/none.yaml"}, 2, "none.yaml"},
		{"a second agent on the same socket", at(agent.Socket, "agent", "--bpf", "off"), 1, "another agent"},
	} {
		t.Run(c.name, func(t *testing.T) { c.check(t) })
	}
}

func (c badInput) check(t *testing.T) {
	out := harness.Command(t.Context(), programs, "", c.args...)
	if out.Code != c.code {
		t.Errorf("exit code %d, not %d", out.Code, c.code)
	}
	// A question with no answer says so on standard output, an error on standard error.
	if c.code != 3 && strings.Count(out.Stderr, "\n") != 1 {
		t.Errorf("standard error is not one line")
	}
	if !strings.Contains(out.Stderr, c.says) {
		t.Errorf("standard error does not say %q", c.says)
	}
	if strings.Contains(out.Stderr, "goroutine ") {
		t.Errorf("a stack trace")
	}
	if out.Took > 5*time.Second {
		t.Errorf("it took %s", out.Took)
	}
	if t.Failed() {
		t.Logf("stdout %q\nstderr %q", out.Stdout, out.Stderr)
	}
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// gonePID is a PID that no process has, or had since the agent runs: the last
// that a kernel can give, unless it did.
func gonePID(t *testing.T) int {
	t.Helper()
	for pid := 4194304; pid > 4190000; pid-- {
		if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); errors.Is(err, fs.ErrNotExist) {
			return pid
		}
	}
	t.Fatal("every PID is in use")
	return 0
}

// deadSocket is a socket whose listener is gone.
func deadSocket(t *testing.T) string {
	t.Helper()
	path := shortDir(t) + "/dead.sock"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// foreignSocket is a live socket that belongs to another user.
func foreignSocket(t *testing.T) string {
	t.Helper()
	path := shortDir(t) + "/foreign.sock"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if err := os.Chown(path, 1234, 1234); err != nil {
		t.Fatal(err)
	}
	return path
}

// shortDir is a directory whose name leaves room for a socket's.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pdi")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAUserWithoutPrivilegeIsToldSo(t *testing.T) {
	agent := harness.StartAgent(t, programs, harness.AgentOptions{})
	for name, args := range map[string][]string{
		"asking an agent that only root may ask": {"--socket", agent.Socket, "status"},
		"starting an agent":                      {"agent", "--socket", "/run/pidigree-nobody/p.sock"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, text := asUser(t, nobody, nil, args...)
			if code != 1 || out != "" {
				t.Errorf("exit code %d, not 1, and output %q", code, out)
			}
			if strings.Count(text, "\n") != 1 || !strings.Contains(text, "root") {
				t.Errorf("it said %q, which is not one line about root", text)
			}
		})
	}
}

const nobody = 65534

// asUser runs pidigree as a user without any privilege, and gives its exit code
// and what it wrote.
func asUser(t *testing.T, uid uint32, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	copied := shortDir(t) + "/pidigree" // where that user may go
	b, err := os.ReadFile(programs.Pidigree)
	if err == nil {
		err = os.WriteFile(copied, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	var out, errs strings.Builder
	cmd := exec.CommandContext(t.Context(), copied, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = "/", env, &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// Without an agent and without privilege, a container's process is unknown, never
// the host's, and one line says why less is seen than there is.
func TestAUserWithoutPrivilegeAndWithoutAnAgentIsToldWhatIsNotSeen(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	pid := strconv.Itoa(docker.InitPID(docker.Run(collectortest.BusyboxImage, "/bin/sleep", "3600")))
	env := []string{
		"PIDIGREE_SOCKET=/run/pidigree-nobody/p.sock", "PIDIGREE_DOCKER_HOST=" + docker.Socket, "PIDIGREE_DOCKER_ROOT=" + docker.Root,
		"PIDIGREE_CONTAINERD_ADDRESS=" + docker.Containerd, "PIDIGREE_CRI_ENDPOINTS=" + docker.Socket + ".none", "PIDIGREE_OCI_ROOTS=" + docker.RuncRoot,
	}
	for _, c := range []struct {
		args []string
		code int
		said string // on standard output
	}{
		{[]string{"who", pid, "-o", "json"}, 3, `"status":"unknown"`},
		{[]string{"who", pid, "-o", "json", "--no-agent"}, 3, `"status":"unknown"`},
		{[]string{"list"}, 0, "ID  NAME"},
		{[]string{"who", strconv.Itoa(os.Getpid()), "-o", "json"}, 0, `"status":"host"`},
	} {
		code, out, text := asUser(t, nobody, env, c.args...)
		if code != c.code || !strings.Contains(out, c.said) {
			t.Errorf("%q: exit code %d, not %d, and output %q, without %q", c.args, code, c.code, out, c.said)
		}
		if strings.Count(text, "\n") != 1 || !strings.Contains(text, "user 65534 does not see all") || !strings.Contains(text, "root") {
			t.Errorf("%q: it said %q, which is not one line about what is not seen", c.args, text)
		}
	}
}

func TestPIDsComeFromStandardInputToo(t *testing.T) {
	agent := harness.StartAgent(t, programs, harness.AgentOptions{})
	self := strconv.Itoa(os.Getpid())
	out := harness.Command(t.Context(), programs, self+"\n1\n", "--socket", agent.Socket, "who", "-o", "json", "-")
	if out.Code != 0 || strings.Count(out.Stdout, "\n") != 2 {
		t.Errorf("exit code %d, stdout %q, stderr %q; wanted two objects", out.Code, out.Stdout, out.Stderr)
	}
}
