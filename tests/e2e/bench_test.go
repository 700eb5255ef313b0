// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// rounds is how many runs in a row the first promise is measured over.
const rounds = 3

// The first promise: every container that asks about itself is told who it is.
// "right" is the least of the rounds, of 60; leads are from known to the first
// act, by the kernel's clock; "clock-ns" is how far the agent's stamp of the
// container's exec and an independent bpftrace's are apart at most, and "late" is
// how many of all starts were known only after that exec.
func BenchmarkAContainerAsksAboutItself(b *testing.B) {
	docker := collectortest.StartDockerd(b, engineOptions(b))
	containerd := collectortest.StartContainerd(b, engineOptions(b))
	for _, f := range forms() {
		for _, nice := range []string{"0", "-10"} {
			for _, fl := range []fleet{dockerFleet(docker), containerdFleet(containerd)} {
				name := fl.name + "/" + f.name + "/nice " + nice
				b.Run(name, func(b *testing.B) {
					f := f
					f.args = append(slices.Clone(f.args), "--nice", nice)
					f.equal = nice == "0"
					measureSelf(b, docker, containerd, fl, f)
				})
			}
		}
	}
}

func measureSelf(b *testing.B, docker *collectortest.Dockerd, containerd *collectortest.Containerd, fl fleet, f form) {
	proxied := between(b, docker, containerd)
	proxied.docker.DropEvents(f.drop)
	proxied.containerd.DropEvents(f.drop)
	proxied.options.Args, proxied.options.Equal = f.args, f.equal
	agent := harness.StartAgent(b, programs, proxied.options)
	trace := harness.TraceExecs(b, "asker")
	for b.Loop() {
		least := starts
		var all []report
		for range rounds {
			reports, errs := ask(b, fl, filepath.Dir(agent.Socket), starts)
			right := 0
			for i, err := range errs {
				if err == nil {
					right++
				} else {
					b.Logf("%v\nanswer %s", err, brief(reports[i]))
				}
			}
			least = min(least, right)
			all = append(all, reports...)
		}
		b.ReportMetric(float64(least), "right")
		reportLeads(b, all, trace.Stop())
	}
	b.ReportMetric(0, "ns/op") // how long 180 starts take says nothing of pidigree
}

// reportLeads compares when containers were known with when they began, by the
// agent's clock and by bpftrace's.
func reportLeads(b *testing.B, reports []report, execs map[int]workload.KTime) {
	var leads, traced []float64
	var apart float64
	for _, r := range reports {
		known := r.known()
		if known == 0 || r.Answer.Process == nil {
			continue
		}
		leads = append(leads, float64(r.Before-known))
		p := r.Answer.Process
		if at, ok := execs[int(p.Key.PID)]; ok {
			traced = append(traced, float64(at-known))
			if at < known {
				b.Logf("late by %s: %s", round(time.Duration(known-at)), r.story())
			}
			if p.Exec > 0 {
				apart = max(apart, float64(at-p.Exec), float64(p.Exec-at))
			}
		}
	}
	if len(leads) == 0 || len(traced) == 0 {
		b.Errorf("%d timelines and %d of bpftrace's stamps, of %d answers", len(leads), len(traced), len(reports))
		return
	}
	slices.Sort(leads)
	slices.Sort(traced)
	b.ReportMetric(leads[0], "least-lead-ns")
	b.ReportMetric(leads[len(leads)/2], "median-lead-ns")
	b.ReportMetric(traced[0], "least-bpftrace-lead-ns")
	late, _ := slices.BinarySearch(traced, 0)
	b.ReportMetric(float64(late), "late")
	b.ReportMetric(apart, "clock-ns")
}

// A thousand containers of 50 ms each, asked a minute after the last one ended,
// by name and by the PID that they had.
func BenchmarkAThousandBriefContainersAMinuteLater(b *testing.B) {
	const n = 1000
	containerd := collectortest.StartContainerd(b, engineOptions(b))
	agent := harness.StartAgent(b, programs, harness.AgentOptions{Containerd: containerd})
	dir := filepath.Dir(agent.Socket)
	for b.Loop() {
		lives := make([]life, n)
		var group errgroup.Group
		group.SetLimit(parallel)
		for i := range n {
			group.Go(func() error {
				out, _ := containerd.Exec(b.Context(), "--namespace", "default", "run", "--rm", "--runc-root", containerd.RuncRoot,
					"--mount", "type=bind,src="+dir+",dst="+containerSocket+",options=rbind:rw",
					askerImage, briefName(i), "/bin/asker", "-sleep", "50ms", "-exit", "7") // it fails, as the container does: status 7
				var r report
				if err := json.Unmarshal([]byte(out), &r); err != nil || r.Answer.Process == nil {
					return fmt.Errorf("container %d printed %q: %w", i, out, err)
				}
				lives[i] = life{pid: r.Answer.Process.Key.PID, at: time.Now().Add(-time.Duration(bootTime() - r.Before))}
				return nil
			})
		}
		if err := group.Wait(); err != nil {
			b.Fatal(err)
		}
		time.Sleep(time.Minute) // what the promise says, not a wait for something
		byName, byPID := countBrief(b, agent, lives)
		b.ReportMetric(float64(byName), "by-name")
		b.ReportMetric(float64(byPID), "by-pid")
	}
	b.ReportMetric(0, "ns/op")
}

func briefName(i int) string { return fmt.Sprintf("brief-%04d", i) }

// bootTime is the clock of all of pidigree's stamps.
func bootTime() workload.KTime {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // it exists since 2.6.39
	return workload.KTime(ts.Nano())
}

// life is a PID and an instant at which the container had it: a thousand starts
// use up all the PIDs of a host with the default pid_max, and somebody else has
// it by now.
type life struct {
	pid workload.PID
	at  time.Time
}

// countBrief asks for all of them at once and counts the right answers.
func countBrief(b *testing.B, agent *harness.Agent, lives []life) (byName, byPID int) {
	c := connect(b, agent)
	var queries []workload.Query
	for i, l := range lives {
		queries = append(queries, workload.Query{Container: briefName(i)}, workload.Query{PID: l.pid, At: l.at})
	}
	results, err := c.Resolve(b.Context(), queries...)
	if err != nil {
		b.Fatal(err)
	}
	for i, r := range results {
		ct := r.Answer.Container()
		if r.Err != nil || ct == nil || ct.Name != briefName(i/2) || ct.Image.Name != askerImage || exitCode(ct) != 7 {
			b.Logf("%v: %v %+v", r.Query, r.Err, ct)
			continue
		}
		if i%2 == 0 {
			byName++
		} else {
			byPID++
		}
	}
	return byName, byPID
}

// exitCode is -1 where it is not known.
func exitCode(c *workload.Container) int32 {
	exit := c.Exit
	if exit == nil && c.Run != nil {
		exit = c.Run.Exit
	}
	if exit == nil || !exit.Known {
		return -1
	}
	return exit.Code
}

// What one start costs an engine in calls.
func BenchmarkRuntimeCalls(b *testing.B) {
	for engine, counts := range countCalls(b) {
		b.Run(engine, func(b *testing.B) {
			for b.Loop() { // the counting is done: a benchmark has to loop all the same
			}
			b.ReportMetric(float64(slices.Max(counts)), "calls/start")
			b.ReportMetric(0, "ns/op")
		})
	}
}

func connect(b testing.TB, agent *harness.Agent) *client.Client {
	b.Helper()
	c, err := client.New(client.Options{Socket: agent.Socket})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	return c
}

// What the agent costs a host where nothing happens, beside 100 containers and
// beside none.
func BenchmarkAnIdleAgent(b *testing.B) {
	docker := collectortest.StartDockerd(b, engineOptions(b))
	agent := harness.StartAgent(b, programs, harness.AgentOptions{Docker: docker})
	b.Run("beside none", func(b *testing.B) { measureIdle(b, agent) })
	var group errgroup.Group
	group.SetLimit(4)
	for i := range 100 {
		group.Go(func() error {
			_, err := docker.Exec(b.Context(), "run", "--detach", "--network", "none", "--name", "idle-"+strconv.Itoa(i), collectortest.BusyboxImage, "/bin/sleep", "3600")
			return err
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	agent.Await(patience, "idle-99", named("idle-99"))
	b.Run("beside 100 containers", func(b *testing.B) { measureIdle(b, agent) })
}

// idle is how long the agent is watched, and how long it may calm down before.
const idle = 30 * time.Second

func measureIdle(b *testing.B, agent *harness.Agent) {
	for b.Loop() {
		time.Sleep(idle / 3) // the garbage collector and the last starts settle; there is nothing to wait on
		before := cpuTime(b, agent.PID())
		begin := time.Now()
		time.Sleep(idle) // the measurement itself
		spent := cpuTime(b, agent.PID()) - before
		b.ReportMetric(100*float64(spent)/float64(time.Since(begin)), "%core")
		b.ReportMetric(rssAnon(b, agent.PID()), "MiB-RssAnon")
	}
	b.ReportMetric(0, "ns/op")
}

// cpuTime is the user and system time of a process (schedstat would count the main thread alone).
func cpuTime(b testing.TB, pid int) time.Duration {
	b.Helper()
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		b.Fatal(err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	var ticks int
	for _, f := range fields[11:13] { // utime and stime, fields 14 and 15 of proc(5)
		n, err := strconv.Atoi(f)
		if err != nil {
			b.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * workload.TickNS
}

func rssAnon(b *testing.B, pid int) float64 {
	b.Helper()
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	kib, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib / 1024
}

// A question over the socket, by our client and by gRPC alone, beside the least
// that gRPC can do there, for a call and on an open stream, and what reading
// /proc costs.
func BenchmarkTheSocket(b *testing.B) {
	docker := collectortest.StartDockerd(b, engineOptions(b))
	agent := harness.StartAgent(b, programs, harness.AgentOptions{Docker: docker})
	id := docker.Run("--name", "asked", collectortest.BusyboxImage, "/bin/sh", "-c",
		"i=1; while [ $i -lt 1000 ]; do sleep 3600 & i=$((i+1)); done; exec sleep 3600")
	pid := workload.PID(docker.InitPID(id))
	agent.Await(patience, strconv.Itoa(int(pid)), named("asked"))
	c := connect(b, agent)
	one := workload.Query{PID: pid}
	b.Run("resolve one", func(b *testing.B) { measureResolve(b, c, one) })
	b.Run("resolve 1000", func(b *testing.B) { measureResolve(b, c, slices.Repeat([]workload.Query{one}, 1000)...) })
	b.Run("resolve 1000 processes", func(b *testing.B) { measureResolve(b, c, members(b, pid, 1000)...) })
	cc, err := grpc.NewClient("unix://"+agent.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer cc.Close()
	measureGRPC(b, cc, pid)
	b.Run("read and not parse proc PID cgroup", func(b *testing.B) {
		name := fmt.Sprintf("/proc/%d/cgroup", pid)
		measureCalls(b, func(context.Context) error {
			_, err := os.ReadFile(name)
			return err
		})
	})
}

// measureResolve asks by our client, and holds every answer to be of a container.
func measureResolve(b *testing.B, c *client.Client, queries ...workload.Query) {
	measureCalls(b, func(ctx context.Context) error {
		results, err := c.Resolve(ctx, queries...)
		for _, r := range results {
			if r.Answer.Status != workload.StatusContainer {
				return fmt.Errorf("process %d is %s: %w", r.Query.PID, r.Answer.Status, r.Err)
			}
		}
		return err
	})
}

// members asks about the processes of a container, once they are all there.
func members(b *testing.B, init workload.PID, n int) []workload.Query {
	b.Helper()
	paths, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", init))
	if err != nil {
		b.Fatal(err)
	}
	line, _, _ := strings.Cut(string(paths), "\n")
	_, path, _ := strings.Cut(line, ":/")
	for deadline := time.Now().Add(patience); ; {
		found, err := filepath.Glob("/sys/fs/cgroup/*/" + path + "/cgroup.procs")
		if err != nil || len(found) == 0 {
			b.Fatalf("no cgroup at %q: %v", path, err)
		}
		pids, err := os.ReadFile(found[0])
		if err != nil {
			b.Fatal(err)
		}
		var queries []workload.Query
		for f := range strings.FieldsSeq(string(pids)) {
			pid, err := strconv.ParseUint(f, 10, 32)
			if err != nil {
				b.Fatal(err)
			}
			queries = append(queries, workload.Query{PID: workload.PID(pid)})
		}
		if len(queries) >= n {
			return queries[:n]
		}
		if time.Now().After(deadline) {
			b.Fatalf("the container has %d processes, want %d", len(queries), n)
		}
	}
}

// measureGRPC asks by gRPC, and measures gRPC itself where there is nothing to answer.
func measureGRPC(b *testing.B, cc *grpc.ClientConn, pid workload.PID) {
	queries := []*pb.Query{{Subject: &pb.Query_Pid{Pid: uint32(pid)}}}
	service := pb.NewPidigreeServiceClient(cc)
	b.Run("gRPC call of Resolve", func(b *testing.B) {
		measureCalls(b, func(ctx context.Context) error {
			_, err := service.Resolve(ctx, &pb.ResolveRequest{Queries: queries})
			return err
		})
	})
	b.Run("gRPC stream of ResolveStream", func(b *testing.B) {
		stream, err := service.ResolveStream(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		measureCalls(b, func(context.Context) error {
			if err := stream.Send(&pb.ResolveStreamRequest{Queries: queries}); err != nil {
				return err
			}
			_, err := stream.Recv()
			return err
		})
	})
	b.Run("health check", func(b *testing.B) {
		health := grpc_health_v1.NewHealthClient(cc)
		measureCalls(b, func(ctx context.Context) error {
			_, err := health.Check(ctx, &grpc_health_v1.HealthCheckRequest{})
			return err
		})
	})
	b.Run("open stream of reflection", func(b *testing.B) {
		stream, err := grpc_reflection_v1.NewServerReflectionClient(cc).ServerReflectionInfo(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		list := &grpc_reflection_v1.ServerReflectionRequest_ListServices{}
		measureCalls(b, func(context.Context) error {
			if err := stream.Send(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: list}); err != nil {
				return err
			}
			_, err := stream.Recv()
			return err
		})
	})
}

// calls is how many calls the percentiles are of.
const calls = 2000

func measureCalls(b *testing.B, call func(context.Context) error) {
	for b.Loop() {
		took := make([]float64, calls)
		for i := range took {
			begin := time.Now()
			if err := call(b.Context()); err != nil {
				b.Fatal(err)
			}
			took[i] = float64(time.Since(begin))
		}
		slices.Sort(took)
		b.ReportMetric(took[calls/2], "p50-ns")
		b.ReportMetric(took[calls*99/100], "p99-ns")
	}
	b.ReportMetric(0, "ns/op")
}
