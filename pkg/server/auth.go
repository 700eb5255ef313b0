// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

// authorizer decides who may ask what. Nothing else does.
type authorizer struct {
	uid uint32 // the agent's own, which could read its memory anyhow
	gid uint32 // of the group that may ask everything
}

// mayAll reports whether a peer may ask everything.
func (a authorizer) mayAll(p Peer) bool {
	return p.UID == 0 || p.UID == a.uid || p.GID == a.gid || slices.Contains(p.Groups, a.gid)
}

// check allows a call or gives an error that matches workload.ErrDenied. Health
// and reflection tell nothing about the host and are open to every peer.
func (a authorizer) check(p Peer, method string, req any) error {
	if !strings.HasPrefix(method, "/"+pb.PidigreeService_ServiceDesc.ServiceName+"/") || a.mayAll(p) {
		return nil
	}
	if r, ok := req.(*pb.ResolveRequest); ok && onlySelf(r) {
		return nil
	}
	return fmt.Errorf("%w: uid %d may ask only about itself: become root, or a member of the group that owns the socket",
		workload.ErrDenied, p.UID)
}

func onlySelf(r *pb.ResolveRequest) bool {
	return !slices.ContainsFunc(r.GetQueries(), func(q *pb.Query) bool { return q.GetSelf() == nil })
}

// guard stands before every call: it authorises it, and turns a panic into an
// error without a stack.
type guard struct {
	auth authorizer
	log  *slog.Logger
}

func (g guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer g.recovered(info.FullMethod, &err)
	if err := g.auth.check(peerOf(ctx), info.FullMethod, req); err != nil {
		return nil, toStatus(err)
	}
	return next(ctx, req)
}

func (g guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer g.recovered(info.FullMethod, &err)
	if err := g.auth.check(peerOf(ss.Context()), info.FullMethod, nil); err != nil {
		return toStatus(err)
	}
	return next(srv, ss)
}

// recovered is deferred: one broken answer must not end the agent, and its
// stack belongs in the log.
func (g guard) recovered(method string, err *error) {
	if r := recover(); r != nil {
		g.log.Error("call panicked", "method", method, "panic", r, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "internal error: the agent's log says more")
	}
}
