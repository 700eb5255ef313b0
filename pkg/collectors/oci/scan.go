// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// fewStates is how many states that no index knows a Locate reads on its own.
const fewStates = 8

// scan is one look at all states that the Watch's index did not know.
type scan struct {
	begun time.Time
	idx   *index
	err   error // why some could not be read: whose they are is not known
}

// scans are shared by those who locate at the same time: an agent that starts
// beside a thousand containers asks about each of them, and each question alone
// would read a thousand files.
type scans struct {
	turn    chan struct{} // full while somebody scans
	waiting atomic.Int64
	made    atomic.Uint64
	last    *scan // of whoever has the turn; kept while somebody waits
}

func newScans() scans { return scans{turn: make(chan struct{}, 1)} }

// unknown gives the states that the index does not know, no more than one over most.
func (c *Collector) unknown(ctx context.Context, idx *index, most int) (places []place) {
	for _, r := range c.roots() {
		if r.bundles || ctx.Err() != nil {
			continue
		}
		list, _ := subdirs(r.path)
		for _, d := range list {
			if !validID(d.name) || idx.knows(r.path, d) {
				continue
			}
			if places = append(places, place{root: r, id: d.name}); len(places) > most {
				return places
			}
		}
	}
	return places
}

// scanned gives a scan that began after the call did, so that it misses nothing
// that was there then.
func (c *Collector) scanned(ctx context.Context) (*scan, error) {
	asked := time.Now()
	c.scans.waiting.Add(1)
	select {
	case c.scans.turn <- struct{}{}:
	case <-ctx.Done():
		c.scans.waiting.Add(-1)
		return nil, ctx.Err()
	}
	defer func() { <-c.scans.turn }()
	s := c.scans.last
	if s == nil || !s.begun.After(asked) {
		s = c.scan()
	}
	c.scans.last = s
	if c.scans.waiting.Add(-1) == 0 {
		c.scans.last = nil
	}
	return s, nil
}

// scan reads. It is not ended by the one who asks, whose time may be over before:
// the others who wait would begin anew, and none would ever be done.
func (c *Collector) scan() *scan {
	c.scans.made.Add(1)
	s := &scan{begun: time.Now(), idx: newIndex()}
	unified := c.hierarchies(false).unified
	places := c.unknown(context.Background(), c.index.Load(), maxScan)
	if len(places) > maxScan {
		places = places[:maxScan]
		s.err = fmt.Errorf("more than %d states: %w", maxScan, collectors.ErrUnavailable)
	}
	for _, p := range places {
		r, err := c.read(p.root, p.id)
		switch {
		case err == nil:
			s.idx.put(r, unified)
		case !errors.Is(err, errUntrusted) && !missing(err):
			s.err = errors.Join(s.err, err)
		}
	}
	return s
}

// placesFor gives the states worth reading: those that the index names and those
// that it does not know yet, or of many those that a scan has found to fit. The
// error says that there may be others.
func (c *Collector) placesFor(ctx context.Context, e workload.Evidence) ([]place, error) {
	// The index comes last: what it did not know before it may know by then.
	unknown := c.unknown(ctx, c.index.Load(), fewStates)
	if len(unknown) <= fewStates {
		return join(unknown, c.index.Load().lookup(e)), ctx.Err()
	}
	s, err := c.scanned(ctx)
	if err != nil {
		return nil, err
	}
	return join(s.idx.lookup(e), c.index.Load().lookup(e)), s.err
}

// join adds the places that are not there: one that was read twice would be two.
func join(places, more []place) []place {
	for _, p := range more {
		if !slices.Contains(places, p) {
			places = append(places, p)
		}
	}
	return places
}
