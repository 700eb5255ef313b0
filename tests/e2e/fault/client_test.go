// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/workload"
)

// TestClientsThatDoNotReadDelayNobody has many watch the containers, and one in
// ten the processes too, and read the first change alone. Afterwards each of them
// ends at the truth.
func TestClientsThatDoNotReadDelayNobody(t *testing.T) {
	b := newBed(t, startContainerd(t), false)
	for range *rounds {
		release := make(chan struct{})
		copies := make([]*replica, *watchers)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var before, most int
		b.endure(trouble{
			name: fmt.Sprintf("%d stuck watchers", len(copies)), lasts: 2 * time.Second,
			begin: func() error {
				before = memory(b.agent.PID())
				for i := range copies {
					copies[i] = &replica{all: map[string]fact{}}
					stuck := make(chan error, 1)
					kinds := []workload.Kind{workload.KindContainer}
					if i%10 == 0 { // each change goes to each of them until its windows are full
						kinds = append(kinds, workload.KindProcess)
					}
					wg.Go(func() { copies[i].stick(ctx, b.agent.Socket, kinds, stuck, release) })
					if err := <-stuck; err != nil {
						return err
					}
				}
				return nil
			},
			during: func() {
				b.change()
				b.storm(500, 4000)
				most = memory(b.agent.PID())
			},
			end:   func() error { close(release); return nil },
			crowd: true,
		})
		b.everyCopyIsTrue(copies)
		cancel()
		wg.Wait()
		b.Logf("the agent's memory: %d KiB before, %d KiB with %d stuck watchers", before, most, len(copies))
		// A stuck stream holds one batch and its windows.
		if limit := before + 96<<10 + len(copies)*256; most > limit {
			b.Errorf("the agent uses %d KiB with %d stuck watchers, %d KiB without", most, len(copies), before)
		}
	}
}

// memory is a process's, in KiB.
func memory(pid int) int {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, _ := strconv.Atoi(strings.Fields(rest)[0])
	return n
}

// replica is what a watcher knows by what it was told.
type replica struct {
	mu     sync.Mutex // guards all below
	all    map[string]fact
	at     workload.Revision
	resync bool
	err    error
}

// stick watches, reads one change, says so, and reads on when it is let go.
func (r *replica) stick(ctx context.Context, socket string, kinds []workload.Kind, stuck chan<- error, release <-chan struct{}) {
	c, err := client.New(client.Options{Socket: socket})
	if err != nil {
		stuck <- err
		return
	}
	defer c.Close()
	first := true
	for change, err := range c.Watch(ctx, workload.Selector{Kinds: kinds}) {
		if err != nil {
			r.fail(err)
			if first {
				stuck <- err
			}
			return
		}
		r.apply(change)
		if first {
			first = false
			stuck <- nil
			select {
			case <-release:
			case <-ctx.Done():
				return
			}
		}
	}
}

func (r *replica) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *replica) apply(ch workload.Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = max(r.at, ch.Revision)
	switch c := ch.Entity.Container; {
	case ch.Type == workload.ChangeResync:
		r.all, r.resync = map[string]fact{}, true
	case c == nil:
	case ch.Type == workload.ChangeUnset || ch.Entity.Gone:
		delete(r.all, c.ID.ID)
	default:
		if id, f, ok := factOf(c); ok {
			r.all[id] = f
		}
	}
}

func (r *replica) diff(truth map[string]fact) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return r.err.Error()
	}
	return compare(truth, r.all)
}

// everyCopyIsTrue waits until what each watcher was told is the truth.
func (b *bed) everyCopyIsTrue(copies []*replica) {
	b.Helper()
	truth := b.truth()
	deadline := time.Now().Add(patience)
	for i, r := range copies {
		for {
			diff := r.diff(truth)
			if diff == "" {
				break
			}
			if time.Now().After(deadline) {
				b.Fatalf("watcher %d of %d does not end at the truth (-engine +watcher):\n%s", i, len(copies), diff)
			}
			tick(b.Context(), 10*time.Millisecond)
		}
	}
}

// TestAWatcherMayComeBackWithAnyRevision resumes with a revision of this agent's,
// and with ones that mean nothing to it.
func TestAWatcherMayComeBackWithAnyRevision(t *testing.T) {
	b := newBed(t, startContainerd(t), false)
	for range *rounds {
		b.settle()
		r := &replica{all: map[string]fact{}}
		b.follow(r, 0)
		b.change()
		b.follow(r, r.at)
		if r.resync {
			t.Error("a revision that is a moment old cannot be resumed from")
		}
		b.equals("resumed", r)
		for name, from := range map[string]workload.Revision{"the first of all": 1, "a future one": r.at + 1<<40} {
			stale := &replica{all: map[string]fact{"no such container": {}}}
			b.follow(stale, from)
			b.equals(name, stale)
			if !stale.resync {
				t.Errorf("%s: the gap is not said", name)
			}
		}
		// Of the agent before: another store, whose revisions went further or less far.
		b.agent.Kill()
		b.change()
		b.agent.Start()
		foreign := &replica{all: map[string]fact{"no such container": {}}}
		b.follow(foreign, r.at)
		b.equals("that of a former agent", foreign)
		if !foreign.resync {
			t.Error("that of a former agent: the gap is not said")
		}
	}
}

// follow watches from a revision until everything has been said.
func (b *bed) follow(r *replica, from workload.Revision) {
	b.Helper()
	if e := b.equalSince(time.Now()); e.diff != "" {
		b.Fatalf("the store is not the truth after %s (-engine +agent):\n%s", e.took, e.diff)
	}
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	for ch, err := range b.client.Watch(ctx, workload.Selector{From: from}) {
		if err != nil {
			b.Fatal(err)
		}
		r.apply(ch)
		if ch.Type == workload.ChangeBookmark {
			return
		}
	}
}

func (b *bed) equals(name string, r *replica) {
	b.Helper()
	if diff := r.diff(b.truth()); diff != "" {
		b.Errorf("%s: what was told is not the truth (-engine +watcher):\n%s", name, diff)
	}
}
