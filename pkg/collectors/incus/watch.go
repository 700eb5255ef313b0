// SPDX-License-Identifier: Apache-2.0

package incus

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/internal/cgroupdir"
	"github.com/pidigree/pidigree/internal/dirwatch"
	"github.com/pidigree/pidigree/internal/lxcmonitor"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// lookEvery is how often all are looked at although nothing was heard.
	lookEvery = 10 * time.Second
	// askEvery is how often the server is asked whether anything else has changed: the
	// settings of a container. It is the only call of a Watch.
	askEvery = 30 * time.Second
	// askFor bounds such a call.
	askFor = 10 * time.Second
	// startEvery is how often while a container starts, startTries how many times.
	startEvery = 50 * time.Millisecond
	startTries = 200
	// calm is the least time between two looks.
	calm = 20 * time.Millisecond
)

// known is what a Watch knows of one container.
type known struct {
	init   workload.ProcessKey
	frozen bool
	tries  int // how often its init was looked for in vain while it starts
}

// watch is the state of one Watch.
type watch struct {
	c    *Collector
	fn   func(collectors.Hint)
	seen map[key]*known
	// first: nothing was looked at before, so that a container is there and not new.
	first    bool
	starting bool // the monitor or the init of a container is to come
	// asked is when the server was last asked, said what it said then.
	asked time.Time
	said  map[key]*workload.Container
}

// Watch hints at every container that runs, and then at each that is made, starts, is
// frozen, ends or is removed. It hears of that by the cgroups and the directories that are
// made and removed, which inotify tells, and looks at intervals besides; of other settings
// it hears by asking for them. It ends where the server does not answer.
func (c *Collector) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	n, err := dirwatch.New()
	if err != nil {
		fn(collectors.Hint{Err: fmt.Errorf("%s: watch: %w; a start is heard of from the kernel alone", c.name, err)})
	}
	defer n.Close()
	for _, top := range cgroupdir.Mounts(c.opts.CgroupRoot) {
		if n.Add(top) == nil {
			break // liblxc makes its cgroups in all of them
		}
	}
	w := &watch{c: c, fn: fn, seen: map[key]*known{}, first: true}
	return n.Each(ctx, calm, func() (time.Duration, error) {
		_ = n.Add(c.path) // it may come later
		if err := w.look(ctx); err != nil {
			return 0, fmt.Errorf("%s: watch: %w", c.name, err)
		}
		if err := w.ask(ctx); err != nil {
			return 0, fmt.Errorf("%s: watch: %w", c.name, err)
		}
		fn(collectors.Hint{Kind: collectors.HintAlive})
		if w.starting {
			return startEvery, nil
		}
		return beat.Until(lookEvery), nil
	})
}

// look looks at every container and hints at what is different.
func (w *watch) look(ctx context.Context) error {
	w.starting = false
	keys, err := w.c.keys()
	if err != nil && !errors.Is(err, collectors.ErrNotPresent) {
		return err
	}
	here := map[key]bool{}
	for _, k := range keys {
		if err := ctx.Err(); err != nil {
			return err
		}
		here[k] = true
		r, err := w.c.find(k)
		if err != nil {
			w.starting = true // it is looked at again soon
			continue
		}
		w.one(k, r)
	}
	for k := range w.seen {
		if !here[k] {
			delete(w.seen, k)
			w.fn(collectors.Hint{Kind: collectors.HintDeleted, ID: w.c.id(k)})
		}
	}
	w.first = false
	return nil
}

func (w *watch) one(k key, r lxcmonitor.Running) {
	id := w.c.id(k)
	o := w.seen[k]
	if o == nil {
		o = &known{}
		w.seen[k] = o
		if r.Init.IsZero() && !w.first {
			w.fn(collectors.Hint{Kind: collectors.HintCreated, ID: id})
		}
	}
	if r.Init.IsZero() && r.Begun {
		w.starting = w.starting || o.tries < startTries
		o.tries++
	}
	switch {
	case o.init != r.Init:
		if !o.init.IsZero() {
			w.fn(collectors.Hint{Kind: collectors.HintExited, ID: id, Layer: &workload.Container{ID: id, State: workload.StateExited}})
		}
		if *o = (known{init: r.Init, frozen: r.Frozen, tries: o.tries}); !r.Init.IsZero() {
			o.tries = 0
			w.fn(collectors.Hint{Kind: collectors.HintStarted, ID: id, Layer: w.c.layer(k, r)})
		}
	case o.frozen != r.Frozen && !r.Init.IsZero():
		o.frozen = r.Frozen
		w.fn(collectors.Hint{Kind: collectors.HintChanged, ID: id, Layer: w.c.layer(k, r)})
	}
}

// ask asks the server for what no file shows, and hints at what is different.
func (w *watch) ask(ctx context.Context) error {
	if time.Since(w.asked) < askEvery {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	all, err := w.c.all(limited)
	if err != nil {
		return err
	}
	w.asked = time.Now()
	w.answered(all)
	return nil
}

// answered compares what the server says with what it said before. Whether a container
// runs is seen sooner than it is said.
func (w *watch) answered(all []*instance) {
	said := make(map[key]*workload.Container, len(all))
	for _, i := range all {
		d := w.c.describe(i, lxcmonitor.Running{})
		d.State = ""
		said[i.key()] = d
		if was := w.said[i.key()]; was != nil && !reflect.DeepEqual(was, d) {
			w.fn(collectors.Hint{Kind: collectors.HintChanged, ID: d.ID})
		}
	}
	w.said = said
}
