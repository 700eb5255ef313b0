// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// dirs are the directories of a process in some hierarchies, as an attacker sees them.
func dirs(t *testing.T, pid int, hs []harness.Hierarchy) (all []string) {
	t.Helper()
	for _, h := range hs {
		all = append(all, inside(h.Of(t, pid)))
	}
	return all
}

// splits are the sets of hierarchies in which a process leaves its container.
func splits(t *testing.T) map[string][]harness.Hierarchy {
	t.Helper()
	all := harness.Hierarchies(t)
	m := map[string][]harness.Hierarchy{fmt.Sprintf("all %d hierarchies", len(all)): all}
	if len(all) == 1 {
		return m
	}
	for _, h := range all {
		m["only "+strconv.Quote(h.Name)] = []harness.Hierarchy{h}
	}
	m["every v1 hierarchy"] = all[1:]
	m["all but name=systemd"] = slices.DeleteFunc(slices.Clone(all), func(h harness.Hierarchy) bool { return h.Name == "name=systemd" })
	return m
}

// splitAndWholeMoves: a process in the victim's v2 cgroup and its own v1 ones,
// the reverse, each hierarchy alone, and all of them.
func splitAndWholeMoves(t *testing.T, s *stage) {
	attacker := s.attacker(t)
	for name, hs := range splits(t) {
		t.Run(name, func(t *testing.T) {
			p := attacker.sitter(t, append([]string{"enter"}, dirs(t, s.victim.pid, hs)...)...)
			defer p.end(t)
			s.siege(t, p, s.victim)
		})
	}
	if s.podmans == nil {
		return
	}
	for name, hs := range splits(t) {
		t.Run("into podman's container, "+name, func(t *testing.T) {
			p := attacker.sitter(t, append([]string{"enter"}, dirs(t, s.podmans.pid, hs)...)...)
			defer p.end(t)
			s.siege(t, p, s.podmans)
		})
	}
}

// entriesAndMoves: born in the victim's cgroup, moved there after having been
// known, and moved to and fro while being asked about.
func entriesAndMoves(t *testing.T, s *stage) {
	attacker := s.attacker(t)
	all := harness.Hierarchies(t)
	if v2 := all[0]; v2.Name == "" {
		t.Run("born there", func(t *testing.T) {
			p := attacker.sitter(t, "clone", inside(v2.Of(t, s.victim.pid)))
			defer p.end(t)
			s.siege(t, p, s.victim)
			p.move(t, dirs(t, s.victim.pid, all[1:]))
			s.siege(t, p, s.victim)
		})
	}
	for name, hs := range splits(t) {
		t.Run("moved once known, "+name, func(t *testing.T) {
			p := attacker.sitter(t, "sit")
			defer p.end(t)
			s.is(t, p.pid, attacker)
			p.move(t, dirs(t, s.victim.pid, hs))
			s.siege(t, p, s.victim)
			p.move(t, dirs(t, attacker.pid, hs))
			for _, a := range s.askAll(t, p.pid) {
				attacker.isNoVictim(t, a)
			}
		})
	}
	for name, hs := range map[string][]harness.Hierarchy{"one hierarchy": all[:1], "all": all} {
		t.Run("moved in a loop, "+name, func(t *testing.T) { s.dance(t, attacker, hs) })
	}
	t.Run("with host PID", func(t *testing.T) {
		native := s.attacker(t, "--pid", "host")
		p := native.sitter(t, append([]string{"enter"}, dirs(t, s.victim.pid, all)...)...)
		defer p.end(t)
		s.siege(t, p, s.victim)
	})
}

// siege asks about a process in the victim's cgroup, and about everybody else,
// again and again: it must not be taken for the victim's later on, either.
func (s *stage) siege(t *testing.T, p sitter, victim *member) {
	t.Helper()
	fools(t, p.pid, victim)
	var last workload.Answer
	for range 5 {
		for _, a := range s.askAll(t, p.pid) {
			p.m.isNoVictim(t, a)
			last = a
		}
		s.is(t, victim.pid, victim)
		s.is(t, s.bystanders[0].pid, s.bystanders[0])
	}
	t.Logf("%s %.12s %q", last.Status, idOf(last), last.Reason)
}

// dance has a process moved to and fro for two seconds while it is asked about.
func (s *stage) dance(t *testing.T, attacker *member, hs []harness.Hierarchy) {
	p := attacker.sitter(t, "sit")
	defer p.end(t)
	s.is(t, p.pid, attacker)
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	own, there := dirs(t, p.pid, hs), dirs(t, s.victim.pid, hs)
	attacker.must(t, append(append([]string{"dance", strconv.Itoa(p.inside)}, there...), own...)...)
	fooled, asked := 0, 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); asked += 2 {
		if slices.Contains(plain(harness.ProcFile(t, p.pid, "cgroup")), s.victim.id[:12]) {
			fooled++
		}
		attacker.isNoVictim(t, s.ask(t, p.pid))
		a, err := s.client.ResolvePIDFD(t.Context(), fd)
		if err != nil {
			t.Fatal(err)
		}
		attacker.isNoVictim(t, a)
	}
	moves := attacker.must(t, "halt")
	t.Logf("%s moves; %d of %d times a plain parser was fooled; pidigree was asked %d times", moves, fooled, asked/2, asked)
	if fooled == 0 {
		t.Error("the attack did not happen")
	}
	s.is(t, s.victim.pid, s.victim)
}
