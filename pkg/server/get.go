// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"slices"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

// get finds one entity: what can be resolved by resolving, the rest, of which
// there are few, by looking through the list.
func (s *service) get(ctx context.Context, req *pb.GetRequest) (workload.Entity, error) {
	switch n := req.GetName().(type) {
	case *pb.GetRequest_Container:
		return s.getResolved(ctx, &pb.Query{Subject: &pb.Query_Container{Container: n.Container}})
	case *pb.GetRequest_Process:
		return s.getResolved(ctx, &pb.Query{Subject: &pb.Query_Process{Process: n.Process}})
	case *pb.GetRequest_Pod:
		return s.getListed(ctx, workload.KindPod, n.Pod, func(e workload.Entity) bool {
			return e.Pod != nil && e.Pod.UID == n.Pod
		})
	case *pb.GetRequest_Image:
		return s.getListed(ctx, workload.KindImage, n.Image, func(e workload.Entity) bool {
			return e.Image != nil && (e.Image.ID == n.Image || slices.Contains(e.Image.Names, n.Image))
		})
	case *pb.GetRequest_Task:
		return s.getListed(ctx, workload.KindTask, n.Task, func(e workload.Entity) bool {
			return e.Task != nil && e.Task.ARN == n.Task
		})
	case *pb.GetRequest_Service:
		return s.getListed(ctx, workload.KindService, n.Service, func(e workload.Entity) bool {
			return e.Service != nil && e.Service.Unit == n.Service
		})
	default:
		return workload.Entity{}, fmt.Errorf("get: %w: no name is set", workload.ErrInvalid)
	}
}

func (s *service) getResolved(ctx context.Context, q *pb.Query) (workload.Entity, error) {
	r := s.resolve(ctx, []*pb.Query{q})[0]
	if r.Err != nil {
		return workload.Entity{}, r.Err
	}
	e := workload.Entity{Gone: r.Answer.Exited, Revision: r.Answer.Revision}
	switch q.GetSubject().(type) {
	case *pb.Query_Process:
		e.Kind, e.Process = workload.KindProcess, r.Answer.Process
	default:
		e.Kind, e.Container = workload.KindContainer, r.Answer.Container()
	}
	if e.Process == nil && e.Container == nil {
		return e, fmt.Errorf("get %s: %w", e.Kind, workload.ErrNotFound)
	}
	return e, nil
}

// getListed takes the one that matches; one that is gone counts only where
// none is there.
func (s *service) getListed(ctx context.Context, kind workload.Kind, name string, match func(workload.Entity) bool) (workload.Entity, error) {
	var live, gone []workload.Entity
	for e := range s.opt.Backend.List(ctx, workload.Selector{Kinds: []workload.Kind{kind}, All: true}) {
		switch {
		case !match(e):
		case e.Gone:
			gone = append(gone, e)
		default:
			live = append(live, e)
		}
	}
	if len(live) == 0 {
		live = gone
	}
	switch {
	case ctx.Err() != nil:
		return workload.Entity{}, ctx.Err()
	case len(live) == 0:
		return workload.Entity{}, fmt.Errorf("get %s %q: %w", kind, name, workload.ErrNotFound)
	case len(live) > 1:
		return workload.Entity{}, fmt.Errorf("get %s %q: %w: it fits %d", kind, name, workload.ErrAmbiguous, len(live))
	}
	return live[0], nil
}
