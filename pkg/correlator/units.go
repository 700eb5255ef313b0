// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"errors"
	"path"
	"slices"
	"strings"
	"time"

	pcgroup "github.com/pidigree/pidigree/pkg/cgroup"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// evUnit answers reqUnit.
type evUnit struct {
	req     request
	service *workload.Service
	err     error
}

// unit is one unit of the system manager. Which processes are its own is said by
// the paths of their cgroups; what the manager says comes later, if at all, and no
// process waits for it.
type unit struct {
	// plain is what the path says, known what is known by now; neither is ever changed.
	plain, known *workload.Service
	// cgroups are the unit's own, one for each hierarchy; while there is one, it
	// lives. refs counts them and those below.
	cgroups map[*cgroup]struct{}
	refs    int
	// slice: who is in it is in no unit.
	slice bool
	// busy: a question is under way; again: what it brings is out of date already.
	busy, again bool
	// waits: a timer for the next question is set.
	waits bool
	tries int
	// told: the store has it.
	told, dirty bool
}

func (u *unit) lives() bool { return len(u.cgroups) > 0 }

// The pauses before the manager is asked again: about a unit between two states,
// and where it could not say.
const (
	unitSoon  = 100 * workload.KTime(time.Millisecond)
	unitRetry = workload.KTime(time.Second)
	unitSlow  = 30 * workload.KTime(time.Second)
)

// systemManager is the PID of who starts services.
const systemManager = 1

// attribute reads from a path which unit the cgroup is of. What a user's manager
// names is that user's unit in the first place: the system manager has
// user@UID.service.
func (m *machine) attribute(g *cgroup, p pcgroup.Parsed) {
	plain := workload.Service{Unit: p.Unit, Slice: p.Slice, Cgroup: p.UnitPath, User: p.User, Confidence: workload.Claimed}
	if p.Unit == "" {
		g.service = &workload.Service{Slice: p.Slice, User: p.User, Confidence: workload.Claimed}
		if !strings.HasSuffix(g.path, "/"+p.Slice) {
			return // below it
		}
		plain.Unit, plain.Slice, plain.Cgroup = p.Slice, pcgroup.Parse(path.Dir(g.path)).Slice, g.path
	}
	g.userUnit, g.userSlice = p.UserUnit, p.UserSlice
	m.joinUnit(g, &plain)
}

// serve takes over what is said of a process's cgroups. The dead keep what they
// were: the unit may have been started anew since. Of one whose cgroups were read
// after its end, nothing is said that another start would make wrong.
func (p *proc) serve(s *workload.Service) {
	switch {
	case p.exit == nil:
		p.service = s
	case p.service == nil && s != nil && s.InvocationID != "":
		was := *s
		was.InvocationID, was.MainPID = "", 0
		p.service = &was
	case p.service == nil:
		p.service = s
	}
}

// joinUnit makes a cgroup one of a unit's: its own, or one below that.
func (m *machine) joinUnit(g *cgroup, plain *workload.Service) {
	u := m.units[plain.Cgroup]
	if u == nil {
		u = &unit{plain: plain, known: plain, cgroups: map[*cgroup]struct{}{}, slice: strings.HasSuffix(plain.Unit, ".slice")}
		m.units[plain.Cgroup] = u
	}
	g.unit = u
	u.refs++
	u.serveIn(g)
	if g.path != plain.Cgroup || !g.claim.IsZero() { // an engine's scope is the container's, whom others describe
		return
	}
	u.cgroups[g] = struct{}{}
	m.dirtyUnit(u)
	if len(u.cgroups) == 1 {
		m.askUnit(u)
	}
}

// serveIn puts down what is said of the processes in one of the unit's cgroups.
func (u *unit) serveIn(g *cgroup) {
	switch {
	case u.slice:
	case g.userUnit == "" && g.userSlice == "":
		g.service = u.known
	default:
		s := *u.known
		s.UserUnit, s.UserSlice = g.userUnit, g.userSlice
		g.service = &s
	}
}

// leaveUnit is the end of a cgroup. Its processes keep what they were.
func (m *machine) leaveUnit(g *cgroup) {
	u := g.unit
	if u == nil {
		return
	}
	g.unit = nil
	if u.refs--; u.refs == 0 {
		delete(m.units, u.plain.Cgroup)
	}
	if _, own := u.cgroups[g]; !own {
		return
	}
	delete(u.cgroups, g)
	if !u.lives() {
		u.tries = 0
		m.dirtyUnit(u)
	}
}

func (m *machine) dirtyUnit(u *unit) {
	if !u.dirty {
		u.dirty = true
		m.dirtyUnits = append(m.dirtyUnits, u)
	}
}

// flushUnits publishes the units that have changed: first those that have ended,
// for the next one may have the same cgroup's path.
func (m *machine) flushUnits() {
	slices.SortStableFunc(m.dirtyUnits, func(a, b *unit) int { return len(a.cgroups) - len(b.cgroups) })
	for _, u := range m.dirtyUnits {
		u.dirty = false
		switch {
		case u.lives():
			m.out.changes = append(m.out.changes, store.Change{Service: &store.ServiceChange{Service: u.known}})
		case u.told:
			m.out.changes = append(m.out.changes, store.Change{Service: &store.ServiceChange{Service: u.known, Gone: m.now}})
			u.known = u.plain // the next start is another one
		}
		u.told = u.lives()
	}
	clear(m.dirtyUnits)
	m.dirtyUnits = m.dirtyUnits[:0]
}

// askUnit asks the manager about a unit, one question at a time.
func (m *machine) askUnit(u *unit) {
	i := slices.IndexFunc(m.cfg.sources, func(s sourceInfo) bool { return s.units })
	switch {
	case i < 0 || !u.lives():
	case u.busy:
		u.again = true
	default:
		u.busy = true
		m.request(request{kind: reqUnit, source: i, unit: u, path: u.plain.Cgroup})
	}
}

// askUnitIn asks once more, after a while.
func (m *machine) askUnitIn(u *unit, pause workload.KTime) {
	if u.waits || !u.lives() {
		return
	}
	u.waits = true
	m.at(m.now+pause, func() {
		u.waits = false
		m.askUnit(u)
	})
}

// unitAnswer takes what the manager says of a unit.
func (m *machine) unitAnswer(e evUnit) {
	u := e.req.unit
	again := u.again
	u.busy, u.again = false, false
	if again {
		m.askUnit(u)
	}
	if again || !u.lives() {
		return
	}
	switch {
	case errors.Is(e.err, collectors.ErrNotFound):
		u.tries = 0
		m.setUnit(u, u.plain)
		return
	case errors.Is(e.err, collectors.ErrNotMine), errors.Is(e.err, collectors.ErrNotPresent):
		return // a hint comes with the manager
	case e.err != nil:
		m.askUnitIn(u, min(unitRetry<<min(u.tries, 5), unitSlow))
		u.tries++
		return
	}
	s := *e.service
	s.Slice, s.User = u.plain.Slice, u.plain.User
	m.setUnit(u, &s)
	switch s.Active {
	case "activating", "deactivating", "reloading", "refreshing":
		m.askUnitIn(u, min(unitSoon<<min(u.tries, 9), unitSlow))
		u.tries++
	default:
		u.tries = 0
	}
}

// setUnit takes what is known of a unit over to the processes in it that live.
func (m *machine) setUnit(u *unit, s *workload.Service) {
	if *u.known == *s {
		return
	}
	u.known = s
	m.dirtyUnit(u)
	if u.slice {
		return
	}
	var ps []*proc
	for g := range u.cgroups {
		u.serveBelow(g)
		ps = g.collectMembers(ps)
	}
	slices.SortFunc(ps, compareProcs)
	for _, p := range slices.Compact(ps) {
		if now := m.verdict(p.set).service; p.exit == nil && p.service != now {
			p.service = now
			m.dirtyProc(p)
		}
	}
}

func (u *unit) serveBelow(g *cgroup) {
	u.serveIn(g)
	for s := range g.sets {
		s.gen = 0
	}
	for _, c := range g.children {
		u.serveBelow(c)
	}
}

// startedBy notes that the system manager has made a process in a unit's cgroup:
// the unit may have been started anew, with who is left of the last time beside it.
func (m *machine) startedBy(p *proc) {
	if p.kp.Parent == systemManager && p.set != nil {
		m.doubtUnit(p, nil)
	}
}

// doubtUnit takes back what another start of the unit, or another main process,
// would make wrong, and asks.
func (m *machine) doubtUnit(p *proc, of *workload.Service) {
	for _, g := range p.set.cgroups {
		u := g.unit
		if u == nil || u.slice || of != nil && u.known.MainPID != of.MainPID {
			continue
		}
		m.askUnit(u)
		if u.known.InvocationID != "" || u.known.MainPID != 0 {
			s := *u.known
			s.InvocationID, s.MainPID = "", 0
			m.setUnit(u, &s)
		}
	}
}

// mainEnded follows the end of a unit's main process. The dead keep what they were.
func (m *machine) mainEnded(p *proc) {
	if p.service != nil && p.service.MainPID == p.kp.Key.PID && p.set != nil {
		m.doubtUnit(p, p.service)
	}
}

// unitHint asks about what a source says may have changed.
func (m *machine) unitHint(name string) {
	var asked []string
	for path, u := range m.units {
		if name == collectors.EveryUnit || u.plain.Unit == name {
			asked = append(asked, path)
		}
	}
	slices.Sort(asked)
	for _, path := range asked {
		m.askUnit(m.units[path])
	}
}
