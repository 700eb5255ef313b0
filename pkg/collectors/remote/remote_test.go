// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// other is another pidigree: a real store behind a real server.
type other struct {
	*store.Store
	status workload.AgentStatus
	// watch replaces the stream.
	watch func(context.Context, workload.Selector) iter.Seq[[]workload.Change]
}

func (o *other) Resolve(context.Context, server.Peer, []workload.Query, []workload.Result) {}

func (o *other) List(_ context.Context, sel workload.Selector) iter.Seq[workload.Entity] {
	return o.All(sel)
}

func (o *other) Watch(ctx context.Context, sel workload.Selector) iter.Seq[[]workload.Change] {
	if o.watch != nil {
		return o.watch(ctx, sel)
	}
	return func(yield func([]workload.Change) bool) {
		for b := range o.Store.Watch(ctx, sel) {
			if !yield(b.Changes) {
				return
			}
		}
	}
}

func (o *other) Status(context.Context) workload.AgentStatus { return o.status }

var thisBoot = workload.AgentStatus{Version: "1.2.3", PID: 7, Host: "node1", BootID: "boot-1", PIDNamespace: 4026531836}

func newOther() *other {
	return &other{Store: store.New(store.Options{Base: workload.Revision(time.Now().UnixMicro())}), status: thisBoot}
}

func tempSocket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pidigree")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "p.sock")
}

// serve serves until stop is called, or the test ends.
func (o *other) serve(t testing.TB, socket string) (stop func()) {
	t.Helper()
	group := strconv.Itoa(os.Getegid())
	s, err := server.New(server.Options{Backend: o, Group: group})
	must(t, err)
	l, err := server.Listen(socket, group, false)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ctx, l) // the tests see what it does
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

// here is this host's store, with the other one as a source.
type here struct {
	*store.Store
	src *Source
}

func listen(t testing.TB, socket string, opt Options) *here {
	t.Helper()
	h := &here{Store: store.New(store.Options{})}
	opt.Client = client.Options{Socket: socket}
	opt.Apply = func(changes ...store.Change) { h.Apply(changes...) }
	if opt.Here == (Host{}) {
		opt.Here = Host{BootID: thisBoot.BootID, PIDNamespace: thisBoot.PIDNamespace}
	}
	opt.MaxPause = 20 * time.Millisecond
	h.src = New(opt)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- h.src.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run: %v", err)
		}
	})
	return h
}

// await polls, as whoever asks a store does.
func await(t testing.TB, what func() error) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if err = what(); err == nil {
			return
		}
	}
	t.Fatal(err)
}

func id(name string) workload.ContainerID { return workload.ContainerID{Runtime: "docker", ID: name} }

func container(name string) store.Change {
	return layer("docker", &workload.Container{ID: id(name), Name: name, State: workload.StateRunning, Labels: map[string]string{"of": name}})
}

func layer(source string, c *workload.Container) store.Change {
	return store.Change{Container: &store.ContainerChange{ID: c.ID, Source: source, Layer: c}}
}

func process(pid workload.PID, start uint64, in string) *workload.Process {
	p := &workload.Process{Key: workload.ProcessKey{PID: pid, Start: start, Inode: start}, Comm: "app", Status: workload.StatusHost, Parent: 1}
	if in != "" {
		p.Status, p.Confidence, p.Container, p.Entry = workload.StatusContainer, workload.Confirmed, id(in), workload.EntryInit
	}
	return p
}

func put(p *workload.Process) store.Change { return store.Change{Process: p} }

// entities gives all that a store has, by name, without what each store says for itself.
func entities(s *store.Store, all bool) map[string]workload.Entity {
	out := map[string]workload.Entity{}
	for e := range s.All(workload.Selector{Kinds: kinds, All: all}) {
		e.Revision = 0
		switch {
		case e.Container != nil:
			c := e.Container.Clone()
			c.Sources = nil
			e.Container = c
		case e.Process != nil:
			p := e.Process.Clone()
			p.Source = ""
			e.Process = p
		case e.Pod != nil:
			p := e.Pod.Clone()
			p.Sources = nil
			e.Pod = p
		case e.Task != nil:
			k := e.Task.Clone()
			k.Sources = nil
			e.Task = k
		case e.Image != nil:
			i := *e.Image
			i.Sources = nil
			e.Image = &i
		}
		out[e.Key()] = e
	}
	return out
}

func same(a, b *store.Store, all bool) error {
	if d := cmp.Diff(entities(a, all), entities(b, all)); d != "" {
		return fmt.Errorf("there and here differ:\n%s", d)
	}
	return nil
}

// full makes one of each kind.
func full(s *store.Store) {
	s.SetAsOf(50)
	run := &workload.Run{Init: process(10, 100, "").Key, Cgroups: []workload.CgroupPath{{CgroupID: workload.CgroupID{ID: 77}, Path: "/docker/web"}}, Started: 40}
	s.Apply(
		container("web"), layer(store.KernelSource, &workload.Container{ID: id("web"), Run: run, Confidence: workload.Confirmed, Timeline: []workload.Mark{{What: workload.MarkKnown, Source: "kernel", At: 41}}}),
		container("gone"), store.Change{Container: &store.ContainerChange{ID: id("gone"), Gone: 45}},
		put(process(10, 100, "web")), put(process(11, 101, "")),
		put(func() *workload.Process {
			p := process(12, 102, "web")
			p.Exit = &workload.Exit{Known: true, Code: 3, At: 44}
			return p
		}()),
		store.Change{Pod: &store.PodChange{UID: "pod", Source: "cri", Layer: &workload.Pod{PodRef: workload.PodRef{UID: "pod", Name: "shop"}}}},
		store.Change{Task: &store.TaskChange{ARN: "arn:task", Source: "ecs", Layer: &workload.Task{ARN: "arn:task", Family: "shop"}}},
		store.Change{Service: &store.ServiceChange{Service: &workload.Service{Unit: "ssh.service", Cgroup: "/system.slice/ssh.service", MainPID: 11}}},
	)
	i := &workload.Image{ID: "sha256:1", Runtime: "docker", Names: []string{"shop:1"}}
	s.Apply(store.Change{Image: &store.ImageChange{Key: i.Key(), Source: "docker", Layer: i}})
}

func TestAnUnprivilegedReaderHasTheSameStore(t *testing.T) {
	for name, opt := range map[string]Options{"a copy of this host": {Copy: true}, "a copy of another one": {Copy: true, Here: Host{BootID: "boot-2"}}} {
		t.Run(name, func(t *testing.T) {
			o, socket := newOther(), tempSocket(t)
			full(o.Store)
			o.serve(t, socket)
			h := listen(t, socket, opt)
			<-h.src.Whole()
			if opt.Here != (Host{}) { // the clock is another one
				a := h.Resolve(process(10, 100, "web").Key)
				if c := a.Container(); c == nil || c.Run.Init.PID != 10 || c.Run.Started != 0 || len(c.Timeline) != 0 || len(c.Run.Cgroups) != 1 {
					t.Errorf("%+v", c)
				}
				if len(entities(o.Store, true)) != len(entities(h.Store, true)) {
					t.Error("not everything is there")
				}
				return
			}
			must(t, same(o.Store, h.Store, true))
			for _, p := range []*workload.Process{process(10, 100, "web"), process(11, 101, ""), process(12, 102, "web")} {
				a, b := o.Store.Resolve(p.Key), h.Resolve(p.Key)
				if a.Status != b.Status || a.Exited != b.Exited || len(a.Containers) != len(b.Containers) || b.Process.Source != Name {
					t.Errorf("%s: %+v, and here %+v", p.Key, a, b)
				}
			}
			if st := h.src.Status(); st.State != "running" || st.Version != "1.2.3" || st.Where != socket || st.Calls["stream"] != 1 || st.Detail != "a copy of an agent of this host" || !h.src.SameBoot() {
				t.Errorf("status: %+v", st)
			}
		})
	}
}

func TestOfAnotherHostComesWhatMeansTheSameHere(t *testing.T) {
	o, socket := newOther(), tempSocket(t)
	full(o.Store)
	o.serve(t, socket)
	h := listen(t, socket, Options{Here: Host{BootID: "boot-2", PIDNamespace: thisBoot.PIDNamespace}})
	h.Apply(layer("docker", &workload.Container{ID: id("web"), Name: "ours"}), put(process(10, 100, "web")))
	<-h.src.Whole()
	if c, ok := h.Container(id("web")); !ok || c.Name != "ours" || len(c.Sources) != 1 {
		t.Errorf("this host's: %+v", c)
	}
	far := id("web")
	far.Instance = "remote/node1"
	if c, ok := h.Container(far); !ok || c.Name != "web" || c.Run != nil || len(c.Timeline) != 0 || c.Labels["of"] != "web" {
		t.Errorf("the other one's: %+v", c)
	}
	n := h.Counts()
	if n.Processes != 1 || n.Services != 0 || n.Pods != 1 || n.Tasks != 1 || n.Images != 1 || n.Containers != 2 {
		t.Errorf("%+v", n)
	}
	if a, ok := h.CgroupAnswer(workload.CgroupID{ID: 77}); ok {
		t.Errorf("a cgroup of the other host is %+v", a)
	}
}

func TestInAnotherPIDNamespaceNoPIDIsTaken(t *testing.T) {
	o, socket := newOther(), tempSocket(t)
	full(o.Store)
	o.serve(t, socket)
	h := listen(t, socket, Options{Here: Host{BootID: thisBoot.BootID, PIDNamespace: 5}})
	<-h.src.Whole()
	c, ok := h.Container(id("web"))
	if !ok || c.Run == nil || c.Run.Init.PID != 0 || len(c.Run.Cgroups) != 0 {
		t.Errorf("%+v", c)
	}
	if n := h.Counts(); n.Processes != 0 || n.Services != 0 {
		t.Errorf("%+v", n)
	}
	if a, ok := h.CgroupAnswer(workload.CgroupID{ID: 77}); ok {
		t.Errorf("a cgroup of this host is %+v by another's word", a)
	}
}

func TestWhileTheOtherOneIsAwayWhatItSaidIsStale(t *testing.T) {
	o, socket := newOther(), tempSocket(t)
	full(o.Store)
	stop := o.serve(t, socket)
	h := listen(t, socket, Options{StaleAfter: 10 * time.Millisecond, Copy: true})
	<-h.src.Whole()
	stale := func(want bool) func() error {
		return func() error {
			c, _ := h.Container(id("web"))
			if p := h.Resolve(process(11, 101, "").Key).Process; c.Sources[0].Stale != want || p.Stale != want {
				return fmt.Errorf("stale: %v, %v, want %v", c.Sources[0].Stale, p.Stale, want)
			}
			return nil
		}
	}
	must(t, stale(false)())
	stop()
	await(t, stale(true))
	if st := h.src.Status(); st.State != "failing" || st.LastError == "" {
		t.Errorf("%+v", st)
	}
	o.Apply(put(process(13, 103, "web")))
	o.serve(t, socket)
	await(t, stale(false))
	await(t, func() error { return same(o.Store, h.Store, true) })
	if st := h.src.Status(); st.State != "running" || st.Restarts == 0 {
		t.Errorf("%+v", st)
	}
	if r := o.Counts().Resyncs; r != 0 {
		t.Errorf("%d resyncs: it was not resumed", r)
	}
}

// The other one is started again: its revisions are others, and something has ended.
func TestWhatTheNextOneDoesNotHaveHasEnded(t *testing.T) {
	o, socket := newOther(), tempSocket(t)
	full(o.Store)
	stop := o.serve(t, socket)
	h := listen(t, socket, Options{})
	<-h.src.Whole()
	stop()
	next := newOther()
	next.Apply(container("web"), put(process(11, 101, "")))
	stop = next.serve(t, socket)
	await(t, func() error { return same(next.Store, h.Store, false) })
	if a := h.Resolve(process(10, 100, "").Key); !a.Exited {
		t.Errorf("a process that the next one does not have: %+v", a)
	}
	stop()
	third := newOther() // of another host
	third.status.BootID = "boot-3"
	third.Apply(container("web"), put(process(11, 101, "")))
	third.serve(t, socket)
	await(t, func() error {
		far := id("web")
		far.Instance = "remote/node1"
		_, ok := h.Container(far)
		if n := h.Counts(); !ok || n.Containers != 1 || n.Processes != 0 {
			return fmt.Errorf("of another host: %v, %+v", ok, n)
		}
		return nil
	})
}

// churn changes a store: containers and processes come, change and go.
func churn(s *store.Store, r *rand.Rand, i int) {
	name := fmt.Sprintf("c%02d", r.IntN(50))
	pid := workload.PID(100 + r.IntN(300))
	switch r.IntN(5) {
	case 0:
		s.Apply(layer("docker", &workload.Container{ID: id(name), Name: name, Labels: map[string]string{"n": strconv.Itoa(i)}}))
	case 1:
		s.Apply(store.Change{Container: &store.ContainerChange{ID: id(name), Forget: true}})
	case 2, 3:
		s.Apply(put(process(pid, uint64(i+1)*workload.TickNS, name)))
	case 4:
		if a, ok := s.PID(pid); ok && !a.Exited {
			p := a.Process.Clone()
			p.Exit = &workload.Exit{Known: true, At: workload.KTime(i)}
			s.Apply(put(p))
		}
	}
}

func TestNoCutLosesAnything(t *testing.T) {
	o, socket := newOther(), tempSocket(t)
	o.serve(t, socket)
	// A message of the snapshot is of some 30 KiB: half of the connections bring one.
	c := collectortest.NewCutter(t, socket, func() int64 { return rand.Int64N(80 << 10) })
	h := listen(t, c.Socket, Options{StaleAfter: time.Millisecond})
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		churn(o.Store, r, i)
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	i := 3000
	for deadline := time.Now().Add(2 * patience); c.Cuts() < 40; {
		if time.Now().After(deadline) {
			t.Fatalf("%d cuts", c.Cuts())
		}
		<-tick.C
		for range 20 {
			churn(o.Store, r, i)
			i++
		}
	}
	// It may be cut as often as it takes: each attempt goes on from the last.
	await(t, func() error { return same(o.Store, h.Store, false) })
	t.Logf("%d cuts, %d changes, %d resyncs", c.Cuts(), i, o.Counts().Resyncs)
}

func TestAFloodIsTaken(t *testing.T) {
	o, socket := newOther(), tempSocket(t)
	o.serve(t, socket)
	h := listen(t, socket, Options{})
	<-h.src.Whole()
	r := rand.New(rand.NewPCG(3, 4))
	for i := range 30_000 {
		churn(o.Store, r, i)
	}
	await(t, func() error { return same(o.Store, h.Store, false) })
}

// Two that listen to each other do not keep alive what has ended.
func TestHearsayIsNotTaken(t *testing.T) {
	a, b := newOther(), newOther()
	b.status.PID = 8
	as, bs := tempSocket(t), tempSocket(t)
	a.serve(t, as)
	b.serve(t, bs)
	for from, to := range map[string]*other{as: b, bs: a} {
		h := &here{Store: to.Store}
		h.src = New(Options{Client: client.Options{Socket: from}, Apply: func(c ...store.Change) { to.Apply(c...) }, Here: Host{BootID: thisBoot.BootID, PIDNamespace: thisBoot.PIDNamespace}, MaxPause: 10 * time.Millisecond})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- h.src.Run(ctx) }()
		t.Cleanup(func() { cancel(); <-done })
		<-h.src.Whole()
	}
	a.Apply(container("web"), put(process(10, 100, "web")))
	await(t, func() error { return same(a.Store, b.Store, false) })
	if p := a.Store.Resolve(process(10, 100, "").Key).Process; p.Source != "" {
		t.Errorf("what is known here is %q", p.Source)
	}
	p := process(10, 100, "web")
	p.Exit = &workload.Exit{Known: true, Code: 1, At: 5}
	a.Apply(put(p), store.Change{Container: &store.ContainerChange{ID: id("web"), Gone: 6}})
	await(t, func() error {
		for name, s := range map[string]*store.Store{"a": a.Store, "b": b.Store} {
			if n := s.Counts(); n.Containers != 0 || n.Processes != 0 {
				return fmt.Errorf("%s has %+v", name, n)
			}
		}
		return nil
	})
}

// Whatever a server says, what is known here stays, and a server that tells the truth
// again is believed again.
func TestAServerThatLiesOrGoesBackInTime(t *testing.T) {
	set := func(rev workload.Revision, e workload.Entity) workload.Change {
		return workload.Change{Type: workload.ChangeSet, Revision: rev, Entity: e}
	}
	aContainer := func(c workload.Container) workload.Entity {
		return workload.Entity{Kind: workload.KindContainer, Container: &c}
	}
	aProcess := func(p workload.Process) workload.Entity {
		return workload.Entity{Kind: workload.KindProcess, Process: &p}
	}
	mark := func(rev workload.Revision) workload.Change {
		return workload.Change{Type: workload.ChangeBookmark, Revision: rev}
	}
	many := func(n int) (cs []workload.Change) {
		for i := range n {
			cs = append(cs, set(workload.Revision(i+1), aContainer(workload.Container{ID: id(strconv.Itoa(i))})))
		}
		return cs
	}
	lie := workload.Container{ID: id("web"), Name: "lie", Run: &workload.Run{Init: process(10, 100, "").Key, Registers: true, Cgroups: []workload.CgroupPath{{CgroupID: workload.CgroupID{ID: 9}}}}}
	for name, tc := range map[string]struct {
		says []workload.Change
		// error is in the status; empty: it goes on.
		error string
	}{
		"a revision that is older": {[]workload.Change{set(9, aContainer(lie)), set(4, aContainer(lie))}, "went back: 4 after 9"},
		"a bookmark that is older": {[]workload.Change{set(9, aContainer(lie)), mark(8)}, "went back"},
		"no revision":              {[]workload.Change{set(0, aContainer(lie))}, "went back"},
		"another type":             {[]workload.Change{{Type: "delete", Revision: 5, Entity: aContainer(lie)}}, ""},
		"more than anybody has":    {many(200), "too many entities: over 100"},
		"names without ids": {[]workload.Change{
			set(3, aContainer(workload.Container{Name: "x"})), set(4, aProcess(workload.Process{Comm: "x"})), set(5, workload.Entity{Kind: workload.KindPod, Pod: &workload.Pod{}}),
			set(6, workload.Entity{Kind: "dragon"}), set(7, workload.Entity{}), mark(8),
		}, "without a usable id"},
		"PIDs that nobody has":    {[]workload.Change{set(3, aProcess(workload.Process{Key: workload.ProcessKey{PID: workload.MaxPID + 1, Start: 5}})), mark(4)}, "without a usable id"},
		"a message without end":   {[]workload.Change{set(3, aContainer(workload.Container{ID: id("big"), Labels: map[string]string{"x": strings.Repeat("x", 20<<20)}}))}, "larger than max"},
		"what is known otherwise": {[]workload.Change{set(3, aContainer(lie)), set(4, aProcess(*process(10, 100, "web"))), set(5, aProcess(*process(10, 900, "web"))), mark(6)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			o, socket := newOther(), tempSocket(t)
			full(o.Store)
			var honest atomic.Bool
			o.watch = func(ctx context.Context, sel workload.Selector) iter.Seq[[]workload.Change] {
				if honest.Load() {
					return func(yield func([]workload.Change) bool) {
						for b := range o.Store.Watch(ctx, sel) {
							if !yield(b.Changes) {
								return
							}
						}
					}
				}
				return func(yield func([]workload.Change) bool) {
					for _, c := range tc.says {
						if !yield([]workload.Change{c}) {
							return
						}
					}
					if tc.error == "" {
						<-ctx.Done()
					}
				}
			}
			stop := o.serve(t, socket)
			h := listen(t, socket, Options{MaxEntities: 100})
			ours := layer("docker", &workload.Container{ID: id("web"), Name: "ours"})
			kernel := layer(store.KernelSource, &workload.Container{ID: id("web"), Confidence: workload.Confirmed})
			h.Apply(ours, kernel, put(process(10, 100, "")))
			await(t, func() error {
				st := h.src.Status()
				if !strings.Contains(st.LastError, tc.error) || tc.error == "" && st.Calls["stream"] == 0 {
					return fmt.Errorf("status: %+v", st)
				}
				return nil
			})
			c, _ := h.Container(id("web"))
			if a := h.Resolve(process(10, 100, "").Key); c.Name != "ours" || c.Run != nil || a.Status != workload.StatusHost {
				t.Errorf("what is known here: %+v, %+v", c, a)
			}
			if a, _ := h.PID(10); a.Process.Key.Start != 100 {
				t.Errorf("PID 10 is %+v", a.Process)
			}
			honest.Store(true)
			stop()
			o.serve(t, socket)
			await(t, func() error {
				_, image := h.Image((&workload.Image{ID: "sha256:1", Runtime: "docker"}).Key())
				if p := h.Resolve(process(11, 101, "").Key).Process; p == nil || !image {
					return errors.New("what is true has not come")
				}
				if n := h.Counts().Containers; n != 1 {
					return fmt.Errorf("%d containers", n)
				}
				return nil
			})
		})
	}
}

func TestWhoIsNotToBeListenedTo(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*other)
		error  string
	}{
		"this agent":      {func(o *other) { o.status.PID = workload.PID(os.Getpid()) }, "it is this agent"},
		"one that is old": {func(o *other) { o.status.BootID = "" }, "does not say which boot"},
		"nobody":          {nil, "no agent"},
	} {
		t.Run(name, func(t *testing.T) {
			o, socket := newOther(), tempSocket(t)
			full(o.Store)
			if tc.change != nil {
				tc.change(o)
				o.serve(t, socket)
			}
			h := listen(t, socket, Options{})
			await(t, func() error {
				if st := h.src.Status(); !strings.Contains(strings.ToLower(st.LastError), tc.error) {
					return fmt.Errorf("status: %+v", st)
				}
				return nil
			})
			if len(entities(h.Store, true)) != 0 {
				t.Error("something was taken")
			}
			if st := h.src.Status(); tc.change == nil && st.State != "absent" || tc.change != nil && st.State != "failing" {
				t.Errorf("%+v", st)
			}
		})
	}
}

func TestAHostsNameIsPlainInAnID(t *testing.T) {
	got := hostName("a b\x00/\x1b[31m" + strings.Repeat("n", 100))
	if len(got) != 64 || slices.ContainsFunc([]byte(got), func(b byte) bool { return b < '-' || b > 'z' }) {
		t.Errorf("%q", got)
	}
}
