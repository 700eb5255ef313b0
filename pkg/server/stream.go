// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pidigree/pidigree/internal/wire"
)

// chunkSize is a quarter of the 4 MiB that a gRPC client takes by default: one
// entity more, which the budgets of the collectors bound, still fits.
const chunkSize = 1 << 20

// chunks gathers entities and sends them in messages below the limit.
type chunks struct {
	stream grpc.ServerStream
	b      []byte
	n      int // entities in b
	each   int // bytes of one, as it was in the last message
}

// messageRoom is what a message may have without growing: growing one costs as much again.
const messageRoom = chunkSize + chunkSize/8

// expect makes room for n more entities, as large as the last ones.
func (c *chunks) expect(n int) {
	if c.b == nil {
		c.b = make([]byte, 0, min(n*(c.each+c.each/8), messageRoom))
	}
}

// add takes what append adds to a message, and sends what was there before if
// both would be too large together.
func (c *chunks) add(appended []byte) error {
	before := len(c.b)
	c.b = appended
	c.n++
	if before == 0 || len(c.b) <= chunkSize {
		return nil
	}
	tail := append(make([]byte, 0, messageRoom), c.b[before:]...)
	c.b, c.n = c.b[:before], c.n-1
	err := c.flush()
	c.b, c.n = tail, 1
	return err
}

// flush sends what is there. gRPC keeps the bytes until they are written, so
// the next message gets new ones.
func (c *chunks) flush() error {
	if len(c.b) == 0 {
		return nil
	}
	msg := wire.NewBytes(c.b)
	if c.n > 0 {
		c.each = len(c.b) / c.n
	}
	c.b, c.n = nil, 0
	return c.stream.SendMsg(msg)
}

func (s *Server) list(ctx context.Context, req *wire.Bytes, out *chunks) error {
	sel, err := wire.DecodeSelector(req)
	if err != nil {
		return err
	}
	for e := range s.opt.Backend.List(ctx, sel) {
		s.auth.redactProcess(peerOf(ctx), e.Process)
		if err := out.add(wire.AppendEntity(out.b, e)); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err // the list may have been cut short
	}
	return out.flush()
}

func (s *Server) streamEntities(ctx context.Context, req *wire.Bytes, out *chunks) error {
	sel, err := wire.DecodeSelector(req)
	if err != nil {
		return err
	}
	if s.watchers.Add(1) > int64(s.opt.MaxWatchers) {
		s.watchers.Add(-1)
		return status.Errorf(codes.ResourceExhausted, "%d streams are open, which is the limit", s.opt.MaxWatchers)
	}
	defer s.leaveStream()
	watchCtx, cancel := s.untilStop(ctx)
	defer cancel()
	for batch := range s.opt.Backend.Watch(watchCtx, sel) {
		shared := s.shared()
		out.expect(len(batch))
		for i := range batch {
			if err := out.add(shared.append(out.b, &batch[i])); err != nil {
				return err
			}
		}
		if err := out.flush(); err != nil {
			return err
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case watchCtx.Err() != nil:
		return status.Error(codes.Unavailable, "the agent is stopping")
	default:
		return status.Error(codes.Unavailable, "the stream broke: resume it from the last revision")
	}
}

// shared gives where changes are encoded once for all streams, nil while there is
// but one.
func (s *Server) shared() *encodings {
	if s.watchers.Load() < 2 {
		return nil
	}
	if e := s.encoded.Load(); e != nil {
		return e
	}
	s.encoded.CompareAndSwap(nil, new(encodings))
	return s.encoded.Load() // nil again where all others have just left
}

// leaveStream counts a stream out; the last but one takes what they shared with it.
func (s *Server) leaveStream() {
	if s.watchers.Add(-1) < 2 {
		s.encoded.Store(nil)
	}
}

// untilStop gives a context that also ends when the server stops.
func (s *Server) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-s.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); <-ended }
}
