// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

// asker is a peer on one of the two ways of ResolveStream.
type asker interface {
	Send(*pb.ResolveStreamRequest) error
	Recv() (*pb.ResolveStreamResponse, error)
	CloseSend() error
}

// bothWays runs a test over gRPC and over frames.
func bothWays(t *testing.T, b func() *backend, test func(*testing.T, *running, asker), change ...func(*server.Options)) {
	t.Run("gRPC", func(t *testing.T) {
		r := start(t, b(), change...)
		stream, err := pb.NewPidigreeServiceClient(raw(t, r)).ResolveStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		test(t, r, stream)
	})
	t.Run("frames", func(t *testing.T) {
		r := start(t, b(), change...)
		test(t, r, framed(t, r))
	})
}

// frames is a peer that uses the generated code without gRPC.
type frames struct{ net.Conn }

func framed(t *testing.T, r *running) frames {
	t.Helper()
	f := frames{dial(t, r)}
	if _, err := io.WriteString(f, wire.FramesPreface); err != nil {
		t.Fatal(err)
	}
	hello := make([]byte, len(wire.FramesPreface))
	if _, err := io.ReadFull(f, hello); err != nil || string(hello) != wire.FramesPreface {
		t.Fatalf("%q, %v", hello, err)
	}
	return f
}

func (f frames) Send(m *pb.ResolveStreamRequest) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	b = append(make([]byte, wire.FrameHeader), b...)
	wire.PutFrameLength(b)
	_, err = f.Write(b)
	return err
}

func (f frames) Recv() (*pb.ResolveStreamResponse, error) {
	header := make([]byte, wire.FrameHeader)
	if _, err := io.ReadFull(f, header); err != nil {
		return nil, err
	}
	b := make([]byte, wire.FrameLength(header))
	if _, err := io.ReadFull(f, b); err != nil {
		return nil, err
	}
	var m pb.ResolveStreamResponse
	return &m, proto.Unmarshal(b, &m)
}

func (f frames) CloseSend() error { return f.Conn.(*net.UnixConn).CloseWrite() }

func pidQueries(pids ...uint32) (qs []*pb.Query) {
	for _, pid := range pids {
		qs = append(qs, &pb.Query{Subject: &pb.Query_Pid{Pid: pid}})
	}
	return qs
}

// exchange sends a request and gives its reply, which is one message.
func exchange(t *testing.T, a asker, req *pb.ResolveStreamRequest) *pb.ResolveStreamResponse {
	t.Helper()
	if err := a.Send(req); err != nil {
		t.Fatal(err)
	}
	m, err := a.Recv()
	if err != nil || m.GetId() != req.GetId() || !m.GetLast() {
		t.Fatalf("request %d got %v, %v", req.GetId(), m, err)
	}
	return m
}

func TestRequestsOfAStreamAreAnsweredInOrderAndInPartsThatGoOnFromEachOther(t *testing.T) {
	all := make([]uint32, 1000)
	for i := range all {
		all[i] = uint32(i + 1)
	}
	known := func() *backend { return &backend{resolve: realistic()} }
	bothWays(t, known, func(t *testing.T, _ *running, a asker) {
		sent := make(chan error, 1)
		go func() { // all of them before the first is answered
			var err error
			for id := range uint64(5) {
				err = errors.Join(err, a.Send(&pb.ResolveStreamRequest{Id: id, Queries: pidQueries(all...)}))
			}
			sent <- errors.Join(err, a.CloseSend())
		}()
		for id := range uint64(5) {
			parts := 0
			var whole pb.ResolveResponse
			for last := false; !last; parts++ {
				m, err := a.Recv()
				if err != nil || m.GetId() != id || m.GetError() != nil {
					t.Fatalf("request %d: %v, %v", id, m, err)
				}
				proto.Merge(&whole, m.GetPart())
				last = m.GetLast()
			}
			if r, c, p := len(whole.GetResults()), len(whole.GetContainers()), len(whole.GetProcesses()); parts < 2 || r != 1000 || c != 100 || p != 1000 {
				t.Fatalf("%d parts, %d results, %d containers, %d processes", parts, r, c, p)
			}
			for i, r := range whole.GetResults() {
				p := whole.GetProcesses()[r.GetAnswer().GetProcess()]
				c := whole.GetContainers()[r.GetAnswer().GetContainers()[0]]
				if p.GetKey().GetPid() != all[i] || c.GetId().GetId() != realisticContainer(int(all[i])%100).ID.ID {
					t.Fatalf("result %d is about process %d in %s", i, p.GetKey().GetPid(), c.GetName())
				}
			}
		}
		if err := <-sent; err != nil {
			t.Error(err)
		}
		if _, err := a.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("after the last reply: %v", err)
		}
	})
}

func TestWhatIsWrongWithOneRequestDoesNotEndTheStream(t *testing.T) {
	var log bytes.Buffer
	picky := func() *backend {
		return &backend{resolve: func(ctx context.Context, p server.Peer, q workload.Query) workload.Result {
			switch q.PID {
			case 7:
				panic("with secrets")
			case 8:
				<-ctx.Done()
			case 9:
				return workload.Result{Answer: workload.Answer{Reason: strings.Repeat("x", 300_000)}}
			}
			return echo(ctx, p, q)
		}}
	}
	bothWays(t, picky, func(t *testing.T, _ *running, a asker) {
		for i, c := range []struct {
			req  *pb.ResolveStreamRequest
			want codes.Code
		}{
			{&pb.ResolveStreamRequest{}, codes.OK},
			{&pb.ResolveStreamRequest{Queries: pidQueries(slices.Repeat([]uint32{1}, 11)...)}, codes.InvalidArgument},
			{&pb.ResolveStreamRequest{Queries: pidQueries(1, 7)}, codes.Internal},
			{&pb.ResolveStreamRequest{Queries: pidQueries(8), Timeout: durationpb.New(time.Millisecond)}, codes.DeadlineExceeded},
			{&pb.ResolveStreamRequest{Queries: pidQueries(1), Timeout: durationpb.New(-1)}, codes.InvalidArgument},
			{&pb.ResolveStreamRequest{Queries: pidQueries(9)}, codes.ResourceExhausted},
			{&pb.ResolveStreamRequest{Queries: pidQueries(1, 2)}, codes.OK},
		} {
			c.req.Id = uint64(i)
			m := exchange(t, a, c.req)
			if got := codes.Code(m.GetError().GetCode()); got != c.want || strings.Contains(m.GetError().GetMessage(), "secrets") {
				t.Errorf("request %d: %v, want %s", i, m.GetError(), c.want)
			}
		}
		waits := pidQueries(1, 0, 3)
		waits[0].Wait = durationpb.New(time.Second)
		got := exchange(t, a, &pb.ResolveStreamRequest{Id: 100, Queries: waits}).GetPart().GetResults()
		for i, want := range []codes.Code{codes.InvalidArgument, codes.InvalidArgument, codes.OK} {
			if codes.Code(got[i].GetError().GetCode()) != want {
				t.Errorf("question %d: %v, want %s", i, got[i].GetError(), want)
			}
		}
		if !strings.Contains(got[0].GetError().GetMessage(), "call Resolve") {
			t.Errorf("a question that waits: %v", got[0].GetError())
		}
	}, func(o *server.Options) {
		o.MaxQueries, o.MaxReply = 10, 200_000
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	if n := strings.Count(log.String(), "with secrets"); n != 2 {
		t.Errorf("the log says of %d panics, want 2: %s", n, &log)
	}
}

func TestAnIdleStreamDoesNotHoldUpTheEnd(t *testing.T) {
	plain := func() *backend { return &backend{} }
	bothWays(t, plain, func(t *testing.T, r *running, a asker) {
		exchange(t, a, &pb.ResolveStreamRequest{Queries: pidQueries(1)})
		r.stop() // with a minute of grace, beyond which nobody waits for this test
		if err := <-r.served; err != nil {
			t.Error(err)
		}
		if _, err := a.Recv(); !errors.Is(err, io.EOF) && status.Code(err) != codes.Unavailable {
			t.Errorf("the stream ended with %v", err)
		}
	})
}

func TestAPeerThatLeavesCancelsWhatItAskedForAndOneThatSaidAllDoesNot(t *testing.T) {
	type end struct {
		pid workload.PID
		err error
	}
	asked, ended := make(chan workload.PID), make(chan end, 8) // who fails need not take them all
	answer := make(chan struct{})
	slow := func() *backend {
		return &backend{resolve: func(ctx context.Context, p server.Peer, q workload.Query) workload.Result {
			asked <- q.PID
			select {
			case <-ctx.Done():
				ended <- end{q.PID, ctx.Err()}
			case <-answer:
			}
			return echo(ctx, p, q)
		}}
	}
	// leaves asks about PID 2 and is gone, until that was seen.
	leaves := func(t *testing.T, r *running) {
		t.Helper()
		f := framed(t, r)
		if err := f.Send(&pb.ResolveStreamRequest{Queries: pidQueries(2)}); err != nil {
			t.Fatal(err)
		}
		<-asked
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if e := <-ended; e.pid != 2 || !errors.Is(e.err, context.Canceled) {
			t.Fatalf("question %d ended with %v", e.pid, e.err)
		}
	}
	bothWays(t, slow, func(t *testing.T, r *running, a asker) {
		if err := errors.Join(a.Send(&pb.ResolveStreamRequest{Queries: pidQueries(1)}), a.CloseSend()); err != nil {
			t.Fatal(err)
		}
		<-asked
		for range 3 { // each is seen by a look that is due after one at the peer that said all
			leaves(t, r)
		}
		select {
		case e := <-ended:
			t.Fatalf("question %d ended with %v", e.pid, e.err)
		case answer <- struct{}{}:
		}
		if m, err := a.Recv(); err != nil || len(m.GetPart().GetResults()) != 1 {
			t.Errorf("%v, %v", m, err)
		}
		if _, err := a.Recv(); !errors.Is(err, io.EOF) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

func TestAFrameThatIsTooLargeOrNeverComesCostsNothing(t *testing.T) {
	r := start(t, &backend{}, func(o *server.Options) { o.Grace = time.Millisecond })
	huge, half, lie := framed(t, r), framed(t, r), framed(t, r)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := huge.Write([]byte("\xff\xff\xff\xffsome of it")); err != nil {
		t.Fatal(err)
	}
	if m, err := huge.Recv(); err != nil || codes.Code(m.GetError().GetCode()) != codes.ResourceExhausted {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := huge.Recv(); err == nil {
		t.Error("the connection goes on after a request that cannot be skipped")
	}
	for conn, said := range map[frames]string{half: "\x00", lie: "\x00\x3f\xff\xffsome of it"} {
		if _, err := io.WriteString(conn, said); err != nil {
			t.Fatal(err)
		}
	}
	stillServed(t, r)
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 2<<20 {
		t.Errorf("%d bytes were allocated", grown)
	}
	r.stop() // although two of them still hold their half
}

func TestNoiseInAFrameIsRefusedAndTheNextOneAnswered(t *testing.T) {
	f := framed(t, start(t, &backend{}))
	if _, err := f.Write([]byte("\x00\x00\x00\x03\xff\xff\xff")); err != nil {
		t.Fatal(err)
	}
	if m, err := f.Recv(); err != nil || codes.Code(m.GetError().GetCode()) != codes.InvalidArgument {
		t.Errorf("%v, %v", m, err)
	}
	exchange(t, f, &pb.ResolveStreamRequest{Id: 2, Queries: pidQueries(1)})
}
