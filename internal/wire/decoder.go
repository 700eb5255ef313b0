// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
)

// DecodeResults is the way back from EncodeResults. It gives each result its
// question; results that name the same entity share it. Its error wraps
// ErrMalformed.
func DecodeResults(queries []workload.Query, msg *Bytes) ([]workload.Result, error) {
	d := newDecoder(queries)
	if err := d.part(msg.string()); err != nil {
		return nil, err
	}
	return d.end()
}

// decoder gathers a reply, whose entities it keeps for the parts to come.
type decoder struct {
	queries    []workload.Query
	results    []workload.Result // as many as there were so far
	raw        []result          // of this part, as are the next two
	answers    []answer
	indexes    []uint32 // of containers: chains have one or two
	containers []*workload.Container
	processes  []*workload.Process
	shares     []share // of this part's processes
	sets       []*cgroupSet
	pods       []*workload.Pod
	tasks      []*workload.Task
	services   []*workload.Service

	msg    string // the part
	copied string // what was copied of it
	from   int    // where copied began
	blocks struct {
		processes  []workload.Process
		namespaces []workload.PIDNamespace
	}
}

func newDecoder(queries []workload.Query) *decoder {
	return &decoder{queries: queries, results: make([]workload.Result, 0, len(queries))}
}

// part reads the next part of a reply. The bytes may be used again afterwards
// where there is more than one question.
func (d *decoder) part(s string) error {
	d.msg, d.copied, d.from = s, "", 0
	d.raw, d.shares = d.raw[:0], d.shares[:0]
	first, known := len(d.results), len(d.processes)
	for in := (scanner{rest: s}); in.rest != ""; {
		if err := in.next(); err != nil {
			return err
		}
		if in.typ != typeBytes {
			continue
		}
		if err := d.field(in); err != nil {
			return err
		}
	}
	for i := range d.shares {
		if err := d.joinProcess(d.processes[known+i], &d.shares[i]); err != nil {
			return fmt.Errorf("process %d: %w", known+i, err)
		}
	}
	for i := range d.raw {
		d.results[first+i].Query = d.queries[first+i]
		if err := d.join(&d.results[first+i], &d.raw[i]); err != nil {
			return fmt.Errorf("result %d: %w", first+i, err)
		}
	}
	return nil
}

// end gives the results when all of them were there.
func (d *decoder) end() ([]workload.Result, error) {
	if len(d.results) != len(d.queries) {
		return nil, fmt.Errorf("%w: %d results for %d questions", ErrMalformed, len(d.results), len(d.queries))
	}
	return d.results, nil
}

func (d *decoder) field(in scanner) error {
	switch in.num {
	case fieldResults:
		return d.result(in)
	case fieldContainers:
		return add(d, &d.containers, containerMessage, in)
	case fieldProcesses:
		return d.process(in)
	case fieldPods:
		return add(d, &d.pods, podMessage, in)
	case fieldTasks:
		return add(d, &d.tasks, taskMessage, in)
	case fieldServices:
		return add(d, &d.services, serviceMessage, in)
	case fieldCgroupSets:
		return add(d, &d.sets, cgroupSetMessage, in)
	}
	return nil
}

// result reads an answer to the place where it will be.
func (d *decoder) result(in scanner) error {
	at, i := len(d.results), len(d.raw)
	if at >= len(d.queries) {
		return fmt.Errorf("%w: more results than questions", ErrMalformed)
	}
	if i == len(d.answers) {
		d.grow(min(in.alike(), len(d.queries)-at))
	}
	d.results = d.results[:at+1]
	d.answers[i] = answer{Answer: &d.results[at].Answer, containers: d.indexes[2*i : 2*i : 2*i+2]}
	d.raw = append(d.raw, result{answer: &d.answers[i]})
	if err := resultMessage.parse(&d.raw[i], in.bytes); err != nil {
		return err
	}
	if d.raw[i].err == nil && !strings.HasPrefix(in.bytes, answerTag) && !hasAnswer(in.bytes) {
		return fmt.Errorf("%w: result %d has neither an answer nor an error", ErrMalformed, at)
	}
	return nil
}

// grow makes room for n more results of this part. What was read so far points
// to where it is, which stays.
func (d *decoder) grow(n int) {
	d.answers = append(d.answers, make([]answer, n)...)
	d.indexes = append(d.indexes, make([]uint32, 2*n)...)
}

// answerTag begins nearly every result.
const answerTag = "\x0a"

// hasAnswer looks for the answer where it is not the first field.
func hasAnswer(s string) bool {
	for in := (scanner{rest: s}); in.rest != "" && in.next() == nil; {
		if in.num == 1 && in.typ == typeBytes {
			return true
		}
	}
	return false
}

// piece is how much of a reply is copied at a time, and so what may be kept
// by keeping one entity, where it is not longer itself.
const piece = 2 << 10

// own gives the current field of the part its own bytes, so that who keeps an
// entity does not keep the whole reply. Neighbours share a piece.
func (d *decoder) own(in scanner) string {
	if len(d.queries) == 1 {
		return in.bytes
	}
	end := len(d.msg) - len(in.rest)
	begin := end - len(in.bytes)
	if end > d.from+len(d.copied) {
		d.from, d.copied = begin, strings.Clone(d.msg[begin:min(len(d.msg), max(end, begin+piece))])
	}
	return d.copied[begin-d.from : end-d.from]
}

func (d *decoder) clone(s string) string {
	if len(d.queries) == 1 {
		return s
	}
	return strings.Clone(s)
}

// ownTexts does the same for what a result itself says, which is rarely anything.
func (d *decoder) ownTexts(to *workload.Result, r *result) {
	to.Answer.Reason = d.clone(to.Answer.Reason)
	if r.err != nil {
		r.err.message = d.clone(r.err.message)
	}
	for i := range r.explanation {
		h := &r.explanation[i]
		h.What, h.Detail, h.Source = d.clone(h.What), d.clone(h.Detail), d.clone(h.Source)
	}
}

func add[T any](d *decoder, list *[]*T, m *message[T], in scanner) error {
	v := new(T)
	*list = append(room(*list, in), v)
	return m.parse(v, d.own(in))
}

// Processes are made a few at a time, of which each keeps the others.
const (
	processBlock   = 16
	namespaceBlock = 2 * processBlock
)

// newProcess has room for one namespace, which is what a process of a container has.
func (d *decoder) newProcess() *workload.Process {
	if len(d.queries) == 1 {
		return new(workload.Process)
	}
	if len(d.blocks.processes) == 0 {
		d.blocks.processes = make([]workload.Process, processBlock)
	}
	if len(d.blocks.namespaces) < 2 {
		d.blocks.namespaces = make([]workload.PIDNamespace, namespaceBlock)
	}
	p := &d.blocks.processes[0]
	p.PIDNamespaces = d.blocks.namespaces[:0:2]
	d.blocks.processes = d.blocks.processes[1:]
	return p
}

// settled takes back the room that a process did not need.
func (d *decoder) settled(p *workload.Process) {
	switch n := len(p.PIDNamespaces); {
	case n == 0:
		p.PIDNamespaces = nil
	case n <= 2 && len(d.blocks.namespaces) >= 2 && &p.PIDNamespaces[0] == &d.blocks.namespaces[0]:
		p.PIDNamespaces = p.PIDNamespaces[:n:n]
		d.blocks.namespaces = d.blocks.namespaces[n:]
	}
}

func (d *decoder) process(in scanner) error {
	p := d.newProcess()
	d.processes = append(room(d.processes, in), p)
	d.shares = append(room(d.shares, in), share{})
	to := &d.shares[len(d.shares)-1]
	for in := (scanner{rest: d.own(in)}); in.rest != ""; {
		if err := in.next(); err != nil {
			return err
		}
		var err error
		switch in.num {
		case 10, 18, 19:
			err = shareMessage.take(to, in)
		default:
			err = processMessage.take(p, in)
		}
		if err != nil {
			return err
		}
	}
	d.settled(p)
	return nil
}

// joinProcess puts what processes have in common into one.
func (d *decoder) joinProcess(p *workload.Process, s *share) error {
	var c *workload.Container
	var set *cgroupSet
	if err := pick(&c, d.containers, s.container); err != nil {
		return err
	}
	if err := pick(&set, d.sets, s.cgroups); err != nil {
		return err
	}
	p.Container = s.foreign
	if c != nil {
		p.Container = c.ID
	}
	if set != nil {
		p.Cgroups = set.cgroups
	}
	return nil
}

// join puts the entities into an answer.
func (d *decoder) join(to *workload.Result, r *result) error {
	d.ownTexts(to, r)
	to.Explanation = r.explanation
	if r.err != nil {
		to.Answer, to.Err = workload.Answer{}, r.err
		if err := checkQuery(&to.Query); err != nil {
			to.Err = err
		}
		return nil
	}
	a := r.answer
	return errors.Join(
		pickAll(&to.Answer.Containers, d.containers, a.containers),
		pick(&to.Answer.Process, d.processes, a.process),
		pick(&to.Answer.Pod, d.pods, a.pod),
		pick(&to.Answer.Task, d.tasks, a.task),
		pick(&to.Answer.Service, d.services, a.service),
	)
}

// pickAll shares the list where it can: a chain of one always is a part of it.
func pickAll[T any](to *[]*T, list []*T, at []uint32) error {
	if len(at) == 0 {
		return nil
	}
	row := true
	for i, n := range at {
		if uint64(n) >= uint64(len(list)) {
			return fmt.Errorf("%w: index %d of %d", ErrMalformed, n, len(list))
		}
		row = row && n == at[0]+uint32(i)
	}
	if end := int(at[0]) + len(at); row {
		*to = list[at[0]:end:end]
		return nil
	}
	*to = make([]*T, len(at))
	for i, n := range at {
		(*to)[i] = list[n]
	}
	return nil
}

func pick[T any](to **T, list []*T, r reference) error {
	if r == 0 {
		return nil
	}
	if uint64(r) > uint64(len(list)) {
		return fmt.Errorf("%w: index %d of %d", ErrMalformed, r-1, len(list))
	}
	*to = list[r-1]
	return nil
}
