// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"slices"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// setLayer stores what a source says and registers what it may register.
func (m *machine) setLayer(c *container, i int, l *workload.Container) { m.putLayer(c, i, l, true) }

// putLayer does it; where the layer is not the whole of what the source can say
// (an event's), the source is still to be asked.
func (m *machine) putLayer(c *container, i int, l *workload.Container, whole bool) {
	c = m.ownerOf(c, i, l)
	m.alias(c, l.ID)
	for _, id := range l.Aliases {
		if o := m.conts[id]; o != nil && o != c && m.sameContainer(o, c) {
			c = m.merge(o, c)
		}
		m.alias(c, id)
	}
	if a := &c.asks[i]; a.stage == askNone && whole {
		a.stage, a.answered = askIdle, true
	}
	first := c.layers[i] == nil
	other := first || !sameRun(c.layers[i].Run, l.Run)
	if whole || other {
		c.initAt[i] = m.now
	}
	if other {
		c.asks[i].namedAt, c.asks[i].confirmAt = m.now, 0
	}
	c.layers[i] = l
	c.layerAt[i] = m.now
	c.gone[i] = false
	c.fromClaim = false
	if c.goneAt != 0 {
		c.goneAt = 0
	}
	if first {
		c.mark(workload.MarkLayer, m.cfg.sources[i].name, m.now)
	}
	m.dirtyContainer(c)
	m.publishLayer(c, i)
	m.checkKnown(c)
	if l.Run != nil && l.Run.Registers && l.Run.Init.PID != 0 && (l.State != workload.StateExited || m.hasEnded(l.Run.Init)) {
		m.register(c, i, l.Run)
	}
	if c.run == nil && l.State == workload.StateRunning && m.conts[c.key] == c {
		m.at(m.now+startGrace, func() { m.askForInit(c, i) })
	}
}

// hasEnded reports whether a key with a start is that of a process whose end is not
// long ago: a short container's answer may come after it.
func (m *machine) hasEnded(k workload.ProcessKey) bool {
	p := m.lookup(k.PID)
	return k.Start != 0 && p != nil && p.exit != nil && p.kp.Key.Same(k)
}

// sameRun reports whether two descriptions name the same init, as far as they say.
func sameRun(a, b *workload.Run) bool {
	return a == b || a != nil && b != nil && a.Init == b.Init
}

// ownerOf gives the container that a description is of. Ids of 64 hex digits are
// the same everywhere. An id that a person chose is not: the same namespace and
// name in another engine is another container, unless the source's own id is
// known for it (the shim's arguments tell which containerd it serves), or the
// init is the same process.
func (m *machine) ownerOf(c *container, i int, l *workload.Container) *container {
	if c.key.OfUser() != l.ID.OfUser() || c.key.Nested() != l.ID.Nested() { // such a word is of its own container, whatever the id
		if o := m.find(l.ID); o != nil {
			return o
		}
		return m.newContainer(l.ID)
	}
	if o := m.find(l.ID); o != nil {
		if o != c && m.sameContainer(c, o) && (c.bare() || l.ID.Everywhere() && slices.ContainsFunc(c.ids, func(id workload.ContainerID) bool { return id.ID == l.ID.ID })) {
			return m.merge(o, c)
		}
		return o
	}
	if c.bare() || c.layers[i] != nil && c.layers[i].ID == l.ID || l.ID.Everywhere() && c.has(l.ID.ID) {
		return c
	}
	if r := c.run; r != nil && l.Run != nil && r.exit == nil && r.init.exit == nil && l.Run.Init.PID == r.init.kp.Key.PID {
		return c
	}
	return m.newContainer(l.ID)
}

// bare reports whether nothing but a name or a guess is known of it.
func (c *container) bare() bool { return len(c.layers) == 0 && c.run == nil }

// sameContainer guards a merge by ids alone: two with different live inits are two.
func (m *machine) sameContainer(a, b *container) bool {
	if a.run == nil || b.run == nil || a.run.exit != nil || b.run.exit != nil {
		return true
	}
	return a.run.init == b.run.init
}

// hint applies what a source told by itself.
func (m *machine) hint(e evHint) {
	h := e.hint
	if h.Pod != nil {
		m.pods.hint(e.source, h.Kind, h.Pod)
		return
	}
	if h.Task != nil {
		m.tasks.hint(e.source, h.Kind, h.Task)
		return
	}
	if h.Unit != "" {
		m.unitHint(h.Unit)
		return
	}
	c := m.find(h.ID)
	if h.Kind == collectors.HintDeleted {
		if c != nil {
			m.deleted(c, e.source)
		}
		return
	}
	if c == nil {
		c = m.newContainer(h.ID)
		c.fromClaim = true // nobody has described it yet
	}
	m.alias(c, h.ID)
	c.wanted = m.now + wantedFor
	late := c.gone[e.source] // containerd may tell of a task's end after it has told that its container is no more
	if h.Layer != nil {
		m.hintLayer(c, e.source, h.Layer)
		if c.forgotten {
			c = m.find(h.ID)
		}
	}
	if c == nil {
		return
	}
	started := h.Kind == collectors.HintStarted && m.cfg.sources[e.source].nested != "" // nobody else tells its init
	if (h.Kind == collectors.HintChanged && h.Layer == nil || started || late) && c.asks[e.source].stage >= askIdle {
		m.askOnceMore(c, e.source)
	}
	m.askAll(c)
	m.maybeDrop(c)
}

// hintLayer merges what an event said over what the source said before. A source
// that has nothing but files says all that it can with the hint.
func (m *machine) hintLayer(c *container, i int, l *workload.Container) {
	if m.cfg.sources[i].files {
		a := &c.asks[i]
		a.answered = true
		a.stage = askDone
		m.setLayer(c, i, l)
		return
	}
	if l.State != "" {
		c.asks[i].event, c.asks[i].eventAt = l, m.now
	}
	m.putLayer(c, i, overlay(c.layers[i], l), false)
}

// overlay puts the fields that n says over those of o.
func overlay(o, n *workload.Container) *workload.Container {
	if o == nil {
		return n
	}
	c := o.Clone()
	if n.Name != "" {
		c.Name = n.Name
	}
	if n.Image.Name != "" {
		c.Image = n.Image
	}
	if n.Labels != nil {
		c.Labels = n.Labels
	}
	if n.State != "" {
		c.State, c.Health = n.State, n.Health // who says that it runs, and nothing of a check, knows of none
	}
	if n.Exit != nil {
		c.Exit = n.Exit
	}
	if n.Run != nil {
		c.Run = n.Run
		if o.Run != nil && o.Run.Init.PID == n.Run.Init.PID && n.Run.ClaimedPaths == nil { // an event tells the PID alone
			c.Run = n.Run.Clone()
			c.Run.ClaimedPaths = o.Run.ClaimedPaths
		}
	}
	if n.Bundle != "" {
		c.Bundle = n.Bundle
	}
	if !n.Finished.IsZero() {
		c.Finished = n.Finished
	}
	if !n.Started.IsZero() {
		c.Started = n.Started
	}
	return c
}

// deleted: a source has removed the container. It is gone once every source
// that described it has.
func (m *machine) deleted(c *container, i int) {
	if c.layers[i] == nil {
		return
	}
	c.gone[i] = true
	c.asks[i].deletedAt, c.asks[i].since = m.now, false
	if !c.deletedByAll() {
		return
	}
	if c.run != nil && c.run.exit == nil && c.run.init != nil && c.run.init.exit == nil {
		return // its init lives: what was deleted is a record of it
	}
	m.containerGone(c)
}

// deletedByAll reports whether every source that described it has deleted it.
func (c *container) deletedByAll() bool {
	for i := range c.layers {
		if !c.gone[i] {
			return false
		}
	}
	return len(c.layers) > 0
}

// listed is one entry of a source's list; it counts as an answer of the source.
func (m *machine) listed(i int, l *workload.Container) {
	c := m.find(l.ID)
	if c == nil {
		c = m.newContainer(l.ID)
	}
	a := &c.asks[i]
	a.answered, a.listed = true, true
	if !a.busy {
		a.stage = askDone
	}
	m.setLayer(c, i, l)
	if c = m.find(l.ID); c != nil {
		m.askAll(c)
		m.checkComplete(c)
	}
}

// listEnd ends a complete list: what the source described before the list began
// and did not list is deleted there. Whatever it lists although it has told, since
// the list began, that it is deleted, is asked about: the list may have it from before.
// So is what it could not speak of, where the list does not say all, and whose state
// an event has changed since the list began.
func (m *machine) listEnd(e evListEnd) {
	for _, c := range slices.Clone(m.all) {
		a := &c.asks[e.source]
		if a.listed && a.deletedAt != 0 && a.deletedAt < e.began && !c.back && c.goneAt == 0 {
			c.back = true
			m.dirtyContainer(c)
		}
		overtaken := a.listed && c.layers[e.source] != nil && a.overtaken(c.layers[e.source], e.began)
		a.listed = false
		relisted := a.deletedAt >= e.began && a.deletedAt != 0 && c.layers[e.source] != nil && !c.gone[e.source]
		owed := !e.complete && a.silent && a.stage == askDone && c.goneAt == 0
		if relisted || owed || overtaken {
			m.askOnceMore(c, e.source)
		}
	}
	before := m.partial[e.source]
	m.partial[e.source] = !e.complete
	switch {
	case !e.complete || !m.saysSoon(e.source):
	case e.absent: // whenever its container came
		m.denyUnlisted(e.source, m.now+1)
	default:
		m.denyUnlisted(e.source, e.began)
	}
	m.hasListed[e.source], m.absent[e.source] = true, e.absent
	m.askUnasked(e.source)
	if !e.complete {
		return
	}
	if before {
		for _, p := range sortedProcs(m.procs) {
			if p.lost && p.member == nil {
				m.settle(p)
			}
		}
	}
	for _, c := range slices.Clone(m.all) {
		if c.layers[e.source] != nil && !c.gone[e.source] && c.layerAt[e.source] < e.began {
			m.deleted(c, e.source)
		}
	}
}
