// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// settle applies rule 5 to one process and publishes it where the verdict changed.
func (m *machine) settle(p *proc) {
	if p.set == nil {
		return
	}
	v := m.verdict(p.set)
	before := *p
	if p.lost && p.member == nil && p.taint == "" {
		m.fromParent(p)
	}
	m.join(p, v)
	m.judge(p, v)
	m.noteClaimed(p)
	p.serve(v.service)
	if p.status != before.status || p.conf != before.conf || p.member != before.member ||
		p.reason != before.reason || p.entry != before.entry || p.service != before.service || p.foreign != before.foreign {
		if p.status == workload.StatusConflict && before.status != workload.StatusConflict {
			m.conflicts++
		}
		m.dirtyProc(p)
	}
	if p.member != before.member {
		m.userExec(p)
	}
	if p.status != before.status {
		m.resettleBelow(p)
	}
	m.wakeAlone(p)
}

// join decides which container a process belongs to.
func (m *machine) join(p *proc, v *verdict) {
	switch y := v.reg; {
	case p.taint == "" && y == nil && p.member == nil:
		m.joinHomeless(p, v)
	case p.taint != "" || y == nil || p.member == y:
	case v.rival != nil:
	case p.member == nil:
		if z := m.foreignPIDNS(p, y); z != nil {
			if !v.direct && z.below(y) {
				return // of z's own cgroup there, not all hierarchies are known or registered yet
			}
			p.taint = "in the cgroup of " + y.label() + " with the PID namespace of " + z.label()
			return
		}
		// Whoever comes in with namespaces that are not the host's may come from
		// a container that is not registered yet, or whose start was missed.
		if (p.lost || m.looksContained(p)) && !m.provenMember(p, v) && !m.bugs.has(bugForeignNamespacesIgnored) {
			return
		}
		// An engine of the host's may make a container of its own below another's
		// (--cgroup-parent), and moves its init there before that has namespaces.
		if !v.direct && !p.lost && !m.looksContained(p) && !m.bugs.has(bugBelowIsMember) {
			return
		}
		if y.over(p.setAt) && !p.lost && !m.looksContained(p) {
			return // nobody enters a container that has ended: the id may be another cgroup's
		}
		if p.ending && !p.lost && !m.looksContained(p) {
			return // its end alone shows it there: a cgroup made since, with that id, is heard of later
		}
		if y.begunAfter(p) {
			return // and nobody was in it before it began
		}
		if m.mayBeNext(p, y) {
			return
		}
		p.member, p.lost = y, false
		p.entry = y.entryOf(p)
	case y.within(p.member):
		p.member, p.entry = y, y.entryOf(p)
	case p.member.within(y), !v.direct && p.member.below(y):
	default:
		p.taint = "came from " + p.member.label() + " and is in the cgroup of " + y.label()
	}
	if p.member != nil && p.member.run != nil && p.member.run.init == p {
		p.entry = workload.EntryInit
	}
}

// mayBeNext reports whether a container's cgroup, which a process of the host's has
// entered, may be a later one of its id by now, unheard: its init was not seen alive
// since, or is younger than what is known of the process's being there, as of one
// that came with the runtime. The init, or the process, is read then.
func (m *machine) mayBeNext(p *proc, y *container) bool {
	if !m.cfg.idsComeAgain || p.lost || m.looksContained(p) || y.run == nil || y.run.init == p {
		return false
	}
	init := y.run.init
	if uint64(p.setAt) < init.kp.Key.Start {
		if p.exit == nil && !p.read {
			p.read = true
			m.request(request{kind: reqProcess, pid: p.kp.Key.PID})
		}
		return true
	}
	if init.seenAt >= p.arrived() {
		return false
	}
	if init.exit == nil && !init.read {
		init.read = true
		m.request(request{kind: reqProcess, pid: init.kp.Key.PID})
	}
	return true
}

// initSeen judges those anew who wait for it.
func (m *machine) initSeen(init *proc) {
	if c := m.runOf(init); m.cfg.idsComeAgain && c != nil {
		for _, g := range c.run.cgroups {
			m.resettle(g)
		}
	}
}

// over reports whether the container's run had ended at an instant.
func (c *container) over(at workload.KTime) bool {
	return c.run != nil && c.run.exit != nil && c.run.exit.At != 0 && at > c.run.exit.At
}

// begunAfter reports whether the container's run began after a process had ended.
func (c *container) begunAfter(p *proc) bool {
	return c.run != nil && p.exit != nil && p.exit.At != 0 && uint64(p.exit.At) < c.run.init.kp.Key.Start
}

// provenMember decides for a process in y's cgroup, or below, whose history was
// lost: by the parent, where that is one of y's; else by y's own PID namespace; else,
// for a container in the host's PID namespace, by its mount namespace. What none of
// them shows may as well be an intruder.
//
// Another container may share y's PID namespace, and y's init gets its orphans. Where
// y shares one, and below y's cgroup, the mount namespace has to be y's, too, or the
// parent one of y's and every container listed.
func (m *machine) provenMember(p *proc, v *verdict) bool {
	y := v.reg
	if y.run == nil || y.run.init == p {
		return true
	}
	mount := p.kp.MountNS != 0 && p.kp.MountNS == y.run.init.kp.MountNS
	if parent := m.lookup(p.kp.Parent); parent != nil && parent != p && startsAs(parent, p.kp.ParentStart) && p.kp.ParentStart != 0 {
		if parent.member != nil && parent.member != y && !y.within(parent.member) && !p.orphanOf(parent) && (v.direct || !parent.member.below(y)) {
			p.taint = "came from " + parent.member.label() + " and is in the cgroup of " + y.label()
			return false
		}
		if parent.member == y && (v.direct || mount || p.lost && !m.unlisted()) {
			return true
		}
	}
	own := innermost(y.run.init)
	shared := m.byPIDNS[own.Inum] != nil && m.byPIDNS[own.Inum] != y
	if own.Inum == 0 || (shared || !v.direct) && !mount {
		return mount
	}
	for _, ns := range p.kp.PIDNS {
		if ns.Inum == own.Inum {
			return true
		}
	}
	return false
}

// orphanOf reports whether a process may have got its parent by the end of the one
// that made it: the init of its PID namespace, which containers may share.
func (p *proc) orphanOf(parent *proc) bool {
	in := innermost(parent)
	return in.PID == 1 && in.Inum == innermost(p).Inum && p.kp.MountNS != parent.kp.MountNS
}

// foreignPIDNS gives another registered container whose init's PID namespace
// the process is in or below, unless y's own init is in it too (--pid container:), or
// that one is inside of y.
func (m *machine) foreignPIDNS(p *proc, y *container) *container {
	for _, ns := range p.kp.PIDNS {
		z := m.byPIDNS[ns.Inum]
		if ns.Inum == 0 || z == nil || z == y || y.within(z) || z.within(y) {
			continue
		}
		if y.run != nil && y.run.inPIDNS(ns.Inum) {
			continue
		}
		return z
	}
	return nil
}

// judge turns membership and cgroups into a status.
func (m *machine) judge(p *proc, v *verdict) {
	p.conf, p.reason, p.foreign = workload.ConfidenceNone, "", false
	switch {
	case p.taint != "":
		p.status, p.reason = workload.StatusConflict, p.taint
	case v.rival != nil && m.unsureOf(p, v):
		p.status = workload.StatusUnknown
		p.reason = "its cgroups name both " + v.reg.label() + " and " + v.rival.label() + ", and may be others by now"
	case v.rival != nil:
		p.status = workload.StatusConflict
		p.reason = "its cgroups name both " + v.reg.label() + " and " + v.rival.label()
	case p.member != nil:
		p.status, p.conf = workload.StatusContainer, workload.Confirmed
	case v.reg != nil && !v.direct:
		p.status = workload.StatusUnknown
		p.reason = "in a cgroup below that of " + v.reg.label() + " that no source has registered"
	case v.reg != nil:
		p.status = workload.StatusUnknown
		p.reason = "in the cgroup of " + v.reg.label() + ", but how it came there was not seen"
	case !v.known && m.bugs.has(bugHostForUnknown):
		p.status = workload.StatusHost
	case !v.known:
		p.status, p.reason = workload.StatusUnknown, "its cgroup is not known yet"
	case len(v.claims) > 0:
		m.judgeClaim(p, v)
	default:
		m.judgeHost(p)
	}
}

// unsureOf reports whether two containers that the cgroups of a process name may
// be those of earlier cgroups with the same ids: one had ended before it was seen
// there, or nothing is known of how it came there and the names were read before
// it was made. They are read again then.
func (m *machine) unsureOf(p *proc, v *verdict) bool {
	if v.reg.over(p.setAt) || v.rival.over(p.setAt) {
		return true
	}
	if !p.lost {
		return false
	}
	if m.snapshot.active { // and who of them has ended is being read
		m.snapshot.judgeLater(p)
		return true
	}
	return p.exit == nil && m.namesOlder(p)
}

// namesOlder reports whether the name of one of its cgroups was heard or read
// before the process was seen in it, and has it read: nobody keeps a cgroup that
// is empty, and where its removal was not heard its id may be another one's.
func (m *machine) namesOlder(p *proc) bool {
	older := false
	for _, g := range p.set.cgroups {
		if !g.root && g.knownAt < p.arrived() {
			m.askLineage(g)
			older = true
		}
	}
	return older
}

// judgeClaim handles a name that nobody has registered. It is believed, as a
// claim, only when it is the only one and every source has said that it does
// not know that id: whoever borrows a name that a source knows gets nothing.
func (m *machine) judgeClaim(p *proc, v *verdict) {
	c, new := v.candidate, p.namedIn != p.set
	p.status = workload.StatusUnknown
	switch {
	case m.borrowed(p) != nil:
		p.reason = "its cgroup's name claims " + shortID(v.claims[0].ID) + ", its namespaces are those of " + m.borrowed(p).label()
	case v.disputed:
		p.reason = "its cgroup's name claims " + shortID(v.claims[0].ID) + ", a source names another container"
	case len(v.claims) > 1:
		p.reason = "its cgroup's path claims several containers and none is registered"
	case c == nil || c.pending():
		p.reason = "its cgroup's name claims " + shortID(v.claims[0].ID) + ", which no source has registered yet"
	case c.registered() || len(c.layers) > 0:
		p.reason = "its cgroup's name claims " + shortID(v.claims[0].ID) + ", whose own cgroup is another one or not registered"
	case p.exit != nil && new:
		p.reason = "its cgroup's name claims " + shortID(v.claims[0].ID) + ", and it ended before anybody could deny it"
	case m.looksContained(p) && p.set.owner != nil:
		p.reason = "its cgroup's name claims " + shortID(v.claims[0].ID) + ", a source says that it belongs to " + p.set.owner.label()
	case m.looksContained(p) && new && (p.set.located < maxLocate || p.set.locating > 0):
		p.reason = "its cgroup's name claims " + shortID(v.claims[0].ID) + "; the sources are being asked whose it is"
		m.locateSoon(p.set)
	case v.belowClaim && !m.looksContained(p):
		// As with a registered one's: an engine of the host's may make a container of its own there.
		p.reason = "in a cgroup below one whose name claims " + shortID(v.claims[0].ID)
	case p.exit == nil && new && m.namesOlder(p):
		p.reason = "its cgroup's name claimed " + shortID(v.claims[0].ID) + " before it came there; it is being read again"
	case new && m.unreadSince(p, p.set.deniedAt):
		p.reason = "its cgroup's name claims " + shortID(v.claims[0].ID) + "; where it is now is being read"
	default:
		p.status, p.conf = workload.StatusContainer, workload.Claimed
		p.namedIn = p.set
		c.claimedOnly = true
		m.dirtyContainer(c)
	}
}

// borrowed gives the registered container whose namespaces a process is in that
// sits in a cgroup of no registered container: no name is believed of such a one.
func (m *machine) borrowed(p *proc) *container {
	if !m.looksContained(p) {
		return nil
	}
	for _, c := range m.all {
		if c.run == nil || c.run.exit != nil {
			continue
		}
		in := innermost(c.run.init)
		if in.Inum != 0 && slices.ContainsFunc(p.kp.PIDNS[:], func(n workload.PIDNamespace) bool { return n.Inum == in.Inum }) {
			return c
		}
		if mnt := c.run.init.kp.MountNS; mnt == p.kp.MountNS && mnt != m.cfg.hostMountNS {
			return c
		}
	}
	return nil
}

// noteClaimed keeps the processes that are named by a claim alone: each new
// registration may show that the claim was borrowed.
func (m *machine) noteClaimed(p *proc) {
	if p.conf == workload.Claimed {
		m.claimed[p] = struct{}{}
	} else {
		delete(m.claimed, p)
	}
}

func (m *machine) judgeHost(p *proc) {
	if p.initOf != nil && m.looksContained(p) {
		p.status, p.reason = workload.StatusUnknown, "a source calls it the init of "+p.initOf.label()+", which is not registered"
		return
	}
	if p.exit != nil && m.looksContained(p) && p.status != workload.StatusHost {
		p.status, p.reason = workload.StatusUnknown, "in namespaces of its own, and it ended before anybody said whose"
		return
	}
	if s := p.set; s.owner != nil && m.looksContained(p) && (s.owner.forgotten || s.owner.goneAt > s.ownerAt && p.started >= s.owner.goneAt) {
		m.askOwner(s)
	}
	if o := p.set.owner; o != nil && m.looksContained(p) {
		p.status, p.reason = workload.StatusUnknown, "a source says that it belongs to "+o.label()+", whose cgroup is not registered yet"
		return
	}
	if p.set.deep && m.looksContained(p) {
		p.status, p.reason = workload.StatusUnknown, "in namespaces of its own and too many cgroups for the sources to be asked about each"
		return
	}
	if m.looksContained(p) && p.hostIn != p.set && (p.set.located < maxLocate || p.set.locating > 0) {
		p.status, p.reason = workload.StatusUnknown, "in namespaces of its own; the sources are being asked"
		m.locateSoon(p.set)
		return
	}
	if p.left && !m.bugs.has(bugEscapeForgotten) && (p.kp.PIDNSLevel > 0 || m.looksContained(p) && m.verdict(p.set).service == nil) {
		p.status, p.reason = workload.StatusUnknown, "in namespaces of its own and moved to a cgroup that no source knows"
		return
	}
	if p.lost && m.borrowed(p) != nil {
		p.status, p.reason = workload.StatusUnknown, "in the namespaces of "+m.borrowed(p).label()+" and in no container's cgroup"
		return
	}
	if p.lost && m.looksContained(p) && p.set.inRoots() && p.hostIn != p.set && m.unlisted() {
		p.status, p.reason = workload.StatusUnknown, "in namespaces of its own and no cgroup, and a source could not list what it has"
		return
	}
	if !p.joined && !m.likeItsInit(p) {
		p.status, p.reason = workload.StatusUnknown, "in a PID namespace whose init is not known to be the host's"
		return
	}
	if p.lost && p.hostIn != p.set && (m.snapshot.active || !p.whole) && m.looksContained(p) {
		p.status, p.reason = workload.StatusUnknown, "in namespaces of its own; who else is in them is being read"
		m.snapshot.judgeLater(p)
		if !m.snapshot.active {
			m.repair() // its fork was lost, and perhaps theirs
		}
		return
	}
	if p.lost && p.hostIn != p.set && m.amongOthers(p) {
		p.status, p.reason = workload.StatusUnknown, "in the mount namespace of a process that is not known to be the host's"
		return
	}
	if m.tooYoung(p) {
		p.status, p.reason = workload.StatusUnknown, "in namespaces of its own and just made; it may be on its way into a container"
		return
	}
	if m.deniedBefore(p) {
		p.status, p.reason = workload.StatusUnknown, "in namespaces of its own; the sources are being asked again"
		return
	}
	if m.mayBeInit(p) {
		p.status, p.reason = workload.StatusUnknown, "in namespaces of its own and no container's cgroup; the runtimes are being asked whether it is an init"
		return
	}
	if m.unread(p) {
		p.status, p.reason = workload.StatusUnknown, "in namespaces of its own; where it is now is being read"
		return
	}
	if m.keepsToItself(p) && !m.bugs.has(bugStrangerIsHost) {
		p.status, p.reason = workload.StatusUnknown, "in a PID namespace and cgroups of its own, of which no source knows"
		return
	}
	for _, ns := range p.kp.PIDNS {
		if z := m.byPIDNS[ns.Inum]; z != nil && ns.Inum != 0 {
			p.foreign = true
			if p.lost {
				p.status, p.reason = workload.StatusUnknown, "in the PID namespace of "+z.label()+" and in no container's cgroup"
				return
			}
		}
	}
	p.status, p.hostIn = workload.StatusHost, p.set
}

// likeItsInit: a process that was born in a PID namespace, or of whose history
// nothing is known, is of the host where the namespace's init is. What escaped a
// container's cgroups before that was registered, or before it was seen, is not.
func (m *machine) likeItsInit(p *proc) bool {
	ns := innermost(p)
	if p.kp.PIDNSLevel == 0 || ns.PID == 1 {
		return true
	}
	init := m.initOf(ns.Inum)
	return init != nil && init.status == workload.StatusHost
}

// amongOthers reports whether somebody in the same mount namespace, in another
// cgroup, is of a container or of nobody knows whom: with the history lost, what
// has left a container in the host's PID namespace is told by nothing else. The
// dead count, too: their container may have ended with them.
func (m *machine) amongOthers(p *proc) bool {
	if !m.looksContained(p) {
		return false
	}
	for q := range m.inMount[p.kp.MountNS] {
		if p.sharesFate(q) {
			return true
		}
	}
	return false
}

// sharesFate reports whether q, of p's mount namespace, in another cgroup, or moved
// or called an init, or of which that is being asked, is not known to be the host's.
func (p *proc) sharesFate(q *proc) bool {
	return q != p && (q.set != p.set || q.initOf != nil || q.left || q.init.asking > 0 || q.init.waits) && q.status != workload.StatusHost
}

// unlisted reports whether a source that has files could not list all of its own.
func (m *machine) unlisted() bool {
	for i, s := range m.cfg.sources {
		if s.files && m.partial[i] {
			return true
		}
	}
	return false
}

// initOf gives the living init of a PID namespace.
func (m *machine) initOf(inum uint32) *proc {
	for q := range m.inNS[inum] {
		if in := innermost(q); q.exit == nil && in.Inum == inum && in.PID == 1 {
			return q
		}
	}
	return nil
}

// resettleBelow judges those anew who are judged by this init.
func (m *machine) resettleBelow(init *proc) {
	ns := innermost(init)
	if ns.PID != 1 {
		return
	}
	for _, q := range sortedSet(m.inNS[ns.Inum]) {
		if q != init && !q.joined && q.exit == nil {
			m.settle(q)
		}
	}
}

// tooYoung reports whether a process may still be a runtime's, on its way into a
// container: made in new namespaces, with its move and exec under way to us.
func (m *machine) tooYoung(p *proc) bool {
	started := p.since()
	until := started + youngFor
	if started == 0 || p.exit != nil || !m.looksContained(p) {
		return false
	}
	if m.now >= until {
		return false
	}
	if !p.young {
		p.young = true
		m.at(until, func() {
			p.young = false
			p.read = false
			if m.procs[p.kp.Key.PID] == p {
				m.settle(p)
			}
		})
	}
	return true
}

// unread reports whether a process with namespaces of its own has not been seen
// since it was young, or since the last source denied it: an event that nobody
// misses may have moved it, or it has ended, and with it what the sources knew. It
// is read from /proc then; only what was read is said.
func (m *machine) unread(p *proc) bool {
	if p.status == workload.StatusHost && p.hostIn == p.set { // found before
		return false
	}
	return m.unreadSince(p, max(p.since()+youngFor, p.set.deniedAt, p.init.deniedAt))
}

// unreadSince reports whether a process with namespaces of its own has not been
// seen since an instant, and has it read.
func (m *machine) unreadSince(p *proc, at workload.KTime) bool {
	if p.exit != nil || !m.looksContained(p) || p.seenAt >= at {
		return false
	}
	if !p.read {
		p.read = true
		m.request(request{kind: reqProcess, pid: p.kp.Key.PID})
	}
	return true
}

// since is an instant at which the process is known to have been there, soon
// after its start.
func (p *proc) since() workload.KTime {
	switch {
	case p.started != 0:
		return p.started
	case p.kp.Key.Ticks && p.kp.Key.Start != 0:
		return workload.KTime(p.kp.Key.Start + workload.TickNS)
	}
	return workload.KTime(p.kp.Key.Start)
}

// arrived is an instant at which a process is known to have been in its cgroups.
func (p *proc) arrived() workload.KTime { return max(p.since(), p.placedAt) }

// deniedBefore reports whether what the sources denied may have been another
// cgroup than the one that this process is in: its id may have come again unheard.
// The names are read and the sources asked once more, since it was made.
func (m *machine) deniedBefore(p *proc) bool {
	s := p.set
	if p.exit != nil || !m.looksContained(p) || p.hostIn == s {
		return false
	}
	read := !m.namesOlder(p)
	if read && s.askedAt < p.arrived() {
		s.located = min(s.located, maxLocate-1)
		m.locateSoon(s)
		return true
	}
	return !read
}

// youngFor is longer than a loss takes to be noticed and repaired.
const youngFor = 1500 * workload.KTime(time.Millisecond)
