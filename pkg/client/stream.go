// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"io"
	"iter"

	"google.golang.org/grpc"

	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

// List gives the entities of the selector's kinds. It ends after an error; what
// came before the error is then not the whole.
func (c *Client) List(ctx context.Context, sel workload.Selector) iter.Seq2[workload.Entity, error] {
	return stream(ctx, c, "list", wire.MethodList, sel, wire.DecodeEntities)
}

// Watch gives a snapshot, ended by a bookmark, and then the changes, until ctx
// ends, the caller breaks off, or an error has been given. Afterwards another
// Watch with Selector.From set to the last revision goes on where this one
// ended; a gap is said by a resync.
//
// A caller that reads slowly delays only itself and finds for each entity at
// most one pending change.
func (c *Client) Watch(ctx context.Context, sel workload.Selector) iter.Seq2[workload.Change, error] {
	return stream(ctx, c, "watch", wire.MethodStreamEntities, sel, wire.DecodeChanges)
}

// stream makes a call with many replies and gives what they hold.
func stream[T any](
	ctx context.Context, c *Client, op, method string, sel workload.Selector, decode func(*wire.Bytes) ([]T, error),
) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		streamCtx, cancel := context.WithCancel(ctx)
		defer cancel() // frees the stream where the caller breaks off
		s, err := c.open(streamCtx, method, sel)
		for err == nil {
			var items []T
			if items, err = receive(s, decode); err != nil {
				break
			}
			for _, it := range items {
				if !yield(it, nil) {
					return
				}
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(none, c.callError(ctx, streamCtx, op, err))
		}
	}
}

func (c *Client) open(ctx context.Context, method string, sel workload.Selector) (grpc.ClientStream, error) {
	req, err := wire.EncodeSelector(sel)
	if err != nil {
		return nil, err
	}
	s, err := c.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return nil, err
	}
	// An error of SendMsg is io.EOF; what went wrong is what RecvMsg gives.
	if err := s.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return s, s.CloseSend()
}

// receive gives io.EOF at the end.
func receive[T any](s grpc.ClientStream, decode func(*wire.Bytes) ([]T, error)) ([]T, error) {
	var msg wire.Bytes
	if err := s.RecvMsg(&msg); err != nil {
		return nil, err
	}
	return decode(&msg)
}
