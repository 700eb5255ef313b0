// SPDX-License-Identifier: Apache-2.0

//go:build pidigree_bugs

package correlator

import (
	"flag"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var bugsFor = flag.Duration("bugs.for", time.Minute, "how long each deliberate bug is looked for")

// bugNames say what each mistake is, for the output.
var bugNames = map[bug]string{
	bugKeyWithoutStart:          "a process is known by its PID alone",
	bugParentWithoutStart:       "a parent is known by its PID alone",
	bugSwappedHierarchy:         "a move counts for the wrong hierarchy",
	bugMembershipLostOnMove:     "a member that moves is one no more",
	bugOlderMoveApplied:         "an older move replaces a newer fact",
	bugSnapshotEndsTheNewborn:   "who is born during a snapshot is ended by it",
	bugExecForgotten:            "exec is ignored",
	bugExitForgotten:            "exit is ignored",
	bugDeadRevived:              "a late fact revives the dead",
	bugLossIgnored:              "a counted loss is ignored",
	bugRepairSkipsRemoved:       "a repair does not look for removed cgroups",
	bugCgroupReuseUnnoticed:     "a cgroup's id that comes again is the old cgroup",
	bugNameTrusted:              "a cgroup's name is trusted",
	bugChildCgroupNotInherited:  "a child cgroup is not its parent's container's",
	bugPrefixMerges:             "containers are merged by a prefix of their ids",
	bugLyingInitRegisters:       "a lying init PID registers",
	bugSecondClaimWins:          "the second of two claims wins",
	bugForeignNamespacesIgnored: "whoever is in the cgroup is a member",
	bugHostForUnknown:           "an unknown cgroup is the host's",
	bugRunStaysOver:             "a new run has the old one's end",
	bugEscapeForgotten:          "who left its cgroup is judged as if it had not",
	bugLateForkEndsNext:         "a late fork ends the next process with its PID",
	bugMovesByPIDAlone:          "moves are kept by PID alone",
	bugStrangerIsHost:           "a container that no source knows is the host's",
	bugBelowIsMember:            "whoever is below a container's cgroup is a member",
	bugSilenceIsDenial:          "a source that cannot say has denied",
}

// Each mistake has a minute; the machine without any must pass what it took to
// catch the one that hid best.
func TestTheSimulatorCatchesEachDeliberateBug(t *testing.T) {
	var last uint64
	for b := bugNone + 1; b < bugs; b++ {
		begin := time.Now()
		seed, err := hunt(bugSet(b), *bugsFor)
		if err == nil {
			t.Errorf("not caught in a minute: %s", bugNames[b])
			continue
		}
		last = max(last, seed)
		t.Logf("%2d %-55s seed %6d, %5.2f s: %.110v", b, bugNames[b], seed, time.Since(begin).Seconds(), err)
	}
	for seed := uint64(1); seed <= last; seed++ {
		if _, err := simulate(simOptions{seed: seed}); err != nil {
			t.Fatalf("without a bug: %v", err)
		}
	}
	t.Logf("without a bug: seeds 1 to %d are clean", last)
}

// hunt gives a seed, the first or close to it, that shows a bug.
func hunt(b bugSet, most time.Duration) (uint64, error) {
	var next atomic.Uint64
	var mu sync.Mutex
	var seed uint64
	var found error
	var stop atomic.Bool
	end := time.Now().Add(most)
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for !stop.Load() && time.Now().Before(end) {
				s := next.Add(1)
				_, err := simulate(simOptions{seed: s, bugs: b})
				if err != nil { // and it must be the bug that does it
					if _, err0 := simulate(simOptions{seed: s}); err0 != nil {
						err = nil
					}
				}
				if err != nil {
					mu.Lock()
					if found == nil || s < seed {
						seed, found = s, err
					}
					mu.Unlock()
					stop.Store(true)
				}
			}
		})
	}
	wg.Wait()
	return seed, found
}
