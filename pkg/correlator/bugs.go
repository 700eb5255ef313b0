// SPDX-License-Identifier: Apache-2.0

package correlator

// bug is a mistake that the machine makes on purpose, so that a test can show
// that the simulator notices it. Only a build with the tag pidigree_bugs can make
// any: everywhere else has is a constant false, and the compiler leaves out what
// depends on it.
//
// Tried, and left out because no answer shows them: the children of an intruder not
// in conflict (they are judged anew, by where they are); a snapshot that replaces
// newer events, or an answer that comes after its container was forgotten (the next
// repair, or the ten seconds for which a container is kept, cover them). Rules that
// one schedule in tens of thousands needs have tests by name instead: a minute does
// not always find such a one.
type bug uint8

const (
	bugNone bug = iota
	bugKeyWithoutStart
	bugParentWithoutStart
	bugSwappedHierarchy
	bugMembershipLostOnMove
	bugOlderMoveApplied
	bugSnapshotEndsTheNewborn
	bugExecForgotten
	bugExitForgotten
	bugDeadRevived
	bugLossIgnored
	bugRepairSkipsRemoved
	bugCgroupReuseUnnoticed
	bugNameTrusted
	bugChildCgroupNotInherited
	bugPrefixMerges
	bugLyingInitRegisters
	bugSecondClaimWins
	bugForeignNamespacesIgnored
	bugHostForUnknown
	bugRunStaysOver
	bugSilenceIsDenial
	bugEscapeForgotten
	bugLateForkEndsNext
	bugMovesByPIDAlone
	bugStrangerIsHost
	bugBelowIsMember
	bugs
)
