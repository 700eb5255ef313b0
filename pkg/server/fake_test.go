// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

// backend is a fake whose parts a test replaces.
type backend struct {
	resolve func(context.Context, server.Peer, workload.Query) workload.Result
	list    func(context.Context, workload.Selector) iter.Seq[workload.Entity]
	watch   func(context.Context, workload.Selector) iter.Seq[[]workload.Change]
	status  workload.AgentStatus
}

func (b *backend) Resolve(ctx context.Context, p server.Peer, qs []workload.Query, out []workload.Result) {
	for i, q := range qs {
		out[i] = b.resolve(ctx, p, q)
		out[i].Query = q
	}
}

func (b *backend) List(ctx context.Context, sel workload.Selector) iter.Seq[workload.Entity] {
	return b.list(ctx, sel)
}

func (b *backend) Watch(ctx context.Context, sel workload.Selector) iter.Seq[[]workload.Change] {
	return b.watch(ctx, sel)
}

func (b *backend) Status(context.Context) workload.AgentStatus { return b.status }

// echo answers with the process that was asked about, Self with the peer.
func echo(_ context.Context, p server.Peer, q workload.Query) workload.Result {
	key := q.Key
	switch {
	case q.Self:
		key = p.Key
	case q.PID != 0:
		key.PID = q.PID
	}
	return workload.Result{Answer: workload.Answer{
		Status:  workload.StatusHost,
		Process: &workload.Process{Key: key},
	}}
}

func slice[T any](items ...T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for _, it := range items {
			if !yield(it) {
				return
			}
		}
	}
}

// running is a server that a test started.
type running struct {
	socket string
	stop   func()     // and wait
	served chan error // what Serve gave
}

// start serves a backend on a socket of its own until the test ends.
func start(t testing.TB, b *backend, change ...func(*server.Options)) *running {
	t.Helper()
	if b.resolve == nil {
		b.resolve = echo
	}
	opt := server.Options{Backend: b, Group: fmt.Sprint(os.Getegid()), Grace: time.Minute}
	for _, f := range change {
		f(&opt)
	}
	s, err := server.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, s, opt.Group)
}

// serve runs a server on a socket of its own until the test ends.
func serve(t testing.TB, s *server.Server, group string) *running {
	t.Helper()
	r := &running{socket: filepath.Join(shortDir(t), "p.sock"), served: make(chan error, 1)}
	l, err := server.Listen(r.socket, group, false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.served <- s.Serve(ctx, l)
	}()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(r.stop)
	return r
}

// shortDir is a directory that another user may enter and whose path fits into
// a socket's address.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pidigree")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (r *running) client(t testing.TB) *client.Client {
	t.Helper()
	c, err := tryClient(r.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func tryClient(socket string) (*client.Client, error) {
	return client.New(client.Options{Socket: socket, Timeout: 30 * time.Second})
}

// eventually tries again until it works; the deadline of the test binary bounds it.
func eventually(t *testing.T, try func() error) {
	t.Helper()
	for range 10_000 {
		if err := try(); err == nil {
			return
		}
		runtime.Gosched()
	}
	t.Fatal(try())
}
