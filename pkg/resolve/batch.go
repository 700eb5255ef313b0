// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"context"

	"github.com/pidigree/pidigree/pkg/workload"
)

// ResolveAll answers questions in order, each as Resolve does, into results,
// which is as long. Whose the PIDs are that are asked about again and again is
// looked up for many of them at once.
func (r *Resolver) ResolveAll(ctx context.Context, questions []workload.Query, results []workload.Result) {
	for from := 0; from < len(questions); from += lookSize {
		to := min(from+lookSize, len(questions))
		r.part(ctx, questions[from:to], results[from:to])
	}
	r.settleAll(ctx, questions, results)
	var b Reading
	for i := range results {
		if questions[i].Detail || questions[i].Family {
			r.fill(ctx, &results[i], &b)
		}
	}
}

func (r *Resolver) part(ctx context.Context, questions []workload.Query, results []workload.Result) {
	var l look
	var at [lookSize]uint16 // the question of each process in l
	if !r.pidfs || len(questions) < 2 || !r.held.mu.TryRLock() {
		r.each(ctx, questions, results, nil)
		return
	}
	for i := range questions {
		if q := &questions[i]; plain(q) && l.add(r.held, q.PID) {
			at[l.n-1] = uint16(i)
		}
	}
	looked := l.poll()
	r.held.mu.RUnlock()
	var done [lookSize]bool
	for i := range l.n {
		if !looked || !l.alive(i) {
			continue
		}
		q, res := &questions[at[i]], &results[at[i]]
		done[at[i]] = true
		res.Query, res.Explanation = *q, nil
		if res.Answer, res.Err = r.Key(ctx, l.keys[i]); q.Explain && res.Err == nil {
			res.Explanation = r.explain(res.Answer)
		}
	}
	r.each(ctx, questions, results, &done)
}

// plain is a question about who has a PID now.
func plain(q *workload.Query) bool {
	return q.PID != 0 && q.PID <= workload.MaxPID && q.Wait <= 0 && q.At.IsZero()
}

// each answers those that are not done.
func (r *Resolver) each(ctx context.Context, questions []workload.Query, results []workload.Result, done *[lookSize]bool) {
	for i := range questions {
		if done == nil || !done[i] {
			results[i] = r.once(ctx, questions[i])
		}
	}
}
