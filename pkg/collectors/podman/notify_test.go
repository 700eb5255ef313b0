// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors"
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
