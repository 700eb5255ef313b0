// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"strings"

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

// listNamespace lists in a stream, a message for each container. One whose
// record is too large for a message ends the stream: then the others are asked
// for without it.
func (c *Collector) listNamespace(ctx context.Context, n *conn, ns string, yield func(*workload.Container, error) bool) bool {
	tasks, err := c.listTasks(ctx, n, ns)
	if err != nil && !yield(nil, err) {
		return false
	}
	l := listing{c: c, n: n, ns: ns, tasks: tasks, seen: map[string]bool{}, yield: yield}
	err = l.stream(ctx, nil)
	if errors.Is(err, errTooLarge) {
		err = l.oneByOne(ctx)
	}
	if err != nil && !l.left {
		return yield(nil, fmt.Errorf("list containers of %s: %w", ns, err))
	}
	return !l.left
}

// listing is a list of one namespace under way.
type listing struct {
	c     *Collector
	n     *conn
	ns    string
	tasks map[string]task
	// seen are the containers that were handed out.
	seen map[string]bool
	// left is set once the caller wants no more.
	yield func(*workload.Container, error) bool
	left  bool
}

// stream lists all containers but those that are left out.
func (l *listing) stream(ctx context.Context, without []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream where the list is left early
	req := &containersapi.ListContainersRequest{}
	if len(without) > 0 {
		req.Filters = []string{"id!=" + strings.Join(without, ",id!=")} // a comma is an and
	}
	stream, err := l.n.containers.ListStream(within(ctx, l.ns), req)
	for err == nil {
		var m *containersapi.ListContainerMessage
		if m, err = stream.Recv(); err != nil || m.Container == nil || !validID(m.Container.ID) {
			continue
		}
		l.give(l.c.listed(ctx, l.n, record{namespace: l.ns, Container: m.Container}, l.tasks))
		if l.left {
			return nil
		}
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return translate("list", err)
}

// give hands a container out, once.
func (l *listing) give(out *workload.Container) {
	if l.left || l.seen[out.ID.ID] {
		return
	}
	l.seen[out.ID.ID] = true
	l.left = !l.yield(out, nil)
}

// maxMonsters bounds the containers that are left out of a second stream.
const maxMonsters = 64

// oneByOne asks for the containers that have a task, which are those that can
// have processes, each by itself, and lists the rest without those that are too
// large. One that is too large and has no task ends that second list, too.
func (l *listing) oneByOne(ctx context.Context) error {
	var monsters []string
	for _, id := range slices.Sorted(maps.Keys(l.tasks)) {
		if l.seen[id] {
			continue
		}
		r, err := l.c.getOrID(ctx, l.n, l.ns, id)
		if errors.Is(err, collectors.ErrNotFound) {
			continue // removed meanwhile
		}
		if err != nil {
			return err
		}
		if r.missing {
			monsters = append(monsters, id)
		}
		if l.give(l.c.listed(ctx, l.n, r, l.tasks)); l.left {
			return nil
		}
	}
	l.c.log.Warn("records are too large, containers known by id and task alone", "namespace", l.ns, "count", len(monsters))
	return l.stream(ctx, monsters[:min(len(monsters), maxMonsters)])
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
