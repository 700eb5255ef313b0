// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"io"
	"iter"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

// List gives the entities of the selector's kinds. It ends after an error; what
// came before the error is then not the whole.
func (c *Client) List(ctx context.Context, sel workload.Selector) iter.Seq2[workload.Entity, error] {
	return func(yield func(workload.Entity, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := c.rpc.List(ctx, &pb.ListRequest{Kinds: wire.EncodeKinds(sel.Kinds), All: sel.All})
		if err != nil {
			yield(workload.Entity{}, c.callError(ctx, "list", err))
			return
		}
		for m, err := range received(s) {
			if err != nil {
				yield(workload.Entity{}, c.callError(ctx, "list", err))
				return
			}
			for _, e := range m.GetEntities() {
				if !yield(wire.DecodeEntity(e), nil) {
					return
				}
			}
		}
	}
}

// Watch gives a snapshot, ended by a bookmark, and then the changes, until ctx
// ends, the caller breaks off, or an error has been given. Afterwards another
// Watch with Selector.From set to the last revision goes on where this one
// ended; a gap is said by a resync.
//
// A caller that reads slowly delays only itself and finds for each entity at
// most one pending change.
func (c *Client) Watch(ctx context.Context, sel workload.Selector) iter.Seq2[workload.Change, error] {
	return func(yield func(workload.Change, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s, err := c.rpc.StreamEntities(ctx, &pb.StreamEntitiesRequest{
			Kinds: wire.EncodeKinds(sel.Kinds), All: sel.All, ResumeFrom: uint64(sel.From),
		})
		if err != nil {
			yield(workload.Change{}, c.callError(ctx, "watch", err))
			return
		}
		for m, err := range received(s) {
			if err != nil {
				yield(workload.Change{}, c.callError(ctx, "watch", err))
				return
			}
			for _, ch := range m.GetChanges() {
				if !yield(wire.DecodeChange(ch), nil) {
					return
				}
			}
		}
	}
}

// received gives the messages of a stream until it ends; its error is not io.EOF.
func received[M any](s interface{ Recv() (*M, error) }) iter.Seq2[*M, error] {
	return func(yield func(*M, error) bool) {
		for {
			m, err := s.Recv()
			if errors.Is(err, io.EOF) {
				return
			}
			if !yield(m, err) || err != nil {
				return
			}
		}
	}
}
