// SPDX-License-Identifier: Apache-2.0

package lxc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/internal/cgroupdir"
	"github.com/pidigree/pidigree/internal/dirwatch"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// lookEvery is how often all are looked at although nothing was heard.
	lookEvery = 10 * time.Second
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
	tries  int    // how often its init was looked for in vain
	bad    string // the complaint about its configuration that was given
}

// watch is the state of one Watch.
type watch struct {
	c    *Collector
	fn   func(collectors.Hint)
	n    *dirwatch.Watcher
	seen map[workload.ContainerID]*known
	// starting: the monitor or the init of a container is to come.
	starting bool
}

// Watch hints at every container that runs, and then at each that starts or ends. It
// hears of that by the cgroups that LXC makes and removes, which inotify tells, and
// looks at intervals besides. What is wrong with a configuration is said once, as the
// error of a HintAlive.
func (c *Collector) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	n, err := dirwatch.New()
	if err != nil {
		fn(collectors.Hint{Err: fmt.Errorf("lxc: watch: %w; a start is heard of from the kernel alone", err)})
	}
	defer n.Close()
	for _, top := range cgroupdir.Mounts(c.opts.CgroupRoot) {
		if n.Add(top) == nil {
			break // LXC makes its cgroups in all of them
		}
	}
	w := &watch{c: c, fn: fn, n: n, seen: map[workload.ContainerID]*known{}}
	return n.Each(ctx, calm, func() (time.Duration, error) {
		for _, path := range c.opts.Paths {
			_ = n.Add(path) // it may come later
		}
		if err := w.look(ctx); err != nil {
			return 0, fmt.Errorf("lxc: watch: %w", err)
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
	here := map[workload.ContainerID]bool{}
	err := w.c.each(ctx, nil, func(f *found, err error) bool {
		here[f.id] = true
		w.one(f, err)
		return true
	})
	if err != nil && !errors.Is(err, collectors.ErrNotPresent) {
		return err
	}
	for id := range w.seen {
		if !here[id] {
			w.ended(id)
			delete(w.seen, id)
		}
	}
	return err
}

func (w *watch) one(f *found, err error) {
	k := w.seen[f.id]
	if k == nil {
		k = &known{}
		w.seen[f.id] = k
	}
	if errors.Is(err, collectors.ErrUnavailable) || err == nil && f.Init.IsZero() || err != nil && f.Begun {
		w.starting = w.starting || k.tries < startTries
		k.tries++
	}
	switch {
	case err != nil && isBad(err):
		if said := err.Error(); said != k.bad {
			k.bad = said
			w.fn(collectors.Hint{Err: fmt.Errorf("container %s: %w", f.id, err)})
		}
		w.ended(f.id)
		return
	case err != nil && !errors.Is(err, collectors.ErrNotFound):
		return
	}
	k.bad = ""
	if k.init == f.Init && err == nil {
		if k.frozen != f.Frozen {
			k.frozen = f.Frozen
			w.fn(collectors.Hint{Kind: collectors.HintChanged, ID: f.id, Layer: f.describe()})
		}
		return
	}
	if !k.init.IsZero() && k.init != f.Init {
		w.ended(f.id)
	}
	if err == nil && !f.Init.IsZero() {
		k.init, k.frozen, k.tries = f.Init, f.Frozen, 0
		w.fn(collectors.Hint{Kind: collectors.HintStarted, ID: f.id, Layer: f.describe()})
	}
}

// ended hints at the end of a container that ran: nothing is known of one that is stopped.
func (w *watch) ended(id workload.ContainerID) {
	k := w.seen[id]
	if k.init.IsZero() {
		return
	}
	k.init, k.frozen, k.tries = workload.ProcessKey{}, false, 0
	w.fn(collectors.Hint{Kind: collectors.HintDeleted, ID: id})
}
