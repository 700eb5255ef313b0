// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

// realistic answers as an agent on a hybrid host with 100 containers does.
func realistic() func(context.Context, server.Peer, workload.Query) workload.Result {
	containers := make([]*workload.Container, 100)
	for i := range containers {
		containers[i] = realisticContainer(i)
	}
	processes := make([]*workload.Process, 1001)
	for i := range processes {
		processes[i] = realisticProcess(workload.PID(i), containers[i%len(containers)])
	}
	return func(_ context.Context, _ server.Peer, q workload.Query) workload.Result {
		p := processes[q.PID]
		return workload.Result{Answer: workload.Answer{
			Status: workload.StatusContainer, Confidence: workload.Confirmed, Process: p,
			Containers: containers[int(q.PID)%len(containers):][:1], AsOf: 1, Revision: 1,
		}}
	}
}

func realisticContainer(i int) *workload.Container {
	c := &workload.Container{
		ID: workload.ContainerID{Runtime: "docker", ID: fmt.Sprintf("%064x", i)}, Name: fmt.Sprintf("web-%d", i), Runtime: "docker",
		Image:  workload.ImageRef{Name: "docker.io/library/nginx:1.27", Tag: "1.27", ID: fmt.Sprintf("sha256:%064x", 1)},
		Labels: map[string]string{}, State: workload.StateRunning, Created: time.Unix(1e9, 0), Started: time.Unix(1e9, 1),
		Hostname: "abc", Limits: &workload.Limits{}, Security: &workload.Security{}, Confidence: workload.Confirmed,
		Run:      &workload.Run{Init: workload.ProcessKey{PID: 1, Inode: 2, Start: 3}},
		Networks: []workload.Network{{Name: "bridge", IPs: []string{"172.17.0.2"}}},
	}
	for l := range 10 {
		c.Labels[fmt.Sprintf("com.docker.compose.label%d", l)] = "some-value"
	}
	for _, what := range []string{workload.MarkCgroup, workload.MarkClaim, workload.MarkLayer, workload.MarkRegistered, workload.MarkComplete} {
		c.Timeline = append(c.Timeline, workload.Mark{What: what, Source: "kernel", At: 1e12})
	}
	for h := range uint32(10) {
		c.Run.Cgroups = append(c.Run.Cgroups, workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: h, ID: 100}, Path: "/docker/" + c.ID.ID})
	}
	return c
}

func realisticProcess(pid workload.PID, c *workload.Container) *workload.Process {
	p := &workload.Process{
		Key: workload.ProcessKey{PID: pid, Inode: 1e6 + uint64(pid), Start: 1e12}, Parent: 1, Comm: "nginx", Exe: "/usr/sbin/nginx",
		Status: workload.StatusContainer, Confidence: workload.Confirmed, Container: c.ID, Entry: workload.EntryInit, Started: 1e12, Exec: 1e12,
		PIDNamespaces: []workload.PIDNamespace{{Inum: 4026532000, PID: 1}}, MountNS: 4026532001,
	}
	for h := range uint32(10) {
		p.Cgroups = append(p.Cgroups, workload.CgroupID{Hierarchy: h, ID: 100})
	}
	return p
}

// BenchmarkResolve asks over the socket, with both sides in this process.
func BenchmarkResolve(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			c := start(b, &backend{resolve: realistic()}).client(b)
			queries := make([]workload.Query, n)
			for i := range queries {
				queries[i].PID = workload.PID(i + 1)
			}
			var took []time.Duration
			b.ReportAllocs()
			cpu := cpuTime(b)
			for b.Loop() {
				began := time.Now()
				if _, err := c.Resolve(b.Context(), queries...); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N), "cpu-ns/op")
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds()), "p50-ns")
			b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds()), "p99-ns")
		})
	}
}

// cpuTime is what the process has used: on a machine that does other things too
// it says more than the clock.
func cpuTime(b *testing.B) time.Duration {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkConnectAndAskSelf is what a process does that starts, asks who it is
// and ends.
func BenchmarkConnectAndAskSelf(b *testing.B) {
	r := start(b, &backend{})
	for b.Loop() {
		c := r.client(b)
		if _, err := c.Self(b.Context()); err != nil {
			b.Fatal(err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
