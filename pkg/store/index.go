// SPDX-License-Identifier: Apache-2.0

package store

import (
	"hash/maphash"
	"sync/atomic"
)

// index is a hash map with one writer and any number of readers that take no
// lock and allocate nothing. sync.Map would do, but boxes the key of each Load.
//
// A bucket is a list of entries; the writer pushes at its head, swaps values in
// place and unlinks. A reader on an unlinked entry still finds the rest of its
// list. Growing builds a new table beside the old one, which is then left
// alone. The hash is seeded for each index, since ids are hostile.
type index[K comparable, V any] struct {
	seed  maphash.Seed
	table atomic.Pointer[buckets[K, V]]
	n     int // writer only
}

type buckets[K comparable, V any] struct {
	mask uint64
	head []atomic.Pointer[entry[K, V]]
}

type entry[K comparable, V any] struct {
	key   K
	value atomic.Pointer[V]
	next  atomic.Pointer[entry[K, V]]
}

const minBuckets = 64

func newIndex[K comparable, V any]() *index[K, V] {
	x := &index[K, V]{seed: maphash.MakeSeed()}
	x.table.Store(newBuckets[K, V](minBuckets))
	return x
}

func newBuckets[K comparable, V any](n int) *buckets[K, V] {
	return &buckets[K, V]{mask: uint64(n - 1), head: make([]atomic.Pointer[entry[K, V]], n)}
}

// get is safe beside the writer.
func (x *index[K, V]) get(k K) *V {
	if e := x.find(k); e != nil {
		return e.value.Load()
	}
	return nil
}

func (x *index[K, V]) find(k K) *entry[K, V] {
	t := x.table.Load()
	for e := t.head[maphash.Comparable(x.seed, k)&t.mask].Load(); e != nil; e = e.next.Load() {
		if e.key == k {
			return e
		}
	}
	return nil
}

// put sets or replaces a value. For the writer.
func (x *index[K, V]) put(k K, v *V) {
	if e := x.find(k); e != nil {
		e.value.Store(v)
		return
	}
	if t := x.table.Load(); x.n >= len(t.head) {
		x.resize(2 * len(t.head))
	}
	x.push(x.table.Load(), k, v)
	x.n++
}

func (x *index[K, V]) push(t *buckets[K, V], k K, v *V) {
	e := &entry[K, V]{key: k}
	e.value.Store(v)
	h := &t.head[maphash.Comparable(x.seed, k)&t.mask]
	e.next.Store(h.Load())
	h.Store(e)
}

// del removes a key. For the writer.
func (x *index[K, V]) del(k K) {
	t := x.table.Load()
	at := &t.head[maphash.Comparable(x.seed, k)&t.mask]
	for e := at.Load(); e != nil; at, e = &e.next, e.next.Load() {
		if e.key != k {
			continue
		}
		at.Store(e.next.Load())
		x.n--
		if x.n < len(t.head)/8 && len(t.head) > minBuckets {
			x.resize(len(t.head) / 2)
		}
		return
	}
}

func (x *index[K, V]) resize(n int) {
	old, t := x.table.Load(), newBuckets[K, V](n)
	for i := range old.head {
		for e := old.head[i].Load(); e != nil; e = e.next.Load() {
			x.push(t, e.key, e.value.Load())
		}
	}
	x.table.Store(t)
}
