// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Lookup implements collectors.Collector: one call to the API, with what the
// files say beneath. An inspect waits for the container's lock, which a start
// holds to its end, so it is asked only once the files say that the start is over.
func (c *Collector) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	if err := c.mine(id); err != nil {
		return nil, fmt.Errorf("docker: lookup: %w", err)
	}
	f, _ := c.readFiles(ctx, id.ID) // without them the API stands alone
	out, err := c.ask(ctx, id.ID, f)
	if err != nil {
		return nil, fmt.Errorf("docker: lookup %s: %w", id.ID, err)
	}
	return out, nil
}

func (c *Collector) ask(ctx context.Context, hex string, f *files) (*workload.Container, error) {
	if f != nil && f.huge {
		// A label of 64 MiB takes the engine seconds to send, each time.
		return c.fromFiles(f), nil
	}
	if f != nil && f.config.State.up() {
		return c.inspect(ctx, hex, f)
	}
	s, err := c.listOne(ctx, hex)
	if err != nil {
		return nil, err
	}
	if c.noFiles && stateOf(s.State) == workload.StateRunning { // nobody else tells its PID
		return c.inspect(ctx, hex, f)
	}
	return c.over(f, c.fromSummary(s)), nil
}

func (c *Collector) inspect(ctx context.Context, hex string, f *files) (*workload.Container, error) {
	r, err := c.client().ContainerInspect(ctx, hex)
	if err != nil {
		return nil, c.fail(err)
	}
	if r.ContainerJSONBase == nil || r.ID != hex {
		return nil, fmt.Errorf("%w: inspect answered for another container", collectors.ErrUnavailable)
	}
	return c.over(f, c.fromInspect(&r)), nil
}

// listOne lists one container by its whole id.
func (c *Collector) listOne(ctx context.Context, hex string) (*container.Summary, error) {
	list, err := c.client().ContainerList(ctx, container.ListOptions{All: true, Filters: filters.NewArgs(filters.Arg("id", hex))})
	if err != nil {
		return nil, c.fail(err)
	}
	for i := range list {
		if list[i].ID == hex {
			return &list[i], nil
		}
	}
	return nil, collectors.ErrNotFound
}

// List implements collectors.Lister: one call, with each container's files
// beneath. Where one container would make the list huge, or the list was over
// the budget, each is read by itself, from files.
func (c *Collector) List(ctx context.Context) iter.Seq2[*workload.Container, error] {
	return func(yield func(*workload.Container, error) bool) {
		if _, huge, _ := c.ids(); huge {
			c.listFiles(ctx, yield)
			return
		}
		list, err := c.client().ContainerList(ctx, container.ListOptions{All: true})
		if errors.Is(err, errTooLarge) {
			c.log.Warn("list is too large, reading files", "source", name)
			c.listFiles(ctx, yield)
			return
		}
		if err != nil {
			yield(nil, fmt.Errorf("docker: list: %w", c.fail(err)))
			return
		}
		for i := range list {
			if !isID(list[i].ID) {
				continue
			}
			f, _ := c.readFiles(ctx, list[i].ID)
			if !yield(c.over(f, c.fromSummary(&list[i])), nil) {
				return
			}
		}
	}
}

func (c *Collector) listFiles(ctx context.Context, yield func(*workload.Container, error) bool) {
	ids, _, err := c.ids()
	if err != nil {
		yield(nil, fmt.Errorf("docker: list: %w: %w", collectors.ErrUnavailable, err))
		return
	}
	for _, hex := range ids {
		f, err := c.readFiles(ctx, hex)
		switch {
		case errors.Is(err, collectors.ErrNotFound):
			continue // removed meanwhile
		case ctx.Err() != nil:
			yield(nil, fmt.Errorf("docker: list: %w: %w", collectors.ErrUnavailable, ctx.Err()))
			return
		case err != nil:
			// The text without the sentinel, which would mean that the whole source is down.
			if !yield(nil, errors.New("docker: list "+hex+": "+err.Error())) {
				return
			}
		case !yield(c.fromFiles(f), nil):
			return
		}
	}
}

// over lays what the API says over what the files said a moment before.
func (c *Collector) over(f *files, api *workload.Container) *workload.Container {
	if f == nil {
		return api
	}
	file := c.fromFiles(f)
	api.Name = cmp.Or(api.Name, file.Name)
	// What the user asked for is in the files; a list may give what it is called now.
	api.Image.Name, api.Image.Tag = cmp.Or(file.Image.Name, api.Image.Name), cmp.Or(file.Image.Tag, api.Image.Tag)
	api.Image.Digest = cmp.Or(api.Image.Digest, file.Image.Digest)
	api.Image.ID = cmp.Or(api.Image.ID, file.Image.ID)
	api.Hostname, api.User = cmp.Or(api.Hostname, file.Hostname), cmp.Or(api.User, file.User)
	if !file.Created.IsZero() {
		api.Created = file.Created // to the nanosecond
	}
	if api.Labels == nil {
		api.Labels = file.Labels
	}
	if api.Env == nil {
		api.Env = file.Env
	}
	if len(api.Mounts) == 0 {
		api.Mounts = file.Mounts
	}
	if len(api.Networks) == 0 {
		api.Networks = file.Networks
	}
	if len(api.Ports) == 0 {
		api.Ports = file.Ports
	}
	api.Security, api.Limits = orElse(api.Security, file.Security), orElse(api.Limits, file.Limits)
	overState(file, api)
	api.Truncated = append(slices.Clone(api.Truncated), file.Truncated...)
	return finish(api)
}

// overState takes the files' times and exit as far as both mean the same life.
func overState(file, api *workload.Container) {
	if api.State == workload.StateUnknown {
		api.State = file.State
	}
	if api.State != file.State {
		return
	}
	if api.Started.IsZero() {
		api.Started = file.Started
	}
	if api.Finished.IsZero() {
		api.Finished = file.Finished
	}
	api.Exit = orElse(api.Exit, file.Exit)
	api.Health = cmp.Or(api.Health, file.Health)
}

func orElse[T any](a, b *T) *T {
	if a != nil {
		return a
	}
	return b
}

// finish brings a description within the budgets and into one order.
func finish(c *workload.Container) *workload.Container {
	slices.SortFunc(c.Mounts, func(a, b workload.Mount) int { return cmp.Compare(a.Destination, b.Destination) })
	slices.SortFunc(c.Ports, func(a, b workload.Port) int {
		return cmp.Or(cmp.Compare(a.Container, b.Container), cmp.Compare(a.Protocol, b.Protocol),
			cmp.Compare(a.HostIP, b.HostIP), cmp.Compare(a.HostPort, b.HostPort))
	})
	if c.State != workload.StateExited {
		// The engine keeps the end of the last life; it is not this one's.
		c.Exit, c.Finished = nil, time.Time{}
	}
	slices.Sort(c.Truncated)
	c.Truncated = slices.Compact(c.Truncated)
	c.Task = collectors.TaskOf(c.Labels)
	collectors.Bound(c)
	return c
}
