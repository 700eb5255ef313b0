// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

// rude is a peer that speaks HTTP/2 by hand.
type rude struct {
	net.Conn
	*http2.Framer
}

func dial(t *testing.T, r *running) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// beRude connects and begins a call of Resolve.
func beRude(t *testing.T, r *running) rude {
	t.Helper()
	conn := dial(t, r)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	p := rude{conn, http2.NewFramer(conn, conn)}
	if err := p.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", "/pidigree.v1.PidigreeService/Resolve"}, {":authority", "x"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}); err != nil {
		t.Fatal(err)
	}
	return p
}

// grpcStatus reads until the call's trailers.
func (p rude) grpcStatus(t *testing.T) (code, message string) {
	t.Helper()
	dec := hpack.NewDecoder(4096, func(h hpack.HeaderField) {
		switch h.Name {
		case "grpc-status":
			code = h.Value
		case "grpc-message":
			message = h.Value
		}
	})
	for code == "" {
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := f.(*http2.HeadersFrame); ok {
			if _, err := dec.Write(h.HeaderBlockFragment()); err != nil {
				t.Fatal(err)
			}
		}
	}
	return code, message
}

// prefix is what stands before a gRPC message: not compressed, its length.
func prefix(n uint32) []byte { return binary.BigEndian.AppendUint32([]byte{0}, n) }

// stillServed fails if others have to suffer.
func stillServed(t *testing.T, r *running) {
	t.Helper()
	if _, err := r.client(t).Self(t.Context()); err != nil {
		t.Errorf("another client: %v", err)
	}
}

func TestARequestOfAGibibyteIsRefusedAtItsFirstBytes(t *testing.T) {
	r := start(t, &backend{})
	p := beRude(t, r)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := p.WriteData(1, false, append(prefix(1<<30), "some of it"...)); err != nil {
		t.Fatal(err)
	}
	code, message := p.grpcStatus(t)
	runtime.ReadMemStats(&after)
	if code != "8" || !strings.Contains(message, "larger than max") {
		t.Errorf("status %s %q, want 8, RESOURCE_EXHAUSTED", code, message)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 8<<20 {
		t.Errorf("%d bytes were allocated for it", grown)
	}
	stillServed(t, r)
}

func TestAPeerThatStopsInTheMiddleDelaysNobody(t *testing.T) {
	for name, rest := range map[string]func(rude) error{
		"after the headers":   func(rude) error { return nil },
		"in a message":        func(p rude) error { return p.WriteData(1, false, append(prefix(1<<20), "half"...)) },
		"in a frame":          func(p rude) error { _, err := p.Write([]byte{0, 0x40, 0, 0, 0, 0, 0, 0, 1, 'x'}); return err },
		"in a frame's header": func(p rude) error { _, err := p.Write([]byte{0, 0x40}); return err },
	} {
		t.Run(name, func(t *testing.T) {
			r := start(t, &backend{}, func(o *server.Options) { o.Grace = time.Millisecond })
			p := beRude(t, r)
			if err := rest(p); err != nil {
				t.Fatal(err)
			}
			stillServed(t, r)
			r.stop() // returns although the peer still holds its half
			if err := <-r.served; err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAPeerThatSpeaksNoGRPCIsDisconnected(t *testing.T) {
	r := start(t, &backend{}, func(o *server.Options) { o.HandshakeTimeout = 50 * time.Millisecond })
	for name, said := range map[string]string{
		"nothing":            "",
		"HTTP/1":             "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"half a preface":     http2.ClientPreface[:10],
		"noise":              strings.Repeat("\xff\x00\x80", 1000),
		"a preface of a lie": http2.ClientPreface + "\xff\xff\xff\x00\x00\x00\x00\x00\x00",
	} {
		conn := dial(t, r)
		_, _ = io.WriteString(conn, said) // the server may have closed already
		if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, net.ErrClosed) && !strings.Contains(err.Error(), "reset") {
			t.Errorf("%s: the connection did not end: %v", name, err)
		}
	}
	stillServed(t, r)
}

func TestConnectionsOfOneProcessAreBounded(t *testing.T) {
	r := start(t, &backend{}, func(o *server.Options) { o.MaxPeerConnections = 2 })
	first, second := r.client(t), r.client(t)
	third, err := tryClient(r.socket)
	if err != nil {
		t.Fatal(err) // the kernel lets everybody connect
	}
	defer third.Close()
	if _, err := third.Self(t.Context()); !errors.Is(err, client.ErrDead) {
		t.Errorf("the third connection: %v", err)
	}
	for _, c := range []*client.Client{first, second} {
		if _, err := c.Self(t.Context()); err != nil {
			t.Errorf("one of the first: %v", err)
		}
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error { _, err := third.Self(t.Context()); return err })
}

func TestAReaderThatIsStuckDelaysOnlyItself(t *testing.T) {
	stuck := make(chan struct{})
	sent := 0
	b := &backend{watch: func(ctx context.Context, _ workload.Selector) seqOf[[]workload.Change] {
		return func(yield func([]workload.Change) bool) {
			c := &workload.Container{Name: strings.Repeat("x", 32<<10)}
			batch := []workload.Change{{Type: workload.ChangeSet, Entity: workload.Entity{Kind: workload.KindContainer, Container: c}}}
			for ctx.Err() == nil {
				// The client's window holds 256 KiB, which are 8 batches.
				if sent++; sent == 5 {
					close(stuck)
				}
				if !yield(batch) {
					return
				}
			}
		}
	}}
	r := start(t, b)
	c := r.client(t)
	for _, err := range c.Watch(t.Context(), workload.Selector{}) {
		if err != nil {
			t.Fatal(err)
		}
		<-stuck // reads no further
		stillServed(t, r)
		if _, err := c.Self(t.Context()); err != nil { // not even on the same connection
			t.Error(err)
		}
		break
	}
	r.stop()
	if sent > 100 {
		t.Errorf("%d batches went to a reader that does not read", sent)
	}
}

func TestManyClientsAtOnceAreAllAnswered(t *testing.T) {
	r := start(t, &backend{resolve: realistic()})
	errs := make(chan error)
	const n = 50
	for i := range n {
		go func() {
			errs <- func() error {
				c, err := tryClient(r.socket)
				if err != nil {
					return err
				}
				defer c.Close()
				for j := range 20 {
					pid := workload.PID(1 + (i*20+j)%1000)
					got, err := c.Resolve(context.Background(), workload.Query{PID: pid})
					if err != nil {
						return err
					}
					if got[0].Answer.Process.Key.PID != pid {
						return fmt.Errorf("asked for %d, got %v", pid, got[0].Answer.Process.Key)
					}
				}
				return nil
			}()
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}
