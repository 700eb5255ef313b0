// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"strings"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// decode gives the event of an envelope if it is of the type that its topic promises.
func decode[T any, M interface {
	*T
	proto.Message
}](ev *types.Envelope) (M, bool) {
	m := M(new(T))
	if !strings.HasSuffix(ev.Event.TypeUrl, string(m.ProtoReflect().Descriptor().FullName())) {
		return nil, false
	}
	return m, proto.Unmarshal(ev.Event.Value, m) == nil
}

// hint turns an event into a hint; false where it has none.
func (w *watcher) hint(ev *types.Envelope) (collectors.Hint, bool) {
	switch kind, _, _ := strings.Cut(strings.TrimPrefix(ev.Topic, "/"), "/"); kind {
	case "containers":
		return w.containerHint(ev)
	case "tasks":
		return w.taskHint(ev)
	case "images":
		w.imageEvent(ev)
		return collectors.Hint{Kind: collectors.HintImages}, true
	}
	return collectors.Hint{}, false
}

func (w *watcher) containerHint(ev *types.Envelope) (collectors.Hint, bool) {
	switch ev.Topic {
	case "/containers/create":
		if m, ok := decode[events.ContainerCreate](ev); ok && validID(m.ID) {
			l := w.layer(ev.Namespace, m.ID)
			l.Image = runtimespec.ImageRef(m.Image)
			return collectors.Hint{Kind: collectors.HintCreated, ID: l.ID, Layer: l}, true
		}
	case "/containers/update":
		if m, ok := decode[events.ContainerUpdate](ev); ok && validID(m.ID) {
			l := w.layer(ev.Namespace, m.ID)
			l.Image, l.Labels = runtimespec.ImageRef(m.Image), m.Labels
			return collectors.Hint{Kind: collectors.HintChanged, ID: l.ID, Layer: l}, true
		}
	case "/containers/delete":
		if m, ok := decode[events.ContainerDelete](ev); ok && validID(m.ID) {
			w.forget(taskKey{ev.Namespace, m.ID})
			return collectors.Hint{Kind: collectors.HintDeleted, ID: w.c.idOf(ev.Namespace, m.ID)}, true
		}
	}
	return collectors.Hint{}, false
}

// layer says of a container what every event tells.
func (w *watcher) layer(namespace, id string) *workload.Container {
	l := &workload.Container{ID: w.c.idOf(namespace, id), Runtime: runtimeName}
	switch {
	case namespace == namespaceDocker:
		l.Runtime = "docker"
	case namespace != namespaceKubernetes && !isHex64(id):
		l.Name = id
	}
	return l
}

func (w *watcher) taskHint(ev *types.Envelope) (collectors.Hint, bool) {
	switch ev.Topic {
	case "/tasks/create":
		if m, ok := decode[events.TaskCreate](ev); ok {
			return w.task(ev, collectors.HintCreated, m.ContainerID, func(t *task) {
				*t = task{pid: pidOf(m.Pid), state: workload.StateCreated, bundle: m.Bundle}
			})
		}
	case "/tasks/start":
		if m, ok := decode[events.TaskStart](ev); ok {
			return w.task(ev, collectors.HintStarted, m.ContainerID, func(t *task) { t.start(pidOf(m.Pid), stamp(ev.Timestamp)) })
		}
	case "/tasks/oom":
		if m, ok := decode[events.TaskOOM](ev); ok {
			return w.task(ev, collectors.HintChanged, m.ContainerID, (*task).killed)
		}
	case "/tasks/paused":
		if m, ok := decode[events.TaskPaused](ev); ok {
			return w.task(ev, collectors.HintChanged, m.ContainerID, func(t *task) { t.state = workload.StatePaused })
		}
	case "/tasks/resumed":
		if m, ok := decode[events.TaskResumed](ev); ok {
			return w.task(ev, collectors.HintChanged, m.ContainerID, func(t *task) { t.state = workload.StateRunning })
		}
	case "/tasks/exit", "/tasks/delete":
		return w.exitHint(ev)
	}
	return collectors.Hint{}, false
}

// exitHint: an exit, or a delete where the exit was not heard of. Those of an
// exec'd process carry its own id and are not the container's.
func (w *watcher) exitHint(ev *types.Envelope) (collectors.Hint, bool) {
	if m, ok := decode[events.TaskExit](ev); ok && m.ID == m.ContainerID {
		return w.task(ev, collectors.HintExited, m.ContainerID, func(t *task) {
			t.end(pidOf(m.Pid), m.ExitStatus, stamp(m.ExitedAt))
		})
	}
	if m, ok := decode[events.TaskDelete](ev); ok && (m.ID == "" || m.ID == m.ContainerID) {
		return w.task(ev, collectors.HintExited, m.ContainerID, func(t *task) {
			if t.exit == nil {
				t.end(pidOf(m.Pid), m.ExitStatus, stamp(m.ExitedAt))
			}
		})
	}
	return collectors.Hint{}, false
}

// task applies an event to what is remembered of a task, and says how the task is now.
func (w *watcher) task(ev *types.Envelope, kind collectors.HintKind, id string, change func(*task)) (collectors.Hint, bool) {
	if !validID(id) {
		return collectors.Hint{}, false
	}
	l := w.layer(ev.Namespace, id)
	var t task
	if w.owner {
		t = w.c.memory.update(taskKey{ev.Namespace, id}, change)
	} else {
		change(&t)
	}
	t.fill(l)
	return collectors.Hint{Kind: kind, ID: l.ID, Layer: l}, true
}

func (t *task) start(pid workload.PID, at time.Time) {
	if t.pid != pid { // the create was not heard of
		*t = task{pid: pid, bundle: t.bundle}
	}
	if t.exit == nil { // a short task's exit may come first
		t.state = workload.StateRunning
	}
	t.started = at
}

// end records an exit, of this run and no other.
func (t *task) end(pid workload.PID, status uint32, at time.Time) {
	if t.pid != pid {
		*t = task{pid: pid, bundle: t.bundle, oom: t.oom}
	}
	t.state, t.finished = workload.StateExited, at
	t.exit = &workload.Exit{Known: true, Code: int32(status)}
	if t.oom {
		t.killed()
	}
}

// killed notes that the out-of-memory killer chose the init, or another of the task's
// processes: the event does not say which, nor whether it comes before the exit. An
// exit code does not tell 137 from SIGKILL, so the signal is said only with it.
func (t *task) killed() {
	t.oom = true
	if t.exit == nil {
		return
	}
	x := *t.exit // others may read the one that was given away
	if x.OOM = true; x.Code == 128+9 {
		x.Signal = 9
	}
	t.exit = &x
}

func (w *watcher) forget(k taskKey) {
	if w.owner {
		w.c.memory.forget(k)
	}
}

// imageEvent has an image looked at again.
func (w *watcher) imageEvent(ev *types.Envelope) {
	if !w.owner {
		return
	}
	name := ""
	if m, ok := decode[events.ImageCreate](ev); ok {
		name = m.Name
	} else if m, ok := decode[events.ImageUpdate](ev); ok {
		name = m.Name
	} else if m, ok := decode[events.ImageDelete](ev); ok {
		name = m.Name
	}
	if name != "" {
		w.c.images.invalidate(imageKey{ev.Namespace, name})
	}
}

func stamp(t *timestamppb.Timestamp) time.Time {
	if !t.IsValid() {
		return time.Time{}
	}
	return t.AsTime()
}
