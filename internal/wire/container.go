// SPDX-License-Identifier: Apache-2.0

package wire

import (
	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

func encodeContainer(c *workload.Container) *pb.Container {
	if c == nil {
		return nil
	}
	return &pb.Container{
		Id:         encodeContainerID(c.ID),
		Aliases:    each(c.Aliases, encodeAlias),
		Parent:     encodeContainerID(c.Parent),
		Name:       text(c.Name),
		Runtime:    text(c.Runtime),
		Image:      encodeImageRef(c.Image),
		Labels:     textMap(c.Labels),
		Env:        textMap(c.Env),
		State:      number[pb.ContainerState](states[:], c.State),
		Created:    timestamp(c.Created),
		Started:    timestamp(c.Started),
		Finished:   timestamp(c.Finished),
		Exit:       encodeExit(c.Exit),
		Hostname:   text(c.Hostname),
		Networks:   each(c.Networks, encodeNetwork),
		Ports:      each(c.Ports, encodePort),
		Mounts:     each(c.Mounts, encodeMount),
		Limits:     encodeLimits(c.Limits),
		User:       text(c.User),
		Security:   encodeSecurity(c.Security),
		Bundle:     text(c.Bundle),
		Sandbox:    c.Sandbox,
		Pod:        encodePodRef(c.Pod),
		Run:        encodeRun(c.Run),
		Confidence: number[pb.Confidence](confidences[:], c.Confidence),
		Sources:    each(c.Sources, encodeProvenance),
		Missing:    texts(c.Missing),
		Timeline:   each(c.Timeline, encodeMark),
		Truncated:  texts(c.Truncated),
	}
}

func decodeContainer(c *pb.Container) *workload.Container {
	if c == nil {
		return nil
	}
	return &workload.Container{
		ID:         decodeContainerID(c.GetId()),
		Aliases:    each(c.GetAliases(), decodeContainerID),
		Parent:     decodeContainerID(c.GetParent()),
		Name:       c.GetName(),
		Runtime:    c.GetRuntime(),
		Image:      decodeImageRef(c.GetImage()),
		Labels:     c.GetLabels(),
		Env:        c.GetEnv(),
		State:      word(states[:], c.GetState()),
		Created:    wallClock(c.GetCreated()),
		Started:    wallClock(c.GetStarted()),
		Finished:   wallClock(c.GetFinished()),
		Exit:       decodeExit(c.GetExit()),
		Hostname:   c.GetHostname(),
		Networks:   each(c.GetNetworks(), decodeNetwork),
		Ports:      each(c.GetPorts(), decodePort),
		Mounts:     each(c.GetMounts(), decodeMount),
		Limits:     decodeLimits(c.GetLimits()),
		User:       c.GetUser(),
		Security:   decodeSecurity(c.GetSecurity()),
		Bundle:     c.GetBundle(),
		Sandbox:    c.GetSandbox(),
		Pod:        decodePodRef(c.GetPod()),
		Run:        decodeRun(c.GetRun()),
		Confidence: word(confidences[:], c.GetConfidence()),
		Sources:    each(c.GetSources(), decodeProvenance),
		Missing:    c.GetMissing(),
		Timeline:   each(c.GetTimeline(), decodeMark),
		Truncated:  c.GetTruncated(),
	}
}

// encodeAlias never gives nil: an element of a list has no absence.
func encodeAlias(c workload.ContainerID) *pb.ContainerID {
	if id := encodeContainerID(c); id != nil {
		return id
	}
	return &pb.ContainerID{}
}

func encodeImageRef(i workload.ImageRef) *pb.ImageRef {
	if i == (workload.ImageRef{}) {
		return nil
	}
	return &pb.ImageRef{Name: text(i.Name), Tag: text(i.Tag), Digest: text(i.Digest), Id: text(i.ID)}
}

func decodeImageRef(i *pb.ImageRef) workload.ImageRef {
	return workload.ImageRef{Name: i.GetName(), Tag: i.GetTag(), Digest: i.GetDigest(), ID: i.GetId()}
}

func encodeNetwork(n workload.Network) *pb.Network {
	return &pb.Network{Name: text(n.Name), Ips: texts(n.IPs), Mac: text(n.MAC)}
}

func decodeNetwork(n *pb.Network) workload.Network {
	return workload.Network{Name: n.GetName(), IPs: n.GetIps(), MAC: n.GetMac()}
}

func encodePort(p workload.Port) *pb.Port {
	return &pb.Port{
		Container: uint32(p.Container), Protocol: text(p.Protocol), HostIp: text(p.HostIP), HostPort: uint32(p.HostPort),
	}
}

func decodePort(p *pb.Port) workload.Port {
	return workload.Port{
		Container: uint16(p.GetContainer()), Protocol: p.GetProtocol(),
		HostIP: p.GetHostIp(), HostPort: uint16(p.GetHostPort()),
	}
}

func encodeMount(m workload.Mount) *pb.Mount {
	return &pb.Mount{
		Type: text(m.Type), Source: text(m.Source), Destination: text(m.Destination), ReadOnly: m.ReadOnly,
	}
}

func decodeMount(m *pb.Mount) workload.Mount {
	return workload.Mount{
		Type: m.GetType(), Source: m.GetSource(), Destination: m.GetDestination(), ReadOnly: m.GetReadOnly(),
	}
}

func encodeLimits(l *workload.Limits) *pb.Limits {
	if l == nil {
		return nil
	}
	return &pb.Limits{MemoryBytes: l.MemoryBytes, NanoCpus: l.NanoCPUs, CpuShares: l.CPUShares, Pids: l.Pids}
}

func decodeLimits(l *pb.Limits) *workload.Limits {
	if l == nil {
		return nil
	}
	return &workload.Limits{
		MemoryBytes: l.GetMemoryBytes(), NanoCPUs: l.GetNanoCpus(), CPUShares: l.GetCpuShares(), Pids: l.GetPids(),
	}
}

func encodeSecurity(s *workload.Security) *pb.Security {
	if s == nil {
		return nil
	}
	return &pb.Security{
		Privileged: s.Privileged, AddedCaps: texts(s.AddedCaps), HostPid: s.HostPID,
		HostNetwork: s.HostNetwork, HostIpc: s.HostIPC, ReadOnlyRoot: s.ReadOnlyRoot,
	}
}

func decodeSecurity(s *pb.Security) *workload.Security {
	if s == nil {
		return nil
	}
	return &workload.Security{
		Privileged: s.GetPrivileged(), AddedCaps: s.GetAddedCaps(), HostPID: s.GetHostPid(),
		HostNetwork: s.GetHostNetwork(), HostIPC: s.GetHostIpc(), ReadOnlyRoot: s.GetReadOnlyRoot(),
	}
}

func encodeRun(r *workload.Run) *pb.Run {
	if r == nil {
		return nil
	}
	return &pb.Run{
		Init: EncodeKey(r.Init), Cgroups: each(r.Cgroups, encodeCgroupPath), ClaimedPaths: texts(r.ClaimedPaths),
		Registers: r.Registers, StartedNs: int64(r.Started), Exit: encodeExit(r.Exit),
	}
}

func decodeRun(r *pb.Run) *workload.Run {
	if r == nil {
		return nil
	}
	return &workload.Run{
		Init: DecodeKey(r.GetInit()), Cgroups: each(r.GetCgroups(), decodeCgroupPath), ClaimedPaths: r.GetClaimedPaths(),
		Registers: r.GetRegisters(), Started: workload.KTime(r.GetStartedNs()), Exit: decodeExit(r.GetExit()),
	}
}

func encodeProvenance(p workload.Provenance) *pb.Provenance {
	return &pb.Provenance{Source: text(p.Source), AtNs: int64(p.At)}
}

func decodeProvenance(p *pb.Provenance) workload.Provenance {
	return workload.Provenance{Source: p.GetSource(), At: workload.KTime(p.GetAtNs())}
}

func encodeMark(m workload.Mark) *pb.Mark {
	return &pb.Mark{What: text(m.What), Source: text(m.Source), AtNs: int64(m.At)}
}

func decodeMark(m *pb.Mark) workload.Mark {
	return workload.Mark{What: m.GetWhat(), Source: m.GetSource(), At: workload.KTime(m.GetAtNs())}
}
