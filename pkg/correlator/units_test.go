// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// unitRig is a rig whose second source is the system manager, with a store.
type unitRig struct {
	*rig
	s *store.Store
}

const manager = 1

func newUnitRig(t *testing.T) *unitRig {
	r := &unitRig{newRig(t), store.New(store.Options{})}
	r.m = newMachine(config{sources: []sourceInfo{{name: "oci", prefill: true, files: true}, {name: "systemd", units: true}}, hostMountNS: 1})
	r.mkdir(2, 1, "/system.slice")
	r.take(reqUnit, manager) // about the slice
	return r
}

// feed puts what the machine says into the store as well.
func (r *unitRig) feed(in any) {
	if e, ok := in.(kernel.Event); ok {
		if e.Time == 0 {
			e.Time = r.now + 1000
		}
		in = evEvent{e}
	}
	r.now += 1000
	out := r.m.step(r.now, in)
	r.s.SetAsOf(r.now)
	r.s.Apply(out.changes...)
	r.reqs = append(r.reqs, out.requests...)
}

func (r *unitRig) mkdir(id, parent uint64, path string) {
	depth := uint32(0)
	for _, c := range path {
		if c == '/' {
			depth++
		}
	}
	r.feed(kernel.Event{Type: kernel.CgroupMkdir, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: id}, Parent: parent, Level: depth, Path: path}})
}

func (r *unitRig) rmdir(id uint64) {
	r.feed(kernel.Event{Type: kernel.CgroupRmdir, Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: id}}})
}

func (r *unitRig) fork(pid, parent workload.PID, cgroup uint64) {
	r.feed(kernel.Event{Type: kernel.Fork, Process: r.proc(pid, parent, cgroup)})
}

func (r *unitRig) exit(pid workload.PID, cgroup uint64) {
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(pid, 1, cgroup), Exit: workload.Exit{Known: true}})
}

// says answers the oldest question about a unit.
func (r *unitRig) says(s *workload.Service, err error) {
	r.t.Helper()
	q := r.take(reqUnit, manager)
	if s != nil {
		n := *s
		n.Unit, n.Cgroup, n.Confidence = q.unit.plain.Unit, q.path, workload.Confirmed
		s = &n
	}
	r.feed(evUnit{req: q, service: s, err: err})
}

func (r *unitRig) service(pid workload.PID) workload.Service {
	r.t.Helper()
	a := r.s.Resolve(workload.ProcessKey{PID: pid, Start: uint64(pid) * workload.TickNS})
	if a.Status != workload.StatusHost || a.Service == nil {
		r.t.Fatalf("process %d is %s (%s), in %+v", pid, a.Status, a.Reason, a.Service)
	}
	return *a.Service
}

func running(id string, main workload.PID) *workload.Service {
	return &workload.Service{Description: "a web server", Active: "active", Sub: "running", InvocationID: id, MainPID: main}
}

var (
	claimedWeb   = workload.Service{Unit: "web.service", Slice: "system.slice", Cgroup: "/system.slice/web.service", Confidence: workload.Claimed}
	confirmedWeb = workload.Service{
		Unit: "web.service", Slice: "system.slice", Cgroup: "/system.slice/web.service", Confidence: workload.Confirmed,
		Description: "a web server", Active: "active", Sub: "running", InvocationID: "first", MainPID: 50,
	}
)

// startWeb has the manager start a service: main process 50, and 51 below it.
func (r *unitRig) startWeb() {
	r.mkdir(3, 2, "/system.slice/web.service")
	r.fork(50, 1, 3)
	r.fork(51, 50, 3)
}

func TestAProcessHasItsUnitAtOnceAndWhatTheManagerSaysOfItLater(t *testing.T) {
	r := newUnitRig(t)
	r.startWeb()
	if d := cmp.Diff(claimedWeb, r.service(51)); d != "" {
		t.Errorf("before the manager said anything (-want +got):\n%s", d)
	}
	r.says(running("late", 49), nil) // it was asked before the fork
	if d := cmp.Diff(claimedWeb, r.service(51)); d != "" {
		t.Errorf("what was asked before the manager forked may be of another start (-want +got):\n%s", d)
	}
	r.says(running("first", 50), nil)
	for _, pid := range []workload.PID{50, 51} {
		if d := cmp.Diff(confirmedWeb, r.service(pid)); d != "" {
			t.Errorf("process %d (-want +got):\n%s", pid, d)
		}
	}
	r.fork(52, 51, 3)
	r.mkdir(4, 3, "/system.slice/web.service/below")
	r.fork(53, 51, 4)
	for _, pid := range []workload.PID{52, 53} {
		if d := cmp.Diff(confirmedWeb, r.service(pid)); d != "" {
			t.Errorf("process %d, made later (-want +got):\n%s", pid, d)
		}
	}
	if n := r.asked(reqUnit, manager); n != 0 {
		t.Errorf("%d more questions", n)
	}
	if s, ok := r.s.Service("/system.slice/web.service"); !ok || *s != confirmedWeb {
		t.Errorf("the entity is %+v", s)
	}
}

// A start that leaves processes of the last one behind keeps the cgroup.
func TestAnotherStartTakesTheInvocationBack(t *testing.T) {
	r := newUnitRig(t)
	r.startWeb()
	r.says(running("stale", 0), nil)
	r.says(running("first", 50), nil)
	r.exit(50, 3)
	if s := r.service(51); s.InvocationID != "" || s.MainPID != 0 || s.Active != "active" {
		t.Errorf("after the end of its main process: %+v", s)
	}
	if d := cmp.Diff(confirmedWeb, r.service(50)); d != "" {
		t.Errorf("the dead keep what they were (-want +got):\n%s", d)
	}
	r.says(running("first", 0), nil)
	r.fork(60, 1, 3)
	if s := r.service(60); s.InvocationID != "" {
		t.Errorf("before the manager has said of which start it is: %+v", s)
	}
	r.says(running("second", 60), nil)
	if s := r.service(60); s.InvocationID != "second" || s.MainPID != 60 {
		t.Errorf("then: %+v", s)
	}
	r.m.resettle(r.m.cgroups[workload.CgroupID{ID: 3}]) // as a late registration would
	r.feed(evTick{})
	if d := cmp.Diff(confirmedWeb, r.service(50)); d != "" {
		t.Errorf("the dead keep what they were (-want +got):\n%s", d)
	}
}

func TestAUnitEndsWithItsCgroupAndComesBackWithTheNext(t *testing.T) {
	r := newUnitRig(t)
	r.startWeb()
	r.says(running("stale", 0), nil)
	r.says(running("first", 50), nil)
	r.exit(51, 3)
	r.exit(50, 3)
	q := r.take(reqUnit, manager) // the main process has ended
	r.rmdir(3)
	gone := 0
	for e := range r.s.All(workload.Selector{Kinds: []workload.Kind{workload.KindService}, All: true}) {
		if e.Gone && e.Service.Unit == "web.service" {
			gone++
		}
	}
	if gone != 1 {
		t.Errorf("%d tombstones", gone)
	}
	r.mkdir(5, 2, "/system.slice/web.service")
	r.feed(evUnit{req: q, service: &confirmedWeb}) // asked about the one before
	r.fork(70, 1, 5)
	if d := cmp.Diff(claimedWeb, r.service(70)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	r.reqs = nil
	if s, ok := r.s.Service("/system.slice/web.service"); !ok || *s != claimedWeb {
		t.Errorf("the entity is %+v", s)
	}
}

func TestWhatAUserCallsAUnitIsTheUsers(t *testing.T) {
	r := newUnitRig(t)
	base := "/user.slice"
	r.mkdir(10, 1, base)
	for i, part := range []string{"user-1000.slice", "user@1000.service", "system.slice", "web.service"} {
		base += "/" + part
		r.mkdir(uint64(11+i), uint64(10+i), base)
	}
	r.reqs = nil
	r.fork(80, 40, 14)
	want := workload.Service{
		Unit: "user@1000.service", Slice: "user-1000.slice", Cgroup: "/user.slice/user-1000.slice/user@1000.service", User: "1000",
		UserUnit: "web.service", UserSlice: "system.slice", Confidence: workload.Claimed,
	}
	if d := cmp.Diff(want, r.service(80)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if _, ok := r.s.Service(base); ok {
		t.Error("a user's unit is an entity")
	}
	r.feed(evHint{source: manager, hint: collectors.Hint{Kind: collectors.HintChanged, Unit: "web.service"}})
	if n := r.asked(reqUnit, manager); n != 0 {
		t.Error("the system manager is asked about a user's unit")
	}
}

// Not found: the manager has a unit of this name, elsewhere, or none.
func TestWhatTheManagerDoesNotHaveStaysAClaim(t *testing.T) {
	r := newUnitRig(t)
	r.startWeb()
	r.says(nil, errors.New("whatever it was, it is asked again"))
	r.says(running("first", 50), nil)
	r.feed(evHint{source: manager, hint: collectors.Hint{Kind: collectors.HintChanged, Unit: collectors.EveryUnit}})
	for r.asked(reqUnit, manager) > 0 {
		r.says(nil, fmt.Errorf("its cgroup is another one: %w", collectors.ErrNotFound))
	}
	if d := cmp.Diff(claimedWeb, r.service(51)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A manager that hangs is asked seldom, and about each unit once at a time.
func TestAManagerThatCannotSayIsAskedAgainWithPauses(t *testing.T) {
	r := newUnitRig(t)
	r.mkdir(3, 2, "/system.slice/web.service")
	asked := 0
	for end := r.now + 600*unitRetry; r.now < end; {
		for r.asked(reqUnit, manager) > 0 {
			asked++
			r.says(nil, fmt.Errorf("no answer: %w", collectors.ErrUnavailable))
		}
		if next := r.m.next(); next > r.now {
			r.now = next
		}
		r.feed(evTick{})
	}
	if asked < 20 || asked > 30 {
		t.Errorf("asked %d times in ten minutes", asked)
	}
}

func TestAUnitBetweenTwoStatesIsFollowed(t *testing.T) {
	r := newUnitRig(t)
	r.mkdir(3, 2, "/system.slice/web.service")
	r.says(&workload.Service{Active: "activating", Sub: "start"}, nil)
	r.now = r.m.next()
	r.feed(evTick{})
	r.says(running("first", 50), nil)
	if s, _ := r.s.Service("/system.slice/web.service"); s.Sub != "running" {
		t.Errorf("it is %+v", s)
	}
}

// A container's scope is the container's: it is no entity and nobody is asked.
func TestAnEnginesScopeIsNoService(t *testing.T) {
	r := newUnitRig(t)
	r.reqs = nil
	r.mkdir(3, 2, "/system.slice/docker-"+idA+".scope")
	if n := r.asked(reqUnit, manager); n != 0 {
		t.Errorf("%d questions", n)
	}
	for e := range r.s.All(workload.Selector{Kinds: []workload.Kind{workload.KindService}}) {
		if e.Service.Unit != "system.slice" {
			t.Errorf("%+v", e.Service)
		}
	}
	r.rmdir(3)
	if len(r.m.units) != 1 {
		t.Errorf("%d units are left", len(r.m.units))
	}
}
