// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestMistakesAreOneLineAndTheRightExitCode(t *testing.T) {
	tests := map[string]struct {
		args string
		code int
		want string // a part of the line
	}{
		"a PID that is no number and no container": {"who abc", ExitNoAnswer, `pidigree: who: "abc" is not a PID, container or cgroup:PATH; 'pidigree list --all'`},
		"a word that nothing can be called":        {"who a/b", ExitUsage, `pidigree: who: "a/b" is not a PID, container or cgroup:PATH; see 'pidigree who --help'`},
		"a number with something behind":           {"who 12,13", ExitUsage, `"12,13" is not a PID, container or cgroup:PATH`},
		"a negative PID":                           {"who -5", ExitUsage, `"-5" is not a PID: PIDs are 1 to 4194304`},
		"a negative PID after --":                  {"who -- -5", ExitUsage, `"-5" is not a PID: PIDs are 1 to 4194304`},
		"PID zero":                                 {"who 0", ExitUsage, `"0" is not a PID`},
		"a PID above the kernel's limit":           {"who 4194305", ExitUsage, `"4194305" is not a PID`},
		"a PID that fits no integer":               {"who 99999999999999999999999", ExitUsage, "is not a PID"},
		"a PID that is gone":                       {"who 405", ExitNoAnswer, "pidigree: who: 405: no such process, and none is remembered"},
		"a PID that had no owner then":             {"who --at 5m 405", ExitNoAnswer, "405: nobody is remembered to have had that PID then"},
		"a process instance that is gone":          {"who 405@12", ExitNoAnswer, "405@12: no such process"},
		"a process instance without a start":       {"who 405@", ExitUsage, `"405@" is not PID@START`},
		"a cgroup that is gone":                    {"who cgroup:/x", ExitNoAnswer, "cgroup:/x: no such cgroup"},
		"a cgroup without a slash":                 {"who cgroup:x", ExitUsage, `"cgroup:x" is not a cgroup: write cgroup:/PATH`},
		"a name that fits two containers":          {"who two", ExitUsage, "two: ambiguous: two-a, two-b"},
		"nothing to ask":                           {"who", ExitUsage, "needs a PID"},
		"the worst of several counts":              {"who 4242 666", ExitNoAnswer, ""},
		"unknown is no error but no answer":        {"who 404 4242", ExitNoAnswer, ""},
		"host is an answer":                        {"who 900", ExitOK, ""},
		"a bad word asks nothing at all":           {"who 4242 a/b", ExitUsage, `"a/b" is not`},
		"explain takes the same words":             {"explain abc", ExitNoAnswer, `pidigree: explain: "abc" is not a PID`},
		"an unknown flag":                          {"who --wiat 1s 1", ExitUsage, `unknown flag "--wiat": did you mean "--wait"? See 'pidigree who --help'`},
		"an unknown short flag":                    {"who -x 1", ExitUsage, `unknown flag "-x"`},
		"a flag without its value":                 {"who 1 --wait", ExitUsage, "flag needs an argument: --wait"},
		"a flag with a bad value":                  {"who 1 --wait soon", ExitUsage, `"soon"`},
		"a negative wait":                          {"who 1 --wait -1s", ExitUsage, "--wait -1s is not between 0 and 5m"},
		"a negative timeout":                       {"who 1 --timeout -1s", ExitUsage, "--timeout -1s is negative"},
		"a bad time":                               {"who 1 --at yesterday", ExitUsage, `--at "yesterday" is not a time: write 30s for half a minute ago`},
		"a time to come":                           {"who 1 --at 2999-01-01T00:00:00Z", ExitUsage, "is in the future"},
		"waiting for the past":                     {"who 1 --at 5s --wait 5s", ExitUsage, "exclude each other"},
		"an unknown command":                       {"lst", ExitUsage, `pidigree: unknown command "lst": did you mean "list"? See 'pidigree --help'`},
		"an unknown command with flags":            {"stauts -o json", ExitUsage, `unknown command "stauts": did you mean "status"?`},
		"a PID in place of a command":              {"4242", ExitUsage, "did you mean 'pidigree who 4242'?"},
		"a command nothing like ours":              {"frobnicate", ExitUsage, `unknown command "frobnicate"; see 'pidigree --help'`},
		"help on an unknown command":               {"help lst", ExitUsage, `unknown command "lst": did you mean "list"?`},
		"an unknown format":                        {"who 1 -o xml", ExitUsage, `-o "xml" is not one of table, wide, json, yaml, name, go-template`},
		"a format of another command":              {"status -o name", ExitUsage, `-o "name" is not one of`},
		"a template that does not parse":           {"who 1 -o go-template={{", ExitUsage, "-o go-template: template:"},
		"a template that does not run":             {"who 4242 -o go-template={{index.pid}}", ExitUsage, "-o go-template: template:"},
		"no template":                              {"who 1 -o go-template", ExitUsage, "needs a template"},
		"a value for a format without":             {"who 1 -o json=x", ExitUsage, "-o json takes no value"},
		"an unknown kind":                          {"list contaners", ExitUsage, `unknown kind "contaners": did you mean "containers"?; the kinds are`},
		"two kinds":                                {"list pods images", ExitUsage, "takes one KIND, not 2"},
		"an unknown kind to watch":                 {"watch contaners", ExitUsage, "unknown kind"},
		"a revision that is none":                  {"watch --since yesterday", ExitUsage, `--since "yesterday" is not a revision`},
		"arguments where there are none":           {"status now", ExitUsage, `takes no arguments, not "now"`},
		"arguments of agent":                       {"agent start", ExitUsage, `takes no arguments, not "start"`},
		"an unknown shell":                         {"completion bsh", ExitUsage, `unknown shell "bsh": did you mean "bash"?`},
		"no shell":                                 {"completion", ExitUsage, "needs one shell"},
		"a relative socket":                        {"who 1 --socket x.sock", ExitUsage, `--socket: "x.sock" is not an absolute path`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := (&world{agent: testAgent()}).main(t, strings.Fields(tt.args)...)
			if got.code != tt.code {
				t.Errorf("exit code %d, want %d", got.code, tt.code)
			}
			checkLine(t, got.stderr, tt.want)
			if tt.code == ExitUsage && tt.args != "who two" && !strings.Contains(tt.args, "index.pid") && got.stdout != "" {
				t.Errorf("a mistake printed %q", got.stdout)
			}
		})
	}
}

// checkLine checks an error message: one line that has a part, or nothing.
func checkLine(t *testing.T, stderr, part string) {
	t.Helper()
	if part == "" {
		if stderr != "" {
			t.Errorf("said %q", stderr)
		}
		return
	}
	if strings.Count(stderr, "\n") != 1 || !strings.HasPrefix(stderr, "pidigree: ") || !strings.Contains(stderr, part) {
		t.Errorf("said %q, want a line with %q", stderr, part)
	}
}

func TestABackendsErrorSaysWhatToDo(t *testing.T) {
	tests := map[string]struct {
		err  error
		code int
		want string
	}{
		"denied":      {fmt.Errorf("resolve: %w: become root", workload.ErrDenied), ExitFailed, "permission denied: become root\n"},
		"unavailable": {fmt.Errorf("resolve: %w", workload.ErrUnavailable), ExitFailed, "try again"},
		"dead":        {fmt.Errorf("resolve: ask /s: %w", client.ErrDead), ExitFailed, "resolve: ask /s: the agent does not answer"},
		"anything":    {errors.New("resolve: out of luck"), ExitFailed, "pidigree: who: resolve: out of luck"},
	}
	for name, tt := range tests {
		f := testAgent()
		f.err = tt.err
		got := (&world{agent: f}).main(t, "who", "4242")
		if got.code != tt.code || f.closed != 1 {
			t.Errorf("%s: exit code %d, closed %d", name, got.code, f.closed)
		}
		checkLine(t, got.stderr, tt.want)
	}
}

func TestAListThatBreaksOffFails(t *testing.T) {
	f := testAgent()
	f.listErr = fmt.Errorf("list: %w", client.ErrDead)
	got := (&world{agent: f}).main(t, "list", "-o", "json")
	if got.code != ExitFailed || strings.Count(got.stdout, "\n") != 3 {
		t.Errorf("%+v", got)
	}
	checkLine(t, got.stderr, "pidigree: list: the agent does not answer")
}

func TestAnAgentThatSaysNothingIsGivenUp(t *testing.T) {
	got := (&world{agent: &fake{hang: true}}).main(t, "who", "4242", "--timeout", "20ms")
	if got.code != ExitFailed {
		t.Errorf("exit code %d", got.code)
	}
	checkLine(t, got.stderr, "no answer from the agent at /run/pidigree/pidigree.sock within 20ms")
}

func TestAnInterruptedQuestionFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got := (&world{agent: &fake{hang: true}}).mainContext(ctx, "who", "4242")
	if got.code != ExitFailed {
		t.Errorf("exit code %d", got.code)
	}
	checkLine(t, got.stderr, "pidigree: who: interrupted")
}

func TestWithoutAnAgentWatchAndStatusSayHowToStartOne(t *testing.T) {
	for _, args := range [][]string{{"status"}, {"watch"}} {
		var stderr strings.Builder
		code := Main(t.Context(), Env{
			Args: append(args, "--socket", filepath.Join(t.TempDir(), "none.sock")), Stdout: &strings.Builder{}, Stderr: &stderr,
			Local: noLocal, RunAgent: noRun, CheckAgent: noCheck,
		})
		if code != ExitFailed {
			t.Errorf("exit code %d", code)
		}
		checkLine(t, stderr.String(), "pidigree agent")
	}
}

// host runs the command line with the real client.
func host(tb testing.TB, args ...string) outcome {
	tb.Helper()
	var stdout, stderr strings.Builder
	code := Main(tb.Context(), Env{
		Args: args, Stdout: &stdout, Stderr: &stderr,
		Local:    func(context.Context, LocalOptions) (Backend, error) { return testAgent(), nil },
		RunAgent: noRun, CheckAgent: noCheck,
	})
	return outcome{code, stdout.String(), stderr.String()}
}

// shortDir is a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "pcli") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestSocketsThatAreNoAgents(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	dead, foreign := listen(t, dir, "dead"), listen(t, dir, "foreign")
	dead.SetUnlinkOnClose(false)
	if err := dead.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(foreign.Addr().String(), 4711, 4711); err != nil {
		t.Fatalf("this test needs root: %v", err)
	}
	tests := map[string]struct {
		socket     string
		who, watch string
		answered   bool
	}{
		"missing":     {filepath.Join(dir, "none"), "no agent at", "start one with", true},
		"dead":        {dead.Addr().String(), "no agent at", "left behind", true},
		"not one":     {file, "is no socket", "is no socket", false},
		"wrong owner": {foreign.Addr().String(), "is not root's", "is not root's", false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := host(t, "who", "4242", "--socket", tt.socket)
			if answered := got.code == ExitOK; answered != tt.answered || answered != (got.stdout != "") {
				t.Errorf("who: %+v", got)
			}
			checkLine(t, got.stderr, tt.who)
			got = host(t, "watch", "--socket", tt.socket)
			if got.code != ExitFailed || got.stdout != "" {
				t.Errorf("watch: %+v", got)
			}
			checkLine(t, got.stderr, tt.watch)
		})
	}
}

func listen(t *testing.T, dir, name string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, name), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestAStoppedAgentIsGivenUpAfterTheTimeout(t *testing.T) {
	l := listen(t, shortDir(t), "hung") // accepts, as a stopped process does, and says nothing
	begin := time.Now()
	got := host(t, "who", "4242", "--socket", l.Addr().String(), "--timeout", "100ms")
	if got.code != ExitFailed || time.Since(begin) > 3*time.Second {
		t.Errorf("%+v after %s", got, time.Since(begin))
	}
	if strings.Count(got.stderr, "\n") != 1 {
		t.Errorf("said %q", got.stderr)
	}
}
