// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pidigree/pidigree/internal/wire"
)

const (
	// writeTimeout is how long a peer may leave its reply unread; gRPC's
	// keepalive gives it about the same.
	writeTimeout = time.Minute
	// keptBuffer is the largest buffer that an idle connection keeps.
	keptBuffer = 64 << 10
	// growth is how much of a request is waited for at a time: a peer that
	// announces more than it sends gets no more memory than it has filled.
	growth = 64 << 10
)

// frames is a link without gRPC. See ResolveStream for its form.
type frames struct {
	conn *net.UnixConn
	raw  syscall.RawConn
	in   *bufio.Reader
	max  int
	body []byte
	out  []byte
}

// serveFrames takes a connection over after its preface.
func (s *Server) serveFrames(c *peerConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		_ = c.Close() // it is closed already
		return
	}
	f := &frames{conn: c.UnixConn, raw: raw, in: bufio.NewReaderSize(c.UnixConn, 1<<10), max: s.opt.MaxMessage}
	ss := s.newSession(context.Background(), c.peer, f, func() { _ = c.Close() }) // whoever reads or writes sees it
	if ss == nil {
		_ = c.Close()
		return
	}
	ss.hungUp = f.hungUp
	go func() {
		defer s.sessions.leave(ss)
		defer ss.cut()
		if err := f.write([]byte(wire.FramesPreface)); err != nil {
			return
		}
		_ = s.converse(ss) // a link that broke has nobody to tell
	}()
}

// receive implements link.
func (f *frames) receive() (*wire.Bytes, error) {
	header, err := f.in.Peek(wire.FrameHeader)
	if err != nil {
		return nil, err
	}
	n := int(wire.FrameLength(header))
	if n > f.max {
		err := status.Errorf(codes.ResourceExhausted, "the request is larger than max (%d bytes)", f.max)
		return nil, errors.Join(err, f.send(func(b []byte) []byte { return wire.NewStreamReply(0, 0).AppendError(b, err) }))
	}
	if _, err := f.in.Discard(wire.FrameHeader); err != nil {
		return nil, err
	}
	if err := f.fill(n); err != nil {
		return nil, err
	}
	msg := wire.ReceivedBytes(f.body)
	if cap(f.body) > keptBuffer {
		f.body = nil
	}
	return msg, nil
}

// fill reads n bytes into body.
func (f *frames) fill(n int) error {
	f.body = f.body[:0]
	for len(f.body) < n {
		have := len(f.body)
		more := min(n-have, growth)
		if cap(f.body) < have+more {
			f.body = append(make([]byte, 0, max(2*have, have+more)), f.body...)
		}
		f.body = f.body[:have+more]
		if _, err := io.ReadFull(f.in, f.body[have:]); err != nil {
			return err
		}
	}
	return nil
}

// send implements link.
func (f *frames) send(fill func([]byte) []byte) error {
	var header [wire.FrameHeader]byte
	f.out = fill(append(f.out[:0], header[:]...))
	wire.PutFrameLength(f.out)
	err := f.write(f.out)
	if cap(f.out) > 4*keptBuffer {
		f.out = nil
	}
	return err
}

// write sets a deadline, which has its price, only where the peer has not yet
// read what it got before.
func (f *frames) write(b []byte) error {
	var n int
	var sent error
	if err := f.raw.Write(func(fd uintptr) bool {
		n, sent = syscall.Write(int(fd), b) // the descriptor does not block
		return true
	}); err != nil {
		return err
	}
	switch {
	case errors.Is(sent, syscall.EAGAIN), errors.Is(sent, syscall.EINTR):
		n = 0
	case sent != nil:
		return fmt.Errorf("send: %w", sent)
	}
	if n == len(b) {
		return nil
	}
	if err := f.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	if _, err := f.conn.Write(b[n:]); err != nil {
		return err
	}
	return f.conn.SetWriteDeadline(time.Time{})
}

// hungUp reports whether the peer has closed its side for good. One that only
// says that it has no more questions still gets its answers.
func (f *frames) hungUp() bool {
	gone := true // also where the connection is closed already
	_ = f.raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP is always reported
		_, err := unix.Poll(p, 0)
		gone = err == nil && p[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	})
	return gone
}

// grpcLink is a link of ResolveStream as a gRPC method.
type grpcLink struct {
	stream interface {
		SendMsg(m any) error
		RecvMsg(m any) error
	}
}

func (l grpcLink) receive() (*wire.Bytes, error) {
	var msg wire.Bytes
	if err := l.stream.RecvMsg(&msg); err != nil {
		return nil, err
	}
	return &msg, nil
}

// send gives gRPC new bytes each time: it keeps them until they are written.
func (l grpcLink) send(fill func([]byte) []byte) error {
	return l.stream.SendMsg(wire.NewBytes(fill(nil)))
}
