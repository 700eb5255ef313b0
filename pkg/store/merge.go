// SPDX-License-Identifier: Apache-2.0

package store

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
)

// layerOf is what one source says of an entity.
type layerOf[T any] struct {
	source string
	c      *T
	// stale: the source is another pidigree, and away.
	stale bool
}

type layer = layerOf[container]

func newLayer[T any](source string, c *T) layerOf[T] { return layerOf[T]{source: source, c: c} }

// provenance is when a source's layer arrived, as far as the writer said so.
func provenance(source string, said []workload.Provenance) workload.Provenance {
	p := workload.Provenance{Source: source}
	if len(said) > 0 {
		p.At = said[0].At
	}
	return p
}

// merge joins the layers by the table. The result shares maps and slices with
// the layers, which are immutable too.
func merge(key workload.ContainerID, layers []layer, gone bool) *container {
	return mergeBy(precedence, merging{key: key, arrived: layers, gone: gone})
}

// mergeBy runs the rules over the layers in the order of their arrival.
func mergeBy[T any](rules []ruleOf[T], in mergingOf[T]) *T {
	in.arrived = counted(in.arrived)
	in.layers = make([]layerOf[T], 0, len(in.arrived))
	for _, l := range in.arrived {
		if l.source == KernelSource {
			in.kernel = l.c
		}
	}
	c := new(T)
	var last *ruleOf[T]
	for i := range rules {
		r := &rules[i]
		if last == nil || r.only != last.only || !sameList(r.order, last.order) { // most rules share one order
			in.layers = r.sorted(in.layers[:0], in.arrived)
		}
		r.merge(c, in)
		last = r
	}
	return c
}

// sameList reports whether two are the very same list, not only equal ones.
func sameList(a, b []string) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// sorted gives the layers in the order of the rule's sources.
func (r ruleOf[T]) sorted(to, layers []layerOf[T]) []layerOf[T] {
	for _, l := range layers {
		if !r.only || slices.Contains(r.order, l.source) {
			to = append(to, l)
		}
	}
	slices.SortFunc(to, func(a, b layerOf[T]) int {
		return cmp.Or(cmp.Compare(r.rank(a.source), r.rank(b.source)), strings.Compare(a.source, b.source))
	})
	return to
}

// rank is the place of a source's kind: "docker@/run/other.sock" is a further
// engine of the kind docker. Another pidigree comes after everybody.
func (r ruleOf[T]) rank(source string) int {
	if source == RemoteSource {
		return len(r.order) + 1
	}
	source, _, _ = strings.Cut(source, "@")
	if i := slices.Index(r.order, source); i >= 0 {
		return i
	}
	return len(r.order)
}

// pick takes a field from the first layer that says anything in it.
func pick[T, V any](field func(*T) *V, said func(V) bool) func(*T, mergingOf[T]) {
	return func(dst *T, in mergingOf[T]) {
		for _, l := range in.layers {
			if v := *field(l.c); said(v) {
				*field(dst) = v
				return
			}
		}
	}
}

// pickOwn takes a field that only the correlator may say: from its layer, or from that
// of another pidigree's correlator where there is none.
func pickOwn[T, V any](field func(*T) *V, said func(V) bool) func(*T, mergingOf[T]) {
	return func(dst *T, in mergingOf[T]) {
		if in.kernel != nil {
			in.layers = slices.DeleteFunc(slices.Clone(in.layers), func(l layerOf[T]) bool { return l.source != KernelSource })
		}
		pick(field, said)(dst, in)
	}
}

func notZero[T comparable](v T) bool {
	var zero T
	return v != zero
}

func mapSaid[M ~map[K]V, K comparable, V any](m M) bool { return m != nil }

func listSaid[S ~[]E, E any](s S) bool { return s != nil }

func mergeID(dst *container, in merging) {
	in.layers = namers(in.layers)
	named := slices.IndexFunc(in.layers, func(l layer) bool { return l.c.Name != "" && !l.c.ID.IsZero() })
	if named < 0 {
		named = slices.IndexFunc(in.layers, func(l layer) bool { return !l.c.ID.IsZero() })
	}
	if dst.ID = in.key; named >= 0 {
		dst.ID = in.layers[named].c.ID
	}
}

// maxAliases bounds what a lying source can make the store index.
const maxAliases = 16

func mergeAliases(dst *container, in merging) {
	add := func(id workload.ContainerID) {
		if !id.IsZero() && id != dst.ID && !slices.Contains(dst.Aliases, id) && len(dst.Aliases) < maxAliases {
			dst.Aliases = append(dst.Aliases, id)
		}
	}
	add(in.key)
	in.layers = namers(in.layers)
	for _, l := range in.layers {
		add(l.c.ID)
	}
	for _, l := range in.layers {
		for _, id := range l.c.Aliases {
			add(id)
		}
	}
}

func mergeImageName(dst *container, in merging) {
	for _, l := range in.layers {
		if l.c.Image.Name != "" {
			dst.Image.Name, dst.Image.Tag = l.c.Image.Name, l.c.Image.Tag
			return
		}
	}
}

// better reports whether the correlator here knows that a container's run has ended,
// where the source is another pidigree. That it runs is no more than half of the state:
// an engine may have paused it.
func (in mergingOf[T]) better(source string) bool {
	if source != RemoteSource || in.kernel == nil {
		return false
	}
	c, ok := any(in.kernel).(*container)
	return ok && (c.State == workload.StateExited || c.Exit != nil || c.Run != nil && c.Run.Exit != nil)
}

func mergeState(dst *container, in merging) {
	for _, l := range in.layers {
		if l.source != KernelSource && l.c.State != workload.StateUnknown && !in.better(l.source) {
			dst.State = l.c.State
			break
		}
	}
	var kernel workload.State
	if in.kernel != nil {
		kernel = in.kernel.State
	}
	switch {
	case in.gone || kernel == workload.StateExited && dst.State != workload.StateRestarting:
		dst.State = workload.StateExited
	case dst.State == workload.StateUnknown:
		dst.State = kernel
	case kernel == workload.StateRunning && (dst.State == workload.StateCreated || dst.State == workload.StateExited || dst.State == workload.StateRestarting):
		dst.State = kernel
	}
}

func mergeExit(dst *container, in merging) {
	if dst.State == workload.StateRunning || dst.State == workload.StatePaused {
		return // what an engine still says of the run before
	}
	exits := kernelExits(in.kernel)
	for _, l := range in.layers {
		if l.source != KernelSource && l.c.Exit != nil && !in.better(l.source) {
			exits = append(exits, l.c.Exit)
		}
	}
	if len(exits) == 0 {
		return
	}
	best := exits[0]
	if i := slices.IndexFunc(exits, func(e *workload.Exit) bool { return e.Known }); i > 0 {
		best = exits[i]
	}
	e := *best
	for _, o := range exits {
		e.OOM = e.OOM || o.OOM
		if e.At == 0 {
			e.At = o.At
		}
	}
	dst.Exit = &e
}

func mergeHealth(dst *container, in merging) {
	if dst.State == workload.StateRunning || dst.State == workload.StatePaused {
		pick(func(c *container) *workload.Health { return &c.Health }, notZero)(dst, in)
	}
}

func mergeReason(dst *container, in merging) {
	if dst.State == workload.StateRunning || dst.State == workload.StatePaused {
		return
	}
	pick(func(c *container) *string { return &c.Reason }, notZero)(dst, in)
}

func kernelExits(c *container) []*workload.Exit {
	switch {
	case c == nil:
		return nil
	case c.Exit != nil:
		return []*workload.Exit{c.Exit}
	case c.Run != nil && c.Run.Exit != nil:
		return []*workload.Exit{c.Run.Exit}
	default:
		return nil
	}
}

func mergeSandbox(dst *container, in merging) {
	dst.Sandbox = slices.ContainsFunc(in.layers, func(l layer) bool { return l.c.Sandbox && (in.kernel == nil || l.source != RemoteSource) })
}

// mergeSources keeps every layer with the time of its arrival; it is given where an
// entity has its own provenance.
func mergeSources[E any](of func(*E) *[]workload.Provenance) func(*E, mergingOf[E]) {
	return func(dst *E, in mergingOf[E]) {
		for _, l := range in.arrived {
			p := provenance(l.source, *of(l.c))
			p.Stale = l.stale
			*of(dst) = append(*of(dst), p)
		}
	}
}

// mergeTruncated keeps what any layer had to cut.
func mergeTruncated[E any](of func(*E) *[]string) func(*E, mergingOf[E]) {
	return func(dst *E, in mergingOf[E]) {
		for _, l := range in.layers {
			*of(dst) = append(*of(dst), *of(l.c)...)
		}
		slices.Sort(*of(dst))
		*of(dst) = slices.Compact(*of(dst))
	}
}

// FieldRule is one row of the table of precedence, for documentation.
type FieldRule struct {
	Entity workload.Kind
	// Fields are those that the row is about: "Name", "Image.Tag".
	Fields []string
	// Order is who is believed, the first first; nil is all together. Others: those
	// not named follow.
	Order  []string
	Others bool
	How    string
}

// Precedence gives the table: containers, pods, tasks, images.
func Precedence() []FieldRule {
	return slices.Concat(fieldRules(workload.KindContainer, precedence), fieldRules(workload.KindPod, podPrecedence), fieldRules(workload.KindTask, taskPrecedence), fieldRules(workload.KindImage, imagePrecedence))
}

func fieldRules[T any](kind workload.Kind, rules []ruleOf[T]) (out []FieldRule) {
	for _, r := range rules {
		out = append(out, FieldRule{kind, strings.Split(r.field, ", "), r.order, !r.only, r.how})
	}
	return out
}

// PrecedenceMarkdown renders the table of precedence for docs/precedence.md.
func PrecedenceMarkdown() string {
	var b strings.Builder
	b.WriteString(precedenceIntro)
	writeRules(&b, precedence)
	b.WriteString(podPrecedenceIntro)
	writeRules(&b, podPrecedence)
	b.WriteString(taskPrecedenceIntro)
	writeRules(&b, taskPrecedence)
	b.WriteString(imagePrecedenceIntro)
	writeRules(&b, imagePrecedence)
	return b.String()
}

func writeRules[T any](b *strings.Builder, rules []ruleOf[T]) {
	b.WriteString("| field | sources, the first wins | how |\n|---|---|---|\n")
	for _, r := range rules {
		order := strings.Join(r.order, ", ")
		switch {
		case r.order == nil:
			order = "all"
		case !r.only:
			order += ", others"
		}
		fmt.Fprintf(b, "| %s | %s | %s |\n", r.field, order, r.how)
	}
}

const precedenceIntro = `<!-- Made from pkg/store/precedence.go by: go test ./pkg/store -run Precedence -update -->

# Who is believed, field by field

A container, a pod, a task or an image that several sources know is one entity. Each source keeps a layer of its own, and
what is shown comes from the layers by this table. "kernel" is pidigree's own layer, made from
what it saw in the kernel. "Others" are sources that a row does not name; they come last, in
alphabetical order, so that the outcome never depends on who answered first. A further engine of
a kind ("docker@/run/other.sock") has the place of its kind.

## Containers

`

const podPrecedenceIntro = `
## Pods

`

const taskPrecedenceIntro = `
## Tasks

`

const imagePrecedenceIntro = `
## Images

The same image in the stores of two engines is two images; containerd's of the namespace of Kubernetes are the CRI's, too.

`
