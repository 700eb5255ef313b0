// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"errors"
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// groupKind is what pods and tasks do not have in common.
type groupKind[E any] struct {
	request requestKind
	// asked says whether a source can be asked.
	asked func(sourceInfo) bool
	// in gives the key of the group that a container's description names; empty for none.
	in func(*workload.Container) string
	// key is the entity's, and also a further id that it is known by; see podOf.
	key, also func(*E) string
	// own makes the correlator's own layer: what the containers say of their group,
	// and who has not answered yet.
	own func(g *group[E], members []*container, missing []string) *E
	// sources is a field of every entity.
	sources func(*E) *[]workload.Provenance
	// change makes a change of the store's.
	change func(key, source string, layer *E, gone workload.KTime, forget bool) store.Change
	// of gives the groups that a container is in.
	of func(*container) *[]*group[E]
}

// group is one pod or task as the machine knows it: of the containers that say
// that they are in it, and of the sources that know groups of its kind. Who it is
// comes with its containers; no process waits for more.
type group[E any] struct {
	key    string
	serial uint64
	ids    []string // key, the ids that sources have for it, and a static pod's hash
	// layers are what the sources say, by source.
	layers  map[int]*E
	layerAt map[int]workload.KTime
	gone    map[int]bool // the source said that it has it no more
	asks    []groupAsk
	members map[*container]struct{}
	// closing: a look at whether it is over is due.
	closing   bool
	goneAt    workload.KTime
	forgotten bool
	dirty     bool
}

// groupAsk is where the machine is with one source about one group.
type groupAsk struct {
	// busy: a question is under way; waits: a timer for the next is set.
	busy, waits bool
	// answered: the source has described it. done: it is not asked any more, of its own accord.
	answered, done bool
	// denied: it has said that it does not know the group, the last time. It may yet.
	denied bool
	tries  int
}

// groups is the machine's share of one kind.
type groups[E any] struct {
	groupKind[E]
	m    *machine
	byID map[string]*group[E]
	all  []*group[E]
	// listed are the sources whose first list of the kind has ended.
	listed map[int]bool
	dirty  []*group[E]
}

func newGroups[E any](m *machine, kind groupKind[E]) *groups[E] {
	return &groups[E]{groupKind: kind, m: m, byID: map[string]*group[E]{}, listed: map[int]bool{}}
}

func (gs *groups[E]) add(key string) *group[E] {
	gs.m.seq++
	g := &group[E]{
		key: key, serial: gs.m.seq, layers: map[int]*E{}, layerAt: map[int]workload.KTime{}, gone: map[int]bool{},
		asks: make([]groupAsk, len(gs.m.cfg.sources)), members: map[*container]struct{}{},
	}
	gs.all = append(gs.all, g)
	gs.alias(g, key)
	gs.touch(g)
	return g
}

func (gs *groups[E]) alias(g *group[E], id string) {
	if id == "" || slices.Contains(g.ids, id) {
		return
	}
	g.ids = append(g.ids, id)
	if gs.byID[id] == nil {
		gs.byID[id] = g
	}
}

// touch has the group's own layer written at the end of the step.
func (gs *groups[E]) touch(g *group[E]) {
	if !g.dirty {
		g.dirty = true
		gs.dirty = append(gs.dirty, g)
	}
}

// note makes a container a member of the groups that its layers name: one, if the
// sources agree.
func (gs *groups[E]) note(c *container) {
	var want []*group[E]
	for _, i := range c.described() {
		key := gs.in(c.layers[i])
		if key == "" {
			continue
		}
		g := gs.byID[key]
		if g == nil {
			g = gs.add(key)
		}
		if !slices.Contains(want, g) {
			want = append(want, g)
		}
	}
	for _, g := range slices.Clone(*gs.of(c)) {
		if !slices.Contains(want, g) {
			gs.leave(c, g)
		}
	}
	for _, g := range want {
		if _, in := g.members[c]; !in {
			g.members[c] = struct{}{}
			*gs.of(c) = append(*gs.of(c), g)
		}
		gs.touch(g) // the name that it has may have come
		gs.ask(g)
	}
}

func (gs *groups[E]) leave(c *container, g *group[E]) {
	delete(g.members, c)
	gs.unlink(c, g)
	gs.close(g)
}

func (gs *groups[E]) unlink(c *container, g *group[E]) {
	in := gs.of(c)
	*in = slices.DeleteFunc(*in, func(o *group[E]) bool { return o == g })
}

// leaveAll is the end of a container, or of its being one of its own.
func (gs *groups[E]) leaveAll(c *container) {
	for _, g := range slices.Clone(*gs.of(c)) {
		gs.leave(c, g)
	}
}

// memberChanged follows the life of a container: its group lives while one of them
// does.
func (gs *groups[E]) memberChanged(c *container) {
	for _, g := range *gs.of(c) {
		switch {
		case !g.live():
			gs.close(g)
		case g.goneAt != 0:
			g.goneAt = 0
			gs.touch(g)
			gs.ask(g)
		}
	}
}

// live reports whether one of its containers may run, now or later.
func (g *group[E]) live() bool {
	for c := range g.members {
		if c.goneAt == 0 && !c.forgotten && (c.run == nil && !c.saidEnded() || c.run != nil && c.run.exit == nil) {
			return true
		}
	}
	return false
}

// setLayer stores what a source says.
func (gs *groups[E]) setLayer(i int, l *E) *group[E] {
	g := gs.owner(l)
	gs.alias(g, gs.key(l))
	gs.alias(g, gs.also(l))
	a := &g.asks[i]
	a.answered, a.done, a.denied, a.tries = true, true, false, 0
	g.layers[i], g.layerAt[i], g.gone[i], g.goneAt = l, gs.m.now, false, 0
	gs.publishLayer(g, i)
	gs.touch(g)
	gs.ask(g)
	return g
}

// owner finds the group that a description is of. That of a static pod may have
// the uid of its mirror, while its cgroup and its containers have the hash of its
// manifest; anybody may write that hash onto a pod that is not static.
func (gs *groups[E]) owner(l *E) *group[E] {
	g := gs.byID[gs.key(l)]
	if also := gs.also(l); also != "" {
		if o := gs.byID[also]; o != nil && o != g {
			if g != nil {
				return gs.merge(o, g)
			}
			return o
		}
	}
	if g == nil {
		g = gs.add(gs.key(l))
	}
	return g
}

// merge folds b into a: they turned out to be one.
func (gs *groups[E]) merge(a, b *group[E]) *group[E] {
	for _, id := range b.ids {
		if gs.byID[id] == b {
			delete(gs.byID, id)
		}
		gs.alias(a, id)
	}
	for i, l := range b.layers {
		if a.layers[i] == nil {
			a.layers[i], a.layerAt[i], a.gone[i] = l, b.layerAt[i], b.gone[i]
			a.asks[i].answered, a.asks[i].done = true, true
			gs.publishLayer(a, i)
		}
	}
	for c := range b.members {
		gs.unlink(c, b)
		gs.unlink(c, a)
		*gs.of(c) = append(*gs.of(c), a)
		a.members[c] = struct{}{}
	}
	gs.drop(b)
	gs.put(gs.change(b.key, "", nil, 0, true))
	gs.touch(a)
	return a
}

func (gs *groups[E]) put(ch store.Change) { gs.m.out.changes = append(gs.m.out.changes, ch) }

// hint applies what a source told by itself.
func (gs *groups[E]) hint(i int, kind collectors.HintKind, l *E) {
	if gs.key(l) == "" {
		return
	}
	if kind != collectors.HintDeleted {
		gs.setLayer(i, l)
		return
	}
	if g := gs.byID[gs.key(l)]; g != nil {
		gs.deleted(g, i)
	}
}

// deleted: a source has it no more. It is gone once every source that described it
// says so and its containers have ended.
func (gs *groups[E]) deleted(g *group[E], i int) {
	if g.layers[i] == nil {
		return
	}
	g.gone[i] = true
	gs.close(g)
}

// close has a look, some time later, at whether a group is over: what ends one and
// what tells of it come in any order, and between two containers of one there may
// be none.
func (gs *groups[E]) close(g *group[E]) {
	if g.closing || g.forgotten || g.goneAt != 0 || g.live() {
		return
	}
	g.closing = true
	gs.m.at(gs.m.now+goneCheck, func() {
		g.closing = false
		if g.forgotten || g.goneAt != 0 || g.live() {
			return
		}
		if gs.denied(g) {
			gs.over(g)
		}
	})
}

// denied reports whether no source has the group any more; those that did are
// asked again, once for each end of a container.
func (gs *groups[E]) denied(g *group[E]) bool {
	all := true
	for i := range g.asks {
		if g.layers[i] != nil && !g.gone[i] {
			all = false
			gs.send(g, i)
		}
	}
	return all
}

func (gs *groups[E]) over(g *group[E]) {
	g.goneAt = gs.m.now
	gs.touch(g)
	gs.m.at(gs.m.now+ghostAge, func() {
		if g.goneAt != 0 && g.goneAt+ghostAge <= gs.m.now {
			gs.drop(g)
		}
	})
}

func (gs *groups[E]) drop(g *group[E]) {
	if g.forgotten {
		return
	}
	g.forgotten = true
	for _, id := range g.ids {
		if gs.byID[id] == g {
			delete(gs.byID, id)
		}
	}
	for c := range g.members {
		gs.unlink(c, g)
	}
	gs.all = slices.DeleteFunc(gs.all, func(o *group[E]) bool { return o == g })
}

// ask asks each source that knows groups of the kind about one, once; those whose
// first list is still to come have it in there, most likely.
func (gs *groups[E]) ask(g *group[E]) {
	for i := range g.asks {
		if a := &g.asks[i]; !gs.asked(gs.m.cfg.sources[i]) || a.busy || a.waits || a.answered || a.done {
			continue
		}
		if !gs.listed[i] && gs.m.now < gs.m.begun+firstList {
			gs.retry(g, i, locateDelay)
			continue
		}
		gs.send(g, i)
	}
}

func (gs *groups[E]) send(g *group[E], i int) {
	a := &g.asks[i]
	if a.busy || !gs.asked(gs.m.cfg.sources[i]) {
		return
	}
	a.busy = true
	id := g.key
	if l := g.layers[i]; l != nil {
		id = gs.key(l)
	}
	gs.m.request(request{kind: gs.request, source: i, groupID: id, groupKey: g.key})
}

func (gs *groups[E]) retry(g *group[E], i int, pause workload.KTime) {
	g.asks[i].waits = true
	gs.m.at(gs.m.now+pause, func() {
		g.asks[i].waits = false
		if !g.forgotten && g.goneAt == 0 {
			gs.ask(g)
		}
	})
}

// The pauses between two questions about a group that a source does not know yet.
const (
	groupPause    = 250 * workload.KTime(time.Millisecond)
	maxGroupPause = 5 * workload.KTime(time.Minute)
)

// answer applies what a source said about a group.
func (gs *groups[E]) answer(req request, l *E, err error) {
	g := gs.byID[req.groupKey]
	if g == nil || g.forgotten {
		return
	}
	if g.goneAt != 0 {
		g.asks[req.source].busy = false // too late: its list may bring it back
		return
	}
	i := req.source
	a := &g.asks[i]
	a.busy = false
	if err == nil && l != nil && gs.key(l) != "" {
		gs.setLayer(i, l)
		return
	}
	gs.touch(g)
	a.denied = errors.Is(err, collectors.ErrNotFound)
	switch {
	case g.layers[i] != nil: // it has been described: whether it is over was asked
		if errors.Is(err, collectors.ErrNotFound) {
			gs.deleted(g, i)
		}
	case errors.Is(err, collectors.ErrNotMine), errors.Is(err, collectors.ErrNotPresent), err == nil:
		a.done = true // its list will tell
	case g.live():
		gs.retry(g, i, min(groupPause<<min(a.tries, 16), maxGroupPause))
		a.tries++
	}
}

// listEnd ends a complete list: what the source described before the list began
// and did not list is gone there.
func (gs *groups[E]) listEnd(source int, complete bool, began workload.KTime) {
	gs.listed[source] = true
	if !complete {
		return
	}
	for _, g := range slices.Clone(gs.all) {
		if g.layers[source] != nil && !g.gone[source] && g.layerAt[source] < began {
			gs.deleted(g, source)
		}
	}
}

// flush turns what changed in this step into store changes.
func (gs *groups[E]) flush() {
	for _, g := range gs.dirty {
		g.dirty = false
		gs.publish(g)
	}
	clear(gs.dirty)
	gs.dirty = gs.dirty[:0]
}

func (gs *groups[E]) publishLayer(g *group[E], i int) {
	l := *g.layers[i] // a shallow copy: its parts stay as the source made them
	*gs.sources(&l) = []workload.Provenance{{Source: gs.m.cfg.sources[i].name, At: gs.m.now}}
	gs.put(gs.change(g.key, gs.m.cfg.sources[i].name, &l, 0, false))
}

// publish writes the correlator's own layer: what the containers say of their
// group, and who has not answered yet.
func (gs *groups[E]) publish(g *group[E]) {
	if g.forgotten || len(g.members) == 0 && len(g.layers) == 0 && g.goneAt == 0 {
		return
	}
	l := gs.own(g, g.sorted(), gs.owing(g))
	gs.put(gs.change(g.key, kernelSource, l, g.goneAt, false))
}

// sorted gives the containers in the order in which they became known.
func (g *group[E]) sorted() []*container {
	cs := make([]*container, 0, len(g.members))
	for c := range g.members {
		cs = append(cs, c)
	}
	slices.SortFunc(cs, func(a, b *container) int { return int(int64(a.serial - b.serial)) })
	return cs
}

// owing names the sources that have not said yet what they know; one that does not
// know the group has.
func (gs *groups[E]) owing(g *group[E]) []string {
	var names []string
	for i, a := range g.asks {
		if gs.asked(gs.m.cfg.sources[i]) && !a.answered && !a.done && !a.denied && g.goneAt == 0 {
			names = append(names, gs.m.cfg.sources[i].name)
		}
	}
	return names
}

// leaveGroups is the end of a container, or of its being one of its own.
func (m *machine) leaveGroups(c *container) {
	m.pods.leaveAll(c)
	m.tasks.leaveAll(c)
}
