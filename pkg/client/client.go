// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// DefaultSocket is where an agent listens unless it was told otherwise.
	DefaultSocket = "/run/pidigree/pidigree.sock"
	// SocketEnv is the environment variable that names another socket.
	SocketEnv = "PIDIGREE_SOCKET"
	// MaxBatch is the number of questions that go out in one call.
	MaxBatch = 10_000
)

// Options say how to reach the agent. The zero value reaches the host's own.
type Options struct {
	// Socket is the agent's unix socket. Default: PIDIGREE_SOCKET, else DefaultSocket.
	Socket string
	// Timeout bounds how long to wait for an agent that does not react. Default 5 s.
	Timeout time.Duration
	// AnyOwner also trusts a socket that belongs to neither root nor the caller.
	AnyOwner bool
}

func (o Options) withDefaults() Options {
	o.Socket = cmp.Or(o.Socket, os.Getenv(SocketEnv), DefaultSocket)
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	return o
}

// Client is a connection to one agent.
type Client struct {
	opt    Options
	dialer *dialer
	conn   *grpc.ClientConn
	rpc    pb.PidigreeServiceClient
}

// New connects to the agent. Its error matches ErrNoAgent, ErrDead, ErrDenied
// or ErrUntrusted.
func New(opt Options) (*Client, error) {
	opt = opt.withDefaults()
	d := &dialer{opt: opt}
	if err := d.first(); err != nil {
		return nil, err
	}
	conn, err := newConn(opt, d)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", opt.Socket, err), d.close())
	}
	conn.Connect()
	return &Client{opt: opt, dialer: d, conn: conn, rpc: pb.NewPidigreeServiceClient(conn)}, nil
}

// Close ends the connection and with it all calls.
func (c *Client) Close() error {
	return errors.Join(c.conn.Close(), c.dialer.close())
}

// Socket is the path that the client talks to.
func (c *Client) Socket() string { return c.opt.Socket }

// Resolve answers questions, in their order. The error is about the call as a
// whole; what is wrong with one question is in its Result.
func (c *Client) Resolve(ctx context.Context, queries ...workload.Query) ([]workload.Result, error) {
	if len(queries) <= MaxBatch {
		return c.resolve(ctx, queries)
	}
	out := make([]workload.Result, 0, len(queries))
	for len(queries) > 0 {
		n := min(len(queries), MaxBatch)
		part, err := c.resolve(ctx, queries[:n])
		if err != nil {
			return nil, err
		}
		out, queries = append(out, part...), queries[n:]
	}
	return out, nil
}

func (c *Client) resolve(ctx context.Context, queries []workload.Query) ([]workload.Result, error) {
	req := &pb.ResolveRequest{Queries: make([]*pb.Query, len(queries))}
	var wait time.Duration
	for i, q := range queries {
		req.Queries[i] = wire.EncodeQuery(q)
		wait = max(wait, q.Wait)
	}
	resp, err := call(ctx, c, "resolve", wait, req, c.rpc.Resolve)
	if err != nil {
		return nil, err
	}
	out, err := wire.DecodeResults(queries, resp)
	if err != nil {
		return nil, fmt.Errorf("resolve: %w", err)
	}
	return out, nil
}

// Self asks about the calling process.
func (c *Client) Self(ctx context.Context) (workload.Answer, error) {
	return c.one(ctx, workload.Query{Self: true})
}

func (c *Client) one(ctx context.Context, q workload.Query) (workload.Answer, error) {
	results, err := c.resolve(ctx, []workload.Query{q})
	if err != nil {
		return workload.Answer{}, err
	}
	return results[0].Answer, results[0].Err
}

// Get gives one entity by its name: a container by id, prefix or name, a pod by
// uid, an image by id or name, a task by ARN, a service by unit. A process has
// no name: ask Resolve. The error matches workload.ErrNotFound,
// workload.ErrAmbiguous or workload.ErrInvalid.
func (c *Client) Get(ctx context.Context, kind workload.Kind, name string) (workload.Entity, error) {
	req, err := wire.EncodeName(kind, name)
	if err != nil {
		return workload.Entity{}, fmt.Errorf("get %s: %w", kind, err)
	}
	resp, err := call(ctx, c, "get", 0, req, c.rpc.Get)
	if err != nil {
		return workload.Entity{}, err
	}
	return wire.DecodeEntity(resp.GetEntity()), nil
}

// Status says how the agent does.
func (c *Client) Status(ctx context.Context) (workload.AgentStatus, error) {
	resp, err := call(ctx, c, "status", 0, &pb.StatusRequest{}, c.rpc.Status)
	if err != nil {
		return workload.AgentStatus{}, err
	}
	return wire.DecodeStatus(resp.GetStatus()), nil
}

// call makes one unary call within the timeout and what the questions wait. The
// calls only read, so one that met the end of an agent's life is made again.
func call[Q, A any](
	ctx context.Context, c *Client, op string, wait time.Duration, req Q,
	f func(context.Context, Q, ...grpc.CallOption) (A, error),
) (A, error) {
	limited, cancel := context.WithTimeout(ctx, c.opt.Timeout+wait)
	defer cancel()
	resp, err := f(limited, req)
	if err != nil && c.wentAway(err) {
		resp, err = f(limited, req, grpc.WaitForReady(false))
	}
	if err != nil {
		return resp, c.callError(ctx, op, err)
	}
	return resp, nil
}
