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
	// commands: whoever may ask everything may see every command line.
	commands bool
	// standing is Options.Standing, nil where nobody is in a container.
	standing func(Peer) Standing
}

// mayAll reports whether a peer may ask everything.
func (a authorizer) mayAll(p Peer) bool { return a.trusted(p) && !a.contained(p) }

// contained reports whether a peer is in a container that was granted nothing.
func (a authorizer) contained(p Peer) bool {
	switch {
	case a.standing == nil:
		return false
	case p.standing == nil:
		return a.standing(p) == Contained
	}
	return p.standing.contained(p, a.standing)
}

// trusted reports whether a peer is of a user or a group that may ask everything.
func (a authorizer) trusted(p Peer) bool {
	return p.UID == 0 || p.UID == a.uid || p.GID == a.gid || slices.Contains(p.Groups, a.gid)
}

// checkMethod says who may make a call at all. Health and reflection tell
// nothing about the host and are open to every peer; Resolve and ResolveStream
// are open for checkQueries to look at. Its error matches workload.ErrDenied.
func (a authorizer) checkMethod(p Peer, method string) error {
	if method == wire.MethodResolve || method == wire.MethodResolveStream || !strings.HasPrefix(method, "/"+wire.ServiceName+"/") || a.mayAll(p) {
		return nil
	}
	return a.denied(p)
}

// checkQueries says who may ask what. Its error matches workload.ErrDenied.
func (a authorizer) checkQueries(p Peer, queries []workload.Query) error {
	others := slices.ContainsFunc(queries, func(q workload.Query) bool { return !q.Self })
	if !others || a.mayAll(p) {
		return nil
	}
	return a.denied(p)
}

// redact takes out of results what is not for this peer. What it changes was made
// for this call.
func (a authorizer) redact(p Peer, results []workload.Result) {
	for i := range results {
		if r := &results[i]; r.Family != nil && !a.mayAll(p) {
			r.Family = nil // others than itself
		}
		a.redactProcess(p, results[i].Answer.Process)
	}
}

// redactProcess hides a command line, which may hold secrets, from all but root and
// the user whose process it is, by its real and its effective user id.
func (a authorizer) redactProcess(p Peer, of *workload.Process) {
	if of == nil || of.Detail == nil || (p.UID == 0 || a.commands) && a.mayAll(p) {
		return
	}
	d := of.Detail
	if d.UID == p.UID && d.EUID == p.UID || len(d.Command) == 0 {
		return
	}
	d.Command, d.CommandHidden, d.Truncated = nil, true, nil
}

func (a authorizer) denied(p Peer) error {
	switch {
	case a.trusted(p) && p.ended():
		return fmt.Errorf("%w: the process that connected, %d, has ended: connect anew", workload.ErrDenied, p.PID)
	case a.trusted(p):
		return fmt.Errorf("%w: a process in a container may ask only about itself: ask from the host, or grant its container everything with the agent's access settings",
			workload.ErrDenied)
	}
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
