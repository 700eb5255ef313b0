// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"context"
	"errors"
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
	// owner is Options.Owner, nil where others may ask only about themselves; label is
	// Options.OthersLabel.
	owner func(workload.ProcessKey) (uint32, bool)
	label func(key string) bool
}

// mayAll reports whether a peer may ask everything.
func (a authorizer) mayAll(p Peer) bool { return a.trusted(p) && !a.contained(p) }

// contained reports whether a peer is in a container that was granted nothing.
func (a authorizer) contained(p Peer) bool {
	switch {
	case a.standing == nil, p.Remote != "":
		return false
	case p.standing == nil:
		return a.standing(p) == Contained
	}
	return p.standing.contained(p, a.standing)
}

// trusted reports whether a peer is of a user or a group that may ask everything. One
// on another host, whom its certificate let in, is.
func (a authorizer) trusted(p Peer) bool {
	return p.Remote != "" || p.UID == 0 || p.UID == a.uid || p.GID == a.gid || slices.Contains(p.Groups, a.gid)
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

// checkQueries says who may ask what. Its error matches workload.ErrDenied. Where only
// is set, redact leaves nothing of processes that are not the peer's.
func (a authorizer) checkQueries(p Peer, queries []workload.Query) (only bool, err error) {
	others := slices.ContainsFunc(queries, func(q workload.Query) bool { return !q.Self })
	switch {
	case p.Remote != "" && slices.ContainsFunc(queries, func(q workload.Query) bool { return q.Self }):
		return false, fmt.Errorf("%w: who asks from another host has no process on this one to ask about", workload.ErrInvalid)
	case !others || a.mayAll(p):
		return false, nil
	case !a.mayOwn(p) || slices.ContainsFunc(queries, func(q workload.Query) bool { return !q.Self && q.PID == 0 && q.Key.IsZero() }):
		return false, a.denied(p)
	}
	return true, nil
}

// mayOwn reports whether a peer may ask about what its user runs. An id that stands for
// all that have none here is nobody's.
func (a authorizer) mayOwn(p Peer) bool {
	return a.owner != nil && p.UID != overflowUID && !a.contained(p)
}

// overflowUID is what the kernel shows of users that the agent's user namespace has
// no number for (/proc/sys/kernel/overflowuid).
const overflowUID = 65534

// narrow gives questions that read nothing of others' processes for who may only ask
// about his own: whose it is is known only afterwards.
func narrow(queries []workload.Query) []workload.Query {
	queries = slices.Clone(queries)
	for i := range queries {
		if q := &queries[i]; !q.Self {
			q.Detail, q.Family, q.Explain = false, false, false
		}
	}
	return queries
}

// leaveOwn leaves of the results to a peer's questions its own processes: as much of
// them as it may know of each. The others' are an error that says no more of one that
// is there than of one that is not.
func (a authorizer) leaveOwn(p Peer, queries []workload.Query, results []workload.Result) {
	for i := range results {
		if r := &results[i]; !queries[i].Self && !errors.Is(r.Err, workload.ErrInvalid) {
			a.leaveOne(p, &queries[i], r)
		}
	}
}

func (a authorizer) leaveOne(p Peer, q *workload.Query, r *workload.Result) {
	if r.Err == nil && r.Answer.Process != nil {
		if uid, ok := a.owner(r.Answer.Process.Key); ok && uid == p.UID {
			r.Answer = a.bare(r.Answer)
			return
		}
	}
	pid := cmp.Or(q.PID, q.Key.PID)
	*r = workload.Result{Query: r.Query, Err: fmt.Errorf("%w: uid %d may ask only about living processes of its own, and PID %d is none: become root, or a member of the group that owns the socket",
		workload.ErrDenied, p.UID, pid)}
}

// bare gives an answer without what may hold secrets: environment, and labels,
// annotations and tags but for those that are let through. The answer's parts are
// the store's own, and stay as they are.
func (a authorizer) bare(of workload.Answer) workload.Answer {
	of.Containers = slices.Clone(of.Containers)
	for i, c := range of.Containers {
		n := *c
		n.Env, n.Labels, n.Annotations = nil, a.let(c.Labels), a.let(c.Annotations)
		of.Containers[i] = &n
	}
	if of.Pod != nil {
		n := *of.Pod
		n.Labels, n.Annotations = a.let(n.Labels), a.let(n.Annotations)
		of.Pod = &n
	}
	if of.Task != nil {
		n := *of.Task
		n.Tags, n.InstanceTags = a.let(n.Tags), a.let(n.InstanceTags)
		of.Task = &n
	}
	return of
}

// let gives those labels that are let through.
func (a authorizer) let(labels map[string]string) map[string]string {
	var out map[string]string
	for k, v := range labels {
		if a.label(k) {
			if out == nil {
				out = make(map[string]string)
			}
			out[k] = v
		}
	}
	return out
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
	what := "itself"
	if a.owner != nil {
		what = "processes of its own, by PID"
	}
	return fmt.Errorf("%w: uid %d may ask only about %s: become root, or a member of the group that owns the socket",
		workload.ErrDenied, p.UID, what)
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
