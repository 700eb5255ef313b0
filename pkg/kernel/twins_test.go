// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/bpf"
)

// seconds counts the runs of either program that came to an event which the
// other had reported.
func seconds(t *testing.T, tr *Tracer, typ Type) (n uint64) {
	t.Helper()
	for _, row := range []uint32{uint32(typ), uint32(typ) + uint32(bpf.TracerRecordTypeRECORD_TWIN)} {
		var cpus []bpf.TracerRecordCounts
		if err := tr.objs.maps[bpf.TracerMapCounts].Lookup(row, &cpus); err != nil {
			t.Fatal(err)
		}
		for _, c := range cpus {
			n += c.Second
		}
	}
	return n
}

// wholeLife fails where a life has not each of its events once, for another reason
// than that the kernel skipped a program that is alone.
func wholeLife(t *testing.T, r *recorder, when string, alone ...*program) {
	t.Helper()
	skips := func() (n uint64) {
		for _, p := range alone {
			s, err := p.prog.Stats()
			if err != nil {
				t.Fatal(err)
			}
			n += s.RecursionMisses
		}
		return n
	}
	before := skips()
	got := types(r.flushed(life(t)))
	slices.Sort(got)
	if d := cmp.Diff([]Type{Fork, Exec, Exit, CgroupMkdir, CgroupRmdir, CgroupAttach}, got); d != "" && skips() == before {
		t.Errorf("%s: %s", when, d)
	}
}

// Whatever the kernel skips of one of the two programs, the other one reports: a
// program that is not attached misses as one that is skipped.
func TestWhatOneOfTwinsMissesTheOtherReports(t *testing.T) {
	for i, which := range []string{"the first", "the second"} {
		t.Run(which, func(t *testing.T) {
			tr := newTracer(t, TracerOptions{twins: true})
			r := record(t, tr)
			before := make(map[Type]uint64)
			met := func(when string) {
				t.Helper()
				for typ := Fork; typ < Task; typ++ {
					n := seconds(t, tr, typ)
					if n == before[typ] {
						t.Errorf("%s: no second program came to a %s", when, typ)
					}
					before[typ] = n
				}
			}
			wholeLife(t, r, "both")
			met("both")
			var missing, alone []*program
			for typ := Fork; typ < Task; typ++ {
				p := program1(tr, typ).both()[i]
				alone = append(alone, program1(tr, typ).both()[1-i])
				_, id := p.currentLink()
				if err := unix.Close(linkFD(t, id)); err != nil {
					t.Fatal(err)
				}
				missing = append(missing, p)
			}
			wholeLife(t, r, "one", alone...)
			r.await(func(e Event) bool { return e.Type == Lost && e.Count == 0 })
			awaitStats(t, tr, "attached again", func(Stats) bool {
				return !slices.ContainsFunc(missing, func(p *program) bool { return !p.linked() })
			})
			wholeLife(t, r, "both, in the other order")
			met("both, in the other order")
			for _, p := range tr.Stats().Programs {
				if !p.Attached || p.Skipped != 0 && !preemptible() {
					t.Errorf("%+v", p)
				}
			}
		})
	}
}

// A mark that was left, as its event's second program was skipped, costs no event
// that looks the same.
func TestAMarkThatWasLeftCostsNoEvent(t *testing.T) {
	tr := newTracer(t, TracerOptions{twins: true}) // which nobody looks after yet
	dirs := []string{makeCgroup(t, "", "to"), makeCgroup(t, "", "from")}
	c := startChild(t, nil, "", "/bin/cat")
	moves := 0
	move := func() {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dirs[moves%2], "cgroup.procs"), fmt.Append(nil, c.Process.Pid), 0); err != nil {
			t.Fatal(err)
		}
		moves++
	}
	move()
	twin := program1(tr, CgroupAttach).twin
	twin.unlink()
	move()
	if err := twin.attach(); err != nil {
		t.Fatal(err)
	}
	for range 4 {
		move()
	}
	r := record(t, tr)
	if got := r.flushed(func(e Event) bool { return e.Type == CgroupAttach && of(c.Process.Pid)(e) }); len(got) != moves {
		t.Errorf("%d moves of %d", len(got), moves)
	}
}
