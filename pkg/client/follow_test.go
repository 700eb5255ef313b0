// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// of is an agent whose stream is a store's.
func of(s *store.Store) agent {
	return agent{watch: func(ctx context.Context, sel workload.Selector) iter.Seq[[]workload.Change] {
		return func(yield func([]workload.Change) bool) {
			for b := range s.Watch(ctx, sel) {
				if !yield(b.Changes) {
					return
				}
			}
		}
	}}
}

func containerID(id string) workload.ContainerID {
	return workload.ContainerID{Runtime: "docker", ID: id}
}

func putContainer(s *store.Store, id, name string) workload.Revision {
	c := &workload.Container{ID: containerID(id), Name: name, Aliases: []workload.ContainerID{{Runtime: "runc", ID: id}}}
	return s.Apply(store.Change{Container: &store.ContainerChange{ID: c.ID, Source: "docker", Layer: c}})
}

func forget(s *store.Store, id string) {
	s.Apply(store.Change{Container: &store.ContainerChange{ID: containerID(id), Forget: true}})
}

func putProcess(s *store.Store, pid workload.PID, in string, exit *workload.Exit) workload.Revision {
	p := &workload.Process{Key: workload.ProcessKey{PID: pid, Start: 1}, Status: workload.StatusHost, Exit: exit}
	if in != "" {
		p.Status, p.Container = workload.StatusContainer, containerID(in)
	}
	return s.Apply(store.Change{Process: p})
}

// said reads a stream until n bookmarks have come, and gives it in words.
func said(next func() (workload.Change, error, bool), bookmarks int) (words []string, _ error) {
	for bookmarks > 0 {
		ch, err, ok := next()
		if err != nil || !ok {
			return words, err
		}
		word := string(ch.Type)
		if c := ch.Entity.Container; c != nil {
			word += " " + c.ID.ID + " " + c.Name
		}
		words = append(words, word)
		if ch.Type == workload.ChangeBookmark {
			bookmarks--
		}
	}
	return words, nil
}

func TestAFollowedStreamOutlivesItsAgent(t *testing.T) {
	for _, tc := range []struct {
		name string
		// next is the store of the agent that comes after the first one.
		next func(first *store.Store) *store.Store
		want []string
	}{
		{"the same revisions", func(s *store.Store) *store.Store { putContainer(s, "b", "two"); return s }, []string{"set b two", "bookmark"}},
		{"nothing has changed", func(s *store.Store) *store.Store { return s }, []string{"bookmark"}},
		{"another store", func(*store.Store) *store.Store {
			s := store.New(store.Options{Base: 1 << 40})
			putContainer(s, "c", "three")
			return s
		}, []string{"resync", "set c three", "bookmark"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			first := store.New(store.Options{})
			putContainer(first, "a", "one")
			socket := tempSocket(t)
			stop, err := of(first).serve(socket)
			must(t, err)
			next, end := iter.Pull2(connect(t, socket).Follow(t.Context(), workload.Selector{}))
			defer end()
			words, err := said(next, 1)
			must(t, err)
			if diff := cmp.Diff([]string{"set a one", "bookmark"}, words); diff != "" {
				t.Errorf("at first (-want +got):\n%s", diff)
			}
			stop()
			stop, err = of(tc.next(first)).serve(socket)
			must(t, err)
			defer stop()
			words, err = said(next, 1)
			must(t, err)
			if diff := cmp.Diff(tc.want, words); diff != "" {
				t.Errorf("from the next agent (-want +got):\n%s", diff)
			}
		})
	}
}

// A resync whose snapshot was cut cannot be resumed from, and what it began with may
// have gone since: the reader is told to forget it.
func TestACutSnapshotIsBegunAnew(t *testing.T) {
	var calls atomic.Int32
	var from []workload.Revision
	a := agent{watch: func(_ context.Context, sel workload.Selector) iter.Seq[[]workload.Change] {
		return func(yield func([]workload.Change) bool) {
			from = append(from, sel.From) // one call after the other
			set := func(id string, rev workload.Revision) workload.Change {
				return workload.Change{Type: workload.ChangeSet, Revision: rev, Entity: workload.Entity{Kind: workload.KindContainer, Container: &workload.Container{ID: containerID(id)}}}
			}
			bookmark := workload.Change{Type: workload.ChangeBookmark, Revision: 9}
			switch calls.Add(1) {
			case 1:
				yield([]workload.Change{set("a", 3), bookmark})
			case 2:
				yield([]workload.Change{{Type: workload.ChangeResync, Revision: 20}})
			default:
				yield([]workload.Change{set("b", 4), bookmark})
			}
		}
	}}
	socket, _ := start(t, a)
	next, end := iter.Pull2(connect(t, socket).Follow(t.Context(), workload.Selector{}))
	words, err := said(next, 2)
	end()
	must(t, err)
	if diff := cmp.Diff([]string{"set a ", "bookmark", "resync", "resync", "set b ", "bookmark"}, words); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !slices.Equal(from[:3], []workload.Revision{0, 9, 0}) {
		t.Errorf("asked from %v", from)
	}
}

func TestWhatNoWaitingMendsEndsAFollowedStream(t *testing.T) {
	socket, _ := start(t, agent{})
	var errs []error
	for _, err := range connect(t, socket).Follow(t.Context(), workload.Selector{Kinds: []workload.Kind{"teapot"}}) {
		errs = append(errs, err)
	}
	if len(errs) != 1 || !errors.Is(errs[0], workload.ErrInvalid) {
		t.Errorf("gave %v, want one error", errs)
	}
	if _, err := connect(t, socket).Mirror(t.Context(), client.MirrorOptions{Selector: workload.Selector{Include: workload.Filter{Names: []string{"["}}}}); !errors.Is(err, workload.ErrInvalid) {
		t.Errorf("a mirror of a bad selector: %v", err)
	}
}

// state is what a mirror answers.
func state(m *client.Mirror, ids []string, pids []workload.PID) map[string]string {
	got := map[string]string{}
	for _, id := range ids {
		if c, ok := m.Container(workload.ContainerID{Runtime: "runc", ID: id}); ok {
			got[id] = c.Name
		}
	}
	for _, pid := range pids {
		if p, c := m.ContainerOf(pid); c != nil {
			got[fmt.Sprint(pid)] = c.Name
		} else if p != nil {
			got[fmt.Sprint(pid)] = string(p.Status)
		}
	}
	return got
}

// until waits for a revision in the mirror.
func until(t testing.TB, m *client.Mirror, rev workload.Revision) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := m.Wait(ctx, rev); err != nil {
		t.Fatal(err)
	}
}

// away waits until a mirror has noticed that its agent is away; nothing says so.
func away(t *testing.T, m *client.Mirror) {
	t.Helper()
	for begin := time.Now(); m.Err() == nil; runtime.Gosched() {
		if time.Since(begin) > time.Minute {
			t.Fatal("it has not noticed that its agent is away")
		}
	}
}

func TestAMirrorIsWhatTheAgentKnows(t *testing.T) {
	s := store.New(store.Options{})
	putContainer(s, "a", "one")
	putContainer(s, "b", "two")
	putProcess(s, 7, "a", nil)
	putProcess(s, 8, "", nil)
	socket := tempSocket(t)
	stop, err := of(s).serve(socket)
	must(t, err)
	m, err := connect(t, socket).Mirror(t.Context(), client.MirrorOptions{Processes: true})
	must(t, err)
	defer m.Close()
	ids, pids := []string{"a", "b", "c"}, []workload.PID{7, 8, 9}
	want := map[string]string{"a": "one", "b": "two", "7": "one", "8": "host"}
	check := func(when string) {
		t.Helper()
		if diff := cmp.Diff(want, state(m, ids, pids)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", when, diff)
		}
	}
	check("at first")

	putContainer(s, "a", "one again")
	forget(s, "b")
	until(t, m, putProcess(s, 8, "", &workload.Exit{At: 5}))
	want = map[string]string{"a": "one again", "7": "one again"}
	check("after changes")

	stop()
	away(t, m)
	check("while the agent is away")
	s = store.New(store.Options{Base: 1 << 40})
	putContainer(s, "c", "three")
	rev := putProcess(s, 9, "c", nil)
	stop, err = of(s).serve(socket)
	must(t, err)
	until(t, m, rev)
	if err := m.Err(); err != nil {
		t.Errorf("it is kept up again, and says %v", err)
	}
	want = map[string]string{"c": "three", "9": "three"}
	check("after another agent's start")
	if ids, processes := m.Len(); ids != 2 || processes != 1 {
		t.Errorf("%d ids and %d processes are kept", ids, processes)
	}
	stop()
	m.Close()
	check("closed")
}

func TestAMirrorsLookupsAllocateNothing(t *testing.T) {
	m, _ := mirrorOf(t, 1000)
	id := containerID("c0007")
	if n := testing.AllocsPerRun(1000, func() {
		_, c := m.ContainerOf(507)
		d, _ := m.Container(id)
		if c == nil || d == nil {
			t.Fatal("not there")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// mirrorOf is one of n containers with ten processes each, from PID 1 on, and the
// plain maps that a tool would keep instead.
func mirrorOf(t testing.TB, n int) (*client.Mirror, map[workload.PID]*workload.Container) {
	s := store.New(store.Options{})
	var rev workload.Revision
	plain := map[workload.PID]*workload.Container{}
	for i := range n {
		id := fmt.Sprintf("c%04d", i)
		putContainer(s, id, "n"+id)
		for j := range 10 {
			rev = putProcess(s, workload.PID(10*i+j+1), id, nil)
		}
	}
	socket, _ := start(t, of(s))
	c, err := client.New(client.Options{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	m, err := c.Mirror(context.Background(), client.MirrorOptions{Processes: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	until(t, m, rev)
	for pid := range workload.PID(10 * n) {
		if _, c := m.ContainerOf(pid + 1); c != nil {
			plain[pid+1] = c
		}
	}
	if len(plain) != 10*n {
		t.Fatalf("%d of %d processes have their container", len(plain), 10*n)
	}
	return m, plain
}

// BenchmarkMirror compares a lookup with one in a map that nobody keeps up.
func BenchmarkMirror(b *testing.B) {
	const n = 1000
	m, plain := mirrorOf(b, n)
	miss := 0
	b.Run("mirror", func(b *testing.B) {
		for i := range b.N {
			if p, ok := m.Process(workload.PID(i*7919%(10*n) + 1)); !ok || p == nil {
				miss++
			}
		}
	})
	b.Run("container", func(b *testing.B) {
		for i := range b.N {
			if _, c := m.ContainerOf(workload.PID(i*7919%(10*n) + 1)); c == nil {
				miss++
			}
		}
	})
	b.Run("map", func(b *testing.B) {
		for i := range b.N {
			if plain[workload.PID(i*7919%(10*n)+1)] == nil {
				miss++
			}
		}
	})
	if miss > 0 {
		b.Errorf("%d misses", miss)
	}
}
