// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"slices"

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
	e := encoder{total: len(results)}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(1024 + perResult*len(results))
	*buf = e.append((*buf)[:0], results) // it may have grown out of what the pool gave, and may go there all the same
	return &Bytes{buf: mem.NewBuffer(buf, pool)}
}

// append writes the results of a reply, or its next ones, and then the entities
// that were not in it before.
func (e *encoder) append(b []byte, results []workload.Result) []byte {
	for i := range results {
		b = resultMessage.nested(b, fieldResults, e.result(&results[i]))
	}
	b = appendAll(b, fieldContainers, containerMessage, e.containers.next())
	from := e.processes.sent
	for i, p := range e.processes.next() {
		var start int
		b, start = open(b, fieldProcesses)
		b = closed(shareMessage.append(ownMessage.append(b, p), e.share(from+i, p)), start)
	}
	b = appendAll(b, fieldPods, podMessage, e.pods.next())
	b = appendAll(b, fieldTasks, taskMessage, e.tasks.next())
	b = appendAll(b, fieldServices, serviceMessage, e.services.next())
	for ; e.setsSent < len(e.sets); e.setsSent++ {
		b = cgroupSetMessage.nested(b, fieldCgroupSets, &e.sets[e.setsSent])
	}
	return b
}

func appendAll[M any](b []byte, num uint64, m *message[M], list []*M) []byte {
	for _, v := range list {
		b = m.nested(b, num, v)
	}
	return b
}

// encoder numbers the entities of one reply.
type encoder struct {
	total      int // of the results
	containers numbered[workload.Container, workload.ContainerID]
	processes  processes
	pods       numbered[workload.Pod, workload.PodRef]
	tasks      numbered[workload.Task, workload.Task]
	services   numbered[workload.Service, workload.Service]
	homes      []reference // the container of each process, as its answer has it
	sets       []cgroupSet
	setsSent   int
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
			home = e.containers.of(c, c.ID)
			e.a.containers = append(e.a.containers, uint32(home-1))
		}
	}
	if a.Process != nil {
		e.a.process = e.processes.of(a.Process, e.total)
		if int(e.a.process) > len(e.homes) {
			e.homes = append(e.homes, home)
		}
	}
	if a.Pod != nil {
		e.a.pod = e.pods.of(a.Pod, a.Pod.PodRef)
	}
	if a.Task != nil {
		e.a.task = e.tasks.of(a.Task, *a.Task)
	}
	if a.Service != nil {
		e.a.service = e.services.of(a.Service, *a.Service)
	}
	return &e.r
}

// share gives what process i has in common with others, until the next call. It
// is called when all containers so far are known.
func (e *encoder) share(i int, p *workload.Process) *share {
	at := e.homes[i]
	if at == 0 || e.containers.list[at-1].ID != p.Container {
		at = e.containers.find(p.Container)
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
	if need := len(e.containers.list) + 1; len(e.setOf) < need {
		e.setOf = append(e.setOf, make([]reference, need-len(e.setOf))...)
	}
	at := &e.setOf[container]
	if *at == 0 || !slices.Equal(e.sets[*at-1].cgroups, ids) {
		e.sets = append(e.sets, cgroupSet{ids})
		*at = reference(len(e.sets))
	}
	return *at
}
