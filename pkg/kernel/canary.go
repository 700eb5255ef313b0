// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// The canary finds programs that no longer work though nobody said so. It makes
// no events of its own: a host sees no process or cgroup that is not its own
// doing. Once in each lossInterval it asks, cheapest first,
//
//   - whether each link is still the one that was attached (one bpf(2) each);
//   - whether everything that the programs put into the rings came out of them;
//   - whether a program stood still while the kernel shows that it should have
//     run: PIDs were given away without a fork, there are more or fewer cgroups
//     without a mkdir or rmdir, or a process that was forked has by now another
//     program, other cgroups, or is gone, without an exec, attach or exit.
//
// The last is seen with the task iterator, and only after a doubt, so an idle
// host pays for the first two.
//
// What happens between two readings must not look like silence. So the programs'
// runs are always read before what they are compared with, a second doubt is
// about the same fact as the first, and nothing is held against a program that
// may be from before it was attached.

var (
	errDetached = errors.New("it was detached")
	errSilent   = errors.New("it is attached and does not run")
)

const (
	// auditPause is how many checks pass between two looks at the forked.
	auditPause = 5
	// auditAge: what is younger may be between the fact and its tracepoint.
	auditAge = 100 * 1e6
	// watchedForks is how many young processes are looked at. One has a few places
	// to choose from, so that it is not hidden by another one that stays. Where PIDs
	// churn, hundreds live that no audit has looked at: with 256 places 200 processes
	// of 5 s found none, and one that shows a silence was noticed at its next try.
	watchedForks = 1024
	watchPlaces  = 4
	// theftChecks is how many looks at the rings have to agree.
	theftChecks = 4
	// reattachPause is how many checks pass between two tries.
	reattachPause = 5
)

// canary is what Run remembers between two checks.
type canary struct {
	loadavg string // empty where there is none
	cgroups string // cgroup.stat of v2's root, empty where there is none

	checks  uint64
	at      workload.KTime // of the last check, after its readings
	seen    [Task]uint64   // each program's runs at the last check
	before  reading        // at the check before that
	lastPID uint64
	living  uint64 // cgroups
	doubted [Task]bool
	// stood is what the cgroups were before a doubt; of two types only.
	stood   [Task]cgroupReading
	audited uint64 // the check of the last audit
	// since is when each program was attached, or later: what began before it may
	// have passed unseen.
	since [Task]workload.KTime
	// unforked: PIDs were given away without a fork, at the last check or before,
	// but not before forkSince.
	unforked  bool
	forkSince workload.KTime

	// Some young processes by PID, as they were forked.
	forks    [watchedForks]watched
	anyForks bool
	// crowded: one found no place since the last audit. The next check makes room.
	crowded bool

	// missed: events may have been missed, nobody knows how many.
	missed bool
	// missing are how many records the rings did not give, by the last checks.
	missing [theftChecks]uint64
	stolen  uint64
}

// reading is what the programs had run before a time.
type reading struct {
	at   workload.KTime
	seen [Task]uint64
}

// cgroupReading is how many cgroups there were, and how often a program had run
// before that was read.
type cgroupReading struct{ living, runs uint64 }

// watched is a process as it was forked.
type watched struct {
	key     workload.ProcessKey
	inode   uint64
	dev     uint32
	cgroups CgroupSet
	// runs are those of the programs before it began.
	runs [Task]uint64
	// told: an audit has looked at it, and found nothing.
	told bool
}

func newCanary(procfs, root string) canary {
	c := canary{loadavg: filepath.Join(procfs, "loadavg")}
	if dir := hierarchyDir(root, Hierarchy{}); dir != "" {
		c.cgroups = filepath.Join(dir, "cgroup.stat")
	}
	c.lastPID, c.living = c.readLastPID(), c.readLiving()
	c.at = bootTime()
	for typ := range c.since {
		c.since[typ] = c.at
	}
	return c
}

// forked remembers a process. Called for each fork: no more than a copy.
func (c *canary) forked(p *Process) {
	if p.KernelThread {
		return
	}
	for i := range uint32(watchPlaces) {
		if w := c.place(p.Key, i); w.key.PID == 0 || w.told {
			*w = watched{key: p.Key, inode: p.ExeInode, dev: p.ExeDev, cgroups: p.Cgroups, runs: c.runsBefore(p.Key)}
			c.anyForks = true
			return
		}
	}
	c.crowded = true
}

// runsBefore gives runs that are all from before a process began, if not all of
// those. Its record may have waited for longer than the last check is ago.
func (c *canary) runsBefore(key workload.ProcessKey) (none [Task]uint64) {
	switch start := workload.KTime(key.Start); {
	case start > c.at:
		return c.seen
	case start > c.before.at:
		return c.before.seen
	}
	return none
}

// place is the i-th place where a process may be.
func (c *canary) place(key workload.ProcessKey, i uint32) *watched {
	return &c.forks[(uint32(key.PID)+i)%watchedForks]
}

// find gives what is remembered of a process, nil where that is nothing.
func (c *canary) find(key workload.ProcessKey) *watched {
	for i := range uint32(watchPlaces) {
		if w := c.place(key, i); w.key == key {
			return w
		}
	}
	return nil
}

// exited makes room: who is known to be gone says nothing any more.
func (c *canary) exited(key workload.ProcessKey) {
	if w := c.find(key); w != nil {
		*w = watched{}
	}
}

// readLastPID gives the PID that was given away last, 0 where that is not known.
func (c *canary) readLastPID() uint64 {
	b, err := os.ReadFile(c.loadavg)
	if err != nil {
		return 0
	}
	f := bytes.Fields(b)
	if len(f) < 5 {
		return 0
	}
	n, _ := strconv.ParseUint(string(f[4]), 10, 64)
	return n
}

// readLiving gives how many cgroups v2 has, with the root, which a host may have
// alone; 0 where that is not known.
func (c *canary) readLiving() uint64 {
	if c.cgroups == "" {
		return 0
	}
	b, err := os.ReadFile(c.cgroups)
	if err != nil {
		return 0
	}
	var n uint64
	if _, err := fmt.Sscanf(string(b), "nr_descendants %d", &n); err != nil {
		return 0
	}
	return n + 1
}

// check is one look at everything.
func (t *Tracer) check(fn func(Event)) error {
	t.canary.checks++
	if t.checkPrograms() {
		t.canary.missed = true
	}
	err := t.checkRings(fn)
	t.counts.checks.Store(t.canary.checks)
	return err
}

// checkPrograms looks after the programs and reports whether events may have
// been missed since the last time.
func (t *Tracer) checkPrograms() (missed bool) {
	c := &t.canary
	for _, p := range t.objs.programs {
		if p.typ == Task || errors.Is(p.whyNot(), errDisabled) || p.prog == nil {
			continue
		}
		for _, p := range p.both() {
			if t.checkLink(p) {
				missed = true
			}
		}
	}
	// In this order: a mkdir in between has a run that is still to come.
	seen := t.seen()
	pid, living := c.readLastPID(), c.readLiving()
	silent := t.silent(pid, living, &seen)
	again := false
	for _, p := range t.objs.programs {
		if p.typ < Task && silent[p.typ] && p.working() {
			for _, p := range p.both() {
				t.renew(p, errSilent)
			}
			missed, again = true, true
		}
	}
	if again { // the next check compares with what was after attaching
		seen = t.seen()
		pid, living = c.readLastPID(), c.readLiving()
	}
	c.before = reading{at: c.at, seen: c.seen}
	c.at, c.lastPID, c.living, c.seen = bootTime(), pid, living, seen
	return missed || t.objs.lacking()
}

// checkLink makes sure that a program is attached, and attaches it anew where it
// is not. It reports whether it was not.
func (t *Tracer) checkLink(p *program) bool {
	switch {
	case p.working():
		if p.linked() {
			return false
		}
		t.renew(p, errDetached)
		return true
	case t.canary.checks%reattachPause == 0:
		t.renew(p, nil)
		return true
	}
	return false
}

// renew attaches a program again; cause is what was found wrong, nil where it
// has been said before.
func (t *Tracer) renew(p *program, cause error) {
	err := p.reattach(cause)
	t.canary.renewed(p.typ)
	switch {
	case err != nil:
		t.opts.Logger.Warn("BPF program cannot be attached again", "program", p.name, "cause", cause, "err", err)
	case cause != nil:
		t.opts.Logger.Warn("BPF program was attached again", "program", p.name, "cause", cause)
	default:
		t.opts.Logger.Info("BPF program was attached again", "program", p.name)
	}
}

// renewed is called when a program was attached: what it missed until now says
// nothing of it from now on.
func (c *canary) renewed(typ Type) {
	c.since[typ] = bootTime()
	c.doubted[typ] = false
	if typ == Fork {
		c.unforked = false
	}
}

// seen gives how often each program has run.
func (t *Tracer) seen() (n [Task]uint64) {
	var s Stats
	t.fillCounts(&s)
	for typ := range n {
		n[typ] = s.Seen[Type(typ)]
	}
	return n
}

// silent says which programs did not run though they should have. A first doubt
// is kept for the next check: a program may be about to run.
func (t *Tracer) silent(pid, living uint64, seen *[Task]uint64) (silent [Task]bool) {
	c := &t.canary
	still := func(typ Type) bool { return seen[typ] == c.seen[typ] }
	var doubt [Task]bool
	if c.living != 0 && living != 0 {
		before := c.stand(CgroupMkdir)
		doubt[CgroupMkdir] = c.at >= c.since[CgroupMkdir] && living > before.living && seen[CgroupMkdir] == before.runs
		before = c.stand(CgroupRmdir)
		doubt[CgroupRmdir] = c.at >= c.since[CgroupRmdir] && living < before.living && seen[CgroupRmdir] == before.runs
	}
	if !c.unforked {
		c.forkSince = c.at
	}
	pids := pid != c.lastPID && still(Fork)
	look := pids || c.unforked && still(Fork)
	again := c.doubted[Exec] || c.doubted[Exit] || c.doubted[CgroupAttach]
	if look || again || c.anyForks && (c.crowded || c.checks-c.audited >= auditPause) {
		t.audit(look, &doubt)
	}
	c.unforked = pids || doubt[Fork]
	for _, p := range t.objs.programs {
		if typ := p.typ; typ < Task && p.working() {
			silent[typ] = doubt[typ] && c.doubted[typ]
		} else if typ < Task {
			doubt[typ] = false
		}
	}
	c.doubted = doubt
	return silent
}

// stand gives what the cgroups are compared with: the last check, or the one
// before a doubt that is to be settled.
func (c *canary) stand(typ Type) cgroupReading {
	if !c.doubted[typ] {
		c.stood[typ] = cgroupReading{living: c.living, runs: c.seen[typ]}
	}
	return c.stood[typ]
}

// audit compares the forked with what the task iterator says of them, and with
// forks looks for processes that began unnoticed.
func (t *Tracer) audit(forks bool, doubt *[Task]bool) {
	c := &t.canary
	if !t.snapshots.TryLock() {
		return // a snapshot is under way: next time
	}
	defer t.snapshots.Unlock()
	c.audited = c.checks
	settled := bootTime() - workload.KTime(auditAge)
	raw, err := t.iterate(context.Background())
	if err != nil {
		return
	}
	now := t.seen()
	alive := make(map[workload.PID]Process, watchedForks)
	var e Event
	for len(raw) > 0 {
		n, err := decode(raw, &e)
		if err != nil {
			return
		}
		raw = raw[n:]
		p := &e.Process
		switch start := workload.KTime(p.Key.Start); {
		case p.KernelThread || start > settled:
		case c.find(p.Key) != nil:
			alive[p.Key.PID] = *p
		case forks && start > max(c.forkSince, c.since[Fork]) && now[Fork] == c.seen[Fork]:
			doubt[Fork] = true
		}
	}
	c.anyForks, c.crowded = false, false
	for i := range c.forks {
		w := &c.forks[i]
		switch {
		case w.key.PID == 0 || w.told:
		case workload.KTime(w.key.Start) > settled || t.judge(w, alive, &now, doubt):
			c.anyForks = true
		default:
			w.told = true
		}
	}
}

// judge looks at one process that was forked, and reports whether it raises a
// doubt.
func (t *Tracer) judge(w *watched, alive map[workload.PID]Process, now *[Task]uint64, doubt *[Task]bool) (doubted bool) {
	tell := func(typ Type, happened bool) {
		if happened && workload.KTime(w.key.Start) > t.canary.since[typ] && now[typ] == w.runs[typ] {
			doubt[typ], doubted = true, true
		}
	}
	p, ok := alive[w.key.PID]
	if !ok {
		// An iterator of another PID namespace does not have it: ask /proc, too.
		tell(Exit, errors.Is(unix.Access(filepath.Join(t.opts.Procfs, strconv.FormatUint(uint64(w.key.PID), 10)), unix.F_OK), unix.ENOENT))
		return doubted
	}
	tell(Exec, p.ExeInode != 0 && w.inode != 0 && (p.ExeInode != w.inode || p.ExeDev != w.dev))
	tell(CgroupAttach, p.Cgroups != w.cgroups)
	return doubted
}

// checkRings finds records that were put into a ring and did not come out of it
// here: somebody else reads it. A program that is between counting and putting
// looks the same, so what is missing by every one of the last few looks is.
func (t *Tracer) checkRings(fn func(Event)) error {
	c := &t.canary
	var s Stats
	t.fillCounts(&s)
	if _, err := t.drainRings(fn); err != nil {
		return err
	}
	var expected, missing uint64
	for typ, n := range s.Seen {
		expected += n - min(n, s.Filtered[typ]+sum(s.Lost[typ]))
	}
	if had := t.handled + t.counts.malformed.Load() + c.stolen; expected > had {
		missing = expected - had
	}
	c.missing[c.checks%theftChecks] = missing
	if stolen := slices.Min(c.missing[:]); stolen > 0 {
		c.stolen += stolen
		c.missing = [theftChecks]uint64{}
		t.counts.stolen.Store(c.stolen)
	}
	return nil
}
