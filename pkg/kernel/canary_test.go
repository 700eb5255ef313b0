// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/bpf"
)

// linkFD finds the file descriptor of a link among our own, as anybody could
// who may look into /proc/PID/fd.
func linkFD(t *testing.T, id link.ID) int {
	t.Helper()
	infos, err := filepath.Glob("/proc/self/fdinfo/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range infos {
		b, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(b), fmt.Sprintf("link_id:\t%d\n", id)) {
			fd, err := strconv.Atoi(filepath.Base(path))
			if err != nil {
				t.Fatal(err)
			}
			return fd
		}
	}
	t.Fatalf("no file descriptor of link %d", id)
	return -1
}

// life makes every kind of event with a process and a cgroup of its own, and
// gives what tells its events.
func life(t *testing.T) func(Event) bool {
	t.Helper()
	dir := makeCgroup(t, "", "life")
	c := startChild(t, nil, "", "/bin/cat")
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, c.Process.Pid), 0); err != nil {
		t.Fatal(err)
	}
	c.end()
	id := statInode(t, dir)
	removeCgroup(t, dir)
	return func(e Event) bool { return of(c.Process.Pid)(e) || e.Cgroup.ID.ID == id }
}

func program1(tr *Tracer, typ Type) *program {
	for _, p := range tr.objs.programs {
		if p.typ == typ {
			return p
		}
	}
	return nil
}

// awaitStats polls, as a person who looks at the status does.
func awaitStats(t *testing.T, tr *Tracer, what string, ok func(Stats) bool) Stats {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if s := tr.Stats(); ok(s) {
			return s
		}
	}
	t.Fatalf("never: %s; %+v", what, tr.Stats().Programs)
	return Stats{}
}

func of1(s Stats, typ Type) ProgramStats {
	for _, p := range s.Programs {
		if p.Type == typ {
			return p
		}
	}
	return ProgramStats{}
}

// Nobody can take such a link away by its id: the kernel refuses. What remains
// is that somebody closes it, as below.
func TestTheKernelRefusesToDetachALinkFromOutside(t *testing.T) {
	tr := newTracer(t, TracerOptions{})
	l, err := link.NewFromID(program1(tr, Fork).linkID)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Detach(); err == nil {
		t.Fatal("the link was detached")
	} else {
		t.Log(err)
	}
	if !program1(tr, Fork).linked() {
		t.Error("the link is not there")
	}
}

func TestADetachedProgramIsNoticedNamedAndAttachedAgain(t *testing.T) {
	for _, tp := range tracepoints {
		if tp.typ == Task {
			continue
		}
		t.Run(tp.tracepoint, func(t *testing.T) {
			tr := newTracer(t, TracerOptions{})
			r := record(t, tr)
			mine := life(t)
			if got := len(r.flushed(mine)); got != 6 {
				t.Fatalf("%d events before", got)
			}
			// Behind everybody's back; and the number becomes another file's.
			fd := linkFD(t, program1(tr, tp.typ).linkID)
			if err := unix.Close(fd); err != nil {
				t.Fatal(err)
			}
			other, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			r.await(func(e Event) bool { return e.Type == Lost && e.Count == 0 })
			s := awaitStats(t, tr, "detached and attached again", func(s Stats) bool { return of1(s, tp.typ).Detached == 1 && of1(s, tp.typ).Attached })
			t.Logf("noticed and repaired after %s", time.Since(began).Round(time.Millisecond))
			if of1(s, tp.typ).BrokenAt == 0 {
				t.Error("nothing says when")
			}
			for _, p := range s.Programs {
				if p.Type != tp.typ && p.Detached != 0 {
					t.Errorf("%s is suspected, too", p.Name)
				}
			}
			mine = life(t)
			if got := types(r.flushed(mine)); len(got) != 6 {
				t.Errorf("only %v after", got)
			}
			if err := tr.Close(); err != nil {
				t.Error(err)
			}
			if err := unix.Close(other); err != nil {
				t.Errorf("a file that only has the link's old number was closed with it: %v", err)
			}
		})
	}
}

func TestAProgramThatIsAttachedAndSilentIsNoticed(t *testing.T) {
	for _, tp := range tracepoints {
		if tp.typ == Task {
			continue
		}
		t.Run(tp.tracepoint, func(t *testing.T) {
			tr := newTracer(t, TracerOptions{})
			silence(t, program1(tr, tp.typ))
			r := record(t, tr)
			began := time.Now()
			dir := makeCgroup(t, "", "silent-"+tp.typ.String())
			c := startChild(t, nil, "", "/bin/cat")
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, c.Process.Pid), 0); err != nil {
				t.Fatal(err)
			}
			if tp.typ == Exit {
				c.end()
			}
			if tp.typ == CgroupRmdir {
				c.end()
				before := tr.Stats().Checks
				awaitStats(t, tr, "a check that saw the cgroup", func(s Stats) bool { return s.Checks > before+1 })
				removeCgroup(t, dir)
			}
			awaitStats(t, tr, "noticed", func(s Stats) bool { return of1(s, tp.typ).Detached == 1 && of1(s, tp.typ).Attached })
			t.Logf("noticed after %s", time.Since(began).Round(time.Millisecond))
			mine := life(t)
			if got := types(r.flushed(mine)); len(got) != 6 {
				t.Errorf("only %v after", got)
			}
		})
	}
}

// silence puts another program into a link's place before Run begins: what is
// attached is fine by every look at it, and does nothing.
func silence(t *testing.T, p *program) {
	t.Helper()
	l, err := link.AttachTracing(link.TracingOptions{Program: emptyProgram(t, p.tracepoint)})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.link.Close(); err != nil {
		t.Fatal(err)
	}
	p.link = l
	if p.linkID, err = linkID(l); err != nil {
		t.Fatal(err)
	}
}

func TestEventsThatSomebodyElseTakesOutOfARingAreMissed(t *testing.T) {
	tr := newTracer(t, TracerOptions{})
	thief, err := ringbuf.NewReader(tr.objs.maps[bpf.TracerMapCgroupRing])
	if err != nil {
		t.Fatal(err)
	}
	defer thief.Close()
	makeCgroup(t, "", "stolen")
	for range 20 { // others on this host may make events, too: they hide one theft, for a while
		if _, err := thief.Read(); err != nil {
			t.Fatal(err)
		}
		life(t)
	}
	r := record(t, tr)
	e := r.await(func(e Event) bool { return e.Type == Lost })
	if s := tr.Stats(); e.Count == 0 || s.Stolen == 0 {
		t.Errorf("lost %d, stolen %d", e.Count, s.Stolen)
	}
}

func TestAMissingProgramAsksForARepairEverySecond(t *testing.T) {
	tr := newTracer(t, TracerOptions{Disable: []Type{CgroupAttach}})
	r := record(t, tr)
	began := time.Now()
	for range 3 {
		r.await(func(e Event) bool { return e.Type == Lost && e.Count == 0 })
		r.forget()
	}
	if took := time.Since(began); took > 3*lossInterval+patience/2 {
		t.Errorf("three took %s", took)
	}
	if s := of1(tr.Stats(), CgroupAttach); !s.Disabled || s.Detached != 0 || s.Attached {
		t.Errorf("%+v", s)
	}
}

func TestAQuietHostRaisesNoAlarm(t *testing.T) {
	tr := newTracer(t, TracerOptions{})
	r := record(t, tr)
	dir := makeCgroup(t, "", "quiet")
	for range 8 { // what an audit looks at: forked, moved, and running another program
		c := startChild(t, nil, "", "/bin/cat")
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, c.Process.Pid), 0); err != nil {
			t.Fatal(err)
		}
	}
	awaitStats(t, tr, "an audit and more", func(s Stats) bool { return s.Checks > auditPause+2 })
	s := tr.Stats()
	for _, p := range s.Programs {
		if p.Detached != 0 {
			t.Errorf("%s was taken for broken", p.Name)
		}
	}
	// What the kernel itself skipped (from 7.x on, now and then) is rightly said.
	told := uint64(0)
	for _, e := range r.all(func(e Event) bool { return e.Type == Lost }) {
		if told += e.Count; e.Count == 0 || told > skippedRuns(tr.Stats()) {
			t.Errorf("%+v", e)
		}
	}
}
