// SPDX-License-Identifier: Apache-2.0

package wire

import (
	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

// EncodeStatus translates the agent's status.
func EncodeStatus(s workload.AgentStatus) *pb.AgentStatus {
	return &pb.AgentStatus{
		Version:    text(s.Version),
		Pid:        uint32(s.PID),
		Started:    timestamp(s.Started),
		Mode:       text(s.Mode),
		ModeReason: text(s.ModeReason),
		CgroupMode: text(s.CgroupMode),
		Ready:      s.Ready,
		Revision:   uint64(s.Revision),
		Containers: uint64(max(s.Containers, 0)),
		Processes:  uint64(max(s.Processes, 0)),
		Watchers:   uint64(max(s.Watchers, 0)),
		Sources:    each(s.Sources, encodeSource),
		Kernel:     encodeKernel(s.Kernel),
	}
}

// DecodeStatus is the way back.
func DecodeStatus(s *pb.AgentStatus) workload.AgentStatus {
	return workload.AgentStatus{
		Version:    s.GetVersion(),
		PID:        workload.PID(s.GetPid()),
		Started:    wallClock(s.GetStarted()),
		Mode:       s.GetMode(),
		ModeReason: s.GetModeReason(),
		CgroupMode: s.GetCgroupMode(),
		Ready:      s.GetReady(),
		Revision:   workload.Revision(s.GetRevision()),
		Containers: int(s.GetContainers()),
		Processes:  int(s.GetProcesses()),
		Watchers:   int(s.GetWatchers()),
		Sources:    each(s.GetSources(), decodeSource),
		Kernel:     decodeKernel(s.GetKernel()),
	}
}

func encodeSource(s workload.SourceStatus) *pb.SourceStatus {
	return &pb.SourceStatus{
		Name:        text(s.Name),
		State:       text(s.State),
		Where:       text(s.Where),
		Version:     text(s.Version),
		LastContact: timestamp(s.LastContact),
		LastError:   text(s.LastError),
		LastErrorAt: timestamp(s.LastErrorAt),
		Restarts:    s.Restarts,
		Calls:       countMap(s.Calls),
		Errors:      s.Errors,
		Entities:    uint64(max(s.Entities, 0)),
	}
}

func decodeSource(s *pb.SourceStatus) workload.SourceStatus {
	return workload.SourceStatus{
		Name:        s.GetName(),
		State:       s.GetState(),
		Where:       s.GetWhere(),
		Version:     s.GetVersion(),
		LastContact: wallClock(s.GetLastContact()),
		LastError:   s.GetLastError(),
		LastErrorAt: wallClock(s.GetLastErrorAt()),
		Restarts:    s.GetRestarts(),
		Calls:       s.GetCalls(),
		Errors:      s.GetErrors(),
		Entities:    int(s.GetEntities()),
	}
}

func encodeKernel(k workload.KernelStatus) *pb.KernelStatus {
	return &pb.KernelStatus{
		Events:   countMap(k.Events),
		Lost:     countMap(k.Lost),
		Skipped:  countMap(k.Skipped),
		Programs: textMap(k.Programs),
		Repairs:  k.Repairs,
		Lag:      duration(k.Lag),
	}
}

func decodeKernel(k *pb.KernelStatus) workload.KernelStatus {
	return workload.KernelStatus{
		Events:   k.GetEvents(),
		Lost:     k.GetLost(),
		Skipped:  k.GetSkipped(),
		Programs: k.GetPrograms(),
		Repairs:  k.GetRepairs(),
		Lag:      k.GetLag().AsDuration(),
	}
}
