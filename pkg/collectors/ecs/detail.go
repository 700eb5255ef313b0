// SPDX-License-Identifier: Apache-2.0

package ecs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/pidigree/pidigree/internal/refusal"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// variables name a container's metadata endpoint, the best first.
var variables = []string{"ECS_CONTAINER_METADATA_URI_V4", "ECS_CONTAINER_METADATA_URI"}

// maxEnviron bounds what is read of an environment. The ECS agent's variables come
// after the image's, which Docker takes in any number.
const maxEnviron = 1 << 20

// detail is what a task's endpoint said, or that it said nothing.
type detail struct {
	// task is nil where nothing was said yet.
	task *workload.Task
	// version is the task's when it was asked for, until when it is good for that.
	version string
	until   time.Time
	// pause is how long the last failure kept it from being asked again.
	pause time.Duration
	// path is the endpoint's.
	path string
	// busy: a call is under way.
	busy bool
}

// errNoEndpoint means that no container of a task names an endpoint that can be
// read, yet.
var errNoEndpoint = errors.New("no container names a metadata endpoint")

// whole is a task with all that is known of it, the caller's own.
func (c *Collector) whole(l *list, t *task) *workload.Task {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.wholeLocked(l, t)
}

func (c *Collector) wholeLocked(l *list, t *task) *workload.Task {
	d := c.details[t.ARN]
	if d == nil || d.task == nil || l.agent.own {
		return t.Clone()
	}
	return complete(t.Task, d.task)
}

// due gives the tasks of a list whose endpoints are to be asked now, which it marks
// as being asked, and how long it is until the next; 0 if there is none that waits
// for having failed.
func (c *Collector) due(l *list) (tasks []*task, next time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for arn, d := range c.details {
		if l.byARN[arn] == nil && !d.busy {
			delete(c.details, arn)
		}
	}
	for _, t := range l.tasks {
		if t.whole || len(t.Containers) == 0 || over(t.Task) {
			continue
		}
		d := c.details[t.ARN]
		if d == nil {
			d = &detail{}
			c.details[t.ARN] = d
		}
		switch wait := d.until.Sub(now); {
		case d.busy:
		case wait <= 0 || d.version != t.version:
			d.busy, d.version = true, t.version
			tasks = append(tasks, t)
		case d.pause > 0 && (next == 0 || wait < next):
			next = wait
		}
	}
	return tasks, next
}

// detail asks one task's endpoint and keeps what it says. It reports whether
// anything is new, and why not.
func (c *Collector) detail(ctx context.Context, t *task) (changed bool, err error) {
	c.mu.Lock()
	path := c.details[t.ARN].path
	err = c.shy.Closed()
	c.mu.Unlock()
	var got *workload.Task
	if err == nil {
		path, got, err = c.askTask(ctx, t, path)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.details[t.ARN]
	d.busy, d.path = false, path
	switch {
	case err == nil:
		d.until, d.pause = time.Now().Add(c.opts.CacheFor), 0
		changed, d.task = true, got
		c.shy = refusal.Gate{}
	case ctx.Err() != nil: // nobody waits for it any more
		d.until = time.Time{}
	case errors.Is(err, errNoEndpoint), transient(err):
		d.pause = min(max(2*d.pause, refusal.MinPause), refusal.MaxPause)
		d.until = time.Now().Add(d.pause)
	default: // the same for as long as if it had been told
		d.until, d.pause = time.Now().Add(c.opts.CacheFor), 0
	}
	if isStatus(err, http.StatusTooManyRequests) && c.shy.Closed() == nil {
		c.shy.After(err)
	}
	return changed, err
}

// transient reports whether an error may be gone in a moment.
func transient(err error) bool {
	if r, ok := errors.AsType[*refusal.Error](err); ok {
		return r.Code == http.StatusTooManyRequests || r.Code >= 500
	}
	return errors.Is(err, collectors.ErrUnavailable)
}

// askTask asks the endpoint at a path, or at one that a container of the task names.
func (c *Collector) askTask(ctx context.Context, t *task, path string) (string, *workload.Task, error) {
	if path != "" {
		got, err := c.askAt(ctx, t, path)
		if err == nil || transient(err) {
			return path, got, err
		}
	}
	err := error(errNoEndpoint)
	for _, tc := range t.Containers {
		at := c.endpoint(tc.ID)
		if at == "" || at == path {
			continue
		}
		var got *workload.Task
		if got, err = c.askAt(ctx, t, at); err == nil || transient(err) {
			return at, got, err
		}
	}
	return "", nil, err
}

// askAt asks for a task, by its path of v4 or v3.
func (c *Collector) askAt(ctx context.Context, t *task, path string) (*workload.Task, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.CallTimeout+time.Duration(float64(time.Second)*float64(c.opts.Burst)/c.opts.Rate))
	defer cancel()
	var in taskJSON
	where := strings.TrimSuffix(c.opts.Metadata, "/") + path + c.taskPath()
	err := c.get(ctx, where, func(r io.Reader) (err error) {
		in, err = readTask(r)
		return err
	})
	if err != nil {
		return nil, err
	}
	got := in.task()
	if err := isOf(t, got); err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	collectors.BoundTask(got)
	return got, nil
}

// isOf fails for an answer that is not about a task: who wrote the path may have
// meant another one's.
func isOf(t *task, got *workload.Task) error {
	if got.ARN != t.ARN || got.Cluster != "" && t.Cluster != "" && got.Cluster != t.Cluster {
		return fmt.Errorf("%w: %.150q of cluster %.80q", errOther, got.ARN, got.Cluster)
	}
	for _, a := range t.Containers {
		for _, b := range got.Containers {
			if a.ID.ID != "" && a.ID == b.ID {
				return nil
			}
		}
	}
	return fmt.Errorf("%w: it has none of its containers", errOther)
}

// endpoint reads the path of a container's endpoint from its environment; empty
// where there is none, or the container is not known yet.
func (c *Collector) endpoint(id workload.ContainerID) string {
	if id.ID == "" {
		return ""
	}
	pid, ok := c.opts.Init(id)
	if !ok || pid <= 0 {
		return ""
	}
	env, _, err := safefile.Head(filepath.Join(c.opts.Procfs, strconv.Itoa(int(pid)), "environ"), maxEnviron)
	if err != nil {
		return ""
	}
	return endpointOf(env)
}

// endpointOf takes the path out of an environment.
func endpointOf(env []byte) string {
	for _, name := range variables {
		for line := range bytes.SplitSeq(env, []byte{0}) {
			if value, ok := bytes.CutPrefix(line, []byte(name+"=")); ok {
				if path := endpointPath(string(value)); path != "" {
					return path
				}
			}
		}
	}
	return ""
}

// maxToken bounds the token of an endpoint's path; it is a UUID.
const maxToken = 64

// endpointPath takes http://HOST/v4/TOKEN, and gives /v4/TOKEN. The host is not
// what counts: a container could name any.
func endpointPath(uri string) string {
	rest, ok := strings.CutPrefix(strings.TrimSuffix(uri, "/"), "http://")
	_, rest, more := strings.Cut(rest, "/")
	version, token, two := strings.Cut(rest, "/")
	if !ok || !more || !two || version != "v3" && version != "v4" || token == "" || len(token) > maxToken ||
		strings.Trim(token, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-") != "" {
		return ""
	}
	return "/" + version + "/" + token
}
