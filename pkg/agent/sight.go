// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"iter"
	"slices"
	"strings"

	"github.com/pidigree/pidigree/internal/filter"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// sight is what is seen of the store: what the configuration hides is in no list
// and no stream, and an answer says no more of it than who it is. It decides
// nothing else: a process of a hidden container is that container's and nobody's
// otherwise, and never the host's.
type sight struct {
	store *store.Store
	hide  *filter.Matcher // nil hides nothing
}

// view is a sight with what one selector asks for.
type view struct {
	sight
	want        *filter.Matcher
	noSandboxes bool
}

// view gives nil for a selector that is not valid: it selects nothing. The server
// and the client have refused it before.
func (s sight) view(sel workload.Selector) *view {
	want, err := filter.New(sel.Include, sel.Exclude)
	if err != nil {
		return nil
	}
	return &view{s, want, sel.NoSandboxes}
}

// all reports whether the view is of everything.
func (v *view) all() bool { return v.hide == nil && v.want == nil && !v.noSandboxes }

// shows reports whether an entity is seen, as it is known now.
func (v *view) shows(e workload.Entity) bool {
	switch {
	case e.Container != nil:
		pod := v.podOf(e.Container)
		return !(v.noSandboxes && e.Container.Sandbox) && v.hide.Container(e.Container, pod) && v.want.Container(e.Container, pod)
	case e.Pod != nil:
		return v.hide.Pod(e.Pod) && v.want.Pod(e.Pod)
	case e.Task != nil:
		return v.hide.Task(e.Task) && v.want.Task(e.Task)
	case e.Image != nil:
		return v.hide.Image(e.Image) && v.want.Image(e.Image)
	case e.Process != nil && v.want != nil:
		c, ok := v.store.Container(e.Process.Container)
		if !ok {
			return v.want.Nothing()
		}
		return v.want.Container(c, v.podOf(c))
	case e.Process != nil:
		return true
	}
	return v.want.Nothing()
}

func (s sight) podOf(c *workload.Container) *workload.Pod {
	if c.Pod == nil {
		return nil
	}
	a, _ := s.store.ContainerAnswer(c.ID)
	return a.Pod
}

// list gives the entities that are selected and seen.
func (s sight) list(sel workload.Selector) iter.Seq[workload.Entity] {
	v := s.view(sel)
	switch {
	case v == nil:
		return func(func(workload.Entity) bool) {}
	case v.all():
		return s.store.All(sel)
	}
	return func(yield func(workload.Entity) bool) {
		for e := range s.store.All(sel) {
			if v.shows(e) && !yield(e) {
				return
			}
		}
	}
}

// watch gives the changes of what is selected and seen. What is not seen any more
// is unset, and what comes into sight is set, also where it is the pod that has
// changed and its containers with it, or a container and its processes. A reader who
// resumes may be told to unset what it never had, and to set what it has.
func (s sight) watch(ctx context.Context, sel workload.Selector) iter.Seq[[]workload.Change] {
	v := s.view(sel)
	if v == nil {
		return func(func([]workload.Change) bool) {}
	}
	if v.all() {
		return batches(s.store.Watch(ctx, sel))
	}
	w := &follower{view: v, resumed: sel.From != 0, seen: map[string]bool{}}
	if len(sel.Kinds) == 0 {
		sel.Kinds = []workload.Kind{workload.KindContainer}
	}
	if v.want != nil && slices.Contains(sel.Kinds, workload.KindProcess) {
		w.inConts = newMembers()
		sel.Kinds, w.noConts = with(sel.Kinds, workload.KindContainer)
	}
	if (v.want.Labels() || v.hide.Labels()) && slices.Contains(sel.Kinds, workload.KindContainer) {
		w.inPods = newMembers()
		sel.Kinds, w.noPods = with(sel.Kinds, workload.KindPod)
	}
	if w.resumed { // what has not changed since may still come into sight, or leave it
		for e := range s.store.All(workload.Selector{Kinds: sel.Kinds}) {
			w.note(workload.Change{Type: workload.ChangeSet, Entity: e})
		}
	}
	return func(yield func([]workload.Change) bool) {
		for b := range s.store.Watch(ctx, sel) {
			if cs := w.batch(b.Changes); len(cs) > 0 && !yield(cs) {
				return
			}
		}
	}
}

// with adds a kind to those that are selected, and reports whether it was not among them.
func with(kinds []workload.Kind, k workload.Kind) ([]workload.Kind, bool) {
	if slices.Contains(kinds, k) {
		return kinds, false
	}
	return append(slices.Clone(kinds), k), true
}

func batches(in iter.Seq[store.Batch]) iter.Seq[[]workload.Change] {
	return func(yield func([]workload.Change) bool) {
		for b := range in {
			if !yield(b.Changes) {
				return
			}
		}
	}
}

// follower is where one watcher is.
type follower struct {
	*view
	// resumed: what is not in seen may be with the reader all the same.
	resumed bool
	// seen says of an entity whether the reader has it. What it has not is in here
	// only if the reader resumed.
	seen map[string]bool
	// inPods are the containers by their pod, where labels decide; nil otherwise.
	inPods *members
	// inConts are the processes by their container, where the container decides; nil
	// otherwise.
	inConts *members
	// noPods and noConts: changes of pods, and of containers, are not asked for.
	noPods, noConts bool
}

func (f *follower) batch(in []workload.Change) (out []workload.Change) {
	for _, c := range in {
		switch {
		case c.Type == workload.ChangeResync:
			f.resumed = false
			clear(f.seen)
			f.inPods.clear()
			f.inConts.clear()
			out = append(out, c)
		case c.Type == workload.ChangeBookmark:
			out = append(out, c)
		default:
			out = f.change(out, c)
		}
	}
	return out
}

func (f *follower) change(out []workload.Change, c workload.Change) []workload.Change {
	f.note(c)
	if !(c.Entity.Pod != nil && f.noPods || c.Entity.Container != nil && f.noConts) {
		out = f.tell(out, c)
	}
	switch {
	case c.Entity.Pod != nil && f.inPods != nil:
		in := f.inPods.of[c.Entity.Pod.UID]
		if !f.noConts {
			out = f.again(out, in, c.Revision)
		}
		for _, id := range sortedKeys(in) {
			out = f.processes(out, in[id].Container, c.Revision)
		}
	case c.Entity.Container != nil && c.Type == workload.ChangeSet:
		out = f.processes(out, c.Entity.Container, c.Revision)
	}
	return out
}

// processes tells of those of a container.
func (f *follower) processes(out []workload.Change, c *workload.Container, rev workload.Revision) []workload.Change {
	if f.inConts == nil {
		return out
	}
	return f.again(out, f.inConts.of[c.ID.String()], rev)
}

// again tells of those that have come into sight, or left it, without a change of their own.
func (f *follower) again(out []workload.Change, in map[string]workload.Entity, rev workload.Revision) []workload.Change {
	for _, id := range sortedKeys(in) {
		had, known := f.seen[id]
		if now := f.shows(in[id]); now != had || !known && f.resumed {
			out = f.tell(out, workload.Change{Type: workload.ChangeSet, Revision: rev, Entity: in[id]})
		}
	}
	return out
}

// tell passes a change on as the reader has to see it.
func (f *follower) tell(out []workload.Change, c workload.Change) []workload.Change {
	id := c.Entity.Key()
	had, known := f.seen[id]
	had = had || !known && f.resumed
	if c.Type == workload.ChangeSet && f.shows(c.Entity) {
		f.seen[id] = true
		return append(out, c)
	}
	delete(f.seen, id)
	if f.resumed && c.Type == workload.ChangeSet {
		f.seen[id] = false
	}
	if !had {
		return out
	}
	return append(out, workload.Change{Type: workload.ChangeUnset, Revision: c.Revision, Entity: c.Entity.Bare()})
}

// note keeps which containers are in which pod, and which processes in which container.
func (f *follower) note(c workload.Change) {
	switch ct, p := c.Entity.Container, c.Entity.Process; {
	case ct != nil && f.inPods != nil:
		in := ""
		if ct.Pod != nil {
			in = ct.Pod.UID
		}
		f.inPods.note(in, c)
	case p != nil && f.inConts != nil:
		in := ""
		if ct, ok := f.store.Container(p.Container); ok {
			in = ct.ID.String()
		} else if !p.Container.IsZero() { // it comes later
			in = p.Container.String()
		}
		f.inConts.note(in, c)
	}
}

// members are entities by what they are in: containers by their pod, processes by
// their container.
type members struct {
	in map[string]string // of each by its key
	of map[string]map[string]workload.Entity
}

func newMembers() *members {
	return &members{map[string]string{}, map[string]map[string]workload.Entity{}}
}

func (m *members) clear() {
	if m != nil {
		clear(m.in)
		clear(m.of)
	}
}

// note keeps what an entity is in by now: nothing where that is empty, or it is gone.
func (m *members) note(in string, c workload.Change) {
	id := c.Entity.Key()
	if was, ok := m.in[id]; ok {
		delete(m.in, id)
		if delete(m.of[was], id); len(m.of[was]) == 0 {
			delete(m.of, was)
		}
	}
	if c.Type == workload.ChangeUnset || in == "" {
		return
	}
	if m.of[in] == nil {
		m.of[in] = map[string]workload.Entity{}
	}
	m.in[id], m.of[in][id] = in, c.Entity
}

func sortedKeys(m map[string]workload.Entity) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// conceal takes what is hidden out of answers. Equal containers stay one.
func (s sight) conceal(results []workload.Result) {
	if s.hide == nil {
		return
	}
	as := map[*workload.Container]*workload.Container{}
	for i := range results {
		s.concealOne(&results[i], as)
	}
}

func (s sight) concealOne(r *workload.Result, as map[*workload.Container]*workload.Container) {
	a := &r.Answer
	s.concealCommand(a.Process)
	if a.Pod != nil && !s.hide.Pod(a.Pod) {
		a.Pod = &workload.Pod{PodRef: workload.PodRef{UID: a.Pod.UID}, Filtered: true}
	}
	if a.Task != nil && !s.hide.Task(a.Task) {
		a.Task = &workload.Task{ARN: a.Task.ARN, Filtered: true}
	}
	for i, c := range a.Containers {
		to, done := as[c]
		if !done {
			if to = c; !s.hide.Container(c, s.podOf(c)) {
				to = hidden(c)
			}
			as[c] = to
		}
		if to == c {
			continue
		}
		if !a.Containers[i].Filtered {
			a.Containers = slices.Clone(a.Containers) // the store's own
		}
		a.Containers[i] = to
		r.Explanation = concealHops(r.Explanation, c)
	}
}

// hidden is what an answer says of a container that is not to be seen.
func hidden(c *workload.Container) *workload.Container {
	return &workload.Container{
		ID: c.ID, Aliases: c.Aliases, Parent: c.Parent, Runtime: c.Runtime, State: c.State, Exit: c.Exit, Sandbox: c.Sandbox,
		Run: c.Run, Confidence: c.Confidence, Missing: c.Missing, Filtered: true,
	}
}

func concealHops(hops []workload.Hop, c *workload.Container) []workload.Hop {
	hops = slices.Clone(hops)
	for i := range hops {
		if h := &hops[i]; h.What == "container" && strings.HasPrefix(h.Detail, c.ID.String()+",") {
			h.Detail = c.ID.String() + ", hidden by the agent's configuration"
		}
	}
	return hops
}

// concealCommand takes a process's own words out, where its container is not to be
// seen: names are in them. The detail is the asker's own copy.
func (s sight) concealCommand(p *workload.Process) {
	if s.hide == nil || p == nil || p.Detail == nil || p.Container.IsZero() {
		return
	}
	if c, ok := s.store.Container(p.Container); ok && !s.hide.Container(c, s.podOf(c)) {
		p.Detail.Command, p.Detail.CommandHidden = nil, true
	}
}

// concealCommands does so for a list.
func (s sight) concealCommands(in iter.Seq[workload.Entity]) iter.Seq[workload.Entity] {
	return func(yield func(workload.Entity) bool) {
		for e := range in {
			s.concealCommand(e.Process)
			if !yield(e) {
				return
			}
		}
	}
}
