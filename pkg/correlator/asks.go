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

// ask is where the machine is with one source about one container.
type ask struct {
	stage askStage
	busy  bool
	tries int
	// answered: the source has said something about it.
	answered bool
	// silent: it could not say, the last time; that denies nothing.
	silent bool
	again  bool
	waits  bool // a timer for the next try is set
	sentAt workload.KTime
	// deniedOf is when the question was put that it denied last, deletedAt when it
	// said that it had deleted the container.
	deniedOf, deletedAt workload.KTime
	// since: the question under way was put after that. listed: it is in the list that
	// is under way.
	since, listed bool
	// denied: it has none of this id, which it looked for.
	denied bool
	// toldOf is when the question was put that it answered last, namedAt when it named
	// the init that it has named ever since, confirmAt when it was asked once more
	// whether that is so still: see confirmed.
	toldOf, namedAt, confirmAt workload.KTime
	// event is what it told last of the state by itself, and eventAt when.
	event   *workload.Container
	eventAt workload.KTime
}

type askStage uint8

const (
	askNone   askStage = iota
	askFirst           // being asked what it can say at once
	askIdle            // it has said what it could before the start
	askSecond          // being asked once more after the start
	askDone
)

// pending reports whether some source may still register it.
func (c *container) pending() bool {
	for i := range c.asks {
		if c.asks[i].silent || c.asks[i].stage == askNone || c.asks[i].stage == askFirst && c.asks[i].tries < claimTries {
			return true
		}
	}
	return len(c.waiting) > 0
}

// eagerTries at 64 ms are about five seconds.
const eagerTries = 80

// claimTries is after how many "not found" from the files of a low-level
// runtime a name may count as a claim that nobody will register: about a second.
const claimTries = 20

// askAll starts the first round: files first, then whoever has none.
func (m *machine) askAll(c *container) {
	for i := range c.asks {
		m.askFirst(c, i)
	}
}

// askHeard asks about a container whose cgroup was heard to be made: it starts now.
func (m *machine) askHeard(c *container) {
	c.heard = true
	m.askAll(c)
}

// askListed asks about a container whose cgroup was found, and not heard to be
// made: the first list of the files may be about to say all.
func (m *machine) askListed(c *container) {
	if !m.listsSoon() {
		m.askAll(c)
		return
	}
	m.at(m.now+locateDelay, func() {
		if c.forgotten || m.guessedInVain(c) {
			return
		}
		m.askListed(c)
	})
}

func (m *machine) askFirst(c *container, i int) {
	a := &c.asks[i]
	if a.stage != askNone || m.saysSoon(i) && !(c.heard && m.cfg.sources[i].prefill) {
		return
	}
	if m.cfg.sources[i].units { // it knows no containers
		a.stage = askDone
		return
	}
	if m.absent[i] && m.now < m.begun+firstList {
		a.stage, a.deniedOf = askDone, m.now // as it would answer
		return
	}
	a.stage = askFirst
	m.send(c, i)
}

// saysSoon reports whether the machine has begun just now, and an engine is about to
// list what it has: that says of a thousand containers at once, which are its and
// which are not, what would else be a question for each. Who starts meanwhile is
// asked about all the same, where the engine has files.
func (m *machine) saysSoon(i int) bool {
	s := m.cfg.sources[i]
	return s.lists && !s.files && !m.hasListed[i] && m.now < m.begun+firstList
}

// askUnasked asks a source about those for which its first list was waited for.
func (m *machine) askUnasked(i int) {
	for _, c := range m.all {
		m.askFirst(c, i)
	}
}

// denyUnlisted has a source's first list, if it is whole, deny what it does not
// have and was there before it began. An engine that lists a container only once
// it has started lists it a second time (collectors.ListAgain).
func (m *machine) denyUnlisted(i int, began workload.KTime) {
	for _, c := range slices.Clone(m.all) {
		a := &c.asks[i]
		if a.stage != askNone || c.layers[i] != nil || c.since >= began {
			continue
		}
		a.stage, a.deniedOf = askDone, began
		m.resettleClaims(c)
		m.checkComplete(c)
		m.maybeDrop(c)
	}
}

// send asks one source, at most once at a time.
func (m *machine) send(c *container, i int) {
	a := &c.asks[i]
	if a.busy {
		a.again = true
		return
	}
	a.busy, a.again, a.sentAt, a.since = true, false, m.now, true
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
	if e.err == nil && e.container != nil && about(e.container, e.req.id) && m.confined(e.req.source, e.container) {
		l := e.container
		overtaken := a.overtaken(l, a.sentAt)
		if overtaken {
			l = overlay(l, a.event)
		}
		m.answered(c, e.req.source, l)
		if (overtaken || max(a.deletedAt, a.confirmAt) > a.sentAt) && !a.busy { // of before that, or of a next one of its id
			a.stage, again = askSecond, true
		}
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

// about reports whether a description is of the container that was asked for: an
// engine may take an id for another one's name or prefix, or lie.
func about(l *workload.Container, id workload.ContainerID) bool {
	return l.ID.ID == id.ID || slices.ContainsFunc(l.Aliases, func(a workload.ContainerID) bool { return a.ID == id.ID })
}

func (m *machine) answered(c *container, i int, l *workload.Container) {
	a := &c.asks[i]
	if !a.answered && !m.cfg.sources[i].files {
		// Where nothing of it ever runs, the kernel will not tell of its end.
		m.at(m.now+goneCheck, func() { m.checkGone(c, nil) })
	}
	a.answered, a.silent, a.tries = true, false, 0
	a.denied, a.toldOf = false, a.sentAt
	c.back = c.back || a.since
	switch {
	case a.stage == askFirst && !m.cfg.sources[i].files:
		a.stage = askIdle
		if c.started() {
			m.askInFull(c, i)
		}
	case a.stage == askFirst && c.registered(), a.stage == askSecond:
		a.stage = askDone
	case a.stage == askFirst:
		m.retry(c, i) // files that do not register yet: read again
	}
	m.setLayer(c, i, l)
}

// overtaken reports whether what a source said, to a question or in a list of then,
// may be of before an event that it has told since, which has the state otherwise.
func (a *ask) overtaken(l *workload.Container, then workload.KTime) bool {
	return a.event != nil && a.eventAt >= then && a.event.State != l.State
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
	a.silent = e.err != nil && !denied(e.err) && !m.bugs.has(bugSilenceIsDenial)
	if e.err != nil && denied(e.err) {
		a.deniedOf = a.sentAt
		a.denied = !errors.Is(e.err, collectors.ErrNotPresent)
	}
	if m.cfg.sources[i].files {
		defer m.registerBare(c)
	}
	noFiles := errors.Is(e.err, collectors.ErrNotPresent) || errors.Is(e.err, collectors.ErrUnavailable)
	switch {
	case errors.Is(e.err, collectors.ErrNotMine), e.err == nil:
		a.stage = askDone
	case e.req.kind == reqPrefill && !m.cfg.sources[i].files && noFiles:
		// Its files cannot be read here: the API is asked instead, once.
		a.busy = true
		m.request(request{kind: reqLookup, source: i, key: c.key, id: m.idFor(c, i)})
	case errors.Is(e.err, collectors.ErrNotPresent):
		a.stage = askDone
	case errors.Is(e.err, collectors.ErrNotFound):
		m.notFound(c, i)
	case (c.alive(m) || c.awaitsInit()) && a.tries < unavailableTries:
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

// awaitsInit reports whether an engine calls a process its init by a bare PID, and
// nobody has confirmed that: who cannot say is asked on, wherever its cgroups are,
// since giving up would leave the engine's word to decide.
func (c *container) awaitsInit() bool {
	if c.run != nil || c.goneAt != 0 {
		return false
	}
	for i, l := range c.layers {
		if r := l.Run; !c.gone[i] && r != nil && r.Registers && r.Init.PID != 0 && r.Init.Start == 0 && r.Init.Inode == 0 && l.State != workload.StateExited {
			return true
		}
	}
	return false
}

// wantedFor is how long a container that a source mentioned is asked about
// although no cgroup shows it yet.
const wantedFor = 10 * workload.KTime(time.Second)

// retry asks again after a growing pause: 4 ms at first, a second at the most;
// sources with an API start at 64 ms, and files, which cost nobody anything,
// stay at that for the seconds that a start on a busy host can take.
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
	if m.cfg.sources[i].files {
		if a.tries < eagerTries {
			pause = min(pause, 64*workload.KTime(time.Millisecond))
		}
		if a.answered {
			a.tries++
		}
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
		if !c.alive(m) && !(a.silent && c.awaitsInit()) {
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

// askForInit asks an engine in full about a container that it calls running and
// that nobody has registered: where the low-level runtime's state is not seen,
// the engine's word for the PID and the cgroup is all there is.
func (m *machine) askForInit(c *container, i int) {
	a := &c.asks[i]
	given := a.stage == askDone && !a.answered // it was not there when it was asked, and is now
	if c.forgotten || c.run != nil || c.layers[i] == nil || a.stage != askIdle && !given {
		return
	}
	m.askOnceMore(c, i)
}

// askOnceMore asks a source about a container that it has answered about, or denied.
func (m *machine) askOnceMore(c *container, i int) {
	c.asks[i].stage, c.asks[i].tries = askSecond, 0
	m.send(c, i)
}

// unreadFiles gives the requests that would read, now, the files about the
// container that the process's cgroups name and nobody has registered.
func (m *machine) unreadFiles(pid workload.PID) []request {
	p := m.procs[pid]
	if p == nil || p.set == nil || p.member != nil {
		return nil
	}
	var rs []request
	for _, c := range []*container{m.verdict(p.set).candidate, p.set.owner} {
		if c == nil || c.registered() || c.forgotten {
			continue
		}
		for i, s := range m.cfg.sources {
			if s.prefill && (s.files || c.layers[i] == nil) {
				rs = append(rs, request{kind: reqPrefill, source: i, key: c.key, id: m.idFor(c, i)})
			}
		}
		break
	}
	return rs
}

// locateNow asks those sources that have nothing but files whose process it is,
// where nobody has said so yet: somebody asks, so nobody waits for locateDelay.
func (m *machine) locateNow(pid workload.PID) []request {
	p := m.procs[pid]
	if p == nil || p.set == nil || p.member != nil || !m.looksContained(p) {
		return nil
	}
	v := m.verdict(p.set)
	if p.set.settled(m) || v.candidate != nil || p.set.owner != nil || !v.known {
		return nil
	}
	ev := m.evidence(p)
	if len(ev.Cgroups) == 0 {
		return nil
	}
	var rs []request
	for i, s := range m.cfg.sources {
		if s.files {
			rs = append(rs, request{kind: reqLocate, source: i, evidence: ev, set: p.set, asked: true})
		}
	}
	return rs
}
