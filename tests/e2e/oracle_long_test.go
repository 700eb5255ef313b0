// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// What the long form of the oracle has beside the short one: containers that
// attack the others all the while, and faults, one after the other.

// siege is what goes on beside the oracle.
type siege struct {
	b      *truthBed
	proxy  *collectortest.Proxy // between the agent and Docker
	flood  *attacker
	faults []fault

	mu      sync.Mutex // guards all below
	active  bool       // a fault goes on, or ended a moment ago
	faulty  int        // how many faults have begun
	during  oracle.Score
	fooled  map[string]int // how often each attack would have fooled a plain name parser
	attacks map[string]int
}

// fault is something that fails for a while.
type fault struct {
	name       string
	begin, end func() error
	lasts      time.Duration
}

// Between the faults nothing fails for calm; a fault is over for the score after
// the time that the store has to equal the truth again.
const (
	calm      = 5 * time.Second
	recovered = 2 * time.Second
)

// besiege starts the attackers, which end with the context, and prepares the faults.
func (b *truthBed) besiege(proxy *collectortest.Proxy, victims []*oracle.Party) *siege {
	b.t.Helper()
	s := &siege{b: b, proxy: proxy, fooled: map[string]int{}, attacks: map[string]int{}}
	s.flood = b.attacker()
	s.faults = s.everyFault()
	for i, victim := range victims {
		a := b.attacker()
		pid := b.engines.docker.InitPID(victim.Truth().ID)
		a.aim(victim.Truth().ID, pid)
		b.load.Go(func() { s.attack(a, i) })
	}
	return s
}

// everyFault are those of the engines, of what is between them and the agent,
// and of the kernel's events.
func (s *siege) everyFault() []fault {
	docker, containerd := s.b.engines.docker, s.b.engines.containerd
	void := func(f func()) func() error { return func() error { f(); return nil } }
	signal := func(e interface{ Signal(syscall.Signal) error }, sig syscall.Signal) func() error {
		return func() error { return e.Signal(sig) }
	}
	flood := func(words ...string) func() error {
		return func() error {
			_, err := s.flood.order(words...)
			return err
		}
	}
	none := func() error { return nil }
	const some = 3 * time.Second // more than the deadline of a call
	ns := strconv.FormatInt(int64(some), 10)
	return []fault{
		{"containerd stopped", signal(containerd, syscall.SIGSTOP), signal(containerd, syscall.SIGCONT), some},
		{"dockerd stopped", signal(docker, syscall.SIGSTOP), signal(docker, syscall.SIGCONT), some},
		{"Docker's events lost", void(func() { s.proxy.Events(collectortest.EventsDropped) }), void(func() { s.proxy.Events(collectortest.EventsWhole) }), some},
		{"containerd killed", void(containerd.Kill), containerd.Start, time.Second},
		{"Docker slow by 5 s", void(func() { s.proxy.Delay(5 * time.Second) }), void(func() { s.proxy.Delay(0) }), 2 * some},
		{"dockerd killed", void(docker.Kill), docker.Start, time.Second},
		{"a flood of execs", flood("flood", ns), none, 0},
		{"a flood of cgroups", flood("churn", ns, inside(s.flood.own[0])), none, 0},
	}
}

// fail makes one fault after the other.
func (s *siege) fail() {
	for i := 0; s.b.ctx.Err() == nil; i++ {
		pause(s.b.ctx, calm)
		if s.b.ctx.Err() != nil {
			return
		}
		f := s.faults[i%len(s.faults)]
		before := s.b.o.Score()
		s.mu.Lock()
		s.active, s.faulty = true, s.faulty+1
		s.mu.Unlock()
		err := f.begin()
		pause(s.b.ctx, f.lasts)
		if err := errors.Join(err, f.end()); err != nil {
			s.b.errorf("%s: %v", f.name, err)
			return
		}
		pause(s.b.ctx, recovered)
		during := s.b.o.Score().Since(before)
		s.mu.Lock()
		s.active, s.during = false, s.during.Plus(during)
		s.mu.Unlock()
	}
}

// failed reports whether a fault goes on or one has begun since so many had. What
// an engine was told meanwhile may fail.
func (s *siege) failed(since int) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active || s.faulty > since
}

// begun is how many faults have.
func (s *siege) begun() int {
	if s == nil {
		return 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faulty
}

// complete reports whether every fault was made, and every attack.
func (s *siege) complete() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faulty > len(s.faults) && len(s.attacks) == len(attacks)
}

// hold says what the figures must be, in the whole and while nothing fails.
func (s *siege) hold(all oracle.Score) {
	s.b.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	quiet := all.Since(s.during)
	n := s.during.Settled("all")
	s.b.t.Logf("during faults, %d answers about processes older than 100 ms: %.4f %% unknown", n.Judged(), 100*n.Rate(oracle.Unknown))
	n = quiet.Settled("all")
	s.b.t.Logf("without a fault, %d answers about processes older than 100 ms: %.4f %% unknown", n.Judged(), 100*n.Rate(oracle.Unknown))
	if n.Judged() == 0 || n.Rate(oracle.Unknown) >= 0.0001 {
		s.b.errorf("without a fault %d of %d answers about processes older than 100 ms were unknown", n[oracle.Unknown], n.Judged())
		for _, d := range s.b.o.Doubts() {
			s.b.t.Log(d)
		}
	}
	a := all.Group("attacker")
	s.b.t.Logf("%d faults; attacks, and how often a plain parser was fooled: %v, %v; attackers' answers: %d themselves, %d unknown, %d conflict",
		s.faulty, s.attacks, s.fooled, a[oracle.Right]+a[oracle.Partial], a[oracle.Unknown], a[oracle.Conflict])
	for name := range attacks {
		if s.fooled[name] == 0 {
			s.b.errorf("the attack %q did not happen", name)
		}
	}
	if a.Judged() == 0 {
		s.b.errorf("nobody was asked about the attackers")
	}
}

// attacker is a container of runc's, with all that an attack needs: root,
// SYS_ADMIN and the cgroups of the host. Its init is the villain of tests/e2e/attack.
type attacker struct {
	b       *truthBed
	pid     int
	orders  *os.File
	answers *bufio.Reader
	from    *os.File
	own     []string // the directories of its cgroups, v2's first
	// target is whom it attacks, by id and cgroups.
	target string
	there  []string
}

// cgroupsInside is where the host's cgroups are in it.
const cgroupsInside = "/hostcg"

func inside(dir string) string { return cgroupsInside + strings.TrimPrefix(dir, harness.CgroupRoot) }

func allInside(dirs []string) (in []string) {
	for _, d := range dirs {
		in = append(in, inside(d))
	}
	return in
}

// attacker starts one; it ends with the test.
func (b *truthBed) attacker() *attacker {
	b.t.Helper()
	id := b.name("attacker")
	p := b.o.Container(oracle.Truth{ID: id, NoLabels: true}).OwnOrConflict()
	b.bundle(id, p, []string{"/villain"}, func(config map[string]any) {
		bind := func(from, to, how string) map[string]any {
			return map[string]any{"type": "bind", "source": from, "destination": to, "options": []string{"rbind", how}}
		}
		config["mounts"] = append(config["mounts"].([]any), bind(programs.Villain, "/villain", "ro"), bind(harness.CgroupRoot, cgroupsInside, "rw"))
		for set, caps := range config["process"].(map[string]any)["capabilities"].(map[string]any) {
			config["process"].(map[string]any)["capabilities"].(map[string]any)[set] = append(caps.([]any), "CAP_SYS_ADMIN")
		}
	})
	a := &attacker{b: b}
	if err := a.start(id); err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		_ = a.orders.Close()
		_ = exec.Command("runc", "--root", b.dir+"/state", "delete", "--force", id).Run()
		_ = a.from.Close()
	})
	var state struct{ Pid int }
	text, err := exec.Command("runc", "--root", b.dir+"/state", "state", id).Output()
	if err := errors.Join(err, json.Unmarshal(text, &state)); err != nil {
		b.t.Fatalf("runc state %s: %v", id, err)
	}
	a.pid = state.Pid
	for _, h := range harness.Hierarchies(b.t) {
		a.own = append(a.own, h.Of(b.t, a.pid))
		if h.Name == "cpuset" { // v1's children begin with no CPU, unless they are told to be as their parent
			if err := os.WriteFile(filepath.Join(h.Of(b.t, a.pid), "cgroup.clone_children"), []byte("1"), 0); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	b.o.WaitReports(patience, p, 1)
	return a
}

// start runs the container with pipes that the init keeps.
func (a *attacker) start(id string) error {
	in, orders, err := os.Pipe()
	if err != nil {
		return err
	}
	defer in.Close()
	answers, out, err := os.Pipe()
	if err != nil {
		return errors.Join(err, orders.Close())
	}
	defer out.Close()
	a.orders, a.from, a.answers = orders, answers, bufio.NewReader(answers)
	cmd := exec.Command("runc", "--root", a.b.dir+"/state", "run", "--detach", "--bundle", a.b.dir+"/"+id, id)
	cmd.Stdin, cmd.Stdout = in, out
	err = cmd.Run()
	if err == nil {
		var word string
		if word, err = a.answer(); err == nil && word != "here" {
			err = fmt.Errorf("the villain says %q", word)
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", id, err), orders.Close(), answers.Close())
	}
	return nil
}

// aim makes a container the target.
func (a *attacker) aim(id string, init int) {
	a.target = id
	for _, h := range harness.Hierarchies(a.b.t) {
		a.there = append(a.there, h.Of(a.b.t, init))
	}
}

func (a *attacker) answer() (string, error) {
	if err := a.from.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		return "", err
	}
	line, err := a.answers.ReadString('\n')
	return strings.TrimSpace(line), err
}

// order gives the villain one line and returns its answer.
func (a *attacker) order(words ...string) (string, error) {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = strconv.Quote(w)
	}
	if _, err := fmt.Fprintln(a.orders, strings.Join(quoted, "\t")); err != nil {
		return "", err
	}
	answer, err := a.answer()
	if text, bad := strings.CutPrefix(answer, "error "); bad {
		err = errors.New(text)
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", words[0], err)
	}
	return answer, nil
}

// sitter has a process started and gives its PID, the villain's.
func (a *attacker) sitter(words ...string) (string, error) {
	answer, err := a.order(words...)
	return strings.TrimPrefix(answer, "pid "), err
}

// fools reports whether a process of the attacker's is in this cgroup, by whose
// name a plain parser would take it for the target's.
func (a *attacker) fools(dir string) bool {
	if !strings.Contains(filepath.Base(dir), a.target[:32]) {
		return false
	}
	mine, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", a.pid))
	text, err2 := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil || err2 != nil {
		return false
	}
	return slices.ContainsFunc(strings.Fields(string(text)), func(pid string) bool {
		its, err := os.Readlink("/proc/" + pid + "/ns/pid")
		return err == nil && its == mine
	})
}

// attacks are made in turn, each by a process that is there for a while.
var attacks = map[string]func(a *attacker, ctx context.Context) (fooled bool, err error){
	"into all of its cgroups": func(a *attacker, ctx context.Context) (bool, error) { return a.enter(ctx, a.there) },
	"into its v2 cgroup":      func(a *attacker, ctx context.Context) (bool, error) { return a.enter(ctx, a.there[:1]) },
	"into all but its v2 cgroup": func(a *attacker, ctx context.Context) (bool, error) {
		return a.enter(ctx, a.there[min(1, len(a.there)-1):])
	},
	"born there": func(a *attacker, ctx context.Context) (bool, error) {
		return a.hold(ctx, a.there[0], "clone", inside(a.there[0]))
	},
	"moved to and fro":                  (*attacker).dance,
	"a child cgroup named as Docker's":  func(a *attacker, ctx context.Context) (bool, error) { return a.named(ctx, "docker-"+a.target+".scope") },
	"a child cgroup named as podman's":  func(a *attacker, ctx context.Context) (bool, error) { return a.named(ctx, "libpod-"+a.target) },
	"a child cgroup with its bare name": func(a *attacker, ctx context.Context) (bool, error) { return a.named(ctx, a.target) },
}

// attack makes one attack after the other until the context ends.
func (s *siege) attack(a *attacker, first int) {
	var names []string
	for name := range attacks {
		names = append(names, name)
	}
	slices.Sort(names)
	for i := first * len(names) / 2; s.b.ctx.Err() == nil; i++ {
		name := names[i%len(names)]
		fooled, err := attacks[name](a, s.b.ctx)
		if err != nil {
			s.b.errorf("%s: %v", name, err)
			return
		}
		s.mu.Lock()
		s.attacks[name]++
		if fooled {
			s.fooled[name]++
		}
		s.mu.Unlock()
	}
}

// hold has a process started, is fooled by it or not, and ends it.
func (a *attacker) hold(ctx context.Context, dir string, words ...string) (bool, error) {
	pid, err := a.sitter(words...)
	if err != nil {
		return false, err
	}
	fooled := a.fools(dir)
	pause(ctx, time.Second)
	_, err = a.order("end", pid)
	return fooled, err
}

func (a *attacker) enter(ctx context.Context, dirs []string) (bool, error) {
	return a.hold(ctx, dirs[0], append([]string{"enter"}, allInside(dirs)...)...)
}

// named enters cgroups of this name below the attacker's own, and removes them.
func (a *attacker) named(ctx context.Context, name string) (bool, error) {
	var dirs []string
	for _, d := range a.own {
		dirs = append(dirs, filepath.Join(d, name))
	}
	fooled, err := a.enter(ctx, dirs)
	for _, d := range dirs {
		err = errors.Join(err, harness.Within(patience, func() error { return os.Remove(d) })) // once its last process has ended
	}
	return fooled, err
}

// dance moves a process to and fro as fast as it goes.
func (a *attacker) dance(ctx context.Context) (fooled bool, err error) {
	pid, err := a.sitter("sit")
	if err != nil {
		return false, err
	}
	if _, err := a.order(append(append([]string{"dance", pid}, allInside(a.there)...), allInside(a.own)...)...); err != nil {
		return false, err
	}
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 5*time.Millisecond) {
		fooled = fooled || a.fools(a.there[0])
	}
	_, err = a.order("halt")
	_, err2 := a.order("end", pid)
	return fooled, errors.Join(err, err2)
}
