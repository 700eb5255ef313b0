// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// bed is an engine, an agent, and an oracle that asks it all the way through.
type bed struct {
	*testing.T
	engine maker
	proxy  *collectortest.Proxy // nil: the agent asks the engine itself
	agent  *harness.Agent
	o      *oracle.Oracle
	client *client.Client
	stays  []*resident
	left   []*resident // started by change, and not removed
	probe  *probe
	// calm is how lookups do while containers come and go and nothing fails.
	calm timing
}

// resident is a container that stays for the length of a fault.
type resident struct {
	party *oracle.Party
	id    string
	pid   int
}

var serial atomic.Int64

// newBed starts an agent and an oracle beside an engine. Through a proxy, the
// engine can be told to change while the agent cannot hear it.
func newBed(t *testing.T, e maker, proxied bool, args ...string) *bed {
	t.Helper()
	b := &bed{T: t, engine: e}
	opts := e.agent()
	if proxied {
		b.proxy, opts = e.(engine).proxied(t)
	}
	opts.Args = args
	b.agent = harness.StartAgent(t, programs, opts)
	b.attend()
	return b
}

// attend starts the oracle and the probe.
func (b *bed) attend() {
	b.Helper()
	b.o = oracle.Start(b.T, oracle.Options{Work: programs.Work, Socket: b.agent.Socket, Command: []string{programs.Pidigree}, Rate: 200})
	b.o.Host().RunHost("stay")
	c, err := client.New(client.Options{Socket: b.agent.Socket})
	if err != nil {
		b.Fatal(err)
	}
	b.client = c
	b.probe = startProbe(b.T, c)
	b.Cleanup(func() { b.probe.stop(); _ = c.Close(); b.o.Close() })
}

// command bounds what an engine is told to do.
func command(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
}

// start starts a container that reports to the oracle.
func (b *bed) start(kind string, work ...string) *resident {
	b.Helper()
	r, err := b.startErr(kind, work...)
	if err != nil {
		b.Fatal(err)
	}
	return r
}

// startErr is for other goroutines than the test's.
func (b *bed) startErr(kind string, work ...string) (*resident, error) {
	ctx, cancel := command(b.Context())
	defer cancel()
	name := fmt.Sprintf("%s-%d-%d", kind, os.Getpid(), serial.Add(1))
	r := &resident{party: b.o.Container(oracle.Truth{Name: name, Image: collectortest.BusyboxImage})}
	var err error
	if r.id, err = b.engine.run(ctx, r.party.Group(kind), work...); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	return r, nil
}

func (b *bed) remove(rs ...*resident) {
	b.Helper()
	ctx, cancel := command(b.Context())
	defer cancel()
	for _, r := range rs {
		if err := b.engine.remove(ctx, r.id); err != nil {
			b.Fatal(err)
		}
	}
}

// settle makes sure of two residents that run and are known, and that the store
// equals the truth.
func (b *bed) settle() {
	b.Helper()
	truth := b.truth()
	for _, r := range b.stays {
		if truth[r.id].State != "running" {
			b.remove(r)
		}
	}
	b.stays = slices.DeleteFunc(b.stays, func(r *resident) bool { return truth[r.id].State != "running" })
	for len(b.stays) < 2 {
		work := []string{"stay", "-threads", "1", "-children", "1"}
		if slices.ContainsFunc(b.stays, func(r *resident) bool { return strings.HasPrefix(r.party.Truth().Name, "stay") }) {
			work = []string{"stream", "-rate", "20", "-kind", "fork,exec,session,daemon"}
		}
		kind := map[string]string{"stay": "stay", "stream": "stream"}[work[0]]
		r := b.start(kind, work...)
		b.o.WaitReports(patience, r.party, 1)
		b.stays = append(b.stays, r)
	}
	truth = b.truth()
	for _, r := range b.stays {
		if r.pid = truth[r.id].PID; r.pid == 0 {
			b.Fatalf("%s does not run: %+v", r.party, truth[r.id])
		}
		b.o.WaitKnown(patience, r.party)
	}
	if e := b.equalSince(time.Now()); e.diff != "" {
		b.Fatalf("before the fault, the store is not the truth after %s (-engine +agent):\n%s\n%s", e.took, e.diff, b.records(e.diff))
	}
	b.probe.about(b.stays)
}

func (b *bed) truth() map[string]fact {
	b.Helper()
	ctx, cancel := command(b.Context())
	defer cancel()
	truth, err := b.trueAt(ctx)
	if err != nil {
		b.Fatal(err)
	}
	return truth
}

// trueAt is what the engine says, but for whom it has missed the end of: a shim that
// cannot tell an engine that is stopped of an exit gives up after some tries, and the
// engine calls that container running for good. Whether a process is there is the
// kernel's word.
func (b *bed) trueAt(ctx context.Context) (map[string]fact, error) {
	truth, err := b.engine.truth(ctx)
	for id, f := range truth {
		if f.PID != 0 && errors.Is(syscall.Kill(f.PID, 0), syscall.ESRCH) {
			b.Logf("%s calls %s running, whose process %d has ended", b.engine, f.Name, f.PID)
			f.PID, f.State = 0, "exited"
			truth[id] = f
		}
	}
	return truth, err
}

// listed is what the agent lists of the containers that a source has described;
// a machine has others, of which a cgroup's name is all that is known.
func (b *bed) listed() (map[string]fact, error) {
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	return list(ctx, b.client)
}

func list(ctx context.Context, c *client.Client) (map[string]fact, error) {
	all := map[string]fact{}
	for e, err := range c.List(ctx, workload.Selector{}) {
		if err != nil {
			return nil, err
		}
		if id, f, ok := factOf(e.Container); ok {
			if _, two := all[id]; two { // a container that is there twice is a difference
				id = e.Container.ID.String()
			}
			all[id] = f
		}
	}
	return all, nil
}

func factOf(c *workload.Container) (string, fact, bool) {
	if c.Name == "" && c.Confidence != workload.Confirmed || c.Sandbox {
		return "", fact{}, false
	}
	f := fact{Name: c.Name, Image: c.Image.Name, State: string(c.State), Labels: c.Labels}
	if c.State == workload.StateRunning && c.Run != nil {
		f.PID = int(c.Run.Init.PID)
	}
	return c.ID.ID, f, true
}

// compare gives the difference between the engine's word and the agent's.
func compare(truth, got map[string]fact) string {
	plain := func(all map[string]fact) map[string]fact {
		all = maps.Clone(all)
		for id, f := range all {
			if strings.HasPrefix(f.Name, giantPrefix) {
				all[id] = fact{Name: f.Name, State: f.State} // the rest is over its budget
			} else if len(f.Labels) == 0 {
				f.Labels = nil
				all[id] = f
			}
		}
		return all
	}
	return cmp.Diff(plain(truth), plain(got))
}

// An equality is how long it took until what the agent lists was right.
type equality struct {
	took  time.Duration
	looks int    // how often it was listed meanwhile
	diff  string // what it still was not, in the end
}

// late says that it was not right within the limit. A look is a list and a pause
// of 20 ms: that many are made within the limit where the machine has a core to
// spare, and where it has none, the agent has as little as the test.
func (e equality) late() bool { return e.took > within && e.looks > int(within/(40*time.Millisecond)) }

// equalSince waits until the agent's list equals the engine's and gives how long
// after since that was. The agent is listed while the engine is asked, which
// takes its time: what counts is the first of the lists that was right.
func (b *bed) equalSince(since time.Time) equality {
	b.Helper()
	type shot struct {
		at  time.Time
		got map[string]fact
		err error
	}
	ctx, cancel := context.WithTimeout(b.Context(), patience)
	defer cancel()
	truth := make(chan map[string]fact, 1)
	failed := make(chan error, 1)
	go func() {
		all, err := b.trueAt(ctx)
		if err != nil {
			failed <- err
			return
		}
		truth <- all
	}()
	var want map[string]fact
	var shots []shot
	looks := 0 // before the shots
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		got, err := b.listed()
		shots = append(shots, shot{time.Now(), got, err})
		select {
		case want = <-truth:
		case err := <-failed:
			b.Fatal(err)
		default:
		}
		if want != nil {
			for _, s := range shots {
				looks++
				if s.err == nil && compare(want, s.got) == "" {
					return equality{took: s.at.Sub(since), looks: looks}
				}
			}
			if ctx.Err() != nil {
				last := shots[len(shots)-1]
				if last.err != nil {
					return equality{time.Since(since), looks, last.err.Error()}
				}
				return equality{time.Since(since), looks, compare(want, last.got)}
			}
			shots = shots[:0]
		}
		<-tick.C
	}
}

// records gives all that the agent lists of the containers that a difference names.
func (b *bed) records(diff string) string {
	b.Helper()
	var out strings.Builder
	ctx, cancel := context.WithTimeout(b.Context(), 10*time.Second)
	defer cancel()
	for line := range strings.Lines(b.agent.Command(ctx, "list", "--all", "-o", "json").Stdout) {
		var c harness.Container
		if json.Unmarshal([]byte(line), &c) == nil && c.ID != "" && strings.Contains(diff, c.ID) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// A trouble is one fault.
type trouble struct {
	name string
	// begin makes the fault, end unmakes it. What end waits for is not counted.
	begin, end func() error
	// during is what else happens while it lasts, as far as the engine listens.
	during func()
	// lasts is how long, at least. Default 1 s.
	lasts time.Duration
	// ends: it ends the containers, too.
	ends bool
	// silent: the agent itself cannot answer.
	silent bool
	// crowd: its end sets many clients of this very process going at once, and their
	// CPU is no delay by the agent. What lookups take then is told, not judged.
	crowd bool
}

// nothing is the fault that is none: what the others are measured against.
const nothing = "no fault"

// endure makes one fault and holds the agent to what the package promises.
func (b *bed) endure(f trouble) {
	b.Helper()
	b.settle()
	victim := b.start("victim", "stay")
	b.o.WaitReports(patience, victim.party, 1)
	pid := b.truth()[victim.id].PID
	before := b.o.Score()
	b.probe.rest(b.T, 100)
	b.probe.phase(f.silent)
	if err := f.begin(); err != nil {
		b.Fatal(err)
	}
	over := time.After(max(f.lasts, time.Second))
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !f.ends {
		b.Errorf("kill the init of %s: %v", victim.party, err)
	}
	if f.during != nil {
		f.during()
	}
	<-over
	b.probe.rest(b.T, 100)
	if f.crowd {
		b.probe.phase(f.silent)
	}
	if err := f.end(); err != nil {
		b.Fatal(err)
	}
	ended := time.Now()
	e := b.equalSince(ended)
	normal, faulty, after := b.probe.result()
	during := b.o.Score().Since(before)
	b.Logf("%s, %s: equal after %s; lookups p99 %s before, %s during (%d, %.2f times); oracle: %d lookups, %d wrong",
		b.engine, f.name, e.took.Round(time.Millisecond), normal.p99, faulty.p99, faulty.asked, float64(faulty.p99)/float64(normal.p99),
		during.Sum(nil).All(), during.Sum(nil)[oracle.Wrong])
	if f.crowd {
		b.Logf("%s, %s, until equal after its end: lookups p99 %s (%d)", b.engine, f.name, after.p99, after.asked)
		faulty.asked, faulty.right, faulty.other = faulty.asked+after.asked, faulty.right+after.right, faulty.other+after.other
	}
	switch {
	case e.diff != "":
		b.Errorf("%s after the end of the fault %q the store is not the truth (-engine +agent):\n%s\n%s", e.took, f.name, e.diff, b.records(e.diff))
	case e.late():
		b.Errorf("the store equals the truth %s after the end of the fault %q, not within %s", e.took, f.name, within)
	}
	if f.name == nothing {
		b.calm = faulty
	}
	if !f.silent {
		b.held(f, normal, faulty, during)
	}
	b.remove(victim)
}

// held is about questions while the fault lasted.
func (b *bed) held(f trouble, normal, faulty timing, during oracle.Score) {
	b.Helper()
	if faulty.asked < 50 && !f.ends || faulty.right != faulty.asked {
		b.Errorf("%s: %d of %d lookups of what was known before were right; the last other one: %s", f.name, faulty.right, faulty.asked, faulty.other)
	}
	// One call to a hung engine takes its deadline of 2 s; a busy machine's noise is far below.
	if usual := max(normal.p99, b.calm.p99); faulty.p99 > 5*usual && faulty.p99 > 100*time.Millisecond {
		b.Errorf("%s: lookups took %s (p99), %s without the fault", f.name, faulty.p99, usual)
	}
	sum := during.Sum(nil)
	if sum[oracle.Failed] > 0 {
		b.Errorf("%s: %d questions were not answered:\n%s", f.name, sum[oracle.Failed], during)
	}
	if sum[oracle.Conflict] > 0 {
		b.Errorf("%s: %d answers were conflict, and nobody attacks", f.name, sum[oracle.Conflict])
	}
	for _, group := range []string{"all", "stay", "stream"} {
		if c := during.Settled(group); c[oracle.Right] != c.Judged() {
			b.Errorf("%s: %s: of %d answers about processes over 100 ms old, %d were right; doubts: %s",
				f.name, group, c.Judged(), c[oracle.Right], strings.Join(b.o.Doubts(), "\n"))
		}
	}
	if during.Settled("all").Judged() == 0 {
		b.Errorf("%s: the oracle has asked nothing", f.name)
	}
}

// probe asks about the residents' inits all the time, one question after the
// other, and keeps how long it took and whether it was right.
type probe struct {
	client *client.Client
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex // guards all below
	about_ []target
	phases [3]phase // before, during, and in a crowd's case after
	now    int
	silent bool
}

type target struct {
	resident
	fd int // pidfd
}

type phase struct {
	took  []time.Duration
	right int
	other string
}

// timing sums a phase up.
type timing struct {
	asked, right int
	p99          time.Duration
	other        string
}

func startProbe(t *testing.T, c *client.Client) *probe {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	p := &probe{client: c, cancel: cancel, done: make(chan struct{})}
	go p.run(ctx)
	return p
}

func (p *probe) stop() {
	p.cancel()
	<-p.done
	p.about(nil)
}

// about says whom to ask about, and begins anew.
func (p *probe) about(rs []*resident) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.about_ {
		_ = unix.Close(t.fd)
	}
	p.about_, p.phases, p.now = nil, [3]phase{}, 0
	for _, r := range rs {
		fd, err := unix.PidfdOpen(r.pid, 0)
		if err != nil {
			continue // it has just ended
		}
		p.about_ = append(p.about_, target{*r, fd})
	}
}

// phase begins the next one, the fault first.
func (p *probe) phase(silent bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now, p.silent = p.now+1, silent
}

// rest waits until enough was asked in this phase.
func (p *probe) rest(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		p.mu.Lock()
		enough := len(p.phases[p.now].took) >= n || p.silent && p.now > 0
		ended := !slices.ContainsFunc(p.about_, func(t target) bool { return lives(t.fd) })
		p.mu.Unlock()
		if enough || ended {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("fewer than %d questions were answered in %s", n, patience)
		}
		tick(t.Context(), 10*time.Millisecond)
	}
}

// result sums the phases up.
func (p *probe) result() (before, during, after timing) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.phases[0].sum(), p.phases[1].sum(), p.phases[2].sum()
}

func (p phase) sum() timing {
	s := timing{asked: len(p.took), right: p.right, other: p.other, p99: 1}
	if s.asked > 0 {
		sorted := slices.Sorted(slices.Values(p.took))
		s.p99 = sorted[len(sorted)*99/100]
	}
	return s
}

func (p *probe) run(ctx context.Context) {
	defer close(p.done)
	for i := 0; tick(ctx, 4*time.Millisecond); i++ {
		p.mu.Lock()
		if len(p.about_) == 0 {
			p.mu.Unlock()
			continue
		}
		of, now := p.about_[i%len(p.about_)], p.now
		fd, err := unix.FcntlInt(uintptr(of.fd), unix.F_DUPFD_CLOEXEC, 0)
		p.mu.Unlock()
		if err != nil {
			continue
		}
		began := time.Now()
		res, err := p.client.Resolve(ctx, workload.Query{PID: workload.PID(of.pid)})
		took := time.Since(began)
		// That its last thread exits is seen a moment before its pidfd says so.
		said := err == nil && res[0].Answer.Exited
		alive := !endsWithin(fd, map[bool]time.Duration{true: time.Second}[said])
		_ = unix.Close(fd)
		if ctx.Err() != nil || !alive {
			continue // what was asked about has ended
		}
		p.mu.Lock()
		if now == p.now {
			p.phases[now].note(took, of.resident, res, err)
		}
		p.mu.Unlock()
	}
}

func (p *phase) note(took time.Duration, of resident, res []workload.Result, err error) {
	p.took = append(p.took, took)
	if err == nil {
		err = res[0].Err
	}
	if err != nil {
		p.other = err.Error()
		return
	}
	a := res[0].Answer
	if c := a.Container(); c != nil && c.ID.ID == of.id && c.Name == of.party.Truth().Name && !a.Exited {
		p.right++
		return
	}
	p.other = fmt.Sprintf("%s of %s: %+v", strconv.Itoa(of.pid), of.party, a)
}

// lives asks the kernel whether the process of a pidfd has not ended.
func lives(fd int) bool { return !endsWithin(fd, 0) }

// endsWithin waits for the end of a process.
func endsWithin(fd int, d time.Duration) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, int(d.Milliseconds()))
	return err == nil && n > 0
}

// tick waits for what nobody announces, or for time that a test spends on
// purpose. It is false once the context has ended.
func tick(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
