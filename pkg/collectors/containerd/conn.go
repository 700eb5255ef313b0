// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	contentapi "github.com/containerd/containerd/api/services/content/v1"
	eventsapi "github.com/containerd/containerd/api/services/events/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pidigree/pidigree/pkg/collectors"
)

// conn is a connection to one incarnation of the socket.
type conn struct {
	client *client.Client
	// dev, ino and ctime name the socket's file: a restart makes another one.
	dev, ino uint64
	ctime    unix.Timespec

	containers containersapi.ContainersClient
	tasks      tasksapi.TasksClient
	images     imagesapi.ImagesClient
	content    contentapi.ContentClient
	namespaces namespacesapi.NamespacesClient
	events     eventsapi.EventsClient
	version    versionapi.VersionClient
}

// connect gives the connection to the socket as it is now. It does not wait for
// the server: the first call does, as long as its context lets it.
func (c *Collector) connect() (*conn, error) {
	var st unix.Stat_t
	err := unix.Stat(c.opts.Address, &st)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		c.disconnectLocked()
		if err == nil {
			err = errors.New("not a socket")
		}
		return nil, fmt.Errorf("%s: %w: %w", c.opts.Address, collectors.ErrNotPresent, err)
	}
	if n := c.conn; n != nil && n.dev == st.Dev && n.ino == st.Ino && n.ctime == st.Ctim {
		return n, nil
	}
	c.disconnectLocked()
	n, err := dial(c.opts.Address, c.opts.Dialed)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w: %w", c.opts.Address, collectors.ErrUnavailable, err)
	}
	n.dev, n.ino, n.ctime = st.Dev, st.Ino, st.Ctim
	c.conn = n
	return n, nil
}

func (c *Collector) disconnectLocked() {
	if c.conn != nil {
		_ = c.conn.client.Close() // calls under way fail, as they must: their server is gone
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

// dial makes the client. Its own dialer would wait for a socket to appear.
func dial(address string, dialed func(net.Conn) error) (*conn, error) {
	fast := backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond}
	cl, err := client.New(address,
		client.WithExtraDialOpts([]grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: fast, MinConnectTimeout: time.Second}),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
				return collectors.DialUnix(ctx, address, dialed)
			}),
		}),
		client.WithCallOpts([]grpc.CallOption{grpc.MaxCallRecvMsgSize(collectors.MaxRecord)}),
	)
	if err != nil {
		return nil, err
	}
	cc, ok := cl.Conn().(*grpc.ClientConn)
	if !ok {
		_ = cl.Close()
		return nil, errors.New("the client has no gRPC connection")
	}
	return &conn{
		client:     cl,
		containers: containersapi.NewContainersClient(cc),
		tasks:      tasksapi.NewTasksClient(cc),
		images:     imagesapi.NewImagesClient(cc),
		content:    contentapi.NewContentClient(cc),
		namespaces: namespacesapi.NewNamespacesClient(cc),
		events:     eventsapi.NewEventsClient(cc),
		version:    versionapi.NewVersionClient(cc),
	}, nil
}

// errTooLarge means that a container's record is over the budget of one message,
// containerd's or ours, while the source as a whole is well.
var errTooLarge = errors.New("too large")

// within says which namespace a call is about.
func within(ctx context.Context, namespace string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "containerd-namespace", namespace)
}

// translate turns gRPC's errors into the contract's.
func translate(op string, err error) error {
	switch status.Code(err) {
	case codes.OK:
		return nil
	case codes.ResourceExhausted:
		return fmt.Errorf("%s: %w: %w", op, errTooLarge, err)
	case codes.NotFound, codes.InvalidArgument:
		return fmt.Errorf("%s: %w: %w", op, collectors.ErrNotFound, err)
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Aborted, codes.Unimplemented:
		return fmt.Errorf("%s: %w: %w", op, collectors.ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}
