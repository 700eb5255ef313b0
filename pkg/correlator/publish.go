// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// kernelSource names the correlator's own layer of a container: what the kernel
// said, and what was made of it.
const kernelSource = "kernel"

func (m *machine) dirtyProc(p *proc) {
	if !p.dirty {
		p.dirty = true
		m.dirtyProcs = append(m.dirtyProcs, p)
	}
}

func (m *machine) dirtyContainer(c *container) {
	if !c.dirty {
		c.dirty = true
		m.dirtyConts = append(m.dirtyConts, c)
	}
}

// flush turns what changed in this step into store changes: containers first,
// so that no process points to one that a reader cannot find.
func (m *machine) flush() {
	for _, c := range m.dirtyConts {
		c.dirty = false
		m.publishContainer(c)
		m.pods.memberChanged(c)
		m.tasks.memberChanged(c)
	}
	m.dirtyConts = m.dirtyConts[:0]
	m.pods.flush()
	m.tasks.flush()
	m.flushUnits()
	for _, p := range m.dirtyProcs {
		p.dirty = false
		m.out.changes = append(m.out.changes, store.Change{Process: m.process(p)})
	}
	clear(m.dirtyProcs)
	m.dirtyProcs = m.dirtyProcs[:0]
}

// hidden reports whether it is an engine's in a container, and in which one is not
// known (yet): it would look like one that runs on the host.
func (c *container) hidden() bool { return c.key.Nested() != "" && c.parent == nil }

// publishLayer passes a source's description on.
func (m *machine) publishLayer(c *container, i int) {
	if c.hidden() {
		return
	}
	l := *c.layers[i] // a shallow copy: its parts stay as the source made them
	l.Sources = []workload.Provenance{{Source: m.cfg.sources[i].name, At: m.now}}
	m.out.changes = append(m.out.changes, store.Change{Container: &store.ContainerChange{ID: c.key, Source: m.cfg.sources[i].name, Layer: &l}})
	m.pods.note(c)
	m.tasks.note(c)
}

func (m *machine) forgetContainer(c *container) {
	m.out.changes = append(m.out.changes, store.Change{Container: &store.ContainerChange{ID: c.key, Forget: true}})
}

// publishContainer writes the correlator's own layer. A name that nobody has
// described and that is not the answer for anybody is not an entity.
func (m *machine) publishContainer(c *container) {
	if c.forgotten || c.hidden() || len(c.layers) == 0 && !c.claimedOnly && c.run == nil {
		return
	}
	l := &workload.Container{
		Aliases:  slices.Clone(c.ids),
		Missing:  c.missing(m),
		Timeline: slices.Clone(c.timeline),
	}
	if c.parent != nil {
		l.Parent = c.parent.key
	}
	if c.claimedOnly && c.run == nil {
		l.ID, l.Confidence, l.State = c.key, workload.Claimed, workload.StateRunning
	}
	if c.run != nil {
		m.publishRun(c, l)
	}
	ch := &store.ContainerChange{ID: c.key, Source: kernelSource, Layer: l, Gone: c.goneAt, Back: c.back && c.goneAt == 0}
	m.out.changes = append(m.out.changes, store.Change{Container: ch})
}

func (m *machine) publishRun(c *container, l *workload.Container) {
	r := c.run
	l.Confidence = workload.Confirmed
	l.Run = &workload.Run{
		Init: r.init.kp.Key, Cgroups: r.paths, Registers: true,
		Started: r.firstExec, Exit: r.exit,
	}
	if l.Run.Started == 0 {
		l.Run.Started = r.init.started
	}
	l.State = workload.StateRunning
	if r.firstExec == 0 && r.init.execAt != 0 && r.exit == nil {
		l.State = workload.StateCreated
	}
	if r.exit != nil {
		x := *r.exit
		x.OOM = x.OOM || r.oom
		l.State, l.Exit = workload.StateExited, &x
	}
}

// process makes the store's view of a process.
func (m *machine) process(p *proc) *workload.Process {
	w := &workload.Process{
		Key: p.kp.Key, Parent: p.kp.Parent, Comm: p.kp.Comm.String(), MountNS: p.kp.MountNS,
		Status: p.status, Confidence: p.conf, Entry: p.entry, ForeignNamespaces: p.foreign,
		Reason: p.reason, Service: p.service, Started: p.started, Exec: p.execAt, Exit: p.exit,
	}
	if p.set != nil {
		w.Cgroups = p.set.ids
	}
	if n := min(int(p.kp.PIDNSLevel), len(p.kp.PIDNS)); n > 0 {
		w.PIDNamespaces = slices.Clone(p.kp.PIDNS[:n])
	}
	switch {
	case p.status == workload.StatusContainer && p.member != nil:
		w.Container = p.member.key
	case p.status == workload.StatusContainer && p.set != nil:
		if c := m.verdict(p.set).candidate; c != nil {
			w.Container = c.key
		}
	}
	if w.Status == "" {
		w.Status, w.Reason = workload.StatusUnknown, "not judged yet"
	}
	if w.Status != workload.StatusHost {
		w.Service = nil
	}
	if w.Status != workload.StatusContainer {
		w.Entry = workload.EntryNone
	}
	return w
}

// expireEvery is how often tombstones are dropped.
const expireEvery = workload.KTime(time.Second)
