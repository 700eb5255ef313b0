// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

var update = flag.Bool("update", false, "write docs/metrics.md anew")

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "alone":
		beAlone()
		return
	case "prior":
		bePrior()
		return
	}
	goleak.VerifyTestMain(m)
}

// start runs an agent for this host that looks at no engine, until the test ends.
func start(t *testing.T, o Options) *Agent {
	t.Helper()
	o.RunDir = t.TempDir()
	o.DockerHosts, o.ContainerdAddresses, o.CRIEndpoints = []string{}, []string{}, []string{}
	o.Kubelet.Address = NoKubelet
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	select {
	case <-a.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("not ready in 30 s")
	}
	return a
}

// child starts a process that lives until the test ends.
func child(t *testing.T) workload.PID {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return workload.PID(cmd.Process.Pid)
}

func TestEveryModeKnowsTheHostsProcesses(t *testing.T) {
	for mode, o := range map[string]Options{
		ModeBPF:     {},
		ModePolling: {NoBPF: true, PollInterval: 20 * time.Millisecond},
		ModeOneShot: {OneShot: true},
	} {
		t.Run(mode, func(t *testing.T) {
			a := start(t, o)
			if s := a.Status(); s.Mode != mode || !s.Ready || (mode == ModePolling) != strings.Contains(s.ModeReason, "switched off by configuration") {
				t.Fatalf("mode %s (%s), ready %v; want %s", s.Mode, s.ModeReason, s.Ready, mode)
			}
			for _, pid := range []workload.PID{workload.PID(os.Getpid()), child(t)} {
				res := a.Resolve(t.Context(), workload.Query{PID: pid})
				if res.Err != nil || res.Answer.Status != workload.StatusHost || res.Answer.Process.Key.PID != pid {
					t.Errorf("process %d: %+v, %v", pid, res.Answer, res.Err)
				}
			}
		})
	}
}

func TestAProgramThatIsNotLoadedIsNamed(t *testing.T) {
	a := start(t, Options{DisablePrograms: []string{"cgroup_attach"}})
	if s := a.Status(); s.Mode != ModeBPF || !strings.Contains(s.ModeReason, "cgroup_attach") {
		t.Errorf("mode %s, reason %q", s.Mode, s.ModeReason)
	}
	if _, err := New(Options{DisablePrograms: []string{"nosuch"}, RunDir: t.TempDir()}); err == nil {
		t.Error("an unknown program was accepted")
	}
}

func TestAnExitIsRememberedWithItsStatus(t *testing.T) {
	a := start(t, Options{})
	cmd := exec.Command("/bin/sh", "-c", "read x; exit 7")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := workload.PID(cmd.Process.Pid)
	if res := a.Resolve(t.Context(), workload.Query{PID: pid}); res.Err != nil || res.Answer.Exited {
		t.Fatalf("%+v, %v", res.Answer, res.Err)
	}
	_ = in.Close()
	_ = cmd.Wait()
	res := a.Resolve(t.Context(), workload.Query{PID: pid})
	if res.Err != nil || !res.Answer.Exited || res.Answer.Process.Exit == nil || res.Answer.Process.Exit.Code != 7 {
		t.Fatalf("%+v, %v", res.Answer.Process, res.Err)
	}
}

func TestTheSocketAnswersWhoAsks(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	a := start(t, Options{Socket: socket})
	c, err := client.New(client.Options{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rs, err := c.Resolve(t.Context(), workload.Query{Self: true})
	if err != nil || rs[0].Err != nil || rs[0].Answer.Process.Key.PID != workload.PID(os.Getpid()) {
		t.Fatalf("%+v, %v", rs, err)
	}
	if _, err := New(Options{Socket: socket, RunDir: t.TempDir()}); err == nil || strings.Contains(err.Error(), "\n") {
		t.Errorf("a second agent on the socket: %v", err)
	}
	if s := a.Status(); s.PID != workload.PID(os.Getpid()) || s.Processes == 0 {
		t.Errorf("status %+v", s)
	}
}

func TestMetricsAreThoseOfTheDocs(t *testing.T) {
	a := start(t, Options{MetricsAddress: "127.0.0.1:0"})
	// A process that is not known yet makes the agent deliver what is pending: its fork.
	if res := a.Resolve(t.Context(), workload.Query{PID: child(t)}); res.Err != nil {
		t.Fatal(res.Err)
	}
	resp, err := http.Get("http://" + a.metrics.Addr().String() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s, %v", resp.Status, err)
	}
	ms := metrics()
	for _, want := range []string{"pidigree_ready 1", `pidigree_mode{mode="ebpf"} 1`, `pidigree_source_up{source="oci"} 1`, `pidigree_kernel_events_total{type="fork"}`} {
		if !bytes.Contains(body, []byte(want)) {
			t.Errorf("no %q among the metrics", want)
		}
	}
	for line := range strings.Lines(string(body)) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "# HELP "), " "); ok && strings.HasPrefix(line, "# HELP ") && ms[name] == nil {
			t.Errorf("%s is not in the table", name)
		}
	}
}

// metricsPage is docs/metrics.md, made from the same table as the exporter.
func metricsPage() string {
	var b strings.Builder
	b.WriteString("# Metrics\n\nServed in Prometheus' text format at `/metrics` of `--metrics-address`, on loopback only; off by default.\n")
	b.WriteString("Labels are words out of fixed lists, never a container's, a PID or a path. Generated: `go test ./pkg/agent -update`.\n\n")
	b.WriteString("| metric | labels | type | meaning |\n|---|---|---|---|\n")
	ms := metrics()
	names := make([]string, 0, len(ms))
	for name := range ms {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		m := ms[name]
		kind := "gauge"
		if strings.HasSuffix(name, "_total") {
			kind = "counter"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, strings.Join(m.labels, ", "), kind, m.help)
	}
	return b.String()
}

func TestTheMetricsPageIsUpToDate(t *testing.T) {
	const page = "../../docs/metrics.md"
	if *update {
		if err := os.WriteFile(page, []byte(metricsPage()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(have), metricsPage()); d != "" {
		t.Errorf("docs/metrics.md is not what the table says (-page +table), run go test ./pkg/agent -update:\n%s", d)
	}
}

func TestCheckSaysWhatWouldBeCollected(t *testing.T) {
	var out bytes.Buffer
	if err := Check(t.Context(), Options{RunDir: t.TempDir(), DockerHosts: []string{filepath.Join(t.TempDir(), "none.sock")}, ContainerdAddresses: []string{}, CRIEndpoints: []string{}, Kubelet: Kubelet{Address: "http://127.0.0.1:1"}}, &out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"kernel", "ebpf", "cgroups", "oci", "docker", "absent", "kubelet"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
}

func TestManyQuestionsAreAnsweredInTheirOrder(t *testing.T) {
	a := start(t, Options{})
	pids := []workload.PID{workload.PID(os.Getpid()), child(t), workload.MaxPID}
	qs := make([]workload.Query, 1000)
	for i := range qs {
		qs[i].PID = pids[i%len(pids)]
	}
	results := make([]workload.Result, len(qs))
	backend{a}.Resolve(t.Context(), server.Peer{}, qs, results)
	for i, r := range results {
		if want := pids[i%len(pids)]; r.Query.PID != want || (r.Err != nil) != (want == workload.MaxPID) || r.Err == nil && r.Answer.Process.Key.PID != want {
			t.Fatalf("answer %d is about %d: %v, want %d", i, r.Query.PID, r.Err, want)
		}
	}
}
