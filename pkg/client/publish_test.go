// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// publishEnv makes the test binary an agent that publishes, on the socket that it names.
const publishEnv = "PIDIGREE_CLIENT_TEST_PUBLISH"

var (
	publishWatchers = flag.Int("publish.watchers", 100, "how many watch, a tenth of them without ever reading")
	publishFor      = flag.Duration("publish.for", time.Second, "how long a thousand changes a second are published")
)

// published is what a publisher says of itself.
type published struct {
	Last          workload.Revision
	P50, P99, Max time.Duration
	Count         int
}

// publisher changes a thousand entities a second, which it has at every tick at once
// where it did not come to run before, and says how long each took to be published.
func bePublisher(socket string, lasts time.Duration) error {
	s := store.New(store.Options{})
	stop, err := of(s).serve(socket)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Println("ready")
	in := bufio.NewReader(os.Stdin)
	if _, err := in.ReadString('\n'); err != nil {
		return err
	}
	var took []time.Duration
	var p published
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); time.Since(began) < lasts; <-tick.C {
		for due := int(time.Since(began) / time.Millisecond); len(took) < due; {
			n := len(took)
			at := time.Now()
			p.Last = putContainer(s, fmt.Sprintf("c%03d", n%500), fmt.Sprintf("n%d", n))
			took = append(took, time.Since(at))
		}
	}
	slices.Sort(took)
	p.Count, p.P50, p.P99, p.Max = len(took), took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
	if err := json.NewEncoder(os.Stdout).Encode(p); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in)
	return err
}

// However many watch, and some of them never read: what is published is published at
// once, everybody who reads ends at the truth, and those who do not cost little.
func TestWhoPublishesWaitsForNoWatcher(t *testing.T) {
	socket := tempSocket(t)
	pid, in, says := apart(t, publishEnv+"="+socket+" "+publishFor.String())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	before := memory(t, pid, "VmRSS")
	type reader struct {
		at    atomic.Uint64
		names map[string]string // its own
	}
	stuck := *publishWatchers / 10
	readers := make([]*reader, *publishWatchers-stuck)
	var all, whole sync.WaitGroup
	watch := func(r *reader) {
		c, err := client.New(client.Options{Socket: socket})
		if err != nil {
			t.Error(err)
			whole.Done()
			return
		}
		defer c.Close()
		begun := false
		for ch, err := range c.Watch(ctx, workload.Selector{}) {
			if err != nil {
				if ctx.Err() == nil {
					t.Error(err)
				}
				break
			}
			switch ch.Type {
			case workload.ChangeBookmark:
				if !begun {
					begun = true
					whole.Done()
				}
				if r == nil {
					<-ctx.Done() // it never reads on
					return
				}
			case workload.ChangeSet:
				r.names[ch.Entity.Container.ID.ID] = ch.Entity.Container.Name
				if rev := uint64(ch.Revision); rev <= r.at.Swap(rev) {
					t.Error("a revision is not after the last")
				}
			case workload.ChangeResync:
				t.Error("a reader fell behind")
			}
		}
		if !begun {
			whole.Done()
		}
	}
	for i := range readers {
		readers[i] = &reader{names: map[string]string{}}
	}
	for i := range *publishWatchers {
		whole.Add(1)
		all.Go(func() {
			if i < stuck {
				watch(nil)
			} else {
				watch(readers[i-stuck])
			}
		})
	}
	whole.Wait()
	if _, err := io.WriteString(in, "go\n"); err != nil {
		t.Fatal(err)
	}
	line, err := says.ReadString('\n')
	must(t, err)
	var p published
	must(t, json.Unmarshal([]byte(line), &p))
	most := memory(t, pid, "VmHWM") - before
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for _, r := range readers {
		for r.at.Load() < uint64(p.Last) && ctx.Err() == nil {
			<-tick.C
		}
	}
	cancel()
	all.Wait()
	want := map[string]string{}
	for n := range p.Count {
		want[fmt.Sprintf("c%03d", n%500)] = fmt.Sprintf("n%d", n)
	}
	for _, r := range readers {
		if !maps.Equal(r.names, want) {
			t.Errorf("a reader ends at %d of %d with %d containers that are not those of the store", r.at.Load(), p.Last, len(r.names))
			break
		}
	}
	t.Logf("%d watchers, %d of them stuck: %d changes in %s, published in %s (p50), %s (p99), %s at most; %.1f MiB more at most",
		*publishWatchers, stuck, p.Count, publishFor, p.P50, p.P99, p.Max, float64(most)/(1<<20))
}
