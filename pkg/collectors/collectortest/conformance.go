// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Times of the suite. Prompt is what a call may take when it need not wait for
// the engine; it is long because tests share two cores.
const (
	prompt   = 3 * time.Second
	deadline = 300 * time.Millisecond
	patience = 30 * time.Second
)

// Harness is what Run needs to know of a collector and its real engine.
type Harness struct {
	// New makes a collector on the engine. Each subtest makes its own.
	New func(testing.TB) collectors.Collector
	// Start starts a container that runs until it is stopped, at the latest when the test ends.
	Start func(testing.TB) *Started
	// Unknown is an id of the right form that the engine does not have.
	Unknown workload.ContainerID

	// NewAt makes a collector on the engine behind another socket, and Proxy a
	// proxy in front of the real one. Nil for a source without a socket.
	NewAt func(tb testing.TB, socket string) collectors.Collector
	Proxy func(testing.TB) *Proxy
}

// Started is a container that runs.
type Started struct {
	// Want is what Lookup must say. Fields that are zero are not compared; of
	// Labels and Env, only what is in Want; of Run, whether Init.PID agrees.
	Want *workload.Container
	// Prefill is what Prefill must say, in the same way; nil: Want's id alone.
	Prefill *workload.Container
	// Evidence is what the agent would see of it.
	Evidence workload.Evidence
	// Stop ends it, and Remove makes the engine forget it. Either may be nil.
	Stop, Remove func()
}

// anywhere gives the container as an engine at any socket has it.
func (s *Started) anywhere() *Started {
	out := *s
	out.Want = s.Want.Clone()
	out.Want.ID.Instance = ""
	return &out
}

// Run holds a collector to the contract of package collectors, on a real
// engine. Subtests for optional interfaces run where the collector has them.
func Run(t *testing.T, h Harness) {
	s := suite{h: h, c: h.Start(t)}
	t.Run("the name is one lower-case word", s.name)
	t.Run("Lookup describes a running container", s.lookup)
	t.Run("Lookup finds by the bare id of a claim", s.lookupClaim)
	t.Run("Locate finds the container of the evidence", s.locate)
	t.Run("an unknown id is not found", s.unknown)
	t.Run("a hostile id is refused at once", s.hostile)
	t.Run("another runtime's id is not mine", s.foreign)
	t.Run("a cancelled call returns at once", s.cancelled)
	t.Run("concurrent calls agree", s.concurrent)
	t.Run("what a call returned is the caller's own", s.independent)
	probe := h.New(t)
	if _, ok := probe.(collectors.Prefiller); ok {
		t.Run("Prefill reads the container from files", s.prefill)
	}
	if _, ok := probe.(collectors.Prober); ok {
		t.Run("Probe says where the source is", s.probe)
	}
	if _, ok := probe.(collectors.Lister); ok {
		t.Run("List has the container and may be left early", s.list)
	}
	if _, ok := probe.(collectors.Watcher); ok {
		t.Run("Watch hears of a start and an end", s.watch)
	}
	// Behind another socket it is another instance: ask as a claim does, without one.
	s.c = s.c.anywhere()
	if h.NewAt != nil {
		t.Run("a dead socket is unavailable or not present", s.dead)
	}
	if h.NewAt != nil && h.Proxy != nil {
		t.Run("a hung engine costs no more than the deadline", s.hung)
		t.Run("a cut connection heals by itself", s.cut)
		t.Run("Lookup makes one call", s.calls)
	}
}

type suite struct {
	h Harness
	c *Started
}

func (s suite) name(t *testing.T) {
	name := s.h.New(t).Name()
	if name == "" || strings.ToLower(name) != name || strings.ContainsAny(name, " \t/:") {
		t.Errorf("name %q", name)
	}
	if id := s.c.Want.ID; id.Runtime == "" || id.ID == "" {
		t.Errorf("harness: Want has no whole id: %+v", id)
	}
}

func (s suite) lookup(t *testing.T) {
	got, err := s.h.New(t).Lookup(bounded(t, patience), s.c.Want.ID)
	if err != nil {
		t.Fatal(err)
	}
	Covers(t, s.c.Want, got)
}

func (s suite) lookupClaim(t *testing.T) {
	got, err := s.h.New(t).Lookup(bounded(t, patience), workload.ContainerID{ID: s.c.Want.ID.ID})
	if err != nil {
		t.Fatal(err)
	}
	if got.ID != s.c.Want.ID {
		t.Errorf("id %+v, want the whole %+v", got.ID, s.c.Want.ID)
	}
}

func (s suite) prefill(t *testing.T) {
	pre := s.h.New(t).(collectors.Prefiller)
	got, err := pre.Prefill(bounded(t, patience), s.c.Want.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := s.c.Prefill
	if want == nil {
		want = &workload.Container{ID: s.c.Want.ID}
	}
	Covers(t, want, got)
	if _, err := pre.Prefill(bounded(t, patience), s.h.Unknown); !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("Prefill of an unknown id: %v, want ErrNotFound", err)
	}
}

func (s suite) locate(t *testing.T) {
	c := s.h.New(t)
	id, err := c.Locate(bounded(t, patience), s.c.Evidence)
	if err != nil || id != s.c.Want.ID {
		t.Errorf("Locate = %+v, %v; want %+v", id, err, s.c.Want.ID)
	}
	none := workload.Evidence{
		Cgroups: []workload.CgroupPath{{CgroupID: workload.CgroupID{ID: 1}, Path: "/user.slice"}},
		Init:    workload.ProcessKey{PID: workload.PID(os.Getpid())},
	}
	if id, err := c.Locate(bounded(t, patience), none); !errors.Is(err, collectors.ErrNotFound) && !errors.Is(err, collectors.ErrNotMine) {
		t.Errorf("Locate of a process of the host = %+v, %v; want ErrNotFound", id, err)
	}
	unknown := workload.Evidence{Claims: []workload.ContainerID{s.h.Unknown}}
	if id, err := c.Locate(bounded(t, patience), unknown); !errors.Is(err, collectors.ErrNotFound) && !errors.Is(err, collectors.ErrNotMine) {
		t.Errorf("Locate of a name that nobody gave = %+v, %v; want ErrNotFound", id, err)
	}
}

func (s suite) unknown(t *testing.T) {
	c, err := s.h.New(t).Lookup(bounded(t, patience), s.h.Unknown)
	if !errors.Is(err, collectors.ErrNotFound) || c != nil {
		t.Errorf("Lookup = %v, %v; want ErrNotFound", c, err)
	}
}

// hostile ids come from cgroup names, which a container may write.
func (s suite) hostile(t *testing.T) {
	c := s.h.New(t)
	for _, raw := range []string{
		"", ".", "..", "/", "../../../etc/passwd", "a/../../b", "a\x00b", "\x1b[31m", "a b", "%2e%2e", "-h", "?", "*",
		strings.Repeat("a", 63), strings.Repeat("A", 64), strings.Repeat("a", 65), strings.Repeat("a", 100000), "\xff\xfe", "{}", `"`,
	} {
		id := s.h.Unknown
		id.ID = raw
		began := time.Now()
		got, err := c.Lookup(bounded(t, patience), id)
		if got != nil || !(errors.Is(err, collectors.ErrNotFound) || errors.Is(err, collectors.ErrNotMine)) {
			t.Errorf("Lookup of %.40q = %v, %.200v; want ErrNotFound or ErrNotMine", raw, got, err)
		}
		if p, ok := c.(collectors.Prefiller); ok {
			if got, err := p.Prefill(bounded(t, patience), id); got != nil || err == nil {
				t.Errorf("Prefill of %.40q = %v, %v; want an error", raw, got, err)
			}
		}
		if d := time.Since(began); d > prompt {
			t.Errorf("Lookup of %.40q took %v", raw, d)
		}
	}
}

func (s suite) foreign(t *testing.T) {
	id := s.c.Want.ID
	id.Runtime = "some-other-runtime"
	got, err := s.h.New(t).Lookup(bounded(t, patience), id)
	if got != nil || !(errors.Is(err, collectors.ErrNotMine) || errors.Is(err, collectors.ErrNotFound)) {
		t.Errorf("Lookup = %v, %v; want ErrNotMine", got, err)
	}
}

func (s suite) cancelled(t *testing.T) {
	c := s.h.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, call := range everyCall(c, s.c) {
		began := time.Now()
		err := call.fn(ctx)
		if err == nil {
			t.Errorf("%s succeeded with a cancelled context", call.name)
		}
		if d := time.Since(began); d > prompt {
			t.Errorf("%s took %v with a cancelled context", call.name, d)
		}
	}
}

func (s suite) concurrent(t *testing.T) {
	c := s.h.New(t)
	ctx := bounded(t, patience)
	var wg sync.WaitGroup
	for range 4 {
		for _, call := range everyCall(c, s.c) {
			if call.name == "Watch" {
				continue
			}
			wg.Go(func() {
				if err := call.fn(ctx); err != nil {
					t.Errorf("%s: %v", call.name, err)
				}
			})
		}
	}
	wg.Wait()
}

func (s suite) independent(t *testing.T) {
	c := s.h.New(t)
	first, err := c.Lookup(bounded(t, patience), s.c.Want.ID)
	if err != nil {
		t.Fatal(err)
	}
	spoil(first)
	second, err := c.Lookup(bounded(t, patience), s.c.Want.ID)
	if err != nil {
		t.Fatal(err)
	}
	Covers(t, s.c.Want, second)
}

// spoil changes everything of c that a second answer could share.
func spoil(c *workload.Container) {
	for k := range c.Labels {
		c.Labels[k] = "spoiled"
	}
	for k := range c.Env {
		c.Env[k] = "spoiled"
	}
	for i := range c.Mounts {
		c.Mounts[i].Destination = "/spoiled"
	}
	if c.Run != nil {
		c.Run.Init.PID = 1
	}
	if c.Security != nil {
		c.Security.Privileged = !c.Security.Privileged
	}
}

func (s suite) probe(t *testing.T) {
	r, err := s.h.New(t).(collectors.Prober).Probe(bounded(t, patience))
	if err != nil || r.Where == "" {
		t.Errorf("Probe = %+v, %v", r, err)
	}
}

func (s suite) list(t *testing.T) {
	l := s.h.New(t).(collectors.Lister)
	var found *workload.Container
	for c, err := range l.List(bounded(t, patience)) {
		if err != nil {
			t.Errorf("List: %v", err)
			continue
		}
		if c.ID == s.c.Want.ID {
			found = c
		}
	}
	if found == nil {
		t.Fatal("List does not have the container")
	}
	Covers(t, &workload.Container{ID: s.c.Want.ID, Name: s.c.Want.Name, Labels: s.c.Want.Labels}, found)
	n := 0
	for range l.List(bounded(t, patience)) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("List yielded %d times before it was left", n)
	}
}

func (s suite) watch(t *testing.T) {
	c := s.h.New(t)
	w := c.(collectors.Watcher)
	ctx, cancel := context.WithCancel(t.Context())
	hints := newHintLog()
	ended := make(chan error, 1)
	go func() { ended <- w.Watch(ctx, hints.add) }()

	fresh := s.startUntilHeard(t, c, hints)
	if fresh.Stop != nil {
		fresh.Stop()
		nudge(c)
		hints.wait(t, "its end", func(h collectors.Hint) bool {
			return h.ID == fresh.Want.ID && (h.Kind == collectors.HintExited || h.Kind == collectors.HintDeleted)
		})
	}
	if fresh.Remove != nil {
		fresh.Remove()
		nudge(c)
		hints.wait(t, "its removal", func(h collectors.Hint) bool {
			return h.ID == fresh.Want.ID && h.Kind == collectors.HintDeleted
		})
	}
	cancel()
	select {
	case <-ended:
	case <-time.After(prompt):
		t.Error("Watch did not return when its context ended")
	}
}

// startUntilHeard starts containers until one is heard of: nothing says when a
// Watch has begun to listen.
func (s suite) startUntilHeard(t *testing.T, c collectors.Collector, hints *hintLog) *Started {
	t.Helper()
	for range 5 {
		fresh := s.h.Start(t)
		nudge(c)
		heard := hints.waitFor(3*time.Second, func(h collectors.Hint) bool {
			return h.ID == fresh.Want.ID && (h.Kind == collectors.HintStarted || h.Kind == collectors.HintCreated)
		})
		if heard {
			return fresh
		}
	}
	t.Fatalf("no hint of five starts; heard:\n%s", hints)
	return nil
}

func nudge(c collectors.Collector) {
	if n, ok := c.(collectors.Nudger); ok {
		n.Nudge()
	}
}

func (s suite) dead(t *testing.T) {
	dir := privateDir(t, "pds")
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/dir", 0o700); err != nil {
		t.Fatal(err)
	}
	for name, socket := range map[string]string{
		"no file": dir + "/none", "a file": dir + "/file", "a directory": dir + "/dir", "nobody listens": staleSocket(t, dir),
	} {
		t.Run(name, func(t *testing.T) { s.deadAt(t, socket) })
	}
}

// staleSocket makes a socket file that nobody serves.
func staleSocket(t testing.TB, dir string) string {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/stale", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	return dir + "/stale"
}

func (s suite) deadAt(t *testing.T, socket string) {
	c := s.h.NewAt(t, socket)
	for _, call := range everyCall(c, s.c) {
		if call.name == "Prefill" || call.name == "Locate" {
			continue // they may do with files
		}
		began := time.Now()
		err := call.fn(bounded(t, patience))
		if !errors.Is(err, collectors.ErrUnavailable) && !errors.Is(err, collectors.ErrNotPresent) {
			t.Errorf("%s: %v; want ErrUnavailable or ErrNotPresent", call.name, err)
		}
		if d := time.Since(began); d > prompt {
			t.Errorf("%s took %v", call.name, d)
		}
	}
}

func (s suite) hung(t *testing.T) {
	p := s.h.Proxy(t)
	c := s.h.NewAt(t, p.Socket)
	if _, err := c.Lookup(bounded(t, patience), s.c.Want.ID); err != nil {
		t.Fatalf("before: %v", err)
	}
	p.Hang()
	for _, call := range everyCall(c, s.c) {
		began := time.Now()
		err := call.fn(bounded(t, deadline))
		if err == nil && call.name != "Prefill" && call.name != "Locate" && call.name != "Watch" {
			t.Errorf("%s succeeded though the engine hangs", call.name)
		}
		if d := time.Since(began); d > deadline+prompt {
			t.Errorf("%s took %v with a deadline of %v", call.name, d, deadline)
		}
	}
	p.Resume()
	s.heals(t, c)
}

func (s suite) cut(t *testing.T) {
	p := s.h.Proxy(t)
	c := s.h.NewAt(t, p.Socket)
	s.heals(t, c)
	p.Cut()
	s.heals(t, c)
	p.Remove()
	if _, err := c.Lookup(bounded(t, 5*time.Second), s.c.Want.ID); err == nil {
		t.Error("Lookup succeeded without a socket")
	}
	if err := p.Listen(); err != nil {
		t.Fatal(err)
	}
	s.heals(t, c)
}

// heals waits until the collector answers again. The first call after a cut may
// fail: it may have been the one that found out.
func (s suite) heals(t *testing.T, c collectors.Collector) {
	t.Helper()
	err := poll(bounded(t, patience), func() error {
		_, err := c.Lookup(bounded(t, 2*time.Second), s.c.Want.ID)
		return err
	})
	if err != nil {
		t.Errorf("Lookup does not work again: %v", err)
	}
}

func (s suite) calls(t *testing.T) {
	p := s.h.Proxy(t)
	c := s.h.NewAt(t, p.Socket)
	s.heals(t, c) // whatever a client asks once, it asks now
	p.ResetCalls()
	if _, err := c.Lookup(bounded(t, patience), s.c.Want.ID); err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, k := range p.Calls() {
		n += k
	}
	if n > 1 {
		t.Errorf("Lookup made %d calls: %v", n, p.Calls())
	}
}

// namedCall is one method with its arguments.
type namedCall struct {
	name string
	fn   func(context.Context) error
}

// everyCall gives the methods that c has, as calls about one container.
func everyCall(c collectors.Collector, about *Started) []namedCall {
	calls := []namedCall{
		{"Lookup", func(ctx context.Context) error { _, err := c.Lookup(ctx, about.Want.ID); return err }},
		{"Locate", func(ctx context.Context) error { _, err := c.Locate(ctx, about.Evidence); return err }},
	}
	if p, ok := c.(collectors.Prefiller); ok {
		calls = append(calls, namedCall{"Prefill", func(ctx context.Context) error { _, err := p.Prefill(ctx, about.Want.ID); return err }})
	}
	if p, ok := c.(collectors.Prober); ok {
		calls = append(calls, namedCall{"Probe", func(ctx context.Context) error { _, err := p.Probe(ctx); return err }})
	}
	if l, ok := c.(collectors.Lister); ok {
		calls = append(calls, namedCall{"List", func(ctx context.Context) error {
			var first error
			for _, err := range l.List(ctx) {
				first = errors.Join(first, err)
			}
			return first
		}})
	}
	if w, ok := c.(collectors.Watcher); ok {
		calls = append(calls, namedCall{"Watch", func(ctx context.Context) error { return w.Watch(ctx, func(collectors.Hint) {}) }})
	}
	return calls
}

func bounded(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// Covers fails the test where got contradicts want. Fields that are zero in
// want are not compared; of maps, only want's keys.
func Covers(t testing.TB, want, got *workload.Container) {
	t.Helper()
	if got == nil {
		t.Fatal("no container")
	}
	w, g := summary(want, want), summary(want, got)
	if d := cmp.Diff(w, g); d != "" {
		t.Errorf("container %s (-want +got):\n%s", want.ID, d)
	}
}

// summary flattens those fields of c that are set in want.
func summary(want, c *workload.Container) map[string]string {
	out := map[string]string{}
	add := func(key string, wanted, v any) {
		if s := fmt.Sprint(wanted); s != "" && s != "0" && s != "[]" && s != "<nil>" && s != "false" {
			out[key] = fmt.Sprint(v)
		}
	}
	add("id", want.ID, c.ID.Runtime+"|"+c.ID.Instance+"|"+c.ID.Namespace+"|"+c.ID.ID)
	add("name", want.Name, c.Name)
	add("runtime", want.Runtime, c.Runtime)
	add("image", want.Image.Name, c.Image.Name)
	add("image tag", want.Image.Tag, c.Image.Tag)
	add("image id", want.Image.ID, c.Image.ID)
	add("image digest", want.Image.Digest, c.Image.Digest)
	add("state", want.State, c.State)
	add("hostname", want.Hostname, c.Hostname)
	add("user", want.User, c.User)
	add("networks", want.Networks, c.Networks)
	add("ports", want.Ports, c.Ports)
	add("mounts", want.Mounts, c.Mounts)
	for _, k := range slices.Sorted(maps.Keys(want.Labels)) {
		out["label "+k] = c.Labels[k]
	}
	for _, k := range slices.Sorted(maps.Keys(want.Env)) {
		out["env "+k] = c.Env[k]
	}
	if want.Run != nil && want.Run.Init.PID != 0 {
		out["pid"] = "none"
		if c.Run != nil {
			out["pid"] = fmt.Sprint(c.Run.Init.PID)
		}
	}
	if want.Security != nil {
		out["security"] = "none"
		if c.Security != nil {
			out["security"] = fmt.Sprintf("%+v", *c.Security)
		}
	}
	if want.Limits != nil {
		out["limits"] = "none"
		if c.Limits != nil {
			out["limits"] = fmt.Sprintf("%+v", *c.Limits)
		}
	}
	return out
}

// hintLog keeps hints and lets a test wait for one.
type hintLog struct {
	mu    sync.Mutex // guards all below
	hints []collectors.Hint
	more  chan struct{} // closed and replaced at each hint
}

func newHintLog() *hintLog { return &hintLog{more: make(chan struct{})} }

func (l *hintLog) add(h collectors.Hint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hints = append(l.hints, h)
	close(l.more)
	l.more = make(chan struct{})
}

func (l *hintLog) find(match func(collectors.Hint) bool) (bool, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(l.hints, match), l.more
}

func (l *hintLog) waitFor(d time.Duration, match func(collectors.Hint) bool) bool {
	late := time.After(d)
	for {
		found, more := l.find(match)
		if found {
			return true
		}
		select {
		case <-more:
		case <-late:
			return false
		}
	}
}

func (l *hintLog) wait(t testing.TB, what string, match func(collectors.Hint) bool) {
	t.Helper()
	if !l.waitFor(patience, match) {
		t.Errorf("no hint of %s; heard:\n%s", what, l)
	}
}

// String gives one hint on a line.
func (l *hintLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	for _, h := range l.hints {
		fmt.Fprintf(&b, "  %s %s\n", h.Kind, h.ID)
	}
	return b.String()
}
