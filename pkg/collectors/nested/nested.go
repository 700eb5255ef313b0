// SPDX-License-Identifier: Apache-2.0

// Package nested makes a collector of an engine that runs in a container out of the
// one of its kind.
//
// What such an engine says is the word of a container: its ids get an instance of
// their own, what it says of paths is left out, for they are not the host's, and who
// serves its socket is told by the kernel, by the peer of each connection
// (SO_PEERPIDFD, Linux 6.5). What may be believed of it, its caller decides.
//
// A Collector may be used concurrently, as the one in it.
package nested

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Engine is what a collector must be able to do to be one of an engine in a container.
type Engine interface {
	collectors.Collector
	collectors.Lister
	collectors.Watcher
	collectors.Prober
}

// Collector is an engine in a container.
type Collector struct {
	engine   Engine
	server   *Server
	name     string
	instance string
}

var (
	_ Engine            = (*Collector)(nil)
	_ collectors.Nester = (*Collector)(nil)
	_ collectors.Nudger = (*Collector)(nil)
)

// New makes one of the engine at a socket, each of whose connections the server has
// to have seen (Server.Dialed).
func New(engine Engine, server *Server, socket string) *Collector {
	return &Collector{engine: engine, server: server, name: engine.Name() + "@" + socket, instance: workload.NestedInstance(socket)}
}

// Name implements collectors.Collector.
func (c *Collector) Name() string { return c.name }

// Nested implements collectors.Nester.
func (c *Collector) Nested() string { return c.instance }

// Nudge implements collectors.Nudger, where the engine does.
func (c *Collector) Nudge() {
	if n, ok := c.engine.(collectors.Nudger); ok {
		n.Nudge()
	}
}

// Locate implements collectors.Collector: the evidence is the host's, and what is in
// a container is known to the host by its init alone.
func (c *Collector) Locate(context.Context, workload.Evidence) (workload.ContainerID, error) {
	return workload.ContainerID{}, fmt.Errorf("%s: locate: %w", c.name, collectors.ErrNotMine)
}

// Lookup implements collectors.Collector.
func (c *Collector) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	if id.Nested() != c.instance {
		return nil, fmt.Errorf("%s: lookup: %w", c.name, collectors.ErrNotMine)
	}
	id.Instance = ""
	l, err := c.engine.Lookup(ctx, id)
	if err != nil {
		return nil, err
	}
	return c.own(l), nil
}

// List implements collectors.Lister. A list has no PIDs, so those that run are looked
// up one by one: nobody else on the host would tell them.
func (c *Collector) List(ctx context.Context) iter.Seq2[*workload.Container, error] {
	return func(yield func(*workload.Container, error) bool) {
		for l, err := range c.engine.List(ctx) {
			if err == nil && l.State == workload.StateRunning && l.Run == nil {
				id := l.ID
				id.Instance = ""
				switch more, lerr := c.engine.Lookup(ctx, id); {
				case lerr == nil:
					l = more
				case errors.Is(lerr, collectors.ErrNotFound):
					continue // removed meanwhile
				}
			}
			if err == nil {
				l = c.own(l)
			}
			if !yield(l, err) {
				return
			}
		}
	}
}

// Watch implements collectors.Watcher.
func (c *Collector) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	fn(collectors.Hint{Kind: collectors.HintServer, Server: c.server.Key()})
	return c.engine.Watch(ctx, func(h collectors.Hint) {
		if h.Pod != nil {
			return
		}
		if h.Kind != collectors.HintAlive {
			h.ID.Instance = c.instance
		}
		if h.Layer != nil {
			h.Layer = c.own(h.Layer)
		}
		fn(h)
	})
}

// Probe implements collectors.Prober. Whoever serves the socket from here on is the
// engine, until the next one.
func (c *Collector) Probe(ctx context.Context) (collectors.Report, error) {
	c.server.Forget()
	r, err := c.engine.Probe(ctx)
	if err == nil {
		r.Detail = fmt.Sprintf("in the container of process %d; no files", c.server.Key().PID)
	}
	return r, err
}

// nameLabel is the kubelet's. On the host the CRI gives a name by it; who asks
// containerd in a container asks nobody else.
const nameLabel = "io.kubernetes.container.name"

// own makes a description one of the engine's own instance, without what would mean
// something else on the host.
func (c *Collector) own(l *workload.Container) *workload.Container {
	o := *l // its parts stay as they are
	o.ID.Instance = c.instance
	o.Aliases, o.Bundle, o.Mounts, o.Pod = nil, "", nil, nil
	o.Name = cmp.Or(o.Name, o.Labels[nameLabel])
	return &o
}
