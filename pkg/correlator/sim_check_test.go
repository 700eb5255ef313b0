// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/pkg/workload"
)

// What answers are held against must be easy to see through.
func TestTheModelOfTheTruthIsUnder200Lines(t *testing.T) {
	b, err := os.ReadFile("truth_test.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b, []byte("\n")); n >= 200 {
		t.Errorf("truth_test.go has %d lines", n)
	}
}

// checkProcess holds one answer, in the instant that it is given, against the
// world: of the living and of the dead.
func (w *sim) checkProcess(a *workload.Process) {
	p := w.meant(a.Key)
	if p == nil {
		return
	}
	w.checked++
	switch {
	case !p.fair(a.Status, a.Container.ID, false):
		w.wrong(p, a)
	case a.Exit != nil && !p.dead:
		w.fail("WRONG: %v of %v lives, the store says that it has ended", p.key, p.truth.short())
	case a.Exit != nil && a.Exit.Known && a.Exit.Code != p.code:
		w.fail("WRONG: %v ended with %d, the store says %d", p.key, p.code, a.Exit.Code)
	case a.Status == workload.StatusUnknown:
		w.unknown++
	case a.Status == workload.StatusConflict:
		w.conflict++
	default:
		w.right++
	}
}

func (w *sim) wrong(p *simProc, a *workload.Process) {
	w.fail("WRONG: %v is of %v (dead %v, attacker %v, entered %v, nsenter %v, settling %v), the answer is %v %v %q",
		p.key, p.truth.short(), p.dead, p.attacker, p.entered, p.nsenter, p.settling, a.Status, a.Container, a.Reason)
}

// meant gives the process that a key is about; nil where a key in ticks fits several.
func (w *sim) meant(k workload.ProcessKey) *simProc {
	var found *simProc
	for _, p := range w.byPID[k.PID] {
		if p.key.Same(k) {
			if found != nil {
				return nil
			}
			found = p
		}
	}
	if found == nil {
		w.fail("WRONG: there never was a process %v", k)
	}
	return found
}

// checkAll asks the store about everybody. At the end, with everything heard or
// repaired, it must say what is.
func (w *sim) checkAll(end bool) {
	w.publish()
	// Where cgroups' ids come again and nobody was told, an old registration may
	// stand beside a new one for those who came in between: conflict, never a name. The
	// same where two runtimes claim one cgroup and the start of one was missed.
	sure := end && !(w.reuse && w.missed)
	for _, p := range w.procs {
		a := w.st.Resolve(p.key)
		w.checked++
		switch {
		case a.Process == nil:
			if end {
				w.fail("%v of %v is not in the store at the end", p.key, p.truth.short())
			}
			continue
		case !p.fair(a.Status, a.Process.Container.ID, sure && (p.truth == nil || !p.truth.contested || !w.missed)):
			w.wrong(p, a.Process)
		case end && a.Exited:
			w.fail("%v of %v lives, and is dead in the end", p.key, p.truth.short())
		case end && a.Status == workload.StatusUnknown && w.mustKnow(p):
			w.fail("%v of %v is unknown in the end: %s", p.key, p.truth.short(), a.Reason)
		case end && !w.missed && !w.inCgroups(p, a.Process.Cgroups):
			w.fail("%v of %v is in %v, the store says %v", p.key, p.truth.short(), p.cgroups, a.Process.Cgroups)
		case end && !w.missed && a.Process.Exec != p.execAt:
			w.fail("%v of %v executed last at %d, the store says %d", p.key, p.truth.short(), p.execAt, a.Process.Exec)
		}
		if c := a.Container(); c != nil && c.Name != "" && c.Name != p.truth.name() && !p.truth.named {
			w.fail("WRONG: %v of %v: the answer's name is %q", p.key, p.truth.short(), c.Name)
		}
		w.count(a.Status)
	}
	w.checkBounds(end)
	if !end {
		return
	}
	for _, p := range w.gone {
		if a := w.st.Resolve(p.key); a.Process != nil && !a.Exited {
			w.fail("%v of %v has ended, and lives in the store", p.key, p.truth.short())
		}
	}
	w.checkContainers()
}

func (w *sim) inCgroups(p *simProc, said []workload.CgroupID) bool {
	return len(said) == len(p.cgroups) && !slices.ContainsFunc(said, func(g workload.CgroupID) bool { return p.cgroups[g.Hierarchy] != g.ID })
}

func (w *sim) count(s workload.Status) {
	switch s {
	case workload.StatusUnknown:
		w.unknown++
	case workload.StatusConflict:
		w.conflict++
	default:
		w.right++
	}
}

// mustKnow: what was never attacked, and whose history is known or told by its
// namespaces, must be known in the end.
func (w *sim) mustKnow(p *simProc) bool {
	switch {
	case p.attacker || w.faults.liar:
		return false
	case p.truth == nil && len(p.pidns) > 0 && !w.beside(p):
		return false
	case p.truth == nil:
		return !w.missed || !p.nsenter && !w.reuse
	}
	c := p.truth
	if c.contested || !c.state {
		return false
	}
	if w.unseen(p) {
		return false
	}
	return !w.missed || p.entered == 0 && !w.reuse
}

// beside reports whether somebody of the host's PID namespace, from before it, is in
// the same cgroups: else nothing tells a sandbox from a container that nobody knows.
func (w *sim) beside(p *simProc) bool {
	return slices.ContainsFunc(w.procs, func(q *simProc) bool {
		return len(q.pidns) == 0 && q.key.Start < p.key.Start && maps.Equal(q.cgroups, p.cgroups)
	})
}

// unseen: it, or who made it, came from the host into a container while the first
// snapshot was under way. Whether its own parent had been read yet is luck.
func (w *sim) unseen(p *simProc) bool {
	return p.entered > 0 && workload.KTime(p.entered) < w.booted
}

// checkContainers: who lives is there, running, and nobody else.
func (w *sim) checkContainers() {
	live := map[string]*simContainer{}
	for _, c := range w.conts {
		if !c.dead {
			live[c.id] = c
		}
	}
	for _, c := range w.m.all {
		id := c.key.ID
		a, ok := w.st.ContainerAnswer(c.key)
		t := live[id]
		switch {
		case t == nil && ok && !a.Exited:
			w.fail("container %v is gone, and lives in the store", id)
		case t == nil || t.contested || w.faults.liar || !w.mustKnow(t.init):
		case !ok || a.Exited:
			w.fail("%s is not in the store at the end", t.short())
		case a.Containers[0].Run == nil && w.mustKnow(t.init):
			w.fail("%s is not registered at the end", t.short())
		case a.Containers[0].Run != nil && !a.Containers[0].Run.Init.Same(t.init.key):
			w.fail("%s has the init %v in the store", t.short(), a.Containers[0].Run.Init)
		}
	}
}

// checkBounds holds what the machine keeps against what there is.
func (w *sim) checkBounds(end bool) {
	m := w.m
	moves := 0
	for _, ms := range m.moves {
		moves += len(ms)
	}
	things := len(m.procs) + len(m.ghosts.queue) + len(m.cgroups) + len(m.all) + len(w.conts) + len(w.gone)
	switch {
	case moves > 16*maxMoves || len(m.ghosts.queue) > maxGhosts:
		w.fail("%d moves and %d ghosts are kept", moves, len(m.ghosts.queue))
	case len(m.timers) > 100+10*things:
		w.fail("%d timers are set for %d things", len(m.timers), things)
	case !end:
		return
	case len(m.procs) != len(w.procs):
		for pid, p := range m.procs {
			if w.alive(pid) == nil {
				w.fail("the machine has %d processes, the world %d: %v is not there", len(m.procs), len(w.procs), p.kp.Key)
			}
		}
		w.fail("the machine has %d processes, the world %d", len(m.procs), len(w.procs))
	case len(m.waiting) > 0 || m.snapshot.active:
		w.fail("%d processes are waited for, snapshot %v", len(m.waiting), m.snapshot.active)
	}
	left := 0
	for id, g := range m.cgroups {
		if _, there := w.names[id]; there || len(g.sets) > 0 || w.reuse && w.missed { // an id that came again unheard keeps those above it
			continue
		}
		// One that was removed while it was being read stays until the next sweep.
		if left++; left > 1 {
			w.fail("cgroup %v %q is gone, and the machine keeps it (sets %d, children %v, dead %v)", id, g.path, len(g.sets), g.children, g.dead)
		}
	}
}

// digest says how it ended, for the comparison of two ways there.
func (w *sim) digest() string {
	var b strings.Builder
	for _, p := range slices.Concat(w.procs, w.gone) {
		a := w.st.Resolve(p.key)
		if p.attacker || w.unseen(p) || p.truth != nil && p.truth.contested { // how far it got depends on when it was noticed
			continue
		}
		if p.truth == nil && len(p.pidns) > 0 && !w.beside(p) { // nor whether it was judged before its maker ended
			continue
		}
		var c string
		if a.Process != nil {
			c = a.Process.Container.ID
		}
		if !p.dead {
			fmt.Fprintf(&b, "%v %v %.64s\n", p.key, a.Status, c)
		}
	}
	for _, c := range w.conts {
		if !c.dead && !c.contested {
			a, ok := w.st.ContainerAnswer(workload.ContainerID{Runtime: "runc", ID: c.id})
			fmt.Fprintf(&b, "%s %v %v\n", c.id, ok, a.Exited)
		}
	}
	return b.String()
}

// fair reports whether an answer about a process is true. Unknown always is.
func (p *simProc) fair(status workload.Status, id string, end bool) bool {
	switch status {
	case workload.StatusUnknown:
		return true
	case workload.StatusConflict:
		return p.attacker || !end && p.truth != nil
	case workload.StatusHost:
		return p.truth == nil || p.settling || p.entered > 0 && !end
	}
	return p.truth != nil && p.truth.id == id
}

func (c *simContainer) short() string {
	if c == nil {
		return "the host"
	}
	return fmt.Sprintf("container %s (host PID %v, odd %v, dead %v)", c.id[52:], c.hostPID, c.odd, c.dead)
}

// describe prints an input or a request in a line.
func describe(x any) string {
	switch x := x.(type) {
	case evEvent:
		p, g := x.Process, x.Cgroup
		s := fmt.Sprintf("%v at %d", x.Type, x.Time/1000)
		if p.Key.PID != 0 {
			s += fmt.Sprintf(" %v of %d@%d in %v ns %v mnt %d", p.Key, p.Parent, p.ParentStart, p.Cgroups.Slice(), p.PIDNS[:p.PIDNSLevel], p.MountNS)
		}
		if !g.ID.IsZero() {
			s += fmt.Sprintf(" cgroup %v below %d %q", g.ID, g.Parent, g.Path)
		}
		return s
	case evAnswer:
		return fmt.Sprintf("answer to %s: %s %v %v", describe(x.req), describe(x.container), x.located, x.err)
	case evListed:
		return fmt.Sprintf("source %d lists %s", x.source, describe(x.container))
	case evHint:
		return fmt.Sprintf("source %d hints %s %v %s", x.source, x.hint.Kind, x.hint.ID, describe(x.hint.Layer))
	case *workload.Container:
		if x == nil || x.Run == nil {
			return fmt.Sprintf("%+v", x)
		}
		return fmt.Sprintf("%v with init %v in %v", x.ID, x.Run.Init, x.Run.ClaimedPaths)
	case evProcess:
		return fmt.Sprintf("process %d gone %v %v in %v", x.pid, x.gone, x.proc.Key, x.proc.Cgroups.Slice())
	case request:
		return fmt.Sprintf("kind %d source %d id %v cgroup %v pid %d %v", x.kind, x.source, x.id, x.cgroup, x.pid, x.evidence.Cgroups)
	}
	return fmt.Sprintf("%T %+v", x, x)
}
