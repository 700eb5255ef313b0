// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"cmp"
	"fmt"
	"math"
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
	containers []*workload.Container
	processes  []*workload.Process
	sets       []*cgroupSet
	pods       []*workload.Pod
	tasks      []*workload.Task
	services   []*workload.Service
	chain      []uint32 // of the answer at hand

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
// where there is more than one question. It goes through the part three times,
// so that whatever refers to something finds it: entities, the processes, which
// refer to those, and the results, which refer to both.
func (d *decoder) part(s string) error {
	d.msg = s
	var processes, results string // from the first one of each
	err := d.each(s, func(in *scanner, at string) error {
		switch in.num {
		case fieldProcesses:
			processes = cmp.Or(processes, at)
		case fieldResults:
			results = cmp.Or(results, at)
		default:
			return d.entity(*in)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := d.each(processes, func(in *scanner, _ string) error {
		if in.num != fieldProcesses {
			return nil
		}
		return d.process(in)
	}); err != nil {
		return err
	}
	return d.each(results, func(in *scanner, _ string) error {
		if in.num != fieldResults {
			return nil
		}
		return d.result(in)
	})
}

// each calls f for each message of the part from a field on, with that field
// and what follows.
func (d *decoder) each(s string, f func(in *scanner, at string) error) error {
	d.copied, d.from = "", 0
	in := scanner{s: s}
	for in.more() {
		at := in.s[in.at:]
		if err := in.next(); err != nil {
			return err
		}
		if in.typ != typeBytes {
			continue
		}
		if err := f(&in, at); err != nil {
			return err
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

func (d *decoder) entity(in scanner) error {
	switch in.num {
	case fieldContainers:
		return add(d, &d.containers, containerMessage, in)
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

// result reads a result to the place where it will be.
func (d *decoder) result(in *scanner) error {
	i := len(d.results)
	if i >= len(d.queries) {
		return fmt.Errorf("%w: more results than questions", ErrMalformed)
	}
	d.results, d.chain = d.results[:i+1], d.chain[:0]
	r := &d.results[i]
	r.Query = d.queries[i]
	var said *remoteError
	answered := false
	for f := (scanner{s: in.bytes()}); f.more(); {
		if err := f.next(); err != nil {
			return err
		}
		var err error
		switch f.kind() {
		case 1<<3 | typeBytes:
			answered = true
			err = d.answer(&r.Answer, f.bytes())
		case 2<<3 | typeBytes:
			r.Explanation = append(room(r.Explanation, f), workload.Hop{})
			err = hopMessage.parse(&r.Explanation[len(r.Explanation)-1], d.clone(f.bytes()))
		case 3<<3 | typeBytes:
			err = parseInto(&said, errorMessage, d.clone(f.bytes()))
		case 4<<3 | typeBytes:
			err = parseInto(&r.Family, familyMessage, d.clone(f.bytes()))
		}
		if err != nil {
			return fmt.Errorf("result %d: %w", i, err)
		}
	}
	switch {
	case said != nil:
		r.Answer, r.Err = workload.Answer{}, said
		if err := checkQuery(&r.Query); err != nil {
			r.Err = err
		}
		return nil
	case !answered:
		return fmt.Errorf("%w: result %d has neither an answer nor an error", ErrMalformed, i)
	}
	return pickAll(&r.Answer.Containers, d.containers, d.chain)
}

// answer reads an answer and puts its entities into it, but for the containers.
func (d *decoder) answer(a *workload.Answer, s string) error {
	for in := (scanner{s: s}); in.more(); {
		if err := in.next(); err != nil {
			return err
		}
		var err error
		switch in.kind() {
		case 1<<3 | typeVarint:
			a.Status = wordOf(statuses, in.n)
		case 2<<3 | typeVarint:
			a.Confidence = wordOf(confidences, in.n)
		case 3<<3 | typeVarint:
			a.Exited = in.n != 0
		case 4<<3 | typeVarint:
			err = pick(&a.Process, d.processes, &in)
		case 5<<3 | typeVarint:
			a.Thread = workload.PID(in.n)
		case 6<<3 | typeVarint, 6<<3 | typeBytes:
			err = packed(in, func(n uint64) { d.chain = append(d.chain, uint32(min(n, math.MaxUint32))) })
		case 7<<3 | typeVarint:
			err = pick(&a.Pod, d.pods, &in)
		case 8<<3 | typeVarint:
			err = pick(&a.Task, d.tasks, &in)
		case 9<<3 | typeVarint:
			err = pick(&a.Service, d.services, &in)
		case 10<<3 | typeBytes:
			a.Reason = d.clone(in.bytes())
			err = checkText(in)
		case 11<<3 | typeVarint:
			a.AsOf = workload.KTime(in.n)
		case 12<<3 | typeVarint:
			a.Revision = workload.Revision(in.n)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// piece is how much of a reply is copied at a time, and so what may be kept
// by keeping one entity, where it is not longer itself.
const piece = 4 << 10

// own gives the current field of the part its own bytes, so that who keeps an
// entity does not keep the whole reply. Neighbours share a piece.
func (d *decoder) own(in scanner) string {
	if len(d.queries) == 1 {
		return in.bytes()
	}
	end := len(d.msg) - len(in.s) + in.at
	begin := end - (in.at - in.from)
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

// process reads a process and puts into it what it has in common with others.
func (d *decoder) process(in *scanner) error {
	p := d.newProcess()
	d.processes = append(room(d.processes, *in), p)
	var home *workload.Container
	var set *cgroupSet
	for f := (scanner{s: d.own(*in)}); f.more(); {
		if err := f.next(); err != nil {
			return err
		}
		var err error
		switch f.kind() {
		case fieldContainerIndex<<3 | typeVarint:
			err = pick(&home, d.containers, &f)
		case fieldCgroupsIndex<<3 | typeVarint:
			err = pick(&set, d.sets, &f)
		default:
			err = takeProcess(p, &f)
		}
		if err != nil {
			return fmt.Errorf("process %d: %w", len(d.processes)-1, err)
		}
	}
	if home != nil {
		p.Container = home.ID
	}
	if set != nil {
		p.Cgroups = set.cgroups
	}
	d.settled(p)
	return nil
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

// pick gives what an index refers to.
func pick[T any](to **T, list []*T, in *scanner) error {
	if in.n >= uint64(len(list)) {
		return fmt.Errorf("%w: index %d of %d", ErrMalformed, in.n, len(list))
	}
	*to = list[in.n]
	return nil
}
