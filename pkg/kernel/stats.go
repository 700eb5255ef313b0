// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"sync/atomic"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Stats is what a source has done so far. Counters only grow.
//
// Of a Tracer, whatever the kernel has to report of a type is in exactly one of
// them: what the kernel skipped (Programs, which may count more than that), and
// what was Seen; and each of these was Delivered, Filtered or Lost, or is still
// in a ring (or is one of the few that Malformed and Stolen count).
type Stats struct {
	// Delivered counts the events given to Run's function, by type.
	Delivered map[Type]uint64
	// Seen counts the runs of each program, without those of a second one that
	// came to an event which the first had seen.
	Seen map[Type]uint64
	// Filtered counts those of them that are no event: threads, processes outside
	// of our PID namespace, and the second exit of a process (Duplicates).
	Filtered map[Type]uint64
	// Lost counts the events without room in a ring, by type and then CPU.
	Lost map[Type][]uint64
	// Programs says for each BPF program whether it works. Empty for a Poller.
	Programs []ProgramStats
	// Rings is empty for a Poller.
	Rings []RingStats
	// Snapshots counts those completed, Fallbacks those of them that were read
	// from /proc because the task iterator would not work.
	Snapshots, Fallbacks uint64
	// Malformed counts records that could not be decoded, Duplicates the second
	// exit event of a process (kernels before 6.17).
	Malformed, Duplicates uint64
	// Stolen counts events that were put into a ring and did not come out of it
	// here: somebody else reads it.
	Stolen uint64
	// Checks counts the looks at whether the programs still work.
	Checks uint64
	// LostAt is when a loss was last noticed, 0 for never.
	LostAt workload.KTime
	// Hierarchies are the cgroup hierarchies that process events cover.
	Hierarchies []Hierarchy
	// StrayHierarchies counts cgroup events of a hierarchy that is not among
	// those, mounted since: a new Tracer would cover it.
	StrayHierarchies uint64
	// Scans counts a Poller's scans, ScanTime is how long the last one took.
	Scans    uint64
	ScanTime time.Duration
}

// ProgramStats is one BPF program.
type ProgramStats struct {
	Name string
	// Tracepoint is what it is attached to.
	Tracepoint string
	Type       Type
	Attached   bool
	// Reason says why it is not attached; Disabled that it is so by configuration.
	Reason   string
	Disabled bool
	// Detached counts how often it was found detached or silent, BrokenAt is when
	// that was last.
	Detached uint64
	BrokenAt workload.KTime
	// Skipped counts the times that the kernel did not run it, because it was
	// running on that CPU already (recursion_misses, 5.12 and later). Where it is
	// attached twice, from 7.0 on, an event is missed only if both were skipped:
	// this is then the smaller count of the two, which is no less than the events missed.
	Skipped uint64
	// Runs and Runtime stay 0 unless somebody enabled BPF statistics. Where it is
	// attached twice the time is that of both.
	Runs    uint64
	Runtime time.Duration
}

// RingStats is one ring buffer.
type RingStats struct {
	Name   string
	Bytes  int
	Unread int
}

// LostTotal adds up the events without room, the skipped program runs and the
// events that somebody else took out of a ring.
func (s Stats) LostTotal() (n uint64) {
	n = s.Stolen
	for _, cpus := range s.Lost {
		n += sum(cpus)
	}
	for _, p := range s.Programs {
		n += p.Skipped
	}
	return n
}

func sum(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}

// counters are the ones that user space keeps. Any goroutine may use them.
type counters struct {
	delivered             [Lost + 1]atomic.Uint64
	snapshots, fallbacks  atomic.Uint64
	malformed, duplicates atomic.Uint64
	stray, stolen, checks atomic.Uint64
	lostAt                atomic.Uint64
}

// deliver counts and hands over.
func (c *counters) deliver(fn func(Event), e *Event) {
	c.delivered[e.Type].Add(1)
	fn(*e)
}

func (c *counters) fill(s *Stats) {
	s.Delivered = make(map[Type]uint64)
	for t := range c.delivered {
		if n := c.delivered[t].Load(); n > 0 {
			s.Delivered[Type(t)] = n
		}
	}
	s.Snapshots, s.Fallbacks = c.snapshots.Load(), c.fallbacks.Load()
	s.Malformed, s.Duplicates = c.malformed.Load(), c.duplicates.Load()
	s.StrayHierarchies, s.Stolen, s.LostAt = c.stray.Load(), c.stolen.Load(), workload.KTime(c.lostAt.Load())
	s.Checks = c.checks.Load()
	s.Filtered = map[Type]uint64{Exit: s.Duplicates}
}
