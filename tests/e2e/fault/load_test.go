// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/agent"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// TestShortContainersAreAllKnown runs containers that report and end, several at
// once. None may be missed, and none be left. A flood of processes and cgroups
// that hides a start is TestNoStartIsHiddenByAFlood of tests/e2e.
func TestShortContainersAreAllKnown(t *testing.T) {
	for _, e := range []engine{startDocker(t), startContainerd(t)} {
		t.Run(e.String(), func(t *testing.T) {
			b := newBed(t, e, false)
			var all []*resident
			none := func() error { return nil }
			b.endure(trouble{
				name: fmt.Sprintf("%d short containers", *brief/2), begin: none, end: none,
				during: func() { all = b.runShort(*brief / 2) },
			})
			b.wereKnown(all)
		})
	}
}

// runShort starts n containers, four at a time, and removes each when it has been
// scored and has ended.
func (b *bed) runShort(n int) (all []*resident) {
	b.Helper()
	next := make(chan struct{}, n)
	for range n {
		next <- struct{}{}
	}
	close(next)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range next {
				r, err := b.startErr("short", "once")
				if err == nil {
					err = b.ended(r)
				}
				if err != nil {
					b.Error(err)
					return
				}
				mu.Lock()
				all = append(all, r)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return all
}

// ended waits until a container's process has reported and been let go, and
// removes the container.
func (b *bed) ended(r *resident) error {
	ctx, cancel := command(b.Context())
	defer cancel()
	for r.party.Reports() == 0 {
		if !tick(ctx, 5*time.Millisecond) {
			return fmt.Errorf("%s has not reported: %w", r.party, ctx.Err())
		}
	}
	return b.engine.remove(ctx, r.id)
}

// wereKnown looks for each of them among what has ended.
func (b *bed) wereKnown(all []*resident) {
	b.Helper()
	ctx, cancel := command(b.Context())
	defer cancel()
	got := map[string]*workload.Container{}
	for e, err := range b.client.List(ctx, workload.Selector{All: true}) {
		if err != nil {
			b.Fatal(err)
		}
		if e.Gone {
			got[e.Container.ID.ID] = e.Container
		}
	}
	missed := 0
	for _, r := range all {
		c := got[r.id]
		if c == nil || c.Name != r.party.Truth().Name || c.Image.Name != collectortest.BusyboxImage || c.Run == nil || c.State != workload.StateExited {
			missed++
			b.Errorf("%s has ended and is known as %+v", r.party, c)
		}
	}
	s := b.o.Score()
	b.Logf("%s: %d short containers, %d missed; time to known p50 %s, p99 %s", b.engine, len(all), missed, s.Percentile(0.5), s.Percentile(0.99))
	if n := s.Group("short"); n[oracle.Right] == 0 {
		b.Error("no process of a short container was answered right")
	}
}

// simulated is how many containers a made source has. They have no processes: a
// host with so many real ones is not to be had here.
const simulated = 10_000

// TestTenThousandContainersAreListed embeds an agent whose source has so many
// containers, half of which are others when its connection has been cut.
func TestTenThousandContainersAreListed(t *testing.T) {
	source := collectortest.NewFake("made")
	for i := range simulated {
		source.Put(madeUp(i))
	}
	dir := t.TempDir()
	a, err := agent.New(agent.Options{RunDir: dir, Collectors: []collectors.Collector{source}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	<-a.Ready()
	t.Logf("ready after %s", time.Since(began).Round(time.Millisecond))
	wantMade(t, a, 0, simulated)

	for i := range simulated / 2 {
		source.Delete(madeUp(i).ID)
		source.Put(madeUp(simulated + i))
	}
	ended := time.Now()
	source.Cut(nil)
	took := wantMade(t, a, simulated/2, simulated)
	t.Logf("after half of %d were replaced unheard, equal within %s", simulated, time.Since(ended).Round(time.Millisecond))
	if took > within {
		t.Errorf("equal after %s, not within %s", took, within)
	}
}

func madeUp(i int) *workload.Container {
	return &workload.Container{
		ID:   workload.ContainerID{Runtime: "made", ID: fmt.Sprintf("%064x", i+1)},
		Name: "made-" + strconv.Itoa(i), State: workload.StateRunning, Labels: map[string]string{"i": strconv.Itoa(i)},
	}
}

// wantMade waits until exactly the n containers from first on are listed.
func wantMade(t *testing.T, a *agent.Agent, first, n int) time.Duration {
	t.Helper()
	began := time.Now()
	var wrong string
	for time.Since(began) < patience {
		wrong = ""
		got := map[string]bool{}
		for e := range a.List(t.Context(), workload.Selector{}) {
			if e.Container.Name != "" {
				got[e.Container.Name] = true
			}
		}
		if len(got) != n {
			wrong = fmt.Sprintf("%d are listed, not %d", len(got), n)
		}
		for i := range n {
			if name := madeUp(first + i).Name; !got[name] {
				wrong = name + " is not listed"
				break
			}
		}
		if wrong == "" {
			return time.Since(began)
		}
		tick(t.Context(), 10*time.Millisecond)
	}
	t.Fatal(wrong)
	return 0
}
