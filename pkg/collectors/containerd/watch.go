// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"fmt"

	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"

	"github.com/pidigree/pidigree/pkg/collectors"
)

// topics are what Watch subscribes to. Exec'd processes' own topics, content
// and snapshots are many and not asked for.
const topics = `^/(containers/(create|update|delete)|tasks/(create|start|oom|paused|resumed|exit|delete)|images/(create|update|delete))$`

// Watch listens to the events of the followed namespaces until ctx ends or the
// server goes. One Watch at a time keeps what it hears for Lookup; a second one
// gives hints all the same.
func (c *Collector) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	n, err := c.connect()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.events.Subscribe(ctx, &eventsapi.SubscribeRequest{Filters: c.filters()})
	if err != nil {
		return translate("subscribe", err)
	}
	w := &watcher{c: c, fn: fn}
	if w.owner = c.memory.begin(); w.owner {
		c.images.clear()
		done := make(chan struct{})
		go func() { defer close(done); c.followImages(ctx, n) }()
		defer func() {
			cancel()
			<-done
			c.memory.end()
		}()
	}
	for {
		ev, err := stream.Recv()
		if err != nil {
			return watchError(ctx, err)
		}
		w.handle(ev)
	}
}

// watchError: the end of a stream, however it came, means to begin again.
func watchError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("events: %w: %w", collectors.ErrUnavailable, err)
}

// filters are or-ed by containerd, each being an and.
func (c *Collector) filters() []string {
	topic := fmt.Sprintf("topic~=%q", topics)
	if len(c.opts.Namespaces) == 0 {
		return []string{topic}
	}
	var list []string
	for _, ns := range c.opts.Namespaces {
		list = append(list, fmt.Sprintf("namespace==%s,%s", ns, topic))
	}
	return list
}

// watcher is one running Watch.
type watcher struct {
	c  *Collector
	fn func(collectors.Hint)
	// owner keeps the memory.
	owner bool
}

// handle takes one event. What cannot be decoded is passed over: events are hints.
func (w *watcher) handle(ev *types.Envelope) {
	if ev == nil || ev.Event == nil || !validID(ev.Namespace) || !w.c.follows(ev.Namespace) {
		return
	}
	if h, ok := w.hint(ev); ok {
		if h.Layer != nil {
			collectors.Bound(h.Layer)
		}
		w.fn(h)
	}
}
