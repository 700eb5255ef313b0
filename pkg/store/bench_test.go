// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/shirou/gopsutil/v3/process"
)

const (
	benchKeys       = 100_000
	benchContainers = 10_000
	benchRate       = 1_000 // changes a second
)

// BenchmarkResolve asks for keys uniformly out of 100,000 live processes in
// 10,000 containers while one writer makes 1,000 changes a second. The plain map
// has no writer, since it would break: it is the floor. The last two are what a
// lookup costs without a store.
func BenchmarkResolve(b *testing.B) {
	for _, spread := range []struct {
		name   string
		stride workload.PID
	}{{"pids-in-a-row", 1}, {"pids-spread", workload.MaxPID / benchKeys}} {
		keys := benchProcessKeys(spread.stride)
		s := benchStore(keys)
		b.Run(spread.name+"/store", func(b *testing.B) {
			defer benchWriter(s, keys)()
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				sink = s.Resolve(keys[i%len(keys)])
			}
		})
		b.Run(spread.name+"/plain-map", func(b *testing.B) {
			m := make(map[workload.ProcessKey]*workload.Process)
			for _, k := range keys {
				m[k] = s.Resolve(k).Process
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				sinkProcess = m[keys[i%len(keys)]]
			}
		})
		b.Run(spread.name+"/sync.Map", func(b *testing.B) {
			var m sync.Map
			for _, k := range keys {
				m.Store(k, s.Resolve(k).Process)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				v, _ := m.Load(keys[i%len(keys)])
				sinkProcess = v.(*workload.Process)
			}
		})
	}
	b.Run("proc-cgroup", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sinkStrings = procCgroups(b)
		}
	})
	b.Run("gopsutil-create-time", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p, err := process.NewProcess(int32(os.Getpid()))
			if err != nil {
				b.Fatal(err)
			}
			if sinkTime, err = p.CreateTime(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

var (
	sinkProcess *workload.Process
	sinkStrings []string
	sinkTime    int64
)

// benchProcessKeys gives the keys in random order.
func benchProcessKeys(stride workload.PID) []workload.ProcessKey {
	keys := make([]workload.ProcessKey, benchKeys)
	for i := range keys {
		keys[i] = key(1+workload.PID(i)*stride, uint64(i+1))
	}
	r := rand.New(rand.NewPCG(1, 2))
	r.Shuffle(len(keys), func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return keys
}

func benchStore(keys []workload.ProcessKey) *Store {
	s := New(Options{})
	for i := range benchContainers {
		id := benchContainer(i)
		s.Apply(putLayer(id, "docker", named(id, "name-"+id.ID)))
	}
	for i, k := range keys {
		s.Apply(put(inContainer(k, benchContainer(i%benchContainers))))
	}
	return s
}

func benchContainer(i int) workload.ContainerID { return docker(fmt.Sprintf("%064x", i)) }

// benchWriter changes a process or a container every millisecond until told to end.
func benchWriter(s *Store, keys []workload.ProcessKey) (end func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second / benchRate)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if i%10 == 0 {
				id := benchContainer(i % benchContainers)
				s.Apply(putLayer(id, "docker", named(id, "renamed-"+strconv.Itoa(i))))
				continue
			}
			p := s.Resolve(keys[i%len(keys)]).Process.Clone()
			p.Exec = workload.KTime(i)
			s.Apply(put(p))
		}
	}()
	return func() { close(done); <-ended }
}

// procCgroups is the least that reading a process's cgroups takes.
func procCgroups(b *testing.B) []string {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		b.Fatal(err)
	}
	var paths []string
	for line := range strings.Lines(string(text)) {
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(f) == 3 {
			paths = append(paths, f[2])
		}
	}
	return paths
}

// BenchmarkApply is what one change costs the writer.
func BenchmarkApply(b *testing.B) {
	keys := benchProcessKeys(1)
	s := benchStore(keys)
	b.Run("exec", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			p := *s.Resolve(keys[i%len(keys)]).Process
			p.Exec = workload.KTime(i + 1)
			s.Apply(put(&p))
		}
	})
	b.Run("container", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			id := benchContainer(i % benchContainers)
			s.Apply(putLayer(id, "docker", named(id, strconv.Itoa(i))))
		}
	})
	b.Run("layers", func(b *testing.B) { // as a start has them: what four sources say in one batch
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			id := benchContainer(i % benchContainers)
			name := strconv.Itoa(i)
			s.Apply(putLayer(id, "oci", named(id, name)), putLayer(id, "containerd", named(id, name)),
				putLayer(id, "docker", named(id, name)), putLayer(id, KernelSource, named(id, name)))
		}
	})
	b.Run("fork-exit-expire", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			p := inContainer(key(200_000+workload.PID(i%50_000), uint64(1_000_000+i)), benchContainer(7))
			now := workload.KTime(i+1) * second / benchRate
			s.Apply(put(p))
			s.Apply(put(exited(p, now, 0)), expire(now))
		}
	})
}

// BenchmarkResolveAgainstMap measures both in turns of a few milliseconds, so
// that what else the machine does falls on both, and reports the medians and the
// median of their ratio ("x-map"). The limit is 1.5.
func BenchmarkResolveAgainstMap(b *testing.B) {
	for _, spread := range []struct {
		name   string
		stride workload.PID
	}{{"pids-in-a-row", 1}, {"pids-spread", workload.MaxPID / benchKeys}} {
		b.Run(spread.name, func(b *testing.B) {
			keys := benchProcessKeys(spread.stride)
			s := benchStore(keys)
			m := make(map[workload.ProcessKey]*workload.Process)
			for _, k := range keys {
				m[k] = s.Resolve(k).Process
			}
			defer benchWriter(s, keys)()
			var ofStore, ofMap, ratio []float64
			for at := 0; b.Loop(); at += benchTurn {
				part := keys[at%len(keys):][:benchTurn]
				x := perKey(part, func(k workload.ProcessKey) { sink = s.Resolve(k) })
				y := perKey(part, func(k workload.ProcessKey) { sinkProcess = m[k] })
				ofStore, ofMap, ratio = append(ofStore, x), append(ofMap, y), append(ratio, x/y)
			}
			b.ReportMetric(0, "ns/op") // of a turn: means nothing
			b.ReportMetric(median(ofStore), "store-ns")
			b.ReportMetric(median(ofMap), "map-ns")
			b.ReportMetric(median(ratio), "x-map")
		})
	}
}

const benchTurn = benchKeys / 10

func perKey(keys []workload.ProcessKey, f func(workload.ProcessKey)) float64 {
	start := time.Now()
	for _, k := range keys {
		f(k)
	}
	return float64(time.Since(start)) / float64(len(keys))
}

func median(xs []float64) float64 {
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// BenchmarkMemory is what the store itself costs, without the processes and
// containers that it was given.
func BenchmarkMemory(b *testing.B) {
	keys := benchProcessKeys(workload.MaxPID / benchKeys)
	procs := make([]*workload.Process, len(keys))
	for i, k := range keys {
		procs[i] = inContainer(k, benchContainer(i%benchContainers))
	}
	for b.Loop() {
		before := heapNow()
		s := New(Options{})
		for _, p := range procs {
			s.Apply(put(p))
		}
		withProcs := heapNow()
		for i := range benchContainers {
			id := benchContainer(i)
			s.Apply(putLayer(id, "docker", named(id, id.ID)))
		}
		b.ReportMetric(float64(withProcs-before)/benchKeys, "B/process")
		b.ReportMetric(float64(heapNow()-withProcs)/benchContainers, "B/container")
		runtime.KeepAlive(s)
	}
}

func heapNow() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
