// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"sync/atomic"
	"time"
)

const (
	// paceSlot is how far apart batches are given on average, of all watchers
	// together. One costs some 50 us with its way through gRPC, so that watchers,
	// however many, take about half of one CPU from who asks and who publishes.
	paceSlot = 100 * time.Microsecond
	// paceLeeway is how many batches may go at once: below it nobody waits, so a
	// few watchers are told each change as it comes.
	paceLeeway = 20 * paceSlot
)

// pace spreads the batches of all watchers over time. Where many watch, one
// change would have all of them run at once; and as what changes while one waits
// for its turn comes in the same batch, each is told as much in fewer batches.
// With n watchers a batch waits n slots at most: 0.1 s with a thousand of them.
type pace struct {
	born time.Time
	// next is the first slot that nobody has, since born.
	next atomic.Int64
}

// turn waits for a slot. False: ctx has ended.
func (p *pace) turn(ctx context.Context) bool {
	now := time.Since(p.born)
	if wait := p.reserve(now); wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
	return ctx.Err() == nil
}

// reserve takes the next slot and gives how long it is until then.
func (p *pace) reserve(now time.Duration) time.Duration {
	for {
		next := p.next.Load()
		at := max(time.Duration(next), now)
		if !p.next.CompareAndSwap(next, int64(at+paceSlot)) {
			continue
		}
		if wait := at - now; wait >= paceLeeway {
			return wait
		}
		return 0
	}
}
