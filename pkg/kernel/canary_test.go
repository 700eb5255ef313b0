// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/bpf"
	"github.com/pidigree/pidigree/pkg/workload"
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

func linkOf(tr *Tracer, typ Type) link.ID {
	_, id := program1(tr, typ).currentLink()
	return id
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
	l, err := link.NewFromID(linkOf(tr, Fork))
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
			fd := linkFD(t, linkOf(tr, tp.typ))
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
			tr := newTracer(t, TracerOptions{twins: true})
			silence(t, program1(tr, tp.typ))
			r := record(t, tr)
			began := time.Now()
			// Not before the first readings: until then any earlier run speaks for the program.
			d := deeds{tr: tr, typ: tp.typ, next: 2}
			s := awaitStats(t, tr, "noticed", func(s Stats) bool { return d.noticed(t, s) })
			for _, p := range s.Programs {
				if p.Type != tp.typ && p.Detached != 0 {
					t.Errorf("%s is suspected, too", p.Name)
				}
			}
			t.Logf("noticed after %s", time.Since(began).Round(time.Millisecond))
			mine := life(t)
			if got := types(r.flushed(mine)); len(got) != 6 {
				t.Errorf("only %v after", got)
			}
		})
	}
}

// silence puts another program into a link's place before Run begins, and into
// the twin's: what is attached is fine by every look at it, and does nothing.
func silence(t *testing.T, p *program) {
	t.Helper()
	for _, p := range p.both() {
		silence1(t, p)
	}
}

func silence1(t *testing.T, p *program) {
	t.Helper()
	l, err := link.AttachTracing(link.TracingOptions{Program: emptyProgram(t, p.tracepoint)})
	if err != nil {
		t.Fatal(err)
	}
	id, err := linkID(l)
	if err != nil {
		t.Fatal(err)
	}
	old, _ := p.currentLink()
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	p.setLink(l, id)
}

// deeds is what a silent program does not see: facts that last until it is
// noticed, so that what others do on this host cannot hide them for long. One
// that is hidden is done anew a few checks later.
type deeds struct {
	tr   *Tracer
	typ  Type
	done int
	next uint64 // the check to do it anew at
}

// noticed reports whether the program was noticed and, while not, sees to the deeds.
func (d *deeds) noticed(t *testing.T, s Stats) bool {
	if p := of1(s, d.typ); p.Detached > 0 {
		return p.Attached
	}
	if s.Checks >= d.next {
		d.do(t)
		d.next = d.tr.Stats().Checks + auditPause + 4
	}
	return false
}

func (d *deeds) do(t *testing.T) {
	d.done++
	dir := makeCgroup(t, "", fmt.Sprintf("silent-%s-%d", d.typ, d.done))
	c := startChild(t, nil, "", "/bin/cat") // stays
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, c.Process.Pid), 0); err != nil {
		t.Fatal(err)
	}
	switch d.typ {
	case Exit:
		c.end()
	case CgroupRmdir:
		c.end()
		before := d.tr.Stats().Checks
		awaitStats(t, d.tr, "a check that saw the cgroup", func(s Stats) bool { return s.Checks > before+1 })
		removeCgroup(t, dir)
	default:
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

// The kernel's file says how many cgroups there are; here it says what it would
// have said a moment ago, or a moment later.
func TestAMkdirDuringAReadingRaisesNoAlarm(t *testing.T) {
	for name, counted := range map[string]uint64{"before the count": 1, "after the count": 0} {
		t.Run(name, func(t *testing.T) {
			tr := newTracer(t, TracerOptions{})
			c := &tr.canary
			file := filepath.Join(t.TempDir(), "cgroup.stat")
			c.cgroups = file
			say := func(living uint64) {
				if err := os.WriteFile(file, fmt.Appendf(nil, "nr_descendants %d\n", living), 0o600); err != nil {
					t.Error(err)
				}
			}
			say(10)
			c.living = c.readLiving()
			checks(t, tr, 1)
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(file, 0o600); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() {
				f, err := os.OpenFile(file, os.O_WRONLY, 0) // returns when the reading has begun
				if err != nil {
					done <- err
					return
				}
				defer f.Close()
				dir := filepath.Join(cgroupMounts(t)[""], fmt.Sprintf("pidigree-kernel-test-%d-during", os.Getpid()))
				err = os.Mkdir(dir, 0o755)
				_, werr := fmt.Fprintf(f, "nr_descendants %d\n", 10+counted)
				rerr := os.Remove(file)
				say(10 + 1) // from now on
				done <- errors.Join(err, werr, rerr, os.Remove(dir))
			}()
			checks(t, tr, 1)
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			checks(t, tr, 4)
			suspectsNobody(t, tr, CgroupMkdir, 0)
		})
	}
}

// Whoever executed its program before the runs were read, and whose record came
// afterwards, says nothing of the runs since.
func TestAnExecBeforeAReadingRaisesNoAlarm(t *testing.T) {
	tr := newTracer(t, TracerOptions{})
	c := startChild(t, nil, "", "/bin/cat")
	c.awaitComm("cat")
	tr.checkPrograms() // and now the fork is taken out of the ring
	if _, err := tr.drainRings(func(Event) {}); err != nil {
		t.Fatal(err)
	}
	growOld()
	checks(t, tr, auditPause+4)
	suspectsNobody(t, tr, Exec, 0)
}

// What a program missed while it was detached is not silence.
func TestAProgramThatWasAttachedAgainIsNotTakenForSilent(t *testing.T) {
	for _, typ := range []Type{Exec, CgroupMkdir, CgroupAttach} {
		t.Run(typ.String(), func(t *testing.T) {
			tr := newTracer(t, TracerOptions{})
			checks(t, tr, 1)
			l, _ := program1(tr, typ).currentLink()
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			d := deeds{tr: tr, typ: typ}
			d.do(t)
			growOld()
			checks(t, tr, auditPause+4)
			suspectsNobody(t, tr, typ, 1)
		})
	}
}

// checks does what Run does each second.
func checks(t *testing.T, tr *Tracer, n int) {
	t.Helper()
	for range n {
		if err := tr.check(func(Event) {}); err != nil {
			t.Fatal(err)
		}
	}
}

// growOld waits until what began before is old enough for an audit.
func growOld() {
	old := bootTime() + auditAge
	for bootTime() <= old {
		unix.Select(0, nil, nil, nil, &unix.Timeval{Usec: 1000})
	}
}

func suspectsNobody(t *testing.T, tr *Tracer, typ Type, detached uint64) {
	t.Helper()
	if s := of1(tr.Stats(), typ); s.Detached != detached || !s.Attached {
		t.Errorf("%+v", s)
	}
}

// Where the places are taken by processes that no audit has looked at, one that
// shows a silence would pass unseen: the next check looks at them, not the fifth.
func TestAProcessWithoutAPlaceHasTheOthersLookedAtAtOnce(t *testing.T) {
	tr := newTracer(t, TracerOptions{})
	c := startChild(t, nil, "", "/bin/cat")
	c.awaitComm("cat")
	if _, err := tr.drainRings(func(Event) {}); err != nil {
		t.Fatal(err)
	}
	growOld()
	checks(t, tr, 1)
	if tr.canary.audited != 0 {
		t.Fatal("an audit at the first check: nothing is shown")
	}
	p := Process{Key: workload.ProcessKey{PID: workload.PID(c.Process.Pid), Start: uint64(bootTime())}}
	for range watchPlaces { // in any of its places is somebody now
		tr.canary.forked(&p)
		p.Key.Start++
	}
	if !tr.canary.crowded {
		t.Fatal("it found a place")
	}
	checks(t, tr, 1)
	if tr.canary.audited != 2 || tr.canary.crowded {
		t.Errorf("after check %d the last audit is that of %d", tr.canary.checks, tr.canary.audited)
	}
	suspectsNobody(t, tr, Exec, 0)
}

// churn forks and ends processes, some of which live for a while, until the test ends.
func churn(t *testing.T) {
	t.Helper()
	c := exec.Command("/bin/sh", "-c", "while :; do (:); /bin/true; sleep 0.3 & (:); (:); done")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Kill(-c.Process.Pid, unix.SIGKILL); err != nil {
			t.Error(err)
		}
		_ = c.Wait() // it was killed
	})
}

func TestAHostWhosePIDsChurnRaisesNoAlarmAndHidesNoSilence(t *testing.T) {
	churn(t)
	tr := newTracer(t, TracerOptions{})
	silence(t, program1(tr, Exec))
	record(t, tr)
	d := deeds{tr: tr, typ: Exec, next: 2}
	s := awaitStats(t, tr, "noticed", func(s Stats) bool { return d.noticed(t, s) })
	t.Logf("noticed at check %d", s.Checks)
	if d.done > 1 {
		t.Errorf("noticed after %d tries", d.done)
	}
	s = awaitStats(t, tr, "an audit more", func(now Stats) bool { return now.Checks > s.Checks+auditPause+1 })
	for _, p := range s.Programs {
		if want := map[bool]uint64{true: 1}[p.Type == Exec]; p.Detached != want {
			t.Errorf("%s was taken for broken %d times", p.Name, p.Detached)
		}
	}
}
