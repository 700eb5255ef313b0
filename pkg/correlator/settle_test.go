// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pcgroup "github.com/pidigree/pidigree/pkg/cgroup"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// engine is a source with nothing but an API, which takes its time.
type engine struct {
	mu    sync.Mutex // guards all below
	takes time.Duration
	hangs bool
}

func (e *engine) set(takes time.Duration, hangs bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.takes, e.hangs = takes, hangs
}

func (e *engine) Name() string { return "engine" }

func (e *engine) Locate(context.Context, workload.Evidence) (workload.ContainerID, error) {
	return workload.ContainerID{}, collectors.ErrNotFound
}

func (e *engine) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	e.mu.Lock()
	takes, hangs := e.takes, e.hangs
	e.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(takes):
	}
	return &workload.Container{ID: id, Name: "name of " + id.ID}, nil
}

// noKernel says nothing.
type noKernel struct{}

func (noKernel) Run(ctx context.Context, _ func(kernel.Event)) error {
	<-ctx.Done()
	return ctx.Err()
}
func (noKernel) Snapshot(context.Context, func(kernel.Event)) error { return nil }
func (noKernel) Flush(context.Context) error                        { return nil }
func (noKernel) Process(workload.PID) (kernel.Process, error) {
	return kernel.Process{}, kernel.ErrGone
}

type noCgroups struct{}

func (noCgroups) Lineage(workload.CgroupID) (pcgroup.Lineage, error) { return nil, pcgroup.ErrGone }
func (noCgroups) Path(workload.CgroupID) (string, error)             { return "", pcgroup.ErrGone }
func (noCgroups) StripMount(string) (uint32, string, bool)           { return 0, "", false }
func (noCgroups) Lineages(ids []workload.CgroupID, _ func(workload.CgroupID, pcgroup.Lineage)) []workload.CgroupID {
	return ids
}
func (noCgroups) Refresh() error { return nil }

// settled runs a test in a bubble with a correlator of one engine. begin makes
// a container known, which the engine is asked about at once.
func settled(t *testing.T, test func(t *testing.T, c *Correlator, e *engine, begin func() workload.ContainerID)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := &engine{}
		c, err := New(Options{Store: store.New(store.Options{}), Source: noKernel{}, Cgroups: noCgroups{}, Collectors: []collectors.Collector{e}})
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		c.at = func() workload.KTime { return workload.KTime(time.Hour + time.Since(began)) }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if c.questions != 0 || len(c.settlers) != 0 {
				t.Errorf("%d questions about %d containers still wait", c.questions, len(c.settlers))
			}
		}()
		synctest.Wait()
		n := 0
		test(t, c, e, func() workload.ContainerID {
			n++
			id := workload.ContainerID{Runtime: "engine", ID: "c" + strconv.Itoa(n)}
			c.feed(evHint{hint: collectors.Hint{Kind: collectors.HintCreated, ID: id}})
			synctest.Wait() // the engine has been asked
			return id
		})
	})
}

// took is how long Settle waited, and whether anything came.
func took(t *testing.T, c *Correlator, id workload.ContainerID) (time.Duration, bool) {
	began := time.Now()
	came := c.Settle(t.Context(), id)
	return time.Since(began), came
}

func TestSettleWaitsForTheFirstAnswerThatAnEngineIsGiving(t *testing.T) {
	settled(t, func(t *testing.T, c *Correlator, e *engine, begin func() workload.ContainerID) {
		e.set(40*time.Millisecond, false)
		id := begin()
		if d, came := took(t, c, id); d != 40*time.Millisecond || !came {
			t.Errorf("it took %s, and %v came", d, came)
		}
		if ct, ok := c.opts.Store.Container(id); !ok || ct.Name != "name of c1" {
			t.Errorf("the store has %+v", ct)
		}
		if d, came := took(t, c, id); d != 0 || came {
			t.Errorf("nothing is under way, and it took %s (%v)", d, came)
		}
		if d, came := took(t, c, workload.ContainerID{ID: "nobody's"}); d != 0 || came {
			t.Errorf("an unknown container took %s (%v)", d, came)
		}
		if st := c.Stats(); st.Settled != 1 || st.Unsettled != 0 {
			t.Errorf("counted: %+v", st)
		}
	})
}

func TestSettleWaitsOnceForAnEngineThatHangs(t *testing.T) {
	settled(t, func(t *testing.T, c *Correlator, e *engine, begin func() workload.ContainerID) {
		e.set(0, true)
		id := begin()
		time.Sleep(100 * time.Millisecond)
		if d, came := took(t, c, id); d != SettleBound-100*time.Millisecond || came {
			t.Errorf("from 100 ms after the question to the engine on, it took %s (%v)", d, came)
		}
		if st := c.Stats(); st.Settled != 0 || st.Unsettled != 1 {
			t.Errorf("counted: %+v", st)
		}
		if d, _ := took(t, c, id); d != 0 {
			t.Errorf("the second time it took %s", d)
		}
		if d, _ := took(t, c, begin()); d != 0 {
			t.Errorf("it owes an answer, and another container took %s", d)
		}
		time.Sleep(3 * time.Second) // its calls have failed
		other := begin()
		if d, _ := took(t, c, other); d != 0 {
			t.Errorf("it failed, and a new container took %s", d)
		}
		e.set(10*time.Millisecond, false)
		time.Sleep(10 * time.Second) // it is asked again, and answers
		if d, came := took(t, c, begin()); d != 10*time.Millisecond || !came {
			t.Errorf("it is well again, and a new container took %s (%v)", d, came)
		}
	})
}

func TestSettleEndsWithItsQuestion(t *testing.T) {
	settled(t, func(t *testing.T, c *Correlator, e *engine, begin func() workload.ContainerID) {
		e.set(200*time.Millisecond, false)
		id := begin()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		defer cancel()
		began := time.Now()
		if c.Settle(ctx, id) || time.Since(began) != 5*time.Millisecond {
			t.Errorf("it took %s", time.Since(began))
		}
		if c.questions != 0 || len(c.settlers) != 0 {
			t.Errorf("%d questions about %d containers still wait", c.questions, len(c.settlers))
		}
	})
}

func TestSoManyQuestionsWaitAndNoMore(t *testing.T) {
	settled(t, func(t *testing.T, c *Correlator, e *engine, begin func() workload.ContainerID) {
		e.set(200*time.Millisecond, false)
		id := begin()
		var group sync.WaitGroup
		defer group.Wait()
		for range maxSettling {
			group.Go(func() {
				if !c.Settle(t.Context(), id) {
					t.Error("one of the first waited in vain")
				}
			})
		}
		synctest.Wait()
		if d, came := took(t, c, id); d != 0 || came {
			t.Errorf("one more took %s (%v)", d, came)
		}
	})
}
