// SPDX-License-Identifier: Apache-2.0

package store

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// The defaults of Options.
const (
	DefaultGrace                  = 5 * time.Minute
	DefaultMaxProcessTombstones   = 20_000
	DefaultMaxContainerTombstones = 5_000
)

// Options configure a Store. The zero value works.
type Options struct {
	// Grace is how long an exited process or container stays answerable. Default DefaultGrace.
	Grace time.Duration
	// MaxProcessTombstones and MaxContainerTombstones bound how many of them are
	// kept; the oldest go first and are counted. Defaults above.
	MaxProcessTombstones   int
	MaxContainerTombstones int
	// Base is where revisions start: the first is Base+1. An agent gives
	// microseconds since 1970 here, so that a revision of an earlier agent is
	// recognised as foreign and never resumed from. Default 0.
	Base workload.Revision
}

func (o Options) withDefaults() Options {
	if o.Grace <= 0 {
		o.Grace = DefaultGrace
	}
	if o.MaxProcessTombstones <= 0 {
		o.MaxProcessTombstones = DefaultMaxProcessTombstones
	}
	if o.MaxContainerTombstones <= 0 {
		o.MaxContainerTombstones = DefaultMaxContainerTombstones
	}
	return o
}

// KernelSource is the name of the correlator's own layer. It alone sets Parent,
// Run, Confidence, Missing and Timeline.
const KernelSource = "kernel"

// Counts says what the store holds and what it had to drop.
type Counts struct {
	Containers, ContainerTombstones int
	Processes, ProcessTombstones    int
	Watchers                        int
	// DroppedTombstones went before their time because there were too many.
	DroppedTombstones uint64
	// Rejected are changes that could not be applied (no usable key).
	Rejected uint64
	// Resyncs counts streams that could not be resumed or fell too far behind.
	Resyncs uint64
}
