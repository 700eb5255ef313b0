// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	oci = iota
	docker
	containerd
)

// bench drives a machine by hand on a host with one hierarchy (v2).
type rig struct {
	t    *testing.T
	m    *machine
	now  workload.KTime
	reqs []request
	seen map[workload.ProcessKey]*workload.Process
	cont map[workload.ContainerID]*workload.Container // the kernel's layer
	srcs map[string]*workload.Container
	to   *store.Store // gets all changes, where it is set
}

var idA, idB = strings.Repeat("a1", 32), strings.Repeat("b2", 32)

func newRig(t *testing.T) *rig {
	r := &rig{t: t, now: 1e10, seen: map[workload.ProcessKey]*workload.Process{}, cont: map[workload.ContainerID]*workload.Container{}, srcs: map[string]*workload.Container{}}
	r.m = newMachine(config{
		sources:     []sourceInfo{{name: "oci", prefill: true, files: true}, {name: "docker", prefill: true}, {name: "containerd"}},
		strip:       func(abs string) (workload.CgroupPath, bool) { return workload.CgroupPath{Path: abs}, true },
		hostMountNS: 1,
	})
	r.mkdir(2, 1, "/docker")
	r.task(10, 1, 1, nil)
	return r
}

func (r *rig) feed(in any) {
	r.now += 1000
	if e, ok := in.(kernel.Event); ok {
		if e.Time == 0 {
			e.Time = r.now
		}
		in = evEvent{e}
	}
	out := r.m.step(r.now, in)
	r.reqs = append(r.reqs, out.requests...)
	if r.to != nil {
		r.to.Apply(out.changes...)
	}
	for _, c := range out.changes {
		switch {
		case c.Process != nil:
			r.seen[c.Process.Key] = c.Process
		case c.Container != nil && c.Container.Layer != nil && c.Container.Source == kernelSource:
			r.cont[c.Container.ID] = c.Container.Layer
		case c.Container != nil && c.Container.Layer != nil:
			r.srcs[c.Container.Source+" "+c.Container.ID.ID] = c.Container.Layer
		}
	}
}

func (r *rig) after(ms int) {
	for end := r.now + workload.KTime(ms)*simMS; r.now < end; {
		next := r.m.next()
		if next == 0 || next > end {
			r.now = end
			break
		}
		r.now = max(next, r.now)
		r.feed(evTick{})
	}
}

func (r *rig) mkdir(id, parent uint64, path string) { r.mkdirIn(0, id, parent, path) }

func (r *rig) mkdirIn(hierarchy uint32, id, parent uint64, path string) {
	r.feed(kernel.Event{Type: kernel.CgroupMkdir, Cgroup: kernel.Cgroup{ID: workload.CgroupID{Hierarchy: hierarchy, ID: id}, Parent: parent, Level: uint32(strings.Count(path, "/")), Path: path}})
}

func (r *rig) proc(pid, parent workload.PID, cgroup uint64, ns ...workload.PIDNamespace) kernel.Process {
	p := kernel.Process{Key: workload.ProcessKey{PID: pid, Start: uint64(pid) * workload.TickNS}, Parent: parent, ParentStart: uint64(parent) * workload.TickNS, MountNS: 1, ExeInMountNS: true, PIDNSLevel: uint8(len(ns))}
	p.Cgroups.N, p.Cgroups.IDs[0] = 1, workload.CgroupID{ID: cgroup}
	copy(p.PIDNS[:], ns)
	if len(ns) > 0 {
		p.MountNS = ns[0].Inum + 1
	}
	return p
}

// both is an event of a process in two hierarchies, v2 and one of v1.
func (r *rig) both(typ kernel.Type, pid, parent workload.PID, v2, v1 uint64, in ...workload.PIDNamespace) {
	p := r.proc(pid, parent, v2, in...)
	p.Cgroups.N, p.Cgroups.IDs[1] = 2, workload.CgroupID{Hierarchy: 1, ID: v1}
	r.feed(kernel.Event{Type: typ, Process: p})
}

func (r *rig) task(pid, parent workload.PID, cgroup uint64, ns []workload.PIDNamespace) {
	r.feed(kernel.Event{Type: kernel.Task, Process: r.proc(pid, parent, cgroup, ns...)})
}

func (r *rig) fork(pid, parent workload.PID, cgroup uint64, ns ...workload.PIDNamespace) {
	r.feed(kernel.Event{Type: kernel.Fork, Process: r.proc(pid, parent, cgroup, ns...)})
}

func (r *rig) exec(pid, parent workload.PID, cgroup uint64, ns ...workload.PIDNamespace) {
	r.feed(kernel.Event{Type: kernel.Exec, Process: r.proc(pid, parent, cgroup, ns...)})
}

func (r *rig) state(id string, init workload.PID, path string) *workload.Container {
	return &workload.Container{ID: workload.ContainerID{Runtime: "runc", Namespace: "moby", ID: id}, Run: &workload.Run{
		Init: workload.ProcessKey{PID: init, Start: uint64(init) * workload.TickNS, Ticks: true}, ClaimedPaths: []string{path}, Registers: true,
	}}
}

func (r *rig) hint(id string, init workload.PID, path string) {
	l := r.state(id, init, path)
	r.feed(evHint{source: oci, hint: collectors.Hint{Kind: collectors.HintStarted, ID: l.ID, Layer: l}})
}

// take removes and gives the oldest request of a kind to a source.
func (r *rig) take(kind requestKind, source int) request {
	r.t.Helper()
	i := slices.IndexFunc(r.reqs, func(q request) bool { return q.kind == kind && q.source == source })
	if i < 0 {
		r.t.Fatalf("no request of kind %d to source %d among %+v", kind, source, r.reqs)
	}
	q := r.reqs[i]
	r.reqs = slices.Delete(r.reqs, i, i+1)
	return q
}

func (r *rig) asked(kind requestKind, source int) (n int) {
	for _, q := range r.reqs {
		if q.kind == kind && q.source == source {
			n++
		}
	}
	return n
}

func (r *rig) answer(q request, l *workload.Container, err error) {
	r.feed(evAnswer{req: q, container: l, err: err})
}

func (r *rig) want(pid workload.PID, status workload.Status, id string) *workload.Process {
	r.t.Helper()
	p := r.seen[workload.ProcessKey{PID: pid, Start: uint64(pid) * workload.TickNS}]
	if p == nil {
		r.t.Fatalf("process %d is not in the store", pid)
	}
	if p.Status != status || p.Container.ID != id {
		r.t.Fatalf("process %d: %s %q (%s), want %s %q", pid, p.Status, p.Container.ID, p.Reason, status, id)
	}
	return p
}

func ns(inum uint32, pid workload.PID) workload.PIDNamespace {
	return workload.PIDNamespace{Inum: inum, PID: pid}
}

// startA starts container A by hand: init 100 in cgroup 3, PID namespace 500.
func (r *rig) startA() {
	r.mkdir(3, 2, "/docker/"+idA)
	r.fork(100, 10, 1, ns(500, 1))
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(100, 10, 3, ns(500, 1)), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 3}}})
	r.hint(idA, 100, "/docker/"+idA)
	r.exec(100, 10, 3, ns(500, 1))
}

// startB starts container B: init 200 in cgroup 4, PID namespace 600.
func (r *rig) startB() {
	r.mkdir(4, 2, "/docker/"+idB)
	r.fork(200, 10, 4, ns(600, 1)) // CLONE_INTO_CGROUP: no attach
	r.hint(idB, 200, "/docker/"+idB)
	r.exec(200, 10, 4, ns(600, 1))
}

func TestTheInitIsKnownWhenItsFirstUserInstructionRuns(t *testing.T) {
	r := newRig(t)
	r.startA()
	p := r.want(100, workload.StatusContainer, idA)
	if p.Confidence != workload.Confirmed || p.Entry != workload.EntryInit {
		t.Errorf("%s by %s, want confirmed by init", p.Confidence, p.Entry)
	}
	r.fork(101, 100, 3, ns(500, 2))
	r.want(101, workload.StatusContainer, idA)
}

// No state of runc is seen here, and the cgroup's name says nothing.
func TestAnEnginesWordForTheInitAndItsCgroupRegisters(t *testing.T) {
	r := newRig(t)
	r.m.cfg.strip = func(string) (workload.CgroupPath, bool) { return workload.CgroupPath{}, false }
	r.mkdir(3, 2, "/very/odd/path")
	r.fork(100, 10, 3, ns(500, 1))
	id := workload.ContainerID{Runtime: "containerd", Namespace: "default", ID: "odd"}
	said := &workload.Container{ID: id, State: workload.StateRunning, Run: &workload.Run{Init: workload.ProcessKey{PID: 100}, Registers: true}}
	r.feed(evHint{source: containerd, hint: collectors.Hint{Kind: collectors.HintStarted, ID: id, Layer: said}})
	r.exec(100, 10, 3, ns(500, 1))
	r.want(100, workload.StatusUnknown, "")
	full := said.Clone()
	full.Run.ClaimedPaths = []string{"/very/odd/path"}
	r.answer(r.take(reqLookup, containerd), full, nil)
	r.want(100, workload.StatusUnknown, "")
	r.answer(r.take(reqPrefill, oci), nil, collectors.ErrNotPresent)
	r.want(100, workload.StatusContainer, "odd")
	r.after(10_000)
	if n := r.asked(reqLookup, containerd); n > 1 {
		t.Errorf("it is asked %d more times", n)
	}
}

// containerd's create event has the image and no labels.
func TestAnEventIsNotAllThatAnEngineCanSay(t *testing.T) {
	r := newRig(t)
	id := workload.ContainerID{Runtime: "containerd", Namespace: "default", ID: "web"}
	event := &workload.Container{ID: id, Image: workload.ImageRef{Name: "i:1"}}
	r.feed(evHint{source: containerd, hint: collectors.Hint{Kind: collectors.HintCreated, ID: id, Layer: event}})
	full := event.Clone()
	full.Labels = map[string]string{"team": "shop"}
	r.answer(r.take(reqLookup, containerd), full, nil)
	if l := r.srcs["containerd web"]; l == nil || l.Labels["team"] != "shop" || l.Image.Name != "i:1" {
		t.Errorf("it is described as %+v", l)
	}
}

// The first question meets no engine; then it starts and lists what it has.
func TestAnEngineThatWasNotThereIsAskedForTheInitOnceItIs(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.fork(100, 10, 3, ns(500, 1))
	r.exec(100, 10, 3, ns(500, 1))
	r.answer(r.take(reqPrefill, oci), nil, collectors.ErrNotPresent)
	r.answer(r.take(reqPrefill, docker), nil, collectors.ErrNotPresent)
	r.answer(r.take(reqLookup, docker), nil, collectors.ErrNotPresent)
	listed := &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: idA}, State: workload.StateRunning}
	r.feed(evHint{source: docker, hint: collectors.Hint{Kind: collectors.HintStarted, ID: listed.ID, Layer: listed}})
	r.after(1000)
	full := listed.Clone()
	full.Run = &workload.Run{Init: workload.ProcessKey{PID: 100}, Registers: true}
	r.answer(r.take(reqLookup, docker), full, nil)
	r.want(100, workload.StatusContainer, idA)
}

// A path that was asked for is no proof: the init has to be there.
func TestAnEnginesWordForACgroupOfOthersRegistersNothing(t *testing.T) {
	r := newRig(t)
	r.m.cfg.strip = func(string) (workload.CgroupPath, bool) { return workload.CgroupPath{}, false }
	r.mkdir(3, 2, "/very/odd/path")
	r.mkdir(4, 2, "/elsewhere")
	r.fork(100, 10, 4, ns(500, 1))
	id := workload.ContainerID{Runtime: "containerd", Namespace: "default", ID: "odd"}
	r.feed(evHint{source: containerd, hint: collectors.Hint{Kind: collectors.HintStarted, ID: id, Layer: &workload.Container{
		ID: id, State: workload.StateRunning, Run: &workload.Run{Init: workload.ProcessKey{PID: 100}, ClaimedPaths: []string{"/very/odd/path"}, Registers: true},
	}}})
	r.after(20_000)
	r.want(100, workload.StatusUnknown, "")
	r.fork(101, 10, 3)
	r.want(101, workload.StatusHost, "")
}

func TestANameAloneRegistersNothing(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.fork(100, 10, 3, ns(500, 1))
	r.exec(100, 10, 3, ns(500, 1))
	r.want(100, workload.StatusUnknown, "")
}

func TestANameThatEverySourceDeniesIsAClaim(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.fork(100, 10, 3, ns(500, 1))
	for range 2 {
		r.asHost(r.proc(100, 10, 3, ns(500, 1)))
	}
	if p := r.want(100, workload.StatusContainer, idA); p.Confidence != workload.Claimed {
		t.Errorf("confidence %q, want claimed", p.Confidence)
	}
	r.reqs = nil
	r.fork(101, 100, 3, ns(500, 2))
	r.want(101, workload.StatusContainer, idA)
	if n := r.asked(reqLineage, 0); n > 0 {
		t.Errorf("the name was read %d times for a child", n)
	}
}

// The removal of a cgroup is not heard, nor what has its id now. A process of the
// host's that is put there, be it younger or older than the name, gets no name.
func TestANameThatIsOlderThanAnArrivalIsReadAgain(t *testing.T) {
	for name, c := range map[string]struct {
		born bool
		path string
		want workload.Status
		id   string
	}{
		"it came later, and the cgroup is another":  {true, "/user.slice", workload.StatusHost, ""},
		"it is older, and the cgroup is another":    {false, "/user.slice", workload.StatusHost, ""},
		"it came later, and the cgroup is the same": {true, "/docker/" + idA, workload.StatusContainer, idA},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if !c.born {
				r.fork(190, 10, 1)
			}
			r.mkdir(3, 2, "/docker/"+idA)
			r.fork(180, 10, 3)
			r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(180, 10, 3), Exit: workload.Exit{Known: true}})
			r.asHost() // all deny it
			if c.born {
				r.fork(190, 10, 1)
			}
			r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(190, 10, 3), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 3}}})
			r.want(190, workload.StatusUnknown, "")
			q := r.take(reqLineage, 0)
			again := []workload.CgroupPath{{CgroupID: q.cgroup, Path: c.path}, {CgroupID: workload.CgroupID{ID: 1}, Path: "/"}}
			r.feed(evLineage{id: q.cgroup, lineage: again, at: r.now})
			for r.asked(reqProcess, 0) > 0 {
				q := r.take(reqProcess, 0)
				r.feed(evProcess{pid: q.pid, proc: r.proc(190, 10, 3), at: r.now})
			}
			r.want(190, c.want, c.id)
		})
	}
}

func TestAStateWhoseInitIsAnotherProcessRegistersNothing(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.fork(100, 10, 3, ns(500, 1))
	l := r.state(idA, 100, "/docker/"+idA)
	l.Run.Init.Start += 5 * workload.TickNS
	r.feed(evHint{source: oci, hint: collectors.Hint{Kind: collectors.HintStarted, ID: l.ID, Layer: l}})
	r.feed(evProcess{pid: 100, proc: r.proc(100, 10, 3, ns(500, 1)), at: r.now + 1})
	r.want(100, workload.StatusUnknown, "")
}

func TestAStateThatNamesAnotherCgroupRegistersNothing(t *testing.T) {
	r := newRig(t)
	r.startB()
	r.mkdir(3, 2, "/docker/"+idA)
	r.fork(100, 10, 3, ns(500, 1))
	r.hint(idA, 100, "/docker/"+idB) // a lie: its init is not there
	r.after(20000)
	r.want(100, workload.StatusUnknown, "")
	r.want(200, workload.StatusContainer, idB)
}

func TestAMemberThatMovesIntoAnotherContainerIsInConflict(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.startB()
	r.fork(101, 100, 3, ns(500, 2))
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(101, 100, 4, ns(500, 2)), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 4}}})
	r.want(101, workload.StatusConflict, "")
	r.fork(102, 101, 4, ns(500, 3))
	r.want(102, workload.StatusConflict, "")
}

func TestAnExecdProcessIsAMemberAndAnNsenterIsNot(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.fork(110, 10, 1)
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(110, 10, 3), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 3}}})
	if p := r.want(110, workload.StatusContainer, idA); p.Entry != workload.EntryExec {
		t.Errorf("entry %q, want exec", p.Entry)
	}
	r.after(2000)
	r.fork(111, 10, 1, ns(500, 9))
	r.after(2000)
	r.denyInit()
	r.want(111, workload.StatusUnknown, "") // it may have been moved since, unheard
	r.feed(evProcess{pid: 111, proc: r.proc(111, 10, 1, ns(500, 9)), at: r.now})
	if p := r.want(111, workload.StatusHost, ""); !p.ForeignNamespaces {
		t.Error("foreign namespaces are not said")
	}
}

// In a guest in cgroup v2 alone, on a hybrid host, /proc tells of fewer
// hierarchies than the kernel's events: that is no move.
func TestAProcessOfWhichLessIsReadHasNotMoved(t *testing.T) {
	r := newRig(t)
	r.startA()
	whole := func(v1 uint64) kernel.Process {
		p := r.proc(111, 10, 1, ns(500, 9))
		p.Cgroups.N, p.Cgroups.IDs[1] = 2, workload.CgroupID{Hierarchy: 9, ID: v1}
		return p
	}
	r.feed(kernel.Event{Type: kernel.Fork, Process: whole(77)})
	r.after(2000)
	r.denyInit()
	r.feed(evProcess{pid: 111, proc: r.proc(111, 10, 1, ns(500, 9)), at: r.now})
	r.after(2000)
	r.denyInit()
	r.feed(evProcess{pid: 111, proc: r.proc(111, 10, 1, ns(500, 9)), at: r.now})
	r.want(111, workload.StatusHost, "")
	// In a hierarchy that both tell of, it is one.
	r.feed(evProcess{pid: 111, proc: r.proc(111, 10, 2, ns(500, 9)), at: r.now})
	r.after(2000)
	r.want(111, workload.StatusUnknown, "")
}

func TestAChildCgroupWithTheVictimsNameChangesNothing(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.startB()
	r.mkdir(5, 3, "/docker/"+idA+"/docker-"+idB+".scope")
	r.fork(101, 100, 5, ns(500, 2))
	r.want(101, workload.StatusContainer, idA)
}

func TestCgroupParentBelowAnotherContainerIsItsOwnContainer(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.mkdir(5, 3, "/docker/"+idA+"/"+idB)
	r.fork(200, 10, 5, ns(600, 1))
	r.hint(idB, 200, "/docker/"+idA+"/"+idB)
	r.exec(200, 10, 5, ns(600, 1))
	r.want(200, workload.StatusContainer, idB)
	r.want(100, workload.StatusContainer, idA)
}

// startBelowA is runc 1.1 that makes B with a cgroup below A's: its init is moved
// there while it is the host's in all its namespaces, and makes what becomes B's init.
func (r *rig) startBelowA() {
	r.mkdir(5, 3, "/docker/"+idA+"/"+idB)
	r.fork(198, 10, 1) // runc init
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(198, 10, 5), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 5}}})
	r.fork(199, 198, 5)
	r.fork(200, 199, 5, ns(600, 1))
}

func TestAnEngineOfTheHostsBelowAContainerMakesItsOwn(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.startBelowA()
	for _, pid := range []workload.PID{198, 199, 200} {
		r.want(pid, workload.StatusUnknown, "")
	}
	r.hint(idB, 200, "/docker/"+idA+"/"+idB)
	r.exec(200, 10, 5, ns(600, 1))
	r.fork(201, 200, 5, ns(600, 2))
	for _, pid := range []workload.PID{198, 199, 200, 201} {
		r.want(pid, workload.StatusContainer, idB)
	}
	r.want(100, workload.StatusContainer, idA)
}

// B shares A's PID namespace, and A's init gets B's orphans.
func TestAContainerBelowAnotherThatSharesItsPIDNamespaceIsItsOwn(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.mkdir(5, 3, "/docker/"+idA+"/"+idB)
	inB := func(pid, parent workload.PID) kernel.Process {
		p := r.proc(pid, parent, 5, ns(500, pid))
		p.MountNS = 77
		return p
	}
	r.feed(kernel.Event{Type: kernel.Fork, Process: inB(200, 10)})
	r.feed(kernel.Event{Type: kernel.Fork, Process: inB(201, 200)})
	r.feed(kernel.Event{Type: kernel.Exec, Process: inB(201, 100)})
	r.feed(kernel.Event{Type: kernel.Task, Process: inB(202, 100)}) // its fork was lost
	for _, pid := range []workload.PID{200, 201, 202} {
		r.want(pid, workload.StatusUnknown, "")
	}
	r.hint(idB, 200, "/docker/"+idA+"/"+idB)
	for _, pid := range []workload.PID{200, 201, 202} {
		r.want(pid, workload.StatusContainer, idB)
	}
}

// A container's end and the removal of its cgroup are not heard, nor what has that
// cgroup's id now: whoever comes there from the host is no member of it.
func TestWhoEntersACgroupWhoseContainerMayHaveEndedIsNoMemberYet(t *testing.T) {
	r := newRig(t)
	r.m.cfg.idsComeAgain = true
	r.startA()
	r.after(100)
	r.reqs = nil
	r.fork(190, 10, 3)
	r.want(190, workload.StatusUnknown, "")
	r.feed(evProcess{pid: r.take(reqProcess, 0).pid, proc: r.proc(100, 10, 3, ns(500, 1)), at: r.now})
	r.want(190, workload.StatusContainer, idA) // it has not
	r.fork(191, 10, 3)
	r.feed(evProcess{pid: r.take(reqProcess, 0).pid, gone: true, at: r.now})
	r.want(191, workload.StatusUnknown, "")
}

// What ended unheard in a cgroup whose id has come again was there before the init of
// the container that is in it now. A runtime's own process was, too: it is read.
func TestWhoWasInACgroupBeforeItsInitIsReadWhereIDsComeAgain(t *testing.T) {
	r := newRig(t)
	r.m.cfg.idsComeAgain = true
	r.mkdir(3, 2, "/docker/"+idA)
	r.fork(190, 10, 3)
	r.fork(191, 10, 3)
	init := r.proc(100, 10, 3, ns(500, 1))
	init.Key.Start = uint64(r.now) + 1
	r.feed(kernel.Event{Type: kernel.Fork, Process: init})
	l := r.state(idA, 100, "/docker/"+idA)
	l.Run.Init = init.Key
	r.feed(evHint{source: oci, hint: collectors.Hint{Kind: collectors.HintStarted, ID: l.ID, Layer: l}})
	if p := r.m.procs[100]; p.member == nil {
		t.Fatalf("the init is %s: %s", p.status, p.reason)
	}
	r.want(190, workload.StatusUnknown, "")
	r.want(191, workload.StatusUnknown, "")
	r.feed(evProcess{pid: r.take(reqProcess, 0).pid, proc: r.proc(190, 10, 3), at: r.now})
	r.feed(evProcess{pid: r.take(reqProcess, 0).pid, gone: true, at: r.now})
	r.feed(evProcess{pid: 100, proc: init, at: r.now})
	r.want(190, workload.StatusContainer, idA)
	r.want(191, workload.StatusUnknown, "")
}

// A root is known as what a cgroup is below of, before it is read itself.
func TestWhoIsInARootThatIsKnownByWhatIsBelowItIsJudged(t *testing.T) {
	r := newRig(t)
	p := r.proc(190, 10, 1)
	p.Cgroups.N, p.Cgroups.IDs[1] = 2, workload.CgroupID{Hierarchy: 7, ID: 1}
	r.feed(kernel.Event{Type: kernel.Fork, Process: p})
	r.want(190, workload.StatusUnknown, "")
	below := workload.CgroupID{Hierarchy: 7, ID: 2}
	r.feed(evLineage{id: below, lineage: []workload.CgroupPath{{CgroupID: below, Path: "/docker"}, {CgroupID: workload.CgroupID{Hierarchy: 7, ID: 1}, Path: "/"}}, at: r.now})
	r.want(190, workload.StatusHost, "")
}

// docker exec into a container whose processes are all in cgroups below its own.
func TestWhoEntersACgroupBelowAContainersIsAMemberOnceInItsNamespaces(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.mkdir(5, 3, "/docker/"+idA+"/init.scope")
	r.fork(110, 10, 1)
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(110, 10, 5), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 5}}})
	r.want(110, workload.StatusUnknown, "")
	r.fork(111, 110, 5, ns(500, 8))
	if p := r.want(111, workload.StatusContainer, idA); p.Entry != workload.EntryExec {
		t.Errorf("entry %q, want exec", p.Entry)
	}
}

// B's cgroup is registered in one hierarchy, and in the other no more is known than
// that it is below A's: nobody is in conflict, and none of its children.
func TestAContainerBelowAnotherIsInNoConflictWhileItsCgroupsAreRead(t *testing.T) {
	r := newRig(t)
	outer, inner := "/docker/"+idA, "/docker/"+idA+"/"+idB
	r.mkdirIn(1, 2, 1, "/docker")
	for h := range uint32(2) {
		r.mkdirIn(h, 3, 2, outer)
	}
	r.both(kernel.Task, 11, 1, 1, 1)
	r.both(kernel.Fork, 100, 11, 3, 3, ns(500, 1))
	r.hint(idA, 100, outer)
	r.mkdirIn(0, 5, 3, inner)
	r.both(kernel.Fork, 200, 11, 5, 5, ns(600, 1))
	r.hint(idB, 200, inner)
	r.want(200, workload.StatusContainer, idB)
	r.mkdirIn(1, 5, 3, inner)
	r.want(200, workload.StatusContainer, idB)
	r.mkdirIn(0, 6, 5, inner+"/child")
	r.both(kernel.Fork, 201, 200, 6, 5, ns(600, 2))
	r.both(kernel.Fork, 202, 200, 9, 5, ns(600, 3)) // nothing is known of where it is in v2
	r.want(201, workload.StatusContainer, idB)
	if p := r.m.procs[202]; p.status == workload.StatusConflict {
		t.Errorf("it is in conflict: %s", p.reason)
	}
	r.both(kernel.Fork, 203, 200, 5, 3, ns(600, 4)) // but who goes into A's own is
	r.want(203, workload.StatusConflict, "")
	r.mkdirIn(1, 8, 3, inner+"2")
	r.both(kernel.Task, 204, 99, 10, 8, ns(600, 5)) // how it came is not known, nor where it is in v2
	if p := r.m.procs[204]; p.status != workload.StatusUnknown {
		t.Errorf("it is %s: %s", p.status, p.reason)
	}
	v2 := func(id uint64, path string) workload.CgroupPath {
		return workload.CgroupPath{CgroupID: workload.CgroupID{ID: id}, Path: path}
	}
	r.feed(evLineage{id: v2(10, "").CgroupID, at: r.now, lineage: []workload.CgroupPath{v2(10, inner+"/other"), v2(5, inner), v2(3, outer), v2(2, "/docker"), v2(1, "/")}})
	r.want(204, workload.StatusContainer, idB)
}

// A and B, which an engine of the host's has put below A, are registered in one hierarchy
// each, and not in the same one: that B's processes are seen below A's cgroup says nothing.
func TestTwoContainersRegisteredInNoHierarchyInCommonAreInNoConflict(t *testing.T) {
	r := newRig(t)
	outer, inner := "/docker/"+idA, "/docker/"+idA+"/"+idB
	r.mkdirIn(1, 2, 1, "/docker")
	for h := range uint32(2) {
		r.mkdirIn(h, 3, 2, outer)
		r.mkdirIn(h, 5, 3, inner)
	}
	r.both(kernel.Fork, 11, 10, 1, 1)
	r.both(kernel.Fork, 100, 11, 1, 3, ns(500, 1)) // its move in v2 is not heard yet
	r.hint(idA, 100, outer)
	r.want(100, workload.StatusContainer, idA)
	r.both(kernel.Fork, 200, 11, 5, 1, ns(600, 1)) // its move in v1
	r.hint(idB, 200, inner)
	r.want(200, workload.StatusContainer, idB)
	r.both(kernel.Task, 200, 11, 5, 5, ns(600, 1))
	r.want(200, workload.StatusContainer, idB)
	r.both(kernel.Task, 201, 200, 9, 5, ns(600, 2)) // where it is in v2 is read yet
	r.want(201, workload.StatusContainer, idB)
	v2 := func(id uint64, path string) workload.CgroupPath {
		return workload.CgroupPath{CgroupID: workload.CgroupID{ID: id}, Path: path}
	}
	r.feed(evLineage{id: v2(9, "").CgroupID, at: r.now, lineage: []workload.CgroupPath{v2(9, inner+"/init.scope"), v2(5, inner), v2(3, outer), v2(2, "/docker"), v2(1, "/")}})
	r.want(201, workload.StatusContainer, idB)
	r.both(kernel.Fork, 202, 200, 5, 3, ns(600, 3)) // but who goes into A's own is in conflict
	r.want(202, workload.StatusConflict, "")
}

// The runtime's word comes between the init's moves in two hierarchies: the second is
// registered with that move.
func TestWhereTheInitComesAfterItsRegistrationIsRegisteredToo(t *testing.T) {
	r := newRig(t)
	path := "/docker/" + idA
	r.mkdirIn(1, 2, 1, "/docker")
	for h := range uint32(2) {
		r.mkdirIn(h, 3, 2, path)
	}
	r.both(kernel.Fork, 11, 10, 1, 1)
	r.both(kernel.Fork, 100, 11, 3, 1, ns(500, 1))
	r.hint(idA, 100, path)
	cgroups := func() (n int) {
		for _, c := range r.cont {
			n = len(c.Run.Cgroups)
		}
		return n
	}
	if n := cgroups(); n != 1 {
		t.Fatalf("%d cgroups are registered, not 1", n)
	}
	r.both(kernel.Exec, 100, 11, 3, 3, ns(500, 1)) // nothing else tells of its move
	if n := cgroups(); n != 2 {
		t.Errorf("%d cgroups are registered, not 2", n)
	}
	r.mkdirIn(1, 4, 1, "/elsewhere")
	r.both(kernel.Exec, 100, 11, 3, 4, ns(500, 1))
	if n := cgroups(); n != 2 {
		t.Errorf("%d cgroups are registered after a move to another one, not 2", n)
	}
	r.want(100, workload.StatusContainer, idA)
}

// Neither A's removal was heard nor what has the id of its cgroup now: the source that has
// B there disputes the name, which is read again.
func TestANameThatASourceDisputesIsReadAgain(t *testing.T) {
	r := newRig(t)
	r.m.cfg.idsComeAgain = true
	r.startA()
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 10, 3, ns(500, 1)), Exit: workload.Exit{Known: true}})
	r.after(100)
	r.reqs = nil
	r.fork(200, 10, 3, ns(600, 1))
	r.hint(idB, 200, "/docker/"+idB)
	if p := r.m.procs[200]; p.status != workload.StatusUnknown && p.status != workload.StatusConflict {
		t.Errorf("it is %s", p.status)
	}
	cgroup := func(id uint64, path string) workload.CgroupPath {
		return workload.CgroupPath{CgroupID: workload.CgroupID{ID: id}, Path: path}
	}
	q := r.take(reqLineage, 0)
	r.feed(evLineage{id: q.cgroup, lineage: []workload.CgroupPath{cgroup(3, "/docker/"+idB), cgroup(2, "/docker"), cgroup(1, "/")}, at: r.now})
	r.feed(evProcess{pid: r.take(reqProcess, 0).pid, proc: r.proc(200, 10, 3, ns(600, 1)), at: r.now})
	r.after(500)
	r.want(200, workload.StatusContainer, idB)
}

// Nobody tells of moves: an init that its source has elsewhere is read.
func TestAnInitThatIsNotWhereItsSourceSaysIsRead(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.fork(100, 10, 2, ns(500, 1))
	r.reqs = nil
	r.hint(idA, 100, "/docker/"+idA)
	r.after(10)
	if n := r.asked(reqProcess, 0); n != 0 {
		t.Errorf("it was read %d times within 10 ms: its move may be on its way", n)
	}
	r.after(100)
	if n := r.asked(reqProcess, 0); n != 1 {
		t.Fatalf("it was read %d times within 110 ms", n)
	}
	r.feed(evProcess{pid: r.take(reqProcess, 0).pid, proc: r.proc(100, 10, 3, ns(500, 1)), at: r.now})
	r.after(500)
	r.want(100, workload.StatusContainer, idA)
}

// The agent comes late: of two hierarchies, the lineage in one is still being
// read when the runtime's state registers the inner container.
func TestALineageThatComesAfterTheRegistrationIsRegisteredToo(t *testing.T) {
	r := newRig(t)
	both := func(pid, parent workload.PID, cgroup uint64, in workload.PIDNamespace) {
		p := r.proc(pid, parent, cgroup, in)
		p.Cgroups.N, p.Cgroups.IDs[1] = 2, workload.CgroupID{Hierarchy: 1, ID: cgroup}
		r.feed(kernel.Event{Type: kernel.Task, Process: p})
	}
	lineage := func(hierarchy uint32, id uint64, paths ...string) {
		e := evLineage{id: workload.CgroupID{Hierarchy: hierarchy, ID: id}}
		for i, path := range paths {
			e.lineage = append(e.lineage, workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: hierarchy, ID: id - uint64(i)}, Path: path})
		}
		r.feed(e)
	}
	outer, inner := "/docker/"+idA, "/docker/"+idA+"/"+idB
	for h := range uint32(2) {
		lineage(h, 3, outer, "/docker", "/")
	}
	both(100, 10, 3, ns(500, 1))
	r.hint(idA, 100, outer)
	r.want(100, workload.StatusContainer, idA)

	both(200, 10, 4, ns(600, 1))
	both(201, 200, 4, ns(600, 2))
	lineage(0, 4, inner, outer, "/docker", "/")
	r.hint(idB, 200, inner)
	lineage(1, 4, inner, outer, "/docker", "/")
	r.after(100)
	r.want(200, workload.StatusContainer, idB)
	r.want(201, workload.StatusContainer, idB)
	for id, c := range r.cont {
		if id.ID == idB && len(c.Run.Cgroups) != 2 {
			t.Errorf("%d cgroups are registered, not 2", len(c.Run.Cgroups))
		}
	}
}

func TestTheSourcesThatKnowAContainerMakeOneEntity(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.answer(r.take(reqPrefill, docker), &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: idA}, Name: "web"}, nil)
	r.answer(r.take(reqLookup, containerd), &workload.Container{ID: workload.ContainerID{Runtime: "containerd", Namespace: "moby", ID: idA}}, nil)
	if len(r.m.all) != 1 {
		t.Fatalf("%d entities, want 1", len(r.m.all))
	}
	if n := len(r.m.all[0].layers); n != 3 {
		t.Errorf("%d layers, want 3", n)
	}
}

func TestARunThatAnotherSourceRepeatsIsNotANewOne(t *testing.T) {
	r := newRig(t)
	r.startA()
	before := len(r.cont[r.m.all[0].key].Timeline)
	r.answer(r.take(reqPrefill, docker), &workload.Container{
		ID: workload.ContainerID{Runtime: "docker", ID: idA}, Name: "web", State: workload.StateRunning,
		Run: &workload.Run{Init: workload.ProcessKey{PID: 100}, Registers: true},
	}, nil)
	if l := r.cont[r.m.all[0].key]; len(l.Timeline) < before || l.Timeline[0].What != workload.MarkCgroup {
		t.Errorf("the timeline began anew: %+v", l.Timeline)
	}
}

func TestEqualNamesInTwoContainerdsAreTwoContainers(t *testing.T) {
	r := newRig(t)
	mine := workload.ContainerID{Runtime: "containerd", Namespace: "default", ID: "c1"}
	other := mine
	other.Instance = "/run/other.sock"
	r.feed(evListed{source: containerd, container: &workload.Container{ID: other, Image: workload.ImageRef{Name: "wrong"}}})
	r.mkdir(20, 1, "/odd")
	r.fork(300, 10, 20, ns(700, 1))
	l := r.state("c1", 300, "/odd")
	l.ID.Namespace, l.Aliases = "default", []workload.ContainerID{mine}
	r.feed(evHint{source: oci, hint: collectors.Hint{Kind: collectors.HintStarted, ID: l.ID, Layer: l}})
	r.want(300, workload.StatusContainer, "c1")
	q := r.take(reqLookup, containerd)
	if q.id != mine {
		t.Fatalf("asked for %v", q.id)
	}
	r.answer(q, &workload.Container{ID: other, Image: workload.ImageRef{Name: "wrong"}}, nil)
	c := r.m.lookup(300).member
	if c.layers[containerd] != nil {
		t.Fatalf("took the description of %v", c.layers[containerd].ID)
	}
	r.feed(evHint{source: containerd, hint: collectors.Hint{Kind: collectors.HintChanged, ID: mine, Layer: &workload.Container{ID: mine, Image: workload.ImageRef{Name: "right"}}}})
	if c = r.m.lookup(300).member; c.layers[containerd] == nil || c.layers[containerd].Image.Name != "right" {
		t.Fatalf("layers %+v", c.layers)
	}
}

func TestAPathThatTheKernelCutIsReadAgain(t *testing.T) {
	r := newRig(t)
	r.feed(kernel.Event{Type: kernel.CgroupMkdir, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 3}, Parent: 2, Level: 2, Path: "/docker/" + idA, PathCut: true}})
	if q := r.take(reqLineage, 0); q.cgroup.ID != 3 {
		t.Errorf("asked for the lineage of %v", q.cgroup)
	}
	if n := r.asked(reqPrefill, docker); n != 0 {
		t.Error("a cut path was taken for a claim")
	}
}

func TestALineageThatEndsBelowTheRootIsKnown(t *testing.T) {
	r := newRig(t)
	r.task(40, 10, 77, nil)
	q := r.take(reqLineage, 0)
	for q.cgroup.ID != 77 {
		q = r.take(reqLineage, 0)
	}
	r.feed(evLineage{id: q.cgroup, lineage: []workload.CgroupPath{{CgroupID: q.cgroup, Path: "/sub/x"}, {CgroupID: workload.CgroupID{ID: 76}, Path: "/sub"}}})
	r.want(40, workload.StatusHost, "")
}

func TestAPathLikeContainerdsAsksEarlyAndDecidesNothing(t *testing.T) {
	r := newRig(t)
	r.mkdir(30, 1, "/default")
	r.mkdir(31, 30, "/default/c1")
	q := r.take(reqLookup, containerd)
	id := workload.ContainerID{Runtime: "containerd", Namespace: "default", ID: "c1"}
	r.answer(q, &workload.Container{ID: id, Image: workload.ImageRef{Name: "img"}}, nil)
	r.fork(300, 10, 31)
	r.want(300, workload.StatusHost, "") // nobody has registered it: a host's own cgroup may be called so
	l := r.state("c1", 300, "/default/c1")
	l.ID.Namespace, l.Aliases = "default", []workload.ContainerID{id}
	r.feed(evHint{source: oci, hint: collectors.Hint{Kind: collectors.HintStarted, ID: l.ID, Layer: l}})
	r.want(300, workload.StatusContainer, "c1")
	if c := r.m.lookup(300).member; c.layers[containerd] == nil || c.layers[oci] == nil {
		t.Fatalf("not one entity: %+v", c.layers)
	}
}

func TestAnEngineIsAskedTwiceAtMostForOneStart(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.answer(r.take(reqPrefill, docker), &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: idA}, Name: "web"}, nil)
	r.answer(r.take(reqLookup, containerd), nil, collectors.ErrNotFound)
	r.after(1000)
	r.answer(r.take(reqLookup, docker), &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: idA}, Name: "web"}, nil)
	for range 20 {
		r.after(1000)
	}
	if n := r.asked(reqLookup, docker) + 1; n > 2 {
		t.Errorf("docker was asked %d times", n)
	}
	l := r.cont[r.m.all[0].key]
	if len(l.Missing) != 0 && !slices.Equal(l.Missing, []string{"containerd"}) {
		t.Errorf("missing %v", l.Missing)
	}
}

func TestTheKernelsStatusEndsTheRun(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 10, 3, ns(500, 1)), Exit: workload.Exit{Known: true, Code: 137, Signal: 9, OOM: true}})
	l := r.cont[r.m.all[0].key]
	if l.State != workload.StateExited || l.Exit == nil || l.Exit.Code != 137 || !l.Exit.OOM {
		t.Errorf("state %s, exit %+v", l.State, l.Exit)
	}
	r.want(100, workload.StatusContainer, idA)
}

func TestTheKillersChoiceOfAnyProcessIsItsContainers(t *testing.T) {
	killed := workload.Exit{Known: true, Code: 137, Signal: 9, OOM: true}
	r := newRig(t)
	r.startA()
	r.startB()
	r.fork(101, 100, 3, ns(500, 2))
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(101, 100, 3, ns(500, 2)), Exit: killed})
	if l := r.cont[r.m.all[0].key]; l.Exit != nil {
		t.Errorf("it runs, and is said to have ended: %+v", l.Exit)
	}
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 10, 3, ns(500, 1)), Exit: workload.Exit{Known: true, Code: 3}})
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(200, 10, 4, ns(600, 1)), Exit: workload.Exit{Known: true, Code: 4}})
	l := r.cont[r.m.all[0].key]
	if l.Exit == nil || l.Exit.Code != 3 || l.Exit.Signal != 0 || !l.Exit.OOM || l.Run.Exit.OOM {
		t.Errorf("its exit is %+v, its init's %+v", l.Exit, l.Run.Exit)
	}
	if l := r.cont[r.m.all[1].key]; l.Exit == nil || l.Exit.Code != 4 || l.Exit.OOM {
		t.Errorf("another's is %+v", l.Exit)
	}
	// The next run of the container has its own end.
	r.after(10)
	r.mkdir(5, 2, "/docker/"+idA)
	r.fork(102, 10, 5, ns(501, 1))
	r.hint(idA, 102, "/docker/"+idA)
	r.exec(102, 10, 5, ns(501, 1))
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(102, 10, 5, ns(501, 1)), Exit: workload.Exit{Known: true, Code: 5}})
	if l := r.cont[r.m.all[0].key]; l.Exit == nil || l.Exit.Code != 5 || l.Exit.OOM {
		t.Errorf("the next run's is %+v", l.Exit)
	}
}

func TestAProcessThatCannotBeReadHasNotEnded(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.feed(evProcess{pid: 100, unread: true, at: r.now + 500})
	if p := r.want(100, workload.StatusContainer, idA); p.Exit != nil {
		t.Errorf("it is said to have ended: %+v", p.Exit)
	}
}

// What never runs ends without a word of the kernel's, and its engine's word may
// be lost: the engine is asked once more.
func TestAContainerThatNeverRanIsAskedAboutAgain(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/default")
	r.mkdir(4, 3, "/default/web")
	made := &workload.Container{ID: workload.ContainerID{Runtime: "containerd", Namespace: "default", ID: "web"}, Name: "web"}
	r.answer(r.take(reqLookup, containerd), made, nil)
	c := r.m.find(made.ID)
	if c == nil {
		t.Fatal("it is not known")
	}
	r.feed(kernel.Event{Type: kernel.CgroupRmdir, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 4}}})
	r.after(1900)
	if n := r.asked(reqLookup, containerd); n != 0 || c.goneAt != 0 {
		t.Fatalf("asked %d times so far, gone at %d", n, c.goneAt)
	}
	r.after(200)
	r.answer(r.take(reqLookup, containerd), nil, collectors.ErrNotFound)
	if c.goneAt == 0 {
		t.Error("its engine says that it is not there, and it is kept")
	}
}

func TestAStateThatIsReadAfterTheInitHasDiedStillNamesIt(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.fork(100, 10, 3, ns(500, 1))
	r.exec(100, 10, 3, ns(500, 1))
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 10, 3, ns(500, 1)), Exit: workload.Exit{Known: true, Code: 4}})
	r.feed(kernel.Event{Type: kernel.CgroupRmdir, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 3}}})
	r.hint(idA, 100, "/docker/"+idA)
	p := r.want(100, workload.StatusContainer, idA)
	if p.Exit == nil || p.Exit.Code != 4 {
		t.Errorf("exit %+v, want code 4", p.Exit)
	}
}

func TestARestartIsANewRunOfTheSameContainer(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 10, 3, ns(500, 1)), Exit: workload.Exit{Known: true}})
	r.feed(kernel.Event{Type: kernel.CgroupRmdir, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 3}}})
	r.mkdir(7, 2, "/docker/"+idA)
	r.fork(120, 10, 7, ns(501, 1))
	r.hint(idA, 120, "/docker/"+idA)
	r.exec(120, 10, 7, ns(501, 1))
	r.want(120, workload.StatusContainer, idA)
	if l := r.cont[r.m.all[0].key]; l.State != workload.StateRunning || l.Exit != nil || l.Run.Init.PID != 120 {
		t.Errorf("state %s, exit %+v, init %v", l.State, l.Exit, l.Run.Init)
	}
}

func TestAReusedPIDIsAnotherProcess(t *testing.T) {
	r := newRig(t)
	r.startA()
	old := r.proc(100, 10, 3, ns(500, 1))
	r.feed(kernel.Event{Type: kernel.Exit, Process: old, Exit: workload.Exit{Known: true}})
	again := r.proc(100, 10, 1)
	again.Key.Start = uint64(r.now) + 7*workload.TickNS
	r.feed(kernel.Event{Type: kernel.Fork, Process: again})
	if p := r.seen[again.Key]; p == nil || p.Status != workload.StatusHost {
		t.Errorf("%+v, want a host process", p)
	}
	r.want(100, workload.StatusContainer, idA)
}

func TestAttachBeforeForkAcrossTheRingsIsApplied(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	forkAt := r.now
	r.now += 100
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(100, 10, 3, ns(500, 1)), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 3}}})
	r.feed(kernel.Event{Type: kernel.Fork, Time: forkAt, Process: r.proc(100, 10, 1, ns(500, 1))})
	r.hint(idA, 100, "/docker/"+idA)
	r.want(100, workload.StatusContainer, idA)
}

func TestALossIsRepairedFromASnapshot(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.fork(101, 100, 3, ns(500, 2))
	r.feed(kernel.Event{Type: kernel.Lost, Count: 3})
	r.after(300)
	r.take(reqSnapshot, 0)
	r.feed(kernel.Event{Type: kernel.SnapshotBegin})
	r.task(10, 1, 1, nil)
	r.task(100, 10, 3, []workload.PIDNamespace{ns(500, 1)})
	r.task(103, 100, 3, []workload.PIDNamespace{ns(500, 4)})
	r.feed(kernel.Event{Type: kernel.SnapshotEnd})
	if p := r.want(101, workload.StatusContainer, idA); p.Exit == nil || p.Exit.Known {
		t.Errorf("exit %+v, want one without status", p.Exit)
	}
	r.want(103, workload.StatusContainer, idA)
}

// Without events about cgroups, and with a name that claims nothing, only the
// sources know whose a process is, and their answers may be long in coming. Who
// asks about it meanwhile has the files asked, and no runtime.
func TestAQuestionHasTheFilesAskedWhoseProcessItIs(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 1, "/default")
	r.mkdir(4, 3, "/default/web")
	r.exec(100, 10, 4, ns(500, 1))
	r.want(100, workload.StatusUnknown, "")
	rs := r.m.locateNow(100)
	if len(rs) != 1 || rs[0].source != oci || len(rs[0].evidence.Cgroups) == 0 {
		t.Fatalf("a question asks %+v", rs)
	}
	r.answer(rs[0], nil, collectors.ErrNotFound)
	r.want(100, workload.StatusUnknown, "") // it was no try: the machine's own are still under way
	id := r.state("web", 100, "/default/web").ID
	r.feed(evAnswer{req: r.m.locateNow(100)[0], located: id})
	if rs := r.m.locateNow(100); rs != nil {
		t.Errorf("asked again once it is known: %+v", rs)
	}
	rs = r.m.unreadFiles(100)
	if len(rs) == 0 || rs[0].kind != reqPrefill || rs[0].source != oci {
		t.Fatalf("its files are not read: %+v", rs)
	}
	r.answer(rs[0], r.state("web", 100, "/default/web"), nil)
	if p := r.want(100, workload.StatusContainer, "web"); p.Confidence != workload.Confirmed {
		t.Errorf("it is %s", p.Confidence)
	}
	if r.m.locateNow(100) != nil || r.m.locateNow(10) != nil || r.m.locateNow(4242) != nil {
		t.Error("asked about a member, a process of the host's and one that is not there")
	}
}

// The attach event of the next process with a PID comes before the fork of the
// last one, whose ring is read late.
func TestAMoveOfTheNextProcessWithAPIDIsNotTheLastOnes(t *testing.T) {
	r := newRig(t)
	r.startA()
	next, last := r.proc(130, 10, 3), r.proc(130, 10, 1)
	last.Key.Start -= 5 * workload.TickNS
	at := r.now
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: next, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 3}}})
	r.feed(kernel.Event{Type: kernel.Fork, Time: at, Process: last})
	if p := r.seen[last.Key]; p == nil || p.Status != workload.StatusHost {
		t.Errorf("the last process is %+v, want the host's", p)
	}
}

// It was read from /proc before the fork of the last one with its PID was heard.
func TestALateForkEndsNoLaterProcess(t *testing.T) {
	r := newRig(t)
	r.feed(evProcess{pid: 140, proc: r.proc(140, 10, 1), at: r.now})
	late := r.proc(140, 10, 1)
	late.Key.Start -= 5 * workload.TickNS
	r.feed(kernel.Event{Type: kernel.Fork, Process: late})
	if p := r.want(140, workload.StatusHost, ""); p.Exit != nil {
		t.Errorf("it lives, and its exit is %+v", p.Exit)
	}
}

func TestAnEngineThatNamesAnothersInitMergesNothing(t *testing.T) {
	r := newRig(t)
	r.startA()
	lie := &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: idB}, Name: "liar", Run: &workload.Run{Init: workload.ProcessKey{PID: 100}, Registers: true}}
	r.feed(evListed{source: docker, container: lie})
	r.want(100, workload.StatusContainer, idA)
	if c := r.m.lookup(100).member; c.layers[docker] != nil {
		t.Errorf("it is described as %+v", c.layers[docker])
	}
}

// A container may be over before anybody has answered: the state that its runtime
// leaves names its init by the start, and so whose end it was.
func TestAnAnswerAfterTheEndNamesWhoHasEnded(t *testing.T) {
	ended := func(start uint64) (*rig, *workload.Container) {
		r := newRig(t)
		r.mkdir(3, 2, "/docker/"+idA)
		r.fork(100, 10, 3, ns(500, 1))
		r.exec(100, 10, 3, ns(500, 1))
		r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 10, 3, ns(500, 1)), Exit: workload.Exit{Known: true, Code: 143}})
		r.feed(evHint{source: oci, hint: collectors.Hint{Kind: collectors.HintExited, ID: workload.ContainerID{Runtime: "runc", ID: idA}, Layer: &workload.Container{
			ID: workload.ContainerID{Runtime: "runc", ID: idA}, State: workload.StateExited,
			Run: &workload.Run{Init: workload.ProcessKey{PID: 100, Start: start, Ticks: true}, ClaimedPaths: []string{"/docker/" + idA}, Registers: true},
		}}})
		return r, r.cont[r.m.all[0].key]
	}
	r, l := ended(100 * workload.TickNS)
	if l.Exit == nil || l.Exit.Code != 143 || l.Run == nil || l.Run.Init.PID != 100 {
		t.Errorf("exit %+v, run %+v; want the kernel's", l.Exit, l.Run)
	}
	r.want(100, workload.StatusContainer, idA)
	if _, l := ended(99 * workload.TickNS); l.Run != nil {
		t.Errorf("another process's start: run %+v", l.Run)
	}
}

func TestALateAnswerAboutAnEarlierRunReplacesNothing(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 10, 3, ns(500, 1)), Exit: workload.Exit{Known: true}})
	r.mkdir(7, 2, "/docker/"+idA)
	r.fork(120, 10, 7, ns(501, 1))
	r.hint(idA, 120, "/docker/"+idA)
	r.hint(idA, 100, "/docker/"+idA)
	if l := r.cont[r.m.all[0].key]; l.State == workload.StateExited || l.Run.Init.PID != 120 {
		t.Errorf("state %s, init %v", l.State, l.Run.Init)
	}
}

// A process in namespaces of its own whose cgroup nobody knows is the host's once
// every source has denied it; one that cannot say has not.
func TestASourceThatCannotSayHasNotDenied(t *testing.T) {
	r := newRig(t)
	r.mkdir(20, 1, "/odd")
	r.fork(300, 10, 20, ns(700, 1))
	for range 20 {
		for _, q := range slices.Clone(r.reqs) {
			switch q.kind {
			case reqLocate:
				err := collectors.ErrNotFound
				if q.source == docker {
					err = collectors.ErrUnavailable
				}
				r.feed(evAnswer{req: q, err: err})
			case reqProcess:
				r.feed(evProcess{pid: 300, proc: r.proc(300, 10, 20, ns(700, 1)), at: r.now})
			}
		}
		r.reqs = nil
		r.after(1000)
	}
	r.want(300, workload.StatusUnknown, "")
}

func TestACgroupIDThatComesAgainIsAnotherCgroup(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 10, 3, ns(500, 1)), Exit: workload.Exit{Known: true}})
	r.feed(kernel.Event{Type: kernel.CgroupRmdir, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 3}}})
	r.mkdir(3, 1, "/user.slice")
	r.fork(150, 10, 3)
	r.want(150, workload.StatusHost, "")
	r.want(100, workload.StatusContainer, idA)
}

// The same exec is heard twice, the second time after the next one.
func TestAnOlderExecReplacesNoNewerOne(t *testing.T) {
	r := newRig(t)
	r.fork(160, 10, 1)
	older := kernel.Event{Type: kernel.Exec, Time: r.now, Process: r.proc(160, 10, 1)}
	r.exec(160, 10, 1)
	at := r.now
	r.feed(older)
	if p := r.want(160, workload.StatusHost, ""); p.Exec != at {
		t.Errorf("it executed at %d, want %d", p.Exec, at)
	}
}

// Two with one PID are dead, and the exec of the first is heard once more.
func TestTheDeadStayDeadWhenALaterOneHasDied(t *testing.T) {
	r := newRig(t)
	first, second := r.proc(170, 10, 1), r.proc(170, 10, 1)
	second.Key.Start += 9 * workload.TickNS
	for _, p := range []kernel.Process{first, second} {
		r.feed(kernel.Event{Type: kernel.Fork, Process: p})
		r.feed(kernel.Event{Type: kernel.Exit, Process: p, Exit: workload.Exit{Known: true}})
	}
	r.feed(kernel.Event{Type: kernel.Exec, Process: first})
	if p := r.m.procs[170]; p != nil {
		t.Errorf("%v lives again", p.kp.Key)
	}
}

// The init was put into another container's cgroup: it is in conflict, and its
// end is still the end of its container.
func TestTheEndOfAnInitInConflictEndsItsRun(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.startB()
	moved := r.proc(200, 10, 3, ns(600, 1))
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: moved, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 3}}})
	r.want(200, workload.StatusConflict, "")
	c := r.m.conts[workload.ContainerID{Runtime: "runc", Namespace: "moby", ID: idB}]
	r.m.procs[200].member = nil // as where the intruder was noticed before it was registered
	r.feed(kernel.Event{Type: kernel.Exit, Process: moved, Exit: workload.Exit{Known: true}})
	if c == nil || c.run.exit == nil {
		t.Error("the container runs on without its init")
	}
}

// A cgroup's id comes again, and neither its removal nor the new one is heard:
// what the name said, and what the sources denied, was about the old one.
func TestAReadNameThatDiffersIsThatOfAnotherCgroup(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.after(100)
	r.task(180, 10, 3, []workload.PIDNamespace{ns(900, 1)})
	r.want(180, workload.StatusUnknown, "")
	again := []workload.CgroupPath{{CgroupID: workload.CgroupID{ID: 3}, Path: "/user.slice"}, {CgroupID: workload.CgroupID{ID: 1}, Path: "/"}}
	r.feed(evLineage{id: workload.CgroupID{ID: 3}, lineage: again, at: r.now})
	// It was seen before the name was read: perhaps in the old one, and gone since.
	r.feed(evProcess{pid: r.take(reqProcess, 0).pid, proc: r.proc(180, 10, 3, ns(900, 1)), at: r.now + 500})
	if g := r.m.procs[180].set.cgroups[0]; g.path != "/user.slice" || g.reg != nil {
		t.Errorf("it is in %q, registered %v", g.path, g.reg != nil)
	}
	r.want(100, workload.StatusContainer, idA)
}

// A source knows a container's own cgroup; what is made below it is the container's.
func TestTheFilesAreAskedAboutTheCgroupsAboveAsWell(t *testing.T) {
	r := newRig(t)
	r.feed(evListEnd{source: oci, complete: true, began: r.now})
	r.mkdir(20, 1, "/odd")
	r.mkdir(21, 20, "/odd/below")
	r.task(300, 10, 21, []workload.PIDNamespace{ns(700, 5)})
	if asked := r.located(); !slices.Equal(asked, []string{"/odd/below", "/odd"}) {
		t.Errorf("asked about %q", asked)
	}
}

// What the first list of the files will say is not asked beside it, unless it takes long.
func TestNobodyIsAskedBesideTheFirstListOfTheFiles(t *testing.T) {
	for name, c := range map[string]struct {
		listed bool
		after  int // ms
		want   int
	}{
		"it goes on":       {false, 1000, 0},
		"it has ended":     {true, 1000, 1},
		"it takes minutes": {false, 3000, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.mkdir(20, 1, "/odd")
			r.task(300, 10, 20, []workload.PIDNamespace{ns(700, 5)})
			if c.listed {
				r.feed(evListEnd{source: oci, complete: true, began: r.now})
			}
			for range c.after / 100 {
				r.after(100)
			}
			if asked := r.located(); len(asked) != c.want {
				t.Errorf("asked about %q", asked)
			}
		})
	}
}

// located lists the cgroups that the files were asked about.
func (r *rig) located() (paths []string) {
	for _, q := range r.reqs {
		if q.kind == reqLocate && q.source == oci {
			paths = append(paths, q.evidence.Cgroups[0].Path)
		}
	}
	return paths
}

// What a container's neighbours leave behind in its cgroup dies with it, and then
// every source denies the name.
// A container that its sources have denied, a moment ago, has begun again, and an engine
// of the host's makes another one below its cgroup: the first processes of that one are the
// host's in all their namespaces, and no more of the claimed one than of anybody.
func TestANameIsNotBelievedOfWhoComesFromTheHostBelowIt(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.fork(90, 10, 3, ns(500, 1))
	for range 2 {
		r.asHost(r.proc(90, 10, 3, ns(500, 1)))
	}
	r.want(90, workload.StatusContainer, idA)
	r.fork(91, 10, 1)
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(91, 10, 4), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 4}}})
	lineage := func() {
		e := evLineage{id: workload.CgroupID{ID: 4}, at: r.now}
		for i, path := range []string{"/docker/" + idA + "/odd", "/docker/" + idA, "/docker", "/"} {
			e.lineage = append(e.lineage, workload.CgroupPath{CgroupID: workload.CgroupID{ID: 4 - uint64(i)}, Path: path})
		}
		r.feed(e)
	}
	lineage()
	r.want(91, workload.StatusUnknown, "")
	for range 2 {
		r.asHost(r.proc(90, 10, 3, ns(500, 1)), r.proc(91, 10, 4))
		lineage()
	}
	r.want(91, workload.StatusUnknown, "")
}

func TestANameIsNotBelievedOfWhoEndedBeforeItWasDenied(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.task(100, 10, 3, []workload.PIDNamespace{ns(500, 7)})
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 10, 3, ns(500, 7)), Exit: workload.Exit{Known: true}})
	for range 20 {
		for _, q := range slices.Clone(r.reqs) {
			if q.kind == reqPrefill || q.kind == reqLookup || q.kind == reqLocate {
				r.answer(q, nil, collectors.ErrNotFound)
			}
		}
		r.reqs = nil
		r.after(400)
	}
	r.want(100, workload.StatusUnknown, "")
}

// The removal of container A's cgroup is heard, the next of its id is not: only a
// child that it gets shows that there is one.
func TestAChildShowsThatACgroupIsALaterOneOfItsID(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 10, 3, ns(500, 1)), Exit: workload.Exit{Known: true}})
	r.feed(kernel.Event{Type: kernel.CgroupRmdir, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 3}}})
	r.mkdir(30, 3, "/any/where")
	again := []workload.CgroupPath{{CgroupID: workload.CgroupID{ID: 3}, Path: "/any"}, {CgroupID: workload.CgroupID{ID: 1}, Path: "/"}}
	r.feed(evLineage{id: workload.CgroupID{ID: 3}, lineage: again, at: r.now})
	r.fork(190, 10, 1)
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(190, 10, 30), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 30}}})
	r.want(190, workload.StatusHost, "")
	r.want(100, workload.StatusContainer, idA)
}

// Neither is heard: the child is not where the old one was.
func TestAChildThatIsElsewhereIsNotBelowTheOldCgroup(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.mkdir(30, 3, "/any/where")
	r.fork(190, 10, 30)
	if p := r.m.procs[190]; p.member != nil || r.m.verdict(p.set).reg != nil {
		t.Errorf("it is %s of %+v", p.status, p.member)
	}
}

// A process ended in a cgroup whose removal has been heard already; the id comes
// again, for container A.
func TestWhoEndedBeforeACgroupWasMadeWasNotInIt(t *testing.T) {
	r := newRig(t)
	r.fork(90, 10, 1)
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(90, 10, 3), Exit: workload.Exit{Known: true}})
	r.startA()
	r.want(100, workload.StatusContainer, idA)
	if p := r.seen[workload.ProcessKey{PID: 90, Start: 90 * workload.TickNS}]; p.Status == workload.StatusContainer {
		t.Errorf("it was of %v", p.Container)
	}
}

// An engine gives container A's id and the PID of another runtime's init in the
// same cgroup, before the low-level runtime has said a word.
func TestABarePIDWaitsForTheSourceThatKnowsTheStart(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.task(100, 10, 3, []workload.PIDNamespace{ns(500, 1)})
	r.task(120, 10, 3, []workload.PIDNamespace{ns(520, 1)})
	lie := &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: idA}, State: workload.StateRunning, Run: &workload.Run{Init: workload.ProcessKey{PID: 120}, Registers: true}}
	r.feed(evListed{source: docker, container: lie})
	r.want(120, workload.StatusUnknown, "")
	r.answer(r.take(reqPrefill, oci), r.state(idA, 100, "/docker/"+idA), nil)
	r.want(100, workload.StatusContainer, idA)
	r.after(10_000)
	if p := r.m.procs[120]; p.member != nil {
		t.Errorf("it is of %s", p.member.label())
	}
}

// A cgroup that somebody in container B made bears A's name, an engine says that A's
// init is in it, and B's own runtime has not answered yet.
func TestANameBelowAnUnregisteredContainersIsThatOnesBusiness(t *testing.T) {
	r := newRig(t)
	r.mkdir(4, 2, "/docker/"+idB)
	r.mkdir(40, 4, "/docker/"+idB+"/docker-"+idA+".scope")
	r.task(210, 10, 40, nil)
	for range r.asked(reqPrefill, oci) {
		if q := r.take(reqPrefill, oci); q.key.ID == idA {
			r.answer(q, nil, collectors.ErrNotFound)
		}
	}
	lie := &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: idA}, State: workload.StateRunning, Run: &workload.Run{Init: workload.ProcessKey{PID: 210}, Registers: true}}
	r.feed(evListed{source: docker, container: lie})
	r.want(210, workload.StatusUnknown, "")
}

// A member of container A makes a cgroup that bears B's name, and an engine that lies
// calls it B's init.
func TestABarePIDMakesNoMemberOfAnotherContainerAnInit(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.mkdir(5, 3, "/docker/"+idA+"/"+idB)
	r.fork(101, 100, 5, ns(510, 1))
	r.denyFiles(idB)
	r.feed(evListed{source: docker, container: bareInit(idB, 101)})
	r.denyFiles(idB)
	r.want(101, workload.StatusContainer, idA)
}

// The files were asked about A before the process was made that an engine then calls
// its init; what they deny late says nothing of it.
func TestADenialFromBeforeABarePIDSaysNothingOfIt(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	early := r.take(reqPrefill, oci)
	r.answer(r.take(reqPrefill, docker), nil, collectors.ErrNotFound)
	r.task(120, 10, 3, []workload.PIDNamespace{ns(520, 1)})
	r.feed(evListed{source: docker, container: bareInit(idA, 120)})
	r.answer(early, nil, collectors.ErrNotFound)
	r.after(2000)
	r.want(120, workload.StatusUnknown, "")
	r.answer(r.take(reqPrefill, oci), nil, collectors.ErrNotFound)
	r.want(120, workload.StatusUnknown, "")
	r.answer(r.take(reqLookup, docker), bareInit(idA, 120), nil)
	r.want(120, workload.StatusContainer, idA)
}

// An engine that lies calls a process A's init; A ends while the files cannot say whose
// it is, and is denied then. The engine's word is as old as A, and it is asked once more.
func TestABarePIDFromBeforeADenialIsAskedAgain(t *testing.T) {
	for name, says := range map[string]struct {
		err  error
		c    *workload.Container
		want string
	}{
		"it is gone":                   {err: collectors.ErrNotFound},
		"it cannot say":                {err: collectors.ErrUnavailable},
		"it names another":             {c: bareInit(idA, 121)},
		"it says so still, now as A's": {c: bareInit(idA, 120), want: idA},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.mkdir(3, 2, "/docker/"+idA)
			r.answer(r.take(reqPrefill, docker), nil, collectors.ErrNotFound)
			r.task(120, 10, 3, []workload.PIDNamespace{ns(520, 1)})
			r.feed(evListed{source: docker, container: bareInit(idA, 120)})
			r.answer(r.take(reqPrefill, oci), nil, collectors.ErrUnavailable)
			r.after(2000)
			r.answer(r.take(reqPrefill, oci), nil, collectors.ErrNotFound)
			r.want(120, workload.StatusUnknown, "")
			r.answer(r.take(reqLookup, docker), says.c, says.err)
			if says.want != "" {
				r.want(120, workload.StatusContainer, says.want)
			} else {
				r.want(120, workload.StatusUnknown, "")
			}
		})
	}
}

// An engine has named a PID; the files can say only later, when the process that was
// meant has ended unheard and the PID is that of somebody in the same cgroup, whom
// another runtime put there.
func TestABarePIDIsNobodyWhoWasMadeAfterItWasNamed(t *testing.T) {
	for name, then := range map[string]func(r *rig){
		"nobody was seen with it": func(*rig) {},
		"the files name the one who had it, and the engine names it again": func(r *rig) {
			r.answer(r.take(reqPrefill, oci), r.state(idA, 120, "/docker/"+idA), nil)
			r.feed(evListed{source: docker, container: bareInit(idA, 120)})
		},
		"an event tells of its name later": func(r *rig) {
			l := &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: idA}, Name: "new"}
			r.feed(evHint{source: docker, hint: collectors.Hint{Kind: collectors.HintChanged, ID: l.ID, Layer: l}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.mkdir(3, 2, "/docker/"+idA)
			r.feed(evListed{source: docker, container: bareInit(idA, 120)})
			r.feed(evProcess{pid: r.take(reqProcess, 0).pid, gone: true, at: r.now})
			r.after(2000)
			next := r.proc(120, 1, 3)
			next.Key.Start, next.MountNS = uint64(r.now), 77
			r.feed(kernel.Event{Type: kernel.Task, Process: next})
			then(r)
			for range 3 {
				r.denyFiles(idA)
				r.after(2000)
			}
			if p := r.m.procs[120]; p.member != nil || p.status != workload.StatusUnknown {
				t.Errorf("it is %s: %s", p.status, p.reason)
			}
		})
	}
}

// While the files cannot say, a bare PID waits; once its engine has deleted the
// container it registers nothing, whoever has the PID.
func TestABarePIDOfADeletedContainerRegistersNothing(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.task(120, 10, 3, []workload.PIDNamespace{ns(520, 1)})
	lie := bareInit(idA, 120)
	r.feed(evListed{source: docker, container: lie})
	for range 20 {
		for range r.asked(reqPrefill, oci) {
			r.answer(r.take(reqPrefill, oci), nil, collectors.ErrUnavailable)
		}
		r.after(1000)
	}
	r.want(120, workload.StatusUnknown, "")
	r.feed(evHint{source: docker, hint: collectors.Hint{Kind: collectors.HintDeleted, ID: lie.ID}})
	for range r.asked(reqPrefill, oci) {
		r.answer(r.take(reqPrefill, oci), nil, collectors.ErrUnavailable)
	}
	r.after(2000)
	if c := r.m.find(lie.ID); c != nil && c.run != nil {
		t.Errorf("%s is registered", c.label())
	}
	r.want(120, workload.StatusUnknown, "")
}

// An engine tells of a container's end after it has told that it is deleted, or has
// it in a list that was under way then: it is asked, and the container is gone.
func TestWhatIsToldOfADeletedContainerBringsItNotBack(t *testing.T) {
	l := &workload.Container{ID: workload.ContainerID{Runtime: "containerd", Namespace: "k8s.io", ID: idA}, Name: "web", State: workload.StateExited}
	for name, late := range map[string]func(r *rig, began workload.KTime){
		"event": func(r *rig, _ workload.KTime) {
			r.feed(evHint{source: containerd, hint: collectors.Hint{Kind: collectors.HintExited, ID: l.ID, Layer: l}})
		},
		"list": func(r *rig, began workload.KTime) {
			r.feed(evListed{source: containerd, container: l})
			r.feed(evListEnd{source: containerd, complete: true, began: began})
		},
		"list that is cut": func(r *rig, began workload.KTime) {
			r.feed(evListed{source: containerd, container: l})
			r.feed(evListEnd{source: containerd, began: began})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.feed(evListed{source: containerd, container: l})
			r.feed(evListEnd{source: containerd, complete: true, began: r.now - 1})
			r.reqs = nil
			began := r.now
			r.feed(evHint{source: containerd, hint: collectors.Hint{Kind: collectors.HintDeleted, ID: l.ID}})
			c := r.m.find(l.ID)
			if c.goneAt == 0 {
				t.Fatal("it is not gone")
			}
			late(r, began)
			r.answer(r.take(reqLookup, containerd), nil, collectors.ErrNotFound)
			if c.goneAt == 0 {
				t.Error("it is back")
			}
		})
	}
}

// An engine that has a container again which it had denied (another database was in
// the place of its own) has it listed again, though it has ended; but not before it
// was asked, or has listed it from its beginning on, since.
func TestWhoWasDeniedAndIsFoundAgainIsBackThoughItHasEnded(t *testing.T) {
	for name, found := range map[string]func(r *rig, l *workload.Container){
		"asked": func(r *rig, l *workload.Container) {
			r.answer(r.take(reqLookup, docker), l, nil)
		},
		"listed": func(r *rig, l *workload.Container) {
			began := r.now
			r.feed(evListed{source: docker, container: l})
			r.feed(evListEnd{source: docker, complete: true, began: began})
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.to = store.New(store.Options{})
			r.startA()
			l := &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: idA}, Name: "web", State: workload.StateExited}
			r.feed(evListed{source: docker, container: l})
			r.feed(evListEnd{source: docker, complete: true, began: r.now - 1})
			r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 10, 3, ns(500, 1))})
			for len(r.reqs) > 0 {
				q := r.reqs[0]
				r.reqs = r.reqs[1:]
				if q.source == docker {
					r.answer(q, l, nil)
				} else {
					r.answer(q, nil, collectors.ErrNotMine)
				}
			}
			deleted := func(source int, id workload.ContainerID) {
				r.feed(evHint{source: source, hint: collectors.Hint{Kind: collectors.HintDeleted, ID: id}})
			}
			deleted(oci, r.state(idA, 100, "/docker/"+idA).ID)
			gone := func() (gone bool) {
				n := 0
				for e := range r.to.All(workload.Selector{All: true}) {
					n++
					gone = e.Gone
				}
				if n != 1 {
					t.Fatalf("%d containers", n)
				}
				return gone
			}
			if gone() {
				t.Fatal("it is gone, and its engine has it")
			}
			deleted(docker, l.ID)
			if !gone() {
				t.Fatal("it is not gone")
			}
			r.reqs = nil
			r.feed(evHint{source: docker, hint: collectors.Hint{Kind: collectors.HintExited, ID: l.ID, Layer: l}})
			if !gone() {
				t.Error("it is back by an event that may be late")
			}
			found(r, l)
			if gone() {
				t.Error("its engine has it, and it is gone")
			}
			deleted(docker, l.ID)
			if !gone() {
				t.Error("it is deleted again, and not gone")
			}
		})
	}
}

// An engine whose list is too large, and that could not say what a container is until
// it was given up, is asked again with its next list.
func TestWhoCouldNotSayIsAskedAgainWhereItsListIsCut(t *testing.T) {
	r := newRig(t)
	l := &workload.Container{ID: workload.ContainerID{Runtime: "containerd", Namespace: "k8s.io", ID: idA}, Name: "web"}
	r.feed(evListed{source: containerd, container: l})
	silence := func() {
		for len(r.reqs) > 0 {
			q := r.reqs[0]
			r.reqs = r.reqs[1:]
			r.answer(q, nil, collectors.ErrUnavailable)
		}
	}
	for range 60 {
		silence()
		r.after(1000)
	}
	silence()
	if n := r.asked(reqLookup, docker); n != 0 {
		t.Fatalf("%d questions for one that was given up", n)
	}
	r.feed(evListEnd{source: docker, complete: true, began: r.now})
	if n := r.asked(reqLookup, docker) + r.asked(reqPrefill, docker); n != 0 {
		t.Errorf("%d questions where the list says all", n)
	}
	r.feed(evListEnd{source: docker, began: r.now})
	created := l.Clone()
	created.ID.Runtime, created.State = "docker", workload.StateCreated
	r.answer(r.take(reqLookup, docker), created, nil)
	if s := r.srcs["docker "+idA]; s == nil || s.State != workload.StateCreated {
		t.Errorf("its answer is %+v", s)
	}
}

// An engine that lies calls A's process the init of B. Both cgroups are removed while
// the files cannot say whose it was: that is no reason to take the engine's word.
func TestABarePIDWaitsForTheFilesThoughItsCgroupsAreGone(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.mkdir(4, 2, "/docker/"+idB)
	r.task(120, 10, 3, []workload.PIDNamespace{ns(520, 1)})
	lie := bareInit(idB, 120)
	lie.Run.ClaimedPaths = []string{"/docker/" + idA}
	r.feed(evListed{source: docker, container: lie})
	silence := func() { // of the files; the engines deny what they are asked
		reqs := r.reqs
		r.reqs = nil
		for _, q := range reqs {
			switch {
			case q.kind == reqPrefill && q.source == oci:
				r.answer(q, nil, collectors.ErrUnavailable)
			case q.kind == reqPrefill, q.kind == reqLookup:
				r.answer(q, nil, collectors.ErrNotFound)
			}
		}
		r.after(1000)
	}
	silence()
	for _, id := range []uint64{3, 4} {
		r.feed(kernel.Event{Type: kernel.CgroupRmdir, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: id}}})
	}
	for range 20 {
		silence()
		r.want(120, workload.StatusUnknown, "")
	}
}

// What an engine answers after it has said that the container is deleted may be of
// before that, or of a new one with the id: it is asked again.
func TestAnAnswerFromBeforeADeletionIsAskedAgain(t *testing.T) {
	r := newRig(t)
	r.startA()
	c := &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: idA}, Name: "web", State: workload.StateExited}
	r.answer(r.take(reqPrefill, docker), c, nil)
	r.feed(evHint{source: docker, hint: collectors.Hint{Kind: collectors.HintChanged, ID: c.ID}})
	late := r.take(reqLookup, docker)
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(100, 10, 3, ns(500, 1)), Exit: workload.Exit{Known: true}})
	for _, source := range []int{oci, docker} {
		r.feed(evHint{source: source, hint: collectors.Hint{Kind: collectors.HintDeleted, ID: c.ID}})
	}
	r.answer(late, c, nil)
	r.answer(r.take(reqLookup, docker), nil, collectors.ErrNotFound)
	if a := r.m.find(c.ID); a == nil || !a.gone[docker] {
		t.Error("the engine has deleted it, and it is there")
	}
}

// A name that everybody denies is believed of who is there after that, and not of
// who may have ended with the container that the sources knew.
func TestANameIsBelievedOnceItsProcessWasSeenAgain(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.fork(100, 10, 3, ns(500, 1))
	read := false
	for range 40 {
		reqs := r.reqs
		r.reqs = nil
		for _, q := range reqs {
			read = read || q.kind == reqProcess && q.pid == 100
			switch q.kind {
			case reqLineage:
				r.feed(evLineage{id: q.cgroup, lineage: r.lineage(q.cgroup), at: r.now})
			case reqPrefill, reqLookup, reqLocate:
				r.answer(q, nil, collectors.ErrNotFound)
			}
		}
		r.after(500)
	}
	r.want(100, workload.StatusUnknown, "")
	if !read {
		t.Fatal("it was not read")
	}
	r.feed(evProcess{pid: 100, gone: true, at: r.now})
	r.after(2000)
	r.want(100, workload.StatusUnknown, "")
}

// An engine that can only be called is about to list what it has: of what was there
// before the list began nobody is asked one by one.
func TestTheFirstListOfAnEngineDeniesWhatItDoesNotHave(t *testing.T) {
	asked := func(r *rig, id string) (n int) {
		for _, q := range r.reqs {
			if q.source == containerd && q.kind == reqLookup && q.key.ID == id {
				n++
			}
		}
		return n
	}
	for _, c := range []struct {
		name   string
		then   func(r *rig)
		a, b   int // how often about A, which was there before the list, and about B
		denied bool
	}{
		{name: "it has not come", then: func(*rig) {}},
		{name: "it is whole", then: func(r *rig) {
			began := r.now
			r.mkdir(4, 2, "/docker/"+idB)
			r.feed(evListEnd{source: containerd, complete: true, began: began + 1})
		}, b: 1, denied: true},
		{name: "it is not whole", then: func(r *rig) {
			r.feed(evListEnd{source: containerd, began: r.now})
			r.mkdir(4, 2, "/docker/"+idB)
		}, a: 1, b: 1},
		{name: "it does not come", then: func(r *rig) { r.after(2100) }, a: 1},
		{name: "there is no engine", then: func(r *rig) {
			r.mkdir(4, 2, "/docker/"+idB)
			r.feed(evListEnd{source: containerd, complete: true, absent: true})
		}, denied: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t)
			r.m.cfg.sources[containerd].lists = true
			r.mkdir(3, 2, "/docker/"+idA)
			c.then(r)
			if a, b := asked(r, idA), asked(r, idB); a != c.a || b != c.b {
				t.Errorf("it was asked %d times about A and %d times about B, not %d and %d", a, b, c.a, c.b)
			}
			if got := r.m.find(workload.ContainerID{Runtime: "docker", ID: idA}).asks[containerd].stage == askDone; got != c.denied {
				t.Errorf("A is denied: %v", got)
			}
		})
	}
}

// bareInit is what an engine says that knows a PID and nothing else.
func bareInit(id string, pid workload.PID) *workload.Container {
	return &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: id}, State: workload.StateRunning, Run: &workload.Run{Init: workload.ProcessKey{PID: pid}, Registers: true}}
}

// denyFiles has the low-level runtime deny a container, as often as it is asked in ten seconds.
func (r *rig) denyFiles(id string) {
	for range 20 {
		reqs := r.reqs
		r.reqs = nil
		for _, q := range reqs {
			if q.kind == reqPrefill && q.source == oci && q.key.ID == id {
				r.answer(q, nil, collectors.ErrNotFound)
			} else {
				r.reqs = append(r.reqs, q)
			}
		}
		r.after(500)
	}
}

// denyInit has the files deny that processes in no cgroup are inits.
func (r *rig) denyInit() {
	for r.asked(reqLocate, oci) > 0 {
		r.answer(r.take(reqLocate, oci), nil, collectors.ErrNotFound)
	}
}

// asHost lets ten seconds pass, with the sources denying all and /proc
// giving the processes as they are.
func (r *rig) asHost(ps ...kernel.Process) {
	for range 20 {
		reqs := r.reqs
		r.reqs = nil
		for _, q := range reqs {
			if q.kind == reqPrefill || q.kind == reqLookup || q.kind == reqLocate {
				r.answer(q, nil, collectors.ErrNotFound)
			}
			if q.kind == reqLineage {
				r.feed(evLineage{id: q.cgroup, lineage: r.lineage(q.cgroup), at: r.now})
			}
			if q.kind == reqSnapshot {
				r.whole()
			}
			i := slices.IndexFunc(ps, func(p kernel.Process) bool { return p.Key.PID == q.pid })
			if q.kind == reqProcess && i >= 0 {
				r.feed(evProcess{pid: q.pid, proc: ps[i], at: r.now})
			} else if q.kind == reqProcess {
				r.feed(evProcess{pid: q.pid, gone: true, at: r.now})
			}
		}
		r.after(500)
	}
}

// whole is a snapshot in which all are as they are known, and these besides.
func (r *rig) whole(more ...kernel.Process) {
	r.feed(kernel.Event{Type: kernel.SnapshotBegin})
	for _, p := range sortedProcs(r.m.procs) {
		r.feed(kernel.Event{Type: kernel.Task, Process: p.kp})
	}
	for _, p := range more {
		r.feed(kernel.Event{Type: kernel.Task, Process: p})
	}
	r.feed(kernel.Event{Type: kernel.SnapshotEnd})
}

// lineage is what cgroupfs says of a cgroup that is as it was heard to be made.
func (r *rig) lineage(id workload.CgroupID) (l []workload.CgroupPath) {
	for g := r.m.cgroups[id]; g != nil; g = g.parent {
		l = append(l, workload.CgroupPath{CgroupID: g.id, Path: g.path})
	}
	return l
}

// A container that nobody told us of: born in its cgroup, or by one that was moved there.
func TestAContainerThatNoSourceKnowsIsNotTheHosts(t *testing.T) {
	r := newRig(t)
	r.mkdir(20, 1, "/elsewhere")
	r.fork(70, 10, 20, ns(900, 1))
	r.fork(79, 10, 1)
	r.mkdir(21, 1, "/machine.slice")
	r.mkdir(22, 21, "/machine.slice/x.service")
	r.mkdir(23, 22, "/machine.slice/x.service/ssh.service")
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(79, 10, 23), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 23}}})
	r.fork(80, 79, 23, ns(910, 1)) // the end of 79 is not heard
	r.asHost(r.proc(70, 10, 20, ns(900, 1)), r.proc(80, 10, 23, ns(910, 1)))
	r.want(70, workload.StatusUnknown, "")
	r.want(80, workload.StatusUnknown, "")
}

// What shares its cgroups with those of the host who were there before, or is all of a
// service, is the host's in whatever namespaces.
func TestSandboxesAndServicesAreTheHosts(t *testing.T) {
	r := newRig(t)
	r.mkdir(20, 1, "/user.slice")
	r.mkdir(21, 20, "/user.slice/app-browser-7.scope")
	r.fork(70, 10, 21)
	r.fork(71, 70, 21, ns(900, 1))
	r.mkdir(30, 1, "/system.slice")
	r.mkdir(31, 30, "/system.slice/private.service")
	r.fork(80, 10, 31, ns(910, 1))
	r.fork(90, 10, 1, ns(920, 1)) // in no cgroup at all
	mounts := r.proc(95, 10, 20)  // the only one in its cgroup, with a mount namespace alone
	mounts.MountNS = 77
	r.feed(kernel.Event{Type: kernel.Fork, Process: mounts})
	ps := []kernel.Process{r.proc(70, 10, 21), r.proc(71, 70, 21, ns(900, 1)), r.proc(80, 10, 31, ns(910, 1)), r.proc(90, 10, 1, ns(920, 1)), mounts, r.proc(10, 1, 1)}
	r.asHost(ps...)
	for _, pid := range []workload.PID{70, 71, 80, 90, 95} {
		r.want(pid, workload.StatusHost, "")
	}
	// Its maker may go: it was found to be the host's.
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(70, 10, 21)})
	r.exec(71, 70, 21, ns(900, 1))
	r.want(71, workload.StatusHost, "")
}

// A's cgroup was removed and its id came again, above a new one; only the new one's
// lineage is read, leaf first.
func TestANewCgroupIsNotBelowTheOldOneOfItsParentsID(t *testing.T) {
	r := newRig(t)
	r.mkdir(3, 2, "/docker/"+idA)
	r.task(70, 10, 9, []workload.PIDNamespace{ns(900, 1)})
	r.feed(evLineage{id: workload.CgroupID{ID: 9}, at: r.now, lineage: []workload.CgroupPath{
		{CgroupID: workload.CgroupID{ID: 9}, Path: "/elsewhere/x"}, {CgroupID: workload.CgroupID{ID: 3}, Path: "/elsewhere"}, {CgroupID: workload.CgroupID{ID: 1}, Path: "/"},
	}})
	r.asHost(r.proc(70, 10, 9, ns(900, 1)))
	if p := r.want(70, workload.StatusUnknown, ""); strings.Contains(p.Reason, "claims") {
		t.Errorf("it is unknown because %s", p.Reason)
	}
}

// A process in A's namespaces is in a cgroup with a name that every source denies.
func TestANameIsNotBelievedOfAProcessInAnothersNamespaces(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.mkdir(40, 2, "/docker/"+idB)
	stray := r.proc(140, 10, 40, ns(500, 9))
	r.feed(kernel.Event{Type: kernel.Task, Process: stray})
	r.asHost(stray, r.proc(100, 10, 3, ns(500, 1)))
	if p := r.want(140, workload.StatusUnknown, ""); !strings.Contains(p.Reason, "its namespaces are those of") {
		t.Errorf("it is unknown because %s", p.Reason)
	}
}

// What /proc said is as old as its reading: a move that was heard meanwhile is newer.
func TestWhatWasReadReplacesNothingNewer(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.startB()
	r.fork(130, 10, 1)
	before := r.now
	r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(130, 10, 4), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 4}}})
	r.want(130, workload.StatusContainer, idB)
	r.feed(evProcess{pid: 130, proc: r.proc(130, 10, 3), at: before})
	r.want(130, workload.StatusContainer, idB)
}

// An engine is asked about B and describes A.
func TestADescriptionOfAnotherContainerIsNotTaken(t *testing.T) {
	r := newRig(t)
	r.startB()
	q := r.take(reqPrefill, docker)
	r.answer(q, &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: idA}, Name: "other", State: workload.StateRunning}, nil)
	if c := r.m.find(workload.ContainerID{Runtime: "docker", ID: idB}); c.layers[docker] != nil {
		t.Errorf("B is described as %+v", c.layers[docker])
	}
	if c := r.m.find(workload.ContainerID{Runtime: "docker", ID: idA}); c != nil {
		t.Errorf("A is known by it: %v", c.ids)
	}
	r.want(200, workload.StatusContainer, idB)
}

// A container's last process ends, and nobody hears of it; then the sources deny what
// is gone. Whose it was, nobody knows any more.
func TestWhoMayHaveEndedIsReadBeforeItIsTheHosts(t *testing.T) {
	r := newRig(t)
	odd := r.proc(150, 10, 1, ns(700, 1)) // in no cgroup, so that no other rule decides
	r.feed(kernel.Event{Type: kernel.Fork, Process: odd})
	r.feed(evListEnd{source: oci, complete: true, began: r.now})
	r.after(3000)
	r.denyInit()
	r.want(150, workload.StatusUnknown, "")
	r.feed(evProcess{pid: r.take(reqProcess, 0).pid, gone: true, at: r.now})
	r.want(150, workload.StatusUnknown, "")
}

// The low-level runtime has called a process A's init, in a cgroup that bears B's
// name; then an engine calls it B's.
func TestABarePIDIsNotTakenFromTheContainerWhoseInitItIs(t *testing.T) {
	r := newRig(t)
	r.mkdir(40, 2, "/docker/"+idB)
	r.task(150, 10, 40, []workload.PIDNamespace{ns(700, 1)})
	r.feed(evListed{source: oci, container: r.state(idA, 150, "/somewhere/else")})
	r.denyFiles(idB)
	r.feed(evListed{source: docker, container: bareInit(idB, 150)})
	r.denyFiles(idB)
	if p := r.m.procs[150]; p.member != nil || p.status == workload.StatusContainer {
		t.Errorf("it is %s of %q: %s", p.status, p.member.label(), p.reason)
	}
}

// In the host's PID namespace only the mount namespace shows where one came from
// who left a container's cgroups, once that was not seen.
func TestWhoLeftAContainerUnseenIsToldByItsMountNamespace(t *testing.T) {
	r := newRig(t)
	in := func(pid, parent workload.PID, cgroup uint64) kernel.Process {
		p := r.proc(pid, parent, cgroup)
		p.MountNS = 77
		return p
	}
	r.mkdir(40, 1, "/odd")
	r.mkdir(41, 1, "/user.slice")
	r.feed(kernel.Event{Type: kernel.Task, Process: in(150, 10, 40)}) // an init, not registered yet
	r.feed(evListed{source: oci, container: r.state(idA, 150, "/not/there")})
	r.feed(kernel.Event{Type: kernel.Task, Process: in(151, 1, 41)})
	r.asHost(in(150, 10, 40), in(151, 1, 41))
	r.want(150, workload.StatusUnknown, "")
	r.want(151, workload.StatusUnknown, "")
}

// A process is moved into a cgroup and back before anything else is heard of it.
func TestWhoWasMovedThereAndBackBeforeItWasKnownHasLeft(t *testing.T) {
	for _, name := range []string{"its fork is not heard", "its fork is heard last", "its moves are heard late"} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			p := r.proc(150, 10, 1, ns(700, 1))
			born := kernel.Event{Type: kernel.Fork, Process: p, Time: r.now}
			var moves []kernel.Event
			for _, to := range []uint64{40, 1} {
				moves = append(moves, kernel.Event{Type: kernel.CgroupAttach, Process: p, Time: r.now, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: to}}})
				r.after(1)
			}
			seen := kernel.Event{Type: kernel.Task, Process: p}
			if name == "its moves are heard late" {
				r.feed(seen)
				seen = moves[1]
				moves = moves[:1]
			}
			for _, e := range append(moves, seen) {
				r.feed(e)
			}
			if name == "its fork is heard last" {
				r.feed(born)
			}
			r.feed(evListEnd{source: oci, complete: true, began: r.now})
			r.asHost(p, r.proc(10, 1, 1))
			r.want(150, workload.StatusUnknown, "")
		})
	}
}

// A host's process ends in a cgroup that has A's id: A's may be gone, and this one new.
func TestAnEndAloneMakesNoMember(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.fork(150, 10, 1)
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(150, 10, 3), Exit: workload.Exit{Known: true}})
	r.want(150, workload.StatusUnknown, "")
}

// The making of a cgroup is heard once more after its removal.
func TestALateMkdirBringsNoRemovedCgroupBack(t *testing.T) {
	r := newRig(t)
	made := kernel.Event{Type: kernel.CgroupMkdir, Time: r.now, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 50}, Parent: 2, Level: 2, Path: "/docker/x"}}
	r.feed(made)
	r.feed(kernel.Event{Type: kernel.CgroupRmdir, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 50}}})
	r.feed(made)
	if g := r.m.cgroups[workload.CgroupID{ID: 50}]; g != nil {
		t.Errorf("%q is there", g.path)
	}
}

// In the roots alone no source can be asked whose a process is; the list tells.
func TestWhoIsInNoCgroupIsTheHostsOnlyOnceTheFilesAreListed(t *testing.T) {
	r := newRig(t)
	r.task(60, 10, 1, []workload.PIDNamespace{ns(800, 1)})
	r.whole()
	for range 2 {
		r.after(2000)
		if r.asked(reqProcess, 0) > 0 {
			r.feed(evProcess{pid: r.take(reqProcess, 0).pid, proc: r.proc(60, 10, 1, ns(800, 1)), at: r.now})
		}
		r.feed(evListEnd{source: oci})
	}
	r.want(60, workload.StatusUnknown, "")
	r.feed(evListEnd{source: oci, complete: true, began: r.now})
	r.denyInit()
	for range r.asked(reqProcess, 0) {
		r.feed(evProcess{pid: r.take(reqProcess, 0).pid, proc: r.proc(60, 10, 1, ns(800, 1)), at: r.now})
	}
	r.want(60, workload.StatusHost, "")
}

// Everything is lost of a container that began after the first list, and its init has
// been moved out of all of its cgroups: the low-level runtime names it by PID and start.
func TestAnInitThatLeftAllOfItsCgroupsIsNotTheHosts(t *testing.T) {
	for name, pidns := range map[string][]workload.PIDNamespace{"in its own PID namespace": {ns(700, 1)}, "in the host's": nil} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.feed(evListEnd{source: oci, complete: true, began: r.now})
			init, child := r.proc(150, 10, 1, pidns...), r.proc(151, 10, 1, pidns...)
			init.MountNS, child.MountNS = 77, 77
			if len(pidns) > 0 {
				child.PIDNS[0].PID = 2
			}
			r.feed(kernel.Event{Type: kernel.Task, Process: init})
			r.feed(kernel.Event{Type: kernel.Task, Process: child})
			r.after(2000)
			asked := r.reqs
			r.reqs = nil
			for _, q := range asked {
				switch {
				case q.kind != reqLocate:
				case q.evidence.Init == init.Key:
					r.feed(evAnswer{req: q, located: r.state(idA, 150, "/a").ID})
					r.answer(r.take(reqPrefill, oci), r.state(idA, 150, "/a"), nil)
				default:
					r.answer(q, nil, collectors.ErrNotFound)
				}
			}
			r.asHost(init, child)
			r.want(150, workload.StatusUnknown, "")
			r.want(151, workload.StatusUnknown, "")
		})
	}
}

// Nothing was heard of a container in the host's PID namespace, and one who has left it
// is read alone: whose it is only those can tell who are in its mount namespace.
func TestWhoIsReadAloneIsJudgedOnceAllAreRead(t *testing.T) {
	for name, want := range map[string]workload.Status{"a container's are there": workload.StatusUnknown, "nobody is there": workload.StatusHost} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.feed(evListEnd{source: oci, complete: true, began: r.now})
			lone, init := r.proc(150, 10, 1), r.proc(151, 10, 40)
			lone.MountNS, init.MountNS = 77, 77
			r.feed(evProcess{pid: 150, proc: lone, at: r.now})
			for range 20 {
				r.want(150, workload.StatusUnknown, "")
				reqs := r.reqs
				r.reqs = nil
				for _, q := range reqs {
					switch q.kind {
					case reqLocate:
						r.answer(q, nil, collectors.ErrNotFound)
					case reqProcess:
						r.feed(evProcess{pid: 150, proc: lone, at: r.now})
					}
				}
				r.after(500)
			}
			var others []kernel.Process
			if want == workload.StatusUnknown {
				others = append(others, init)
			}
			r.whole(others...)
			r.asHost(lone, init)
			r.want(150, want, "")
		})
	}
}

// Who cannot say whether a process is an init has not denied it, and is asked again.
// A user's engine leaves its container in cgroups of the host's, where a service with a
// mount namespace of its own is, too: what the sources deny of that one, they do not deny
// of the container's init.
func TestWhoIsBesideAnotherInTheHostsCgroupsIsAskedAbout(t *testing.T) {
	r := newRig(t)
	r.m.cfg.sources[docker].homeless = true
	r.feed(evListEnd{source: oci, complete: true, began: r.now})
	r.mkdir(7, 1, "/session")
	r.task(20, 1, 7, nil)
	service := r.proc(140, 20, 7)
	service.MountNS = 55
	r.feed(kernel.Event{Type: kernel.Task, Process: service})
	r.whole()
	init := r.proc(150, 20, 7, ns(700, 1))
	r.feed(kernel.Event{Type: kernel.Fork, Process: init})
	asked := map[int]bool{}
	for range 20 {
		reqs := r.reqs
		r.reqs = nil
		for _, q := range reqs {
			switch {
			case q.kind == reqLocate && q.source != containerd && q.evidence.Init.PID == 150:
				asked[q.source] = true
				r.answer(q, nil, collectors.ErrUnavailable)
			case q.kind == reqPrefill, q.kind == reqLookup, q.kind == reqLocate:
				r.answer(q, nil, collectors.ErrNotFound)
			case q.kind == reqLineage:
				r.feed(evLineage{id: q.cgroup, lineage: r.lineage(q.cgroup), at: r.now})
			case q.kind == reqSnapshot:
				r.whole()
			case q.kind == reqProcess:
				p := map[workload.PID]kernel.Process{140: service, 150: init, 20: r.proc(20, 1, 7)}[q.pid]
				r.feed(evProcess{pid: q.pid, proc: p, at: r.now})
			}
		}
		r.after(500)
	}
	if !asked[oci] || !asked[docker] {
		t.Errorf("asked about the init itself were %v", asked)
	}
	r.want(140, workload.StatusHost, "")
	r.want(150, workload.StatusUnknown, "")
}

func TestWhoMayBeAnInitIsTheHostsOnceTheFilesHaveDeniedIt(t *testing.T) {
	r := newRig(t)
	r.feed(evListEnd{source: oci, complete: true, began: r.now})
	p := r.proc(150, 10, 1, ns(700, 1))
	r.feed(kernel.Event{Type: kernel.Task, Process: p})
	r.whole()
	for range 3 {
		r.after(2000)
		r.answer(r.take(reqLocate, oci), nil, collectors.ErrUnavailable)
		r.feed(evProcess{pid: 150, proc: p, at: r.now})
		r.want(150, workload.StatusUnknown, "")
	}
	r.asHost(p)
	r.want(150, workload.StatusHost, "")
	if n := r.asked(reqLocate, oci); n > 0 {
		t.Errorf("asked %d times more", n)
	}
}

// The engine is asked, it is paused, and the answer comes last.
func TestAnAnswerFromBeforeAnEventDoesNotTakeItBack(t *testing.T) {
	r := newRig(t)
	said := func(s workload.State) *workload.Container {
		return &workload.Container{ID: workload.ContainerID{Runtime: "docker", ID: idA}, State: s}
	}
	event := func(k collectors.HintKind, s workload.State) {
		r.feed(evHint{source: docker, hint: collectors.Hint{Kind: k, ID: said(s).ID, Layer: said(s)}})
	}
	is := func(want workload.State) {
		t.Helper()
		if l := r.srcs["docker "+idA]; l == nil || l.State != want {
			t.Errorf("it is %+v, not %q", l, want)
		}
	}
	r.startA()
	r.answer(r.take(reqPrefill, docker), said(workload.StateRunning), nil)
	q := r.take(reqLookup, docker)
	r.after(5)
	event(collectors.HintStarted, workload.StateRunning)
	r.answer(q, said(workload.StateRunning), nil)
	is(workload.StateRunning)
	if n := r.asked(reqLookup, docker); n != 0 {
		t.Errorf("asked %d times more, though the answer is what the event told", n)
	}

	event(collectors.HintChanged, workload.StatePaused)
	r.feed(evHint{source: docker, hint: collectors.Hint{Kind: collectors.HintChanged, ID: said("").ID}}) // has it asked
	q = r.take(reqLookup, docker)
	r.after(5)
	event(collectors.HintChanged, workload.StateRunning)
	r.answer(q, said(workload.StatePaused), nil)
	is(workload.StateRunning)
	r.answer(r.take(reqLookup, docker), said(workload.StateRunning), nil)
	is(workload.StateRunning)

	began := r.now
	r.after(5)
	event(collectors.HintChanged, workload.StatePaused)
	r.feed(evListed{source: docker, container: said(workload.StateRunning)})
	r.feed(evListEnd{source: docker, began: began, complete: true})
	r.answer(r.take(reqLookup, docker), said(workload.StatePaused), nil)
	is(workload.StatePaused)
	r.after(10_000)
	if n := r.asked(reqLookup, docker); n != 0 {
		t.Errorf("asked %d times more", n)
	}
}
