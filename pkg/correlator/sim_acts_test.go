// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/workload"
)

// simActs is what can happen in the world, and how often.
var simActs = []struct {
	weight int
	do     func(w *sim, c *simContainer)
}{
	{16, func(w *sim, _ *simContainer) { w.start(simStart{}) }},
	{20, func(w *sim, c *simContainer) { w.fork(w.anyOf(c)) }},
	{8, func(w *sim, _ *simContainer) { w.fork(w.shell) }},
	{8, (*sim).execInto},
	{10, func(w *sim, c *simContainer) { w.end(w.anyOf(c)) }},
	{6, (*sim).endHost},
	{5, (*sim).kill},
	{3, (*sim).restart},
	{4, func(w *sim, c *simContainer) { w.exec(w.anyOf(c)) }},
	{8, (*sim).attackMove},
	{5, (*sim).attackName},
	{3, (*sim).attackEscape},
	{4, (*sim).honestChild},
	{3, (*sim).honestNsenter},
	{3, (*sim).hostEnters},
	{2, (*sim).startIn},
	{3, (*sim).startBelow},
	{2, func(w *sim, _ *simContainer) { w.sandbox() }},
	{2, func(w *sim, _ *simContainer) { w.stranger() }},
	{3, func(w *sim, _ *simContainer) { w.advance(200 * simMS) }},
	{1, func(w *sim, _ *simContainer) { w.advance(1600 * simMS) }},
	{3, (*sim).stallRing},
	{1, func(w *sim, _ *simContainer) { w.stop(workload.KTime(w.rng.IntN(5000)) * simMS) }},
	{3, (*sim).breakSource},
	{1, func(w *sim, _ *simContainer) { w.crash() }},
}

var simWeights = func() (n int) {
	for _, a := range simActs {
		n += a.weight
	}
	return n
}()

// act makes one thing happen.
func (w *sim) act() {
	c := w.anyContainer()
	n := w.rng.IntN(simWeights)
	if c == nil {
		w.start(simStart{})
		return
	}
	for _, a := range simActs {
		if n -= a.weight; n < 0 {
			a.do(w, c)
			return
		}
	}
}

func (w *sim) anyContainer() *simContainer {
	live := slices.DeleteFunc(slices.Clone(w.conts), func(c *simContainer) bool { return c.dead })
	if len(live) == 0 {
		return nil
	}
	return live[w.rng.IntN(len(live))]
}

func (w *sim) anyOf(c *simContainer) *simProc {
	var ps []*simProc
	for _, p := range w.procs {
		if p.truth == c && p.user {
			ps = append(ps, p)
		}
	}
	if len(ps) == 0 {
		return c.init
	}
	return ps[w.rng.IntN(len(ps))]
}

// end ends a process; with the init of a container, all of it.
func (w *sim) end(p *simProc) {
	switch {
	case p == w.shell:
	case p.truth != nil && p == p.truth.init:
		w.kill(p.truth)
	default:
		w.exit(p)
	}
}

func (w *sim) endHost(*simContainer) {
	for _, p := range w.procs {
		if p.truth == nil && p != w.shell && w.rng.IntN(2) == 0 {
			w.exit(p)
			return
		}
	}
}

// simID gives ids that differ in their last digits alone, so that a prefix names many.
func (w *sim) simID() string {
	return strings.Repeat("c0de", 13) + fmt.Sprintf("%012x", w.rng.Uint64()>>16)
}

// simStart is what a container is started with.
type simStart struct {
	id     string        // that of an earlier life
	shares *simContainer // whose cgroups are taken
	below  *simContainer // below whose cgroups its own are made
}

// start is what a runtime does: cgroups, init, namespaces, state, user program.
func (w *sim) start(o simStart) {
	shared := o.shares
	c := &simContainer{id: o.id, paths: map[uint32]string{}, cgroups: map[uint32]uint64{}, hostPID: w.rng.IntN(5) == 0, odd: w.rng.IntN(4) == 0, shares: shared, below: o.below}
	if o.id == "" {
		c.id = w.simID()
	}
	c.named = slices.ContainsFunc(w.conts, func(o *simContainer) bool { return o.id == c.id && o.named })
	if shared != nil {
		c.contested, shared.contested = true, true
	}
	w.nextNS += 2
	c.pidns, c.mntns = w.nextNS, w.nextNS+1
	path := "/docker/" + c.id
	if c.odd {
		path = "/any/where" + c.id[52:]
	}
	runc := w.fork(w.shell)
	into := w.rng.IntN(3) == 0 // CLONE_INTO_CGROUP: no attach in the first hierarchy
	if into {
		w.makeCgroups(c, path)
	}
	var p *simProc
	if shared == nil && (!into && c.below != nil || w.rng.IntN(4) == 0) {
		c.staged = true
		stage := w.makeStage(c, runc, path, into)
		p = w.makeInit(c, stage, false)
		w.exit(stage)
	} else {
		p = w.makeInit(c, runc, into)
		if !into {
			w.makeCgroups(c, path)
		}
		w.enter(c, p)
	}
	w.advance(workload.KTime(w.rng.Int64N(int64(8 * simMS))))
	c.state = true
	if w.rng.IntN(3) > 0 {
		l := w.oci(c)
		w.later(simMS, evHint{source: 0, hint: collectors.Hint{Kind: collectors.HintStarted, ID: l.ID, Layer: l}})
	}
	if w.rng.IntN(8) == 0 { // the start fails
		c.failed = true
		w.kill(c)
		w.exit(runc)
		return
	}
	p.user = true
	w.exec(p)
	p.settling = false
	w.exit(runc)
}

// makeStage is runc's first process, which is moved into the cgroups while it is the
// host's in all its namespaces, and forks the init.
func (w *sim) makeStage(c *simContainer, runc *simProc, path string, into bool) *simProc {
	p := w.newProc(runc, c, runc.cgroups, nil, runc.mntns)
	p.settling = true
	if into {
		p.cgroups[w.hierarchies[0]] = c.cgroups[w.hierarchies[0]]
	}
	w.say(kernel.Fork, p)
	if !into {
		w.makeCgroups(c, path)
	}
	w.enter(c, p)
	return p
}

// enter moves a process into a container's cgroups.
func (w *sim) enter(c *simContainer, p *simProc) {
	for _, i := range w.rng.Perm(len(w.hierarchies)) {
		if h := w.hierarchies[i]; p.cgroups[h] != c.cgroups[h] {
			w.move(p, h, c.cgroups[h])
		}
	}
}

// startBelow is an engine of the host's that makes a container below another's cgroup.
func (w *sim) startBelow(c *simContainer) {
	if c.shares == nil && !c.contested {
		w.start(simStart{below: c})
	}
}

// startIn is a second runtime that puts a container into the cgroups of another's.
// Not where somebody from the host is, or was: whose that one would be, nobody can say.
func (w *sim) startIn(c *simContainer) {
	if !slices.ContainsFunc(w.procs, func(p *simProc) bool { return p.entered > 0 && p.truth == c }) && !c.staged && c.below == nil {
		w.start(simStart{shares: c})
	}
}

func (w *sim) makeInit(c *simContainer, runc *simProc, into bool) *simProc {
	ns := []workload.PIDNamespace{{Inum: c.pidns, PID: 1}}
	if c.hostPID {
		ns = nil
	}
	p := w.newProc(runc, c, runc.cgroups, ns, c.mntns)
	c.init, p.settling = p, true
	if into {
		p.cgroups[w.hierarchies[0]] = c.cgroups[w.hierarchies[0]]
	}
	w.conts = append(w.conts, c)
	w.say(kernel.Fork, p)
	return p
}

func (w *sim) makeCgroups(c *simContainer, path string) {
	for _, i := range w.rng.Perm(len(w.hierarchies)) {
		h := w.hierarchies[i]
		if c.shares != nil {
			c.paths[h], c.cgroups[h] = c.shares.paths[h], c.shares.cgroups[h]
			continue
		}
		c.paths[h] = path
		if o := c.below; o != nil {
			c.paths[h] = o.paths[h] + path[strings.LastIndexByte(path, '/'):]
			c.cgroups[h] = w.mkdir(h, o.cgroups[h], c.paths[h])
			continue
		}
		c.cgroups[h] = w.mkdir(h, w.dir(h, path[:strings.LastIndexByte(path, '/')]), path)
	}
	if c.shares != nil && c.paths[0] != path {
		c.odd = true
	}
}

// dir gives a directory that stays, made if it is not there.
func (w *sim) dir(h uint32, path string) uint64 {
	for id, n := range w.names {
		if id.Hierarchy == h && n == path {
			return id.ID
		}
	}
	return w.mkdir(h, 1, path)
}

func (w *sim) execInto(c *simContainer) {
	runc := w.fork(w.shell)
	p := w.newProc(runc, c, runc.cgroups, nil, c.mntns)
	if !c.hostPID {
		p.pidns = []workload.PIDNamespace{{Inum: c.pidns, PID: 7}}
	}
	p.settling = true
	if w.rng.IntN(2) == 0 {
		p.cgroups[w.hierarchies[0]] = c.cgroups[w.hierarchies[0]]
	}
	w.say(kernel.Fork, p)
	for _, h := range w.hierarchies {
		if p.cgroups[h] != c.cgroups[h] {
			w.move(p, h, c.cgroups[h])
		}
	}
	p.settling, p.user = false, true
	w.exec(p)
	w.exit(runc)
}

func (w *sim) kill(c *simContainer) {
	for _, o := range slices.Clone(w.conts) {
		if o.below == c && !o.dead { // the kernel removes no cgroup that holds another
			w.kill(o)
		}
	}
	w.endMembers(c)
	if !c.init.dead {
		w.exit(c.init)
	}
	c.dead = true
	if c.state && c.init.key.PID%3 == 0 { // its engine deletes it later, and a reader may come before
		c.left = w.now + 2000*simMS
		l := w.oci(c)
		w.later(300*simMS, evHint{source: 0, hint: collectors.Hint{Kind: collectors.HintExited, ID: l.ID, Layer: l}})
	}
	if !w.shared(c) {
		for _, h := range w.hierarchies {
			w.removeCgroup(workload.CgroupID{Hierarchy: h, ID: c.cgroups[h]})
		}
	}
	if w.rng.IntN(2) == 0 && !c.odd {
		w.later(300*simMS, evHint{source: 1, hint: collectors.Hint{Kind: collectors.HintDeleted, ID: workload.ContainerID{Runtime: "docker", ID: c.id}}})
	}
}

func (w *sim) endMembers(c *simContainer) {
	for _, p := range slices.Clone(w.procs) {
		if p.truth == c && p != c.init {
			w.exit(p)
		}
	}
}

// shared: another one that lives is in the same cgroups, which the kernel keeps.
func (w *sim) shared(c *simContainer) bool {
	return slices.ContainsFunc(w.conts, func(o *simContainer) bool {
		return o != c && !o.dead && maps.Equal(o.cgroups, c.cgroups)
	})
}

// removeCgroup empties a cgroup first, as the kernel demands: intruders die too.
func (w *sim) removeCgroup(id workload.CgroupID) {
	dead := append(w.below(id), id)
	for _, p := range slices.Clone(w.procs) {
		if slices.Contains(dead, workload.CgroupID{Hierarchy: id.Hierarchy, ID: p.cgroups[id.Hierarchy]}) && !p.dead {
			if p.truth != nil && p == p.truth.init { // an init is moved out of the way
				w.attackerMoves(p, id.Hierarchy, 1)
				continue
			}
			w.exit(p)
		}
	}
	w.rmdir(id)
}

func (w *sim) attackerMoves(p *simProc, h uint32, to uint64) {
	p.attacker = true
	w.move(p, h, to)
}

func (w *sim) restart(c *simContainer) {
	if c.shares != nil || w.shared(c) {
		return
	}
	if c.below != nil && c.below.dead {
		return
	}
	w.kill(c)
	w.advance(workload.KTime(w.rng.Int64N(int64(30 * simMS))))
	w.start(simStart{id: c.id, below: c.below})
}

// attackMove puts a process of c into another container's cgroups, all or some,
// by moving it or by making it there.
func (w *sim) attackMove(c *simContainer) {
	v := w.anyContainer()
	if v == c || v == nil || v.shares == c || c.shares == v || v.shares != nil && v.shares == c.shares {
		return
	}
	from := w.anyOf(c)
	var p *simProc
	if w.rng.IntN(3) == 0 {
		p = w.newProc(from, c, from.cgroups, from.pidns, from.mntns)
		p.user = from.user
		p.cgroups[w.hierarchies[0]] = v.cgroups[w.hierarchies[0]]
		w.say(kernel.Fork, p)
	} else {
		p = w.fork(from)
	}
	p.attacker = true
	for _, h := range w.hierarchies {
		if w.rng.IntN(4) > 0 {
			w.move(p, h, v.cgroups[h])
		}
	}
	w.fork(p)
	w.exec(p)
}

// attackName makes a child cgroup that bears another container's name.
func (w *sim) attackName(c *simContainer) {
	v := w.anyContainer()
	p := w.fork(w.anyOf(c))
	for _, h := range w.hierarchies {
		if w.rng.IntN(2) == 0 && p.cgroups[h] == c.cgroups[h] {
			name := []string{"/docker-" + v.id + ".scope", "/" + v.id, "/libpod-" + v.id, "/cri-containerd-" + strings.ToUpper(v.id) + ".scope"}[w.rng.IntN(4)]
			w.move(p, h, w.mkdir(h, c.cgroups[h], c.paths[h]+name))
		}
	}
	w.exec(p)
}

// attackEscape leaves all of the container's cgroups.
func (w *sim) attackEscape(c *simContainer) {
	p := w.fork(w.anyOf(c))
	p.attacker = true
	for _, h := range w.hierarchies {
		w.move(p, h, 1)
	}
	w.fork(p)
	w.exec(p)
}

// honestChild uses a cgroup below the container's own, as systemd in it does.
func (w *sim) honestChild(c *simContainer) {
	p := w.fork(w.anyOf(c))
	back := w.rng.IntN(2) == 0
	for _, h := range w.hierarchies {
		if p.cgroups[h] == c.cgroups[h] {
			w.move(p, h, w.mkdir(h, c.cgroups[h], c.paths[h]+"/init.scope"))
			if back {
				w.move(p, h, c.cgroups[h])
			}
		}
	}
	w.exec(p)
}

// honestNsenter enters a container's namespaces from the host, and not its cgroup.
func (w *sim) honestNsenter(c *simContainer) {
	if c.hostPID {
		return
	}
	w.advance(500 * simMS) // a person is slow
	p := w.newProc(w.shell, nil, w.shell.cgroups, []workload.PIDNamespace{{Inum: c.pidns, PID: 70}}, c.mntns)
	p.nsenter = true
	w.say(kernel.Fork, p)
	w.exec(p)
}

// hostEnters is an administrator who puts a shell into a container's cgroup.
func (w *sim) hostEnters(c *simContainer) {
	if c.contested {
		return
	}
	p := w.fork(w.shell)
	p.truth, p.entered = c, p.key.Start
	for _, h := range w.hierarchies {
		w.move(p, h, c.cgroups[h])
	}
	if w.rng.IntN(2) == 0 {
		w.fork(p)
	}
}

// sandbox is a process of the host's in namespaces of its own (unshare,
// bubblewrap), in the cgroup of whoever made it.
func (w *sim) sandbox() {
	w.nextNS += 2
	from := w.shell
	if w.rng.IntN(2) == 0 {
		from = w.fork(w.shell)
		for _, h := range w.hierarchies {
			w.move(from, h, w.dir(h, "/user.slice"))
		}
	}
	p := w.newProc(from, nil, from.cgroups, []workload.PIDNamespace{{Inum: w.nextNS, PID: 1}}, w.nextNS+1)
	w.say(kernel.Fork, p)
	w.exec(p)
}

// stranger is a container that no source knows, of a runtime that nobody told us of.
// Its init is born in its cgroup, or forked by one of the runtime's who was moved there.
func (w *sim) stranger() {
	c := &simContainer{id: w.simID(), strange: true, paths: map[uint32]string{}, cgroups: map[uint32]uint64{}}
	w.nextNS += 2
	c.pidns, c.mntns = w.nextNS, w.nextNS+1
	w.makeCgroups(c, fmt.Sprintf("/elsewhere/s%d", c.pidns))
	from := w.fork(w.shell)
	cgroups := c.cgroups
	if w.rng.IntN(2) == 0 {
		for _, h := range w.hierarchies {
			w.move(from, h, c.cgroups[h])
		}
		cgroups = from.cgroups
	}
	c.init = w.newProc(from, c, cgroups, []workload.PIDNamespace{{Inum: c.pidns, PID: 1}}, c.mntns)
	w.say(kernel.Fork, c.init)
	w.exit(from)
	w.advance(workload.KTime(w.rng.Int64N(int64(8 * simMS))))
	c.init.user = true
	w.exec(c.init)
	if w.rng.IntN(2) == 0 {
		w.exec(w.fork(c.init))
	}
}

// The faults that begin while the world goes on.

func (w *sim) stallRing(*simContainer) {
	w.faults.stalled[w.rng.IntN(2)] = w.now + workload.KTime(w.rng.IntN(1000))*simMS
}

func (w *sim) breakSource(*simContainer) {
	i := w.rng.IntN(2)
	w.faults.down[i] = simDown(w.rng.IntN(4))
	w.faults.until[i] = w.now + workload.KTime(w.rng.IntN(4000))*simMS
}

// below lists a cgroup's children, in order.
func (w *truth) below(id workload.CgroupID) (ids []workload.CgroupID) {
	for c, p := range w.parents {
		if c.Hierarchy == id.Hierarchy && p == id.ID {
			ids = append(ids, c)
		}
	}
	slices.SortFunc(ids, func(a, b workload.CgroupID) int { return int(a.ID) - int(b.ID) })
	return ids
}
