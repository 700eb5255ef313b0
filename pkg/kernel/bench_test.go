// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// BenchmarkBPFCost gives what each program takes in the kernel, by its own
// clock (BPF statistics, which themselves cost some 20 ns of every figure),
// beside empty programs on the same tracepoints. One operation starts and reaps
// a process.
func BenchmarkBPFCost(b *testing.B) {
	empty := loadEmpty(b)
	costOfProcesses(b, TracerOptions{})
	for t, s := range programStats(b, empty) {
		reportCost(b, "empty-"+t.String(), ProgramStats{}, s)
	}
}

// BenchmarkBPFCostOfTwins is the same where each program is attached twice, as it
// is from 7.0 on: what both take of an event.
func BenchmarkBPFCostOfTwins(b *testing.B) { costOfProcesses(b, TracerOptions{twins: true}) }

func costOfProcesses(b *testing.B, o TracerOptions) {
	b.Helper()
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	tr := runningTracerOf(b, o)
	before := tr.Stats().Programs
	for b.Loop() {
		spawn(b)
	}
	for i, p := range tr.Stats().Programs {
		if p.Type <= Exit {
			reportCost(b, p.Type.String(), before[i], p)
		}
	}
	b.ReportMetric(float64(tr.Stats().LostTotal()), "lost")
}

// runningTracer gives a Tracer whose events are read and dropped.
func runningTracer(b *testing.B) *Tracer { return runningTracerOf(b, TracerOptions{}) }

func runningTracerOf(b *testing.B, o TracerOptions) *Tracer {
	b.Helper()
	tr := newTracer(b, o)
	done := make(chan error, 1)
	go func() { done <- tr.Run(context.Background(), func(Event) {}) }()
	b.Cleanup(func() {
		tr.Close()
		<-done
	})
	if err := tr.Flush(patient(b)); err != nil {
		b.Fatal(err)
	}
	return tr
}

func spawn(b *testing.B) {
	p, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := p.Wait(); err != nil {
		b.Fatal(err)
	}
}

func reportCost(b *testing.B, name string, before, after ProgramStats) {
	if runs := after.Runs - before.Runs; runs > 0 {
		b.ReportMetric(float64(after.Runtime-before.Runtime)/float64(runs), "ns/"+name)
	}
}

// loadEmpty attaches a program that does nothing to each process tracepoint.
func loadEmpty(b *testing.B) map[Type]*ebpf.Program {
	b.Helper()
	programs := make(map[Type]*ebpf.Program)
	for _, tp := range tracepoints[:3] {
		prog := emptyProgram(b, tp.tracepoint)
		l, err := link.AttachTracing(link.TracingOptions{Program: prog})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { l.Close() })
		programs[tp.typ] = prog
	}
	return programs
}

func emptyProgram(t testing.TB, tracepoint string) *ebpf.Program {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "empty", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: tracepoint,
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}, License: "GPL",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { prog.Close() })
	return prog
}

func programStats(b *testing.B, programs map[Type]*ebpf.Program) map[Type]ProgramStats {
	b.Helper()
	all := make(map[Type]ProgramStats)
	for t, p := range programs {
		s, err := p.Stats()
		if err != nil {
			b.Fatal(err)
		}
		all[t] = ProgramStats{Runs: s.RunCount, Runtime: s.Runtime}
	}
	return all
}

// BenchmarkBPFCostOfACgroup is the same for cgroup_mkdir and cgroup_rmdir, which
// always wake the reader.
func BenchmarkBPFCostOfACgroup(b *testing.B) {
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		b.Fatal(err)
	}
	defer stats.Close()
	tr := runningTracer(b)
	dir := makeCgroup(b, "", "bench")
	before := tr.Stats().Programs
	for i := 0; b.Loop(); i++ {
		sub := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(sub, 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.Remove(sub); err != nil {
			b.Fatal(err)
		}
	}
	for i, p := range tr.Stats().Programs {
		if p.Type == CgroupMkdir || p.Type == CgroupRmdir {
			reportCost(b, p.Type.String(), before[i], p)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	raw := processRecord(Exec)
	b.ReportAllocs()
	var e Event
	for b.Loop() {
		if _, err := decode(raw, &e); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSnapshot compares the iterator with /proc, by process.
func BenchmarkSnapshot(b *testing.B) {
	for name, o := range map[string]TracerOptions{"iterator": {}, "proc": {Disable: []Type{Task}}} {
		b.Run(name, func(b *testing.B) {
			tr := newTracer(b, o)
			n := 0
			for b.Loop() {
				n = 0
				if err := tr.Snapshot(context.Background(), func(Event) { n++ }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n-2), "ns/process")
		})
	}
}

// BenchmarkProcReader is what a Poller pays for a process that it reads whole.
func BenchmarkProcReader(b *testing.B) {
	r := newProcReader("/proc", "/sys/fs/cgroup", nil)
	for b.Loop() {
		if _, _, err := r.process(workload.PID(os.Getpid())); err != nil {
			b.Fatal(err)
		}
	}
}
