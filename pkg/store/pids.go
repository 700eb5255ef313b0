// SPDX-License-Identifier: Apache-2.0

package store

import (
	"sync/atomic"

	"github.com/pidigree/pidigree/pkg/workload"
)

// node is one version of one process. It fits a cache line: a lookup costs the
// misses of page, node, cell and view, and does not touch the Process.
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

func (n *node) key() workload.ProcessKey {
	return workload.ProcessKey{PID: n.pid, Ticks: n.ticks, Inode: n.inode, Start: n.start}
}

// certain reports whether keys that are Same can be no other process: both
// have an inode, or both a start that was not rounded.
func certain(a, b workload.ProcessKey) bool {
	return a.Inode != 0 && b.Inode != 0 || !a.Ticks && !b.Ticks
}

// pidTable leads from a PID to its newest node: PIDs are at most MaxPID, so two
// levels do, without hashing. A page lives while one of its slots is in use.
type pidTable struct {
	pages [pidPages]atomic.Pointer[pidPage]
	used  [pidPages]uint16 // writer only
}

const (
	pidPageSize = 256
	pidPages    = int(workload.MaxPID)/pidPageSize + 1
)

type pidPage [pidPageSize]atomic.Pointer[node]

// head gives the newest node of a PID, nil for none. Safe beside the writer.
func (t *pidTable) head(pid workload.PID) *node {
	if pid > workload.MaxPID {
		return nil
	}
	page := t.pages[pid/pidPageSize].Load()
	if page == nil {
		return nil
	}
	return page[pid%pidPageSize].Load()
}

// setHead swaps the newest node of a valid PID; nil empties the slot. For the writer.
func (t *pidTable) setHead(pid workload.PID, n *node) {
	i := pid / pidPageSize
	page := t.pages[i].Load()
	if page == nil {
		if n == nil {
			return
		}
		page = &pidPage{}
		t.pages[i].Store(page)
	}
	was := page[pid%pidPageSize].Swap(n)
	switch {
	case was == nil && n != nil:
		t.used[i]++
	case was != nil && n == nil:
		if t.used[i]--; t.used[i] == 0 {
			t.pages[i].Store(nil)
		}
	}
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
