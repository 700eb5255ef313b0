// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

func newCollector(tb testing.TB, opts Options) *Collector {
	tb.Helper()
	c, err := New(opts)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close() })
	return c
}

// cgroupsOf reads the cgroups of a process: an oracle that is not the collector.
func cgroupsOf(tb testing.TB, pid int) []workload.CgroupPath {
	tb.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		tb.Fatal(err)
	}
	var list []workload.CgroupPath
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		var p workload.CgroupPath
		_, _ = fmt.Sscan(f[0], &p.Hierarchy)
		p.Path = f[2]
		list = append(list, p)
	}
	return list
}

func TestTheCollectorKeepsTheContractOnARealContainerd(t *testing.T) {
	e := collectortest.StartContainerd(t, collectortest.EngineOptions{})
	var n atomic.Int64
	at := func(tb testing.TB, socket string) collectors.Collector {
		return newCollector(tb, Options{Address: socket, Instance: e.Address})
	}
	collectortest.Run(t, collectortest.Harness{
		New:     func(tb testing.TB) collectors.Collector { return at(tb, e.Address) },
		NewAt:   at,
		Proxy:   func(tb testing.TB) *collectortest.Proxy { return collectortest.NewContainerdProxy(tb, e.Address) },
		Unknown: workload.ContainerID{Runtime: "containerd", Instance: e.Address, Namespace: "default", ID: "nobody"},
		Start: func(tb testing.TB) *collectortest.Started {
			id := fmt.Sprintf("web-%d", n.Add(1))
			e.Run("default", "--label", "team=red", collectortest.BusyboxImage, id, "sleep", "3600")
			pid := e.InitPID("default", id)
			return &collectortest.Started{
				Want: &workload.Container{
					ID:      workload.ContainerID{Runtime: "containerd", Instance: e.Address, Namespace: "default", ID: id},
					Name:    id,
					Runtime: "containerd",
					Image:   workload.ImageRef{Name: collectortest.BusyboxImage, Tag: "1"},
					Labels:  map[string]string{"team": "red", collectortest.BusyboxLabel: "image"},
				},
				Evidence: workload.Evidence{
					Cgroups: cgroupsOf(tb, pid),
					Claims:  []workload.ContainerID{{Namespace: "default", ID: id}},
					Init:    workload.ProcessKey{PID: workload.PID(pid)},
				},
				Stop:   func() { e.Ctr("tasks", "kill", "--signal", "9", id) },
				Remove: func() { e.Ctr("tasks", "rm", id); e.Ctr("containers", "rm", id) },
			}
		},
	})
}
