// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/workload"
)

func TestCommandsPrintWhatTheyDidBefore(t *testing.T) {
	all := []string{"4242", "5001", "777", "900", "2", "666", "404", "13", "405"}
	tests := map[string][]string{
		"who-table":            append([]string{"who"}, all...),
		"who-wide":             append([]string{"who", "-o", "wide"}, all...),
		"who-json":             append([]string{"who", "-o", "json"}, all...),
		"who-yaml":             append([]string{"who", "-o", "yaml"}, all...),
		"who-name":             append([]string{"who", "-o", "name"}, all...),
		"who-template":         append([]string{"who", `-o=go-template={{.pid}} {{.status}} {{range .containers}}{{.name}} {{json .labels}}{{end}}`}, all...),
		"who-other-subjects":   {"who", "web", "self", "cgroup:/docker/4f", "4242@3540012000000", "container:web"},
		"explain-table":        {"explain", "4242", "5001", "777", "900", "13"},
		"explain-json":         {"explain", "4242", "-o", "json"},
		"explain-yaml":         {"explain", "4242", "-o", "yaml"},
		"list-containers":      {"list"},
		"list-containers-all":  {"list", "--all"},
		"list-containers-wide": {"list", "-o", "wide", "--all"},
		"list-containers-json": {"list", "--all", "-o", "json"},
		"list-containers-yaml": {"list", "--all", "-o", "yaml"},
		"list-containers-name": {"list", "-o", "name"},
		"list-pods":            {"list", "pods", "--all"},
		"list-pods-json":       {"list", "pods", "-o", "json"},
		"list-pods-name":       {"list", "pods", "-o", "name"},
		"list-images":          {"list", "images"},
		"list-images-json":     {"list", "images", "-o", "json"},
		"list-tasks":           {"list", "tasks"},
		"list-tasks-json":      {"list", "task", "-o", "json"},
		"list-services":        {"list", "services"},
		"list-services-json":   {"list", "services", "-o", "json"},
		"list-processes":       {"list", "processes"},
		"list-processes-json":  {"list", "processes", "-o", "json"},
		"list-processes-name":  {"list", "processes", "-o", "name"},
		"list-detail":          {"list", "processes", "--detail"},
		"list-detail-json":     {"list", "processes", "--detail", "-o", "json"},
		"list-tree":            {"list", "processes", "--tree", "--all"},
		"explain-family":       {"explain", "900"},
		"explain-family-json":  {"explain", "900", "-o", "json"},
		"list-template":        {"list", "-o", `go-template={{.id}} {{index .labels "app"}}`},
		"status-table":         {"status"},
		"status-wide":          {"status", "-o", "wide"},
		"status-json":          {"status", "-o", "json"},
		"status-yaml":          {"status", "-o", "yaml"},
	}
	for name, args := range tests {
		t.Run(name, func(t *testing.T) {
			w := world{agent: testAgent()}
			golden(t, name, args, w.main(t, args...))
			if n := w.agent.(*fake).closed; n != 1 {
				t.Errorf("the connection was closed %d times", n)
			}
		})
	}
}

func TestAWatchPrintsALineForEachChangeUntilTheAgentEnds(t *testing.T) {
	tests := map[string][]string{
		"watch-from-now":   {"watch"},
		"watch-since-0":    {"watch", "--since", "0"},
		"watch-json":       {"watch", "-o", "json"},
		"watch-json-since": {"watch", "--since=39", "-o", "json"},
		"watch-name":       {"watch", "-o", "name"},
	}
	for name, args := range tests {
		t.Run(name, func(t *testing.T) {
			f := testAgent()
			f.end = errors.New("watch: the agent does not answer")
			golden(t, name, args, (&world{agent: f}).main(t, args...))
		})
	}
}

func TestAnInterruptedWatchIsNoFailure(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	got := (&world{agent: &fake{}}).mainContext(ctx, "watch")
	if diff := cmp.Diff(outcome{}, got, cmp.AllowUnexported(outcome{})); diff != "" {
		t.Error(diff)
	}
}

func TestColoursAreForTerminalsOnly(t *testing.T) {
	args := []string{"who", "4242", "666", "13"}
	coloured := (&world{agent: testAgent(), terminal: true}).main(t, args...)
	golden(t, "who-terminal", args, outcome{coloured.code, strings.ReplaceAll(coloured.stdout, "\x1b", "<ESC>"), coloured.stderr})
	plain := (&world{agent: testAgent()}).main(t, args...)
	for name, env := range map[string]map[string]string{"NO_COLOR": {"NO_COLOR": "1"}, "a dumb terminal": {"TERM": "dumb"}} {
		got := (&world{agent: testAgent(), terminal: true, env: env}).main(t, args...)
		if diff := cmp.Diff(plain.stdout, got.stdout); diff != "" {
			t.Errorf("%s is not as piped: %s", name, diff)
		}
	}
	if strings.Contains(plain.stdout, "\x1b") {
		t.Errorf("piped output has escapes: %q", plain.stdout)
	}
}

func TestHelpOfEveryCommand(t *testing.T) {
	for _, name := range []string{"", "agent", "completion", "explain", "list", "status", "version", "watch", "who", "help"} {
		args := strings.Fields("help " + name)
		got := (&world{}).main(t, args...)
		golden(t, "help-"+name, args, got)
		if name == "" {
			continue
		}
		if flag := (&world{}).main(t, name, "--help"); flag != got {
			t.Errorf("%s --help is not help %s", name, name)
		}
		for line := range strings.Lines(got.stdout) {
			// A default is as long as it is: that of --cri-endpoints are four paths.
			if said, _, _ := strings.Cut(line, " (default "); len(said) > 130 || len(line) > 230 {
				t.Errorf("help %s has a line of %d characters: %s", name, len(line), line)
			}
		}
	}
	if bare, help := (&world{}).main(t), (&world{}).main(t, "help"); bare != help {
		t.Errorf("pidigree alone is not its help: %+v", bare)
	}
}

func TestVersionSaysRelease(t *testing.T) {
	got := (&world{}).main(t, "version")
	if !strings.HasPrefix(got.stdout, "pidigree v1.2.3\n") || !strings.Contains(got.stdout, "go1.") || got.code != 0 {
		t.Errorf("version: %+v", got)
	}
	if got := (&world{}).main(t, "--version"); got.stdout != "pidigree v1.2.3\n" {
		t.Errorf("--version: %+v", got)
	}
	var v map[string]any
	if err := json.Unmarshal([]byte((&world{}).main(t, "version", "-o", "json").stdout), &v); err != nil || v["version"] != "v1.2.3" {
		t.Errorf("version -o json: %v, %v", v, err)
	}
}

func TestACompletionScriptForEveryShell(t *testing.T) {
	for _, shell := range shells() {
		got := (&world{}).main(t, "completion", shell)
		if got.code != 0 || !strings.Contains(got.stdout, "pidigree") {
			t.Errorf("completion %s: code %d, %d bytes", shell, got.code, len(got.stdout))
		}
	}
}

func TestCompletionOffersContainersWithHarmlessNames(t *testing.T) {
	w := world{agent: testAgent()}
	golden(t, "complete-who", []string{"__complete", "who", ""}, w.main(t, "__complete", "who", ""))
	if w.agent.(*fake).closed != 1 {
		t.Error("the connection was not closed")
	}
	if got := w.main(t, "__complete", "who", "wo"); !strings.HasPrefix(got.stdout, "worker\t") {
		t.Errorf("complete wo: %q", got.stdout)
	}
	if got := (&world{}).main(t, "__complete", "who", ""); got.stdout != ":4\n" {
		t.Errorf("without an agent: %q", got.stdout)
	}
	if got := w.main(t, "__complete", "list", ""); !strings.Contains(got.stdout, "images") {
		t.Errorf("complete list: %q", got.stdout)
	}
}

func TestStandardInputIsAskedInBatches(t *testing.T) {
	f := testAgent()
	w := world{agent: f, stdin: strings.Repeat("4242\t900\n", 1100) + "\n  a/b  -5 4242"}
	got := w.main(t, "who", "-", "-o", "name")
	if n := strings.Count(got.stdout, "\n"); n != 2201 || len(f.queries) != 2201 {
		t.Errorf("%d lines, %d queries", n, len(f.queries))
	}
	if got.code != ExitUsage || strings.Count(got.stderr, "\n") != 2 {
		t.Errorf("bad words: code %d, %s", got.code, got.stderr)
	}
}

func TestAWordWithoutAnEndOnStandardInputIsRefused(t *testing.T) {
	got := (&world{agent: testAgent(), stdin: "4242 " + strings.Repeat("x", 1<<20)}).main(t, "who", "-")
	if got.code != ExitFailed || strings.Count(got.stderr, "\n") != 1 {
		t.Errorf("%d %.300s", got.code, got.stderr)
	}
}

func TestEmptyStandardInputAsksNothing(t *testing.T) {
	got := (&world{agent: testAgent()}).main(t, "who", "-")
	if diff := cmp.Diff(outcome{}, got, cmp.AllowUnexported(outcome{})); diff != "" {
		t.Error(diff)
	}
}

func TestWithoutAnAgentTheHostAnswersAndSaysSo(t *testing.T) {
	for _, args := range [][]string{{"who", "4242"}, {"explain", "4242"}, {"list"}} {
		w := world{local: testAgent(), env: map[string]string{"PIDIGREE_SOCKET": "/tmp/none.sock", "PIDIGREE_DOCKER_HOST": "/tmp/d.sock"}}
		got := w.main(t, args...)
		want := "pidigree: no agent at /tmp/none.sock: answered from /proc, cgroups and runtimes\n"
		if got.code != 0 || got.stderr != want || got.stdout == "" {
			t.Errorf("%v: %+v", args, got)
		}
		if diff := cmp.Diff([]string{"/tmp/d.sock"}, w.localised.DockerHosts); diff != "" {
			t.Errorf("the settings did not arrive: %s", diff)
		}
		w = world{agent: testAgent(), local: testAgent()}
		if forced := w.main(t, append(args, "--no-agent")...); forced.stdout != got.stdout || forced.stderr != "" || w.dialled != "" {
			t.Errorf("--no-agent %v: %+v, dialled %q", args, forced, w.dialled)
		}
	}
}

func TestTheSocketMayBeNamedBeforeTheCommand(t *testing.T) {
	w := world{agent: testAgent()}
	if got := w.main(t, "--socket", "/tmp/a.sock", "who", "4242"); got.code != 0 || w.dialled != "/tmp/a.sock" {
		t.Errorf("%+v, dialled %q", got, w.dialled)
	}
	w = world{local: testAgent()}
	if got := w.main(t, "--no-agent", "who", "4242"); got.code != 0 || w.localised == nil {
		t.Errorf("%+v", got)
	}
}

func TestFlagsBecomeQueries(t *testing.T) {
	f := testAgent()
	(&world{agent: f}).main(t, "who", "--wait", "500ms", "4242")
	(&world{agent: f}).main(t, "who", "--at", "-30s", "4242")
	(&world{agent: f}).main(t, "explain", "--at", "2026-03-04T05:06:00Z", "4242")
	want := []string{"500ms 0s false", "0s 30s false", "0s 7s true"}
	for i, q := range f.queries {
		ago := "0s"
		if !q.At.IsZero() {
			ago = testNow.Sub(q.At).String()
		}
		if got := fmt.Sprintf("%s %s %t", q.Wait, ago, q.Explain); got != want[i] {
			t.Errorf("query %d: %s, want %s", i, got, want[i])
		}
	}
}

func TestFlagsBecomeSelectors(t *testing.T) {
	for _, command := range []string{"list", "watch"} {
		f := testAgent()
		f.end = errors.New("ended")
		got := (&world{agent: f}).main(t, command, "--name", "web-*", "--name=db", "--image", "*/nginx", "--namespace", "prod", "--label", "app=a,b",
			"--exclude-name", "x", "--exclude-image", "y", "--exclude-namespace", "kube-*", "--exclude-label", "tier", "--all", "--sandboxes")
		want := workload.Selector{
			Kinds: []workload.Kind{workload.KindContainer}, All: true,
			Include: workload.Filter{Names: []string{"web-*", "db"}, Images: []string{"*/nginx"}, Namespaces: []string{"prod"}, Labels: []string{"app=a,b"}},
			Exclude: workload.Filter{Names: []string{"x"}, Images: []string{"y"}, Namespaces: []string{"kube-*"}, Labels: []string{"tier"}},
		}
		if diff := cmp.Diff(want, f.selector); diff != "" {
			t.Errorf("%s: %+v (-want +got):\n%s", command, got, diff)
		}
		(&world{agent: f}).main(t, command)
		if !f.selector.NoSandboxes {
			t.Errorf("%s shows sandboxes", command)
		}
		(&world{agent: f}).main(t, command, "pods")
		if f.selector.NoSandboxes || f.selector.Kinds[0] != workload.KindPod {
			t.Errorf("%s pods: %+v", command, f.selector)
		}
	}
}

func TestBadPatternsAreUsageErrors(t *testing.T) {
	for _, args := range [][]string{
		{"list", "--name", "[a"}, {"watch", "--label", "=x"}, {"list", "--exclude-image", ""}, {"list", "--namespaec", "x"},
		{"agent", "--exclude-label", "=v"}, {"agent", "--include-name", "a\\"},
	} {
		got := (&world{agent: testAgent()}).main(t, args...)
		if got.code != ExitUsage || strings.Count(got.stderr, "\n") > 2 || !strings.Contains(got.stderr, args[1]) {
			t.Errorf("%q: %d %q", args, got.code, got.stderr)
		}
		if args[1] == "--namespaec" && !strings.Contains(got.stderr, "--namespace") {
			t.Errorf("the nearest flag is not named: %q", got.stderr)
		}
	}
}

func TestAFullDiskIsAFailure(t *testing.T) {
	for _, args := range [][]string{{"who", "4242"}, {"who", "4242", "-o", "json"}, {"who", "4242", "-o", "name"}, {"list"}, {"status"}, {"explain", "4242"}, {"version"}, {"agent", "--print-config"}} {
		var stderr strings.Builder
		code := Main(t.Context(), Env{
			Args: args, Stdout: full{}, Stderr: &stderr, Local: noLocal, RunAgent: noRun, CheckAgent: noCheck,
			Dial: func(context.Context, AgentConfig) (Backend, error) { return testAgent(), nil },
		})
		if code != ExitFailed || !strings.Contains(stderr.String(), "no space") {
			t.Errorf("%v: %d %s", args, code, stderr.String())
		}
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left on device") }

func TestTheAgentGetsItsSettings(t *testing.T) {
	var ran AgentConfig
	w := world{run: func(_ context.Context, c AgentConfig) error { ran = c; return nil }}
	if got := w.main(t, "agent", "--nice", "0", "--oci-roots", "/a,/b"); got.code != 0 || got.stderr != "" {
		t.Errorf("%+v", got)
	}
	if diff := cmp.Diff([]string{"/a", "/b"}, ran.OCIRoots); diff != "" || ran.Nice != 0 {
		t.Errorf("nice %d, %s", ran.Nice, diff)
	}
	w.check = func(_ context.Context, _ AgentConfig, out io.Writer) error {
		fmt.Fprintf(out, "docker\t/run/docker.sock\tsays %s\n", hostile)
		return errors.New("no capability")
	}
	golden(t, "agent-check", []string{"agent", "--check"}, w.main(t, "agent", "--check"))
	golden(t, "agent-print-config", []string{"agent", "--print-config", "--grace", "1h"}, w.main(t, "agent", "--print-config", "--grace", "1h"))
}

func TestAnAgentThatWasToldToStopEndsWell(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	w := world{run: func(ctx context.Context, _ AgentConfig) error { cancel(); return fmt.Errorf("serve: %w", ctx.Err()) }}
	if got := w.mainContext(ctx, "agent"); got.code != 0 || got.stderr != "" {
		t.Errorf("%+v", got)
	}
}
