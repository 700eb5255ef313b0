// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"context"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// begun puts this very process into a container that began so long ago, and
// about which docker has not said anything yet.
func begun(t *testing.T, s *store.Store, ago time.Duration) workload.ContainerID {
	t.Helper()
	key := keyOf(t, os.Getpid())
	id := workload.ContainerID{Runtime: "docker", ID: "c1"}
	at := bootTime() - workload.KTime(ago)
	s.Apply(
		store.Change{Container: &store.ContainerChange{ID: id, Source: "kernel", Layer: &workload.Container{
			Confidence: workload.Confirmed, State: workload.StateRunning, Missing: []string{"docker"},
			Run: &workload.Run{Init: workload.ProcessKey{PID: key.PID, Inode: key.Inode, Start: uint64(at)}, Registers: true, Started: at},
		}}},
		store.Change{Process: &workload.Process{Key: key, Status: workload.StatusContainer, Confidence: workload.Confirmed, Container: id}},
	)
	return id
}

// justNow is how long ago a container began that is young however long the test takes.
const justNow = -time.Hour

// describe is what an engine says at last; the others have nothing to add then.
func describe(s *store.Store, id workload.ContainerID, name string) {
	c, _ := s.Container(id)
	l := *c
	l.Missing, l.Sources, l.Name = nil, nil, ""
	s.Apply(
		store.Change{Container: &store.ContainerChange{ID: id, Source: "docker", Layer: &workload.Container{ID: id, Name: name}}},
		store.Change{Container: &store.ContainerChange{ID: id, Source: "kernel", Layer: &l}},
	)
}

// askers are those by which this process may be asked about.
func askers(t *testing.T, r *Resolver) map[string]func(q workload.Query) []workload.Result {
	pid, key := workload.PID(os.Getpid()), keyOf(t, os.Getpid())
	many := func(ctx context.Context, qs ...workload.Query) []workload.Result {
		results := make([]workload.Result, len(qs))
		r.ResolveAll(ctx, qs, results)
		return results
	}
	with := func(q, o workload.Query) workload.Query { o.Wait, o.At = q.Wait, q.At; return o }
	return map[string]func(q workload.Query) []workload.Result{
		"a PID": func(q workload.Query) []workload.Result {
			return []workload.Result{r.Resolve(t.Context(), with(q, workload.Query{PID: pid}))}
		},
		"a key": func(q workload.Query) []workload.Result {
			return []workload.Result{r.Resolve(t.Context(), with(q, workload.Query{Key: key}))}
		},
		"a container": func(q workload.Query) []workload.Result {
			return []workload.Result{r.Resolve(t.Context(), with(q, workload.Query{Container: "c1"}))}
		},
		"many": func(q workload.Query) []workload.Result {
			one, all := with(q, workload.Query{PID: pid}), []workload.Query(nil)
			all = append(slices.Repeat([]workload.Query{one}, lookSize+3), with(q, workload.Query{Key: key}))
			return many(t.Context(), all...)
		},
	}
}

func TestAContainerThatHasJustBegunIsAnsweredWithWhatItsEngineIsSaying(t *testing.T) {
	both(t, func(t *testing.T, procfs string) {
		for way := range askers(t, nil) {
			r, s, o := newResolver(t, procfs)
			id := begun(t, s, justNow)
			o.settle = func(_ context.Context, asked workload.ContainerID) bool {
				if c, _ := s.Container(id); asked != id || c.Name != "" { // it has been said
					return false
				}
				describe(s, id, "web")
				return true
			}
			for i, res := range askers(t, r)[way](workload.Query{}) {
				if c := res.Answer.Container(); res.Err != nil || c == nil || c.Name != "web" || len(c.Missing) != 0 {
					t.Fatalf("%s: answer %d: %+v, %v", way, i, c, res.Err)
				}
			}
		}
	})
}

func TestOnlyAnIncompleteAnswerAboutAYoungContainerWaits(t *testing.T) {
	day := workload.Query{At: time.Now().Add(-24 * time.Hour)}
	for name, c := range map[string]struct {
		prepare func(s *store.Store) // beyond a container of so many ms
		ago     time.Duration
		q       workload.Query
		want    bool
	}{
		"young":              {ago: justNow, want: true},
		"old":                {ago: 2 * time.Second},
		"about the past":     {ago: justNow, q: day},
		"says how long":      {ago: justNow, q: workload.Query{Wait: time.Millisecond}},
		"nothing is missing": {ago: justNow, prepare: func(s *store.Store) { describe(s, workload.ContainerID{Runtime: "docker", ID: "c1"}, "web") }},
		"it is the host's": {ago: justNow, prepare: func(s *store.Store) {
			s.Apply(store.Change{Process: &workload.Process{Key: keyOf(t, os.Getpid()), Status: workload.StatusHost}})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			r, s, o := newResolver(t, "/proc")
			waited := 0
			o.settle = func(context.Context, workload.ContainerID) bool { waited++; return false }
			begun(t, s, c.ago)
			if c.prepare != nil {
				c.prepare(s)
			}
			res := r.Resolve(t.Context(), workload.Query{PID: workload.PID(os.Getpid()), Wait: c.q.Wait, At: c.q.At})
			if (waited > 0) != c.want {
				t.Errorf("it waited %d times: %+v, %v", waited, res.Answer, res.Err)
			}
			if c.want && !slices.Equal(res.Answer.Missing(), []string{"docker"}) {
				t.Errorf("what has not come is missing: %v", res.Answer.Missing())
			}
		})
	}
}

func TestManyQuestionsWaitTogetherNotOneAfterTheOther(t *testing.T) {
	r, s, o := newResolver(t, "/proc")
	id := begun(t, s, justNow)
	c, _ := s.Container(id)
	c = c.Clone()
	results := make([]workload.Result, 100)
	for i := range results {
		results[i].Answer = workload.Answer{Status: workload.StatusContainer, Containers: []*workload.Container{c}}
	}
	synctest.Test(t, func(t *testing.T) {
		o.settle = func(ctx context.Context, _ workload.ContainerID) bool {
			<-ctx.Done()
			return false
		}
		c.Run.Started = bootTime() + 3600e9 // young, however long the test takes
		began := time.Now()
		r.settleAll(t.Context(), make([]workload.Query, len(results)), results)
		if d := time.Since(began); d != settleTime {
			t.Errorf("it took %s", d)
		}
	})
}

func TestACompleteAnswerCostsNoAllocation(t *testing.T) {
	r, s, o := newResolver(t, "/proc")
	id := begun(t, s, justNow)
	describe(s, id, "web")
	o.settle = func(context.Context, workload.ContainerID) bool { t.Error("it waited"); return false }
	q := workload.Query{Key: keyOf(t, os.Getpid())}
	var res workload.Result
	once := testing.AllocsPerRun(100, func() { _, _ = r.Key(t.Context(), q.Key) })
	if n := testing.AllocsPerRun(100, func() { res = r.Resolve(t.Context(), q) }); n > once || res.Answer.Container().Name != "web" {
		t.Errorf("%v allocations, without a look at what is missing %v: %+v", n, once, res.Answer)
	}
}
