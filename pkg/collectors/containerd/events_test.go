// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// envelope wraps an event as containerd does: its type URLs are bare names.
func envelope(tb testing.TB, topic string, m proto.Message) *types.Envelope {
	tb.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return &types.Envelope{
		Timestamp: timestamppb.Now(), Namespace: "default", Topic: topic,
		Event: &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: data},
	}
}

// script makes a watcher that keeps memory, and gives the hints of some events.
func script(tb testing.TB, evs ...*types.Envelope) (*Collector, []collectors.Hint) {
	tb.Helper()
	c := newCollector(tb, Options{})
	c.memory.begin()
	var hints []collectors.Hint
	w := &watcher{c: c, owner: true, fn: func(h collectors.Hint) { hints = append(hints, h) }}
	for _, ev := range evs {
		w.handle(ev)
	}
	return c, hints
}

func lookUp(c *Collector, id string) *workload.Container {
	l := &workload.Container{ID: c.idOf("default", id)}
	c.memory.fill(l)
	return l
}

func TestExitsAreTheInitsOwn(t *testing.T) {
	create := envelope(t, "/tasks/create", &events.TaskCreate{ContainerID: "web", Pid: 42})
	start := envelope(t, "/tasks/start", &events.TaskStart{ContainerID: "web", Pid: 42})
	exit := func(id string, pid, status uint32) *types.Envelope {
		return envelope(t, "/tasks/exit", &events.TaskExit{ContainerID: "web", ID: id, Pid: pid, ExitStatus: status, ExitedAt: timestamppb.Now()})
	}
	gone := func(id string, pid, status uint32) *types.Envelope {
		return envelope(t, "/tasks/delete", &events.TaskDelete{ContainerID: "web", ID: id, Pid: pid, ExitStatus: status, ExitedAt: timestamppb.Now()})
	}
	oom := envelope(t, "/tasks/oom", &events.TaskOOM{ContainerID: "web"})
	for _, tc := range []struct {
		name string
		evs  []*types.Envelope
		want *workload.Exit
	}{
		{"the init's", []*types.Envelope{create, start, exit("web", 42, 3)}, &workload.Exit{Known: true, Code: 3}},
		{"an exec's", []*types.Envelope{create, start, exit("x1", 43, 9)}, nil},
		{"an exec's delete", []*types.Envelope{create, start, gone("x1", 43, 9)}, nil},
		{"a delete whose exit was lost", []*types.Envelope{create, start, gone("", 42, 5)}, &workload.Exit{Known: true, Code: 5}},
		{"a delete as newer versions say it", []*types.Envelope{create, start, gone("web", 42, 6)}, &workload.Exit{Known: true, Code: 6}},
		{"an exit before its start", []*types.Envelope{create, exit("web", 42, 4), start}, &workload.Exit{Known: true, Code: 4}},
		{"an exit and nothing before", []*types.Envelope{exit("web", 42, 4)}, &workload.Exit{Known: true, Code: 4}},
		{"killed for memory", []*types.Envelope{create, start, oom, exit("web", 42, 137)}, &workload.Exit{Known: true, Code: 137, Signal: 9, OOM: true}},
		{"a child was killed for memory", []*types.Envelope{create, start, oom, exit("web", 42, 1)}, &workload.Exit{Known: true, Code: 1, OOM: true}},
		{"killed for memory, which is said after the exit", []*types.Envelope{create, start, exit("web", 42, 137), oom}, &workload.Exit{Known: true, Code: 137, Signal: 9, OOM: true}},
		{"137 by itself", []*types.Envelope{create, start, exit("web", 42, 137)}, &workload.Exit{Known: true, Code: 137}},
		{"the next run", []*types.Envelope{create, start, oom, exit("web", 42, 137), gone("web", 42, 137), envelope(t, "/tasks/create", &events.TaskCreate{ContainerID: "web", Pid: 50})}, nil},
	} {
		c, _ := script(t, tc.evs...)
		got := lookUp(c, "web")
		if (got.Exit == nil) != (tc.want == nil) || tc.want != nil && *got.Exit != *tc.want {
			t.Errorf("%s: %+v, want %+v", tc.name, got.Exit, tc.want)
		}
		if exited := got.State == workload.StateExited; exited != (tc.want != nil) || exited == got.Run.Registers {
			t.Errorf("%s: state %q, run %+v", tc.name, got.State, got.Run)
		}
		if _, living := c.memory.byPID[42]; living && tc.want != nil {
			t.Errorf("%s: a dead init is found by its PID", tc.name)
		}
	}
}

func TestHostileEventsArePassedOver(t *testing.T) {
	good := &events.TaskCreate{ContainerID: "web", Pid: 42}
	wrongType := envelope(t, "/tasks/create", &events.TaskOOM{ContainerID: "web"})
	noEvent := envelope(t, "/tasks/create", good)
	noEvent.Event = nil
	badNamespace := envelope(t, "/tasks/create", good)
	badNamespace.Namespace = "../x"
	garbage := envelope(t, "/tasks/create", good)
	garbage.Event.Value = []byte{0xff, 0xff, 0xff}
	_, hints := script(t, nil, wrongType, noEvent, badNamespace, garbage,
		envelope(t, "/tasks/create", &events.TaskCreate{ContainerID: "../../x", Pid: 1}),
		envelope(t, "/tasks/create", &events.TaskCreate{Pid: 1}),
		envelope(t, "/containers/create", &events.ContainerCreate{ID: strings.Repeat("a", 100)}),
		envelope(t, "/tasks/exec-added", &events.TaskExecAdded{ContainerID: "web", ExecID: "x"}),
		envelope(t, "", good), envelope(t, "/tasks/", good),
	)
	if len(hints) != 0 {
		t.Errorf("%+v", hints)
	}
	c, hints := script(t, envelope(t, "/tasks/create", &events.TaskCreate{ContainerID: "web", Pid: 1 << 31}))
	if len(hints) != 1 || hints[0].Layer.Run != nil || len(c.memory.byPID) != 0 {
		t.Errorf("a PID that is none: %+v", hints)
	}
}

func TestAHintsLabelsAreBounded(t *testing.T) {
	labels := map[string]string{}
	for i := range 100000 {
		labels[fmt.Sprintf("k%d", i)] = "v"
	}
	_, hints := script(t, envelope(t, "/containers/update", &events.ContainerUpdate{ID: "web", Labels: labels}))
	if n := len(hints[0].Layer.Labels); n == 0 || n > 1000 {
		t.Errorf("%d labels", n)
	}
}

func TestMemoryIsBoundedAndEndsWithTheWatch(t *testing.T) {
	m := newMemory()
	m.update(taskKey{"a", "early"}, func(t *task) { t.pid = 1 })
	if len(m.tasks) != 0 {
		t.Error("remembers though no Watch runs")
	}
	if !m.begin() || m.begin() {
		t.Error("two Watches keep one memory")
	}
	for i := range maxTasks + 100 {
		m.update(taskKey{"a", fmt.Sprint(i)}, func(t *task) { t.pid = workload.PID(i + 1) })
	}
	if len(m.tasks) != maxTasks || len(m.byPID) != maxTasks {
		t.Errorf("%d tasks, %d PIDs", len(m.tasks), len(m.byPID))
	}
	m.end()
	if len(m.tasks) != 0 || len(m.byPID) != 0 || m.isLive() {
		t.Error("remembers after the Watch")
	}
}

func TestAListDoesNotUndoWhatEventsSaidSince(t *testing.T) {
	m := newMemory()
	m.begin()
	k := taskKey{"a", "web"}
	m.update(k, func(t *task) { t.pid, t.state = 42, workload.StateRunning })
	began := m.now()
	m.update(k, func(t *task) { t.end(42, 3, time.Now()) })
	m.listed(k, began, task{pid: 42, state: workload.StateRunning})
	if t1 := m.tasks[k]; t1.state != workload.StateExited || t1.exit == nil {
		t.Errorf("the list won: %+v", t1)
	}
	m.listed(k, m.now(), task{pid: 50, state: workload.StateRunning})
	if t1 := m.tasks[k]; t1.state != workload.StateRunning || t1.exit != nil || t1.pid != 50 {
		t.Errorf("a later list did not: %+v", t1)
	}
}

func TestAnImageHolds(t *testing.T) {
	at := func(s int) time.Time { return time.Unix(int64(s), 0) }
	for _, tc := range []struct {
		name                   string
		updated, read, created int
		live, want             bool
	}{
		{"looked at after the creation", 10, 30, 20, false, true},
		{"looked at before it, without a watch", 10, 15, 20, false, false},
		{"looked at before it, with a watch", 10, 15, 20, true, true},
		{"renamed since", 25, 30, 20, true, false},
		{"renamed since, without a watch", 25, 30, 20, false, false},
	} {
		i := image{digest: "sha256:x", updated: at(tc.updated), read: at(tc.read)}
		if got := i.holds(at(tc.created), tc.live); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestValidIDIsContainerds(t *testing.T) {
	for _, id := range []string{"a", "web-1", "a.b_c", "4f3a", strings.Repeat("a", 76)} {
		if !validID(id) {
			t.Errorf("%q is refused", id)
		}
	}
	for _, id := range []string{"", "-a", "a-", "a--b", "a..b", ".", "..", "a/b", "a b", "é", "a\x00", strings.Repeat("a", 77), "a\n"} {
		if validID(id) {
			t.Errorf("%q is taken", id)
		}
	}
}

func TestNewRefusesWhatCannotBe(t *testing.T) {
	for _, o := range []Options{{Address: "relative"}, {Namespaces: []string{"a/b"}}, {Namespaces: []string{""}}} {
		if _, err := New(o); err == nil {
			t.Errorf("%+v is taken", o)
		}
	}
}

func FuzzHandle(f *testing.F) {
	topics := []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete", "/tasks/oom", "/containers/create", "/containers/update", "/images/update"}
	names := []string{"TaskCreate", "TaskStart", "TaskExit", "TaskDelete", "TaskOOM", "ContainerCreate", "ContainerUpdate", "services.images.v1.ImageUpdate"}
	f.Add(byte(0), "default", []byte{0x0a, 3, 'w', 'e', 'b', 0x30, 42})
	c, err := New(Options{})
	if err != nil {
		f.Fatal(err)
	}
	c.memory.begin()
	f.Fuzz(func(t *testing.T, which byte, namespace string, data []byte) {
		w := &watcher{c: c, owner: true, fn: func(h collectors.Hint) {
			if h.Kind == collectors.HintImages { // of no container
				if h.ID != (workload.ContainerID{}) || h.Layer != nil {
					t.Errorf("%+v", h)
				}
				return
			}
			if !validID(h.ID.ID) || h.Layer != nil && h.Layer.Run != nil && h.Layer.Run.Init.PID > workload.MaxPID {
				t.Errorf("%+v", h)
			}
		}}
		i := int(which) % len(topics)
		w.handle(&types.Envelope{Namespace: namespace, Topic: topics[i], Event: &anypb.Any{TypeUrl: "containerd." + map[bool]string{true: "events."}[i < 7] + names[i], Value: data}})
	})
}
