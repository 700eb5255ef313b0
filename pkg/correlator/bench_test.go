// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"testing"

	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// BenchmarkProcessLife is what one fork, exec and exit in a container costs from
// the event to the store, beside 100,000 live processes.
func BenchmarkProcessLife(b *testing.B) {
	m := newMachine(config{hostMountNS: 1})
	s := store.New(store.Options{})
	at := workload.KTime(1e9)
	set := kernel.CgroupSet{N: 10}
	for h := range 10 {
		set.IDs[h] = workload.CgroupID{Hierarchy: uint32(h), ID: 7}
	}
	feed := func(e *kernel.Event) {
		at += 1000
		e.Time = at
		s.Apply(m.step(at, e).changes...)
		s.SetAsOf(at)
	}
	for h := range 10 {
		feed(&kernel.Event{Type: kernel.CgroupMkdir, Cgroup: kernel.Cgroup{ID: set.IDs[h], Parent: 1, Level: 1, Path: "/some.slice"}})
	}
	for pid := range workload.PID(100_000) {
		feed(&kernel.Event{Type: kernel.Fork, Process: kernel.Process{Key: workload.ProcessKey{PID: pid + 2, Start: uint64(at)}, Cgroups: set, MountNS: 1}})
	}
	ev := kernel.Event{Process: kernel.Process{Cgroups: set, MountNS: 1, Parent: 2}}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		// PIDs come round again, as they do on a host with the default pid_max.
		ev.Process.Key = workload.ProcessKey{PID: 200_000 + workload.PID(i%30_000), Start: uint64(at)}
		for _, t := range []kernel.Type{kernel.Fork, kernel.Exec, kernel.Exit} {
			ev.Type = t
			feed(&ev)
		}
	}
}
