// SPDX-License-Identifier: Apache-2.0

package wire

import (
	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

// EncodeKey gives nil for the key that names nothing.
func EncodeKey(k workload.ProcessKey) *pb.ProcessKey {
	if k == (workload.ProcessKey{}) {
		return nil
	}
	return &pb.ProcessKey{Pid: uint32(k.PID), Inode: k.Inode, StartTimeNs: k.Start, Ticks: k.Ticks}
}

// DecodeKey is the way back.
func DecodeKey(k *pb.ProcessKey) workload.ProcessKey {
	return workload.ProcessKey{
		PID: workload.PID(k.GetPid()), Inode: k.GetInode(), Start: k.GetStartTimeNs(), Ticks: k.GetTicks(),
	}
}

func encodeCgroup(c workload.CgroupID) *pb.CgroupID {
	return &pb.CgroupID{Hierarchy: c.Hierarchy, Id: c.ID}
}

func decodeCgroup(c *pb.CgroupID) workload.CgroupID {
	return workload.CgroupID{Hierarchy: c.GetHierarchy(), ID: c.GetId()}
}

func encodeCgroupPath(c workload.CgroupPath) *pb.CgroupPath {
	return &pb.CgroupPath{Cgroup: encodeCgroup(c.CgroupID), Path: text(c.Path)}
}

func decodeCgroupPath(c *pb.CgroupPath) workload.CgroupPath {
	return workload.CgroupPath{CgroupID: decodeCgroup(c.GetCgroup()), Path: c.GetPath()}
}

func encodeContainerID(c workload.ContainerID) *pb.ContainerID {
	if c == (workload.ContainerID{}) {
		return nil
	}
	return &pb.ContainerID{
		Runtime: text(c.Runtime), Instance: text(c.Instance), Namespace: text(c.Namespace), Id: text(c.ID),
	}
}

func decodeContainerID(c *pb.ContainerID) workload.ContainerID {
	return workload.ContainerID{
		Runtime: c.GetRuntime(), Instance: c.GetInstance(), Namespace: c.GetNamespace(), ID: c.GetId(),
	}
}

func encodePodRef(p *workload.PodRef) *pb.PodRef {
	if p == nil {
		return nil
	}
	return &pb.PodRef{Uid: text(p.UID), Name: text(p.Name), Namespace: text(p.Namespace)}
}

func decodePodRef(p *pb.PodRef) *workload.PodRef {
	if p == nil {
		return nil
	}
	return &workload.PodRef{UID: p.GetUid(), Name: p.GetName(), Namespace: p.GetNamespace()}
}

func encodeExit(e *workload.Exit) *pb.Exit {
	if e == nil {
		return nil
	}
	return &pb.Exit{Known: e.Known, Code: e.Code, Signal: e.Signal, Oom: e.OOM, AtNs: int64(e.At)}
}

func decodeExit(e *pb.Exit) *workload.Exit {
	if e == nil {
		return nil
	}
	return &workload.Exit{
		Known: e.GetKnown(), Code: e.GetCode(), Signal: e.GetSignal(), OOM: e.GetOom(), At: workload.KTime(e.GetAtNs()),
	}
}
