// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/mem"

	"github.com/pidigree/pidigree/pkg/workload"
)

// answer is an Answer with references in the place of its entities.
type answer struct {
	*workload.Answer
	containers                  []uint32
	process, pod, task, service reference
}

var answerMessage = table(
	enum(1, statuses, func(a *answer) *workload.Status { return &a.Status }),
	enum(2, confidences, func(a *answer) *workload.Confidence { return &a.Confidence }),
	boolean(3, func(a *answer) *bool { return &a.Exited }),
	optional(4, func(a *answer) *reference { return &a.process }),
	number(5, func(a *answer) *workload.PID { return &a.Thread }),
	indexes(6, func(a *answer) *[]uint32 { return &a.containers }),
	optional(7, func(a *answer) *reference { return &a.pod }),
	optional(8, func(a *answer) *reference { return &a.task }),
	optional(9, func(a *answer) *reference { return &a.service }),
	text(10, func(a *answer) *string { return &a.Reason }),
	number(11, func(a *answer) *workload.KTime { return &a.AsOf }),
	number(12, func(a *answer) *workload.Revision { return &a.Revision }),
)

// result is a Result in the same form; the Query stays with who asked.
type result struct {
	answer      *answer
	explanation []workload.Hop
	err         *remoteError
}

var resultMessage = table(
	pointer(1, answerMessage, func(r *result) **answer { return &r.answer }),
	list(2, hopMessage, func(r *result) *[]workload.Hop { return &r.explanation }),
	pointer(3, errorMessage, func(r *result) **remoteError { return &r.err }),
)

// share is what a Process of a reply has in common with others, by reference.
type share struct {
	foreign            workload.ContainerID // where the reply does not hold the container
	container, cgroups reference
}

// A Process of a reply is written as the two parts of it, one after the other.
var (
	ownMessage   = processMessage.without(5, 10)
	shareMessage = table(
		value(10, containerIDMessage, func(s *share) *workload.ContainerID { return &s.foreign }),
		optional(18, func(s *share) *reference { return &s.container }),
		optional(19, func(s *share) *reference { return &s.cgroups }),
	)
)

// cgroupSet is a CgroupSet.
type cgroupSet struct{ cgroups []workload.CgroupID }

var cgroupSetMessage = table(
	list(1, cgroupMessage, func(s *cgroupSet) *[]workload.CgroupID { return &s.cgroups }),
)

// The fields of ResolveResponse.
const (
	fieldResults    = 1
	fieldContainers = 2
	fieldProcesses  = 3
	fieldPods       = 4
	fieldTasks      = 5
	fieldServices   = 6
	fieldCgroupSets = 7
)

// perResult is a guess at the bytes of an answer with its process and its part
// of a container.
const perResult = 256

// EncodeResults makes a ResolveResponse, in which each entity is once.
func EncodeResults(results []workload.Result) *Bytes {
	e := encoder{hint: len(results)}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(1024 + perResult*len(results))
	b := (*buf)[:0]
	for i := range results {
		b = resultMessage.nested(b, fieldResults, e.result(&results[i]))
	}
	b = appendAll(b, fieldContainers, containerMessage, e.containers.list)
	for i, p := range e.processes.list {
		var start int
		b, start = open(b, fieldProcesses)
		b = closed(shareMessage.append(ownMessage.append(b, p), e.share(i, p)), start)
	}
	b = appendAll(b, fieldPods, podMessage, e.pods.list)
	b = appendAll(b, fieldTasks, taskMessage, e.tasks.list)
	b = appendAll(b, fieldServices, serviceMessage, e.services.list)
	b = appendAll(b, fieldCgroupSets, cgroupSetMessage, e.sets)
	*buf = b // it may have grown out of what the pool gave, and may go there all the same
	return &Bytes{buf: mem.NewBuffer(buf, pool)}
}

func appendAll[M any](b []byte, num uint64, m *message[M], list []*M) []byte {
	for _, v := range list {
		b = m.nested(b, num, v)
	}
	return b
}

// encoder numbers the entities of one reply.
type encoder struct {
	hint       int // of how many there are
	containers numbered[workload.Container, workload.ContainerID]
	processes  numbered[workload.Process, workload.ProcessKey]
	pods       numbered[workload.Pod, workload.PodRef]
	tasks      numbered[workload.Task, workload.Task]
	services   numbered[workload.Service, workload.Service]
	homes      []reference // the container of each process, as its answer has it
	sets       []*cgroupSet
	setOf      []reference // the set seen last with a container, by its reference

	// One of each is enough: one is written before the next one comes.
	r result
	a answer
	s share
}

// result gives a Result in the form of the wire, until the next call.
func (e *encoder) result(r *workload.Result) *result {
	e.r = result{explanation: r.Explanation}
	if r.Err != nil {
		e.r.err = &remoteError{int32(Code(r.Err)), Message(r.Err)}
		return &e.r
	}
	a := &r.Answer
	e.a = answer{Answer: a, containers: e.a.containers[:0]}
	e.r.answer = &e.a
	var home reference
	for _, c := range a.Containers {
		if c != nil {
			home = e.containers.of(c, c.ID, 1)
			e.a.containers = append(e.a.containers, uint32(home-1))
		}
	}
	if a.Process != nil {
		e.a.process = e.processes.of(a.Process, a.Process.Key, e.hint)
		if int(e.a.process) > len(e.homes) {
			e.homes = append(e.homes, home)
		}
	}
	if a.Pod != nil {
		e.a.pod = e.pods.of(a.Pod, a.Pod.PodRef, 1)
	}
	if a.Task != nil {
		e.a.task = e.tasks.of(a.Task, *a.Task, 1)
	}
	if a.Service != nil {
		e.a.service = e.services.of(a.Service, *a.Service, 1)
	}
	return &e.r
}

// share gives what process i has in common with others, until the next call. It
// is called when all containers of the reply are known.
func (e *encoder) share(i int, p *workload.Process) *share {
	at := e.homes[i]
	if at == 0 || e.containers.list[at-1].ID != p.Container {
		at = e.containers.byKey[p.Container]
	}
	e.s = share{container: at}
	if at == 0 {
		e.s.foreign = p.Container
	}
	if len(p.Cgroups) > 0 {
		e.s.cgroups = e.set(at, p.Cgroups)
	}
	return &e.s
}

// set finds the cgroups where the last process of the same container had the
// same: nearly always.
func (e *encoder) set(container reference, ids []workload.CgroupID) reference {
	if e.setOf == nil {
		e.setOf = make([]reference, len(e.containers.list)+1)
	}
	at := &e.setOf[container]
	if *at == 0 || !slices.Equal(e.sets[*at-1].cgroups, ids) {
		e.sets = append(e.sets, &cgroupSet{ids})
		*at = reference(len(e.sets))
	}
	return *at
}

// numbered is a list in which each entity is once, by its key.
type numbered[T any, K comparable] struct {
	list  []*T
	byKey map[K]reference
	byPtr map[*T]reference // a short way: answers of one store share entities
	last  reference        // the shortest: of the entity given last
}

// of gives the reference of an entity and puts it into the list where it is
// new. One that changed between two answers of the batch is there in its later
// form: the reply as a whole is then true at the later instant. An entity
// without a key is never taken for another one.
func (n *numbered[T, K]) of(p *T, key K, hint int) reference {
	if n.last != 0 && n.list[n.last-1] == p {
		return n.last
	}
	if n.list == nil {
		n.list, n.byKey, n.byPtr = make([]*T, 0, hint), make(map[K]reference, hint), make(map[*T]reference, hint)
	}
	at := n.byPtr[p]
	if at == 0 {
		at = n.add(p, key)
		n.byPtr[p] = at
	}
	n.list[at-1], n.last = p, at
	return at
}

func (n *numbered[T, K]) add(p *T, key K) reference {
	var none K
	if at := n.byKey[key]; at != 0 {
		return at
	}
	n.list = append(n.list, p)
	at := reference(len(n.list))
	if key != none {
		n.byKey[key] = at
	}
	return at
}

// DecodeResults is the way back. It gives each result its question; results
// that name the same entity share it. Its error wraps ErrMalformed.
func DecodeResults(queries []workload.Query, msg *Bytes) ([]workload.Result, error) {
	d := decoder{results: make([]workload.Result, len(queries)), shared: len(queries) > 1}
	for in := (scanner{rest: msg.string()}); in.rest != ""; {
		if err := in.next(); err != nil {
			return nil, err
		}
		if in.typ != typeBytes {
			continue
		}
		if err := d.field(in); err != nil {
			return nil, err
		}
	}
	if len(d.raw) != len(queries) {
		return nil, fmt.Errorf("%w: %d results for %d questions", ErrMalformed, len(d.raw), len(queries))
	}
	for i := range d.shares {
		if err := d.joinProcess(d.processes[i], &d.shares[i]); err != nil {
			return nil, fmt.Errorf("process %d: %w", i, err)
		}
	}
	for i := range d.raw {
		d.results[i].Query = queries[i]
		if err := d.join(&d.results[i], &d.raw[i]); err != nil {
			return nil, fmt.Errorf("result %d: %w", i, err)
		}
	}
	return d.results, nil
}

// decoder gathers the parts of one reply.
type decoder struct {
	shared     bool // the reply is about several things
	results    []workload.Result
	raw        []result
	answers    []answer
	indexes    []uint32 // of containers: chains have one or two
	containers []*workload.Container
	processes  []*workload.Process
	shares     []share // of the processes
	sets       []*cgroupSet
	pods       []*workload.Pod
	tasks      []*workload.Task
	services   []*workload.Service
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
	i := len(d.raw)
	if i >= len(d.results) {
		return fmt.Errorf("%w: more results than questions", ErrMalformed)
	}
	if d.raw == nil {
		d.raw, d.answers = make([]result, 0, len(d.results)), make([]answer, len(d.results))
		d.indexes = make([]uint32, 2*len(d.results))
	}
	d.answers[i] = answer{Answer: &d.results[i].Answer, containers: d.indexes[2*i : 2*i : 2*i+2]}
	d.raw = append(d.raw, result{answer: &d.answers[i]})
	if err := resultMessage.parse(&d.raw[i], in.bytes); err != nil {
		return err
	}
	if d.raw[i].err == nil && !strings.HasPrefix(in.bytes, answerTag) && !hasAnswer(in.bytes) {
		return fmt.Errorf("%w: result %d has neither an answer nor an error", ErrMalformed, i)
	}
	return nil
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

// own gives an entity its own bytes, so that who keeps it does not keep the
// whole reply.
func (d *decoder) own(s string) string {
	if d.shared {
		return strings.Clone(s)
	}
	return s
}

// ownTexts does the same for what a result itself says, which is rarely anything.
func (d *decoder) ownTexts(to *workload.Result, r *result) {
	to.Answer.Reason = d.own(to.Answer.Reason)
	if r.err != nil {
		r.err.message = d.own(r.err.message)
	}
	for i := range r.explanation {
		h := &r.explanation[i]
		h.What, h.Detail, h.Source = d.own(h.What), d.own(h.Detail), d.own(h.Source)
	}
}

func add[T any](d *decoder, list *[]*T, m *message[T], in scanner) error {
	v := new(T)
	*list = append(room(*list, in), v)
	return m.parse(v, d.own(in.bytes))
}

func (d *decoder) process(in scanner) error {
	p := new(workload.Process)
	d.processes = append(room(d.processes, in), p)
	d.shares = append(room(d.shares, in), share{})
	to := &d.shares[len(d.shares)-1]
	for in := (scanner{rest: d.own(in.bytes)}); in.rest != ""; {
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
