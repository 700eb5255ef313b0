// SPDX-License-Identifier: Apache-2.0

package server

import (
	"sync/atomic"

	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// sharedChanges is how many of the last changes are kept as they go over the
	// wire, and sharedSize how large one may be: 8 MiB at most, some 600 KiB of
	// processes.
	sharedChanges = 2048
	sharedSize    = 4 << 10
)

// encodings are the last changes as they go over the wire, so that each is
// encoded once for all who watch and not once for each. A change that is not
// there any more is encoded again. For any goroutine; nobody waits.
type encodings struct {
	slots [sharedChanges]atomic.Pointer[encoding]
}

// encoding is never changed. What the change leads to is kept alive with it: an
// equal change is the same one.
type encoding struct {
	change workload.Change
	wire   []byte
}

// append adds a change to a message. A nil receiver shares nothing.
func (e *encodings) append(b []byte, c *workload.Change) []byte {
	if e == nil || c.Type != workload.ChangeSet && c.Type != workload.ChangeUnset {
		return wire.AppendChange(b, c)
	}
	slot := &e.slots[c.Revision%sharedChanges]
	if had := slot.Load(); had != nil && had.change == *c {
		return append(b, had.wire...)
	}
	before := len(b)
	b = wire.AppendChange(b, c)
	if own := b[before:]; len(own) <= sharedSize {
		slot.Store(&encoding{change: *c, wire: append([]byte(nil), own...)})
	}
	return b
}
