// SPDX-License-Identifier: Apache-2.0

package wire

import (
	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

func encodeProcess(p *workload.Process) *pb.Process {
	if p == nil {
		return nil
	}
	return &pb.Process{
		Key:               EncodeKey(p.Key),
		ParentPid:         uint32(p.Parent),
		Comm:              text(p.Comm),
		Exe:               text(p.Exe),
		Cgroups:           encodeCgroups(p.Cgroups),
		PidNamespaces:     each(p.PIDNamespaces, encodePIDNamespace),
		MountNs:           p.MountNS,
		Status:            number[pb.Status](statuses[:], p.Status),
		Confidence:        number[pb.Confidence](confidences[:], p.Confidence),
		Container:         encodeContainerID(p.Container),
		Entry:             number[pb.Entry](entries[:], p.Entry),
		ForeignNamespaces: p.ForeignNamespaces,
		Reason:            text(p.Reason),
		Service:           encodeService(p.Service),
		StartedNs:         int64(p.Started),
		ExecNs:            int64(p.Exec),
		Exit:              encodeExit(p.Exit),
	}
}

func decodeProcess(p *pb.Process) *workload.Process {
	if p == nil {
		return nil
	}
	return &workload.Process{
		Key:               DecodeKey(p.GetKey()),
		Parent:            workload.PID(p.GetParentPid()),
		Comm:              p.GetComm(),
		Exe:               p.GetExe(),
		Cgroups:           each(p.GetCgroups(), decodeCgroup),
		PIDNamespaces:     each(p.GetPidNamespaces(), decodePIDNamespace),
		MountNS:           p.GetMountNs(),
		Status:            word(statuses[:], p.GetStatus()),
		Confidence:        word(confidences[:], p.GetConfidence()),
		Container:         decodeContainerID(p.GetContainer()),
		Entry:             word(entries[:], p.GetEntry()),
		ForeignNamespaces: p.GetForeignNamespaces(),
		Reason:            p.GetReason(),
		Service:           decodeService(p.GetService()),
		Started:           workload.KTime(p.GetStartedNs()),
		Exec:              workload.KTime(p.GetExecNs()),
		Exit:              decodeExit(p.GetExit()),
	}
}

// encodeCgroups allocates the ten ids that a process of a hybrid host has at
// once: they are most of what a large reply allocates.
func encodeCgroups(in []workload.CgroupID) []*pb.CgroupID {
	if len(in) == 0 {
		return nil
	}
	slab := make([]pb.CgroupID, len(in))
	out := make([]*pb.CgroupID, len(in))
	for i, c := range in {
		slab[i].Hierarchy, slab[i].Id = c.Hierarchy, c.ID
		out[i] = &slab[i]
	}
	return out
}

func encodePIDNamespace(n workload.PIDNamespace) *pb.PIDNamespace {
	return &pb.PIDNamespace{Inum: n.Inum, Pid: uint32(n.PID)}
}

func decodePIDNamespace(n *pb.PIDNamespace) workload.PIDNamespace {
	return workload.PIDNamespace{Inum: n.GetInum(), PID: workload.PID(n.GetPid())}
}

func encodeService(s *workload.Service) *pb.Service {
	if s == nil {
		return nil
	}
	return &pb.Service{Unit: text(s.Unit), Slice: text(s.Slice)}
}

func decodeService(s *pb.Service) *workload.Service {
	if s == nil {
		return nil
	}
	return &workload.Service{Unit: s.GetUnit(), Slice: s.GetSlice()}
}
