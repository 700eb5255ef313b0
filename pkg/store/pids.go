// SPDX-License-Identifier: Apache-2.0

package store

import (
	"math/bits"
	"math/rand/v2"
	"sync/atomic"

	"github.com/pidigree/pidigree/pkg/workload"
)

// node is one version of one process. It fits a cache line: a lookup costs the
// misses of slot, node, cell and view, and does not touch the Process.
//
// All but older is immutable. older leads to the previous processes with the
// same PID, all of them tombstones, newest first; the writer unlinks them in place.
type node struct {
	pid    workload.PID
	ticks  bool
	status statusCode
	conf   confCode
	flags  uint8
	inode  uint64
	start  uint64
	proc   *workload.Process
	older  atomic.Pointer[node]
	cell   *cell // nil for a process that is in no container
	item   *procItem
	rev    workload.Revision
}

const (
	flagExited = 1 << iota
	flagService
	flagDropped
	flagRestored // by Restore
)

// statusCode and confCode are what Process says, in a byte.
type (
	statusCode uint8
	confCode   uint8
)

const (
	codeUnknown statusCode = iota
	codeContainer
	codeHost
	codeConflict
)

const (
	confNone confCode = iota
	confConfirmed
	confClaimed
)

func encodeStatus(s workload.Status) statusCode {
	switch s {
	case workload.StatusContainer:
		return codeContainer
	case workload.StatusHost:
		return codeHost
	case workload.StatusConflict:
		return codeConflict
	default: // StatusUnknown, and words that nobody knows
		return codeUnknown
	}
}

func encodeConfidence(c workload.Confidence) confCode {
	switch c {
	case workload.Confirmed:
		return confConfirmed
	case workload.Claimed:
		return confClaimed
	default:
		return confNone
	}
}

func (c confCode) confidence() workload.Confidence {
	switch c {
	case confConfirmed:
		return workload.Confirmed
	case confClaimed:
		return workload.Claimed
	default:
		return workload.ConfidenceNone
	}
}

func newNode(p *workload.Process, item *procItem, c *cell, rev workload.Revision) *node {
	n := &node{
		pid: p.Key.PID, ticks: p.Key.Ticks, inode: p.Key.Inode, start: p.Key.Start,
		status: encodeStatus(p.Status), conf: encodeConfidence(p.Confidence),
		proc: p, item: item, cell: c, rev: rev,
	}
	if p.Exit != nil {
		n.flags |= flagExited
	}
	if p.Service != nil {
		n.flags |= flagService
	}
	return n
}

func (n *node) exited() bool { return n.flags&flagExited != 0 }

// told is like view.told.
func (n *node) told() workload.Revision {
	switch {
	case n.flags&flagDropped != 0:
		return workload.Revision(n.start)
	case !n.exited():
		return 0
	}
	return n.rev
}

// droppedNode is what is left of a tombstone that leaves the store at rev. It is
// in no index, so its start is free to say when watchers were told of the end.
func droppedNode(n *node, rev workload.Revision) *node {
	return &node{rev: rev, proc: n.proc, start: uint64(n.told()), flags: flagDropped | n.flags&flagRestored}
}

func (n *node) key() workload.ProcessKey {
	return workload.ProcessKey{PID: n.pid, Ticks: n.ticks, Inode: n.inode, Start: n.start}
}

// certain reports whether keys that are Same can be no other process: both
// have an inode, or both a start that was not rounded.
func certain(a, b workload.ProcessKey) bool {
	return a.Inode != 0 && b.Inode != 0 || !a.Ticks && !b.Ticks
}

// pidTable leads from a PID to its newest node: open addressing with linear
// probing, one writer, readers without locks. (An array by PID is as fast only
// while the PIDs in use lie together: spread over the four million that there
// are, its pages cost 37 MB and a TLB miss for each lookup.)
//
// A slot whose PID has no node any more is dead: probing goes on past it, and
// another PID may take it over. A reader can therefore find a node of another
// PID in a slot, and takes it for an empty one, which it was in between. When
// too few slots are free the writer builds a new table and leaves the old one alone.
type pidTable struct {
	slots atomic.Pointer[pidSlots]
	seed  uint64 // odd and secret, so that nobody can choose PIDs that collide
	live  int    // writer only: slots with a node
	used  int    // writer only: slots with a PID, dead ones included
}

type pidSlots struct {
	shift uint8 // keeps the high bits of the product
	slot  []pidSlot
}

// pidSlot is 16 bytes: four to a cache line.
type pidSlot struct {
	pid  atomic.Uint32 // 0: never used
	node atomic.Pointer[node]
}

const minPIDSlots = 1 << 10

func (t *pidTable) init() {
	t.seed = rand.Uint64() | 1
	t.slots.Store(newPIDSlots(minPIDSlots))
}

func newPIDSlots(n int) *pidSlots {
	return &pidSlots{shift: uint8(64 - bits.TrailingZeros(uint(n))), slot: make([]pidSlot, n)}
}

// find gives the slot of a PID, else where its probing ends: an unused slot.
func (t *pidSlots) find(pid workload.PID, seed uint64) *pidSlot {
	mask := uint64(len(t.slot) - 1)
	for i := uint64(pid) * seed >> t.shift; ; i++ {
		s := &t.slot[i&mask]
		if at := s.pid.Load(); at == uint32(pid) || at == 0 {
			return s
		}
	}
}

// head gives the newest node of a PID, nil for none. Safe beside the writer.
func (t *pidTable) head(pid workload.PID) *node {
	n := t.slots.Load().find(pid, t.seed).node.Load()
	if n == nil || n.pid != pid {
		return nil
	}
	return n
}

// setHead swaps the newest node of a PID; nil empties its slot. For the writer.
func (t *pidTable) setHead(pid workload.PID, n *node) {
	s := t.slots.Load().find(pid, t.seed)
	was := s.node.Load()
	switch {
	case n == nil && was == nil:
		return
	case n == nil:
		t.live--
	case was == nil:
		s = t.claim(pid)
		t.live++
	}
	s.node.Store(n)
}

// claim gives the slot for a PID without a node: its own dead one, else the
// first dead one on its way, else an unused one.
func (t *pidTable) claim(pid workload.PID) *pidSlot {
	if slots := t.slots.Load(); t.used >= len(slots.slot)*5/8 {
		t.rebuild(slots)
	}
	slots := t.slots.Load()
	s := slots.find(pid, t.seed)
	if s.pid.Load() == uint32(pid) {
		return s
	}
	mask := uint64(len(slots.slot) - 1)
	for i := uint64(pid) * t.seed >> slots.shift; ; i++ {
		s := &slots.slot[i&mask]
		at := s.pid.Load()
		if at != 0 && s.node.Load() != nil {
			continue
		}
		if at == 0 {
			t.used++
		}
		s.pid.Store(uint32(pid))
		return s
	}
}

// rebuild leaves the dead slots behind and makes less than half of the rest full.
func (t *pidTable) rebuild(old *pidSlots) {
	n := minPIDSlots
	for n < 2*(t.live+1)*6/5 {
		n *= 2
	}
	slots := newPIDSlots(n)
	for i := range old.slot {
		if head := old.slot[i].node.Load(); head != nil {
			s := slots.find(head.pid, t.seed)
			s.pid.Store(uint32(head.pid))
			s.node.Store(head)
		}
	}
	t.used = t.live
	t.slots.Store(slots)
}

// insert puts n below the nodes of its PID that started after it and reports
// the node that it now stands on.
func (t *pidTable) insert(n *node) (below *node, atHead bool) {
	var above *node
	below = t.head(n.pid)
	for below != nil && startedAfter(below.key(), n.key()) {
		above, below = below, below.older.Load()
	}
	n.older.Store(below)
	t.link(n.pid, above, n)
	return below, above == nil
}

// swap puts n in the place of old, or takes old out where n is nil.
func (t *pidTable) swap(old, n *node) {
	var above *node
	for x := t.head(old.pid); x != old; x = x.older.Load() {
		above = x
	}
	next := old.older.Load()
	if n != nil {
		n.older.Store(next)
		next = n
	}
	t.link(old.pid, above, next)
}

func (t *pidTable) link(pid workload.PID, above, n *node) {
	if above == nil {
		t.setHead(pid, n)
		return
	}
	above.older.Store(n)
}

// startedAfter compares two processes of one PID. What cannot be compared
// counts as started before what arrives later.
func startedAfter(a, b workload.ProcessKey) bool {
	if a.Start != 0 && b.Start != 0 {
		if a.Ticks || b.Ticks {
			return a.Start/workload.TickNS > b.Start/workload.TickNS
		}
		return a.Start > b.Start
	}
	return a.Inode != 0 && b.Inode != 0 && a.Inode > b.Inode // pidfs inodes only grow
}

// match finds the node that a key means. Where it fits several because somebody
// rounded the start, none is meant. Safe beside the writer.
func (t *pidTable) match(k workload.ProcessKey) (found *node, ambiguous bool) {
	for n := t.head(k.PID); n != nil; n = n.older.Load() {
		nk := n.key()
		if !nk.Same(k) {
			continue
		}
		if certain(nk, k) {
			return n, false
		}
		if n.restored() {
			continue // the process asked about may be a living one of the same tick
		}
		if found != nil {
			ambiguous = true
			continue
		}
		found = n
	}
	if ambiguous {
		return nil, true
	}
	return found, false
}
