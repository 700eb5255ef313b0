// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"slices"

	"google.golang.org/grpc/mem"

	"github.com/pidigree/pidigree/pkg/workload"
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
		b = e.result(b, &results[i])
	}
	b = appendAll(b, fieldContainers, containerMessage, e.containers.next())
	from := e.processes.sent
	for i, p := range e.processes.next() {
		var start int
		b, start = open(b, fieldProcesses)
		b = closed(e.share(appendOwn(b, p), from+i, p), start)
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
	tasks      numbered[workload.Task, workload.TaskRef]
	services   numbered[workload.Service, workload.Service]
	homes      []reference // the container of each process, as its answer has it
	sets       []cgroupSet
	setsSent   int
	setOf      []reference // the set seen last with a container, by its reference
	chain      []uint32    // of the answer at hand
}

// result writes a Result; the Query stays with who asked.
func (e *encoder) result(b []byte, r *workload.Result) []byte {
	b, start := open(b, fieldResults)
	if r.Err == nil {
		var from int
		b, from = open(b, 1)
		b = closed(e.answer(b, &r.Answer), from)
	}
	for i := range r.Explanation {
		b = hopMessage.nested(b, 2, &r.Explanation[i])
	}
	if r.Err != nil {
		b = errorMessage.nested(b, 3, &remoteError{int32(Code(r.Err)), Message(r.Err)})
	}
	if r.Family != nil && r.Err == nil {
		b = familyMessage.nested(b, 4, r.Family)
	}
	return closed(b, start)
}

// answer writes an Answer with references in the place of its entities.
func (e *encoder) answer(b []byte, a *workload.Answer) []byte {
	home := e.chainOf(a)
	b = appendWord(b, 1, statuses, a.Status)
	b = appendWord(b, 2, confidences, a.Confidence)
	b = appendTrue(b, 3, a.Exited)
	if a.Process != nil {
		at := e.processes.of(a.Process, e.total)
		if int(at) > len(e.homes) {
			e.homes = append(e.homes, home)
		}
		b = appendReference(b, 4, at)
	}
	b = appendNumber(b, 5, uint64(a.Thread))
	if len(e.chain) > 0 {
		var start int
		b, start = open(b, 6)
		for _, n := range e.chain {
			b = appendUvarint(b, uint64(n))
		}
		b = closed(b, start)
	}
	if a.Pod != nil {
		b = appendReference(b, 7, e.pods.of(a.Pod, a.Pod.PodRef))
	}
	if a.Task != nil {
		b = appendReference(b, 8, e.tasks.of(a.Task, workload.TaskRef{ARN: a.Task.ARN, Cluster: a.Task.Cluster, Family: a.Task.Family}))
	}
	if a.Service != nil {
		b = appendReference(b, 9, e.services.of(a.Service, *a.Service))
	}
	b = appendString(b, 10, a.Reason)
	b = appendNumber(b, 11, uint64(a.AsOf))
	return appendNumber(b, 12, uint64(a.Revision))
}

// chainOf numbers the containers of an answer and gives the innermost.
func (e *encoder) chainOf(a *workload.Answer) (home reference) {
	e.chain = e.chain[:0]
	for _, c := range a.Containers {
		if c != nil {
			home = e.containers.of(c, c.ID)
			e.chain = append(e.chain, uint32(home-1))
		}
	}
	return home
}

// share writes what process i has in common with others, by reference. All
// containers so far are known then.
func (e *encoder) share(b []byte, i int, p *workload.Process) []byte {
	at := e.homes[i]
	if at == 0 || e.containers.list[at-1].ID != p.Container {
		at = e.containers.find(p.Container)
	}
	if at == 0 {
		if p.Container != (workload.ContainerID{}) {
			b = containerIDMessage.nested(b, 10, &p.Container) // the reply does not hold it
		}
	} else {
		b = appendReference(b, fieldContainerIndex, at)
	}
	if len(p.Cgroups) > 0 {
		b = appendReference(b, fieldCgroupsIndex, e.set(at, p.Cgroups))
	}
	return b
}

// The fields of a Process in a reply that have no place in a workload.Process.
const (
	fieldContainerIndex = 18
	fieldCgroupsIndex   = 19
)

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
