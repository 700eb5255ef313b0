// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// reusedPIDs: processes of two containers, and of the host, take the same eight
// PIDs, one after the other, with clone3's set_tid, which is what
// ns_last_pid does without the race. The oracle asks about each by PID, PID and
// start, and pidfd, while it lives and once it has ended. The plain tool that
// this fools is one that remembers by PID whose it was.
func reusedPIDs(t *testing.T, s *stage) {
	before := s.o.Score()
	low, high := harness.PIDMax(t)-60, harness.PIDMax(t)-53 // where the kernel comes by seldom
	work := []string{"reuse", "-rate", "100", "-for", "6s", "-pids", fmt.Sprintf("%d-%d", low, high)}
	if !s.guest { // whose own processes would need the PID on the host as well
		host := s.o.Host().Group("reuse")
		host.RunHost(work[0], work[1:]...)
	}
	var ids []string
	for range 2 {
		name := s.name("reuse")
		p := s.o.Container(oracle.Truth{Name: name, Image: collectortest.BusyboxImage}).Group("reuse")
		args := append(p.DockerArgs(), "--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", collectortest.BusyboxImage, oracle.Work)
		id := s.docker.Run(append(args, work...)...)
		p.SetID(id)
		ids = append(ids, id)
	}
	remembered, stale := map[int]string{}, 0
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		for pid := low; pid <= high; pid++ {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
			if err != nil || len(text) == 0 {
				continue
			}
			now := strings.Join(plain(string(text)), " ")
			if was, ok := remembered[pid]; ok && was != now {
				stale++
			}
			remembered[pid] = now
		}
	}
	for _, id := range ids {
		s.docker.Docker("wait", id)
		s.docker.Docker("rm", id)
	}
	score := s.o.Score().Since(before)
	reused := func(by oracle.By, ended bool) oracle.Counts {
		return score.Sum(func(c oracle.Cell) bool { return c.Reused && c.By == by && (c.Age == oracle.Ended) == ended })
	}
	t.Logf("%d of %d processes on a PID that had been another's; one who remembers by PID was wrong %d times", score.Reused, score.Processes, stale)
	if stale == 0 {
		t.Error("the attack did not happen")
	}
	for _, by := range []oracle.By{oracle.ByPID, oracle.ByInode, oracle.ByPidfd} {
		n := reused(by, false)
		t.Logf("by %-12s %v", by, n)
		if n[oracle.Right] == 0 {
			t.Errorf("nothing was answered right %s", by)
		}
	}
	for _, by := range []oracle.By{oracle.ByPID, oracle.ByInode, oracle.ByStart} {
		if n := reused(by, true); n.All() == 0 {
			t.Errorf("nothing was asked by %s about one that had ended", by)
		}
	}
	if n := score.Group("reuse"); n[oracle.Conflict] > 0 {
		t.Errorf("%d answers were conflict", n[oracle.Conflict])
	}
}
