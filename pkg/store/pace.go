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
	// paceChange is how far apart, for each of its changes, batches are given to those
	// who have fallen behind: they read hundreds at a time.
	paceChange = 10 * time.Microsecond
	paceBehind = 16 // changes in a batch
	// paceFew watchers are never held back by what they have read.
	paceFew = 8
)

// pace spreads the batches of all watchers over time. Where many watch, one
// change would have all of them run at once; and as what changes while one waits
// for its turn comes in the same batch, each is told as much in fewer batches.
// With n watchers a batch waits n slots at most: 0.1 s with a thousand of them.
//
// A thousand who have fallen behind, and all read again at once, catch up in slots
// of their own, one after the other, and so delay nobody who has not.
type pace struct {
	born time.Time
	// next is the first slot that nobody has, since born; nextBehind that of those
	// who catch up.
	next, nextBehind atomic.Int64
}

// turn waits for a slot. Given is how many changes the watcher has been given last,
// 0 where only few watch. False: ctx has ended.
func (p *pace) turn(ctx context.Context, given int) bool {
	now := time.Since(p.born)
	wait := p.reserve(&p.next, now, paceSlot)
	if given > paceBehind {
		wait = max(wait, p.reserve(&p.nextBehind, now, time.Duration(given)*paceChange))
	}
	if wait > 0 {
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

// reserve takes the next slot, of some length, and gives how long it is until then.
func (p *pace) reserve(free *atomic.Int64, now, length time.Duration) time.Duration {
	for {
		next := free.Load()
		at := max(time.Duration(next), now)
		if !free.CompareAndSwap(next, int64(at+length)) {
			continue
		}
		if wait := at - now; wait >= paceLeeway {
			return wait
		}
		return 0
	}
}
