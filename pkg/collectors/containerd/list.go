// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// List describes the containers of all namespaces, one at a time, with their
// tasks: two calls for each namespace.
func (c *Collector) List(ctx context.Context) iter.Seq2[*workload.Container, error] {
	return func(yield func(*workload.Container, error) bool) {
		n, err := c.connect()
		if err != nil {
			yield(nil, err)
			return
		}
		namespaces, err := c.namespaces(ctx, n)
		if err != nil {
			yield(nil, err)
			return
		}
		if len(namespaces) > maxNamespaces {
			if !yield(nil, fmt.Errorf("%d namespaces, listing %d", len(namespaces), maxNamespaces)) {
				return
			}
			namespaces = namespaces[:maxNamespaces]
		}
		for _, ns := range namespaces {
			if !c.listNamespace(ctx, n, ns, yield) {
				return
			}
		}
	}
}

func (c *Collector) listNamespace(ctx context.Context, n *conn, ns string, yield func(*workload.Container, error) bool) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream where the list is left early
	tasks, err := c.listTasks(ctx, n, ns)
	if err != nil && !yield(nil, err) {
		return false
	}
	stream, err := n.containers.ListStream(within(ctx, ns), &containersapi.ListContainersRequest{})
	if err != nil {
		return yield(nil, translate("list containers of "+ns, err))
	}
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return true
		}
		if err != nil {
			return yield(nil, translate("list containers of "+ns, err))
		}
		if m.Container == nil || !validID(m.Container.ID) {
			continue
		}
		if !yield(c.listed(ctx, n, record{ns, m.Container}, tasks), nil) {
			return false
		}
	}
}

// listed describes one container of a list. What the events know is newer than
// the list of tasks.
func (c *Collector) listed(ctx context.Context, n *conn, r record, tasks map[string]task) *workload.Container {
	out := c.fromRecord(r)
	if t, ok := tasks[r.ID]; ok {
		t.fill(out)
	}
	c.memory.fill(out)
	if out.Image.Name != "" && out.Image.Digest == "" && c.memory.isLive() {
		out.Image.Digest = c.digest(ctx, n, r) // no call for each container of a list
	}
	collectors.Bound(out)
	return out
}

// listTasks asks for the tasks of a namespace, by container; a running Watch remembers them.
func (c *Collector) listTasks(ctx context.Context, n *conn, ns string) (map[string]task, error) {
	began := c.memory.now()
	resp, err := n.tasks.List(within(ctx, ns), &tasksapi.ListTasksRequest{})
	if err != nil {
		return nil, translate("list tasks of "+ns, err)
	}
	tasks := make(map[string]task, len(resp.Tasks))
	for _, p := range resp.Tasks {
		// 1.6 gives the container as id; container_id came later and is empty there.
		id := p.ID
		if p.ContainerID != "" {
			id = p.ContainerID
		}
		if !validID(id) || p.ContainerID != "" && p.ID != "" && p.ID != p.ContainerID {
			continue
		}
		t := taskOf(p)
		tasks[id] = t
		c.memory.listed(taskKey{ns, id}, began, t)
	}
	return tasks, nil
}

func taskOf(p *tasktypes.Process) task {
	t := task{pid: pidOf(p.Pid)}
	switch p.Status {
	case tasktypes.Status_CREATED:
		t.state = workload.StateCreated
	case tasktypes.Status_RUNNING:
		t.state = workload.StateRunning
	case tasktypes.Status_PAUSED, tasktypes.Status_PAUSING:
		t.state = workload.StatePaused
	case tasktypes.Status_STOPPED:
		t.state = workload.StateExited
		t.exit = &workload.Exit{Known: true, Code: int32(p.ExitStatus)}
		if p.ExitedAt.IsValid() {
			t.finished = p.ExitedAt.AsTime()
		}
	}
	return t
}

func pidOf(pid uint32) workload.PID {
	if pid > uint32(workload.MaxPID) {
		return 0
	}
	return workload.PID(pid)
}
