// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"math/bits"
	"slices"

	"github.com/pidigree/pidigree/pkg/workload"
)

// numbered is a list in which each entity is once, by its key.
type numbered[T any, K comparable] struct {
	list  []*T
	keys  []K
	sent  int       // of the list, in earlier parts of the reply
	last  reference // the shortest way: to the entity given last
	byKey map[K]reference
	byPtr map[*T]reference // a short way: answers of one store share entities
}

// few is up to how many entities looking through the list beats a map.
const few = 8

// of gives the reference of an entity and puts it into the list where it is
// new. One that changed between two answers of a part is there in its later
// form: the part as a whole is then true at the later instant. One that changed
// after it was sent is there again. An entity without a key is never taken for
// another one.
func (n *numbered[T, K]) of(p *T, key K) reference {
	if n.last != 0 && n.list[n.last-1] == p {
		return n.last
	}
	at := n.known(p, key)
	if at == 0 {
		at = n.add(p, key)
	}
	if n.byPtr != nil {
		n.byPtr[p] = at
	}
	n.list[at-1], n.last = p, at
	return at
}

// known gives the place of an entity that may have p put into it.
func (n *numbered[T, K]) known(p *T, key K) reference {
	var none K
	if n.byPtr != nil {
		if at := n.byPtr[p]; n.fits(at, p) {
			return at
		}
	}
	if key == none {
		return n.same(p)
	}
	if at := n.find(key); n.fits(at, p) {
		return at
	}
	return 0
}

func (n *numbered[T, K]) fits(at reference, p *T) bool {
	return int(at) > n.sent || at != 0 && n.list[at-1] == p
}

// same looks for an entity without a key.
func (n *numbered[T, K]) same(p *T) reference {
	if n.byPtr == nil {
		for i, q := range n.list {
			if p == q {
				return reference(i + 1)
			}
		}
	}
	return 0
}

// find gives the newest form of the entity with a key.
func (n *numbered[T, K]) find(key K) reference {
	var none K
	if key == none {
		return 0
	}
	if n.byKey != nil {
		return n.byKey[key]
	}
	for i, k := range slices.Backward(n.keys) {
		if k == key {
			return reference(i + 1)
		}
	}
	return 0
}

func (n *numbered[T, K]) add(p *T, key K) reference {
	n.list, n.keys = append(n.list, p), append(n.keys, key)
	if n.byKey != nil {
		n.index(len(n.list) - 1)
	} else if len(n.list) > few {
		n.byKey, n.byPtr = make(map[K]reference, 4*few), make(map[*T]reference, 4*few)
		for i := range n.list {
			n.index(i)
		}
	}
	return reference(len(n.list))
}

func (n *numbered[T, K]) index(i int) {
	var none K
	if n.keys[i] != none {
		n.byKey[n.keys[i]] = reference(i + 1)
	}
	n.byPtr[n.list[i]] = reference(i + 1)
}

// next gives the entities that were not sent yet, and takes them for sent.
func (n *numbered[T, K]) next() []*T {
	list := n.list[n.sent:]
	n.sent = len(n.list)
	return list
}

// processes is the same for processes, of which there are as many as answers:
// a table by PID with open addressing, at most half full.
type processes struct {
	list  []*workload.Process
	slots []reference
	sent  int
	last  reference
}

func (n *processes) of(p *workload.Process, total int) reference {
	if n.last != 0 && n.list[n.last-1] == p {
		return n.last
	}
	if n.list == nil {
		n.list, n.slots = make([]*workload.Process, 0, total), make([]reference, 2<<bits.Len(uint(total)))
	}
	n.last = n.place(p)
	n.list[n.last-1] = p
	return n.last
}

func (n *processes) place(p *workload.Process) reference {
	none := p.Key == (workload.ProcessKey{})
	mask := uint32(len(n.slots) - 1)
	for i := uint32(p.Key.PID) * 0x9e3779b1 >> 7 & mask; ; i = (i + 1) & mask {
		at := n.slots[i]
		switch {
		case at == 0:
		case n.list[at-1] == p:
			return at
		case none || n.list[at-1].Key != p.Key:
			continue
		case int(at) > n.sent:
			return at
		}
		n.list = append(n.list, p)
		n.slots[i] = reference(len(n.list))
		return n.slots[i]
	}
}

func (n *processes) next() []*workload.Process {
	list := n.list[n.sent:]
	n.sent = len(n.list)
	return list
}
