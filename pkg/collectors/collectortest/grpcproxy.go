// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
)

// NewContainerdProxy stands in front of a containerd socket, or of any other
// gRPC service; DropEvents swallows the messages of every method Subscribe and
// of CRI's GetContainerEvents.
func NewContainerdProxy(tb testing.TB, upstream string) *Proxy {
	tb.Helper()
	p := newProxy(tb)
	up, err := grpc.NewClient("unix://"+upstream,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(rawCodec{}), grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20)))
	if err != nil {
		tb.Fatal(err)
	}
	fw := &forwarder{p: p, up: up}
	servers := make(chan *grpc.Server, 64)
	p.serve = func(l net.Listener) error {
		// A grpc.Server serves one listener's life: Listen after Refuse makes another.
		srv := grpc.NewServer(grpc.ForceServerCodecV2(rawCodec{}), grpc.UnknownServiceHandler(fw.forward), grpc.MaxRecvMsgSize(64<<20))
		servers <- srv
		return srv.Serve(l)
	}
	tb.Cleanup(func() {
		p.close()
		p.done.Wait()
		for len(servers) > 0 {
			(<-servers).Stop()
		}
		_ = up.Close()
	})
	p.start(tb)
	return p
}

// forwarder passes calls on without knowing their messages.
type forwarder struct {
	p  *Proxy
	up *grpc.ClientConn
}

func (f *forwarder) forward(_ any, down grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(down)
	ctx, cancel := context.WithCancel(down.Context())
	defer cancel()
	f.p.arrive(ctx, method)
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		md = md.Copy()
		for _, k := range []string{":authority", "content-type", "user-agent"} {
			md.Delete(k)
		}
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	up, err := f.up.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	go f.pumpUp(down, up) // ends with the call
	err = f.pumpDown(method, up, down)
	down.SetTrailer(up.Trailer())
	return err
}

// pumpUp ends when the client has said all, or the call is over; what went
// wrong is heard in the other direction.
func (f *forwarder) pumpUp(down grpc.ServerStream, up grpc.ClientStream) {
	for {
		var m frame
		if down.RecvMsg(&m) != nil {
			_ = up.CloseSend()
			return
		}
		f.p.record(string(m.data))
		if up.SendMsg(&m) != nil {
			return
		}
	}
}

func (f *forwarder) pumpDown(method string, up grpc.ClientStream, down grpc.ServerStream) error {
	if strings.HasSuffix(method, "/Subscribe") || strings.HasSuffix(method, "/GetContainerEvents") {
		return f.pumpEvents(up, down)
	}
	for {
		var m frame
		if err := up.RecvMsg(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if err := down.SendMsg(&m); err != nil {
			return err
		}
	}
}

// together is how close to each other events come that EventsReversed reverses.
const together = 200 * time.Millisecond

// pumpEvents passes events on as the proxy is told to.
func (f *forwarder) pumpEvents(up grpc.ClientStream, down grpc.ServerStream) error {
	events, ended := make(chan frame), make(chan error, 1)
	go func() { // ends with the call
		for {
			var m frame
			if err := up.RecvMsg(&m); err != nil {
				ended <- err
				return
			}
			select {
			case events <- m:
			case <-up.Context().Done():
			}
		}
	}()
	var held []frame
	due := time.NewTimer(time.Hour)
	defer due.Stop()
	for {
		var send []frame
		select {
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		case <-due.C:
			slices.Reverse(held)
			send, held = held, nil
		case m := <-events:
			switch f.p.eventFault() {
			case EventsDropped:
			case EventsTwice:
				send = []frame{m, m}
			case EventsReversed:
				if held = append(held, m); len(held) == 1 {
					due.Reset(together)
				}
			default:
				send, held = append(held, m), nil
			}
		}
		for i := range send {
			if err := down.SendMsg(&send[i]); err != nil {
				return err
			}
		}
	}
}

// frame is a message as it is on the wire.
type frame struct{ data []byte }

// rawCodec leaves messages as they are. It calls itself proto, for that name is
// in the content type of both ends.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("marshal %T: not a frame", v)
	}
	return mem.BufferSlice{mem.SliceBuffer(m.data)}, nil
}

func (rawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("unmarshal %T: not a frame", v)
	}
	m.data = data.Materialize()
	return nil
}
