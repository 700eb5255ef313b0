// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// thousand are the answers about a thousand processes in a hundred containers
// of a hybrid host.
func thousand() ([]workload.Query, []workload.Result) {
	queries, results := make([]workload.Query, 1000), make([]workload.Result, 1000)
	containers := make([]*workload.Container, 100)
	for i := range containers {
		containers[i] = &workload.Container{
			ID: workload.ContainerID{Runtime: "docker", ID: fmt.Sprintf("%064x", i)}, Name: fmt.Sprintf("web-%d", i), Runtime: "docker",
			Image:  workload.ImageRef{Name: "docker.io/library/nginx:1.27", Tag: "1.27", ID: fmt.Sprintf("sha256:%064x", 1)},
			Labels: map[string]string{}, State: workload.StateRunning, Created: time.Unix(1e9, 0), Started: time.Unix(1e9, 1),
			Limits: &workload.Limits{}, Security: &workload.Security{}, Confidence: workload.Confirmed,
			Run: &workload.Run{Init: workload.ProcessKey{PID: 1, Inode: 2, Start: 3}},
		}
		for l := range 10 {
			containers[i].Labels[fmt.Sprintf("com.docker.compose.label%d", l)] = "some-value"
		}
		for h := range uint32(10) {
			id := workload.CgroupID{Hierarchy: h, ID: uint64(100 + i)}
			containers[i].Run.Cgroups = append(containers[i].Run.Cgroups, workload.CgroupPath{CgroupID: id, Path: "/docker/" + containers[i].ID.ID})
		}
	}
	for i := range results {
		c := containers[i%len(containers)]
		p := &workload.Process{
			Key: workload.ProcessKey{PID: workload.PID(i + 1), Inode: uint64(1e6 + i), Start: 1e12}, Parent: 1, Comm: "nginx", Exe: "/usr/sbin/nginx",
			Status: workload.StatusContainer, Confidence: workload.Confirmed, Container: c.ID, Entry: workload.EntryInit, Started: 1e12, Exec: 1e12,
			PIDNamespaces: []workload.PIDNamespace{{Inum: 4026532000, PID: 1}}, MountNS: 4026532001,
		}
		for _, g := range c.Run.Cgroups {
			p.Cgroups = append(p.Cgroups, g.CgroupID)
		}
		queries[i].PID = p.Key.PID
		results[i].Answer = workload.Answer{
			Status: workload.StatusContainer, Confidence: workload.Confirmed, Process: p,
			Containers: []*workload.Container{c}, AsOf: 1e12, Revision: 1e5,
		}
	}
	return queries, results
}

// BenchmarkThousand is what a thousand answers cost beside the socket.
func BenchmarkThousand(b *testing.B) {
	queries, results := thousand()
	req := &Bytes{in: EncodeQuestions(queries).string()}
	msg := &Bytes{in: EncodeResults(results).string()}
	for name, f := range map[string]func(){
		"EncodeQuestions": func() { EncodeQuestions(queries) },
		"DecodeQuestions": func() { _, _, _ = DecodeQuestions(req, len(queries)) },
		"EncodeResults":   func() { EncodeResults(results).buf.Free() },
		"DecodeResults":   func() { _, _ = DecodeResults(queries, msg) },
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.ReportMetric(float64(len(msg.in)), "reply-bytes")
			before := cpuTime(b)
			for b.Loop() {
				f()
			}
			b.ReportMetric(float64(cpuTime(b)-before)/float64(b.N), "cpu-ns/op")
		})
	}
}

// cpuTime is what the process has used, its garbage collector included.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
