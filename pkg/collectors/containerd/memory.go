// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"maps"
	"sync"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// maxTasks bounds what is remembered.
const maxTasks = 1 << 16

// taskKey names a container of this containerd.
type taskKey struct{ namespace, id string }

// task is what events and lists said of one container's task, of its init alone.
type task struct {
	pid    workload.PID
	state  workload.State
	bundle string
	oom    bool
	exit   *workload.Exit
	// started and finished are containerd's clock.
	started, finished time.Time
	// seq is when it was last changed.
	seq uint64
}

// memory is what a running Watch, and a List beside it, learned of tasks. It is
// empty while none runs: then nothing says what became of a task.
type memory struct {
	mu    sync.Mutex // guards all below
	live  bool
	seq   uint64
	tasks map[taskKey]*task
	byPID map[workload.PID]taskKey // of living tasks
}

func newMemory() *memory {
	m := &memory{}
	m.clearLocked()
	return m
}

func (m *memory) clearLocked() {
	m.tasks = make(map[taskKey]*task)
	m.byPID = make(map[workload.PID]taskKey)
}

// begin says that a Watch runs from now; false if one does already.
func (m *memory) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live {
		return false
	}
	m.live = true
	m.clearLocked()
	return true
}

// end forgets everything: events are missed from now on.
func (m *memory) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.live = false
	m.clearLocked()
}

func (m *memory) isLive() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.live
}

// update changes a task and gives a copy of it.
func (m *memory) update(k taskKey, fn func(*task)) task {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seq++
	t := m.tasks[k]
	if t == nil {
		t = &task{}
		if m.live {
			m.makeRoomLocked()
			m.tasks[k] = t
		}
	}
	m.unindexLocked(k, t)
	fn(t)
	t.seq = m.seq
	if t.pid != 0 && t.state != workload.StateExited && m.tasks[k] == t {
		m.byPID[t.pid] = k
	}
	return *t
}

// makeRoomLocked drops any one task where there are too many.
func (m *memory) makeRoomLocked() {
	for k, t := range m.tasks {
		if len(m.tasks) < maxTasks {
			return
		}
		m.unindexLocked(k, t)
		delete(m.tasks, k)
	}
}

func (m *memory) unindexLocked(k taskKey, t *task) {
	if m.byPID[t.pid] == k {
		delete(m.byPID, t.pid)
	}
}

// forget is for a container that was deleted.
func (m *memory) forget(k taskKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.tasks[k]; t != nil {
		m.unindexLocked(k, t)
		delete(m.tasks, k)
	}
}

// now gives the number of changes so far, for listed.
func (m *memory) now() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.seq
}

// listed puts what a list said, unless an event after the list began knows better.
func (m *memory) listed(k taskKey, began uint64, said task) {
	m.mu.Lock()
	t := m.tasks[k]
	older := m.live && (t == nil || t.seq <= began)
	m.mu.Unlock()
	if !older {
		return
	}
	m.update(k, func(t *task) {
		if t.seq > began {
			return // an event came between
		}
		if t.pid != said.pid {
			*t = task{}
		}
		t.pid, t.state = said.pid, said.state
		if said.exit != nil && t.exit == nil {
			t.exit, t.finished = said.exit, said.finished
		}
	})
}

// fill adds what is remembered of the task to a description.
func (m *memory) fill(out *workload.Container) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.tasks[taskKey{out.ID.Namespace, out.ID.ID}]; t != nil {
		t.fill(out)
	}
}

// fill describes the task in fresh values, for a description is its reader's own.
func (t *task) fill(out *workload.Container) {
	out.State = t.state
	out.Bundle = t.bundle
	out.Started, out.Finished = t.started, t.finished
	if t.pid != 0 {
		out.Run = &workload.Run{Init: workload.ProcessKey{PID: t.pid}, Registers: t.exit == nil}
	}
	if t.exit != nil {
		e := *t.exit
		out.Exit = &e
		if out.Run != nil {
			r := *t.exit
			out.Run.Exit = &r
		}
	}
}

// byInit gives the container whose living task has this init.
func (m *memory) byInit(pid workload.PID) (taskKey, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.byPID[pid]
	return k, ok
}

// living gives the inits of all living tasks.
func (m *memory) living() map[workload.PID]taskKey {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.byPID)
}
