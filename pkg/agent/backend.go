// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"iter"
	"sync"

	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

// backend answers for the server.
type backend struct{ a *Agent }

var _ server.Backend = backend{}

// waiters bounds the questions of one call that wait at the same time.
const waiters = 64

// Resolve answers in order. Questions that may wait do so side by side: a
// deadline is each question's own.
func (b backend) Resolve(ctx context.Context, peer server.Peer, qs []workload.Query) []workload.Result {
	out := make([]workload.Result, len(qs))
	var wg sync.WaitGroup
	slots := make(chan struct{}, waiters)
	for i, q := range qs {
		if q.Wait <= 0 {
			out[i] = b.one(ctx, peer, q)
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			out[i] = b.one(ctx, peer, q)
		})
	}
	wg.Wait()
	return out
}

func (b backend) one(ctx context.Context, peer server.Peer, q workload.Query) workload.Result {
	if !q.Self {
		return b.a.resolver.Resolve(ctx, q)
	}
	if peer.PID == 0 {
		return workload.Result{Query: q, Err: fmt.Errorf("the asker's PID cannot be seen from the agent's PID namespace: %w", workload.ErrUnavailable)}
	}
	asked := q
	asked.Self = false
	if peer.Key.Inode != 0 || peer.Key.Start != 0 {
		asked.Key = peer.Key
	} else {
		asked.PID = peer.PID
	}
	res := b.a.resolver.Resolve(ctx, asked)
	res.Query = q
	return res
}

func (b backend) List(ctx context.Context, sel workload.Selector) iter.Seq[workload.Entity] {
	return b.a.List(ctx, sel)
}

func (b backend) Watch(ctx context.Context, sel workload.Selector) iter.Seq[[]workload.Change] {
	return b.a.Watch(ctx, sel)
}

func (b backend) Status(context.Context) workload.AgentStatus { return b.a.Status() }
