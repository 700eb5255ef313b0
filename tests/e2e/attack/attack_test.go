// SPDX-License-Identifier: Apache-2.0

package attack

import "testing"

// TestAttacks makes every attack against one victim, with one agent looking on.
func TestAttacks(t *testing.T) {
	s := newStage(t)
	s.part(t, "names of child cgroups", namesOfChildCgroups)
	s.part(t, "split and whole moves", splitAndWholeMoves)
	s.part(t, "entries and moves", entriesAndMoves)
	s.part(t, "reused PIDs", reusedPIDs)
	s.part(t, "honest look-alikes", honestLookAlikes)
	s.part(t, "hostile names", hostileNames)
	s.part(t, "lying runtimes", lyingRuntimes)
	s.part(t, "peers", peers)
	s.part(t, "floods", floods)
	t.Logf("\n%s", s.o.Score())
}
