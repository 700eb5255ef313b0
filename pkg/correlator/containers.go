// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"slices"

	"github.com/pidigree/pidigree/pkg/workload"
)

// container is one container as the machine knows it.
type container struct {
	key    workload.ContainerID
	serial uint64
	since  workload.KTime // when it was known of first
	heard  bool           // its cgroup was heard to be made
	ids    []workload.ContainerID
	// layers are what the sources say, by source.
	layers  map[int]*workload.Container
	layerAt map[int]workload.KTime
	// initAt is when each source named the init that it names, the last time.
	initAt map[int]workload.KTime
	gone   map[int]bool // the source said that it deleted it
	asks   []ask
	run    *run
	// waiting are runs that a source reported whose init has not been checked yet.
	waiting map[int]*workload.Run
	// parent is the container that this one's engine runs in; nil on the host.
	parent *container
	// nested counts the claims below it that were followed up.
	nested int
	// claimedBy counts the live cgroups whose name claims it.
	claimedBy int
	// guesses are the cgroups whose path may be about it.
	guesses       []*cgroup
	fromClaim     bool
	wanted        workload.KTime
	claimedOnly   bool
	known         bool
	complete      bool
	timeline      []workload.Mark
	goneAt        workload.KTime
	back          bool // since it was gone, a source was asked and has it
	forgotten     bool
	registerTries int
	dirty         bool
	// pods and tasks are those that its layers name: one, but where sources disagree.
	pods  []*group[workload.Pod]
	tasks []*group[workload.Task]
}

// run is one life of a container.
type run struct {
	init      *proc
	cgroups   []*cgroup
	homeless  bool // it has no cgroup of its own
	paths     []workload.CgroupPath
	source    int
	at        workload.KTime
	firstExec workload.KTime
	exit      *workload.Exit
	oom       bool // the out-of-memory killer chose one of its processes
}

// maxMarks bounds a timeline.
const maxMarks = 24

func (m *machine) newContainer(id workload.ContainerID) *container {
	m.seq++
	c := &container{key: id, serial: m.seq, since: m.now, layers: map[int]*workload.Container{}, layerAt: map[int]workload.KTime{}, initAt: map[int]workload.KTime{}, gone: map[int]bool{}, asks: make([]ask, len(m.cfg.sources))}
	for i := range c.asks {
		if !m.mayDescribe(i, id) {
			c.asks[i].stage = askDone
		}
	}
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
	if id.Everywhere() && m.byBare[id.ID] == nil {
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
	if isLongHex(id.ID) && m.bugs.has(bugPrefixMerges) {
		for _, c := range m.all {
			if shortID(c.key.ID) == shortID(id.ID) {
				return c
			}
		}
	}
	if id.Everywhere() {
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

// below reports whether a cgroup of the container's is below one of another's, or may
// be: an engine of the host's put it there. Where another hierarchy shows no more than
// that a process is below the other's, its own cgroup may not be known or registered
// yet; and where the two are registered in no hierarchy in common, nothing shows where
// one is seen from the other.
func (c *container) below(o *container) bool {
	if c.run == nil || o.run == nil {
		return false
	}
	common := len(c.run.cgroups) == 0
	for _, g := range c.run.cgroups {
		for p := g.parent; p != nil; p = p.parent {
			if p.reg == o {
				return true
			}
			if p.reg != nil {
				common = true // below somebody else
				break
			}
		}
		common = common || slices.ContainsFunc(o.run.cgroups, func(h *cgroup) bool { return h.id.Hierarchy == g.id.Hierarchy })
	}
	return !common
}

func (c *container) registered() bool {
	return c.run != nil && (len(c.run.cgroups) > 0 || c.run.homeless)
}

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

func (m *machine) unalias(c *container, id workload.ContainerID) {
	if m.conts[id] == c {
		delete(m.conts, id)
	}
	if m.byBare[id.ID] == c {
		delete(m.byBare, id.ID)
	}
}

func (m *machine) containerGone(c *container) {
	c.back = false
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
	if c.forgotten || !c.fromClaim || len(c.layers) > 0 || len(c.waiting) > 0 || c.claimedBy > 0 || c.run != nil {
		return
	}
	for i := range c.asks {
		if c.asks[i].busy || c.asks[i].waits {
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
	m.leaveGroups(c)
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
