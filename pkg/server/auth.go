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

	"github.com/pidigree/pidigree/internal/wire"
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

// checkMethod says who may make a call at all. Health and reflection tell
// nothing about the host and are open to every peer; Resolve and ResolveStream
// are open for checkQueries to look at. Its error matches workload.ErrDenied.
func (a authorizer) checkMethod(p Peer, method string) error {
	if method == wire.MethodResolve || method == wire.MethodResolveStream || !strings.HasPrefix(method, "/"+wire.ServiceName+"/") || a.mayAll(p) {
		return nil
	}
	return denied(p)
}

// checkQueries says who may ask what. Its error matches workload.ErrDenied.
func (a authorizer) checkQueries(p Peer, queries []workload.Query) error {
	others := slices.ContainsFunc(queries, func(q workload.Query) bool { return !q.Self })
	if !others || a.mayAll(p) {
		return nil
	}
	return denied(p)
}

func denied(p Peer) error {
	return fmt.Errorf("%w: uid %d may ask only about itself: become root, or a member of the group that owns the socket",
		workload.ErrDenied, p.UID)
}

// guard stands before every call: it authorises it, and turns a panic into an
// error without a stack.
type guard struct {
	auth authorizer
	log  *slog.Logger
}

func (g guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer g.recovered(info.FullMethod, &err)
	if err := g.auth.checkMethod(peerOf(ctx), info.FullMethod); err != nil {
		return nil, toStatus(err)
	}
	return next(ctx, req)
}

func (g guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer g.recovered(info.FullMethod, &err)
	if err := g.auth.checkMethod(peerOf(ss.Context()), info.FullMethod); err != nil {
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
