// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"iter"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

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
func (b backend) Resolve(ctx context.Context, peer server.Peer, qs []workload.Query, out []workload.Result) {
	defer func() { b.a.sight.conceal(out) }()
	if !slices.ContainsFunc(qs, func(q workload.Query) bool { return q.Wait > 0 }) {
		b.now(ctx, peer, qs, out)
		return
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, waiters)
	for i, q := range qs {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			out[i] = b.one(ctx, peer, q)
		})
	}
	wg.Wait()
}

// batch is from how many questions another CPU is worth its wake-up. What a
// session asks at a time is less: its asker has the other CPU.
const batch = 512

// now answers what need not wait, on all CPUs where there is much of it.
func (b backend) now(ctx context.Context, peer server.Peer, qs []workload.Query, out []workload.Result) {
	n := max(batch, (len(qs)+runtime.GOMAXPROCS(0)-1)/runtime.GOMAXPROCS(0))
	var wg sync.WaitGroup
	for from := 0; from < len(qs); from += n {
		to := min(from+n, len(qs))
		if to == len(qs) {
			b.some(ctx, peer, qs[from:to], out[from:to])
		} else {
			wg.Go(func() { b.some(ctx, peer, qs[from:to], out[from:to]) })
		}
	}
	wg.Wait()
}

func (b backend) some(ctx context.Context, peer server.Peer, qs []workload.Query, out []workload.Result) {
	if b.a.mode == ModeCopy {
		for i, q := range qs {
			out[i] = b.one(ctx, peer, q)
		}
		return
	}
	if !slices.ContainsFunc(qs, func(q workload.Query) bool { return q.Self }) {
		b.a.resolver.ResolveAll(ctx, qs, out)
		return
	}
	if len(qs) == 1 {
		out[0] = b.one(ctx, peer, qs[0])
		return
	}
	asked := slices.Clone(qs)
	for i := range asked {
		asked[i] = about(peer, qs[i])
	}
	b.a.resolver.ResolveAll(ctx, asked, out)
	for i := range qs {
		answered(peer, qs[i], &out[i])
	}
}

func (b backend) one(ctx context.Context, peer server.Peer, q workload.Query) workload.Result {
	if q.Self && b.a.mode == ModeCopy {
		return workload.Result{Query: q, Err: fmt.Errorf("this agent is a copy of another one, and knows nothing of who asks it: %w", workload.ErrUnavailable)}
	}
	res := b.a.resolver.Resolve(ctx, about(peer, q))
	answered(peer, q, &res)
	return res
}

// about makes the asker's question about itself one about its process.
func about(peer server.Peer, q workload.Query) workload.Query {
	switch {
	case !q.Self || peer.PID == 0:
	case peer.Key.Inode != 0 || peer.Key.Start != 0:
		q.Self, q.Key = false, peer.Key
	default:
		q.Self, q.PID = false, peer.PID
	}
	return q
}

// answered puts the question back as it was asked.
func answered(peer server.Peer, q workload.Query, res *workload.Result) {
	res.Query = q
	if q.Self && peer.PID == 0 {
		*res = workload.Result{Query: q, Err: fmt.Errorf("the asker's PID cannot be seen from the agent's PID namespace: %w", workload.ErrUnavailable)}
	}
}

func (b backend) List(ctx context.Context, sel workload.Selector) iter.Seq[workload.Entity] {
	return b.a.List(ctx, sel)
}

func (b backend) Watch(ctx context.Context, sel workload.Selector) iter.Seq[[]workload.Change] {
	return b.a.Watch(ctx, sel)
}

func (b backend) Status(context.Context) workload.AgentStatus { return b.a.Status() }

// standingPatience is how long a peer that is not known yet is waited for: a
// container's first process may connect before its engine has spoken of it.
const standingPatience = time.Second

// standing says whether a peer is in a container that was granted nothing.
func (b backend) standing(p server.Peer) server.Standing {
	if b.a.mode == ModeCopy {
		return b.a.standingAtCopy(p)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*standingPatience)
	defer cancel()
	r := b.one(ctx, p, workload.Query{Self: true})
	if r.Err == nil && r.Answer.Status == workload.StatusUnknown && p.InNamespace() {
		r = b.one(ctx, p, workload.Query{Self: true, Wait: standingPatience})
	}
	// Who may ask, another pidigree does not say; who may not, it may.
	if p := r.Answer.Process; p != nil && p.Source == workload.SourceRemote {
		if r.Answer.Status == workload.StatusContainer {
			return server.Contained
		}
		r.Answer.Status = workload.StatusUnknown
	}
	switch {
	case r.Err != nil: // it has ended, or cannot be seen
		return server.Contained
	case r.Answer.Status == workload.StatusHost:
		return server.OfTheHost
	case r.Answer.Status == workload.StatusUnknown && p.InNamespace():
		return server.Unclear // a sandbox of the host's, or an agent that sees no engine
	case r.Answer.Status == workload.StatusContainer && r.Answer.Confidence == workload.Confirmed && b.mayAsk(ctx, r.Answer):
		return server.OfTheHost
	}
	return server.Contained
}

// mayAsk reports whether a container was granted everything, or is the agent's own.
func (b backend) mayAsk(ctx context.Context, a workload.Answer) bool {
	c := a.Container()
	if b.a.granted != nil && !workload.FromRemote(c.Sources) {
		pod := (*workload.Pod)(nil)
		if c.Pod != nil {
			if pod, _ = b.a.store.Pod(c.Pod.UID); pod != nil && workload.FromRemote(pod.Sources) {
				pod = nil
			}
		}
		if b.a.granted.Container(c, pod) {
			return true
		}
	}
	self, err := os.Readlink(b.a.opts.Procfs + "/self")
	if err != nil {
		return false
	}
	pid, err := strconv.Atoi(self)
	if err != nil {
		return false
	}
	own := b.a.resolver.Resolve(ctx, workload.Query{PID: workload.PID(pid)})
	return own.Err == nil && own.Answer.Status == workload.StatusContainer && own.Answer.Process != nil && own.Answer.Process.Source == "" && own.Answer.Container().ID == c.ID
}
