// SPDX-License-Identifier: Apache-2.0

package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pidigree/pidigree/pkg/workload"
)

// was is a container as an earlier agent recorded it.
func was(id workload.ContainerID, name string, ended bool, since workload.KTime) PastContainer {
	c := named(id, name)
	c.Confidence = workload.Confirmed
	if ended {
		c.State, c.Exit = workload.StateExited, &workload.Exit{Known: true, Code: 7, At: since}
	}
	return PastContainer{Container: c, Ended: ended, Since: since}
}

func pastProcess(p *workload.Process) PastProcess { return PastProcess{Process: p, Since: p.Exit.At} }

func TestTheDeadOfAnEarlierAgentAreAnsweredFor(t *testing.T) {
	s := New(Options{})
	s.SetAsOf(100 * second)
	outer, inner := docker("outer"), docker("inner")
	child := was(inner, "in", true, 90*second)
	child.Parent = outer
	p := exited(inContainer(key(10, 1), inner), 90*second, 7)
	lost := onHost(key(11, 2))
	lost.Exit, lost.Reason = &workload.Exit{}, "ended unseen"
	n := s.Restore(Past{
		Containers: []PastContainer{was(outer, "out", false, 0), child},
		Processes:  []PastProcess{pastProcess(p), {Process: lost, Since: 100 * second, SeenUntil: 80 * second}},
	})
	if n != 3 {
		t.Errorf("%d restored, want 3", n)
	}
	for name, ask := range map[string]func() (workload.Answer, bool){
		"by key":        func() (workload.Answer, bool) { return s.Resolve(p.Key), true },
		"by PID":        func() (workload.Answer, bool) { return s.PID(10) },
		"by PID, then":  func() (workload.Answer, bool) { return s.PIDAt(10, 50*second) },
		"the container": func() (workload.Answer, bool) { return s.ContainerAnswer(inner) },
	} {
		a, ok := ask()
		if !ok || !a.Exited || a.Confidence != workload.Confirmed || !slices.Equal(names(a.Containers), []string{"out", "in"}) {
			t.Errorf("%s: %t, %+v, chain %v", name, ok, a, names(a.Containers))
		}
	}
	if a, ok := s.PIDAt(10, 91*second); ok {
		t.Errorf("after its end: %+v", a)
	}
	if a, ok := s.PIDAt(11, 80*second); !ok || a.Status != workload.StatusHost || a.Reason != "ended unseen" {
		t.Errorf("when it was last seen: %t, %+v", ok, a)
	}
	if a, ok := s.PIDAt(11, 81*second); ok {
		t.Errorf("when nobody looked: %+v", a)
	}
	if _, ok := s.Container(outer); ok {
		t.Error("a container that is not known to have ended was restored")
	}
	if c := s.Counts(); c.ContainerTombstones != 1 || c.ProcessTombstones != 2 || c.Containers != 0 || c.Processes != 0 {
		t.Errorf("counts %+v", c)
	}
}

func TestTheGraceOfARestoredTombstoneIsNotRenewed(t *testing.T) {
	s := New(Options{Grace: 10})
	s.SetAsOf(100)
	id := docker("old")
	lost := onHost(workload.ProcessKey{PID: 9, Inode: 1, Start: 3})
	lost.Exit = &workload.Exit{}
	s.Restore(Past{Containers: []PastContainer{was(id, "old", true, 95)}, Processes: []PastProcess{{Process: lost, Since: 94}}})
	for _, e := range []workload.Entity{{Process: lost}, {Container: named(id, "")}} {
		if got := s.GoneSince(e); got != 94 && got != 95 {
			t.Errorf("gone since %d", got)
		}
	}
	s.Apply(expire(104))
	if _, ok := s.PID(9); ok {
		t.Error("a process is still there after its grace")
	}
	if _, ok := s.Container(id); !ok {
		t.Error("a container went before its grace was over")
	}
	s.Apply(expire(105))
	if c := s.Counts(); c.ContainerTombstones+c.ProcessTombstones != 0 || s.restoredConts+s.restoredProcs != 0 {
		t.Errorf("left: %+v, %d, %d", c, s.restoredConts, s.restoredProcs)
	}
}

func TestWhatLivesDisplacesWhatWasRestored(t *testing.T) {
	name := docker("c1")
	dead := exited(inContainer(key(10, 5), name), 50*second, 1)
	past := Past{Containers: []PastContainer{was(name, "old", true, 50*second)}, Processes: []PastProcess{pastProcess(dead)}}
	alias := named(moby("m"), "new")
	alias.Aliases = []workload.ContainerID{name}
	for what, live := range map[string]Change{
		"the same id":         putLayer(name, KernelSource, named(name, "new")),
		"an engine's word":    putLayer(name, "docker", named(name, "new")),
		"an alias of another": putLayer(moby("m"), "containerd", alias),
	} {
		for _, order := range []string{"before", "after"} {
			t.Run(what+" "+order, func(t *testing.T) {
				s := New(Options{})
				if order == "before" {
					s.Apply(live)
				}
				s.Restore(past)
				if order == "after" {
					s.Apply(live)
				}
				a, ok := s.ContainerAnswer(name)
				if !ok || a.Exited || a.Container().Name != "new" || s.restoredConts != 0 || s.Counts().ContainerTombstones != 0 {
					t.Errorf("%t, %+v", ok, a)
				}
				// Its process was in the former one of that name, and stays there.
				wantName(t, s, dead.Key, "old")
			})
		}
	}
}

func TestALateWordAboutARestoredContainerChangesNothingWithoutALayer(t *testing.T) {
	s := New(Options{})
	id := docker("c1")
	s.Restore(Past{Containers: []PastContainer{was(id, "old", true, 50)}})
	s.Apply(forget(id), gone(id, 60), putLayer(id, "docker", nil))
	if c, ok := s.Container(id); !ok || c.Name != "old" {
		t.Errorf("it is gone: %v", c)
	}
}

func TestALivingProcessIsNeverItsPredecessor(t *testing.T) {
	past := func(start uint64, ticks bool, inode uint64) PastProcess {
		p := inContainer(workload.ProcessKey{PID: 10, Start: start, Ticks: ticks, Inode: inode}, docker("old"))
		return pastProcess(exited(p, workload.KTime(start)+1, 1))
	}
	tick := uint64(workload.TickNS)
	live := onHost(workload.ProcessKey{PID: 10, Start: 100*tick + 5, Inode: 77})
	for name, tc := range map[string]struct {
		p    PastProcess
		kept bool
	}{
		"started before":                {past(99*tick, false, 3), true},
		"in the same tick, rounded":     {past(100*tick, true, 0), false},
		"in the same tick, before":      {past(100*tick+1, false, 3), true},
		"after":                         {past(101*tick, false, 99), false},
		"the very process":              {past(100*tick+5, false, 77), false},
		"the same inode, another start": {past(50*tick, false, 77), false},
	} {
		for _, order := range []string{"before", "after"} {
			t.Run(name+", "+order, func(t *testing.T) {
				s := New(Options{})
				if order == "before" {
					s.Apply(put(live))
				}
				s.Restore(Past{Containers: []PastContainer{was(docker("old"), "old", true, 5)}, Processes: []PastProcess{tc.p}})
				if order == "after" {
					for _, k := range []workload.ProcessKey{{PID: 10, Start: 100 * tick, Ticks: true}, {PID: 10, Inode: 78}} {
						if a := s.Resolve(k); a.Process != nil {
							t.Errorf("before it is known, %v is answered from the past: %+v", k, a)
						}
					}
					s.Apply(put(live))
				}
				for _, k := range []workload.ProcessKey{live.Key, {PID: 10, Inode: 77}, {PID: 10, Start: 100 * tick, Ticks: true}} {
					if a := s.Resolve(k); a.Process != live || a.Exited {
						t.Errorf("%v is %+v", k, a.Process)
					}
				}
				if a, ok := s.PID(10); !ok || a.Process != live {
					t.Errorf("the PID is %+v", a.Process)
				}
				if a, ok := s.PIDAt(10, workload.KTime(200*tick)); !ok || a.Process != live {
					t.Errorf("the PID is now %+v", a.Process)
				}
				if got := s.restoredProcs == 1; got != tc.kept {
					t.Errorf("kept: %t, want %t", got, tc.kept)
				}
			})
		}
	}
}

func TestARestoredContainerIsFoundByNoCgroupAndIsNobodysParent(t *testing.T) {
	s := New(Options{})
	g := workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: 4, ID: 99}, Path: "/x"}
	old := was(docker("old"), "old", true, 5)
	old.Run = &workload.Run{Cgroups: []workload.CgroupPath{g}}
	s.Restore(Past{Containers: []PastContainer{old}})
	if c, ok := s.ByCgroup(g.CgroupID); ok {
		t.Errorf("the cgroup is %q's", c.Name)
	}
	inner := named(docker("in"), "in")
	inner.Parent = docker("old")
	s.Apply(putLayer(docker("in"), KernelSource, inner))
	if a, _ := s.ContainerAnswer(docker("in")); len(a.Containers) != 1 {
		t.Errorf("a living container is in %v", names(a.Containers))
	}
}

func TestWhoDidNotAskForTombstonesHearsOfNoRestoredOne(t *testing.T) {
	s := New(Options{Base: 100})
	s.Apply(putLayer(docker("live"), "docker", named(docker("live"), "live")))
	quiet, all := watch(t, s, workload.Selector{}), watch(t, s, workload.Selector{All: true})
	quiet.read()
	all.read()
	s.Restore(Past{Containers: []PastContainer{was(docker("old"), "old", true, 5)}})
	s.Apply(putLayer(docker("next"), "docker", named(docker("next"), "next")))
	if got := strings.Join(quiet.read(), " "); strings.Contains(got, "old") || !strings.Contains(got, "next") {
		t.Errorf("without tombstones: %s", got)
	}
	if got := strings.Join(all.read(), " "); !strings.Contains(got, "old") {
		t.Errorf("with tombstones: %s", got)
	}
	s.Apply(putLayer(docker("old"), "docker", named(docker("old"), "again")))
	if got := strings.Join(quiet.read(), " "); !strings.Contains(got, "again") {
		t.Errorf("when it lives again: %s", got)
	}
}

// TestNothingThatLivesIsAnsweredFromThePast runs two stores through the same
// history. One is given a past that a forger wrote: the same PIDs, keys, ids,
// aliases, parents and cgroups, at any instant. Of whatever lives both must say
// the same, always.
func TestNothingThatLivesIsAnsweredFromThePast(t *testing.T) {
	for seed := range uint64(300) {
		w := forger{rnd: rand.New(rand.NewPCG(seed, 7))}
		plain, forged := New(Options{Grace: 1 << 60}), New(Options{Grace: 1 << 60, MaxProcessTombstones: 50, MaxContainerTombstones: 10})
		at := w.rnd.IntN(60)
		for i := range 60 {
			if i == at {
				forged.Restore(w.past())
			}
			ch := w.change()
			plain.Apply(ch)
			forged.Apply(ch)
			if i < at {
				continue
			}
			if diff := cmp.Diff(w.living(plain, plain), w.living(plain, forged)); diff != "" {
				t.Fatalf("seed %d, step %d: of what lives (-without a past +with a forged one):\n%s", seed, i, diff)
			}
		}
	}
}

type forger struct {
	rnd *rand.Rand
}

func (w forger) key() workload.ProcessKey {
	n := uint64(1 + w.rnd.IntN(30))
	k := workload.ProcessKey{PID: workload.PID(1 + w.rnd.IntN(3)), Start: n * workload.TickNS / 3, Inode: n}
	if w.rnd.IntN(4) == 0 {
		k.Inode, k.Ticks, k.Start = 0, true, k.Start/workload.TickNS*workload.TickNS+workload.TickNS
	}
	return k
}

func (w forger) id() workload.ContainerID { return docker(fmt.Sprintf("c%d", w.rnd.IntN(5))) }

func (w forger) process() *workload.Process {
	if w.rnd.IntN(2) == 0 {
		return onHost(w.key())
	}
	return inContainer(w.key(), w.id())
}

func (w forger) container(id workload.ContainerID, name string) *workload.Container {
	c := named(id, name)
	if w.rnd.IntN(2) == 0 {
		c.Aliases = []workload.ContainerID{w.id()}
	}
	if w.rnd.IntN(3) == 0 {
		c.Parent = w.id()
	}
	c.Run = &workload.Run{Cgroups: []workload.CgroupPath{{CgroupID: workload.CgroupID{Hierarchy: 1, ID: uint64(1 + w.rnd.IntN(4))}}}}
	return c
}

func (w forger) past() (p Past) {
	for range 12 {
		p.Containers = append(p.Containers, PastContainer{Container: w.container(w.id(), "forged"), Ended: w.rnd.IntN(4) > 0, Since: workload.KTime(1 + w.rnd.IntN(1000))})
	}
	for range 30 {
		p.Processes = append(p.Processes, PastProcess{
			Process: exited(w.process(), workload.KTime(w.rnd.IntN(40)*workload.TickNS), 66),
			Since:   workload.KTime(1 + w.rnd.IntN(1000)), SeenUntil: workload.KTime(w.rnd.IntN(40) * workload.TickNS),
		})
	}
	return p
}

func (w forger) change() Change {
	id := w.id()
	switch w.rnd.IntN(8) {
	case 0:
		return put(exited(w.process(), workload.KTime(w.rnd.IntN(40)*workload.TickNS), 1))
	case 1, 2, 3:
		return put(w.process())
	case 4:
		return gone(id, workload.KTime(1+w.rnd.IntN(1000)))
	case 5:
		return forget(id)
	case 6:
		return putLayer(id, KernelSource, w.container(id, "true-"+id.ID))
	}
	return putLayer(id, "docker", w.container(id, "true-"+id.ID))
}

// living is what s says of all that lives according to truth.
func (w forger) living(truth, s *Store) map[string]string {
	say := func(a workload.Answer) string {
		return fmt.Sprint(a.Status, a.Confidence, a.Exited, names(a.Containers), a.Process, a.Reason)
	}
	out := map[string]string{}
	for e := range truth.All(workload.Selector{Kinds: []workload.Kind{workload.KindContainer, workload.KindProcess}}) {
		if p := e.Process; p != nil {
			out["key "+p.Key.String()] = say(s.Resolve(p.Key))
			a, _ := s.PID(p.Key.PID)
			out["pid "+p.Key.String()] = say(a)
			a, _ = s.PIDAt(p.Key.PID, 1<<50)
			out["at "+p.Key.String()] = say(a)
			continue
		}
		for _, id := range append([]workload.ContainerID{e.Container.ID}, e.Container.Aliases...) {
			if was, ok := truth.Container(id); ok { // an alias that two have is nobody's
				a, _ := s.ContainerAnswer(id)
				out["id "+id.String()] = fmt.Sprint(was.ID, say(a))
			}
		}
	}
	for i := range uint64(5) {
		if c, ok := s.ByCgroup(workload.CgroupID{Hierarchy: 1, ID: i}); ok {
			out[fmt.Sprint("cgroup ", i)] = fmt.Sprint(c.ID, c.Name)
		}
	}
	return out
}
