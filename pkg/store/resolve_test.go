// SPDX-License-Identifier: Apache-2.0

package store

import (
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestEveryKindOfProcessResolvesToWhatItIs(t *testing.T) {
	s := New(Options{})
	web := docker("aaaa1111")
	layer := named(web, "web")
	layer.Pod = &workload.PodRef{UID: "u1", Name: "p", Namespace: "n"}
	in, host := inContainer(key(10, 1), web), onHost(key(11, 2))
	in.Service = &workload.Service{Unit: "docker.service"}
	torn := &workload.Process{Key: key(12, 3), Status: workload.StatusConflict, Reason: "two containers"}
	lost := &workload.Process{Key: key(13, 4), Status: workload.StatusUnknown, Reason: "no lineage"}
	orphan := inContainer(key(14, 5), docker("nobody"))
	rev := s.Apply(putLayer(web, "docker", layer), put(in), put(host), put(torn), put(lost), put(orphan))
	s.SetAsOf(77)

	merged, _ := s.Container(web)
	for _, tc := range []struct {
		name string
		key  workload.ProcessKey
		want workload.Answer
	}{
		{"in a container", in.Key, workload.Answer{
			Status: workload.StatusContainer, Confidence: workload.Confirmed, Process: in,
			Containers: []*workload.Container{merged}, Pod: &workload.Pod{PodRef: *layer.Pod}, Service: in.Service,
		}},
		{"on the host", host.Key, workload.Answer{Status: workload.StatusHost, Process: host}},
		{"in conflict", torn.Key, workload.Answer{Status: workload.StatusConflict, Process: torn, Reason: "two containers"}},
		{"unknown, with its own reason", lost.Key, workload.Answer{Status: workload.StatusUnknown, Process: lost, Reason: "no lineage"}},
		{"in a container that is not there", orphan.Key, workload.Answer{Status: workload.StatusUnknown, Process: orphan, Reason: reasonContainer}},
		{"never heard of", key(99, 1), workload.Answer{Status: workload.StatusUnknown, Reason: reasonAbsent}},
		{"no key at all", workload.ProcessKey{}, workload.Answer{Status: workload.StatusUnknown, Reason: reasonAbsent}},
		{"a PID alone", workload.ProcessKey{PID: 10}, workload.Answer{Status: workload.StatusUnknown, Reason: reasonAbsent}},
		{"a PID above all", key(workload.MaxPID+1, 1), workload.Answer{Status: workload.StatusUnknown, Reason: reasonAbsent}},
		{"the largest number", key(^workload.PID(0), 1), workload.Answer{Status: workload.StatusUnknown, Reason: reasonAbsent}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tc.want.Revision, tc.want.AsOf = rev, 77
			if diff := cmp.Diff(tc.want, s.Resolve(tc.key)); diff != "" {
				t.Errorf("answer (-want +got):\n%s", diff)
			}
		})
	}
}

func TestTheLowestAndTheHighestPIDHaveAPlace(t *testing.T) {
	s := New(Options{})
	s.Apply(put(onHost(key(1, 1))), put(onHost(key(workload.MaxPID, 2))),
		put(onHost(key(workload.MaxPID+1, 3))), put(onHost(workload.ProcessKey{PID: 5})), Change{})
	for _, pid := range []workload.PID{1, workload.MaxPID} {
		if a, ok := s.PID(pid); !ok || a.Status != workload.StatusHost {
			t.Errorf("PID(%d) = %v, %v", pid, a.Status, ok)
		}
	}
	for _, pid := range []workload.PID{0, 5, workload.MaxPID + 1, ^workload.PID(0)} {
		if a, ok := s.PID(pid); ok || a.Status != workload.StatusUnknown {
			t.Errorf("PID(%d) = %v, %v", pid, a.Status, ok)
		}
	}
	if c := s.Counts(); c.Rejected != 3 || c.Processes != 2 {
		t.Errorf("counts %+v", c)
	}
}

func TestAReusedPIDIsNeverMistaken(t *testing.T) {
	const tick = workload.TickNS
	at := func(start uint64, inode uint64) workload.ProcessKey {
		return workload.ProcessKey{PID: 7, Start: start, Inode: inode}
	}
	ticks := func(start uint64) workload.ProcessKey {
		return workload.ProcessKey{PID: 7, Start: start / tick * tick, Ticks: true}
	}
	first, then := docker("aaaa"), docker("bbbb")
	for _, tc := range []struct {
		name      string
		one, two  workload.ProcessKey
		ask       workload.ProcessKey
		want      string // container's name, empty for unknown
		ambiguous bool
	}{
		{"by inode, the first", at(1, 101), at(2, 102), at(1, 101), "one", false},
		{"by inode, the second", at(1, 101), at(2, 102), at(2, 102), "two", false},
		{"by inode, a third", at(1, 101), at(2, 102), at(2, 103), "", false},
		{"by start, the first", at(5*tick+1, 0), at(5*tick+2, 0), at(5*tick+1, 0), "one", false},
		{"by start, the second", at(5*tick+1, 0), at(5*tick+2, 0), at(5*tick+2, 0), "two", false},
		{"by start where the store has inodes", at(5*tick+1, 101), at(5*tick+2, 102), at(5*tick+1, 0), "one", false},
		{"by inode where the store has starts only", at(5*tick+1, 0), at(5*tick+2, 0), at(5*tick+2, 102), "two", false},
		{"by tick, different ticks", at(5*tick+1, 101), at(6*tick+2, 102), ticks(5 * tick), "one", false},
		{"by tick, both in one tick", at(5*tick+1, 101), at(5*tick+2, 102), ticks(5 * tick), "", true},
		{"both put by tick, in one tick", ticks(5 * tick), ticks(5 * tick), ticks(5 * tick), "", true},
		{"both put by tick, asked by start", ticks(5 * tick), ticks(5 * tick), at(5*tick+3, 0), "", true},
		{"one by tick, the other whole, asked for the other", ticks(5 * tick), at(5*tick+9, 102), at(5*tick+9, 102), "two", false},
		{"by tick, no tick of theirs", at(5*tick+1, 101), at(6*tick+2, 102), ticks(7 * tick), "", false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := New(Options{})
			s.Apply(putLayer(first, "docker", named(first, "one")), putLayer(then, "docker", named(then, "two")))
			one := inContainer(tc.one, first)
			s.Apply(put(one))
			s.Apply(put(exited(one, 9*second, 0)))
			s.Apply(put(inContainer(tc.two, then)))
			switch {
			case tc.want != "":
				wantName(t, s, tc.ask, tc.want)
			case tc.ambiguous:
				wantUnknown(t, s, tc.ask, reasonTick)
			default:
				wantUnknown(t, s, tc.ask, reasonAbsent)
			}
			if a, _ := s.PID(7); containerName(a) != "two" {
				t.Errorf("PID(7) = %q, want the newest", containerName(a))
			}
		})
	}
}

func TestAProcessWhosePIDIsTakenIsGone(t *testing.T) {
	s := New(Options{})
	s.Apply(put(onHost(key(7, 1))))
	s.Apply(put(onHost(key(7, 3))))
	if a := s.Resolve(key(7, 1)); !a.Exited || a.Process.Exit.Known {
		t.Errorf("the former owner: exited %v, %+v", a.Exited, a.Process.Exit)
	}
	s.Apply(put(onHost(key(7, 2)))) // news of one in between, late
	if a := s.Resolve(key(7, 2)); !a.Exited {
		t.Error("one that started before the owner lives on")
	}
	if a, _ := s.PID(7); a.Process.Key != key(7, 3) || a.Exited {
		t.Errorf("PID(7) = %v, exited %v", a.Process.Key, a.Exited)
	}
	s.Apply(put(exited(onHost(key(7, 1)), 5, 9)))
	if a := s.Resolve(key(7, 1)); a.Process.Exit.Code != 9 {
		t.Error("the status that came late is missing")
	}
	if c := s.Counts(); c.Processes != 1 || c.ProcessTombstones != 2 {
		t.Errorf("counts %+v", c)
	}
}

func TestAKeyCanBecomeBetterKnown(t *testing.T) {
	s := New(Options{})
	rough := workload.ProcessKey{PID: 7, Start: 5 * workload.TickNS, Ticks: true}
	whole := workload.ProcessKey{PID: 7, Start: 5*workload.TickNS + 4, Inode: 99}
	s.Apply(put(onHost(rough)))
	s.Apply(put(onHost(whole)))
	if c := s.Counts(); c.Processes != 1 || c.ProcessTombstones != 0 {
		t.Fatalf("counts %+v", c)
	}
	for _, k := range []workload.ProcessKey{rough, whole} {
		if a := s.Resolve(k); a.Process == nil || a.Process.Key != whole {
			t.Errorf("Resolve(%v) = %+v", k, a)
		}
	}
}

func TestPIDAtNamesWhoHadThePIDThen(t *testing.T) {
	s := New(Options{})
	p := func(start, end workload.KTime) *workload.Process {
		p := onHost(workload.ProcessKey{PID: 7, Start: uint64(start)})
		p.Started = start
		if end != 0 {
			p = exited(p, end, 0)
		}
		return p
	}
	unseen := p(50, 0)
	s.Apply(put(p(10, 20)), put(p(30, 40)), put(unseen), put(p(60, 0)))
	for _, tc := range []struct {
		name string
		at   workload.KTime
		want workload.KTime // start, 0 for nobody
	}{
		{"before all", 9, 0},
		{"the instant of the start", 10, 10},
		{"within the first", 19, 10},
		{"the instant of the exit", 20, 0},
		{"between two", 25, 0},
		{"within the second", 39, 30},
		{"within one whose end nobody saw", 55, 0},
		{"from the last start on", 60, 60},
		{"now", 1000, 60},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, ok := s.PIDAt(7, tc.at)
			if ok != (tc.want != 0) || ok && a.Process.Started != tc.want {
				t.Errorf("PIDAt(%d) = %+v, %v", tc.at, a.Process, ok)
			}
			if !ok && (a.Status != workload.StatusUnknown || a.Reason != reasonAt) {
				t.Errorf("PIDAt(%d) = %s %q", tc.at, a.Status, a.Reason)
			}
		})
	}
	if _, ok := s.PIDAt(workload.MaxPID+1, 5); ok {
		t.Error("a PID above all had an owner")
	}
}

func TestReadersAllocateNothing(t *testing.T) {
	s := New(Options{})
	id, cg := docker("aaaa"), workload.CgroupID{ID: 5}
	k := named(id, "web")
	k.Run = &workload.Run{Cgroups: []workload.CgroupPath{{CgroupID: cg}}}
	s.Apply(putLayer(id, KernelSource, k), put(inContainer(key(7, 1), id)), put(onHost(key(8, 1))))
	for name, f := range map[string]func(){
		"Resolve, container": func() { sink = s.Resolve(key(7, 1)) },
		"Resolve, host":      func() { sink = s.Resolve(key(8, 1)) },
		"Resolve, absent":    func() { sink = s.Resolve(key(9, 1)) },
		"PID":                func() { sink, _ = s.PID(7) },
		"PIDAt":              func() { sink, _ = s.PIDAt(7, 2_000_000) },
		"Container":          func() { sinkContainer, _ = s.Container(id) },
		"ByCgroup":           func() { sinkContainer, _ = s.ByCgroup(cg) },
		"ContainerAnswer":    func() { sink, _ = s.ContainerAnswer(id) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

var (
	sink          workload.Answer
	sinkContainer *workload.Container
)

func TestSameProcessComparesEveryField(t *testing.T) {
	var a workload.Process
	for i := range reflect.TypeFor[workload.Process]().NumField() {
		b := a
		f := reflect.ValueOf(&b).Elem().Field(i)
		f.Set(nonZero(f.Type()))
		if sameProcess(&a, &b) {
			t.Errorf("a different %s is not seen", reflect.TypeFor[workload.Process]().Field(i).Name)
		}
		if c := b; !sameProcess(&b, &c) {
			t.Errorf("the same %s is seen as different", reflect.TypeFor[workload.Process]().Field(i).Name)
		}
	}
}

// nonZero makes a value of the type that is not its zero.
func nonZero(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	switch t.Kind() {
	case reflect.String:
		v.SetString("x")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int32, reflect.Int64:
		v.SetInt(1)
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(1)
	case reflect.Pointer:
		v.Set(reflect.New(t.Elem()))
	case reflect.Slice:
		v.Set(reflect.MakeSlice(t, 1, 1))
		v.Index(0).Set(nonZero(t.Elem()))
	case reflect.Map:
		v.Set(reflect.MakeMap(t))
		v.SetMapIndex(nonZero(t.Key()), nonZero(t.Elem()))
	case reflect.Struct:
		v.Field(0).Set(nonZero(t.Field(0).Type))
	}
	return v
}
