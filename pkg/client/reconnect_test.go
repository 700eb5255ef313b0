// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

var reconnects = flag.Int("reconnects", 300, "how many connections are cut under those who follow a stream")

// step is one change that was made: an empty name is an end.
type step struct {
	revision workload.Revision
	id, name string
}

// history is what a store was made to hold, by revision.
type history struct {
	mu    sync.Mutex // held over a change and its entry: whoever reads it has an entry for all that he was told
	steps []step
}

// write changes the store until ctx ends, a thousand times a second.
func (h *history) write(ctx context.Context, s *store.Store) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			h.change(s, i)
		}
	}
}

func (h *history) change(s *store.Store, i int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := step{id: fmt.Sprintf("c%03d", rand.N(100)), name: fmt.Sprintf("n%d", i)}
	if rand.N(5) == 0 {
		st.name = ""
		st.revision = s.Apply(store.Change{Container: &store.ContainerChange{ID: containerID(st.id), Forget: true}})
	} else {
		c := &workload.Container{ID: containerID(st.id), Name: st.name}
		st.revision = s.Apply(store.Change{Container: &store.ContainerChange{ID: c.ID, Source: "docker", Layer: c}})
	}
	h.steps = append(h.steps, st)
}

// replay is one reader's walk through a history.
type replay struct {
	h     *history
	next  int
	state map[string]string
}

// at gives what the store held at a revision, which does not fall.
func (r *replay) at(rev workload.Revision) map[string]string {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	for ; r.next < len(r.h.steps) && r.h.steps[r.next].revision <= rev; r.next++ {
		if s := r.h.steps[r.next]; s.name == "" {
			delete(r.state, s.id)
		} else {
			r.state[s.id] = s.name
		}
	}
	return r.state
}

// Whoever follows has, at every bookmark, exactly what the store held at its revision,
// wherever his connections were cut.
func TestNoCutConnectionLosesAChange(t *testing.T) {
	s := store.New(store.Options{})
	h := &history{}
	for i := range 1000 {
		h.change(s, i)
	}
	socket, _ := start(t, of(s))
	c := collectortest.NewCutter(t, socket, func() int64 {
		if rand.N(4) == 0 { // within what comes first
			return rand.Int64N(1 << 10)
		}
		return rand.Int64N(24 << 10)
	})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var writer, readers sync.WaitGroup
	writer.Go(func() { h.write(ctx, s) })
	var bookmarks, changes, resyncs atomic.Int64
	for range 8 {
		cl := connect(t, c.Socket)
		readers.Go(func() {
			got, want := map[string]string{}, replay{h: h, state: map[string]string{}}
			var last workload.Revision
			for ch, err := range cl.Follow(ctx, workload.Selector{}) {
				if err != nil {
					t.Errorf("the stream ended: %v", err)
					return
				}
				switch ch.Type {
				case workload.ChangeSet:
					changes.Add(1)
					got[ch.Entity.Container.ID.ID] = ch.Entity.Container.Name
				case workload.ChangeUnset:
					changes.Add(1)
					delete(got, ch.Entity.Container.ID.ID)
				case workload.ChangeResync:
					resyncs.Add(1)
					clear(got)
				case workload.ChangeBookmark:
					bookmarks.Add(1)
					if ch.Revision < last {
						t.Errorf("revision %d came after %d", ch.Revision, last)
						return
					}
					last = ch.Revision
					if w := want.at(last); !maps.Equal(w, got) {
						t.Errorf("at revision %d (-want +got):\n%s", last, cmp.Diff(w, got))
						return
					}
					if c.Cuts() >= int64(*reconnects) {
						return
					}
				}
			}
		})
	}
	readers.Wait()
	cancel()
	writer.Wait()
	t.Logf("%d connections cut; %d bookmarks, each equal to the store at its revision, %d changes, %d resyncs", c.Cuts(), bookmarks.Load(), changes.Load(), resyncs.Load())
	if n := bookmarks.Load(); n < int64(*reconnects)/4 {
		t.Errorf("%d bookmarks are too few to show anything", n)
	}
}
