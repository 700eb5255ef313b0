// SPDX-License-Identifier: Apache-2.0

package store

import (
	"container/heap"

	"github.com/pidigree/pidigree/pkg/workload"
)

// tomb is the place of a tombstone in its queue. since is 0 while no instant is
// known; the next Expire sets it.
type tomb struct {
	since workload.KTime
	seq   uint64
	pos   int
	in    *tombs
	proc  *procItem
	cont  *contItem
	group interface{ expire() } // a pod's, a task's or an image's
	svc   *serviceItem
}

// tombs orders tombstones by when they went, and those of the same instant by
// arrival. For the writer.
type tombs struct {
	q   []*tomb
	seq *uint64 // shared by queues that a tombstone may move between
	max int
}

func (t *tombs) add(d *tomb) *tomb {
	if d.seq == 0 {
		*t.seq++
		d.seq = *t.seq
	}
	d.in = t
	heap.Push((*tombHeap)(t), d)
	return d
}

func (t *tombs) remove(d *tomb) { heap.Remove((*tombHeap)(t), d.pos) }

func (t *tombs) move(d *tomb, since workload.KTime) {
	d.since = since
	heap.Fix((*tombHeap)(t), d.pos)
}

// excess gives the oldest where there are too many, else nil.
func (t *tombs) excess() *tomb {
	if len(t.q) <= t.max {
		return nil
	}
	return t.q[0]
}

// due gives the oldest where it went at or before the instant, else nil. Those
// of unknown age are taken to have gone at now.
func (t *tombs) due(before, now workload.KTime) *tomb {
	for len(t.q) > 0 {
		switch d := t.q[0]; {
		case d.since == 0 && now > 0:
			t.move(d, now)
		case d.since <= before:
			return d
		default:
			return nil
		}
	}
	return nil
}

// tombHeap is tombs for container/heap.
type tombHeap tombs

func (h *tombHeap) Len() int { return len(h.q) }

func (h *tombHeap) Less(i, j int) bool {
	a, b := h.q[i], h.q[j]
	if a.since != b.since {
		return a.since < b.since
	}
	return a.seq < b.seq
}

func (h *tombHeap) Swap(i, j int) {
	h.q[i], h.q[j] = h.q[j], h.q[i]
	h.q[i].pos, h.q[j].pos = i, j
}

func (h *tombHeap) Push(v any) {
	d := v.(*tomb)
	d.pos = len(h.q)
	h.q = append(h.q, d)
}

func (h *tombHeap) Pop() any {
	last := len(h.q) - 1
	d := h.q[last]
	h.q[last] = nil
	h.q = h.q[:last]
	return d
}
