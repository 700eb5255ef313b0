// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"slices"

	"github.com/pidigree/pidigree/pkg/workload"
)

// merge folds b into a: they turned out to be one container.
func (m *machine) merge(a, b *container) *container {
	if a == b {
		return a
	}
	if b.registered() && !a.registered() || b.registered() == a.registered() && b.serial < a.serial {
		a, b = b, a
	}
	b.forgotten = true
	m.leaveGroups(b)
	m.all = slices.DeleteFunc(m.all, func(c *container) bool { return c == b })
	for _, id := range b.ids {
		m.unalias(b, id)
		m.alias(a, id)
	}
	m.mergeState(a, b)
	for _, g := range m.claimsOf(b) {
		if g.candidate == b {
			g.candidate = a
		}
		if g.guessed == b {
			g.guessed = a
			a.guesses = append(a.guesses, g)
		}
	}
	if b.run != nil && a.run == nil {
		a.run = b.run
		a.run.init.runs = a
	}
	for _, g := range m.cgroups {
		if g.reg == b {
			g.reg = a
		}
	}
	for _, c := range m.all {
		if c.parent == b {
			c.parent = a
			m.dirtyContainer(c)
		}
	}
	for inum, c := range m.byPIDNS {
		if c == b {
			m.byPIDNS[inum] = a
		}
	}
	m.mergeProcs(a, b)
	m.forgetContainer(b)
	m.gen++
	m.dirtyContainer(a)
	return a
}

func (m *machine) mergeState(a, b *container) {
	for i, l := range b.layers {
		if a.layers[i] == nil {
			a.layers[i], a.layerAt[i], a.initAt[i] = l, b.layerAt[i], b.initAt[i]
			a.asks[i].namedAt = b.asks[i].namedAt
			m.publishLayer(a, i)
		}
	}
	for i := range b.asks {
		if b.asks[i].stage > a.asks[i].stage && !a.asks[i].busy {
			a.asks[i].stage = b.asks[i].stage
			a.asks[i].answered = a.asks[i].answered || b.asks[i].answered
			if b.asks[i].busy || b.asks[i].waits {
				a.asks[i].stage = askFirst
				m.send(a, i)
			}
		}
	}
	for i, w := range b.waiting {
		if a.waiting == nil {
			a.waiting = map[int]*workload.Run{}
		}
		if a.waiting[i] == nil {
			a.waiting[i] = w
		}
	}
	a.claimedBy += b.claimedBy
	a.nested += b.nested
	for _, k := range b.timeline {
		a.mark(k.What, k.Source, k.At)
	}
}

func (m *machine) mergeProcs(a, b *container) {
	move := func(p *proc) {
		if p.member == b {
			p.member = a
			m.dirtyProc(p)
		}
	}
	for _, p := range sortedProcs(m.procs) {
		move(p)
	}
	for _, p := range m.ghosts.queue {
		move(p)
	}
}
