// SPDX-License-Identifier: Apache-2.0

//go:build pidigree_lose_events

package agent

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pidigree/pidigree/pkg/kernel"
)

// faulty gives a source of which every event is lost: tests build an agent with
// this tag, to see that its answers are the same, only later.
func faulty(s source) source { return loser{s} }

type loser struct{ source }

// Run loses every event and says so when a Tracer would: each second, where
// there were any.
func (l loser) Run(ctx context.Context, fn func(kernel.Event)) error {
	var lost atomic.Uint64
	ctx, cancel := context.WithCancel(ctx)
	var saying sync.WaitGroup
	saying.Go(func() {
		tick := time.NewTicker(kernel.RepairInterval)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if n := lost.Swap(0); n > 0 {
				fn(kernel.Event{Type: kernel.Lost, Time: bootTime(), Count: n})
			}
		}
	})
	defer saying.Wait()
	defer cancel()
	return l.source.Run(ctx, func(e kernel.Event) { lost.Add(max(e.Count, 1)) })
}
