// SPDX-License-Identifier: Apache-2.0

//go:build pidigree_lose_events

package agent

import (
	"context"
	"time"

	"github.com/pidigree/pidigree/pkg/kernel"
)

// faulty gives a source of which every event is lost: tests build an agent with
// this tag, to see that its answers are the same, only later.
func faulty(s source) source { return loser{s} }

type loser struct{ source }

// Run loses every event and says so when a Tracer would: each second.
func (l loser) Run(ctx context.Context, fn func(kernel.Event)) error {
	var lost uint64
	said := time.Now()
	return l.source.Run(ctx, func(e kernel.Event) {
		if e.Type != kernel.Lost {
			lost++
		} else {
			lost += e.Count
		}
		if time.Since(said) >= kernel.RepairInterval {
			fn(kernel.Event{Type: kernel.Lost, Time: e.Time, Count: lost})
			lost, said = 0, time.Now()
		}
	})
}
