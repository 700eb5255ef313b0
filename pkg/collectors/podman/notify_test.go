// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"context"
	"errors"
	"hash/maphash"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Nothing but what is written has it look: its interval is longer than the test.
func TestAWrittenDatabaseIsLookedAtAtOnce(t *testing.T) {
	for file, path := range recordings {
		t.Run(file, func(t *testing.T) {
			root := t.TempDir()
			c, err := New(Options{Roots: []string{root}, Interval: 1000 * time.Hour})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			hints := make(chan collectors.Hint, 1000)
			ended := make(chan error, 1)
			go func() { ended <- c.Watch(ctx, func(h collectors.Hint) { hints <- h }) }()
			heard := func(kind collectors.HintKind) {
				t.Helper()
				for timeout := time.After(20 * time.Second); ; {
					select {
					case h := <-hints:
						if h.Kind == kind {
							return
						}
					case <-timeout:
						t.Fatalf("no hint %v", kind)
					}
				}
			}
			heard(collectors.HintAlive)
			database := filepath.Join(root, path)
			put(t, database, recording(t, file)) // with its directory
			heard(collectors.HintCreated)
			if err := os.Remove(database); err != nil {
				t.Fatal(err)
			}
			heard(collectors.HintDeleted)
			put(t, database+".new", recording(t, file))
			if err := os.Rename(database+".new", database); err != nil {
				t.Fatal(err)
			}
			heard(collectors.HintCreated)
			cancel()
			<-ended
		})
	}
}

// What was denied while another database was in the place of a store's, between two
// looks, is told again: nothing has changed, and who was denied it has forgotten it.
func TestWhatIsDeniedBetweenTwoLooksIsToldAgain(t *testing.T) {
	const before, after = "podman-4.3.1-bolt_state.db.gz", "podman-5.4.2-db.sql.gz"
	for name, ask := range map[string]func(t *testing.T, c *Collector, id workload.ContainerID){
		"asked": func(t *testing.T, c *Collector, id workload.ContainerID) {
			if _, err := c.Lookup(t.Context(), id); !errors.Is(err, collectors.ErrNotFound) {
				t.Errorf("in the other database it is not denied: %v", err)
			}
		},
		"listed": func(t *testing.T, c *Collector, id workload.ContainerID) {
			for one, err := range c.List(t.Context()) {
				if err != nil || one.ID == id {
					t.Errorf("the other database's list: %v, %v", one, err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, database := storeOf(t, recordings[before], recording(t, before))
			told := map[workload.ContainerID]int{}
			w := watcher{c: c, n: &notifier{}, fn: func(h collectors.Hint) {
				if h.Layer != nil {
					told[h.ID]++
				}
			}, stores: map[*store]*watched{}, seed: maphash.MakeSeed()}
			look := func() {
				t.Helper()
				if err := w.look(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			look()
			var ids []workload.ContainerID
			for one, err := range c.List(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, one.ID)
			}
			if len(ids) < 2 || len(told) > 0 {
				t.Fatalf("%d containers, told of %v", len(ids), told)
			}
			must := func(err error) {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
			}
			other := filepath.Join(filepath.Dir(filepath.Dir(database)), recordings[after])
			must(os.Rename(database, database+".aside"))
			put(t, other, recording(t, after))
			ask(t, c, ids[0])
			must(os.Remove(other))
			must(os.Rename(database+".aside", database))
			look()
			if told[ids[0]] != 1 {
				t.Errorf("it was denied, and told again %d times", told[ids[0]])
			}
			look()
			if told[ids[0]] != 1 {
				t.Error("it is told again and again")
			}
			if name == "asked" && told[ids[1]] != 0 {
				t.Error("so was one that nobody has denied")
			}
		})
	}
}

func TestOnlyADatabasesEventsCount(t *testing.T) {
	event := func(name string) []byte {
		b := make([]byte, unix.SizeofInotifyEvent, 64)
		b[12] = byte((len(name) + 16) / 16 * 16)
		b = append(b, name...)
		return append(b, make([]byte, int(b[12])-len(name))...)
	}
	nameless := make([]byte, unix.SizeofInotifyEvent)
	for what, tc := range map[string]struct {
		buf  []byte
		want bool
	}{
		"a lock":             {event("storage.lock"), false},
		"BoltDB":             {event("bolt_state.db"), true},
		"SQLite":             {event("db.sql"), true},
		"SQLite's journal":   {append(event("storage.lock"), event("db.sql-journal")...), true},
		"a directory's end":  {nameless, true},
		"a part of an event": {event("storage.lock")[:20], true},
		"none":               {nil, false},
	} {
		if got := ofDatabase(tc.buf); got != tc.want {
			t.Errorf("%s: %v, want %v", what, got, tc.want)
		}
	}
}
