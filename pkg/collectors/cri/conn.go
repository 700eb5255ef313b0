// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/pkg/collectors"
)

// incarnation names the socket's file: a restart makes another one.
type incarnation struct {
	dev, ino uint64
	ctime    unix.Timespec
}

// conn is a connection to one incarnation of the socket.
type conn struct {
	incarnation
	cc     *grpc.ClientConn
	api    runtimeapi.RuntimeServiceClient
	images runtimeapi.ImageServiceClient

	mu     sync.Mutex // guards engine
	engine *engine    // once it has said who it is
}

// connect gives the connection to the socket as it is now. It does not wait for
// the server: the first call does, as long as its context lets it.
func (c *Collector) connect() (*conn, error) {
	var st unix.Stat_t
	err := unix.Stat(c.socket, &st)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		c.disconnectLocked()
		if err == nil {
			err = errors.New("not a socket")
		}
		return nil, fmt.Errorf("%s: %w: %w", c.socket, collectors.ErrNotPresent, err)
	}
	now := incarnation{dev: st.Dev, ino: st.Ino, ctime: st.Ctim}
	if c.without == now {
		return nil, c.withoutIs
	}
	if n := c.conn; n != nil && n.incarnation == now {
		return n, nil
	}
	c.disconnectLocked()
	n, err := dial(c.socket)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w: %w", c.socket, collectors.ErrUnavailable, err)
	}
	n.incarnation = now
	c.conn = n
	return n, nil
}

func (c *Collector) disconnectLocked() {
	if c.conn != nil {
		_ = c.conn.cc.Close() // calls under way fail, as they must: their server is gone
		c.conn = nil
	}
}

// Close ends the connection. A call after it makes a new one.
func (c *Collector) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.disconnectLocked()
	return nil
}

// dial makes the client. The resolver's unix scheme would read the path as an
// URL, and make it the name of the server.
func dial(socket string) (*conn, error) {
	fast := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond}
	cc, err := grpc.NewClient("passthrough:///cri",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: fast, MinConnectTimeout: time.Second}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", socket)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(collectors.MaxRecord)),
	)
	if err != nil {
		return nil, err
	}
	return &conn{cc: cc, api: runtimeapi.NewRuntimeServiceClient(cc), images: runtimeapi.NewImageServiceClient(cc)}, nil
}

// ask connects and says who is there; that is a call once for each incarnation.
func (c *Collector) ask(ctx context.Context) (*conn, engine, error) {
	n, err := c.connect()
	if err != nil {
		return nil, engine{}, err
	}
	n.mu.Lock()
	known := n.engine
	n.mu.Unlock()
	if known != nil {
		return n, *known, nil
	}
	e, err := c.version(ctx, n)
	return n, e, err
}

// errUnreadable means that a reply cannot be taken: it is over the budget of one
// message, the engine's or ours, or holds what no message may. The engine as a
// whole is well.
var errUnreadable = errors.New("unreadable reply")

// translate turns gRPC's errors into the contract's.
func translate(op string, err error) error {
	kind := collectors.ErrUnavailable
	switch status.Code(err) {
	case codes.OK:
		return nil
	case codes.ResourceExhausted, codes.Internal:
		kind = errUnreadable
	case codes.NotFound, codes.InvalidArgument:
		kind = collectors.ErrNotFound
	}
	return fmt.Errorf("%s: %w: %w", op, kind, err)
}
