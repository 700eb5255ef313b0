// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"strings"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/workload"
)

// inner is the source that is an engine in container A.
const inner = containerd + 1

var idC = strings.Repeat("c3", 32)

// newNested has A and B on the host and, in A, an engine (110) that the kernel says
// serves the inner source's socket, and the init (120) of a container that it made.
// In A's PID namespace, 500, they are 10 and 20.
func newNested(t *testing.T) *rig {
	r := newRig(t)
	cfg := r.m.cfg
	cfg.sources = append(cfg.sources, sourceInfo{name: "docker@/inner.sock", nested: workload.NestedInstance("/inner.sock")})
	*r.m = *newMachine(cfg)
	r.mkdir(2, 1, "/docker")
	r.task(10, 1, 1, nil)
	r.startA()
	r.startB()
	r.fork(110, 100, 3, ns(500, 10))
	r.exec(110, 100, 3, ns(500, 10))
	r.mkdir(6, 3, "/docker/"+idA+"/docker")
	r.mkdir(7, 6, "/docker/"+idA+"/docker/"+idC)
	r.fork(120, 110, 7, ns(500, 20), ns(900, 1))
	r.exec(120, 110, 7, ns(500, 20), ns(900, 1))
	r.want(110, workload.StatusContainer, idA)
	r.want(120, workload.StatusContainer, idA)
	return r
}

// within is what the inner engine says.
func within(id string, init workload.PID) *workload.Container {
	return &workload.Container{
		ID: workload.ContainerID{Runtime: "docker", Instance: workload.NestedInstance("/inner.sock"), ID: id}, Name: "theirs", State: workload.StateRunning,
		Run: &workload.Run{Init: workload.ProcessKey{PID: init}, Registers: true},
	}
}

func (r *rig) server(pid workload.PID) {
	r.feed(evHint{source: inner, hint: collectors.Hint{Kind: collectors.HintServer, Server: workload.ProcessKey{PID: pid, Start: uint64(pid) * workload.TickNS, Ticks: true}}})
}

func (r *rig) sayInner(l *workload.Container) {
	r.feed(evListed{source: inner, container: l})
}

// chain wants a process in a container of the inner engine's, inside A.
func (r *rig) chain(pid workload.PID, id string) {
	r.t.Helper()
	if p := r.want(pid, workload.StatusContainer, id); p.Container.Nested() == "" {
		r.t.Errorf("%d is of %s, not the inner engine's", pid, p.Container)
	}
	if l := r.cont[within(id, 0).ID]; l == nil || l.Parent.ID != idA {
		r.t.Errorf("%s is inside of %+v", id, l)
	}
}

func TestAnInnerEnginesContainerIsALinkOfTheChain(t *testing.T) {
	for _, serverFirst := range []bool{true, false} {
		r := newNested(t)
		if serverFirst {
			r.server(110)
		}
		r.sayInner(within(idC, 20))
		if !serverFirst {
			r.want(120, workload.StatusContainer, idA)
			r.server(110)
		}
		r.chain(120, idC)
		r.want(110, workload.StatusContainer, idA)
		r.fork(121, 120, 7, ns(500, 21), ns(900, 2))
		r.chain(121, idC)
		// docker exec of the inner engine: its runc comes from A, and goes in.
		r.fork(130, 110, 3, ns(500, 30))
		r.want(130, workload.StatusContainer, idA)
		r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(130, 110, 7, ns(500, 30)), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 7}}})
		r.fork(131, 130, 7, ns(500, 31), ns(900, 3))
		r.chain(131, idC)
		// Whoever leaves its cgroup for A's is still its own; for B's is in conflict.
		r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(121, 120, 3, ns(500, 21), ns(900, 2)), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 3}}})
		r.chain(121, idC)
		r.feed(kernel.Event{Type: kernel.CgroupAttach, Process: r.proc(121, 120, 4, ns(500, 21), ns(900, 2)), Cgroup: kernel.Cgroup{ID: workload.CgroupID{ID: 4}}})
		r.want(121, workload.StatusConflict, "")
		r.want(200, workload.StatusContainer, idB)
	}
}

// The agent comes late, and knows nobody's history.
func TestAnInnerContainerIsFoundByASnapshot(t *testing.T) {
	r := newNested(t)
	r.server(110)
	r.sayInner(within(idC, 20))
	r.task(125, 120, 7, []workload.PIDNamespace{ns(500, 25), ns(900, 5)})
	r.chain(125, idC)
	r.task(126, 110, 3, []workload.PIDNamespace{ns(500, 26), ns(900, 6)}) // in A's own cgroup
	if p := r.m.procs[126]; p.status == workload.StatusConflict {
		t.Errorf("it is in conflict: %s", p.reason)
	}
}

// What an engine in a container says of anybody but its own changes nothing.
func TestAnInnerEngineThatLiesChangesNothingOfTheHosts(t *testing.T) {
	host := func(id string, init workload.PID) *workload.Container {
		l := within(id, init)
		l.ID.Instance = ""
		return l
	}
	alias := within(idC, 20)
	alias.Aliases = []workload.ContainerID{{Runtime: "containerd", Namespace: "moby", ID: idB}}
	for name, l := range map[string]*workload.Container{
		"the id of the host's":           within(idB, 20),
		"the id and the PID":             within(idB, 200),
		"another container's init":       within(idC, 200),
		"its own container's init":       within(idC, 1),
		"its own container's id":         within(idA, 1),
		"a process that is no init":      within(idC, 10),
		"nobody":                         within(idC, 4000),
		"the host's instance":            host(idB, 200),
		"the host's instance, a new one": host(idC, 200),
		"an alias of the host's":         alias,
	} {
		t.Run(name, func(t *testing.T) {
			r := newNested(t)
			r.server(110)
			r.sayInner(l)
			r.feed(evHint{source: inner, hint: collectors.Hint{Kind: collectors.HintStarted, ID: l.ID, Layer: l}})
			for r.asked(reqLookup, inner) > 0 {
				r.answer(r.take(reqLookup, inner), l, nil)
			}
			r.feed(evHint{source: inner, hint: collectors.Hint{Kind: collectors.HintDeleted, ID: workload.ContainerID{Runtime: "docker", ID: idB}}})
			r.after(20000)
			r.want(100, workload.StatusContainer, idA)
			r.want(110, workload.StatusContainer, idA)
			r.want(120, workload.StatusContainer, idA)
			if p := r.want(200, workload.StatusContainer, idB); p.Container.Nested() != "" {
				t.Errorf("B's is now of %s", p.Container)
			}
			for id, c := range r.cont {
				if id.Nested() == "" && !c.Parent.IsZero() {
					t.Errorf("%s is inside of %s", id, c.Parent)
				}
			}
			for what := range r.srcs {
				if strings.HasPrefix(what, "docker@") {
					t.Errorf("%s is shown", what)
				}
			}
		})
	}
}

// The cgroup of an inner container may be named for one of the host's.
func TestAnInnerCgroupWithTheNameOfTheHostsRegistersNothing(t *testing.T) {
	r := newNested(t)
	r.mkdir(8, 6, "/docker/"+idA+"/docker/"+idB)
	r.fork(140, 110, 8, ns(500, 40), ns(910, 1))
	r.server(110)
	r.sayInner(within(idB, 40))
	r.want(140, workload.StatusContainer, idA)
	r.want(200, workload.StatusContainer, idB)
}

// Who serves the socket decides in which container the engine is; the host's own
// processes, and who has ended, serve none.
func TestAnEngineIsBelievedAboutTheContainerOfItsServerAlone(t *testing.T) {
	for name, server := range map[string]workload.PID{"the host's": 10, "another container's": 200, "nobody": 4000} {
		r := newNested(t)
		r.server(server)
		r.sayInner(within(idC, 20))
		r.sayInner(within(strings.Repeat("d4", 32), 120)) // its PID on the host
		r.after(10000)
		if p := r.want(120, workload.StatusContainer, idA); p.Container.Nested() != "" {
			t.Errorf("%s: it is of %s", name, p.Container)
		}
	}
	r := newNested(t)
	r.server(110)
	r.feed(kernel.Event{Type: kernel.Exit, Process: r.proc(110, 100, 3, ns(500, 10))})
	r.sayInner(within(idC, 20))
	r.want(120, workload.StatusContainer, idA)
}

// Sources on the host and in a container are not asked about each other's.
func TestNobodyIsAskedAboutWhatItMayNotDescribe(t *testing.T) {
	r := newNested(t)
	r.server(110)
	r.sayInner(within(idC, 20))
	r.after(3000)
	for _, q := range r.reqs {
		if q.kind != reqPrefill && q.kind != reqLookup && q.kind != reqLocate {
			continue
		}
		if q.kind == reqLocate && q.source == inner || q.kind != reqLocate && (q.key.Nested() != "") != (q.source == inner) {
			t.Errorf("source %d was asked: %+v", q.source, q)
		}
	}
	if c := r.cont[within(idC, 0).ID]; c == nil || len(c.Missing) > 0 {
		t.Errorf("it is %+v", c)
	}
}
