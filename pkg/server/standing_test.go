// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Root in a container may ask about itself alone, however it asks.
func TestAContainedPeerMayAskOnlyAboutItself(t *testing.T) {
	for name, c := range map[string]struct {
		standing server.Standing
		allowed  bool
	}{
		"of the host": {server.OfTheHost, true},
		"contained":   {server.Contained, false},
		"unclear":     {server.Unclear, true},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			r := start(t, &backend{}, func(o *server.Options) {
				o.Standing = func(p server.Peer) server.Standing {
					if p.PID == 0 || !p.InNamespace() {
						t.Errorf("asked about %+v", p)
					}
					asked.Add(1)
					return c.standing
				}
			})
			cl := r.client(t)
			if _, err := cl.Self(t.Context()); err != nil {
				t.Errorf("about itself: %v", err)
			}
			if n := asked.Load(); n != 0 {
				t.Errorf("a question about itself looked %d times where it stands", n)
			}
			for what, ask := range map[string]func(context.Context) error{
				"resolve": func(ctx context.Context) error {
					_, err := cl.Resolve(ctx, workload.Query{PID: 1})
					return err
				},
				"self and another": func(ctx context.Context) error {
					_, err := cl.Resolve(ctx, workload.Query{Self: true}, workload.Query{PID: 1})
					return err
				},
				"status": func(ctx context.Context) error {
					_, err := cl.Status(ctx)
					return err
				},
				"list":  func(ctx context.Context) error { return firstError(cl.List(ctx, workload.Selector{})) },
				"watch": func(ctx context.Context) error { return firstError(cl.Watch(ctx, workload.Selector{})) },
			} {
				err := ask(t.Context())
				switch {
				case c.allowed && errors.Is(err, client.ErrDenied):
					t.Errorf("%s: %v", what, err)
				case !c.allowed && (!errors.Is(err, client.ErrDenied) || !strings.Contains(err.Error(), "a process in a container may ask only about itself")):
					t.Errorf("%s: %v", what, err)
				}
			}
			if asked.Load() == 0 {
				t.Error("nobody looked where it stands")
			}
		})
	}
}

// A connection is of the process that made it, whoever has its descriptor: once that
// one has ended its PID may be anybody's, and nobody is trusted for it.
func TestTheConnectionOfOneWhoHasEndedIsNotTrusted(t *testing.T) {
	r := start(t, &backend{}, func(o *server.Options) {
		o.Standing = func(server.Peer) server.Standing { return server.OfTheHost }
	})
	for name, c := range map[string]struct {
		ends bool
		want codes.Code
	}{
		"it lives":     {false, codes.OK},
		"it has ended": {true, codes.PermissionDenied},
	} {
		t.Run(name, func(t *testing.T) {
			lender := spawn(t, r.socket, "lend", nil)
			conn := take(t, lender)
			if c.ends {
				_ = lender.Process.Kill()
				_ = lender.Wait() // killed
			}
			cc, err := grpc.NewClient("passthrough:///lent", grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return conn, nil }))
			if err != nil {
				t.Fatal(err)
			}
			defer cc.Close()
			_, err = pb.NewPidigreeServiceClient(cc).Status(t.Context(), &pb.StatusRequest{})
			if status.Code(err) != c.want || c.ends && !strings.Contains(err.Error(), "has ended: connect anew") {
				t.Errorf("%v, want %s", err, c.want)
			}
		})
	}
}

// take gives the connection that another process has.
func take(t *testing.T, lender *process) net.Conn {
	t.Helper()
	line, err := lender.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	fd, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(lender.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	taken, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(taken), "lent")
	defer file.Close()
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
