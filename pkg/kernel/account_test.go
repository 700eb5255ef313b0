// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"encoding/binary"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
)

var floodFor = flag.Duration("flood", 10*time.Second, "how long the accounting test floods the machine")

// witness counts how often a tracepoint fires by a program of its own, which
// shares nothing with ours.
type witness struct {
	prog   *ebpf.Program
	counts *ebpf.Map
}

func newWitness(t *testing.T, tracepoint string) *witness {
	t.Helper()
	counts, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "witness", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: tracepoint, License: "GPL",
		Instructions: asm.Instructions{
			asm.StoreImm(asm.RFP, -4, 0, asm.Word),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, -4),
			asm.LoadMapPtr(asm.R1, counts.FD()),
			asm.FnMapLookupElem.Call(),
			asm.JEq.Imm(asm.R0, 0, "out"),
			asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
			asm.Add.Imm(asm.R1, 1),
			asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("out"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := link.AttachTracing(link.TracingOptions{Program: prog})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.Close()
		prog.Close()
		counts.Close()
	})
	return &witness{prog, counts}
}

// fired gives how often the tracepoint fired since the witness is there.
func (w *witness) fired(t *testing.T) uint64 {
	t.Helper()
	var cpus []uint64
	if err := w.counts.Lookup(uint32(0), &cpus); err != nil {
		t.Fatal(err)
	}
	s, err := w.prog.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return sum(cpus) + s.RecursionMisses
}

// account is one type's bookkeeping.
type account struct {
	fired, seen, delivered, filtered, lost uint64
	// programs is 2 where there are twins: second are the runs of either that came
	// second, skipped are those of both, and atMost is what Stats says is missed.
	programs, second, skipped, atMost uint64
}

func (a account) String() string {
	return fmt.Sprintf("%d * fired %d = seen %d + second %d + skipped %d; seen = delivered %d + filtered %d + lost %d; differences %d, %d; missed %d of at most %d",
		a.programs, a.fired, a.seen, a.second, a.skipped, a.delivered, a.filtered, a.lost, a.outside(), a.inside(), a.missed(), a.atMost)
}

// outside is what the witness saw and the counters do not explain, inside what
// of the program's runs is not accounted for.
func (a account) outside() int64 { return int64(a.programs*a.fired - a.seen - a.second - a.skipped) }
func (a account) inside() int64  { return int64(a.seen - a.delivered - a.filtered - a.lost) }

// missed is what no program came to.
func (a account) missed() int64 { return int64(a.fired - a.seen) }

// since gives what came to an account since another one.
func (a account) since(was account) account {
	return account{
		fired: a.fired - was.fired, seen: a.seen - was.seen, delivered: a.delivered - was.delivered, filtered: a.filtered - was.filtered,
		lost: a.lost - was.lost, programs: a.programs, second: a.second - was.second, skipped: a.skipped - was.skipped, atMost: a.atMost - was.atMost,
	}
}

// settle takes the accounts at an instant at which nothing was under way: no
// witness moved while they were read, and they say the same twice. On a host
// where others work, too, that takes some tries.
func settle(t *testing.T, r *recorder, ws map[Type]*witness, ok func(map[Type]account) bool) map[Type]account {
	t.Helper()
	tr := r.src.(*Tracer)
	var last map[Type]account
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if err := r.src.Flush(patient(t)); err != nil {
			t.Fatal(err)
		}
		before := firedAll(t, ws)
		s := r.src.Stats()
		after := firedAll(t, ws)
		as := make(map[Type]account)
		still := true
		for typ := range ws {
			still = still && before[typ] == after[typ]
			a := account{fired: after[typ], seen: s.Seen[typ], delivered: s.Delivered[typ], filtered: s.Filtered[typ], lost: sum(s.Lost[typ]), atMost: of1(s, typ).Skipped}
			a.second = seconds(t, tr, typ)
			for _, p := range program1(tr, typ).both() {
				ps, err := p.prog.Stats()
				if err != nil {
					t.Fatal(err)
				}
				a.programs++
				a.skipped += ps.RecursionMisses
			}
			as[typ] = a
		}
		last = as
		if still && ok(as) {
			return as
		}
	}
	return last
}

func firedAll(t *testing.T, ws map[Type]*witness) map[Type]uint64 {
	t.Helper()
	all := make(map[Type]uint64)
	for typ, w := range ws {
		all[typ] = w.fired(t)
	}
	return all
}

// offsets is what the witnesses were attached earlier or later than the programs.
func offsets(t *testing.T, r *recorder, ws map[Type]*witness) map[Type]account {
	t.Helper()
	var same int
	var was map[Type]account
	return settle(t, r, ws, func(as map[Type]account) bool {
		for typ, a := range as {
			if a.outside() != was[typ].outside() || a.inside() != 0 {
				was, same = as, 0
				return false
			}
		}
		same++
		return same >= 3
	})
}

// What the kernel generated is what was delivered, filtered, lost or skipped, to
// the last event, while the machine makes as many as it can, into a ring that is
// too small for them.
func TestEveryEventOfAFloodIsAccountedFor(t *testing.T) {
	for name, o := range map[string]TracerOptions{
		"a ring that holds it":             {},
		"a ring that overflows":            {ProcessRingBytes: 64 << 10, CgroupRingBytes: 64 << 10},
		"twins, and a ring that holds it":  {twins: true},
		"twins, and a ring that overflows": {twins: true, ProcessRingBytes: 64 << 10, CgroupRingBytes: 64 << 10},
	} {
		if o.twins && preemptible() {
			continue // as the others are, there
		}
		t.Run(name, func(t *testing.T) {
			ws := make(map[Type]*witness)
			for _, tp := range tracepoints {
				if tp.typ != Task {
					ws[tp.typ] = newWitness(t, tp.tracepoint)
				}
			}
			tr := newTracer(t, o)
			r := counted(t, tr)
			start := offsets(t, r, ws)
			began := time.Now()
			made := floodMachine(t, *floodFor)
			took := time.Since(began)
			end := settle(t, r, ws, func(as map[Type]account) bool {
				for typ, a := range as {
					if a.outside() != start[typ].outside() || a.inside() != 0 {
						return false
					}
				}
				return true
			})
			t.Logf("%.0f processes and %.0f cgroups a second, for %s", float64(made.processes)/took.Seconds(), float64(made.cgroups)/took.Seconds(), took.Round(time.Second))
			for _, tp := range tracepoints {
				a, was := end[tp.typ], start[tp.typ]
				if tp.typ == Task {
					continue
				}
				a = a.since(was)
				t.Logf("%-13s %s", tp.typ, a)
				if a.outside() != 0 || a.inside() != 0 {
					t.Errorf("%s does not balance", tp.typ)
				}
				if a.missed() < 0 || a.missed() > int64(a.atMost) {
					t.Errorf("of %s %d were missed, and the count says at most %d", tp.typ, a.missed(), a.atMost)
				}
				if want := made.least(tp.typ); a.fired < want {
					t.Errorf("%s fired %d times, and the flood alone made %d", tp.typ, a.fired, want)
				}
			}
			if s := tr.Stats(); s.Malformed != 0 || s.Stolen != 0 {
				t.Errorf("%d malformed, %d stolen", s.Malformed, s.Stolen)
			}
		})
	}
}

// counted runs a source and keeps no events: a flood has many.
func counted(t *testing.T, src source) *recorder {
	t.Helper()
	r := record(t, src)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deaf = true
	return r
}

// floods is what a flood made.
type floods struct{ processes, cgroups uint64 }

func (f floods) least(typ Type) uint64 {
	switch typ {
	case Fork, Exec, Exit:
		return f.processes
	case CgroupMkdir, CgroupRmdir:
		return f.cgroups
	default:
		return 0
	}
}

// floodMachine starts and ends processes on all CPUs but one, and makes and
// removes cgroups on that one.
func floodMachine(t *testing.T, d time.Duration) (made floods) {
	t.Helper()
	tiny := filepath.Join(t.TempDir(), "tiny")
	if err := os.WriteFile(tiny, tinyProgram(), 0o755); err != nil {
		t.Fatal(err)
	}
	dir := makeCgroup(t, "", "flood")
	over := time.Now().Add(d)
	var processes, cgroups atomic.Uint64
	var wg sync.WaitGroup
	for range max(runtime.NumCPU(), 2) {
		wg.Go(func() {
			for time.Now().Before(over) {
				pid, err := syscall.ForkExec(tiny, []string{"tiny"}, &syscall.ProcAttr{})
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := syscall.Wait4(pid, nil, 0, nil); err != nil {
					t.Error(err)
					return
				}
				processes.Add(1)
			}
		})
	}
	wg.Go(func() {
		for i := 0; time.Now().Before(over); i++ {
			sub := filepath.Join(dir, fmt.Sprintf("docker-%064x.scope", i))
			if err := os.Mkdir(sub, 0o755); err != nil {
				t.Error(err)
				return
			}
			if err := os.Remove(sub); err != nil {
				t.Error(err)
				return
			}
			cgroups.Add(1)
		}
	})
	wg.Wait()
	return floods{processes.Load(), cgroups.Load()}
}

// tinyProgram is an ELF file that only ends: the less a program does, the more
// of them a second.
func tinyProgram() []byte {
	code := map[string][]byte{
		"amd64": {0xb8, 0x3c, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05},             // mov eax,60; xor edi,edi; syscall
		"arm64": {0, 0, 0x80, 0xd2, 0xa8, 0x0b, 0x80, 0xd2, 1, 0, 0, 0xd4}, // mov x0,0; mov x8,93; svc 0
	}[runtime.GOARCH]
	machine := map[string]uint16{"amd64": 62, "arm64": 183}[runtime.GOARCH]
	const base, head = 0x400000, 64 + 56
	le := binary.LittleEndian
	b := slices.Concat([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9))
	b = le.AppendUint16(b, 2)
	b = le.AppendUint16(b, machine)
	b = le.AppendUint32(b, 1)
	b = le.AppendUint64(b, base+head)
	b = le.AppendUint64(b, 64)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(b, 0)
	for _, v := range []uint16{64, 56, 1, 0, 0, 0} {
		b = le.AppendUint16(b, v)
	}
	b = le.AppendUint32(b, 1)
	b = le.AppendUint32(b, 5)
	for _, v := range []uint64{0, base, base, uint64(head + len(code)), uint64(head + len(code)), 0x1000} {
		b = le.AppendUint64(b, v)
	}
	return append(b, code...)
}
