// SPDX-License-Identifier: Apache-2.0

package collectors_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a supervisor that runs in a bubble, and what it said.
type rig struct {
	*collectors.Supervisor
	mu         sync.Mutex // guards all below
	containers []string
	hints      []collectors.HintKind
	listings   []collectors.Listing
	listed     chan collectors.Listing // those as well, up to a hundred that nobody takes
	log        bytes.Buffer
	stop       func()
}

// start runs a supervisor until the end of the test; stop may end it before.
func start(t *testing.T, opts collectors.SupervisorOptions, list ...collectors.Collector) *rig {
	t.Helper()
	r := &rig{listed: make(chan collectors.Listing, 100)}
	opts.Collectors = list
	opts.Logger = slog.New(slog.NewTextHandler(&r.log, nil))
	opts.OnContainer = func(source string, c *workload.Container) {
		r.add(func() { r.containers = append(r.containers, source+" "+c.Name) })
	}
	opts.OnHint = func(_ string, h collectors.Hint) { r.add(func() { r.hints = append(r.hints, h.Kind) }) }
	opts.OnListed = func(_ string, l collectors.Listing) {
		r.add(func() { r.listings = append(r.listings, l) })
		select {
		case r.listed <- l:
		default:
		}
	}
	s, err := collectors.NewSupervisor(opts)
	if err != nil {
		t.Fatal(err)
	}
	r.Supervisor = s
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *rig) add(fn func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fn()
}

// awaitListing waits for the next list, on a bubble's clock.
func (r *rig) awaitListing(t *testing.T, within time.Duration) collectors.Listing {
	t.Helper()
	select {
	case l := <-r.listed:
		return l
	case <-time.After(within + time.Millisecond):
		t.Fatalf("nothing is listed within %s", within)
		return collectors.Listing{}
	}
}

func (r *rig) state(t *testing.T, name string) workload.SourceStatus {
	t.Helper()
	for _, s := range r.Status() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("no status of %s", name)
	return workload.SourceStatus{}
}

func web(name string) *workload.Container {
	return &workload.Container{ID: workload.ContainerID{Runtime: "fake", ID: name}, Name: name}
}

func TestASourceIsProbedWatchedAndListedTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		f.Put(web("a"))
		f.Put(web("b"))
		r := start(t, collectors.SupervisorOptions{}, f)
		synctest.Wait()
		f.Emit(collectors.Hint{Kind: collectors.HintStarted, ID: web("c").ID})
		time.Sleep(time.Hour)
		f.Emit(collectors.Hint{Kind: collectors.HintAlive})
		synctest.Wait()
		if !slices.Equal(r.containers, []string{"fake a", "fake b", "fake a", "fake b"}) || !slices.Equal(r.hints, []collectors.HintKind{collectors.HintStarted}) {
			t.Errorf("containers %v, hints %v", r.containers, r.hints)
		}
		if len(r.listings) != 2 || !r.listings[0].Complete || len(r.listings[0].IDs) != 2 {
			t.Errorf("listings %+v", r.listings)
		}
		st := r.state(t, "fake")
		if st.State != "running" || st.Version != "fake" || st.Restarts != 0 || st.Entities != 2 {
			t.Errorf("status %+v", st)
		}
		if !st.LastContact.Equal(time.Now()) {
			t.Errorf("last contact %v, but it was heard from at %v", st.LastContact, time.Now())
		}
		if c := f.Calls(); c["list"] != 2 || c["watch"] != 1 || c["probe"] != 1 {
			t.Errorf("in an hour: %v", c)
		}
	})
}

func TestASourceThatComesLateIsFoundWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		f.Put(web("a"))
		f.Set(collectortest.Behaviour{Absent: true})
		r := start(t, collectors.SupervisorOptions{}, f)
		time.Sleep(time.Minute)
		if st := r.state(t, "fake"); st.State != "absent" || st.Errors != 0 {
			t.Errorf("status %+v", st)
		}
		if n := f.Calls()["probe"]; n > 121 {
			t.Errorf("%d probes in a minute", n)
		}
		f.Set(collectortest.Behaviour{})
		time.Sleep(time.Second)
		synctest.Wait()
		if st := r.state(t, "fake"); st.State != "running" || len(r.containers) == 0 {
			t.Errorf("a second later: %+v, %v", st, r.containers)
		}
		if n := strings.Count(r.log.String(), "\n"); n != 2 {
			t.Errorf("%d log lines, want absent and running:\n%s", n, &r.log)
		}
	})
}

func TestAStateIsToldWhenItIsAnotherOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		f.Set(collectortest.Behaviour{Absent: true})
		states := make(chan string, 100)
		start(t, collectors.SupervisorOptions{OnState: func(_, state string) { states <- state }}, f)
		time.Sleep(time.Minute)
		f.Set(collectortest.Behaviour{})
		time.Sleep(time.Minute)
		f.Cut(errors.New("reset"))
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, want := range []string{"absent", "running", "failing", "running"} {
			if got := <-states; got != want {
				t.Errorf("told of %s, want %s", got, want)
			}
		}
		if n := len(states); n > 0 {
			t.Errorf("told %d times more", n)
		}
	})
}

func TestABrokenWatchIsBegunAgainAndRelisted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		r := start(t, collectors.SupervisorOptions{}, f)
		synctest.Wait()
		f.Cut(errors.New("stream\x00 reset"))
		f.Put(web("missed"))
		time.Sleep(time.Second)
		synctest.Wait()
		if !slices.Equal(r.containers, []string{"fake missed"}) || len(r.listings) != 2 {
			t.Errorf("containers %v, %d listings", r.containers, len(r.listings))
		}
		st := r.state(t, "fake")
		if st.State != "running" || st.Restarts != 1 || !strings.Contains(st.LastError, "reset") {
			t.Errorf("status %+v", st)
		}
	})
}

// What a source loses before it has begun to tell is in its first list and in no
// event, in each of its sessions, however soon one comes after another.
func TestEverySessionListsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		f.Put(web("a"))
		r := start(t, collectors.SupervisorOptions{}, f)
		for range 5 {
			if l := r.awaitListing(t, time.Second); len(l.IDs) != 1 {
				t.Fatalf("a session begins with %+v", l)
			}
			f.Delete(web("a").ID)
			if l := r.awaitListing(t, collectors.ListAgain); len(l.IDs) != 0 || !l.Complete {
				t.Fatalf("what nobody told the end of is listed still: %+v", l)
			}
			f.Put(web("a"))
			f.Cut(errors.New("reset"))
		}
	})
}

func TestAFlappingSourceBacksOffAndLogsOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		f.Set(collectortest.Behaviour{Err: errors.New("boom"), Only: []string{"watch"}})
		r := start(t, collectors.SupervisorOptions{}, f)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := f.Calls()["list"]; n > 35 || n < 20 { // the pauses are jittered
			t.Errorf("%d lists in 30 s, want about one a second", n)
		}
		f.Set(collectortest.Behaviour{})
		time.Sleep(20 * time.Second)
		r.stop()
		lines := strings.Split(strings.TrimSpace(r.log.String()), "\n")
		if len(lines) > 3 || !strings.Contains(lines[len(lines)-1], "state=running") {
			t.Errorf("log:\n%s", &r.log)
		}
	})
}

func TestAnErrorThatStaysIsLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		f.Set(collectortest.Behaviour{Err: errors.New("boom")})
		r := start(t, collectors.SupervisorOptions{}, f)
		time.Sleep(150 * time.Second)
		r.stop()
		if n := strings.Count(r.log.String(), "\n"); n != 3 {
			t.Errorf("%d lines in 150 s, want 3:\n%s", n, &r.log)
		}
		if st := r.state(t, "fake"); st.State != "failing" || st.LastError != "probe: boom" {
			t.Errorf("status %+v", st)
		}
	})
}

func TestPanicsAreTheCollectorsErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bad, good := collectortest.NewFake("bad"), collectortest.NewFake("good")
		bad.Set(collectortest.Behaviour{Panic: true})
		good.Put(web("a"))
		r := start(t, collectors.SupervisorOptions{}, bad, good)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if st := r.state(t, "bad"); st.State != "failing" || st.Calls["panics"] < 5 || !strings.Contains(st.LastError, "panicked") {
			t.Errorf("bad: %+v", st)
		}
		if _, err := r.Lookup(t.Context(), "bad", web("a").ID); !errors.Is(err, collectors.ErrUnavailable) {
			t.Errorf("Lookup of a panicking source: %v", err)
		}
		if _, err := r.Locate(t.Context(), "bad", workload.Evidence{}); !errors.Is(err, collectors.ErrUnavailable) {
			t.Errorf("Locate of a panicking source: %v", err)
		}
		if st := r.state(t, "good"); st.State != "running" || len(r.containers) != 2 {
			t.Errorf("good: %+v", st)
		}
		bad.Set(collectortest.Behaviour{})
		time.Sleep(time.Second)
		synctest.Wait()
		if st := r.state(t, "bad"); st.State != "running" {
			t.Errorf("after it was mended: %+v", st)
		}
		if n := strings.Count(r.log.String(), "collector panicked"); n != 1 {
			t.Errorf("%d stacks in the log, want 1", n)
		}
	})
}

func TestAHungSourceCostsItsCallersTheDeadlineAndOthersNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hung, good := collectortest.NewFake("hung"), collectortest.NewFake("good")
		good.Put(web("a"))
		hung.Put(web("a"))
		hung.Set(collectortest.Behaviour{Hung: true, Only: []string{"lookup", "probe"}})
		r := start(t, collectors.SupervisorOptions{}, hung, good)
		synctest.Wait()
		began := time.Now()
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				_, err := r.Lookup(t.Context(), "hung", web("a").ID)
				if !errors.Is(err, collectors.ErrUnavailable) {
					t.Errorf("Lookup of a hung source: %v", err)
				}
			})
		}
		synctest.Wait()
		if _, err := r.Lookup(t.Context(), "good", web("a").ID); err != nil {
			t.Error(err)
		}
		if _, err := r.Prefill(t.Context(), "hung", web("a").ID); err != nil {
			t.Errorf("Prefill behind 100 hung lookups: %v", err)
		}
		if d := time.Since(began); d != 0 {
			t.Errorf("the others waited %v", d)
		}
		wg.Wait()
		if d := time.Since(began); d != 2*time.Second {
			t.Errorf("100 calls took %v, want the deadline", d)
		}
		st := r.state(t, "hung")
		if st.Calls["lookup"] != 100 || st.Calls["waited"] != 84 || hung.Peak() > 18 {
			t.Errorf("calls %v, at most %d inside", st.Calls, hung.Peak())
		}
		if st.Errors < 100 || !strings.Contains(st.LastError, "no answer in 2s") {
			t.Errorf("status %+v", st)
		}
	})
}

func TestNoMoreCallsThanTheLimitAreInsideAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		f.Put(web("a"))
		f.Set(collectortest.Behaviour{Delay: 100 * time.Millisecond})
		r := start(t, collectors.SupervisorOptions{Concurrency: 3}, collectortest.Bare(f))
		var wg sync.WaitGroup
		began := time.Now()
		for range 30 {
			wg.Go(func() {
				if _, err := r.Lookup(t.Context(), "fake", web("a").ID); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if d := time.Since(began); d != time.Second || f.Peak() != 3 {
			t.Errorf("30 calls of 100 ms, 3 at once: %v, peak %d", d, f.Peak())
		}
	})
}

func TestACallerWhoGivesUpIsNoFailureOfTheSource(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		r := start(t, collectors.SupervisorOptions{}, f)
		synctest.Wait()
		f.Set(collectortest.Behaviour{Hung: true})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		if _, err := r.Lookup(ctx, "fake", web("a").ID); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Lookup: %v", err)
		}
		f.Set(collectortest.Behaviour{})
		if st := r.state(t, "fake"); st.Errors != 0 || st.State != "running" {
			t.Errorf("status %+v", st)
		}
	})
}

func TestAFailingCallMakesTheSourceProbedAndFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		r := start(t, collectors.SupervisorOptions{}, f)
		synctest.Wait()
		f.Set(collectortest.Behaviour{Err: collectors.ErrUnavailable, Only: []string{"lookup", "probe"}})
		_, _ = r.Lookup(t.Context(), "fake", web("a").ID)
		synctest.Wait()
		if st := r.state(t, "fake"); st.State != "failing" {
			t.Errorf("status %+v", st)
		}
		f.Set(collectortest.Behaviour{})
		time.Sleep(time.Second)
		synctest.Wait()
		if st := r.state(t, "fake"); st.State != "running" || len(r.listings) != 2 {
			t.Errorf("status %+v, %d lists", st, len(r.listings))
		}
	})
}

func TestALieAboutAnotherContainerIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		f.Put(web("a"))
		r := start(t, collectors.SupervisorOptions{}, collectortest.Bare(f))
		for name, lie := range map[string]func(*workload.Container) *workload.Container{
			"another's description": func(*workload.Container) *workload.Container { return web("victim") },
			"nothing":               func(*workload.Container) *workload.Container { return nil },
		} {
			f.Set(collectortest.Behaviour{Lie: lie})
			if c, err := r.Lookup(t.Context(), "fake", web("a").ID); c != nil || !errors.Is(err, collectors.ErrUnavailable) {
				t.Errorf("%s: %v, %v", name, c, err)
			}
		}
	})
}

func TestABareCollectorIsRunningAndReadsNoFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		f.Put(web("a"))
		r := start(t, collectors.SupervisorOptions{}, collectortest.Bare(f))
		time.Sleep(time.Minute)
		if st := r.state(t, "fake"); st.State != "running" {
			t.Errorf("status %+v", st)
		}
		if _, err := r.Prefill(t.Context(), "fake", web("a").ID); !errors.Is(err, collectors.ErrNotFound) {
			t.Errorf("Prefill: %v", err)
		}
		if _, err := r.Lookup(t.Context(), "nobody", web("a").ID); !errors.Is(err, collectors.ErrNotPresent) {
			t.Errorf("Lookup of no collector: %v", err)
		}
		if r.Collector("fake") == nil || r.Collector("nobody") != nil || !slices.Equal(r.Names(), []string{"fake"}) {
			t.Errorf("names %v", r.Names())
		}
	})
}

func TestOneBadContainerMakesAListIncompleteAndHidesNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		for _, n := range []string{"a", "poisoned", "z"} {
			f.Put(web(n))
		}
		f.Set(collectortest.Behaviour{Lie: func(c *workload.Container) *workload.Container {
			if c.Name == "poisoned" {
				return nil
			}
			return c
		}})
		r := start(t, collectors.SupervisorOptions{}, f)
		time.Sleep(time.Minute)
		synctest.Wait()
		if !slices.Equal(r.containers, []string{"fake a", "fake z", "fake a", "fake z"}) {
			t.Errorf("containers %v", r.containers)
		}
		if len(r.listings) != 2 || r.listings[0].Complete || r.listings[1].Complete {
			t.Errorf("listings %+v", r.listings)
		}
		if st := r.state(t, "fake"); st.State != "running" {
			t.Errorf("status %+v", st)
		}
	})
}

func TestRelistAsksAgainAndManyAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		f.Set(collectortest.Behaviour{Delay: time.Second, Only: []string{"list"}})
		r := start(t, collectors.SupervisorOptions{}, f)
		time.Sleep(2 * time.Second)
		for range 100 {
			r.Relist("fake")
		}
		r.Relist("")
		r.Relist("nobody")
		r.Nudge()
		time.Sleep(time.Minute)
		if c := f.Calls(); c["list"] < 2 || c["list"] > 4 || c["nudge"] != 1 {
			t.Errorf("calls %v", c)
		}
	})
}

func TestTwoCollectorsOfOneNameAreRefused(t *testing.T) {
	_, err := collectors.NewSupervisor(collectors.SupervisorOptions{
		Collectors: []collectors.Collector{collectortest.NewFake("x"), collectortest.NewFake("x")},
	})
	if err == nil {
		t.Error("no error")
	}
}

// Files are not virtual, so this one runs in real time.
func TestASocketThatWasReplacedIsReconnected(t *testing.T) {
	path := t.TempDir() + "/s.sock"
	listen := func() *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := listen()
	f := collectortest.NewFake("fake")
	f.SetReport(collectors.Report{Where: "unix://" + path})
	listed := make(chan collectors.Listing, 10)
	s, err := collectors.NewSupervisor(collectors.SupervisorOptions{
		Collectors: []collectors.Collector{f},
		OnListed:   func(_ string, l collectors.Listing) { listed <- l },
		MinBackoff: time.Millisecond, MaxBackoff: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-listed
	l.Close()
	l = listen()
	defer l.Close()
	select {
	case <-listed:
	case <-time.After(10 * time.Second):
		t.Error("no list after the socket was replaced")
	}
	cancel()
	<-done
}

func TestASourceIsPromptWhileItAnswers(t *testing.T) {
	const silence = 250 * time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		f := collectortest.NewFake("fake")
		f.Put(web("a"))
		f.Set(collectortest.Behaviour{Absent: true})
		r := start(t, collectors.SupervisorOptions{}, f)
		lookUp := func(b collectortest.Behaviour) {
			b.Only = []string{"lookup"}
			f.Set(b)
			go func() { _, _ = r.Lookup(t.Context(), "fake", web("a").ID) }()
			synctest.Wait()
		}
		prompt := func(want bool, when string) {
			t.Helper()
			if r.Prompt("fake", silence) != want {
				t.Errorf("%s: prompt is %v", when, !want)
			}
		}
		synctest.Wait()
		prompt(false, "absent")
		f.Set(collectortest.Behaviour{})
		time.Sleep(time.Second)
		synctest.Wait()
		prompt(true, "there, and never asked")
		lookUp(collectortest.Behaviour{Err: collectors.ErrUnavailable})
		prompt(false, "it refused the last call")
		lookUp(collectortest.Behaviour{Err: collectors.ErrNotFound})
		prompt(true, "not to be found is an answer")
		lookUp(collectortest.Behaviour{Delay: time.Second})
		time.Sleep(silence - 1)
		prompt(true, "it has been silent for less than it may")
		lookUp(collectortest.Behaviour{})
		time.Sleep(silence - 1)
		prompt(true, "it answered another call meanwhile")
		time.Sleep(time.Nanosecond)
		prompt(false, "it owes an answer for too long")
		time.Sleep(time.Second)
		prompt(true, "it has answered all")
		lookUp(collectortest.Behaviour{Hung: true})
		time.Sleep(time.Minute)
		prompt(false, "its last call had no answer")
		if r.Prompt("nobody", silence) {
			t.Error("a source that does not exist is prompt")
		}
	})
}
