// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"cmp"
	"slices"
	"strings"

	pcgroup "github.com/pidigree/pidigree/pkg/cgroup"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/workload"
)

// cgroup is one cgroup of one hierarchy.
type cgroup struct {
	id       workload.CgroupID
	path     string
	parent   *cgroup
	children map[workload.CgroupID]*cgroup
	sets     map[*cgset]struct{}

	// root marks the hierarchy's root; a lineage is known when it ends there.
	root bool
	// top: the agent's mount begins here, which may be below the hierarchy's root.
	top bool
	// named: path has been read and parsed.
	named    bool
	asked    bool
	retries  int
	released bool
	dead     bool
	// knownAt is the stamp of what named it, goneAt that of its removal.
	knownAt, goneAt workload.KTime

	// claim is the container that the last component names, zero without one.
	claim     workload.ContainerID
	candidate *container
	// beside: it is that of a helper next to the container that the cgroup above names.
	beside bool
	// guess is a container that the path may be about; it decides nothing.
	guess   workload.ContainerID
	guessed *container
	service *workload.Service
	// unit is the one that it is of, nil for none; see attribute.
	unit                *unit
	userUnit, userSlice string
	// disputed: a source says that it is of another container than its name does.
	disputed bool
	// reg is the container that the cgroup is registered for.
	reg *container
	// awaited registers a container whose init is in it, once its lineage is known.
	awaited func()
}

// cgset is the cgroups of a process, shared by all processes in the same ones.
type cgset struct {
	key     kernel.CgroupSet
	cgroups []*cgroup
	ids     []workload.CgroupID
	procs   map[*proc]struct{}
	gen     uint64
	v       verdict
	// located: the sources were asked whose cgroups these are, and how often.
	located  int
	askedAt  workload.KTime // the last time
	deniedAt workload.KTime // when the last of them had denied it
	owner    *container     // what a source said about these cgroups; not a registration
	ownerAt  workload.KTime
	silent   bool // a source could not say, this time
	hushed   int  // how often in a row, for the pause: 16 ms to 8 s
	soon     bool
	locating int
	deep     bool // nested deeper than the sources are asked
	// outer counts the living in it that are in the host's PID namespace; alone: one
	// who is not found none to be the host's by.
	outer int
	alone bool
}

// verdict is what a set of cgroups says by itself.
type verdict struct {
	// reg is the deepest registered container; rival is set where another hierarchy names another one.
	reg, rival *container
	// direct: in some hierarchy it is in reg's own cgroup; else only below it.
	direct bool
	// known: every lineage is known to its root.
	known bool
	// claims are the distinct ids that unregistered names claim.
	claims   []workload.ContainerID
	disputed bool
	// belowClaim: in some hierarchy it is below the cgroup whose name claims, and not in it.
	belowClaim bool
	candidate  *container
	service    *workload.Service
}

func (m *machine) cgroupOf(id workload.CgroupID) *cgroup {
	g := m.cgroups[id]
	if g == nil {
		g = &cgroup{id: id}
		m.cgroups[id] = g
	}
	return g
}

// mkdir learns a new cgroup. The path's name may claim a container: everybody
// is asked at once, because the init will not run for some milliseconds yet.
func (m *machine) mkdir(e *kernel.Event) {
	if at, ok := m.removed[e.Cgroup.ID]; ok && e.Time <= at {
		return // late, or there twice: it is gone
	}
	if old := m.cgroups[e.Cgroup.ID]; old != nil && (old.another(e) || old.heldBefore(e.Time)) && !m.bugs.has(bugCgroupReuseUnnoticed) {
		defer m.replace(old, e.Time)()
	}
	g := m.cgroupOf(e.Cgroup.ID)
	if e.Cgroup.PathCut {
		g.knownAt = max(g.knownAt, e.Time)
		// Where a path is cut, whoever nests deep enough chooses how it ends.
		m.askLineage(g)
		return
	}
	if parent := m.cgroups[workload.CgroupID{Hierarchy: g.id.Hierarchy, ID: e.Cgroup.Parent}]; parent != nil && parent.cannotHold(e) && !m.bugs.has(bugCgroupReuseUnnoticed) {
		defer m.replace(parent, e.Time)()
	}
	m.learn(g, e.Cgroup.Path, e.Cgroup.Parent, e.Cgroup.Level, e.Time)
	m.followClaim(g, e.Time, m.askHeard)
}

// cannotHold reports whether a cgroup of this id that got a child must be a later
// one: it was removed before, or is not where the child is.
func (g *cgroup) cannotHold(e *kernel.Event) bool {
	if g.dead {
		return e.Time > g.goneAt
	}
	above := e.Cgroup.Path[:max(0, strings.LastIndexByte(e.Cgroup.Path, '/'))]
	return g.named && !g.root && g.path != "" && e.Time > g.knownAt && !strings.HasSuffix(above, g.path)
}

// another reports whether a mkdir is of a later cgroup with the same id: numbers
// come again where the kernel's are of 32 bits.
func (g *cgroup) another(e *kernel.Event) bool {
	if g.dead {
		return e.Time > g.goneAt
	}
	return g.named && g.path != e.Cgroup.Path && !e.Cgroup.PathCut && e.Time > g.knownAt
}

// heldBefore reports whether somebody was seen in a cgroup, of which no more than
// its id is known, before the one of that id was made: that was an earlier one.
func (g *cgroup) heldBefore(at workload.KTime) bool {
	if g.named || g.dead {
		return false
	}
	for s := range g.sets {
		for p := range s.procs {
			if p.setAt < at {
				g.goneAt = at
				return true
			}
		}
	}
	return false
}

// retire takes a cgroup whose id is another one's now out of the tables. Those
// who were in it keep what they were.
func (m *machine) retire(g *cgroup) {
	g.dead = true
	m.release(g)
	delete(m.cgroups, g.id)
	if g.reg != nil {
		g.reg.unregister(g)
	}
	if g.parent != nil && g.parent.children[g.id] == g {
		delete(g.parent.children, g.id)
		m.collect(g.parent)
	}
	for s := range g.sets {
		if m.sets[s.key] == s {
			delete(m.sets, s.key)
		}
	}
	m.gen++
}

// replace retires a cgroup whose id has turned out, at an instant, to be another
// one's. The function that it gives, to be called once the other is known, takes
// those over who were seen in it later. Who was seen there before, and after the
// old one was last known, has left or ended unheard unless the other is older: they
// are read.
func (m *machine) replace(g *cgroup, at workload.KTime) func() {
	since := max(g.goneAt, g.knownAt)
	g.goneAt = since
	var later []*proc
	for _, p := range g.members(nil) {
		switch {
		case p.exit != nil || p.setAt <= since:
		case p.setAt > at:
			later = append(later, p)
		default:
			m.request(request{kind: reqProcess, pid: p.kp.Key.PID})
		}
	}
	m.retire(g)
	return func() {
		for _, p := range later {
			if p.exit == nil && p.set != nil {
				m.place(p, p.set.key, p.setAt)
			}
		}
	}
}

// learn sets a cgroup's place in its hierarchy, as of an instant. What was known
// already judges only those anew who were made since it was known: every lineage
// that is read ends at the same few cgroups, with all processes below them.
func (m *machine) learn(g *cgroup, path string, parent uint64, level uint32, at workload.KTime) {
	news, was := !g.named, g.knownAt
	var rooted *cgroup
	g.knownAt = max(g.knownAt, at)
	if !g.named {
		g.named = true
		g.path = path
		g.root = path == "/" || g.top
		m.parsePath(g)
	}
	if g.parent == nil && !g.root && parent != 0 {
		p := m.cgroupOf(workload.CgroupID{Hierarchy: g.id.Hierarchy, ID: parent})
		if level == 1 && !p.named {
			p.named, p.root, p.path = true, true, "/"
			rooted = p
		}
		m.link(g, p)
		news = true
		if !p.root && p.parent == nil {
			m.askLineage(p)
		}
	}
	switch {
	case news:
		m.gen++
		m.resettle(g)
		if rooted != nil { // those in the root itself have been waiting for that
			m.settleSince(rooted, 0)
		}
	case g.knownAt > was && !g.root:
		m.settleSince(g, was)
	}
}

// settleSince judges those in a cgroup anew who came into it after an instant.
func (m *machine) settleSince(g *cgroup, at workload.KTime) {
	var ps []*proc
	for s := range g.sets {
		for p := range s.procs {
			if p.arrived() > at {
				ps = append(ps, p)
			}
		}
	}
	slices.SortFunc(ps, compareProcs)
	for _, p := range ps {
		m.settle(p)
	}
}

func (m *machine) link(g, parent *cgroup) {
	for p := parent; p != nil; p = p.parent {
		if p == g {
			return // a loop can only come from a lie; the lineage stays unknown
		}
	}
	g.parent = parent
	if parent.children == nil {
		parent.children = map[workload.CgroupID]*cgroup{}
	}
	parent.children[g.id] = g
}

func (m *machine) parsePath(g *cgroup) {
	p := pcgroup.Parse(g.path)
	if id, ok := claimAt(p, g.path); ok {
		g.claim = id
	}
	g.beside = isBeside(p, g.path)
	if p.Unit != "" || p.Slice != "" {
		m.attribute(g, p)
	}
	if g.claim.IsZero() && len(p.Claims) == 0 && g.service == nil {
		g.guess = guessAt(g.path)
	}
}

// guessAt reads /NAMESPACE/ID, the cgroup that containerd gives a container by
// default. Any two names look like that, so it is no claim: it is only a reason
// to ask early, before the runtime has written its state.
func guessAt(path string) workload.ContainerID {
	ns, id, ok := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	if !ok || strings.Contains(id, "/") {
		return workload.ContainerID{}
	}
	return workload.ContainerID{Namespace: ns, ID: id}
}

// claimAt gives the container that the path's last component claims.
func claimAt(p pcgroup.Parsed, path string) (workload.ContainerID, bool) {
	c, ok := p.Innermost(pcgroup.KindContainer)
	if !ok || c.ID == "" || c.Path != path {
		return workload.ContainerID{}, false
	}
	return workload.ContainerID{Runtime: c.Engine, Namespace: c.Namespace, ID: c.ID}, true
}

// isBeside reports whether a path ends at the cgroup that an engine makes for itself
// in that of a container: nspawn's "supervisor". Who is in there is not in the container.
func isBeside(p pcgroup.Parsed, path string) bool {
	c, ok := p.Innermost(pcgroup.KindContainer)
	return ok && c.Role == pcgroup.RoleMonitor && strings.LastIndexByte(path, '/') == len(c.Path)
}

// followClaim follows up a name that claims a container. Below a registered cgroup
// a name is the container's own business: nothing is asked then, unless few are
// pending, because a host engine may legitimately nest (--cgroup-parent).
func (m *machine) followClaim(g *cgroup, at workload.KTime, ask func(*container)) {
	if g.claim.IsZero() {
		m.followGuess(g, ask)
		return
	}
	if g.candidate != nil {
		return
	}
	if over := g.deepestAbove(); over != nil {
		if over.nested >= maxNestedClaims {
			return
		}
		over.nested++
	}
	c := m.find(g.claim)
	if c == nil {
		c = m.newContainer(g.claim)
		c.fromClaim = true
	}
	g.candidate = c
	if !g.released { // else it was removed before its name was read
		c.claimedBy++
	}
	c.mark(workload.MarkCgroup, "kernel", at)
	c.mark(workload.MarkClaim, "kernel", m.now)
	ask(c)
	m.dirtyContainer(c)
}

// followGuess asks the sources about a container by a path that may be its.
func (m *machine) followGuess(g *cgroup, ask func(*container)) {
	if g.guess.IsZero() || g.guessed != nil || g.reg != nil || g.deepestAbove() != nil || g.decided(m) {
		return
	}
	c := m.find(g.guess)
	if c == nil {
		c = m.newContainer(g.guess)
		c.fromClaim = true
	}
	g.guessed = c
	c.guesses = append(c.guesses, g)
	if !g.released { // else it was removed before its name was read
		c.claimedBy++
	}
	ask(c)
}

// decided reports whether those in a cgroup are in a registered one in another hierarchy.
func (g *cgroup) decided(m *machine) bool {
	for s := range g.sets {
		if s.settled(m) {
			return true
		}
	}
	return false
}

// guessedInVain drops a container that is nothing but a guess about cgroups of which
// a registration has decided meanwhile.
func (m *machine) guessedInVain(c *container) bool {
	if !c.bare() || len(c.guesses) == 0 || !slices.ContainsFunc(c.guesses, func(g *cgroup) bool { return g.reg != nil || g.decided(m) }) {
		return false
	}
	for _, g := range c.guesses {
		if g.guessed == c {
			g.guessed = nil
			if !g.released {
				c.claimedBy--
			}
		}
	}
	c.guesses = nil
	m.maybeDrop(c)
	return true
}

func (c *container) dropGuess(g *cgroup) {
	c.guesses = slices.DeleteFunc(c.guesses, func(o *cgroup) bool { return o == g })
}

// maxNestedClaims bounds what a container can make us ask by naming its child cgroups.
const maxNestedClaims = 32

func (g *cgroup) deepestAbove() *container {
	for p := g.parent; p != nil; p = p.parent {
		if p.reg != nil {
			return p.reg
		}
	}
	return nil
}

func (m *machine) askLineage(g *cgroup) {
	if g.asked || g.dead {
		return
	}
	g.asked = true
	m.request(request{kind: reqLineage, cgroup: g.id, path: g.path})
}

// lineage learns a cgroup and its ancestors from cgroupfs.
func (m *machine) lineage(e evLineage) {
	if g := m.cgroups[e.id]; g != nil {
		g.asked = false
		if e.err != nil {
			m.lineageFailed(g)
			return
		}
	}
	for _, l := range e.lineage { // all of them first: what is below is linked to them
		if old := m.cgroups[l.CgroupID]; old != nil && old.named && old.path != l.Path && old.path != "" && e.at > old.knownAt && !m.bugs.has(bugCgroupReuseUnnoticed) {
			defer m.replace(old, e.at)()
		}
	}
	for i, l := range e.lineage {
		g := m.cgroupOf(l.CgroupID)
		var parent uint64
		if i+1 < len(e.lineage) {
			parent = e.lineage[i+1].ID
		}
		if i+1 == len(e.lineage) {
			g.top = true
		}
		m.learnRead(g, l.Path, parent, e.at)
	}
	for _, l := range e.lineage {
		m.followClaim(m.cgroupOf(l.CgroupID), m.now, m.askListed)
	}
	if g := m.cgroups[e.id]; g != nil {
		m.lineageKnown(g)
	}
}

func (m *machine) learnRead(g *cgroup, path string, parent uint64, at workload.KTime) {
	g.asked = false
	level := uint32(2)
	if strings.Count(path, "/") == 1 {
		level = 1
	}
	m.learn(g, path, parent, level, at)
}

// lineageFailed: the cgroup is gone or cannot be read. Those still in it are
// unknown, never host; asking again is left to the next event that needs it.
func (m *machine) lineageFailed(g *cgroup) {
	if len(g.sets) == 0 {
		return
	}
	m.at(m.now+lineageRetry, func() {
		if m.cgroups[g.id] == g && !g.known() && len(g.sets) > 0 && g.retries < 5 {
			g.retries++
			m.askLineage(g)
		}
	})
}

// rmdir forgets a cgroup once nobody is in it.
func (m *machine) rmdir(e *kernel.Event) {
	g := m.cgroups[e.Cgroup.ID]
	if g == nil || e.Time < g.knownAt {
		return
	}
	g.dead = true
	g.goneAt = max(g.goneAt, e.Time)
	if len(m.removed) >= maxRemoved {
		clear(m.removed)
	}
	m.removed[g.id] = g.goneAt
	m.release(g)
	m.collect(g)
}

// release ends what a cgroup's name claims.
func (m *machine) release(g *cgroup) {
	if g.released {
		return
	}
	g.released = true
	m.leaveUnit(g)
	for _, c := range []*container{g.candidate, g.guessed} {
		if c != nil {
			c.claimedBy--
			c.dropGuess(g)
			m.maybeDrop(c)
		}
	}
}

// collect removes cgroups that nothing refers to any more: the dead, and those of
// which nothing is known, such as one that a late event brought up once more.
func (m *machine) collect(g *cgroup) {
	for g != nil && (g.dead || !g.named) && len(g.sets) == 0 && len(g.children) == 0 {
		p := g.parent
		if m.cgroups[g.id] == g {
			delete(m.cgroups, g.id)
		}
		if g.reg != nil {
			g.reg.unregister(g)
		}
		if p != nil && p.children[g.id] == g {
			delete(p.children, g.id)
		}
		g = p
	}
}

// idleCgroups lists the cgroups in which nobody is: one whose removal was lost is
// among them. One that ghosts are left in comes with a later sweep.
func (m *machine) idleCgroups() []workload.CgroupID {
	var idle []workload.CgroupID
	for id, g := range m.cgroups {
		if len(g.sets) == 0 && !g.root && !m.bugs.has(bugRepairSkipsRemoved) {
			idle = append(idle, id)
		}
	}
	slices.SortFunc(idle, func(a, b workload.CgroupID) int {
		return cmp.Or(cmp.Compare(a.Hierarchy, b.Hierarchy), cmp.Compare(a.ID, b.ID))
	})
	return idle
}

// known reports whether the lineage is known up to the root. A path that is too
// long for the kernel to print is empty: nothing is known of its names.
func (g *cgroup) known() bool {
	for ; g != nil; g = g.parent {
		if g.root {
			return true
		}
		if !g.named || g.path == "" {
			return false
		}
	}
	return false
}

// missingLink is the first ancestor whose parent is not known.
func (g *cgroup) missingLink() *cgroup {
	for ; g != nil; g = g.parent {
		if !g.root && (!g.named || g.parent == nil) {
			return g
		}
	}
	return nil
}

// setOf interns the cgroups that a process is in at an instant.
func (m *machine) setOf(key kernel.CgroupSet, at workload.KTime) *cgset {
	for _, id := range key.Slice() {
		if g := m.cgroups[id]; g != nil && g.dead && at > g.goneAt && !m.bugs.has(bugCgroupReuseUnnoticed) {
			m.retire(g)
		}
	}
	if s := m.sets[key]; s != nil {
		return s
	}
	s := &cgset{key: key, procs: map[*proc]struct{}{}}
	s.ids = slices.Clone(key.IDs[:min(int(key.N), kernel.MaxHierarchies)])
	for _, id := range s.ids {
		g := m.cgroupOf(id)
		if g.sets == nil {
			g.sets = map[*cgset]struct{}{}
		}
		g.sets[s] = struct{}{}
		s.cgroups = append(s.cgroups, g)
		if l := g.missingLink(); l != nil {
			m.askLineage(g)
		}
	}
	m.sets[key] = s
	return s
}

// inRoots reports whether all are the roots of their hierarchies, which are
// nobody's: no source can be asked whose they are.
func (s *cgset) inRoots() bool {
	return !slices.ContainsFunc(s.cgroups, func(g *cgroup) bool { return !g.root })
}

// leave removes a process from its set, and the set with the last one.
func (m *machine) leave(p *proc) {
	s := p.set
	if s == nil {
		return
	}
	p.set = nil
	delete(s.procs, p)
	p.countOuter()
	if len(s.procs) > 0 {
		return
	}
	if m.sets[s.key] == s {
		delete(m.sets, s.key)
	}
	for _, g := range s.cgroups {
		delete(g.sets, s)
		m.collect(g)
	}
}

// verdict says what the cgroups of a set mean, cached until anything changes.
func (m *machine) verdict(s *cgset) *verdict {
	if s.gen == m.gen {
		return &s.v
	}
	s.gen = m.gen
	s.v = verdict{known: true}
	for _, g := range s.cgroups {
		m.addTo(&s.v, g)
	}
	return &s.v
}

// addTo folds in one hierarchy. Only registrations decide (rule 4); a hierarchy
// that names nobody is nothing (rule 5).
func (m *machine) addTo(v *verdict, g *cgroup) {
	if !g.known() {
		v.known = false
	}
	var reg *container
	beside := false // the cgroup below is a helper's
	for p := g; p != nil && reg == nil; p = p.parent {
		reg = p.reg
		if reg == nil && !p.claim.IsZero() && !beside {
			v.claim(p)
			v.belowClaim = v.belowClaim || p != g
		}
		beside = p.beside
		if reg == nil && p.candidate != nil && p.candidate.run != nil && m.bugs.has(bugNameTrusted) {
			reg = p.candidate
		}
		if m.bugs.has(bugChildCgroupNotInherited) {
			break
		}
	}
	switch {
	case reg == nil:
	case v.reg == reg:
		v.direct = v.direct || g.reg == reg
	case v.reg == nil || reg.within(v.reg) || !v.direct && reg.below(v.reg):
		v.reg, v.direct = reg, g.reg == reg
	case !v.reg.within(reg) && (g.reg == reg || !v.reg.below(reg)):
		v.rival = reg
	}
	for p := g; p != nil && v.service == nil; p = p.parent {
		v.service = p.service
	}
}

func (v *verdict) claim(g *cgroup) {
	v.disputed = v.disputed || g.disputed
	for _, id := range v.claims {
		if id.ID == g.claim.ID {
			return
		}
	}
	v.claims = append(v.claims, g.claim)
	v.candidate = g.candidate
}

// resettle judges anew every process in or below a cgroup.
func (m *machine) resettle(g *cgroup) {
	for _, p := range g.members(nil) {
		m.settle(p)
	}
}

// members lists the processes in and below a cgroup, ordered by PID and start
// so that a run of the machine depends on its inputs alone.
func (g *cgroup) members(into []*proc) []*proc {
	into = g.collectMembers(into)
	slices.SortFunc(into, compareProcs)
	return slices.Compact(into)
}

func (g *cgroup) collectMembers(into []*proc) []*proc {
	for s := range g.sets {
		for p := range s.procs {
			into = append(into, p)
		}
	}
	for _, c := range g.children {
		into = c.collectMembers(into)
	}
	return into
}

func compareProcs(a, b *proc) int {
	return cmp.Or(cmp.Compare(a.kp.Key.Start, b.kp.Key.Start), cmp.Compare(a.kp.Key.PID, b.kp.Key.PID), cmp.Compare(a.serial, b.serial))
}
