// SPDX-License-Identifier: Apache-2.0

package wire

import (
	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The words of each enumeration at their numbers. A word that is not in its
// table goes over the wire as 0, and a number beyond it comes back as the zero
// word: an older side skips what a newer one invents.
var (
	states = [...]workload.State{
		pb.ContainerState_CONTAINER_STATE_CREATED:    workload.StateCreated,
		pb.ContainerState_CONTAINER_STATE_RUNNING:    workload.StateRunning,
		pb.ContainerState_CONTAINER_STATE_PAUSED:     workload.StatePaused,
		pb.ContainerState_CONTAINER_STATE_RESTARTING: workload.StateRestarting,
		pb.ContainerState_CONTAINER_STATE_EXITED:     workload.StateExited,
	}
	statuses = [...]workload.Status{
		pb.Status_STATUS_UNKNOWN:   workload.StatusUnknown,
		pb.Status_STATUS_CONTAINER: workload.StatusContainer,
		pb.Status_STATUS_HOST:      workload.StatusHost,
		pb.Status_STATUS_CONFLICT:  workload.StatusConflict,
	}
	confidences = [...]workload.Confidence{
		pb.Confidence_CONFIDENCE_CONFIRMED: workload.Confirmed,
		pb.Confidence_CONFIDENCE_CLAIMED:   workload.Claimed,
	}
	entries = [...]workload.Entry{
		pb.Entry_ENTRY_INIT: workload.EntryInit,
		pb.Entry_ENTRY_EXEC: workload.EntryExec,
	}
	kinds = [...]workload.Kind{
		pb.EntityKind_ENTITY_KIND_CONTAINER: workload.KindContainer,
		pb.EntityKind_ENTITY_KIND_PROCESS:   workload.KindProcess,
		pb.EntityKind_ENTITY_KIND_POD:       workload.KindPod,
		pb.EntityKind_ENTITY_KIND_IMAGE:     workload.KindImage,
		pb.EntityKind_ENTITY_KIND_TASK:      workload.KindTask,
		pb.EntityKind_ENTITY_KIND_SERVICE:   workload.KindService,
	}
	changeTypes = [...]workload.ChangeType{
		pb.ChangeType_CHANGE_TYPE_SET:      workload.ChangeSet,
		pb.ChangeType_CHANGE_TYPE_UNSET:    workload.ChangeUnset,
		pb.ChangeType_CHANGE_TYPE_BOOKMARK: workload.ChangeBookmark,
		pb.ChangeType_CHANGE_TYPE_RESYNC:   workload.ChangeResync,
	}
)

// number gives the number of a word, 0 if the table has no such word.
func number[P ~int32, W ~string](words []W, w W) P {
	for i, x := range words {
		if x == w && w != "" {
			return P(i)
		}
	}
	return 0
}

// word gives the word of a number, empty if the table has no such number.
func word[P ~int32, W ~string](words []W, n P) W {
	if n < 0 || int(n) >= len(words) {
		return ""
	}
	return words[n]
}
