// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Backend answers the questions of the commands: an agent over its socket, or a
// resolver in this process. Its iterators end when the context does.
type Backend interface {
	// Resolve gives one Result for each Query, in their order.
	Resolve(ctx context.Context, queries ...workload.Query) ([]workload.Result, error)
	List(ctx context.Context, sel workload.Selector) iter.Seq2[workload.Entity, error]
	Watch(ctx context.Context, sel workload.Selector) iter.Seq2[workload.Change, error]
	Status(ctx context.Context) (workload.AgentStatus, error)
	Close() error
}

// LocalOptions says how to answer without an agent.
type LocalOptions struct {
	// Config has the host's paths and the engines' sockets, as an agent would take them.
	Config AgentConfig
}

// askAgent connects to the agent.
func (a *app) askAgent(ctx context.Context, c AgentConfig) (Backend, error) {
	a.asked = "the agent at " + c.Socket
	return a.env.Dial(ctx, c)
}

// onAnotherHost reports whether a socket is the address of an agent on another host.
func onAnotherHost(socket string) bool { return strings.HasPrefix(socket, overTLS) }

// overTLS begins such an address.
const overTLS = "tls://"

// noAgent reports whether an error of Dial means that no agent runs, as opposed
// to one that this user may not ask, or should not believe.
func noAgent(err error) bool {
	return errors.Is(err, client.ErrNoAgent) || errors.Is(err, client.ErrDead)
}

// open is askAgent, falling back to answering in this process where no agent
// runs, which it says on standard error. A socket that exists and cannot be used
// is an error: whoever set it up should hear of it.
func (a *app) open(ctx context.Context, c AgentConfig) (Backend, error) {
	if a.noAgent {
		b, err := a.local(ctx, c)
		if u := unseen(b); u != "" {
			a.note("answered from /proc, cgroups and runtimes; %s", u)
		}
		return b, err
	}
	b, err := a.askAgent(ctx, c)
	if err == nil {
		return b, nil
	}
	if !noAgent(err) || onAnotherHost(c.Socket) { // this host has no answer for another
		return nil, &exitError{ExitFailed, err}
	}
	if b, err = a.local(ctx, c); err != nil {
		return nil, err
	}
	if u := unseen(b); u != "" {
		a.note("no agent at %s: answered from /proc, cgroups and runtimes; %s", c.Socket, u)
	} else {
		a.note("no agent at %s: answered from /proc, cgroups and runtimes", c.Socket)
	}
	return b, nil
}

// unseen says what a backend of this process may not read, empty for nothing.
func unseen(b Backend) string {
	if u, ok := b.(interface{ Unseen() string }); ok {
		return u.Unseen()
	}
	return ""
}

func (a *app) local(ctx context.Context, c AgentConfig) (Backend, error) {
	a.asked = "this host"
	b, err := a.env.Local(ctx, LocalOptions{Config: c})
	switch {
	case err != nil && a.noAgent:
		return nil, failf("answer without an agent: %w", err)
	case err != nil:
		return nil, failf("no agent at %s, and without one: %w", c.Socket, err)
	}
	return b, nil
}

// needAgent is for the commands that mean nothing without one.
func (a *app) needAgent(ctx context.Context, c AgentConfig) (Backend, error) {
	b, err := a.askAgent(ctx, c)
	if err != nil {
		return nil, &exitError{ExitFailed, err}
	}
	return b, nil
}

// closeBackend closes b into err, if that is still nil.
func closeBackend(b io.Closer, err *error) {
	if cerr := b.Close(); cerr != nil && *err == nil {
		*err = fmt.Errorf("close: %w", cerr)
	}
}
