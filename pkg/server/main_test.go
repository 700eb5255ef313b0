// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

// childEnv makes the test binary another process, which asks what the variable
// says and prints what it gets.
const childEnv = "PIDIGREE_SERVER_TEST_ASK"

func TestMain(m *testing.M) {
	if ask := os.Getenv(childEnv); ask != "" {
		if err := child(ask); err != nil {
			fmt.Println("error:", err)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

func child(ask string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.New(client.Options{AnyOwner: true}) // the socket is in client.SocketEnv
	if err != nil {
		return err
	}
	defer c.Close()
	switch ask {
	case "health":
		return askHealth(ctx)
	case "self":
		return askSelf(ctx, c)
	case "commands":
		return askCommands(ctx, c)
	case "own":
		return askOwn(ctx, c)
	case "everything":
		return askEverything(ctx, c)
	case "lend":
		return lend(ctx)
	case "hang":
		for range c.Watch(ctx, workload.Selector{}) {
			fmt.Println("watching")
		}
		return nil
	}
	return errors.New("unknown question")
}

// lend connects, prints the number of the descriptor for whoever takes it, and waits.
func lend(ctx context.Context) error {
	conn, err := net.Dial("unix", os.Getenv(client.SocketEnv))
	if err != nil {
		return err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	if err := raw.Control(func(fd uintptr) { fmt.Println(fd) }); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// askHealth prints the status of FullService, and what its header says.
func askHealth(ctx context.Context) error {
	cc, err := grpc.NewClient("unix://"+os.Getenv(client.SocketEnv), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer cc.Close()
	var header metadata.MD
	resp, err := healthpb.NewHealthClient(cc).Check(ctx, &healthpb.HealthCheckRequest{Service: server.FullService}, grpc.Header(&header))
	if err != nil {
		return err
	}
	fmt.Printf("%s %q\n", resp.GetStatus(), header.Get(server.DegradedHeader))
	return nil
}

func askSelf(ctx context.Context, c *client.Client) error {
	a, err := c.Self(ctx)
	if err != nil {
		return err
	}
	fmt.Println(a.Process.Key.PID, a.Process.Key.Inode, os.Getpid())
	return nil
}

// askCommands prints what is shown of command lines, in every way to ask.
func askCommands(ctx context.Context, c *client.Client) error {
	show := func(how string, p *workload.Process, family bool) {
		fmt.Println(how, p.Detail.UID, p.Detail.Command, p.Detail.CommandHidden, family)
	}
	results, err := c.Resolve(ctx, workload.Query{Self: true, Detail: true, Family: true})
	if err != nil {
		return err
	}
	show("self", results[0].Answer.Process, results[0].Family != nil)
	results, err = c.Resolve(ctx, workload.Query{PID: 1, Detail: true, Family: true}, workload.Query{PID: 1, Detail: true, Wait: 1})
	if err != nil {
		return err
	}
	for _, r := range results {
		show("asked", r.Answer.Process, r.Family != nil)
	}
	for e, err := range c.List(ctx, workload.Selector{Kinds: []workload.Kind{workload.KindProcess}, Detail: true}) {
		if err != nil {
			return err
		}
		show("listed", e.Process, false)
	}
	return nil
}

// askOwn prints what is said of processes 11 to 13, in each way to ask for them.
func askOwn(ctx context.Context, c *client.Client) error {
	queries := []workload.Query{
		{PID: 11, Explain: true, Detail: true, Family: true}, {PID: 12}, {PID: 13},
		{Key: workload.ProcessKey{PID: 11, Start: 1}}, {Key: workload.ProcessKey{PID: 12, Start: 1}},
	}
	for _, wait := range []time.Duration{0, 1} { // frames, and a call
		for i := range queries {
			queries[i].Wait = wait
		}
		results, err := c.Resolve(ctx, queries...)
		if err != nil {
			return err
		}
		for _, r := range results {
			if r.Err != nil {
				fmt.Println(errors.Is(r.Err, client.ErrDenied), r.Err)
				continue
			}
			ct, a := r.Answer.Container(), r.Answer
			fmt.Println(a.Process.Key.PID, ct.Name, ct.Labels, ct.Annotations, ct.Env, a.Pod.Labels, a.Pod.Annotations, a.Task.Tags, a.Task.InstanceTags,
				r.Explanation, r.Family, a.Process.Detail)
		}
	}
	for _, q := range []workload.Query{{Container: "web"}, {CgroupPath: "/a"}, {Cgroup: workload.CgroupID{ID: 1}}} {
		_, err := c.Resolve(ctx, q)
		fmt.Println(errors.Is(err, client.ErrDenied), err)
	}
	return nil
}

// askEverything prints for each kind of question whether it is allowed.
func askEverything(ctx context.Context, c *client.Client) error {
	say := func(what string, err error) {
		switch {
		case err == nil:
			fmt.Println(what, "ok")
		case errors.Is(err, client.ErrDenied):
			fmt.Println(what, "denied")
		default:
			fmt.Println(what, err)
		}
	}
	_, err := c.Self(ctx)
	say("self", err)
	_, err = c.Resolve(ctx, workload.Query{PID: 1})
	say("pid", err)
	_, err = c.Resolve(ctx, workload.Query{Self: true}, workload.Query{PID: 1})
	say("self and pid", err)
	_, err = c.Get(ctx, workload.KindPod, "u")
	say("get", err)
	_, err = c.Status(ctx)
	say("status", err)
	say("list", firstError(c.List(ctx, workload.Selector{})))
	say("watch", firstError(c.Watch(ctx, workload.Selector{})))
	return askByStream(ctx, say)
}

// askByStream asks by gRPC alone: our client's Resolve goes by frames.
func askByStream(ctx context.Context, say func(string, error)) error {
	cc, err := grpc.NewClient("unix://"+os.Getenv(client.SocketEnv), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer cc.Close()
	stream, err := pb.NewPidigreeServiceClient(cc).ResolveStream(ctx)
	if err != nil {
		return err
	}
	self, pid := &pb.Query{Subject: &pb.Query_Self{Self: &pb.Self{}}}, pidQueries(1)[0]
	for _, c := range []struct {
		what    string
		queries []*pb.Query
	}{{"stream of self", []*pb.Query{self}}, {"stream of pid", []*pb.Query{pid}}, {"stream of self and pid", []*pb.Query{self, pid}}} {
		if err := stream.Send(&pb.ResolveStreamRequest{Queries: c.queries}); err != nil {
			return err
		}
		m, err := stream.Recv()
		if err == nil && m.GetError() != nil {
			err = wire.NewError(codes.Code(m.GetError().GetCode()), m.GetError().GetMessage())
		}
		if err == nil && len(m.GetPart().GetResults()) != len(c.queries) {
			err = fmt.Errorf("%d results", len(m.GetPart().GetResults()))
		}
		say(c.what, err)
	}
	return nil
}

func firstError[T any](seq func(func(T, error) bool)) (err error) {
	seq(func(_ T, e error) bool { err = e; return false })
	return err
}

// process is a child of the test.
type process struct {
	*exec.Cmd
	out *bufio.Reader
}

// spawn starts the test binary to ask, as another user if cred is set. It goes
// by /proc/self/exe, because that user may not enter the binary's directory.
func spawn(t *testing.T, socket, ask string, cred *syscall.Credential) *process {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+ask, client.SocketEnv+"="+socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: cred, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: cmd, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return p
}

// text is all that the child prints.
func (p *process) text(t *testing.T) string {
	t.Helper()
	b, err := io.ReadAll(p.out)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func pidOf(p *process) string { return strconv.Itoa(p.Process.Pid) }
