// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"context"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// young is how long after a container began its engine may still be giving its
	// first answer. It bounds how often anybody looks, not how long anybody waits.
	young = workload.KTime(time.Second)
	// settleTime bounds what all the questions of a call together wait for engines
	// that they have not asked to wait for.
	settleTime = 250 * time.Millisecond
)

// owed reports whether an answer may be about to become more complete: the
// container has just begun, and there are sources that have not said all. Of a
// container that is known completely it costs one comparison.
func owed(q *workload.Query, res *workload.Result) bool {
	if len(res.Answer.Missing()) == 0 || res.Err != nil || q.Wait > 0 || !q.At.IsZero() {
		return false
	}
	a := &res.Answer
	run := a.Container().Run
	return a.Status == workload.StatusContainer && !a.Exited && run != nil && bootTime() < max(run.Started, workload.KTime(run.Init.Start))+young
}

// settle waits for what engines are saying about one container.
func (r *Resolver) settle(ctx context.Context, id workload.ContainerID) bool {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	return r.observer.Settle(ctx, id)
}

// settleAll waits once for what engines are saying about the containers of many
// answers, and answers those again.
func (r *Resolver) settleAll(ctx context.Context, questions []workload.Query, results []workload.Result) {
	var again []int
	for i := range results {
		if owed(&questions[i], &results[i]) {
			again = append(again, i)
		}
	}
	if len(again) == 0 {
		return
	}
	bounded, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	came := false
	for _, i := range again {
		came = r.observer.Settle(bounded, results[i].Answer.Container().ID) || came
	}
	for _, i := range again {
		if came {
			results[i] = r.once(ctx, questions[i])
		}
	}
}
