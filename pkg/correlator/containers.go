// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// container is one container as the machine knows it.
type container struct {
	key    workload.ContainerID
	serial uint64
	ids    []workload.ContainerID
	// layers are what the sources say, by source.
	layers  map[int]*workload.Container
	layerAt map[int]workload.KTime
	gone    map[int]bool // the source said that it deleted it
	asks    []ask
	run     *run
	// waiting are runs that a source reported whose init has not been checked yet.
	waiting map[int]*workload.Run
	// parent is the container that this one's engine runs in; nil on the host.
	parent *container
	// nested counts the claims below it that were followed up.
	nested int
	// claimedBy counts the live cgroups whose name claims it.
	claimedBy     int
	fromClaim     bool
	wanted        workload.KTime
	claimedOnly   bool
	known         bool
	complete      bool
	timeline      []workload.Mark
	goneAt        workload.KTime
	forgotten     bool
	registerTries int
	dirty         bool
}

// run is one life of a container.
type run struct {
	init      *proc
	cgroups   []*cgroup
	paths     []workload.CgroupPath
	source    int
	at        workload.KTime
	firstExec workload.KTime
	exit      *workload.Exit
}

// ask is where the machine is with one source about one container.
type ask struct {
	stage askStage
	busy  bool
	tries int
	// answered: the source has said something about it.
	answered bool
	again    bool
	waits    bool // a timer for the next try is set
	sentAt   workload.KTime
}

type askStage uint8

const (
	askNone   askStage = iota
	askFirst           // being asked what it can say at once
	askIdle            // it has said what it could before the start
	askSecond          // being asked once more after the start
	askDone
)

// maxMarks bounds a timeline.
const maxMarks = 24

func (m *machine) newContainer(id workload.ContainerID) *container {
	m.seq++
	c := &container{key: id, serial: m.seq, layers: map[int]*workload.Container{}, layerAt: map[int]workload.KTime{}, gone: map[int]bool{}, asks: make([]ask, len(m.cfg.sources))}
	m.all = append(m.all, c)
	m.alias(c, id)
	return c
}

func (m *machine) alias(c *container, id workload.ContainerID) {
	if id.ID == "" || slices.Contains(c.ids, id) {
		return
	}
	c.ids = append(c.ids, id)
	if m.conts[id] == nil {
		m.conts[id] = c
	}
	if isLongHex(id.ID) && m.byBare[id.ID] == nil {
		m.byBare[id.ID] = c
	}
}

// isLongHex: ids of 64 random hex digits are the same container wherever they
// turn up; ids that a person chose are not.
func isLongHex(s string) bool {
	if len(s) != 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// find gives the container with an id, as far as the id alone can tell: two
// engines may have a container "c1" each, even in namespaces of one name.
func (m *machine) find(id workload.ContainerID) *container {
	if c := m.conts[id]; c != nil {
		return c
	}
	if isLongHex(id.ID) {
		return m.byBare[id.ID]
	}
	return nil
}

func (c *container) label() string {
	for _, l := range c.layers {
		if l.Name != "" && l.Name == c.name() {
			return l.Name
		}
	}
	return shortID(c.key.ID)
}

// name is the least of the layers' names, so that it does not depend on map order.
func (c *container) name() string {
	best := ""
	for _, l := range c.layers {
		if l.Name != "" && (best == "" || l.Name < best) {
			best = l.Name
		}
	}
	return best
}

func shortID(id string) string {
	if isLongHex(id) {
		return id[:12]
	}
	return id
}

// within reports whether the container runs inside another one.
func (c *container) within(o *container) bool {
	for p := c.parent; p != nil; p = p.parent {
		if p == o {
			return true
		}
	}
	return false
}

func (c *container) registered() bool { return c.run != nil && len(c.run.cgroups) > 0 }

// pending reports whether some source may still register it.
func (c *container) pending() bool {
	for i := range c.asks {
		if c.asks[i].stage == askNone || c.asks[i].stage == askFirst && c.asks[i].tries < claimTries {
			return true
		}
	}
	return len(c.waiting) > 0
}

// claimTries is after how many "not found" from the files of a low-level
// runtime a name may count as a claim that nobody will register: about a second.
const claimTries = 9

func (c *container) mark(what, source string, at workload.KTime) {
	for i := range c.timeline {
		if c.timeline[i].What == what && c.timeline[i].Source == source {
			return
		}
	}
	if len(c.timeline) >= maxMarks {
		return
	}
	c.timeline = append(c.timeline, workload.Mark{What: what, Source: source, At: at})
	slices.SortStableFunc(c.timeline, func(a, b workload.Mark) int { return int(min(max(a.At-b.At, -1), 1)) })
}

// askAll starts the first round: files first, then whoever has none.
func (m *machine) askAll(c *container) {
	for i := range c.asks {
		m.askFirst(c, i)
	}
}

func (m *machine) askFirst(c *container, i int) {
	a := &c.asks[i]
	if a.stage != askNone {
		return
	}
	a.stage = askFirst
	m.send(c, i)
}

// send asks one source, at most once at a time.
func (m *machine) send(c *container, i int) {
	a := &c.asks[i]
	if a.busy {
		a.again = true
		return
	}
	a.busy, a.again, a.sentAt = true, false, m.now
	kind := reqLookup
	if m.cfg.sources[i].prefill && (a.stage == askFirst || m.cfg.sources[i].files) {
		kind = reqPrefill
	}
	m.request(request{kind: kind, source: i, key: c.key, id: m.idFor(c, i)})
}

// idFor gives the id to ask a source by: its own where one is known, else the
// one that says most.
func (m *machine) idFor(c *container, i int) workload.ContainerID {
	if l := c.layers[i]; l != nil {
		return l.ID
	}
	kind, _, _ := strings.Cut(m.cfg.sources[i].name, "@")
	best := c.ids[0]
	for _, id := range c.ids {
		if id.Runtime == kind {
			return id
		}
		if best.Namespace == "" && id.Namespace != "" {
			best = id
		}
	}
	return best
}

// answer applies what a source said.
func (m *machine) answer(e evAnswer) {
	if e.req.kind == reqLocate {
		m.located(e)
		return
	}
	c := m.conts[e.req.key]
	if c == nil {
		return
	}
	key := c.key
	a := &c.asks[e.req.source]
	a.busy = false
	again := a.again
	a.again = false
	if e.err == nil && e.container != nil {
		m.answered(c, e.req.source, e.container)
	} else {
		m.notAnswered(c, e)
	}
	if c.forgotten { // what was said showed that it is another one
		if c = m.conts[key]; c == nil {
			return
		}
	} else if again && a.stage != askDone && !a.busy {
		m.send(c, e.req.source)
	}
	m.checkComplete(c)
	m.maybeDrop(c)
}

func (m *machine) answered(c *container, i int, l *workload.Container) {
	a := &c.asks[i]
	a.answered, a.tries = true, 0
	switch {
	case a.stage == askFirst && !m.cfg.sources[i].files:
		a.stage = askIdle
		if c.started() {
			a.stage = askSecond
			m.send(c, i)
		}
	case a.stage == askFirst && c.registered(), a.stage == askSecond:
		a.stage = askDone
	case a.stage == askFirst:
		m.retry(c, i) // files that do not register yet: read again
	}
	m.setLayer(c, i, l)
}

// started reports whether the user's program runs, so that engines answer in full.
func (c *container) started() bool {
	return c.run != nil && (c.run.firstExec != 0 || c.run.exit != nil)
}

// notAnswered decides whether to ask again.
func (m *machine) notAnswered(c *container, e evAnswer) {
	i := e.req.source
	a := &c.asks[i]
	a.tries++
	noFiles := errors.Is(e.err, collectors.ErrNotPresent) || errors.Is(e.err, collectors.ErrUnavailable)
	switch {
	case errors.Is(e.err, collectors.ErrNotMine):
		a.stage = askDone
	case e.req.kind == reqPrefill && !m.cfg.sources[i].files && noFiles:
		// Its files cannot be read here: the API is asked instead, once.
		a.busy = true
		m.request(request{kind: reqLookup, source: i, key: c.key, id: m.idFor(c, i)})
	case errors.Is(e.err, collectors.ErrNotPresent):
		a.stage = askDone
	case errors.Is(e.err, collectors.ErrNotFound):
		m.notFound(c, i)
	case c.alive(m) && a.tries < unavailableTries:
		m.retry(c, i)
	default:
		a.stage = askDone
	}
}

// unavailableTries bounds how long a source that cannot say is asked about one
// container: about four minutes with the back-off of retry. Its relist tells later.
const unavailableTries = 60

// notFound: the files of a low-level runtime appear later than the cgroup, so
// they are read again while the cgroup lives; an engine that does not know the
// container is done.
func (m *machine) notFound(c *container, i int) {
	a := &c.asks[i]
	if a.answered {
		if c.layerAt[i] > a.sentAt {
			return // it was said while the question was under way
		}
		m.deleted(c, i)
	}
	if m.cfg.sources[i].files && !c.registered() && c.alive(m) && a.stage == askFirst {
		m.retry(c, i)
		return
	}
	if a.tries == 1 && a.stage == askFirst && !c.hasEngine(m) && c.alive(m) {
		m.retry(c, i)
		return
	}
	a.stage = askDone
	m.resettleClaims(c)
}

// hasEngine reports whether a source with an API has described the container.
func (c *container) hasEngine(m *machine) bool {
	for i := range c.layers {
		if !m.cfg.sources[i].files {
			return true
		}
	}
	return false
}

// alive reports whether asking again can still make sense.
func (c *container) alive(m *machine) bool {
	return c.goneAt == 0 && (c.claimedBy > 0 || c.registered() && c.run.exit == nil || len(c.waiting) > 0 || m.now < c.wanted)
}

// wantedFor is how long a container that a source mentioned is asked about
// although no cgroup shows it yet.
const wantedFor = 10 * workload.KTime(time.Second)

// retry asks again after a growing pause: 4 ms at first, a second at the most;
// sources with an API start at 64 ms.
func (m *machine) retry(c *container, i int) {
	a := &c.asks[i]
	if a.waits {
		return
	}
	n := a.tries
	if !m.cfg.sources[i].files {
		n += 4
	}
	pause := min(4*workload.KTime(time.Millisecond)<<min(n, 10), workload.KTime(time.Second))
	if m.cfg.sources[i].files && a.answered {
		a.tries++
	}
	if !m.cfg.sources[i].files && a.tries > 4 {
		pause = min(pause<<2, 5*workload.KTime(time.Second))
	}
	a.waits = true
	m.at(m.now+pause, func() {
		a.waits = false
		if c.forgotten || a.stage == askDone || a.busy {
			return
		}
		if !c.alive(m) {
			a.stage = askDone
			m.checkComplete(c)
			m.maybeDrop(c)
			return
		}
		m.send(c, i)
		if a.tries == claimTries {
			m.resettleClaims(c)
		}
	})
}

// resettleClaims judges anew the processes in cgroups that claim the container.
func (m *machine) resettleClaims(c *container) {
	if c.claimedBy == 0 || c.pending() {
		return
	}
	for _, g := range m.claimsOf(c) {
		m.resettle(g)
	}
}

func (m *machine) claimsOf(c *container) []*cgroup {
	var gs []*cgroup
	for _, g := range m.cgroups {
		if g.candidate == c || g.guessed == c {
			gs = append(gs, g)
		}
	}
	slices.SortFunc(gs, func(a, b *cgroup) int {
		return slices.Compare([]uint64{uint64(a.id.Hierarchy), a.id.ID}, []uint64{uint64(b.id.Hierarchy), b.id.ID})
	})
	return gs
}

// setLayer stores what a source says and registers what it may register.
func (m *machine) setLayer(c *container, i int, l *workload.Container) {
	c = m.ownerOf(c, i, l)
	m.alias(c, l.ID)
	for _, id := range l.Aliases {
		if o := m.conts[id]; o != nil && o != c && m.sameContainer(o, c) {
			c = m.merge(o, c)
		}
		m.alias(c, id)
	}
	if a := &c.asks[i]; a.stage == askNone {
		a.stage, a.answered = askIdle, true
	}
	first := c.layers[i] == nil
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
	if l.Run != nil && l.Run.Registers && l.Run.Init.PID != 0 && l.State != workload.StateExited {
		m.register(c, i, l.Run)
	}
	if c.run == nil && l.State == workload.StateRunning && m.conts[c.key] == c {
		m.at(m.now+startGrace, func() { m.askForInit(c, i) })
	}
}

// askForInit asks an engine in full about a container that it calls running and
// that nobody has registered: where the low-level runtime's state is not seen,
// the engine's word for the PID and the cgroup is all there is.
func (m *machine) askForInit(c *container, i int) {
	a := &c.asks[i]
	given := a.stage == askDone && !a.answered // it was not there when it was asked, and is now
	if c.forgotten || c.run != nil || c.layers[i] == nil || a.stage != askIdle && !given {
		return
	}
	a.stage, a.tries = askSecond, 0
	m.send(c, i)
}

// ownerOf gives the container that a description is of. Ids of 64 hex digits are
// the same everywhere. An id that a person chose is not: the same namespace and
// name in another engine is another container, unless the source's own id is
// known for it (the shim's arguments tell which containerd it serves), or the
// init is the same process.
func (m *machine) ownerOf(c *container, i int, l *workload.Container) *container {
	if o := m.find(l.ID); o != nil {
		if o != c && m.sameContainer(c, o) && (c.bare() || isLongHex(l.ID.ID) && slices.ContainsFunc(c.ids, func(id workload.ContainerID) bool { return id.ID == l.ID.ID })) {
			return m.merge(o, c)
		}
		return o
	}
	if c.bare() || c.layers[i] != nil && c.layers[i].ID == l.ID || isLongHex(l.ID.ID) && c.has(l.ID.ID) {
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

// merge folds b into a: they turned out to be one container.
func (m *machine) merge(a, b *container) *container {
	if a == b {
		return a
	}
	if b.registered() && !a.registered() || b.registered() == a.registered() && b.serial < a.serial {
		a, b = b, a
	}
	b.forgotten = true
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
		}
	}
	if b.run != nil && a.run == nil {
		a.run = b.run
	}
	for _, g := range m.cgroups {
		if g.reg == b {
			g.reg = a
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
			a.layers[i] = l
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

func (m *machine) unalias(c *container, id workload.ContainerID) {
	if m.conts[id] == c {
		delete(m.conts, id)
	}
	if m.byBare[id.ID] == c {
		delete(m.byBare, id.ID)
	}
}

// hint applies what a source told by itself.
func (m *machine) hint(e evHint) {
	h := e.hint
	c := m.find(h.ID)
	if h.Kind == collectors.HintDeleted {
		if c != nil {
			m.deleted(c, e.source)
		}
		return
	}
	if c == nil {
		c = m.newContainer(h.ID)
	}
	m.alias(c, h.ID)
	c.wanted = m.now + wantedFor
	if h.Layer != nil {
		m.hintLayer(c, e.source, h.Layer)
		if c.forgotten {
			c = m.find(h.ID)
		}
	}
	if c == nil {
		return
	}
	if h.Kind == collectors.HintChanged && h.Layer == nil && c.asks[e.source].stage >= askIdle {
		c.asks[e.source].stage = askSecond
		c.asks[e.source].tries = 0
		m.send(c, e.source)
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
	m.setLayer(c, i, overlay(c.layers[i], l))
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
		c.State = n.State
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
	for j := range c.layers {
		if !c.gone[j] {
			return
		}
	}
	if c.run != nil && c.run.exit == nil && c.run.init != nil && c.run.init.exit == nil {
		return // its init lives: what was deleted is a record of it
	}
	m.containerGone(c)
}

func (m *machine) containerGone(c *container) {
	if c.goneAt != 0 {
		return
	}
	c.goneAt = m.now
	m.dirtyContainer(c)
	m.at(m.now+ghostAge, func() {
		if c.goneAt != 0 && c.goneAt+ghostAge <= m.now {
			m.drop(c)
		}
	})
}

// maybeDrop forgets a candidate that was only a name, with the last cgroup that bore it.
func (m *machine) maybeDrop(c *container) {
	if c.forgotten || !c.fromClaim || len(c.layers) > 0 || c.claimedBy > 0 || c.run != nil {
		return
	}
	for i := range c.asks {
		if c.asks[i].busy {
			return
		}
	}
	if c.claimedOnly {
		m.containerGone(c)
		return
	}
	m.drop(c)
}

func (m *machine) drop(c *container) {
	if c.forgotten {
		return
	}
	c.forgotten = true
	for _, id := range c.ids {
		m.unalias(c, id)
	}
	m.all = slices.DeleteFunc(m.all, func(o *container) bool { return o == c })
	for inum, o := range m.byPIDNS {
		if o == c {
			delete(m.byPIDNS, inum)
		}
	}
}

// listed is one entry of a source's list; it counts as an answer of the source.
func (m *machine) listed(i int, l *workload.Container) {
	c := m.find(l.ID)
	if c == nil {
		c = m.newContainer(l.ID)
	}
	a := &c.asks[i]
	a.answered = true
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
// and did not list is deleted there.
func (m *machine) listEnd(e evListEnd) {
	if !e.complete {
		return
	}
	for _, c := range slices.Clone(m.all) {
		if c.layers[e.source] != nil && !c.gone[e.source] && c.layerAt[e.source] < e.began {
			m.deleted(c, e.source)
		}
	}
}
