// SPDX-License-Identifier: Apache-2.0

package nspawn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/internal/dirwatch"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
)

const (
	// lookEvery is how often the directory is read although nothing was heard.
	lookEvery = 10 * time.Second
	// blindEvery is how often where the kernel gives no watch.
	blindEvery = time.Second
	// startEvery is how often while a machine starts, startTries how many times.
	startEvery = 50 * time.Millisecond
	startTries = 200
	// calm is the least time between two looks.
	calm = 10 * time.Millisecond
)

// known is what a Watch knows of one file.
type known struct {
	stamp safefile.Stamp
	// ours: it is a container of nspawn's, of which hints were given.
	ours    bool
	running bool
	frozen  bool
	ended   bool
	tries   int // how often its leader was looked for
	// bad is the complaint about the file that was given.
	bad string
}

// watch is the state of one Watch.
type watch struct {
	c    *Collector
	fn   func(collectors.Hint)
	seen map[string]*known
	// starting: a machine's leader is not where it will be.
	starting bool
}

// Watch hints at every machine that is there, and then at each change, by inotify.
// What is wrong with a file is said once for each version of it, as the error of a
// HintAlive.
func (c *Collector) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	n, err := dirwatch.New()
	pause := lookEvery
	if err == nil {
		err = n.Add(c.opts.Dir)
	}
	defer n.Close()
	if err != nil {
		pause = blindEvery
		fn(collectors.Hint{Err: fmt.Errorf("nspawn: watch: %w; read each second", err)})
	}
	w := &watch{c: c, fn: fn, seen: map[string]*known{}}
	return n.Each(ctx, calm, func() (time.Duration, error) {
		if err := w.look(ctx); err != nil {
			return 0, fmt.Errorf("nspawn: watch: %w", err)
		}
		fn(collectors.Hint{Kind: collectors.HintAlive})
		if w.starting {
			return startEvery, nil
		}
		return beat.Until(pause), nil
	})
}

// look reads the directory and hints at what is different.
func (w *watch) look(ctx context.Context) error {
	dir, err := w.c.open()
	if err != nil {
		for name := range w.seen {
			w.forget(name)
		}
		return err
	}
	defer unix.Close(dir)
	names, err := w.c.names()
	if names == nil && err != nil {
		return err
	}
	w.starting = false
	here := make(map[string]bool, len(names))
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		here[name] = true
		w.one(dir, name)
	}
	for name := range w.seen {
		if !here[name] {
			w.forget(name)
		}
	}
	return nil
}

// one looks at one machine.
func (w *watch) one(dir int, name string) {
	k := w.seen[name]
	stamp, err := safefile.Stat(dir, name, trust)
	if err == nil && k != nil && k.stamp == stamp && !k.ours {
		return // nonsense, or not ours, as before
	}
	var f *found
	if err == nil {
		f, err = w.c.look(dir, name)
	}
	switch {
	case missing(err):
		return // it is gone by the next look
	case k == nil:
		k = &known{}
		w.seen[name] = k
	}
	if err != nil {
		w.complain(name, k, stamp, err)
		return
	}
	changed := k.stamp != f.stamp || k.frozen != f.frozen
	k.stamp, k.frozen, k.bad = f.stamp, f.frozen, ""
	w.tell(k, f, changed)
}

// complain says once what is wrong with a file.
func (w *watch) complain(name string, k *known, stamp safefile.Stamp, err error) {
	if errors.Is(err, collectors.ErrUnavailable) {
		w.starting = w.starting || k.tries < startTries
		k.tries++
		return
	}
	if k.ours {
		w.fn(collectors.Hint{Kind: collectors.HintDeleted, ID: idOf(name)})
	}
	said := k.bad
	*k = known{stamp: stamp, bad: err.Error()}
	if said != k.bad && !errors.Is(err, errNotOurs) {
		w.fn(collectors.Hint{Err: fmt.Errorf("machine %s: %w", name, err)})
	}
}

// tell hints at what is new of a machine.
func (w *watch) tell(k *known, f *found, changed bool) {
	first := !k.ours
	k.ours = true
	id, running := idOf(f.name), !f.key.IsZero()
	switch {
	case running && (!k.running || changed):
		kind := collectors.HintStarted
		if k.running {
			kind = collectors.HintChanged
		}
		k.running, k.ended, k.tries = true, false, 0
		w.fn(collectors.Hint{Kind: kind, ID: id, Layer: f.describe()})
	case f.gone && !k.ended:
		k.running, k.ended = false, true
		w.fn(collectors.Hint{Kind: collectors.HintExited, ID: id, Layer: f.describe()})
	case !running && !f.gone:
		// Without a layer: who has nothing but files is not asked again after one.
		if first {
			w.fn(collectors.Hint{Kind: collectors.HintCreated, ID: id})
		}
		w.starting = w.starting || k.tries < startTries
		k.tries++
	}
}

func (w *watch) forget(name string) {
	if w.seen[name].ours {
		w.fn(collectors.Hint{Kind: collectors.HintDeleted, ID: idOf(name)})
	}
	delete(w.seen, name)
}
