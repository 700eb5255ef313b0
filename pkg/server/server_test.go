// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

type seqOf[T any] = iter.Seq[T]

// raw is a client made of the generated code, as another language has it.
func raw(t *testing.T, r *running, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("unix://"+r.socket, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cc.Close() })
	return cc
}

func TestAThousandQuestionsOverTheSocketNameEachContainerOnce(t *testing.T) {
	r := start(t, &backend{resolve: realistic()})
	req := &pb.ResolveRequest{}
	queries := make([]workload.Query, 1000)
	for i := range queries {
		queries[i].PID = workload.PID(i + 1)
		req.Queries = append(req.Queries, &pb.Query{Subject: &pb.Query_Pid{Pid: uint32(i + 1)}})
	}
	resp, err := pb.NewPidigreeServiceClient(raw(t, r)).Resolve(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if n, p := len(resp.GetContainers()), len(resp.GetProcesses()); n != 100 || p != 1000 {
		t.Errorf("%d containers and %d processes, want 100 and 1000", n, p)
	}
	got, err := r.client(t).Resolve(t.Context(), queries...)
	if err != nil {
		t.Fatal(err)
	}
	answer := realistic()
	for i, res := range got {
		want := answer(t.Context(), server.Peer{}, queries[i]).Answer
		if res.Query != queries[i] || res.Answer.Process.Key != want.Process.Key || res.Answer.Container().ID != want.Container().ID {
			t.Fatalf("result %d is %+v", i, res)
		}
	}
}

func TestWhatIsWrongWithOneQuestionDoesNotSpoilTheOthers(t *testing.T) {
	b := &backend{resolve: func(ctx context.Context, p server.Peer, q workload.Query) workload.Result {
		if q.PID == 2 {
			return workload.Result{Err: fmt.Errorf("resolve 2: %w", workload.ErrNotFound)}
		}
		return echo(ctx, p, q)
	}}
	c := start(t, b).client(t)
	got, err := c.Resolve(t.Context(), workload.Query{PID: 1}, workload.Query{}, workload.Query{PID: 2},
		workload.Query{PID: workload.MaxPID + 1}, workload.Query{PID: 3})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{nil, workload.ErrInvalid, workload.ErrNotFound, workload.ErrInvalid, nil} {
		if !errors.Is(got[i].Err, want) || want == nil && got[i].Answer.Process.Key.PID != got[i].Query.PID {
			t.Errorf("question %d: %v, want %v", i, got[i].Err, want)
		}
	}
}

func TestStatusCodesArePrecise(t *testing.T) {
	b := &backend{
		resolve: func(ctx context.Context, p server.Peer, q workload.Query) workload.Result {
			switch q.Container {
			case "none":
				return workload.Result{Err: workload.ErrNotFound}
			case "two":
				return workload.Result{Err: workload.ErrAmbiguous}
			case "panic":
				panic("with\nsecrets")
			case "later":
				return workload.Result{Err: workload.ErrUnavailable}
			}
			return echo(ctx, p, q)
		},
		list: func(context.Context, workload.Selector) seqOf[workload.Entity] {
			task := func(arn string) workload.Entity {
				return workload.Entity{Kind: workload.KindTask, Task: &workload.Task{ARN: arn}}
			}
			gone := task("back")
			gone.Gone = true
			return slice(task("one"), task("twice"), task("twice"), gone, task("back"))
		},
	}
	var log bytes.Buffer
	r := start(t, b, func(o *server.Options) {
		o.MaxQueries = 10
		o.MaxReply = 64 << 10
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	c := pb.NewPidigreeServiceClient(raw(t, r))
	resolve := func(q ...*pb.Query) func() error {
		return func() error {
			_, err := c.Resolve(t.Context(), &pb.ResolveRequest{Queries: q})
			return err
		}
	}
	get := func(req *pb.GetRequest) func() error {
		return func() error {
			_, err := c.Get(t.Context(), req)
			return err
		}
	}
	container := func(name string) *pb.GetRequest {
		return &pb.GetRequest{Name: &pb.GetRequest_Container{Container: name}}
	}
	task := func(arn string) *pb.GetRequest { return &pb.GetRequest{Name: &pb.GetRequest_Task{Task: arn}} }
	pid := &pb.Query{Subject: &pb.Query_Pid{Pid: 7}}
	for _, row := range []struct {
		name string
		call func() error
		want codes.Code
	}{
		{"no question", resolve(), codes.OK},
		{"ten questions", resolve(slices.Repeat([]*pb.Query{pid}, 10)...), codes.OK},
		{"eleven questions", resolve(slices.Repeat([]*pb.Query{pid}, 11)...), codes.InvalidArgument},
		{"a panic", resolve(&pb.Query{Subject: &pb.Query_Container{Container: "panic"}}), codes.Internal},
		{"get without a name", get(&pb.GetRequest{}), codes.InvalidArgument},
		{"get a container that is not there", get(container("none")), codes.NotFound},
		{"get one of two containers", get(container("two")), codes.FailedPrecondition},
		{"get a container later", get(container("later")), codes.Unavailable},
		{"get an answer without a container", get(container("web")), codes.NotFound},
		{"get a task", get(task("one")), codes.OK},
		{"get a task that is not there", get(task("none")), codes.NotFound},
		{"get a task that is there twice", get(task("twice")), codes.FailedPrecondition},
		{"get a task that is back", get(task("back")), codes.OK},
		{"status", func() error { _, err := c.Status(t.Context(), &pb.StatusRequest{}); return err }, codes.OK},
		{"a kind that does not exist", func() error {
			s, err := c.List(t.Context(), &pb.ListRequest{Kinds: []pb.EntityKind{99}})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		}, codes.InvalidArgument},
	} {
		t.Run(row.name, func(t *testing.T) {
			err := row.call()
			if status.Code(err) != row.want || err != nil && strings.ContainsAny(status.Convert(err).Message(), "\n") {
				t.Errorf("%v, want %s in one line", err, row.want)
			}
			if err != nil && (strings.Contains(err.Error(), "secrets") || strings.Contains(err.Error(), "goroutine")) {
				t.Errorf("the peer sees too much: %v", err)
			}
		})
	}
	if !strings.Contains(log.String(), "call panicked") || !strings.Contains(log.String(), "secrets") {
		t.Errorf("the log says nothing of the panic: %s", &log)
	}
}

func TestAReplyThatIsTooLargeIsRefused(t *testing.T) {
	b := &backend{resolve: func(context.Context, server.Peer, workload.Query) workload.Result {
		return workload.Result{Answer: workload.Answer{Reason: strings.Repeat("x", 1000)}}
	}}
	r := start(t, b, func(o *server.Options) { o.MaxReply = 100_000 })
	_, err := r.client(t).Resolve(t.Context(), slices.Repeat([]workload.Query{{PID: 1}}, 1000)...)
	if err == nil || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("got %v", err)
	}
}

func TestAWaitIsCutToTheLimit(t *testing.T) {
	var got time.Duration
	b := &backend{resolve: func(_ context.Context, _ server.Peer, q workload.Query) workload.Result {
		got = q.Wait
		return workload.Result{}
	}}
	c := pb.NewPidigreeServiceClient(raw(t, start(t, b, func(o *server.Options) { o.MaxWait = time.Second })))
	q := &pb.Query{Subject: &pb.Query_Pid{Pid: 7}, Wait: durationpb.New(time.Hour)}
	if _, err := c.Resolve(t.Context(), &pb.ResolveRequest{Queries: []*pb.Query{q}}); err != nil || got != time.Second {
		t.Errorf("waits %v, %v", got, err)
	}
}

func TestABackendThatLosesAQuestionIsFoundOut(t *testing.T) {
	r := start(t, &backend{}, func(o *server.Options) { o.Backend = forgetful{o.Backend} })
	got, err := r.client(t).Resolve(t.Context(), workload.Query{PID: 1}, workload.Query{PID: 2})
	if err != nil || len(got) != 2 || got[0].Err != nil || got[1].Err == nil {
		t.Errorf("%+v, %v", got, err)
	}
}

// forgetful answers the first question alone.
type forgetful struct{ server.Backend }

func (f forgetful) Resolve(ctx context.Context, p server.Peer, qs []workload.Query, results []workload.Result) {
	f.Backend.Resolve(ctx, p, qs[:1], results[:1])
}

func TestAListLargerThanAnyMessageArrivesWhole(t *testing.T) {
	const n = 200
	big := strings.Repeat("x", 64<<10) // 12.8 MiB in all
	b := &backend{list: func(_ context.Context, sel workload.Selector) seqOf[workload.Entity] {
		return func(yield func(workload.Entity) bool) {
			for i := range n {
				c := &workload.Container{Name: fmt.Sprint(i), Labels: map[string]string{"l": big}}
				if !yield(workload.Entity{Kind: sel.Kinds[0], Container: c}) {
					return
				}
			}
		}
	}}
	r := start(t, b)
	next := 0
	for e, err := range r.client(t).List(t.Context(), workload.Selector{Kinds: []workload.Kind{workload.KindContainer}}) {
		if err != nil || e.Container.Name != fmt.Sprint(next) || e.Container.Labels["l"] != big {
			t.Fatalf("entity %d is %q, %v", next, e.Container.Name, err)
		}
		next++
	}
	if next != n {
		t.Errorf("%d entities, want %d", next, n)
	}
	// With a foreign client's limit of 4 MiB for a message.
	s, err := pb.NewPidigreeServiceClient(raw(t, r)).List(t.Context(), &pb.ListRequest{Kinds: []pb.EntityKind{1}})
	for err == nil {
		_, err = s.Recv()
	}
	if err.Error() != "EOF" {
		t.Error(err)
	}
}

func TestAStreamGivesASnapshotAndThenTheChangesInOrder(t *testing.T) {
	changes := make(chan []workload.Change)
	var asked workload.Selector
	b := &backend{watch: func(ctx context.Context, sel workload.Selector) seqOf[[]workload.Change] {
		asked = sel
		return func(yield func([]workload.Change) bool) {
			for {
				select {
				case batch := <-changes:
					if !yield(batch) {
						return
					}
				case <-ctx.Done():
					return
				}
			}
		}
	}}
	c := start(t, b).client(t)
	want := []workload.Change{
		{Type: workload.ChangeSet, Revision: 1, Entity: workload.Entity{Kind: workload.KindContainer, Container: &workload.Container{Name: "a"}}},
		{Type: workload.ChangeBookmark, Revision: 1},
		{Type: workload.ChangeUnset, Revision: 2, Entity: workload.Entity{Kind: workload.KindContainer, Container: &workload.Container{Name: "a"}}},
		{Type: workload.ChangeResync, Revision: 3},
	}
	go func() {
		changes <- want[:2]
		changes <- want[2:]
	}()
	var got []workload.Change
	sel := workload.Selector{Kinds: []workload.Kind{workload.KindContainer}, All: true, From: 9}
	for ch, err := range c.Watch(t.Context(), sel) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, ch); len(got) == len(want) {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(sel, asked); diff != "" {
		t.Errorf("the backend was asked for (-want +got):\n%s", diff)
	}
}

func TestMoreStreamsThanAllowedAreRefused(t *testing.T) {
	b := &backend{watch: func(ctx context.Context, _ workload.Selector) seqOf[[]workload.Change] {
		return func(yield func([]workload.Change) bool) {
			yield([]workload.Change{{Type: workload.ChangeBookmark}})
			<-ctx.Done()
		}
	}}
	c := start(t, b, func(o *server.Options) { o.MaxWatchers = 1 }).client(t)
	for _, err := range c.Watch(t.Context(), workload.Selector{}) {
		if err != nil {
			t.Fatal(err)
		}
		if err := firstError(c.Watch(t.Context(), workload.Selector{})); err == nil || !strings.Contains(err.Error(), "limit") {
			t.Errorf("the second stream: %v", err)
		}
		break
	}
}

func TestTheEndOfTheServerEndsStreamsAndSaysWhy(t *testing.T) {
	b := &backend{watch: func(ctx context.Context, _ workload.Selector) seqOf[[]workload.Change] {
		return func(yield func([]workload.Change) bool) {
			yield([]workload.Change{{Type: workload.ChangeBookmark}})
			<-ctx.Done()
		}
	}}
	r := start(t, b)
	n := 0
	for _, err := range r.client(t).Watch(t.Context(), workload.Selector{}) {
		if n++; n == 1 {
			r.stop()
			continue
		}
		if !errors.Is(err, client.ErrDead) || !strings.Contains(err.Error(), "stopping") {
			t.Errorf("the stream ended with %v", err)
		}
	}
	if err := <-r.served; err != nil {
		t.Errorf("Serve gave %v", err)
	}
	if _, err := os.Stat(r.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestACallThatRunsMayEndWhenTheServerStops(t *testing.T) {
	asked, answer := make(chan struct{}), make(chan struct{})
	b := &backend{resolve: func(ctx context.Context, p server.Peer, q workload.Query) workload.Result {
		close(asked)
		<-answer
		return echo(ctx, p, q)
	}}
	r := start(t, b)
	c := r.client(t)
	got := make(chan error, 1)
	go func() {
		_, err := c.Self(context.Background())
		got <- err
	}()
	<-asked
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop()
	}()
	close(answer)
	if err := <-got; err != nil {
		t.Errorf("the call: %v", err)
	}
	<-stopped
}

func TestABackendThatIgnoresTheEndIsNotWaitedForBeyondTheGrace(t *testing.T) {
	var cut atomic.Bool
	asked := make(chan struct{})
	b := &backend{resolve: func(ctx context.Context, p server.Peer, q workload.Query) workload.Result {
		close(asked)
		<-ctx.Done() // which only the end of the connection brings about
		cut.Store(true)
		return echo(ctx, p, q)
	}}
	r := start(t, b, func(o *server.Options) { o.Grace = time.Millisecond })
	c := r.client(t)
	got := make(chan error, 1)
	go func() {
		_, err := c.Self(context.Background())
		got <- err
	}()
	<-asked
	r.stop()
	if err := <-got; err == nil || !cut.Load() {
		t.Errorf("the call: %v", err)
	}
}

func TestHealthAndReflectionAnswer(t *testing.T) {
	var ready func(bool)
	b := &backend{}
	s, err := server.New(server.Options{Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	ready = s.SetReady
	r := serve(t, s, "")
	cc := raw(t, r)
	for _, service := range []string{"", "pidigree.v1.PidigreeService"} {
		for _, want := range []healthpb.HealthCheckResponse_ServingStatus{healthpb.HealthCheckResponse_NOT_SERVING, healthpb.HealthCheckResponse_SERVING} {
			ready(want == healthpb.HealthCheckResponse_SERVING)
			resp, err := healthpb.NewHealthClient(cc).Check(t.Context(), &healthpb.HealthCheckRequest{Service: service})
			if err != nil || resp.GetStatus() != want {
				t.Errorf("%q is %v, %v, want %v", service, resp.GetStatus(), err, want)
			}
		}
	}
	stream, err := reflectionpb.NewServerReflectionClient(cc).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	err = stream.Send(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: "pidigree.v1.PidigreeService"},
	})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := stream.Recv()
	if err != nil || len(resp.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("reflection: %v, %v", resp, err)
	}
	if err := stream.CloseSend(); err != nil {
		t.Error(err)
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	if _, err := server.New(server.Options{}); err == nil {
		t.Error("a server without a backend is made")
	}
	if _, err := server.New(server.Options{Backend: &backend{}, Group: "no such group"}); err == nil || !strings.Contains(err.Error(), "groupadd") {
		t.Errorf("a group that does not exist: %v", err)
	}
}
