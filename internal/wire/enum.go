// SPDX-License-Identifier: Apache-2.0

package wire

import "github.com/pidigree/pidigree/pkg/workload"

// The words of each enumeration at their numbers; the numbers are those of the
// protobuf, to which a test holds them.
var (
	states = []workload.State{
		"", workload.StateCreated, workload.StateRunning, workload.StatePaused, workload.StateRestarting, workload.StateExited,
	}
	healths = []workload.Health{"", workload.HealthStarting, workload.HealthHealthy, workload.HealthUnhealthy}
	roles   = []workload.Role{
		"", workload.RoleMain, workload.RoleInit, workload.RoleSidecar, workload.RoleEphemeral,
	}
	statuses = []workload.Status{
		"", workload.StatusUnknown, workload.StatusContainer, workload.StatusHost, workload.StatusConflict,
	}
	confidences = []workload.Confidence{"", workload.Confirmed, workload.Claimed}
	entries     = []workload.Entry{"", workload.EntryInit, workload.EntryExec}
	kinds       = []workload.Kind{
		"", workload.KindContainer, workload.KindProcess, workload.KindPod, workload.KindImage, workload.KindTask, workload.KindService,
	}
	changeTypes = []workload.ChangeType{
		"", workload.ChangeSet, workload.ChangeUnset, workload.ChangeBookmark, workload.ChangeResync,
	}
)
