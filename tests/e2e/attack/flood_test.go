// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// floodTime is how long each flood goes on.
const floodTime = 8 * time.Second

// floods: an attacker executes programs, or makes and removes cgroups with the
// victim's name in them, as fast as the machine can, to hide a start. The starts
// of others must be known, and their processes right.
func floods(t *testing.T, s *stage) {
	t.Run("exec", func(t *testing.T) {
		attacker := s.attacker(t)
		s.flood(t, attacker, "flood", strconv.FormatInt(int64(floodTime), 10))
	})
	t.Run("cgroups", func(t *testing.T) {
		attacker := s.attacker(t)
		// One that a process is in, with the name that the others will have.
		order := []string{"enter"}
		for _, h := range harness.Hierarchies(t)[:1] {
			order = append(order, filepath.Join(inside(h.Of(t, attacker.pid)), "docker-"+s.victim.id+".scope"))
		}
		p := attacker.sitter(t, order...)
		fools(t, p.pid, s.victim)
		s.flood(t, attacker, "churn", strconv.FormatInt(int64(floodTime), 10), order[1])
		s.is(t, p.pid, attacker)
		p.end(t)
		removeCgroups(t, outside(order[1]), 1)
	})
}

// flood runs the order and starts containers while it lasts.
func (s *stage) flood(t *testing.T, attacker *member, order ...string) {
	t.Helper()
	before := s.o.Score()
	type end struct {
		said string
		err  error
	}
	done := make(chan end, 1)
	begin := time.Now()
	go func() {
		said, err := attacker.order(order...)
		done <- end{said, err}
	}()
	var hidden []*oracle.Party
	known := 0 // while it lasted
	for time.Since(begin) < floodTime/2 && len(hidden) < 5 {
		name := s.name("hidden")
		p := s.o.Container(oracle.Truth{Name: name, Image: collectortest.BusyboxImage}).Group("hidden")
		args := append(p.DockerArgs(), collectortest.BusyboxImage, oracle.Work, "stay", "-children", "2")
		id, err := s.docker.Exec(t.Context(), append([]string{"run", "--detach", "--network", "none"}, args...)...)
		if err != nil {
			t.Error(err)
			break
		}
		p.SetID(id)
		hidden = append(hidden, p)
		s.o.WaitReports(patience, p, 3)
		s.o.WaitKnown(patience, p)
		if len(done) == 0 {
			known++
		}
	}
	e := <-done
	if e.err != nil {
		t.Fatal(e.err)
	}
	if known == 0 {
		t.Errorf("none of %d starts was known before the flood was over", len(hidden))
	}
	score := s.o.Score().Since(before)
	t.Logf("%s in %s; %d starts meanwhile, all known: %v", e.said, floodTime, len(hidden), s.timesToKnown(t, hidden))
	if n := score.Group("hidden"); n[oracle.Conflict] > 0 || score.Never > 0 {
		t.Errorf("%d conflict, %d never known", n[oracle.Conflict], score.Never)
	}
	for _, p := range hidden {
		if _, err := s.docker.Exec(t.Context(), "rm", "--force", p.Truth().Name); err != nil {
			t.Error(err)
		}
	}
}

// timesToKnown reads from the timelines how long after its first cgroup each was
// known, and whether that was before its first program.
func (s *stage) timesToKnown(t *testing.T, parties []*oracle.Party) (times []string) {
	t.Helper()
	for e, err := range s.client.List(t.Context(), workload.Selector{Kinds: []workload.Kind{workload.KindContainer}}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Container == nil || !slices.ContainsFunc(parties, func(p *oracle.Party) bool { return p.Truth().ID == e.Container.ID.ID }) {
			continue
		}
		at := map[string]workload.KTime{}
		for _, m := range e.Container.Timeline {
			at[m.What] = m.At
		}
		known := time.Duration(at[workload.MarkKnown] - at[workload.MarkCgroup]).Round(time.Millisecond)
		exec := time.Duration(at[workload.MarkFirstExec] - at[workload.MarkCgroup]).Round(time.Millisecond)
		times = append(times, fmt.Sprintf("%s (exec %s)", known, exec))
	}
	return times
}
