// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/workload"
)

// theirs is what a user's own engine says of a container without a cgroup of its own.
func theirs(id string, init workload.PID) *workload.Container {
	return &workload.Container{
		ID: workload.ContainerID{Runtime: "podman", Instance: workload.UserInstance(1000), ID: id}, Name: "theirs", State: workload.StateRunning,
		Run: &workload.Run{Init: workload.ProcessKey{PID: init, Start: uint64(init) * workload.TickNS, Ticks: true}, Registers: true, Homeless: true},
	}
}

func (r *rig) say(l *workload.Container) {
	r.feed(evHint{source: docker, hint: collectors.Hint{Kind: collectors.HintStarted, ID: l.ID, Layer: l}})
}

func TestAContainerWithoutACgroupIsThePIDNamespaceOfItsInit(t *testing.T) {
	r := newRig(t)
	r.mkdir(5, 1, "/user")
	r.fork(300, 10, 5, ns(700, 1))
	r.exec(300, 10, 5, ns(700, 1))
	r.fork(301, 300, 5, ns(700, 2))
	r.want(301, workload.StatusUnknown, "")
	r.say(theirs(idA, 300))
	if p := r.want(300, workload.StatusContainer, idA); p.Entry != workload.EntryInit || p.Confidence != workload.Confirmed {
		t.Errorf("the init: %s, %s", p.Entry, p.Confidence)
	}
	r.want(301, workload.StatusContainer, idA)
	r.fork(302, 301, 5, ns(700, 3))
	r.want(302, workload.StatusContainer, idA)
	// Who is let in later: podman exec, whose conmon is outside.
	r.fork(303, 10, 5, ns(700, 4))
	if p := r.want(303, workload.StatusContainer, idA); p.Entry != workload.EntryExec {
		t.Errorf("exec: %s", p.Entry)
	}
	// Its neighbour in the cgroup, conmon among them, is none of it.
	r.fork(304, 10, 5)
	r.exec(304, 10, 5)
	r.want(304, workload.StatusHost, "")
	r.say(theirs(idA, 300))
	r.want(300, workload.StatusContainer, idA)
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(300, 10, 5, ns(700, 1))})
	if c := r.cont[theirs(idA, 300).ID]; c == nil || c.State != workload.StateExited {
		t.Errorf("after its init's end: %+v", c)
	}
}

// A user may give his container the id of anybody's.
func TestAUsersContainerIsJoinedWithNoOther(t *testing.T) {
	for _, first := range []bool{true, false} {
		r := newRig(t)
		r.mkdir(5, 1, "/user")
		r.fork(300, 10, 5, ns(700, 1))
		if first {
			r.say(theirs(idA, 300))
		}
		r.startA()
		if !first {
			r.say(theirs(idA, 300))
		}
		r.exec(300, 10, 5, ns(700, 1))
		if p := r.want(100, workload.StatusContainer, idA); p.Container.OfUser() {
			t.Errorf("root's container is %+v", p.Container)
		}
		if p := r.want(300, workload.StatusContainer, idA); !p.Container.OfUser() {
			t.Errorf("the user's container is %+v", p.Container)
		}
		// What runc has of the id is of root's container alone.
		for r.asked(reqPrefill, oci) > 0 {
			r.answer(r.take(reqPrefill, oci), r.state(idA, 100, "/docker/"+idA), nil)
		}
		if p := r.want(100, workload.StatusContainer, idA); p.Container.OfUser() {
			t.Errorf("root's container became %+v", p.Container)
		}
	}
}

// What a user says does not take a process out of a container, nor where a name
// claims one.
func TestAUsersWordMovesNobodyOutOfAContainersCgroup(t *testing.T) {
	r := newRig(t)
	r.startA()
	r.fork(110, 100, 3, ns(500, 7), ns(700, 1))
	r.say(theirs(idB, 110))
	r.want(110, workload.StatusContainer, idA)

	r = newRig(t)
	r.mkdir(4, 2, "/docker/"+idB)
	r.fork(200, 10, 4, ns(600, 1))
	r.say(theirs(idA, 200))
	r.want(200, workload.StatusUnknown, "")
	r.hint(idB, 200, "/docker/"+idB)
	r.want(200, workload.StatusContainer, idB)
}

// The host's own PID namespace is nobody's.
func TestAnInitThatIsNotTheFirstOfItsPIDNamespaceRegistersNothing(t *testing.T) {
	r := newRig(t)
	r.mkdir(5, 1, "/user")
	r.fork(300, 10, 5)
	r.fork(301, 10, 5, ns(700, 2))
	for _, pid := range []workload.PID{300, 301} {
		r.say(theirs(idA, pid))
		if p := r.seen[workload.ProcessKey{PID: pid, Start: uint64(pid) * workload.TickNS}]; p.Status == workload.StatusContainer {
			t.Errorf("process %d is of %v", pid, p.Container)
		}
	}
}

// Nor are they one while nothing runs that would tell them apart.
func TestTheRecordsOfEqualIDsOfRootAndAUserStayApart(t *testing.T) {
	r := newRig(t)
	user, root := theirs(idA, 300), r.state(idA, 100, "/docker/"+idA)
	user.Run, root.Run = nil, nil
	root.Name = "web"
	r.say(user)
	for r.asked(reqPrefill, oci) > 0 {
		r.answer(r.take(reqPrefill, oci), root, nil)
	}
	r.say(user)
	a, b := r.m.find(user.ID), r.m.find(root.ID)
	if a == nil || b == nil || a == b {
		t.Fatalf("they are %v and %v", a, b)
	}
	for _, c := range []*container{a, b} {
		for i, l := range c.layers {
			if l.ID.OfUser() != c.key.OfUser() {
				t.Errorf("%v has source %d's word of %v", c.key, i, l.ID)
			}
		}
	}
}
