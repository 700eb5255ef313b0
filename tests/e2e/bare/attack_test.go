// SPDX-License-Identifier: Apache-2.0

package bare

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// Ids as engines make them, so that a parser of names has something to find.
var (
	victimID   = hex.EncodeToString(bytes.Repeat([]byte{0xbe}, 32))
	attackerID = hex.EncodeToString(bytes.Repeat([]byte{0xa7}, 32))
)

// naive names a container as tools do that read the cgroup's name: the last 64
// hex digits in any of the lines. Each attack must work on it, or it was none.
func naive(t *testing.T, pid int) (ids []string) {
	t.Helper()
	id := regexp.MustCompile(`[0-9a-f]{64}`)
	for line := range strings.Lines(harness.ProcFile(t, pid, "cgroup")) {
		if all := id.FindAllString(line, -1); len(all) > 0 {
			ids = append(ids, all[len(all)-1])
		}
	}
	return ids
}

func fools(t *testing.T, pid int) {
	t.Helper()
	if !slices.Contains(naive(t, pid), victimID) {
		t.Fatalf("the attack did not happen: %s", harness.ProcFile(t, pid, "cgroup"))
	}
}

// who asks about a PID.
func (s *stage) who(pid int) workload.Answer {
	s.t.Helper()
	results, err := s.client.Resolve(s.t.Context(), workload.Query{PID: workload.PID(pid)})
	if err == nil {
		err = results[0].Err
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return results[0].Answer
}

// is awaits that a process is named as its container's.
func (s *stage) is(pid int, id string) {
	s.t.Helper()
	err := harness.Within(patience, func() error {
		a := s.who(pid)
		if a.Status != workload.StatusContainer || a.Confidence != workload.Confirmed || a.Exited || innermost(a) != id {
			return fmt.Errorf("PID %d: %s %s, exited %v, %q %q, not %s", pid, a.Status, a.Confidence, a.Exited, innermost(a), a.Reason, id)
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// innermost is the id of the container that an answer is about, or empty.
func innermost(a workload.Answer) string {
	if len(a.Containers) == 0 {
		return ""
	}
	return a.Containers[len(a.Containers)-1].ID.ID
}

// isNotTheVictims asks about an attacker's process: itself, in conflict and
// unknown are right, any other container is wrong.
func (s *stage) isNotTheVictims(t *testing.T, pid int) {
	t.Helper()
	got := s.who(pid)
	t.Logf("%s %s %q", got.Status, innermost(got), got.Reason)
	for _, c := range got.Containers {
		if c.ID.ID != attackerID {
			t.Errorf("it is said to be in %q", c.ID)
		}
	}
	if got.Status == workload.StatusHost {
		t.Error("it is said to be the host's")
	}
}

func TestAContainerOfRuncAloneIsNamed(t *testing.T) {
	eachForm(t, func(t *testing.T, s *stage) {
		c := s.start(victimID, filepath.Dir(s.agent.Socket))
		s.is(c.pid, victimID)
		child := c.sitter("enter")
		s.is(child.pid, victimID)
		// One that comes by `runc exec`, and asks about itself over the socket.
		out := output(t, "runc", "--root", s.root, "exec", victimID, "/pidigree", "who", "self", "--socket", s.agent.Socket, "-o", "name")
		if strings.TrimSpace(out) != victimID[:12] { // a container without a name
			t.Errorf("who self inside the container: %q", out)
		}
		if got := s.who(os.Getpid()); got.Status != workload.StatusHost {
			t.Errorf("the test itself: %s %q", got.Status, got.Reason)
		}
	})
}

// All at the container's own cgroup and below, in every hierarchy that it can
// reach: a container may make what it likes there and call it what it likes.
func TestACgroupNamedAfterAnotherContainerNamesNobody(t *testing.T) {
	eachForm(t, func(t *testing.T, s *stage) {
		victim, attacker := s.start(victimID), s.start(attackerID)
		s.is(victim.pid, victimID)
		s.is(attacker.pid, attackerID)
		for _, name := range []string{
			"docker-" + victimID + ".scope", "libpod-" + victimID + ".scope", "cri-containerd-" + victimID + ".scope", "crio-" + victimID + ".scope",
			":cri-containerd:" + victimID, victimID, "docker/" + victimID, "kubepods/besteffort/pod1/" + victimID, "a/b/c/docker-" + victimID + ".scope",
		} {
			t.Run(name, func(t *testing.T) {
				var dirs []string
				for _, h := range harness.Hierarchies(t) {
					dir := filepath.Join(inside(h.Of(t, attacker.pid)), name)
					if strings.HasPrefix(h.Name, "cpuset") {
						continue // needs CPUs given to each level before anybody may enter
					}
					makeDirs(t, dir)
					dirs = append(dirs, dir)
				}
				p := attacker.sitter(append([]string{"enter"}, dirs...)...)
				defer p.end()
				fools(t, p.pid)
				s.is(p.pid, attackerID)
			})
		}
	})
}

// makeDirs is the host's way of making what the container sees below /cg.
func makeDirs(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(dir, "/cg")), 0o755); err != nil {
		t.Fatal(err)
	}
}

// A container that can write the host's cgroups goes into its neighbour's: moved,
// or born there, which makes no event of a move; in one hierarchy, or in all.
func TestAProcessInAnothersCgroupIsNotTheOthers(t *testing.T) {
	eachForm(t, func(t *testing.T, s *stage) {
		victim, attacker := s.start(victimID), s.start(attackerID)
		s.is(victim.pid, victimID)
		s.is(attacker.pid, attackerID)
		var all []string
		for _, h := range harness.Hierarchies(t) {
			dir := inside(h.Of(t, victim.pid))
			all = append(all, dir)
			t.Run("moved in hierarchy "+strconv.Quote(h.Name), func(t *testing.T) {
				s.attack(t, attacker, victim, "enter", dir)
			})
		}
		t.Run("moved in all of them", func(t *testing.T) {
			s.attack(t, attacker, victim, append([]string{"enter"}, all...)...)
		})
		if v2 := harness.Hierarchies(t)[0]; v2.Name == "" {
			t.Run("born there", func(t *testing.T) {
				s.attack(t, attacker, victim, "clone", inside(v2.Of(t, victim.pid)))
			})
		}
	})
}

// attack has the attacker's init start a process, and then asks about everybody.
func (s *stage) attack(t *testing.T, attacker, victim *container, order ...string) {
	p := attacker.sitter(order...)
	defer p.end()
	fools(t, p.pid)
	s.isNotTheVictims(t, p.pid)
	s.is(victim.pid, victimID)
	s.is(attacker.pid, attackerID)
	s.isNotTheVictims(t, p.pid) // and not once everything has been looked at, either
}

// Processes of two containers get the same PID one after the other, each asked
// about at once: by PID, as a pidfd, and by PID and start of the one before.
func TestAReusedPIDIsOfWhoHasItNow(t *testing.T) {
	eachForm(t, func(t *testing.T, s *stage) {
		sides := []*container{s.start(victimID), s.start(attackerID)}
		for _, c := range sides {
			s.is(c.pid, c.id)
		}
		r := &reuse{t: t, stage: s}
		r.begin(sides[0])
		// So many in a row need luck where others start processes all the time.
		for end := time.Now().Add(2 * patience); r.rounds < 16 && time.Now().Before(end); {
			next := sides[0]
			if r.id == next.id {
				next = sides[1]
			}
			if !r.round(next) {
				r.begin(next) // somebody else has the PID, and may keep it
			}
		}
		t.Logf("%d reuses: %d answers right at once, %d unknown", r.rounds, r.right, r.unknown)
		if r.rounds < 12 {
			t.Errorf("only %d reuses of one PID", r.rounds)
		}
	})
}

// reuse is one PID that goes to and fro.
type reuse struct {
	t     *testing.T
	stage *stage

	last  int    // the PID
	start uint64 // of who had it last, in ticks
	id    string // whose it was

	rounds, right, unknown int
}

// begin takes the PID of a process of a container's, which then ends.
func (r *reuse) begin(c *container) {
	r.t.Helper()
	p := c.sitter("enter")
	r.last, r.start, r.id = p.pid, harness.StartTicks(r.t, p.pid), c.id
	p.end()
}

// round lets a container have the PID, and asks. It reports whether it could have it.
func (r *reuse) round(c *container) bool {
	r.t.Helper()
	p, ok := r.reborn(c)
	if !ok {
		return false
	}
	defer p.end()
	r.rounds++
	before := workload.ProcessKey{PID: workload.PID(p.pid), Start: r.start * workload.TickNS, Ticks: true}
	started := harness.StartTicks(r.t, p.pid)
	results, err := r.stage.client.Resolve(r.t.Context(), workload.Query{PID: before.PID}, workload.Query{Key: before})
	if err != nil {
		r.t.Fatal(err)
	}
	r.score("its PID", results[0].Answer, c.id)
	if started != r.start { // within one tick the two keys are one
		r.score("the key of the one before", results[1].Answer, r.id)
	}
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	defer unix.Close(fd)
	answer, err := r.stage.client.ResolvePIDFD(r.t.Context(), fd)
	if err != nil {
		r.t.Fatal(err)
	}
	r.score("its pidfd", answer, c.id)
	r.stage.is(p.pid, c.id)
	r.start, r.id = started, c.id
	return true
}

func (r *reuse) score(question string, got workload.Answer, want string) {
	r.t.Helper()
	switch innermost(got) {
	case "":
		r.unknown++
	case want:
		r.right++
	default:
		r.t.Errorf("round %d, by %s: %s, not %s", r.rounds, question, innermost(got), want)
	}
}

// reborn starts a process with the PID, by telling the kernel which one it gave
// last. Others start processes too, so it takes some tries.
func (r *reuse) reborn(c *container) (sitter, bool) {
	r.t.Helper()
	for range 50 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(r.last-1)), 0); err != nil {
			r.t.Fatal(err)
		}
		p := c.sitter("enter")
		if p.pid == r.last {
			return p, true
		}
		p.end()
	}
	return sitter{}, false
}
