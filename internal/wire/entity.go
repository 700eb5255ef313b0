// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

// EncodeEntity translates an entity with the value of its kind.
func EncodeEntity(e workload.Entity) *pb.Entity {
	out := &pb.Entity{
		Kind: number[pb.EntityKind](kinds[:], e.Kind), Gone: e.Gone, Revision: uint64(e.Revision),
	}
	switch {
	case e.Container != nil:
		out.Value = &pb.Entity_Container{Container: encodeContainer(e.Container)}
	case e.Process != nil:
		out.Value = &pb.Entity_Process{Process: encodeProcess(e.Process)}
	case e.Pod != nil:
		out.Value = &pb.Entity_Pod{Pod: encodePod(e.Pod)}
	case e.Image != nil:
		out.Value = &pb.Entity_Image{Image: encodeImage(e.Image)}
	case e.Task != nil:
		out.Value = &pb.Entity_Task{Task: encodeTask(e.Task)}
	case e.Service != nil:
		out.Value = &pb.Entity_Service{Service: encodeService(e.Service)}
	}
	return out
}

// DecodeEntity is the way back.
func DecodeEntity(e *pb.Entity) workload.Entity {
	return workload.Entity{
		Kind:      word(kinds[:], e.GetKind()),
		Container: decodeContainer(e.GetContainer()),
		Process:   decodeProcess(e.GetProcess()),
		Pod:       decodePod(e.GetPod()),
		Image:     decodeImage(e.GetImage()),
		Task:      decodeTask(e.GetTask()),
		Service:   decodeService(e.GetService()),
		Gone:      e.GetGone(),
		Revision:  workload.Revision(e.GetRevision()),
	}
}

// EncodeChange translates one element of a stream.
func EncodeChange(c workload.Change) *pb.Change {
	out := &pb.Change{Type: number[pb.ChangeType](changeTypes[:], c.Type), Revision: uint64(c.Revision)}
	if c.Entity != (workload.Entity{}) {
		out.Entity = EncodeEntity(c.Entity)
	}
	return out
}

// DecodeChange is the way back.
func DecodeChange(c *pb.Change) workload.Change {
	return workload.Change{
		Type:     word(changeTypes[:], c.GetType()),
		Revision: workload.Revision(c.GetRevision()),
		Entity:   DecodeEntity(c.GetEntity()),
	}
}

// EncodeKinds translates the kinds of a selector.
func EncodeKinds(in []workload.Kind) []pb.EntityKind {
	return each(in, func(k workload.Kind) pb.EntityKind { return number[pb.EntityKind](kinds[:], k) })
}

// DecodeKinds is the way back. A kind that this side does not know becomes the
// empty one, for the caller to refuse.
func DecodeKinds(in []pb.EntityKind) []workload.Kind {
	return each(in, func(k pb.EntityKind) workload.Kind { return word(kinds[:], k) })
}

func encodePod(p *workload.Pod) *pb.Pod {
	if p == nil {
		return nil
	}
	return &pb.Pod{Ref: encodePodRef(&p.PodRef), Labels: textMap(p.Labels)}
}

func decodePod(p *pb.Pod) *workload.Pod {
	if p == nil {
		return nil
	}
	out := &workload.Pod{Labels: p.GetLabels()}
	if ref := decodePodRef(p.GetRef()); ref != nil {
		out.PodRef = *ref
	}
	return out
}

func encodeTask(t *workload.Task) *pb.Task {
	if t == nil {
		return nil
	}
	return &pb.Task{Arn: text(t.ARN), Cluster: text(t.Cluster), Family: text(t.Family)}
}

func decodeTask(t *pb.Task) *workload.Task {
	if t == nil {
		return nil
	}
	return &workload.Task{ARN: t.GetArn(), Cluster: t.GetCluster(), Family: t.GetFamily()}
}

func encodeImage(i *workload.Image) *pb.Image {
	if i == nil {
		return nil
	}
	return &pb.Image{Id: text(i.ID), Names: texts(i.Names), Digests: texts(i.Digests), Size: i.Size}
}

func decodeImage(i *pb.Image) *workload.Image {
	if i == nil {
		return nil
	}
	return &workload.Image{ID: i.GetId(), Names: i.GetNames(), Digests: i.GetDigests(), Size: i.GetSize()}
}

// EncodeName makes the question for one entity by its name. Its error wraps
// workload.ErrInvalid: a process has no name, and an unknown kind nothing.
func EncodeName(kind workload.Kind, name string) (*pb.GetRequest, error) {
	name = text(name)
	switch kind {
	case workload.KindContainer:
		return &pb.GetRequest{Name: &pb.GetRequest_Container{Container: name}}, nil
	case workload.KindPod:
		return &pb.GetRequest{Name: &pb.GetRequest_Pod{Pod: name}}, nil
	case workload.KindImage:
		return &pb.GetRequest{Name: &pb.GetRequest_Image{Image: name}}, nil
	case workload.KindTask:
		return &pb.GetRequest{Name: &pb.GetRequest_Task{Task: name}}, nil
	case workload.KindService:
		return &pb.GetRequest{Name: &pb.GetRequest_Service{Service: name}}, nil
	case workload.KindProcess:
		return nil, fmt.Errorf("%w: a process has no name: resolve its PID", workload.ErrInvalid)
	default:
		return nil, fmt.Errorf("%w: there is no kind %q", workload.ErrInvalid, kind)
	}
}
