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
	"strconv"
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
		c.eachNamespace(ctx, func(err error) bool { return yield(nil, err) }, func(n *conn, ns string) bool {
			return c.listNamespace(ctx, n, ns, yield)
		})
	}
}

// eachNamespace lists in one namespace after the other, as long as list wants more. An
// error about all of them is given to failed, which says whether to go on.
func (c *Collector) eachNamespace(ctx context.Context, failed func(error) bool, list func(n *conn, ns string) bool) {
	n, err := c.connect()
	if err != nil {
		failed(err)
		return
	}
	namespaces, err := c.namespaces(ctx, n)
	if err != nil {
		failed(err)
		return
	}
	if len(namespaces) > maxNamespaces {
		if !failed(fmt.Errorf("%d namespaces, listing %d", len(namespaces), maxNamespaces)) {
			return
		}
		namespaces = namespaces[:maxNamespaces]
	}
	for _, ns := range namespaces {
		if !list(n, ns) {
			return
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
	err = l.stream(ctx, "")
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
	// seen are the containers that were handed out, monsters those among them
	// whose record is too large.
	seen     map[string]bool
	monsters []string
	// left is set once the caller wants no more.
	yield func(*workload.Container, error) bool
	left  bool
}

// stream lists all containers but the monsters, in the order of their ids; with
// a pattern, those alone whose ids match.
func (l *listing) stream(ctx context.Context, pattern string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream where the list is left early
	var filter []string
	if pattern != "" {
		filter = append(filter, "id~="+strconv.Quote(pattern))
	}
	for _, id := range l.monsters[:min(len(l.monsters), maxMonsters)] {
		filter = append(filter, "id!="+strconv.Quote(id))
	}
	req := &containersapi.ListContainersRequest{}
	if len(filter) > 0 {
		req.Filters = []string{strings.Join(filter, ",")} // a comma is an and
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

const (
	// maxMonsters bounds the containers that are left out of a stream.
	maxMonsters = 256
	// maxProbes bounds the streams of one list that look for them: to find one
	// takes six for each character of its id, and each has containerd read all
	// records, the large ones too (some 25 ms).
	maxProbes = 2048
)

// oneByOne asks for the containers that have a task, which are those that can
// have processes, each by itself, and lists the rest without those that are too
// large. One that is too large and has no task ends that list, too: then it is
// looked for, and the list goes on without it.
func (l *listing) oneByOne(ctx context.Context) error {
	for _, id := range slices.Sorted(maps.Keys(l.tasks)) {
		if l.seen[id] {
			continue
		}
		if err := l.one(ctx, id); err != nil || l.left {
			return err
		}
	}
	err := l.stream(ctx, "")
	for probes := 0; errors.Is(err, errTooLarge); {
		if len(l.monsters) >= maxMonsters || probes >= maxProbes {
			return fmt.Errorf("%d records and more are too large, what sorts behind them is left out: %w", len(l.monsters), err)
		}
		var id string
		if id, err = l.find(ctx, &probes); err == nil && id != "" {
			err = l.one(ctx, id)
		}
		if err != nil || l.left {
			return err
		}
		err = l.stream(ctx, "")
	}
	if err == nil && len(l.monsters) > 0 {
		l.c.log.Warn("records are too large, containers known by id and task alone", "namespace", l.ns, "count", len(l.monsters))
	}
	return err
}

// one hands out one container, with or without its record.
func (l *listing) one(ctx context.Context, id string) error {
	r, err := l.c.getOrID(ctx, l.n, l.ns, id)
	if errors.Is(err, collectors.ErrNotFound) {
		return nil // removed meanwhile
	}
	if err != nil {
		return err
	}
	if r.missing {
		l.monsters = append(l.monsters, id)
	}
	l.give(l.c.listed(ctx, l.n, r, l.tasks))
	return nil
}

// symbols are what an id goes on with, in the order of a list: first its end.
const symbols = "\x00-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"

// find gives the id of the first container that ends a stream, by halves: of
// those ids that begin alike, is it among these? What is listed on the way is
// handed out. It gives "" where there is none any more.
func (l *listing) find(ctx context.Context, probes *int) (string, error) {
	prefix := ""
	for len(prefix) <= maxID {
		among := symbols
		for len(among) > 1 {
			half := among[:len(among)/2]
			*probes++
			switch err := l.stream(ctx, startingWith(prefix, half)); {
			case l.left:
				return "", nil
			case err == nil:
				among = among[len(half):]
			case errors.Is(err, errTooLarge):
				among = half
			default:
				return "", err
			}
		}
		if among[0] == 0 {
			return prefix, nil
		}
		prefix += among
	}
	return "", nil // it went while it was looked for
}

// startingWith is a pattern for ids that go on after prefix with one of these
// symbols. Nothing in an id means anything in it but a dot.
func startingWith(prefix, symbols string) string {
	pattern := "^" + strings.ReplaceAll(prefix, ".", "[.]")
	rest, ends := strings.CutPrefix(symbols, "\x00")
	switch {
	case ends && rest == "":
		return pattern + "$"
	case ends:
		return pattern + "($|[" + rest + "])"
	}
	return pattern + "[" + rest + "]"
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
