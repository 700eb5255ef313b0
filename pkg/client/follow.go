// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// followPause is how long Follow waits before it first tries again, doubled with
	// each try up to followPauseMax. Half of it is chance: a thousand readers of one
	// agent that was restarted do not all come at once.
	followPause    = 50 * time.Millisecond
	followPauseMax = 5 * time.Second
)

// Follow is Watch for a reader that goes on: where the stream breaks, because the
// agent was restarted or there is none yet, it is opened again, with growing pauses,
// and goes on after the last change that was given. A gap that cannot be filled is
// said by a resync, as in Watch. It ends with ctx, with the caller, or with an error
// that no waiting mends, which it gives: ErrDenied, ErrUntrusted, a selector that is
// refused, an agent that is too old.
func (c *Client) Follow(ctx context.Context, sel workload.Selector) iter.Seq2[workload.Change, error] {
	return func(yield func(workload.Change, error) bool) { c.follow(ctx, sel, func(error) {}, yield) }
}

// follow tells broke of each error after which it tries again.
func (c *Client) follow(ctx context.Context, sel workload.Selector, broke func(error), yield func(workload.Change, error) bool) {
	pause, given := followPause, false
	for {
		if given && sel.From == 0 && !yield(workload.Change{Type: workload.ChangeResync}, nil) {
			return // a snapshot that was cut is begun anew
		}
		for ch, err := range c.Watch(ctx, sel) {
			if err != nil && ctx.Err() == nil {
				if !mendable(err) {
					yield(workload.Change{}, err)
					return
				}
				broke(err)
			}
			if err != nil {
				break
			}
			pause, given = followPause, true
			// A resync's revision is where its snapshot was begun, which what follows may
			// be older than: resumed from there, the snapshot would be missed.
			switch ch.Type {
			case workload.ChangeResync:
				sel.From = 0
			default:
				sel.From = ch.Revision
			}
			if !yield(ch, nil) {
				return
			}
		}
		t := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		pause = min(2*pause, followPauseMax)
	}
}

// mendable reports whether asking again may help.
func mendable(err error) bool {
	for _, hopeless := range []error{ErrDenied, ErrUntrusted, ErrTooOld, workload.ErrInvalid} {
		if errors.Is(err, hopeless) {
			return false
		}
	}
	return true
}
