// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

// service translates calls to the backend's terms and back.
type service struct {
	pb.UnimplementedPidigreeServiceServer
	*Server
}

// Resolve implements the service.
func (s *service) Resolve(ctx context.Context, req *pb.ResolveRequest) (*pb.ResolveResponse, error) {
	if n := len(req.GetQueries()); n > s.opt.MaxQueries {
		return nil, status.Errorf(codes.InvalidArgument, "%d questions in one call: ask %d at most", n, s.opt.MaxQueries)
	}
	resp := wire.EncodeResults(s.resolve(ctx, req.GetQueries()))
	if err := ctx.Err(); err != nil {
		return nil, status.FromContextError(err).Err()
	}
	if size := proto.Size(resp); size > s.opt.MaxReply {
		return nil, status.Errorf(codes.ResourceExhausted, "the reply has %d bytes: ask fewer questions at once", size)
	}
	return resp, nil
}

// resolve asks the backend those questions that make sense.
func (s *service) resolve(ctx context.Context, in []*pb.Query) []workload.Result {
	queries := make([]workload.Query, 0, len(in))
	bad := make(map[int]error)
	for i, q := range in {
		query, err := wire.DecodeQuery(q)
		if err != nil {
			bad[i] = err
			continue
		}
		query.Wait = min(query.Wait, s.opt.MaxWait)
		queries = append(queries, query)
	}
	results := s.ask(ctx, queries)
	if len(bad) == 0 {
		return results
	}
	out := make([]workload.Result, len(in))
	for i := range out {
		if err, ok := bad[i]; ok {
			out[i].Err = err
			continue
		}
		out[i], results = results[0], results[1:]
	}
	return out
}

// ask holds the backend to its contract: a result for each question.
func (s *service) ask(ctx context.Context, queries []workload.Query) []workload.Result {
	if len(queries) == 0 {
		return nil
	}
	results := s.opt.Backend.Resolve(ctx, peerOf(ctx), queries)
	if len(results) == len(queries) {
		return results
	}
	s.opt.Logger.Error("backend gave a wrong number of results", "questions", len(queries), "results", len(results))
	out := make([]workload.Result, len(queries))
	for i := range out {
		out[i] = workload.Result{Query: queries[i], Err: status.Error(codes.Internal, "the agent lost this question")}
	}
	return out
}

// Get implements the service.
func (s *service) Get(ctx context.Context, req *pb.GetRequest) (*pb.GetResponse, error) {
	e, err := s.get(ctx, req)
	if err != nil {
		return nil, toStatus(err)
	}
	return &pb.GetResponse{Entity: wire.EncodeEntity(e)}, nil
}

// List implements the service.
func (s *service) List(req *pb.ListRequest, stream grpc.ServerStreamingServer[pb.ListResponse]) error {
	sel, err := selector(req.GetKinds(), req.GetAll(), 0)
	if err != nil {
		return toStatus(err)
	}
	out := chunks[*pb.Entity]{send: func(es []*pb.Entity) error {
		return stream.Send(&pb.ListResponse{Entities: es})
	}}
	for e := range s.opt.Backend.List(stream.Context(), sel) {
		if err := out.add(wire.EncodeEntity(e)); err != nil {
			return err
		}
	}
	if err := stream.Context().Err(); err != nil {
		return status.FromContextError(err).Err()
	}
	return out.flush()
}

// StreamEntities implements the service.
func (s *service) StreamEntities(req *pb.StreamEntitiesRequest, stream grpc.ServerStreamingServer[pb.StreamEntitiesResponse]) error {
	sel, err := selector(req.GetKinds(), req.GetAll(), req.GetResumeFrom())
	if err != nil {
		return toStatus(err)
	}
	if s.watchers.Add(1) > int64(s.opt.MaxWatchers) {
		s.watchers.Add(-1)
		return status.Errorf(codes.ResourceExhausted, "%d streams are open, which is the limit", s.opt.MaxWatchers)
	}
	defer s.watchers.Add(-1)
	ctx, cancel := s.untilStop(stream.Context())
	defer cancel()
	out := chunks[*pb.Change]{send: func(cs []*pb.Change) error {
		return stream.Send(&pb.StreamEntitiesResponse{Changes: cs})
	}}
	for batch := range s.opt.Backend.Watch(ctx, sel) {
		if err := addBatch(&out, batch); err != nil {
			return err
		}
	}
	return endOfStream(stream.Context(), ctx)
}

// endOfStream says why a stream that has no end of its own ended.
func endOfStream(stream, ctx context.Context) error {
	switch {
	case stream.Err() != nil:
		return status.FromContextError(stream.Err()).Err()
	case ctx.Err() != nil:
		return status.Error(codes.Unavailable, "the agent is stopping")
	default:
		return status.Error(codes.Unavailable, "the stream broke: resume it from the last revision")
	}
}

// untilStop gives a context that also ends when the server stops.
func (s *Server) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); <-ended }
}

// Status implements the service.
func (s *service) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	return &pb.StatusResponse{Status: wire.EncodeStatus(s.opt.Backend.Status(ctx))}, nil
}

// selector checks what a list or a stream is to be about. Kind 0 means containers.
func selector(in []pb.EntityKind, all bool, from uint64) (workload.Selector, error) {
	sel := workload.Selector{All: all, From: workload.Revision(from)}
	for i, k := range wire.DecodeKinds(in[:min(len(in), len(pb.EntityKind_name))]) {
		if in[i] == pb.EntityKind_ENTITY_KIND_UNSPECIFIED {
			k = workload.KindContainer
		}
		if k == "" {
			return sel, fmt.Errorf("%w: there is no kind of entities number %d", workload.ErrInvalid, in[i])
		}
		if !slices.Contains(sel.Kinds, k) {
			sel.Kinds = append(sel.Kinds, k)
		}
	}
	if len(in) > len(pb.EntityKind_name) {
		return sel, fmt.Errorf("%w: %d kinds: there are only %d", workload.ErrInvalid, len(in), len(pb.EntityKind_name)-1)
	}
	return sel, nil
}

// toStatus is the way of every error of a call to its peer.
func toStatus(err error) error {
	return status.Error(wire.Code(err), wire.Message(err))
}
