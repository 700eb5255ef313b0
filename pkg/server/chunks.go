// SPDX-License-Identifier: Apache-2.0

package server

import (
	"google.golang.org/protobuf/proto"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

// chunkSize is a quarter of the 4 MiB that a gRPC client takes by default: one
// entity more, which the budgets of the collectors bound, still fits.
const chunkSize = 1 << 20

// chunks gathers messages and sends them in pieces below the message limit.
type chunks[T proto.Message] struct {
	send  func([]T) error
	items []T
	bytes int
}

// add sends what is there before it would become too large.
func (c *chunks[T]) add(m T) error {
	n := proto.Size(m)
	if len(c.items) > 0 && c.bytes+n > chunkSize {
		if err := c.flush(); err != nil {
			return err
		}
	}
	c.items, c.bytes = append(c.items, m), c.bytes+n
	return nil
}

func (c *chunks[T]) flush() error {
	if len(c.items) == 0 {
		return nil
	}
	err := c.send(c.items)
	// Send has marshalled the messages: the slice can be used again.
	clear(c.items)
	c.items, c.bytes = c.items[:0], 0
	return err
}

// addBatch sends one batch of changes at once.
func addBatch(c *chunks[*pb.Change], batch []workload.Change) error {
	for _, ch := range batch {
		if err := c.add(wire.EncodeChange(ch)); err != nil {
			return err
		}
	}
	return c.flush()
}
