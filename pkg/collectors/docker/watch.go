// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// overlap is how far a window reaches back into the one before: an event is
	// stamped before it is put where a window finds it.
	overlap = time.Second
	// minSpacing is the least time between two windows, however often nudged.
	minSpacing = 100 * time.Millisecond
	// maxEvents bounds one window. The engine keeps 256.
	maxEvents = 4096
)

// kinds says what each event means; others are not asked for.
var kinds = map[events.Action]collectors.HintKind{
	events.ActionCreate:       collectors.HintCreated,
	events.ActionStart:        collectors.HintStarted,
	events.ActionRename:       collectors.HintChanged,
	events.ActionUpdate:       collectors.HintChanged,
	events.ActionPause:        collectors.HintChanged,
	events.ActionUnPause:      collectors.HintChanged,
	events.ActionOOM:          collectors.HintChanged,
	events.ActionHealthStatus: collectors.HintChanged,
	events.ActionDie:          collectors.HintExited,
	events.ActionDestroy:      collectors.HintDeleted,
}

// imageActions are the events after which the images, or their names, are others.
// commit is a container's: of an image without a name there is no other.
var imageActions = []events.Action{
	events.ActionPull, events.ActionTag, events.ActionUnTag, events.ActionDelete, events.ActionLoad, events.ActionImport, events.ActionCommit,
}

// Nudge implements collectors.Nudger: the next window is asked for now.
func (c *Collector) Nudge() {
	select {
	case c.nudged <- struct{}{}:
	default:
	}
}

// Watch implements collectors.Watcher, by windows of the engine's events. It
// ends with the first window that fails: the caller lists, and begins again.
//
// Its windows go over one connection, for a host where nothing happens would
// otherwise pay most for making one each second. The connection is the Watch's
// own and ends with it, so no other call can meet one from before a restart.
func (c *Collector) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	transport := c.transport()
	transport.DisableKeepAlives = false
	defer transport.CloseIdleConnections()
	api, err := newAPI(c.socket, transport, c.maxReply)
	if err != nil {
		return fmt.Errorf("docker: watch: %w", err)
	}
	w := window{c: c, api: api, since: time.Now(), seen: map[eventKey]bool{}}
	for {
		if err := w.next(ctx, fn); err != nil {
			return fmt.Errorf("docker: watch: %w", err)
		}
		if err := c.untilDue(ctx); err != nil {
			return fmt.Errorf("docker: watch: %w", err)
		}
	}
}

// untilDue waits until the next window is due: when everything else is, or after
// a nudge, but in either case not at once after the last.
func (c *Collector) untilDue(ctx context.Context) error {
	spacing := min(minSpacing, c.interval/2)
	ended := time.Now()
	wait := beat.Until(c.interval)
	if wait < spacing {
		wait += c.interval
	}
	due := time.NewTimer(wait)
	defer due.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-due.C:
		return nil
	case <-c.nudged:
	}
	due.Reset(spacing - time.Since(ended))
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-due.C:
		return nil
	}
}

// window walks through the engine's events without a gap. Each window begins
// overlap before the end of the last, and what was seen twice is given once.
type window struct {
	c     *Collector
	api   *client.Client
	since time.Time
	seen  map[eventKey]bool
}

// eventKey names one event.
type eventKey struct {
	at     int64
	action events.Action
	id     string
}

// next asks for one window and hands out what is new in it.
func (w *window) next(ctx context.Context, fn func(collectors.Hint)) error {
	ctx, cancel := context.WithTimeout(ctx, w.c.timeout)
	defer cancel()
	until := time.Now()
	if until.Before(w.since) {
		w.since = until // the clock was set back
	}
	messages, errs := w.api.Events(ctx, events.ListOptions{
		Since: stamp(w.since.Add(-overlap)), Until: stamp(until), Filters: eventFilter(),
	})
	now := map[eventKey]bool{}
	for n := 0; ; n++ {
		select {
		case m := <-messages:
			if n < maxEvents {
				w.one(ctx, m, now, fn)
			}
		case err := <-errs:
			if !errors.Is(err, io.EOF) {
				return w.c.fail(err)
			}
			w.since, w.seen = until, now
			fn(collectors.Hint{Kind: collectors.HintAlive})
			return nil
		}
	}
}

func (w *window) one(ctx context.Context, m events.Message, now map[eventKey]bool, fn func(collectors.Hint)) {
	key := eventKey{m.TimeNano, m.Action, m.Actor.ID}
	now[key] = true
	if w.seen[key] {
		return
	}
	if slices.Contains(imageActions, m.Action) {
		fn(collectors.Hint{Kind: collectors.HintImages})
		return
	}
	if m.Type != events.ContainerEventType || !isID(m.Actor.ID) {
		return
	}
	// health_status comes with its outcome: "health_status: healthy".
	action, _, _ := strings.Cut(string(m.Action), ":")
	if kind, ok := kinds[events.Action(action)]; ok {
		fn(collectors.Hint{Kind: kind, ID: w.c.id(m.Actor.ID), Layer: w.c.layer(ctx, kind, m)})
	}
}

// layer says what is known of an event's container at no cost to the engine:
// what its files say now, else the name and image of the event itself.
func (c *Collector) layer(ctx context.Context, kind collectors.HintKind, m events.Message) *workload.Container {
	if kind == collectors.HintDeleted {
		return nil
	}
	f, err := c.readFiles(ctx, m.Actor.ID)
	if err == nil {
		out := c.fromFiles(f)
		if kind == collectors.HintExited && f.config.State.Running && !f.config.State.StartedAt.After(time.Unix(0, m.TimeNano)) {
			// Not written yet. Its exit code is not taken from the event, where
			// a label may stand in its place.
			out.State = workload.StateExited
		}
		return out
	}
	if errors.Is(err, collectors.ErrNotFound) {
		return nil
	}
	out := c.base(m.Actor.ID)
	out.Name = trimName(m.Actor.Attributes["name"])
	if image := m.Actor.Attributes["image"]; image != "" {
		out.Image.Name, out.Image.Tag, out.Image.Digest = splitImage(image)
	}
	return finish(out)
}

func eventFilter() filters.Args {
	args := filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)), filters.Arg("type", string(events.ImageEventType)))
	for action := range kinds {
		args.Add("event", string(action))
	}
	for _, action := range imageActions {
		args.Add("event", string(action))
	}
	return args
}

// stamp writes a time as the API takes it, to the nanosecond.
func stamp(t time.Time) string { return fmt.Sprintf("%d.%09d", t.Unix(), t.Nanosecond()) }
