// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// dockerInDocker: an engine in a container, and containers in that. No source knows
// the inner engine, so all that it makes is the outer container's, from the first
// fork on: never a conflict, never the host's, and never of the id that the inner
// engine gives in the cgroup's name.
func (s *stage) dockerInDocker(t *testing.T) {
	party := s.o.Container(oracle.Truth{Name: s.name("dind"), Image: collectortest.BusyboxImage}).Group("bystander")
	inner := s.docker.StartInner(party.DockerArgs()...)
	party.SetID(inner.ID)
	outer := &member{name: party.Truth().Name, id: inner.ID, pid: s.docker.InitPID(inner.ID), party: party}
	s.is(t, outer.pid, outer)
	w := s.watchBelow(t, outer)
	defer w.end()
	mount := []string{"--volume", oracle.Dir + ":" + oracle.Dir + ":ro"} // of the outer one: the party's nonce
	for i, flags := range [][]string{nil, {"--pid", "host"}, {"--cgroup-parent", "/docker/" + s.victim.id}} {
		before := party.Reports()
		id := inner.Run(append(append(slices.Clone(mount), flags...), collectortest.BusyboxImage, oracle.Work, "stay", "-children", "1")...)
		s.o.WaitReports(patience, party, before+2)
		inner.Docker("exec", "--detach", id, oracle.Work, "stay", "-for", "2s")
		s.o.WaitReports(patience, party, before+3)
		s.o.WaitKnown(patience, party)
		pids := w.named(id)
		if len(pids) < 3 { // the init, its child, the exec; and the shim by its arguments
			t.Fatalf("%q: %d processes of the inner container were found", flags, len(pids))
		}
		fooled := 0
		for _, pid := range pids {
			text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid)) // it may have ended
			if slices.Contains(plain(string(text)), id[:12]) {
				fooled++
			}
			s.isWhileItLives(t, pid, outer)
		}
		if fooled < 2 {
			t.Fatalf("the attack did not happen: a plain parser takes %d processes for the inner container's", fooled)
		}
		if i == 2 {
			s.is(t, s.victim.pid, s.victim)
		}
		inner.Docker("rm", "--force", id)
	}
	for _, pid := range append(descendants(outer.pid), outer.pid) { // the inner daemons
		s.isWhileItLives(t, pid, outer)
	}
	w.end()
	t.Logf("in %s: %v", outer.name, w.said)
	if w.said[workload.StatusContainer] == 0 {
		t.Error("nobody in there was ever named")
	}
	s.innerEngineNames(t, inner, outer)
}

// innerEngineNames: an agent that is told of the inner engine's socket puts its
// containers inside the outer one, by their names, those that it finds and those that
// start later. One of them has the victim's name, which changes nothing of the victim.
func (s *stage) innerEngineNames(t *testing.T, inner *collectortest.InnerDockerd, outer *member) {
	run := func(name string) string {
		return inner.Run("--name", name, collectortest.BusyboxImage, "/bin/busybox", "sh", "-c", "sleep 7303 & sleep 7304")
	}
	w := &watch{t: t, outer: outer} // for its list
	early := run("early")
	a := harness.StartAgent(t, programs, harness.AgentOptions{Docker: s.docker, Args: []string{"--docker-nested", inner.Socket}})
	c := s.dial(t, a.Socket)
	for _, m := range []*member{{name: "early", id: early}, {name: s.victim.name, id: run(s.victim.name)}} {
		inner.Docker("exec", "--detach", m.id, "/bin/busybox", "sleep", "7305")
		var last []workload.Answer
		err := harness.Within(patience, func() error {
			last = nil
			for _, pid := range w.named(m.id) {
				results, err := c.Resolve(t.Context(), workload.Query{PID: workload.PID(pid)})
				if err != nil || results[0].Err != nil {
					return errors.Join(err, results[0].Err)
				}
				answer := results[0].Answer
				if answer.Status != workload.StatusContainer || answer.Containers[0].ID.ID != outer.id {
					return fmt.Errorf("PID %d is %s in %d containers (%s)", pid, answer.Status, len(answer.Containers), answer.Reason)
				}
				if len(answer.Containers) == 2 {
					last = append(last, answer)
				}
			}
			if len(last) < 3 { // two, and the exec; the shim is the outer one's
				return fmt.Errorf("%d processes are in a container in %s", len(last), outer.name)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%s: %v\n%s", m.name, err, a.Command(t.Context(), "status", "-o", "wide").Stdout)
		}
		for _, answer := range last {
			in := answer.Container()
			if in.ID.ID != m.id || in.Name != m.name || in.Image.Name != collectortest.BusyboxImage || in.Parent.ID != outer.id || answer.Confidence != workload.Confirmed {
				t.Errorf("%s: it is %s, %q of %q inside of %s, %s", m.name, in.ID, in.Name, in.Image.Name, in.Parent, answer.Confidence)
			}
		}
	}
	results, err := c.Resolve(t.Context(), workload.Query{PID: workload.PID(s.victim.pid)}, workload.Query{Container: s.victim.name})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range results {
		if r.Err != nil || idOf(r.Answer) != s.victim.id || len(r.Answer.Containers) != 1 {
			t.Errorf("WRONG: the victim is %q in %d containers, %v", idOf(r.Answer), len(r.Answer.Containers), r.Err)
		}
	}
}

// isWhileItLives awaits that a process is its container's, or has ended.
func (s *stage) isWhileItLives(t *testing.T, pid int, m *member) {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	err = harness.Within(patience, func() error {
		a, err := s.client.ResolvePIDFD(t.Context(), fd)
		if err == nil && (a.Status != workload.StatusContainer || a.Confidence != workload.Confirmed || idOf(a) != m.id || len(a.Containers) != 1) {
			return fmt.Errorf("PID %d is %s, %s, %q in %d (%s), not of %s alone", pid, a.Status, a.Confidence, idOf(a), len(a.Containers), a.Reason, m.name)
		}
		return nil // an error: it has ended
	})
	if err != nil {
		t.Error(err)
	}
}

// A watch asks about everybody below a container's init, from the first moment:
// whoever is there is that container's, or not known yet.
type watch struct {
	t          *testing.T
	client     *client.Client
	outer      *member
	stop, done chan struct{}
	said       map[workload.Status]int
}

func (s *stage) watchBelow(t *testing.T, outer *member) *watch {
	t.Helper()
	w := &watch{t: t, client: s.dial(t, s.agent.Socket), outer: outer, stop: make(chan struct{}), done: make(chan struct{}), said: map[workload.Status]int{}}
	go w.run()
	t.Cleanup(w.end)
	return w
}

func (w *watch) end() {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	<-w.done
}

func (w *watch) run() {
	defer close(w.done)
	for {
		for _, pid := range descendants(w.outer.pid) {
			select {
			case <-w.stop:
				return
			default:
				w.ask(pid)
			}
		}
	}
}

// ask holds the process by a pidfd, and looks again whether it is one from below:
// its PID may have been another's by the time that the pidfd was had.
func (w *watch) ask(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	if !slices.Contains(descendants(w.outer.pid), pid) {
		return
	}
	a, err := w.client.ResolvePIDFD(w.t.Context(), fd)
	if err != nil {
		return // it has ended meanwhile
	}
	w.said[a.Status]++
	for _, c := range a.Containers {
		if c.ID.ID != w.outer.id {
			w.t.Errorf("WRONG: PID %d is said to be of %s, %q", pid, c.ID, c.Name)
		}
	}
	if a.Status == workload.StatusConflict || a.Status == workload.StatusHost {
		w.t.Errorf("PID %d is %s: %s", pid, a.Status, a.Reason)
	}
}

// named lists who has the inner container's id in a cgroup's name or an argument.
func (w *watch) named(id string) (pids []int) {
	for _, pid := range descendants(w.outer.pid) {
		for _, name := range []string{"cgroup", "cmdline"} {
			b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
			if strings.Contains(string(b), id) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}
