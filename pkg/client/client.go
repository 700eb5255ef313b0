// SPDX-License-Identifier: Apache-2.0

package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"

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
	// Socket is the agent's unix socket, or tls://HOST:PORT for an Address. Default:
	// PIDIGREE_SOCKET, else DefaultSocket.
	Socket string
	// Timeout bounds how long to wait for an agent that does not react. Default 5 s.
	Timeout time.Duration
	// Address is HOST:PORT of an agent on another host, which is asked in place of Socket:
	// by TLS alone, and not about the caller itself.
	Address string
	// TLS is needed with Address.
	TLS TLS
	// MaxMessage bounds one reply of the agent, in bytes. Default: 2 GiB, as lists come in
	// parts of 1 MiB and the agent is trusted.
	MaxMessage int
	// AnyOwner also trusts a socket that belongs to neither root nor the caller.
	AnyOwner bool
}

func (o Options) withDefaults() Options {
	o.Socket = cmp.Or(o.Socket, os.Getenv(SocketEnv), DefaultSocket)
	if address, ok := strings.CutPrefix(o.Socket, "tls://"); ok && o.Address == "" {
		o.Address = address
	}
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	o.MaxMessage = cmp.Or(o.MaxMessage, math.MaxInt32)
	return o
}

// Client is the connections to one agent.
type Client struct {
	opt    Options
	dialer *dialer
	conn   *grpc.ClientConn // connects when it is needed: Resolve has its lines
	lines  lines
}

// New connects to the agent. Its error matches ErrNoAgent, ErrDead, ErrDenied
// or ErrUntrusted.
func New(opt Options) (*Client, error) {
	opt = opt.withDefaults()
	d := &dialer{opt: opt}
	if opt.Address != "" {
		var err error
		if d.remote, err = newOtherHost(opt); err != nil {
			return nil, err
		}
	}
	if err := d.first(); err != nil {
		return nil, err
	}
	conn, err := newConn(opt, d)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("connect to %s: %w", d.where(), err), d.close())
	}
	// Lines are for the host's own processes: who the other end is, the kernel says.
	return &Client{opt: opt, dialer: d, conn: conn, lines: lines{dialer: d, closed: d.remote != nil}}, nil
}

// Close ends the connections and with them all calls.
func (c *Client) Close() error {
	c.lines.close()
	return errors.Join(c.conn.Close(), c.dialer.close())
}

// Socket is the path that the client talks to, or the address.
func (c *Client) Socket() string { return c.dialer.where() }

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
	var wait time.Duration
	for i := range queries {
		wait = max(wait, queries[i].Wait)
	}
	// What waits goes by gRPC, where nobody is behind it. So does what met the end
	// of a line: questions only read, so one is asked again.
	if wait == 0 {
		if results, ok, err := c.overLine(ctx, queries); ok {
			return results, err
		}
	}
	reply, err := c.call(ctx, "resolve", wait, wire.MethodResolve, wire.EncodeQuestions(queries))
	if err != nil {
		return nil, err
	}
	out, err := wire.DecodeResults(queries, reply)
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
// uid, NAMESPACE/NAME or name, an image by id or name, a task by ARN, a service by unit. A process has
// no name: ask Resolve. The error matches workload.ErrNotFound,
// workload.ErrAmbiguous or workload.ErrInvalid.
func (c *Client) Get(ctx context.Context, kind workload.Kind, name string) (workload.Entity, error) {
	req, err := wire.EncodeName(wire.Name{Kind: kind, Name: name})
	if err != nil {
		return workload.Entity{}, fmt.Errorf("get: %w", err)
	}
	reply, err := c.call(ctx, "get", 0, wire.MethodGet, req)
	if err != nil {
		return workload.Entity{}, err
	}
	list, err := wire.DecodeEntities(reply)
	if err != nil || len(list) != 1 {
		return workload.Entity{}, fmt.Errorf("get: %w", cmp.Or(err, wire.ErrMalformed))
	}
	return list[0], nil
}

// Status says how the agent does.
func (c *Client) Status(ctx context.Context) (workload.AgentStatus, error) {
	reply, err := c.call(ctx, "status", 0, wire.MethodStatus, &wire.Bytes{})
	if err != nil {
		return workload.AgentStatus{}, err
	}
	st, err := wire.DecodeStatus(reply)
	if err != nil {
		return workload.AgentStatus{}, fmt.Errorf("status: %w", err)
	}
	return st, nil
}

// call makes one unary call within the timeout and what the questions wait. The
// calls only read, so one that met the end of an agent's life is made again.
func (c *Client) call(ctx context.Context, op string, wait time.Duration, method string, req *wire.Bytes) (*wire.Bytes, error) {
	limited, cancel := context.WithTimeout(ctx, c.opt.Timeout+wait)
	defer cancel()
	var reply wire.Bytes
	err := c.conn.Invoke(limited, method, req, &reply)
	if err != nil && c.wentAway(err) {
		err = c.conn.Invoke(limited, method, req, &reply)
	}
	if err != nil {
		return nil, c.callError(ctx, limited, op, err)
	}
	return &reply, nil
}
