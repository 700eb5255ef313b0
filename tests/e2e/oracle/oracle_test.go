// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/oracle/report"
)

// program is the workload, built once by TestMain.
var program string

// hangUpEnv makes this program connect to a socket, say so, and wait to be killed.
const hangUpEnv = "PIDIGREE_TEST_HANG_UP"

func TestMain(m *testing.M) {
	if socket := os.Getenv(hangUpEnv); socket != "" {
		if conn, err := net.Dial("unix", socket); err == nil {
			_, _ = os.Stdout.WriteString("x")
			_, _ = conn.Read(make([]byte, 1)) // nothing comes
		}
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "pidigree-oracle")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	program = filepath.Join(dir, "work")
	cmd := exec.Command("go", "build", "-o", program, "./work")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build the workload: %v\n%s", err, out)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// listener is a TB that keeps what would have failed the test.
type listener struct {
	testing.TB
	mu   sync.Mutex // guards said
	said []string
}

func (l *listener) Helper() {}

func (l *listener) Errorf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said = append(l.said, fmt.Sprintf(format, args...))
}

func (l *listener) errors() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.said)
}

// fake is pidigree as a test wants it: truthful about the parties that it knows
// by their directories, but for what lie makes of the answer.
type fake struct {
	mu      sync.Mutex // guards all below
	parties []*Party
	lie     func(*workload.Answer)
}

func (f *fake) tell(lie func(*workload.Answer)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lie = lie
}

func (f *fake) add(p *Party) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.parties = append(f.parties, p)
}

// Resolve answers about a PID, a key of whoever has that PID now, or a container.
func (f *fake) Resolve(_ context.Context, q workload.Query) workload.Result {
	f.mu.Lock()
	defer f.mu.Unlock()
	pid := max(q.PID, q.Key.PID)
	if pid == 0 {
		return f.other(q)
	}
	pid = leader(pid)
	args, err := os.ReadFile(procPath(pid, "cmdline"))
	fd, err2 := unix.PidfdOpen(int(pid), 0)
	if err := errors.Join(err, err2); err != nil {
		return workload.Result{Err: workload.ErrNotFound}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return workload.Result{Err: err}
	}
	if q.Key.Inode != 0 && q.Key.Inode != st.Ino {
		return workload.Result{Err: workload.ErrNotFound}
	}
	a := workload.Answer{Status: workload.StatusUnknown, Process: &workload.Process{Key: workload.ProcessKey{PID: pid, Inode: st.Ino}}}
	for _, p := range f.parties {
		if !bytes.Contains(args, []byte(p.Dir+"\x00")) && !bytes.HasSuffix(args, []byte(p.Dir)) {
			continue
		}
		a.Status = workload.StatusHost
		if t := p.Truth(); !p.host {
			a.Status = workload.StatusContainer
			a.Containers = []*workload.Container{described(t)}
		}
	}
	if f.lie != nil {
		f.lie(&a)
	}
	return workload.Result{Query: q, Answer: a}
}

func described(t Truth) *workload.Container {
	return &workload.Container{ID: workload.ContainerID{ID: t.ID}, Name: t.Name, Image: workload.ImageRef{Name: t.Image}, Labels: t.Labels}
}

// other answers about a container by its id or name.
func (f *fake) other(q workload.Query) workload.Result {
	for _, p := range f.parties {
		t := p.Truth()
		if p.host || q.Container != t.ID && q.Container != t.Name {
			continue
		}
		a := workload.Answer{Status: workload.StatusContainer, Containers: []*workload.Container{described(t)}}
		if f.lie != nil {
			f.lie(&a)
		}
		return workload.Result{Query: q, Answer: a}
	}
	return workload.Result{Query: q, Err: workload.ErrNotFound}
}

// leader gives the process of a thread.
func leader(tid workload.PID) workload.PID {
	text, _ := os.ReadFile(procPath(tid, "status"))
	_, rest, _ := strings.Cut(string(text), "\nTgid:")
	line, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return tid
	}
	return workload.PID(n)
}

// stage is an oracle that asks a fake about one process of a container and one
// of the host.
type stage struct {
	o               *Oracle
	container, host *Party
	heard           *listener
	fake            *fake
}

func newStage(t *testing.T, lie func(*workload.Answer), more ...func(*Options)) stage {
	t.Helper()
	s := stage{heard: &listener{TB: t}, fake: &fake{lie: lie}}
	opts := Options{Work: program, Library: s.fake, Patience: 200 * time.Millisecond}
	for _, set := range more {
		set(&opts)
	}
	s.o = Start(s.heard, opts)
	s.container = s.o.Container(Truth{ID: "4f3a", Name: "web", Image: "img:1", Labels: map[string]string{"a": "b"}}).NoCgroups()
	s.host = s.o.Host().NoCgroups()
	s.fake.add(s.container)
	s.fake.add(s.host)
	return s
}

// play runs both workloads to their end. For a process it does not matter that
// the container is none: the nonce is what says where it is.
func (s stage) play(t *testing.T, mode string, args ...string) {
	t.Helper()
	for _, p := range []*Party{s.container, s.host} {
		if out, err := p.HostCommand(mode, args...).CombinedOutput(); err != nil {
			t.Fatalf("work %s: %v\n%s", mode, err, out)
		}
	}
}

func TestTheTruthIsScoredRight(t *testing.T) {
	s := newStage(t, nil)
	s.play(t, "once")
	s.container.RunHost("stay", "-threads", "2", "-children", "2")
	s.o.WaitReports(10*time.Second, s.container, 4)
	s.o.WaitKnown(10*time.Second, s.container)
	s.o.Close()
	sum := s.o.Score().Sum(nil)
	if got := s.heard.errors(); len(got) > 0 {
		t.Errorf("a truthful agent is blamed: %q", got)
	}
	if sum[Right] == 0 || sum[Wrong]+sum[Partial]+sum[Unknown]+sum[Conflict]+sum[Failed] > 0 {
		t.Errorf("a truthful agent's score is\n%s", s.o.Score())
	}
	if n := s.o.Score().Processes; n != 5 {
		t.Errorf("%d processes were counted, not 5", n)
	}
}

func TestEveryLieIsHeard(t *testing.T) {
	for name, c := range map[string]struct {
		lie  func(*workload.Answer)
		want string
	}{
		"another container":           {inContainer(func(c *workload.Container) { c.ID.ID = "beef" }), "names the container"},
		"another name":                {inContainer(func(c *workload.Container) { c.Name = "db" }), `the name "db"`},
		"another image":               {inContainer(func(c *workload.Container) { c.Image.Name = "img:2" }), `the image "img:2"`},
		"another label":               {inContainer(func(c *workload.Container) { c.Labels = map[string]string{"a": "c"} }), `label a="c"`},
		"a container around it":       {around, "containers around it"},
		"a container that is none":    {inContainer(nil), "names none"},
		"host for a container":        {status(workload.StatusContainer, workload.StatusHost), "it says host"},
		"a container for the host":    {status(workload.StatusHost, workload.StatusContainer), "it says container"},
		"an end that has not come":    {func(a *workload.Answer) { a.Exited = true }, "has ended"},
		"another process":             {instance(func(p *workload.Process) { p.Key.PID++ }), "another process instance"},
		"another instance of the PID": {instance(func(p *workload.Process) { p.Key.Inode++ }), "another process instance"},
		"no process":                  {func(a *workload.Answer) { a.Process = nil }, "names no process"},
		"another PID in there":        {instance(func(p *workload.Process) { p.PIDNamespaces = []workload.PIDNamespace{{Inum: 1, PID: 4194304}} }), "in its namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t, c.lie)
			s.play(t, "once")
			s.o.Close()
			if s.o.Score().Sum(nil)[Wrong] == 0 {
				t.Errorf("nothing is wrong with it:\n%s", s.o.Score())
			}
			if got := strings.Join(s.heard.errors(), "\n"); !strings.Contains(got, "WRONG") || !strings.Contains(got, c.want) {
				t.Errorf("it is not told as %q: %s", c.want, got)
			}
		})
	}
}

// inContainer makes a lie about the container; nil leaves the container out.
func inContainer(lie func(*workload.Container)) func(*workload.Answer) {
	return func(a *workload.Answer) {
		switch {
		case a.Status != workload.StatusContainer:
		case lie == nil:
			a.Containers = nil
		default:
			lie(a.Containers[0])
		}
	}
}

// instance makes a lie about the process.
func instance(lie func(*workload.Process)) func(*workload.Answer) {
	return func(a *workload.Answer) {
		if a.Process != nil {
			lie(a.Process)
		}
	}
}

func around(a *workload.Answer) {
	if a.Status == workload.StatusContainer {
		a.Containers = append([]*workload.Container{{ID: workload.ContainerID{ID: "outer"}}}, a.Containers...)
	}
}

func status(from, to workload.Status) func(*workload.Answer) {
	return func(a *workload.Answer) {
		if a.Status == from {
			a.Status = to
		}
	}
}

func TestDoubtIsCountedAndNotBlamed(t *testing.T) {
	for status, verdict := range map[workload.Status]Verdict{workload.StatusUnknown: Unknown, workload.StatusConflict: Conflict} {
		t.Run(string(status), func(t *testing.T) {
			s := newStage(t, func(a *workload.Answer) { a.Status, a.Containers = status, nil })
			s.play(t, "once")
			s.o.Close()
			score := s.o.Score()
			if sum := score.Sum(func(c Cell) bool { return c.By <= ByPidfd }); sum[verdict] == 0 || sum[verdict] != sum.Judged() {
				t.Errorf("the score is\n%s", score)
			}
			if score.Never != 2 || len(s.o.Doubts()) == 0 || len(s.heard.errors()) > 0 {
				t.Errorf("never known %d, doubts %d, errors %q", score.Never, len(s.o.Doubts()), s.heard.errors())
			}
		})
	}
}

func TestWhatIsNotKnownYetIsPartial(t *testing.T) {
	s := newStage(t, inContainer(func(c *workload.Container) { c.Name, c.Labels = "", nil }))
	s.play(t, "once")
	s.o.Close()
	if sum := s.o.Score().Sum(nil); sum[Partial] == 0 || sum[Wrong] > 0 {
		t.Errorf("the score is\n%s", s.o.Score())
	}
}

func TestAnIdThatWasGuessedBeforeItWasKnownIsHeldToTheTruth(t *testing.T) {
	s := newStage(t, nil)
	s.container.mu.Lock()
	s.container.truth.ID = "" // as with Docker, before the start
	s.container.mu.Unlock()
	s.fake.tell(inContainer(func(c *workload.Container) { c.ID.ID = "beef" }))
	s.play(t, "once")
	if got := s.heard.errors(); len(got) > 0 {
		t.Errorf("blamed too early: %q", got)
	}
	s.container.SetID("4f3a")
	if got := s.heard.errors(); len(got) != 1 || !strings.Contains(got[0], "beef") {
		t.Errorf("the wrong id was not noticed: %q", got)
	}
}

// What a PID is said to be after its process has ended is held to the truth of
// the process that the answer names, if that one is known.
func TestAnAnswerAboutWhoeverHasThePIDNowIsHeldToThatOne(t *testing.T) {
	s := newStage(t, nil)
	p := &process{party: s.container, pid: 4242, inode: 1, met: 500}
	s.o.mu.Lock()
	s.o.met[1], s.o.met[2] = s.container, s.host
	s.o.mu.Unlock()
	answer := func(inode uint64, status workload.Status) workload.Result {
		a := workload.Answer{Status: status, Process: &workload.Process{Key: workload.ProcessKey{PID: 4242, Inode: inode}}}
		if status == workload.StatusContainer {
			a.Containers = []*workload.Container{{ID: workload.ContainerID{ID: "4f3a"}, Name: "web", Image: workload.ImageRef{Name: "img:1"}, Labels: s.container.Truth().Labels}}
		}
		return workload.Result{Answer: a}
	}
	since := func(start uint64, status workload.Status) workload.Result {
		r := answer(0, status)
		r.Answer.Process.Key.Start = start
		return r
	}
	for name, c := range map[string]struct {
		q    Question
		r    workload.Result
		want Verdict
	}{
		"its own by its start, wrong":   {Question{By: ByPID}, since(499, workload.StatusHost), Wrong},
		"one that began later":          {Question{By: ByPID}, since(501, workload.StatusHost), Gone},
		"that one, though it lives":     {Question{By: ByPID, Lived: true}, since(501, workload.StatusContainer), Wrong},
		"its own":                       {Question{By: ByPID}, answer(1, workload.StatusContainer), Right},
		"its own, told wrong":           {Question{By: ByPID}, answer(1, workload.StatusHost), Wrong},
		"the next, told right":          {Question{By: ByPID}, answer(2, workload.StatusHost), Right},
		"the next with the last's name": {Question{By: ByPID}, answer(2, workload.StatusContainer), Wrong},
		"one that nobody knows":         {Question{By: ByPID}, answer(3, workload.StatusContainer), Gone},
		"the next, though it lives":     {Question{By: ByPID, Lived: true}, answer(2, workload.StatusHost), Wrong},
		"the next, asked by key":        {Question{By: ByInode}, answer(2, workload.StatusHost), Wrong},
		"nobody":                        {Question{By: ByPID}, workload.Result{Err: workload.ErrNotFound}, Gone},
		"nobody, though it lives":       {Question{By: ByPID, Lived: true}, workload.Result{Err: workload.ErrNotFound}, Unknown},
		"no answer":                     {Question{By: ByPID, Lived: true}, workload.Result{Err: workload.ErrUnavailable}, Failed},
	} {
		c.q.Party = s.container
		if v, why := s.o.verdict(p, c.q, c.r); v != c.want {
			t.Errorf("%s: it is %s (%s), not %s", name, v, why, c.want)
		}
	}
}

func TestEveryKindOfProcessReports(t *testing.T) {
	for kind, want := range map[string]uint64{"fork": 2, "tree": 8, "exec": 2, "session": 2, "daemon": 2} {
		t.Run(kind, func(t *testing.T) {
			s := newStage(t, nil)
			s.play(t, "stream", "-count", "1", "-kind", kind)
			s.o.WaitReports(10*time.Second, s.container, want/2) // a daemon outlives its parent
			s.o.WaitReports(10*time.Second, s.host, want/2)
			s.o.Close()
			if score := s.o.Score(); score.Processes != want || score.Strays > 0 || len(s.heard.errors()) > 0 {
				t.Errorf("%q; the score is\n%s", s.heard.errors(), score)
			}
		})
	}
}

func TestPIDsAreReused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root to choose PIDs: run the tests as root")
	}
	text, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		t.Fatal(err)
	}
	top, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	s := newStage(t, nil)
	pids := map[workload.PID]int{}
	var mu sync.Mutex
	s.fake.tell(instance(func(p *workload.Process) {
		mu.Lock()
		defer mu.Unlock()
		pids[p.Key.PID]++
	}))
	s.play(t, "reuse", "-count", "40", "-pids", fmt.Sprintf("%d-%d", top-60, top-58))
	s.o.Close()
	if score := s.o.Score(); score.Reused < 20 || len(pids) > 3 || len(s.heard.errors()) > 0 {
		t.Errorf("%d PIDs: %v; %q; the score is\n%s", len(pids), pids, s.heard.errors(), score)
	}
}

// A process that ends at once is asked about as often as is asked for, in every
// way that there is for it.
func TestEveryRoundAsksTheWholeCycle(t *testing.T) {
	counts := func(rounds int) Score {
		s := newStage(t, nil, func(o *Options) { o.Rounds = rounds })
		s.play(t, "once")
		s.o.Close()
		if got := s.heard.errors(); len(got) > 0 {
			t.Errorf("a truthful agent is blamed: %q", got)
		}
		return s.o.Score()
	}
	by := func(s Score, by By) uint64 {
		return s.Sum(func(c Cell) bool { return c.By == by })[Right]
	}
	brief, long := counts(0), counts(40)
	for _, b := range []By{ByPID, ByInode, ByTicks} { // two processes, and the cycle has each more than once
		if got, before := by(long, b), by(brief, b); got < before+2*40 {
			t.Errorf("%d answers by %s, and %d in the first round alone", got, b, before)
		}
	}
	for _, b := range []By{ByID, ByName} { // the host has none
		if got := by(long, b); got < 40 {
			t.Errorf("%d answers by %s", got, b)
		}
	}
}

func TestSomeProcessesAreHeldUntilTheyAreOld(t *testing.T) {
	s := newStage(t, nil, func(o *Options) { o.Linger = time.Second })
	s.play(t, "stream", "-count", "64")
	s.o.Close()
	score := s.o.Score()
	if got := score.Settled("all"); got[Right] == 0 {
		t.Errorf("nobody was asked about when it was older than 100 ms:\n%s", score)
	}
}

// Daemons are nobody's children: a stream makes no more of them than are scored,
// or they would be thousands where the oracle is slow.
func TestAStreamWaitsForItsDaemonsToBeScored(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "pdo")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, report.NonceFile), make([]byte, report.NonceSize), 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, report.SocketFile), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	const most, all = 16, 40
	cmd := exec.Command(program, "stream", "-dir", dir, "-kind", "daemon", "-count", strconv.Itoa(all))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // has been called, but where the test fails
	}()
	var waiting []net.Conn
	for n := range all {
		conn, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		waiting = append(waiting, conn)
		if n == most-1 {
			_ = ln.SetDeadline(time.Now().Add(200 * time.Millisecond))
			if _, err := ln.Accept(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("more than %d daemons wait to be scored: %v", most, err)
			}
			_ = ln.SetDeadline(time.Time{})
		}
		for ; n >= most-1 && len(waiting) > 0; waiting = waiting[1:] {
			_ = waiting[0].Close()
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestAReportWithoutTheNonceIsAStray(t *testing.T) {
	s := newStage(t, nil)
	conn, err := net.Dial("unix", filepath.Join(s.host.Dir, report.SocketFile))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := report.Message{NSPID: 1}.Encode()
	if _, err := conn.Write(b[:]); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(b[:1]); err == nil { // it is closed without a word
		t.Error("a report with no nonce was taken")
	}
	s.o.Close()
	if score := s.o.Score(); score.Strays != 1 || score.Processes != 0 {
		t.Errorf("the score is\n%s", score)
	}
}

// One that lives and hangs up is a mistake of the workload's, one that was killed before
// it could report is not.
func TestWhoIsKilledBeforeItReportsIsNoStray(t *testing.T) {
	s := newStage(t, nil)
	socket := filepath.Join(s.host.Dir, report.SocketFile)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), hangUpEnv+"="+socket)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil { // it is connected
		t.Error(err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // killed
	// Whether this one ends is waited for, which is time enough for the other.
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	for deadline := time.Now().Add(20 * time.Second); s.o.Score().Strays == 0; {
		if time.Now().After(deadline) {
			t.Fatal("who hung up is no stray")
		}
		runtime.Gosched()
	}
	s.o.Close()
	if n := s.o.Score().Strays; n != 1 {
		t.Errorf("%d strays, want the one that lives", n)
	}
}

func TestAScoreSinceAnother(t *testing.T) {
	o := &Oracle{}
	c := Cell{Group: "all", Way: Socket}
	o.tally.add(c, Right)
	before := o.Score()
	o.tally.add(c, Right)
	o.tally.add(c, Unknown)
	o.tally.add(Cell{Group: "attacker"}, Conflict)
	d := o.Score().Since(before)
	if got := d.Group("all"); got[Right] != 1 || got[Unknown] != 1 || got.All() != 2 || got.Rate(Unknown) != 0.5 {
		t.Errorf("the difference is %v", got)
	}
	if got := d.Group("attacker"); got[Conflict] != 1 || got.All() != 1 {
		t.Errorf("the attackers' is %v", got)
	}
}

func TestTheSumOfTwoScores(t *testing.T) {
	one, two, both := Cell{Way: Socket}, Cell{Way: Library}, Cell{Way: Command}
	a := Score{Cells: map[Cell]Counts{one: {Right: 1}, both: {Right: 2, Gone: 1}}, Processes: 3}
	b := Score{Cells: map[Cell]Counts{two: {Unknown: 5}, both: {Right: 7}}, Processes: 4}
	sum := a.Plus(b)
	for c, want := range map[Cell]Counts{one: {Right: 1}, two: {Unknown: 5}, both: {Right: 9, Gone: 1}} {
		if sum.Cells[c] != want {
			t.Errorf("%+v: %v, not %v", c, sum.Cells[c], want)
		}
	}
	if sum.Processes != 7 || a.Cells[both][Right] != 2 || b.Cells[both][Right] != 7 {
		t.Errorf("%d processes, and of the summands %v, %v is left", sum.Processes, a.Cells, b.Cells)
	}
	if n := (Score{}).Plus(a).Since(a).Sum(nil).All(); n != 0 {
		t.Errorf("%d lookups are left of nothing", n)
	}
}

func TestWhatThePrintedJSONSaysIsRead(t *testing.T) {
	line := `{"query":"7","status":"container","thread":8,"containers":[{"id":"4f3a","name":"web","image":"img:1","aliases":["containerd://moby/4f3b"],"labels":{"a":"b"}}],"process":{"pid":7,"startTimeNs":123,"pidfsInode":9,"pidNamespaces":[{"inum":5,"pid":1}]}}`
	a, err := decodeAnswer(line, "7")
	if err != nil {
		t.Fatal(err)
	}
	c := a.Container()
	if a.Status != workload.StatusContainer || a.Thread != 8 || c.ID.ID != "4f3a" || c.Aliases[0].ID != "4f3b" || c.Image.Name != "img:1" || c.Labels["a"] != "b" {
		t.Errorf("it reads %+v, %+v", a, c)
	}
	if p := a.Process; p.Key != (workload.ProcessKey{PID: 7, Start: 123, Inode: 9}) || p.PIDNamespaces[0].PID != 1 {
		t.Errorf("the process reads %+v", p)
	}
	if _, err := decodeAnswer(line, "8"); err == nil {
		t.Error("an answer to another question was taken")
	}
	if _, err := decodeAnswer(`{"query":"8","error":"process 8: not found"}`, "8"); !errors.Is(err, workload.ErrNotFound) {
		t.Errorf("not found reads %v", err)
	}
}
