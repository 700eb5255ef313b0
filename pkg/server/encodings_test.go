// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

func setTo(rev workload.Revision, name string) workload.Change {
	return workload.Change{Type: workload.ChangeSet, Revision: rev, Entity: workload.Entity{
		Kind: workload.KindContainer, Revision: rev, Container: &workload.Container{Name: name},
	}}
}

func TestAChangeIsEncodedOnceAndNeverTakenForAnother(t *testing.T) {
	var e encodings
	first := setTo(1, "a")
	gone := first
	gone.Type = workload.ChangeUnset
	for _, c := range []workload.Change{
		first, first, gone, first, setTo(1, "b"), setTo(1+sharedChanges, "c"), first,
		setTo(2, strings.Repeat("x", sharedSize)), {Type: workload.ChangeBookmark, Revision: 1},
	} {
		want := wire.AppendChange([]byte("before"), &c)
		for range 2 {
			if got := e.append([]byte("before"), &c); !bytes.Equal(got, want) {
				t.Fatalf("%s at %d: %q, not %q", c.Type, c.Revision, got, want)
			}
		}
	}
	room := make([]byte, 0, 1<<10)
	e.append(room, &first)
	if n := testing.AllocsPerRun(100, func() { e.append(room, &first) }); n != 0 {
		t.Errorf("a change that was encoded before costs %v allocations", n)
	}
	if e.slots[2].Load() != nil {
		t.Error("a large one is kept")
	}
}

func TestWhatStreamsShareGoesWithThem(t *testing.T) {
	s := &Server{}
	s.watchers.Store(1)
	if s.shared() != nil {
		t.Error("one stream shares")
	}
	s.watchers.Store(2)
	if e := s.shared(); e == nil || e != s.shared() {
		t.Error("two share nothing")
	}
	s.leaveStream()
	if s.encoded.Load() != nil {
		t.Error("one is left, and what was shared as well")
	}
}

// BenchmarkAppendChange compares a change that others were given before with one
// that is encoded for one stream.
func BenchmarkAppendChange(b *testing.B) {
	c := setTo(1, "name")
	c.Entity.Container.Labels = map[string]string{}
	for i := range 20 {
		c.Entity.Container.Labels[fmt.Sprintf("label-%d", i)] = "value of some length"
	}
	room := make([]byte, 0, 8<<10)
	for name, e := range map[string]*encodings{"shared": new(encodings), "own": nil} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				e.append(room, &c)
			}
		})
	}
}
