// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/pidigree/pidigree/internal/wire"
)

// Flow-control windows, on this side: a reply of a thousand answers is some
// 200 KiB and should not wait for a window update on its way. More than that is
// only what an agent sends, and both sides hold, for a stream that nobody reads.
const (
	streamWindow = 256 << 10
	connWindow   = 1 << 20
)

// newConn makes the gRPC side of a client with nothing that costs time at the
// start: no name to resolve, no service config, no proxy, no idle timer.
func newConn(opt Options, d *dialer) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///pidigree",
		grpc.WithContextDialer(d.dial),
		grpc.WithTransportCredentials(d.credentials()),
		grpc.WithAuthority(d.authority()),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		// The server bounds its replies; a list comes in chunks.
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(wire.Codec{}), grpc.MaxCallRecvMsgSize(opt.MaxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: opt.Timeout,
		}),
		// So that a stream notices an agent that hangs. 10 s is gRPC's least.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: opt.Timeout}),
	)
}

// credentials are none on a unix socket: the kernel vouches for both sides.
func (d *dialer) credentials() credentials.TransportCredentials {
	if d.remote != nil {
		return d.remote.credentials(d)
	}
	return insecure.NewCredentials()
}

// authority is what gRPC calls the agent by.
func (d *dialer) authority() string {
	if d.remote != nil {
		return d.remote.name
	}
	return "pidigree"
}

// where names the agent.
func (d *dialer) where() string {
	if d.remote != nil {
		return d.opt.Address
	}
	return d.opt.Socket
}

// dialer makes the connections of one client and remembers why the last one
// failed, which gRPC passes on as text only.
type dialer struct {
	opt    Options
	remote *otherHost // nil: the agent is on this host

	mu    sync.Mutex // guards all below
	ready net.Conn   // made by New, for who needs it first
	last  error
}

// first connects once, so that New can say at once what is wrong.
func (d *dialer) first() error {
	ctx, cancel := context.WithTimeout(context.Background(), d.opt.Timeout)
	defer cancel()
	if d.remote != nil {
		return d.remote.try(ctx, d.opt.Address)
	}
	conn, err := d.connect(ctx)
	d.ready = conn
	return err
}

// spare gives the connection that New made, once.
func (d *dialer) spare() net.Conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	conn := d.ready
	d.ready = nil
	return conn
}

// line makes a connection without gRPC.
func (d *dialer) line(ctx context.Context) (conn net.Conn, spare bool, err error) {
	if conn := d.spare(); conn != nil {
		return conn, true, nil
	}
	ctx, cancel := context.WithTimeout(ctx, d.opt.Timeout)
	defer cancel()
	conn, err = d.connect(ctx)
	return conn, false, err
}

// dial is what gRPC calls.
func (d *dialer) dial(ctx context.Context, _ string) (net.Conn, error) {
	if conn := d.spare(); conn != nil {
		return conn, nil
	}
	conn, err := d.connect(ctx)
	d.failed(err)
	return conn, err
}

// failed remembers why a connection was not made; nil: one was.
func (d *dialer) failed(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = err
}

func (d *dialer) lastError() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

func (d *dialer) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ready == nil {
		return nil
	}
	conn := d.ready
	d.ready = nil
	return conn.Close()
}

func (d *dialer) connect(ctx context.Context) (net.Conn, error) {
	if d.remote != nil {
		return d.remote.connect(ctx, d.opt.Address)
	}
	path := d.opt.Socket
	if err := d.check(path); err != nil {
		return nil, err
	}
	var nd net.Dialer
	conn, err := nd.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, connectError(path, err)
	}
	return conn, nil
}

// check looks at the file before anything is said to whoever listens on it.
func (d *dialer) check(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return connectError(path, err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("connect to %s: it is no socket: name the agent's with --socket or %s", path, SocketEnv)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || d.opt.AnyOwner || trusted(int(st.Uid)) {
		return nil
	}
	return fmt.Errorf("connect to %s: %w: it belongs to uid %d: name the agent's with --socket or %s",
		path, ErrUntrusted, st.Uid, SocketEnv)
}

// overflowUID is what the kernel shows for owners that a user namespace has no
// number for; in a container with one, the host's root looks like this.
const overflowUID = 65534

func trusted(uid int) bool {
	return uid == 0 || uid == os.Geteuid() || uid == overflowUID && inUserNamespace()
}

// inUserNamespace reports whether uids are mapped at all.
func inUserNamespace() bool {
	b, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	f := strings.Fields(string(b))
	return len(f) != 3 || f[0] != "0" || f[1] != "0" || f[2] != "4294967295"
}

// connectError says what happened, to what, and what to do about it.
func connectError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return fmt.Errorf("connect to %s: %w: start one with `pidigree agent`, or name its socket with --socket or %s",
			path, ErrNoAgent, SocketEnv)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("connect to %s: %w: become root, or a member of the group that owns the socket", path, ErrDenied)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("connect to %s: %w: the socket was left behind: start `pidigree agent` again", path, ErrDead)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.EAGAIN):
		return fmt.Errorf("connect to %s: %w: it hangs, or is out of connections: restart it", path, ErrDead)
	default:
		return fmt.Errorf("connect to %s: %w", path, err)
	}
}
