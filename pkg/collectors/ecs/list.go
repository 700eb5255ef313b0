// SPDX-License-Identifier: Apache-2.0

package ecs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/internal/refusal"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// instance is who answers.
type instance struct {
	// where is the base of its questions: of the introspection, or the endpoint of our own container.
	where   string
	version string
	// arn is the container instance's, and cluster the name of its cluster, where it says them.
	arn, cluster string
	// own: it is the metadata endpoint of our own container. One that tells of all
	// tasks of the instance has all set.
	own, all bool
}

// list is what the agent said once. It is not changed after it was made.
type list struct {
	began time.Time
	agent *instance
	tasks []*task
	byARN map[string]*task
	// containers are those that were made, by their engine's ids.
	containers map[string]*workload.Container
	// refused says why tasks were not taken.
	refused []error
}

// task is one task of a list.
type task struct {
	*workload.Task
	// version changes when one of its containers is another one, or another run.
	version string
	// whole: there is no more to ask for.
	whole bool
}

// maxTasks bounds what is kept of a list. An instance runs some hundred at most.
const maxTasks = 4096

var (
	// errNoList means that the answer is JSON of something else.
	errNoList = errors.New("the answer is no list of tasks: is this an ECS agent?")
	errTwice  = errors.New("there twice")
)

// fetch asks for all tasks there are. Whom is asked again where agent is nil.
func (c *Collector) fetch(ctx context.Context, agent *instance) (*list, error) {
	if agent == nil {
		var err error
		if agent, err = c.find(ctx); err != nil {
			return nil, err
		}
	}
	l := &list{agent: agent, byARN: map[string]*task{}, containers: map[string]*workload.Container{}}
	if agent.own && !agent.all {
		return l, c.ownTask(ctx, l)
	}
	question := agent.where + "/v1/tasks"
	if agent.own {
		question = agent.where + "/tasks"
	}
	err := c.get(ctx, question, func(r io.Reader) error { return l.read(r) })
	if err != nil {
		return nil, err
	}
	return l, nil
}

// find looks for who answers: the introspection, or where there is none, our own endpoint.
func (c *Collector) find(ctx context.Context) (*instance, error) {
	a := &instance{where: strings.TrimSuffix(c.opts.Address, "/")}
	var meta struct{ Cluster, ContainerInstanceArn, Version string }
	err := c.get(ctx, a.where+"/v1/metadata", func(r io.Reader) error {
		return json.NewDecoder(r).Decode(&meta)
	})
	if own := c.ownEndpoint(); err != nil && !c.configured && own != "" {
		return c.findOwn(ctx, own)
	}
	switch {
	case err != nil && !c.configured && errors.Is(err, syscall.ECONNREFUSED) && c.latest() == nil:
		return nil, fmt.Errorf("%w: nobody listens at %s, and there is no task metadata endpoint", collectors.ErrNotPresent, a.where)
	case err != nil:
		return nil, err
	case meta.Cluster == "" && meta.Version == "" && meta.ContainerInstanceArn == "":
		return nil, fmt.Errorf("%s: %w", a.where, &refusal.Error{Err: errors.New("the answer has none of what an ECS agent says of itself")})
	}
	a.version, a.cluster = version(meta.Version), clusterName(meta.Cluster)
	a.arn = meta.ContainerInstanceArn // none until the agent has registered
	return a, nil
}

// version takes the number out of "Amazon ECS Agent - v1.105.1 (*a8b3e7d3)".
func version(text string) string {
	if _, v, ok := strings.Cut(text, " - v"); ok {
		text = v
	}
	text, _, _ = strings.Cut(text, " ")
	return text
}

// ownEndpoint is the metadata endpoint of the container that we run in, empty if in none of ECS's.
func (c *Collector) ownEndpoint() string {
	for _, v := range variables {
		if at := strings.TrimSuffix(c.opts.Getenv(v), "/"); strings.HasPrefix(at, "http://") {
			return at
		}
	}
	return ""
}

// findOwn sees whether our own endpoint tells of all tasks, as it does to daemons,
// or of our own alone.
func (c *Collector) findOwn(ctx context.Context, own string) (*instance, error) {
	a := &instance{where: own, own: true}
	err := c.get(ctx, own+"/tasks", func(r io.Reader) error { return (&list{agent: a}).read(r) })
	switch {
	case err == nil:
		a.all = true
	case !isAnswer(err):
		return nil, err
	}
	return a, nil
}

// isAnswer: the agent has said no, and will the next time.
func isAnswer(err error) bool {
	var r *refusal.Error
	return errors.As(err, &r) && (r.Code == 0 || r.Code >= 400 && r.Code < 500 && r.Code != http.StatusTooManyRequests)
}

// ownTask makes a list of the task that we are in.
func (c *Collector) ownTask(ctx context.Context, l *list) error {
	var in taskJSON
	err := c.get(ctx, l.agent.where+c.taskPath(), func(r io.Reader) (err error) {
		in, err = readTask(r)
		return err
	})
	if err != nil {
		return err
	}
	l.add(in)
	if len(l.tasks) == 0 {
		return fmt.Errorf("%s: %w", l.agent.where, &refusal.Error{Err: l.whyRefused()})
	}
	return nil
}

func (c *Collector) taskPath() string {
	if c.opts.Tags {
		return "/taskWithTags"
	}
	return "/task"
}

// read reads a list of tasks, one at a time.
func (l *list) read(r io.Reader) error {
	dec := json.NewDecoder(r)
	if err := expect(dec, '{'); err != nil {
		return err
	}
	found := false
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return wrong(err)
		}
		if key == "Tasks" {
			found = true
			err = l.items(dec)
		} else {
			err = dec.Decode(new(json.RawMessage))
		}
		if err != nil {
			return wrong(err)
		}
	}
	if err := expect(dec, '}'); err != nil {
		return err
	}
	if !found {
		return errNoList
	}
	return nil
}

// expect takes one token. One that is another is not what we asked for.
func expect(dec *json.Decoder, want json.Delim) error {
	switch got, err := dec.Token(); {
	case err != nil:
		return wrong(err)
	case got != want:
		return errNoList
	}
	return nil
}

// wrong says in a few words what is the matter with an answer.
func wrong(err error) error {
	switch {
	case errors.Is(err, boundjson.ErrTooLarge):
		return fmt.Errorf("the tasks: over the budget: %w", err)
	case errors.Is(err, io.EOF):
		return io.ErrUnexpectedEOF
	}
	return fmt.Errorf("the tasks: %w", err)
}

func (l *list) items(dec *json.Decoder) error {
	open, err := dec.Token()
	if err != nil || open == nil { // null: no tasks
		return err
	}
	if open != json.Delim('[') {
		return errNoList
	}
	for dec.More() {
		in, err := decodeTask(dec)
		if err != nil {
			return err
		}
		l.add(in)
	}
	return expect(dec, ']')
}

// decodeTask takes one task. A field of another type than it should be is left
// out, and hides neither the rest nor other tasks.
func decodeTask(dec *json.Decoder) (in taskJSON, err error) {
	var typed *json.UnmarshalTypeError
	if err = dec.Decode(&in); errors.As(err, &typed) {
		in.cut, _, _ = strings.Cut(typed.Field, ".")
		in.cut = fields[in.cut]
		err = nil
	}
	return in, err
}

// readTask reads an answer that is one task.
func readTask(r io.Reader) (taskJSON, error) {
	in, err := decodeTask(json.NewDecoder(r))
	if err != nil {
		return in, wrong(err)
	}
	return in, nil
}

// add takes a task into the list, unless it is none or somebody else's.
func (l *list) add(in taskJSON) {
	t := in.task()
	t.Instance = l.agent.arn
	if err := l.accept(t); err != nil {
		if len(l.refused) < maxTasks {
			l.refused = append(l.refused, fmt.Errorf("task %.100q: %w", t.ARN, err))
		}
		return
	}
	of := &task{Task: t, version: in.version(), whole: l.agent.own}
	collectors.BoundTask(t)
	if l.byARN == nil {
		return // nobody wants more than to know that it is a list
	}
	l.tasks = append(l.tasks, of)
	l.byARN[t.ARN] = of
	if over(t) {
		return // how its containers ended is their engine's to say
	}
	for i, tc := range t.Containers {
		if id := tc.ID.ID; id != "" && l.containers[id] == nil {
			l.containers[id] = in.Containers[i].layer(t, tc)
		}
	}
}

// accept fails for a task that is not of this instance.
func (l *list) accept(t *workload.Task) error {
	n, ok := workload.ParseTaskARN(t.ARN)
	switch {
	case !ok:
		return errors.New("not a task's ARN")
	case l.byARN[t.ARN] != nil:
		return errTwice
	case len(l.tasks) >= maxTasks:
		return fmt.Errorf("more than %d", maxTasks)
	case t.Cluster != "" && n.Cluster != "" && t.Cluster != n.Cluster:
		return fmt.Errorf("said to be of cluster %.80q", t.Cluster)
	case !l.agent.has(n):
		return fmt.Errorf("of another account or region than the container instance %.150q", l.agent.arn)
	}
	if t.Cluster == "" {
		t.Cluster = n.Cluster
		if t.Cluster == "" {
			t.Cluster = l.agent.cluster
		}
	}
	return nil
}

// has reports whether a task can be of this instance.
func (a *instance) has(n workload.TaskName) bool {
	prefix := "arn:" + n.Partition + ":ecs:" + n.Region + ":" + n.Account + ":"
	return a.arn == "" || strings.HasPrefix(a.arn, prefix)
}

// whyRefused gives one line for all tasks that were refused.
func (l *list) whyRefused() error {
	if len(l.refused) == 0 {
		return errNoList
	}
	return fmt.Errorf("%d refused, the first: %w", len(l.refused), l.refused[0])
}
