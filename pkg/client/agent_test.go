// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestMain(m *testing.M) {
	if os.Getenv(anotherUserEnv) != "" {
		beAnotherUser()
		return
	}
	if socket := os.Getenv(fullEnv); socket != "" {
		if err := beFull(socket); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if socket, lasts, ok := strings.Cut(os.Getenv(publishEnv), " "); ok {
		d, err := time.ParseDuration(lasts)
		if err == nil {
			err = bePublisher(socket, d)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// agent is a fake that knows one container, in which every process is.
type agent struct {
	// resolve replaces the answers.
	resolve func(context.Context, server.Peer, workload.Query) workload.Result
	// watch replaces the stream.
	watch func(context.Context, workload.Selector) iter.Seq[[]workload.Change]
}

var web = &workload.Container{
	ID: workload.ContainerID{Runtime: "docker", ID: "4f3a"}, Name: "web", Runtime: "docker",
	Image: workload.ImageRef{Name: "nginx:1.27"}, State: workload.StateRunning,
}

func (a agent) Resolve(ctx context.Context, p server.Peer, qs []workload.Query, out []workload.Result) {
	for i, q := range qs {
		if a.resolve != nil {
			out[i] = a.resolve(ctx, p, q)
			continue
		}
		key := q.Key
		switch {
		case q.Self:
			key = p.Key
		case q.PID != 0:
			key.PID = q.PID
		}
		out[i] = workload.Result{Answer: workload.Answer{
			Status: workload.StatusContainer, Confidence: workload.Confirmed,
			Process: &workload.Process{Key: key, Comm: "nginx"}, Containers: []*workload.Container{web},
		}}
	}
}

func (agent) List(_ context.Context, sel workload.Selector) iter.Seq[workload.Entity] {
	return func(yield func(workload.Entity) bool) {
		yield(workload.Entity{Kind: workload.KindContainer, Container: web, Revision: 3})
	}
}

func (a agent) Watch(ctx context.Context, sel workload.Selector) iter.Seq[[]workload.Change] {
	if a.watch != nil {
		return a.watch(ctx, sel)
	}
	return func(yield func([]workload.Change) bool) {
		set := workload.Change{Type: workload.ChangeSet, Revision: 3, Entity: workload.Entity{Kind: workload.KindContainer, Container: web}}
		if sel.From >= 3 || yield([]workload.Change{set, {Type: workload.ChangeBookmark, Revision: 3}}) {
			<-ctx.Done()
		}
	}
}

func (agent) Status(context.Context) workload.AgentStatus {
	return workload.AgentStatus{Version: "1.2.3", PID: workload.PID(os.Getpid()), Mode: "ebpf", Ready: true, Containers: 1}
}

// serve runs the agent on a socket until stop is called, which waits.
func (a agent) serve(socket string) (stop func(), err error) {
	group := strconv.Itoa(os.Getegid())
	s, err := server.New(server.Options{Backend: a, Group: group})
	if err != nil {
		return nil, err
	}
	l, err := server.Listen(socket, group, false)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ctx, l) // the tests see what it does
	}()
	return func() { cancel(); <-done }, nil
}

// start runs an agent until the test ends and gives its socket.
func start(t testing.TB, a agent) (socket string, stop func()) {
	t.Helper()
	socket = tempSocket(t)
	stop, err := a.serve(socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return socket, stop
}

// tempSocket is short enough for a socket's address, which t.TempDir may not be.
func tempSocket(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pidigree")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "p.sock")
}
