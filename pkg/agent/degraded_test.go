// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

// later is how much later an answer may be where events are missing.
const later = 2 * time.Second

// patience is for what comes late and must come, on a machine that others use.
const patience = 20 * time.Second

// roleEnv makes the test binary be an agent in a process of its own, one that
// may do less than the tests.
const roleEnv = "PIDIGREE_AGENT_TEST_ROLE"

// alone is what such an agent prints.
type alone struct {
	Status workload.AgentStatus
	Parent workload.Status
	Err    string
}

// beAlone starts an agent, prints how it does and ends.
func beAlone() {
	var out alone
	err := func() error {
		dir, err := os.MkdirTemp("", "pda")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		a, err := New(Options{RunDir: dir, DockerHosts: []string{}, ContainerdAddresses: []string{}, CRIEndpoints: []string{}, Kubelet: Kubelet{Address: NoKubelet}})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- a.Run(ctx) }()
		<-a.Ready()
		// Not itself: in a mount namespace of its own it is rightly not the host's.
		res := a.Resolve(ctx, workload.Query{PID: workload.PID(os.Getppid())})
		out.Status, out.Parent = a.Status(), res.Answer.Status
		cancel()
		return <-done
	}()
	if err != nil {
		out.Err = err.Error()
	}
	_ = json.NewEncoder(os.Stdout).Encode(out)
}

// runAlone runs such an agent behind a command that takes something from it.
func runAlone(t *testing.T, behind ...string) alone {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(behind[0], append(behind[1:], self)...)
	cmd.Env = append(os.Environ(), roleEnv+"=alone")
	b, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v: %s", behind, err, b)
	}
	var out alone
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatalf("%v: %q", err, b)
	}
	return out
}

func oneLineWith(t *testing.T, line string, want ...string) {
	t.Helper()
	if !strings.HasPrefix(line, "degraded: ") || strings.ContainsAny(line, "\n\r") {
		t.Errorf("no line: %q", line)
	}
	for _, w := range want {
		if !strings.Contains(line, w) {
			t.Errorf("no %q in %q", w, line)
		}
	}
}

func TestWithoutWhatBPFNeedsTheAgentPollsAndSaysWhy(t *testing.T) {
	for name, c := range map[string]struct {
		behind []string
		want   string
	}{
		"without CAP_BPF":     {[]string{"setpriv", "--bounding-set", "-bpf,-sys_admin", "--"}, "not permitted: missing CAP_BPF"},
		"without CAP_PERFMON": {[]string{"setpriv", "--bounding-set", "-perfmon,-sys_admin", "--"}, "not permitted: missing CAP_PERFMON"},
		"without BTF":         {[]string{"unshare", "--mount", "--", "sh", "-c", `mount -t tmpfs none /sys/kernel/btf && exec "$0"`}, "the kernel has no BTF"},
	} {
		t.Run(name, func(t *testing.T) {
			out := runAlone(t, c.behind...)
			if out.Err != "" || out.Status.Mode != ModePolling || !out.Status.Ready || out.Parent != workload.StatusHost {
				t.Errorf("mode %s, ready %v, parent %s: %s", out.Status.Mode, out.Status.Ready, out.Parent, out.Err)
			}
			t.Log(out.Status.ModeReason)
			oneLineWith(t, out.Status.ModeReason, "no kernel events", c.want, "reading /proc every 250ms")
		})
	}
}

func TestEachMissingProgramIsMadeUpForByScans(t *testing.T) {
	for typ := kernel.Fork; typ <= kernel.CgroupAttach; typ++ {
		t.Run(typ.String(), func(t *testing.T) {
			a := start(t, Options{DisablePrograms: []string{typ.String()}})
			line := a.Status().ModeReason
			t.Log(line)
			oneLineWith(t, line, "no "+typ.String()+" events", "switched off by configuration", found[typ], "by a scan every 1s")
			lifeIsFollowed(t, a)
		})
	}
}

func TestPollingFollowsALife(t *testing.T) {
	a := start(t, Options{NoBPF: true})
	oneLineWith(t, a.Status().ModeReason, "no kernel events: switched off by configuration", "every 250ms")
	lifeIsFollowed(t, a)
}

func TestWithEverythingNothingIsDegraded(t *testing.T) {
	a := start(t, Options{})
	if line := a.Status().ModeReason; line != "" {
		t.Error(line)
	}
	lifeIsFollowed(t, a)
}

// lifeIsFollowed starts, moves and ends a process, and looks for each of it in
// the store without asking about the process, which would make the agent look.
func lifeIsFollowed(t *testing.T, a *Agent) {
	t.Helper()
	dir := cgroupDir(t)
	pid, end := startCat(t)
	took := follow(t, a, pid, "runs cat", func(p *workload.Process, gone bool) bool { return p != nil && !gone && p.Comm == "cat" })
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, pid), 0); err != nil {
		t.Fatal(err)
	}
	st, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	inode := st.Sys().(*syscall.Stat_t).Ino
	took = max(took, follow(t, a, pid, "is in its cgroup", func(p *workload.Process, _ bool) bool {
		return p != nil && slices.ContainsFunc(p.Cgroups, func(c workload.CgroupID) bool { return c.ID == inode })
	}))
	end()
	took = max(took, follow(t, a, pid, "has ended", func(p *workload.Process, gone bool) bool { return p != nil && gone }))
	t.Logf("known after %s at most", took.Round(time.Millisecond))
	if took > later {
		t.Errorf("known after %s, more than %s later", took, later)
	}
}

// startCat starts a process that lives until end, or the test's end, which also
// reaps it.
func startCat(t *testing.T) (pid workload.PID, end func()) {
	t.Helper()
	cmd := exec.Command("/bin/cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	t.Cleanup(end)
	return workload.PID(cmd.Process.Pid), end
}

// follow waits until the store has what is wanted, and gives how long that took.
func follow(t *testing.T, a *Agent, pid workload.PID, what string, want func(*workload.Process, bool) bool) time.Duration {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for time.Since(began) < patience {
		for e := range a.List(t.Context(), workload.Selector{Kinds: []workload.Kind{workload.KindProcess}, All: true}) {
			if e.Process.Key.PID == pid && want(e.Process, e.Gone) {
				return time.Since(began)
			}
		}
		<-tick.C
	}
	t.Fatalf("never known: process %d %s", pid, what)
	return 0
}

// cgroupDir makes a cgroup of the test's own in v2.
func cgroupDir(t *testing.T) string {
	t.Helper()
	root := "/sys/fs/cgroup"
	var fs unix.Statfs_t
	if unix.Statfs(root, &fs) != nil || fs.Type != unix.CGROUP2_SUPER_MAGIC {
		root += "/unified"
	}
	dir, err := os.MkdirTemp(root, "pidigree-agent-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// What cannot be had from this kernel at will: the line for losses, repaired
// programs and failing sources, each of which has a test of its happening elsewhere.
func TestTheLineNamesEveryCause(t *testing.T) {
	now := bootTime()
	a := &Agent{mode: ModeBPF}
	for want, c := range map[string]struct {
		stats   kernel.Stats
		sources []workload.SourceStatus
	}{
		"": {
			stats:   kernel.Stats{LostAt: 1, Programs: []kernel.ProgramStats{{Type: kernel.Fork, Attached: true, BrokenAt: 1}}},
			sources: []workload.SourceStatus{{Name: "docker", State: "absent"}},
		},
		"degraded: kernel events were lost or skipped in the last 10s (7 since the start); a scan has repaired what they were about": {
			stats: kernel.Stats{LostAt: now, Lost: map[kernel.Type][]uint64{kernel.Exec: {3, 3}}, Programs: []kernel.ProgramStats{{Attached: true, Skipped: 1}}},
		},
		"degraded: no cgroup_mkdir, cgroup_rmdir events: no such tracepoint; new cgroups, removed cgroups are found by a scan every 1s": {
			stats: kernel.Stats{Programs: []kernel.ProgramStats{{Type: kernel.CgroupMkdir, Reason: "no such tracepoint\nmore"}, {Type: kernel.CgroupRmdir, Reason: "no such tracepoint"}}},
		},
		"degraded: the program for fork events was found detached or silent and attached again in the last 1m0s; a scan has repaired what it missed": {
			stats: kernel.Stats{Programs: []kernel.ProgramStats{{Type: kernel.Fork, Attached: true, BrokenAt: now}}},
		},
		"degraded: no task iterator: too old; scans read /proc; docker fails: refused; what only it knows comes later": {
			stats:   kernel.Stats{Programs: []kernel.ProgramStats{{Type: kernel.Task, Reason: "too old"}}},
			sources: []workload.SourceStatus{{Name: "docker", State: "failing", LastError: "refused\nmore"}},
		},
	} {
		if got := a.degraded(c.stats, c.sources); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A program that is detached behind the agent's back is named, by the status and
// by the health service, what it missed is found, and it works again.
func TestADetachedProgramIsNamedAndHealthSaysSo(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	a := start(t, Options{Socket: socket})
	health := healthOf(t, socket)
	if st, line := health(server.FullService); st != healthpb.HealthCheckResponse_SERVING || line != "" {
		t.Fatalf("%s %q", st, line)
	}
	closeLink(t, "tp_name:\tsched_process_fork\n")
	began := time.Now()
	pid, _ := startCat(t)
	follow(t, a, pid, "is known", func(p *workload.Process, _ bool) bool { return p != nil })
	var line string
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for line == "" && time.Since(began) < patience {
		line = a.Status().ModeReason
		<-tick.C
	}
	t.Logf("after %s: %s", time.Since(began).Round(time.Millisecond), line)
	oneLineWith(t, line, "the program for fork events was found detached or silent and attached again")
	for began := time.Now(); time.Since(began) < patience; <-tick.C {
		if st, _ := health(server.FullService); st == healthpb.HealthCheckResponse_NOT_SERVING {
			break
		}
	}
	if st, told := health(server.FullService); st != healthpb.HealthCheckResponse_NOT_SERVING || told != line {
		t.Errorf("%s is %s: %q", server.FullService, st, told)
	}
	if st, _ := health("pidigree.v1.PidigreeService"); st != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("it serves all the same, but says %s", st)
	}
	if s := a.Status(); s.Kernel.Detached["fork"] != 1 || s.Kernel.Programs["fork"] != "attached" {
		t.Errorf("%+v", s.Kernel)
	}
	lifeIsFollowed(t, a)
}

// healthOf asks the health service of a socket.
func healthOf(t *testing.T, socket string) func(service string) (healthpb.HealthCheckResponse_ServingStatus, string) {
	t.Helper()
	cc, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return func(service string) (healthpb.HealthCheckResponse_ServingStatus, string) {
		var header metadata.MD
		resp, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service}, grpc.Header(&header), grpc.WaitForReady(true))
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetStatus(), strings.Join(header.Get(server.DegradedHeader), "")
	}
}

// closeLink closes the file descriptor of a tracepoint's link among our own.
func closeLink(t *testing.T, want string) {
	t.Helper()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range infos {
		b, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(b), "link_id:") || !strings.Contains(string(b), want) {
			continue
		}
		var fd int
		if _, err := fmt.Sscan(filepath.Base(path), &fd); err != nil {
			t.Fatal(err)
		}
		if err := unix.Close(fd); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no link with %q", want)
}
