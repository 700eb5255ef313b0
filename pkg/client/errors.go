// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

var (
	// ErrNoAgent means that there is no socket: no agent was started.
	ErrNoAgent = errors.New("no agent is running there")
	// ErrDead means that there is a socket and nobody answers on it, or no longer.
	ErrDead = errors.New("the agent does not answer")
	// ErrDenied means that the caller may not use the socket, or may not ask this.
	ErrDenied = workload.ErrDenied
	// ErrUntrusted means that the socket belongs to somebody who could lie.
	ErrUntrusted = errors.New("the socket is not root's")
	// ErrClosed means that a Mirror has been closed.
	ErrClosed = errors.New("the mirror is closed")
	// ErrTooOld means that the agent does not know the question.
	ErrTooOld = errors.New("too old for this question")
)

// wentAway reports whether a call met the end of a connection that had been
// fine, as when the agent was restarted.
func (c *Client) wentAway(err error) bool {
	return status.Code(err) == codes.Unavailable && c.dialer.lastError() == nil
}

// callError says in one line why a call was not answered. It was made with used,
// which the caller's ctx became with our own timeout.
func (c *Client) callError(ctx, used context.Context, op string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%s: %w", op, cause)
	}
	s, ok := status.FromError(err)
	if !ok { // it did not come over the wire
		return fmt.Errorf("%s: %w", op, err)
	}
	switch s.Code() {
	case codes.Unavailable:
		if dial := c.dialer.lastError(); dial != nil {
			return fmt.Errorf("%s: %w", op, dial)
		}
		return fmt.Errorf("%s: ask %s: %w: %s", op, c.dialer.where(), ErrDead, firstLine(s.Message()))
	case codes.DeadlineExceeded:
		if sameDeadline(ctx, used) {
			return fmt.Errorf("%s: %w", op, context.DeadlineExceeded)
		}
		return c.timedOut(op)
	case codes.Unimplemented:
		return fmt.Errorf("%s: the agent at %s is %w: %s", op, c.dialer.where(), ErrTooOld, firstLine(s.Message()))
	default:
		return fmt.Errorf("%s: %w", op, wire.NewError(s.Code(), firstLine(s.Message())))
	}
}

func (c *Client) timedOut(op string) error {
	return fmt.Errorf("%s: ask %s: %w within %s: is it stopped? restart it", op, c.dialer.where(), ErrDead, c.opt.Timeout)
}

// sameDeadline reports whether the caller's deadline came before ours. The agent
// knows it too, and may say that it has passed just before our clock does.
func sameDeadline(ctx, used context.Context) bool {
	his, ok := ctx.Deadline()
	ours, _ := used.Deadline()
	return ok && his.Equal(ours)
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
