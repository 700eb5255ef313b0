// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

// serviceDesc is the generated description with handlers that leave messages
// as bytes: see package wire for why.
func serviceDesc() *grpc.ServiceDesc {
	d := pb.PidigreeService_ServiceDesc
	return &grpc.ServiceDesc{
		ServiceName: d.ServiceName,
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			unary(wire.MethodResolve, (*Server).resolve),
			unary(wire.MethodGet, (*Server).get),
			unary(wire.MethodStatus, (*Server).status),
		},
		Streams: []grpc.StreamDesc{
			stream(wire.MethodList, (*Server).list),
			stream(wire.MethodStreamEntities, (*Server).streamEntities),
			resolveStream(),
		},
		Metadata: d.Metadata,
	}
}

func unary(method string, f func(*Server, context.Context, *wire.Bytes) (*wire.Bytes, error)) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: method[strings.LastIndexByte(method, '/')+1:],
		Handler: func(srv any, ctx context.Context, dec func(any) error, guard grpc.UnaryServerInterceptor) (any, error) {
			var req wire.Bytes
			if err := dec(&req); err != nil {
				return nil, err
			}
			info := &grpc.UnaryServerInfo{Server: srv, FullMethod: method}
			return guard(ctx, &req, info, func(ctx context.Context, _ any) (any, error) {
				resp, err := f(srv.(*Server), ctx, &req)
				if err != nil {
					return nil, toStatus(err)
				}
				return resp, nil
			})
		},
	}
}

func stream(method string, f func(*Server, context.Context, *wire.Bytes, *chunks) error) grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName:    method[strings.LastIndexByte(method, '/')+1:],
		ServerStreams: true,
		Handler: func(srv any, ss grpc.ServerStream) error {
			var req wire.Bytes
			if err := ss.RecvMsg(&req); err != nil {
				return err
			}
			if err := f(srv.(*Server), ss.Context(), &req, &chunks{stream: ss}); err != nil {
				return toStatus(err)
			}
			return nil
		},
	}
}

// resolveStream lets the handler return, when the server stops, while the
// session still waits for a request: that ends only when the handler has.
func resolveStream() grpc.StreamDesc {
	return grpc.StreamDesc{
		StreamName:    wire.MethodResolveStream[strings.LastIndexByte(wire.MethodResolveStream, '/')+1:],
		ServerStreams: true,
		ClientStreams: true,
		Handler: func(srv any, stream grpc.ServerStream) error {
			s := srv.(*Server)
			cut := make(chan struct{})
			ss := s.newSession(stream.Context(), peerOf(stream.Context()), grpcLink{stream}, func() { close(cut) })
			if ss == nil {
				return errStopping
			}
			done := make(chan error, 1)
			go func() {
				defer s.sessions.leave(ss)
				done <- s.converse(ss)
			}()
			select {
			case err := <-done:
				return ended(err)
			case <-cut:
				return errStopping
			}
		},
	}
}

// toStatus is the way of every error of a call to its peer.
func toStatus(err error) error {
	return status.Error(wire.Code(err), wire.Message(err))
}

func (s *Server) resolve(ctx context.Context, req *wire.Bytes) (*wire.Bytes, error) {
	queries, bad, err := wire.DecodeQuestions(req, s.opt.MaxQueries)
	if err != nil {
		return nil, err
	}
	p := peerOf(ctx)
	only, err := s.auth.checkQueries(p, queries)
	if err != nil {
		return nil, err
	}
	for i := range queries {
		queries[i].Wait = min(queries[i].Wait, s.opt.MaxWait)
	}
	results := make([]workload.Result, len(queries))
	s.ask(ctx, p, only, queries, bad, results)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return wire.EncodeResults(results), nil
}

// errLost is in the place of a result that the backend did not give.
var errLost = status.Error(codes.Internal, "the agent lost this question")

// ask asks the backend those questions that make sense; the others are answered
// with what is wrong with them. Where only is set, so are those about processes that
// are not the peer's.
func (s *Server) ask(ctx context.Context, p Peer, only bool, queries []workload.Query, bad map[int]error, results []workload.Result) {
	if only {
		queries = narrow(queries)
	}
	defer func() {
		s.auth.redact(p, results)
		if only {
			s.auth.leaveOwn(p, queries, results)
		}
	}()
	for i := range results {
		results[i].Err = errLost
	}
	if len(bad) == 0 {
		s.opt.Backend.Resolve(ctx, p, queries, results)
		return
	}
	good := make([]workload.Query, 0, len(queries))
	for i, q := range queries {
		if bad[i] == nil {
			good = append(good, q)
		}
	}
	s.opt.Backend.Resolve(ctx, p, good, results[:len(good)])
	for i, left := len(queries)-1, len(good); i >= 0; i-- { // from the end, as each moves up
		if err := bad[i]; err != nil {
			results[i] = workload.Result{Err: err}
			continue
		}
		left--
		results[i] = results[left]
	}
}

func (s *Server) status(ctx context.Context, _ *wire.Bytes) (*wire.Bytes, error) {
	return wire.EncodeStatus(s.opt.Backend.Status(ctx)), nil
}
