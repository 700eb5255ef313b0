// SPDX-License-Identifier: Apache-2.0

package store

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/pidigree/pidigree/pkg/workload"
)

// reader reads a watch step by step, as slowly as a test wants.
type reader struct {
	t    *testing.T
	next func() (Batch, bool)
}

func watch(t *testing.T, s *Store, sel workload.Selector) *reader {
	next, stop := iter.Pull(s.Watch(t.Context(), sel))
	t.Cleanup(stop)
	return &reader{t, next}
}

// read gives the labels of what there is to read now; the test must know that there is something.
func (r *reader) read() []string {
	r.t.Helper()
	var got []string
	for {
		b, ok := r.next()
		if !ok {
			r.t.Fatal("the watch ended")
		}
		if len(b.Changes) > maxBatch+2 { // a resync and a bookmark
			r.t.Errorf("a batch of %d", len(b.Changes))
		}
		for _, c := range b.Changes {
			got = append(got, changeLabel(c))
		}
		if !b.More {
			return got
		}
	}
}

func (r *reader) want(want ...string) {
	r.t.Helper()
	if diff := cmp.Diff(want, r.read()); diff != "" {
		r.t.Errorf("changes (-want +got):\n%s", diff)
	}
}

func changeLabel(c workload.Change) string {
	switch c.Type {
	case workload.ChangeSet:
		return label(c.Entity)
	case workload.ChangeUnset:
		if c.Entity.Container != nil {
			return "unset " + c.Entity.Container.ID.String()
		}
		return "unset " + label(workload.Entity{Kind: c.Entity.Kind, Process: c.Entity.Process})
	default:
		return string(c.Type)
	}
}

func putNamed(s *Store, id, name string) workload.Revision {
	return s.Apply(putLayer(docker(id), "docker", named(docker(id), name)))
}

var (
	both    = []workload.Kind{workload.KindContainer, workload.KindProcess}
	withAll = workload.Selector{All: true}
)

func TestAWatchBeginsWithTheStateAndGoesOnWithChanges(t *testing.T) {
	s := New(Options{})
	putNamed(s, "aaaa", "a")
	putNamed(s, "bbbb", "b")
	s.Apply(gone(docker("bbbb"), second), put(onHost(key(7, 1))))
	some, all := watch(t, s, workload.Selector{}), watch(t, s, workload.Selector{All: true, Kinds: both})
	some.want("a", "bookmark")
	all.want("a", "b gone", "7", "bookmark")

	putNamed(s, "aaaa", "a2")
	some.want("a2")
	all.want("a2")

	s.Apply(put(exited(onHost(key(7, 1)), second, 0)))
	putNamed(s, "cccc", "c") // processes are not watched unless asked for
	some.want("c")
	all.want("7 gone", "c")
}

func TestAnEmptyStoreBeginsWithABookmark(t *testing.T) {
	watch(t, New(Options{}), workload.Selector{Kinds: both}).want("bookmark")
	watch(t, New(Options{}), workload.Selector{Kinds: []workload.Kind{workload.KindPod}}).want("bookmark")
}

func TestASlowReaderGetsEachEntityOnce(t *testing.T) {
	s := New(Options{})
	r := watch(t, s, workload.Selector{})
	r.want("bookmark")
	for i := range 10_000 {
		putNamed(s, fmt.Sprintf("c%03d", i%10), fmt.Sprint(i))
	}
	r.want("9990", "9991", "9992", "9993", "9994", "9995", "9996", "9997", "9998", "9999")
	if n := len(s.contLog.window.Load().entries); n > 2*minLog {
		t.Errorf("a log of %d for ten entities", n)
	}
}

func TestWhatWasBornAndWentBetweenTwoReadsArrivesOnceAsGone(t *testing.T) {
	s := New(Options{})
	some, all := watch(t, s, workload.Selector{}), watch(t, s, withAll)
	some.want("bookmark")
	all.want("bookmark")
	putNamed(s, "aaaa", "a")
	s.Apply(gone(docker("aaaa"), second))
	some.want("a gone")
	all.want("a gone")
}

func TestTheEndOfATombstoneIsSaidToThoseWhoKeepIt(t *testing.T) {
	s := New(Options{})
	some, all, late := watch(t, s, workload.Selector{}), watch(t, s, withAll), watch(t, s, workload.Selector{})
	putNamed(s, "aaaa", "a")
	for _, r := range []*reader{some, all, late} {
		r.want("a", "bookmark")
	}
	s.Apply(gone(docker("aaaa"), second))
	some.want("a gone")
	all.want("a gone")
	s.Apply(expire(second + workload.KTime(DefaultGrace)))
	putNamed(s, "bbbb", "b") // something to read for all
	some.want("b")
	all.want("unset docker://aaaa", "b")
	late.want("unset docker://aaaa", "b") // it did not read in time to be told of the end
}

func TestAForgottenEntityIsUnset(t *testing.T) {
	s := New(Options{})
	putNamed(s, "aaaa", "a")
	some, all := watch(t, s, workload.Selector{}), watch(t, s, withAll)
	some.want("a", "bookmark")
	all.want("a", "bookmark")
	s.Apply(forget(docker("aaaa")))
	some.want("unset docker://aaaa")
	all.want("unset docker://aaaa")
	putNamed(s, "aaaa", "again")
	some.want("again")
	watch(t, s, withAll).want("again", "bookmark")
}

func TestAnEntityForgottenAndMadeAgainIsOneChange(t *testing.T) {
	s := New(Options{})
	putNamed(s, "aaaa", "a")
	r := watch(t, s, workload.Selector{})
	r.want("a", "bookmark")
	s.Apply(forget(docker("aaaa")))
	putNamed(s, "aaaa", "again")
	r.want("again")
}

func TestAContainerThatGetsAnotherIDIsUnsetByItsFormerOne(t *testing.T) {
	s := New(Options{})
	k := moby("aaaa")
	s.Apply(putLayer(k, "containerd", &workload.Container{ID: k}))
	r := watch(t, s, workload.Selector{})
	r.want("", "bookmark")
	s.Apply(putLayer(k, "docker", named(docker("aaaa"), "web")))
	r.want("unset containerd://moby/aaaa", "web")
	s.Apply(putLayer(k, "docker", nil))
	r.want("unset docker://aaaa", "")
}

func TestTwoEntitiesShownByOneIDAreNotBothLostWithOne(t *testing.T) {
	s := New(Options{})
	a, b := moby("aaaa"), docker("aaaa")
	s.Apply(putLayer(a, "docker", named(b, "first")), putLayer(b, "docker", named(b, "second")))
	r := watch(t, s, workload.Selector{})
	r.want("first", "second", "bookmark")
	s.Apply(forget(b))
	r.want("first")
}

func TestAProcessWhoseKeyBecomesWholeIsUnsetByItsFormerOne(t *testing.T) {
	s := New(Options{})
	rough := workload.ProcessKey{PID: 7, Start: 5 * workload.TickNS, Ticks: true}
	s.Apply(put(onHost(rough)))
	r := watch(t, s, workload.Selector{Kinds: []workload.Kind{workload.KindProcess}})
	r.want("7", "bookmark")
	s.Apply(put(onHost(workload.ProcessKey{PID: 7, Start: 5*workload.TickNS + 4, Inode: 99})))
	r.want("unset 7", "7")
}

func TestAResumedWatchGetsOnlyTheDifference(t *testing.T) {
	const (
		base = 5000
		made = base + 4 // the last of the four
		told = made + 1 // the end of dddd
		now  = told + 3
	)
	for _, tc := range []struct {
		name string
		sel  workload.Selector
		want []string
	}{
		{"from then", workload.Selector{From: made}, []string{"b2", "unset docker://cccc", "unset docker://dddd", "bookmark"}},
		{"from after the end of one was told", workload.Selector{From: told}, []string{"b2", "unset docker://cccc", "bookmark"}},
		{"the same, keeping tombstones", workload.Selector{From: told, All: true}, []string{"b2", "unset docker://cccc", "unset docker://dddd", "bookmark"}},
		{"from now", workload.Selector{From: now}, []string{"bookmark"}},
		{"from the very beginning of this store", workload.Selector{From: base}, []string{"a", "b2", "unset docker://cccc", "unset docker://dddd", "bookmark"}},
		{"from the future", workload.Selector{From: now + 1}, []string{"resync", "a", "b2", "bookmark"}},
		{"from an earlier store", workload.Selector{From: base - 1}, []string{"resync", "a", "b2", "bookmark"}},
		{"from nothing", workload.Selector{}, []string{"a", "b2", "bookmark"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := New(Options{Base: base})
			for _, id := range []string{"aaaa", "bbbb", "cccc", "dddd"} {
				putNamed(s, id, id[:1])
			}
			s.Apply(gone(docker("dddd"), second))
			putNamed(s, "bbbb", "b2")
			if rev := s.Apply(forget(docker("cccc")), expire(second+workload.KTime(DefaultGrace))); rev != now {
				t.Fatalf("revision %d, want %d", rev, now)
			}
			r := watch(t, s, tc.sel)
			r.want(tc.want...)
			putNamed(s, "eeee", "e")
			r.want("e")
			if n := s.Counts().Resyncs; n != 0 != (tc.want[0] == "resync") {
				t.Errorf("%d resyncs counted", n)
			}
		})
	}
}

func TestAReaderBehindTheForgottenRemovalsStartsAgain(t *testing.T) {
	s := New(Options{MaxContainerTombstones: 4})
	putNamed(s, "aaaa", "a")
	putNamed(s, "bbbb", "b")
	r := watch(t, s, workload.Selector{})
	r.want("a", "b", "bookmark")
	from := s.Revision()
	s.Apply(forget(docker("aaaa")))
	for i := range 4 {
		id := fmt.Sprintf("c%03d", i)
		putNamed(s, id, id)
		s.Apply(forget(docker(id)))
	}
	r.want("resync", "b", "bookmark")
	watch(t, s, workload.Selector{From: from}).want("resync", "b", "bookmark")
	putNamed(s, "bbbb", "b2")
	r.want("b2")
}

// Tombstones come and go all the time. A reader who was told of the ends does
// not care that the tombstones are forgotten, however many there were.
func TestAReaderWithoutTombstonesOutlivesTheirRemoval(t *testing.T) {
	s := New(Options{MaxContainerTombstones: 4})
	for i := range 20 {
		id := fmt.Sprintf("c%03d", i)
		putNamed(s, id, id)
		s.Apply(gone(docker(id), workload.KTime(i+1)))
	}
	from := s.Revision()
	s.Apply(expire(workload.KTime(DefaultGrace) + second))
	watch(t, s, workload.Selector{From: from}).want("bookmark")
}

func TestALargeStateComesInBoundedBatches(t *testing.T) {
	s := New(Options{})
	const n = 1000
	for i := range n {
		putNamed(s, fmt.Sprintf("c%04d", i), fmt.Sprint(i))
		s.Apply(put(onHost(key(workload.PID(i+1), 1))))
	}
	for _, tc := range []struct {
		name  string
		kinds []workload.Kind
		want  int
	}{{"containers", nil, n}, {"both", both, 2 * n}} {
		t.Run(tc.name, func(t *testing.T) {
			got := watch(t, s, workload.Selector{Kinds: tc.kinds}).read()
			if len(got) != tc.want+1 || got[tc.want] != "bookmark" {
				t.Fatalf("%d changes, the last %q", len(got), got[len(got)-1])
			}
		})
	}
	var revs []workload.Revision
	for b := range s.Watch(t.Context(), workload.Selector{Kinds: both}) {
		for _, c := range b.Changes {
			revs = append(revs, c.Revision)
		}
		if !b.More {
			break
		}
	}
	if !slices.IsSorted(revs) || len(revs) != 2*n+1 {
		t.Errorf("%d revisions, sorted: %v", len(revs), slices.IsSorted(revs))
	}
}

func TestASnapshotCanBeResumedInItsMiddle(t *testing.T) {
	s := New(Options{})
	for i := range 1000 {
		putNamed(s, fmt.Sprintf("c%04d", i), fmt.Sprint(i))
	}
	seen := map[string]int{}
	var from workload.Revision
	for b := range s.Watch(t.Context(), workload.Selector{}) {
		for _, c := range b.Changes {
			seen[label(c.Entity)]++
		}
		from = b.Revision
		break
	}
	for _, l := range watch(t, s, workload.Selector{From: from}).read() {
		seen[l]++
	}
	if len(seen) != 1001 { // and the bookmark
		t.Errorf("%d containers seen", len(seen))
	}
	for l, n := range seen {
		if n != 1 {
			t.Errorf("%s seen %d times", l, n)
		}
	}
}

func TestAWatchEndsWithItsContextOrItsReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan string, 2)
		go func() {
			for range s.Watch(ctx, workload.Selector{}) {
			}
			ended <- "cancelled"
		}()
		synctest.Wait()
		if n := s.Counts().Watchers; n != 1 {
			t.Errorf("%d watchers", n)
		}
		cancel()
		<-ended
		for range s.Watch(t.Context(), workload.Selector{}) {
			break
		}
		for range s.Watch(ctx, workload.Selector{}) {
			t.Error("a batch for a context that has ended")
		}
		if n := s.Counts().Watchers + int(s.contLog.waiters.Load()); n != 0 {
			t.Errorf("%d watchers left", n)
		}
	})
}

func TestAnIdleWatchSleepsUntilItsKindChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{})
		got := make(chan string, 100)
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			defer close(got)
			for b := range s.Watch(ctx, workload.Selector{}) {
				for _, c := range b.Changes {
					got <- changeLabel(c)
				}
			}
		}()
		synctest.Wait() // it sleeps, or this would not return
		ch := *s.contLog.notify.Load()
		s.Apply(put(onHost(key(7, 1))))
		synctest.Wait()
		if ch != *s.contLog.notify.Load() {
			t.Error("a process woke a watcher of containers")
		}
		putNamed(s, "aaaa", "a")
		synctest.Wait()
		cancel()
		var all []string
		for l := range got {
			all = append(all, l)
		}
		if diff := cmp.Diff([]string{"bookmark", "a"}, all); diff != "" {
			t.Error(diff)
		}
	})
}

func TestAWatchOfAllKindsIsWokenByEach(t *testing.T) {
	kinds := []workload.Kind{workload.KindContainer, workload.KindPod, workload.KindService, workload.KindTask, workload.KindImage, workload.KindProcess}
	if n := len(New(Options{}).logs(workload.Selector{Kinds: kinds})); n != maxLogs {
		t.Errorf("%d kinds of %d are watched here", n, maxLogs)
	}
	changes := map[workload.Kind]Change{
		workload.KindContainer: putLayer(docker("aaaa"), "docker", named(docker("aaaa"), "a")),
		workload.KindPod:       putPod("u1", "kubelet", &workload.Pod{Phase: "Running"}),
		workload.KindService:   aUnit("web.service", "active"),
		workload.KindTask:      setTask("t1", "ecs", &workload.Task{Family: "shop"}),
		workload.KindImage:     setImage("docker", &workload.Image{Runtime: "docker", ID: "sha256:aa"}),
		workload.KindProcess:   put(onHost(key(7, 1))),
	}
	for _, kind := range kinds {
		synctest.Test(t, func(t *testing.T) {
			s := New(Options{})
			ctx, cancel := context.WithCancel(t.Context())
			var last workload.Kind
			go func() {
				for b := range s.Watch(ctx, workload.Selector{Kinds: kinds}) {
					for _, c := range b.Changes {
						last = c.Entity.Kind
					}
				}
			}()
			synctest.Wait()
			s.Apply(changes[kind])
			synctest.Wait()
			if last != kind {
				t.Errorf("a %s of its own did not wake a watch of all kinds", kind)
			}
			cancel()
			synctest.Wait()
		})
	}
}

func TestStuckWatchersDelayNobody(t *testing.T) {
	s := New(Options{})
	const stuck = 1000
	putNamed(s, "aaaa", "a")
	ctx, cancel := context.WithCancel(t.Context())
	var reading, wg sync.WaitGroup
	reading.Add(stuck)
	for range stuck {
		wg.Go(func() {
			for range s.Watch(ctx, workload.Selector{Kinds: both}) {
				reading.Done()
				<-ctx.Done()
				return
			}
		})
	}
	reading.Wait()
	for i := range 10_000 {
		putNamed(s, fmt.Sprintf("c%02d", i%50), fmt.Sprint(i))
	}
	r := watch(t, s, workload.Selector{})
	if got := r.read(); len(got) != 52 {
		t.Errorf("%d changes", len(got))
	}
	if n := len(s.contLog.window.Load().entries); n > 2*minLog {
		t.Errorf("a log of %d entries for 51 containers", n)
	}
	cancel()
	wg.Wait()
}

// waitsForTheWriter has a reader ask for its next batch, which must not come as
// long as the writer is in the middle of one.
func waitsForTheWriter(t *testing.T, s *Store, w *walker) <-chan Batch {
	t.Helper()
	got := make(chan Batch)
	go func() {
		b, _ := w.next(t.Context())
		got <- b
	}()
	for s.contLog.waiters.Load() == 0 { // until the reader waits for the writer
		select {
		case b := <-got:
			t.Fatalf("a batch from the middle: %+v", b)
		default:
		}
	}
	return got
}

// A batch that the writer has begun shows in the latest versions before its
// revision does. A reader then finds entities newer than it may say, and must
// neither leave them out nor say half of the batch.
func TestAReaderInTheMiddleOfABatchWaitsForItsEnd(t *testing.T) {
	s := New(Options{})
	putNamed(s, "aaaa", "a")
	putNamed(s, "bbbb", "b")
	w := newWalker(s, workload.Selector{})
	s.mu.Lock() // what Apply does, in two halves
	s.changeContainer(putLayer(docker("aaaa"), "docker", named(docker("aaaa"), "a2")).Container)
	s.publishPending()
	windows, to, _ := w.pin(t.Context())
	hits, end := w.walk(windows, to, maxBatch)
	if len(hits) != 1 || end >= w.ahead {
		t.Fatalf("%d hits up to %d, ahead %d: the half batch was not noticed", len(hits), end, w.ahead)
	}
	got := waitsForTheWriter(t, s, w)
	s.changeContainer(putLayer(docker("bbbb"), "docker", named(docker("bbbb"), "b2")).Container)
	s.publishPending()
	s.rev.Store(uint64(s.head))
	s.contLog.wake()
	s.mu.Unlock()
	var labels []string
	for _, c := range (<-got).Changes {
		labels = append(labels, changeLabel(c))
	}
	if diff := cmp.Diff([]string{"a2", "b2", "bookmark"}, labels); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The end of something is left out where a batch finds it dropped already, which
// is newer than the batch may say. A batch that is full ends there; the next one
// takes the reader for told.
func TestWhatIsDroppedWhileAFullBatchIsMadeIsNotLeftWithTheReader(t *testing.T) {
	s := New(Options{})
	k := key(7, 1)
	s.Apply(put(onHost(k)), putLayer(docker("aaaa"), "docker", named(docker("aaaa"), "a")))
	w := newWalker(s, workload.Selector{Kinds: both})
	have := map[string]bool{}
	take := func() {
		b, _ := w.next(t.Context())
		for _, c := range b.Changes {
			if c.Type == workload.ChangeSet || c.Type == workload.ChangeUnset {
				have[entityID(c.Entity)] = c.Type == workload.ChangeSet && !c.Entity.Gone
			}
		}
	}
	take()
	if want := (map[string]bool{k.String(): true, docker("aaaa").String(): true}); !maps.Equal(have, want) {
		t.Fatalf("the reader has %v", have)
	}
	s.Apply(put(exited(onHost(k), second, 0)), gone(docker("aaaa"), second))
	for i := range maxBatch + 50 {
		s.Apply(put(onHost(key(workload.PID(100+i), 1))))
	}
	s.mu.Lock() // the first half of an Apply
	s.expire(second + workload.KTime(DefaultGrace))
	take()
	s.publishBatchLocked()
	s.mu.Unlock()
	for w.behind() {
		take()
	}
	if have[k.String()] || have[docker("aaaa").String()] {
		t.Errorf("the reader still has what has ended: the process %t, the container %t", have[k.String()], have[docker("aaaa").String()])
	}
}

// A window that the writer makes anew within a batch lacks what that batch has
// changed. As of the revision before, a reader would find nothing in its place
// and take the rest for the whole.
func TestAReaderDoesNotWalkAWindowThatIsNewerThanItsRevision(t *testing.T) {
	s := New(Options{})
	putNamed(s, "aaaa", "a")
	w := newWalker(s, workload.Selector{})
	s.mu.Lock() // what Apply does, in two halves
	before := s.contLog.window.Load()
	for i := 0; s.contLog.window.Load() == before; i++ {
		s.changeContainer(putLayer(docker("aaaa"), "docker", named(docker("aaaa"), fmt.Sprint("a", i))).Container)
		s.publishPending()
	}
	s.changeContainer(putLayer(docker("aaaa"), "docker", named(docker("aaaa"), "last")).Container)
	s.publishPending()
	got := waitsForTheWriter(t, s, w)
	s.publishBatchLocked()
	s.mu.Unlock()
	var labels []string
	for _, c := range (<-got).Changes {
		labels = append(labels, changeLabel(c))
	}
	if diff := cmp.Diff([]string{"last", "bookmark"}, labels); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
