// SPDX-License-Identifier: Apache-2.0

package correlator

// bug is a mistake that the machine makes on purpose, so that a test can show
// that the simulator notices it. Only a build with the tag pidigree_bugs can make
// any: everywhere else has is a constant false, and the compiler leaves out what
// depends on it.
type bug uint8

const (
	bugNone bug = iota
	bugKeyWithoutStart
	bugParentWithoutStart
	bugSwappedHierarchy
	bugMembershipLostOnMove
	bugOlderMoveApplied
	bugSnapshotOverridesEvents
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
	bugStaleAnswerApplied
	bugEarlierRunReplaces
	bugRunStaysOver
	bugSilenceIsDenial
	bugs
)
