// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"errors"
	"fmt"

	pb "github.com/pidigree/pidigree/api/pidigree/v1"
	"github.com/pidigree/pidigree/pkg/workload"
)

// ErrBadReply means that a reply contradicts itself: it came from something
// that is no pidigree agent, or from a broken one.
var ErrBadReply = errors.New("bad reply")

// EncodeResults makes the reply to a batch, in which each entity is once.
func EncodeResults(results []workload.Result) *pb.ResolveResponse {
	e := resultEncoder{out: &pb.ResolveResponse{Results: make([]*pb.Result, len(results))}}
	slab := make([]struct {
		result pb.Result
		answer pb.Answer
	}, len(results))
	for i := range results {
		s := &slab[i]
		s.result.Explanation = each(results[i].Explanation, encodeHop)
		if err := results[i].Err; err != nil {
			s.result.Error = EncodeError(err)
		} else {
			s.result.Answer = &s.answer
			e.answer(&s.answer, &results[i].Answer)
		}
		e.out.Results[i] = &s.result
	}
	return e.out
}

// resultEncoder knows at which index each entity is. Containers, processes and
// pods are found by pointer first, because answers of one store share them.
type resultEncoder struct {
	out        *pb.ResolveResponse
	containers index[*workload.Container, workload.ContainerID]
	processes  index[*workload.Process, workload.ProcessKey]
	pods       index[*workload.Pod, workload.PodRef]
	tasks      index[*workload.Task, workload.Task]
	services   index[*workload.Service, workload.Service]
}

func (e *resultEncoder) answer(out *pb.Answer, a *workload.Answer) {
	out.Status = number[pb.Status](statuses[:], a.Status)
	out.Confidence = number[pb.Confidence](confidences[:], a.Confidence)
	out.Exited = a.Exited
	out.Thread = uint32(a.Thread)
	out.Reason = text(a.Reason)
	out.AsOfNs = int64(a.AsOf)
	out.Revision = uint64(a.Revision)
	if len(a.Containers) > 0 {
		out.Containers = make([]uint32, len(a.Containers))
	}
	for i, c := range a.Containers {
		out.Containers[i] = e.container(c)
	}
	e.references(out, a)
}

func (e *resultEncoder) references(out *pb.Answer, a *workload.Answer) {
	if a.Process != nil {
		out.Process = new(put(&e.processes, &e.out.Processes, a.Process, a.Process.Key, encodeProcess))
	}
	if a.Pod != nil {
		out.Pod = new(put(&e.pods, &e.out.Pods, a.Pod, a.Pod.PodRef, encodePod))
	}
	if a.Task != nil {
		out.Task = new(put(&e.tasks, &e.out.Tasks, a.Task, *a.Task, encodeTask))
	}
	if a.Service != nil {
		out.Service = new(put(&e.services, &e.out.Services, a.Service, *a.Service, encodeService))
	}
}

func (e *resultEncoder) container(c *workload.Container) uint32 {
	if c == nil {
		c = &workload.Container{}
	}
	return put(&e.containers, &e.out.Containers, c, c.ID, encodeContainer)
}

// index finds the place of an entity by pointer, else by key. Its maps are made
// when a second entity comes: most replies have one of each.
type index[P, K comparable] struct {
	last   P
	lastAt uint32
	byPtr  map[P]uint32
	byKey  map[K]uint32
}

// put gives the place of an entity and appends it where it is new. An entity
// that changed between two answers of the batch is there in its later form:
// the reply as a whole is then true at the later instant. Entities without a
// key are told apart by pointer alone.
func put[T any, K comparable, M any](x *index[*T, K], list *[]*M, p *T, key K, encode func(*T) *M) uint32 {
	if x.last == p && len(*list) > 0 {
		return x.lastAt
	}
	if x.byPtr == nil {
		x.byPtr, x.byKey = make(map[*T]uint32), make(map[K]uint32)
	}
	at, ok := x.byPtr[p]
	if !ok {
		at = x.add(p, key, uint32(len(*list)))
		if int(at) == len(*list) {
			*list = append(*list, encode(p))
		} else {
			(*list)[at] = encode(p)
		}
	}
	x.last, x.lastAt = p, at
	return at
}

func (x *index[P, K]) add(p P, key K, next uint32) uint32 {
	var none K
	at := next
	if key != none {
		if known, ok := x.byKey[key]; ok {
			at = known
		}
		x.byKey[key] = at
	}
	x.byPtr[p] = at
	return at
}

func encodeHop(h workload.Hop) *pb.Hop {
	return &pb.Hop{What: text(h.What), Detail: text(h.Detail), Source: text(h.Source), AtNs: int64(h.At)}
}

func decodeHop(h *pb.Hop) workload.Hop {
	return workload.Hop{
		What: h.GetWhat(), Detail: h.GetDetail(), Source: h.GetSource(), At: workload.KTime(h.GetAtNs()),
	}
}

// DecodeResults is the way back. It gives each result its question; results
// that name the same entity share it. Its error wraps ErrBadReply.
func DecodeResults(queries []workload.Query, r *pb.ResolveResponse) ([]workload.Result, error) {
	if len(r.GetResults()) != len(queries) {
		return nil, fmt.Errorf("%w: %d results for %d questions", ErrBadReply, len(r.GetResults()), len(queries))
	}
	d := resultDecoder{
		containers: each(r.GetContainers(), decodeContainer),
		processes:  each(r.GetProcesses(), decodeProcess),
		pods:       each(r.GetPods(), decodePod),
		tasks:      each(r.GetTasks(), decodeTask),
		services:   each(r.GetServices(), decodeService),
	}
	out := make([]workload.Result, len(queries))
	for i, res := range r.GetResults() {
		out[i].Query = queries[i]
		out[i].Explanation = each(res.GetExplanation(), decodeHop)
		if out[i].Err = DecodeError(res.GetError()); out[i].Err != nil {
			continue
		}
		if err := d.answer(&out[i].Answer, res.GetAnswer()); err != nil {
			return nil, fmt.Errorf("result %d: %w", i, err)
		}
	}
	return out, nil
}

type resultDecoder struct {
	containers []*workload.Container
	processes  []*workload.Process
	pods       []*workload.Pod
	tasks      []*workload.Task
	services   []*workload.Service
}

func (d *resultDecoder) answer(out *workload.Answer, a *pb.Answer) error {
	if a == nil {
		return fmt.Errorf("%w: neither an answer nor an error", ErrBadReply)
	}
	*out = workload.Answer{
		Status: word(statuses[:], a.GetStatus()), Confidence: word(confidences[:], a.GetConfidence()),
		Exited: a.GetExited(), Thread: workload.PID(a.GetThread()), Reason: a.GetReason(),
		AsOf: workload.KTime(a.GetAsOfNs()), Revision: workload.Revision(a.GetRevision()),
	}
	return errors.Join(
		pickAll(&out.Containers, d.containers, a.GetContainers()),
		pick(&out.Process, d.processes, a.Process),
		pick(&out.Pod, d.pods, a.Pod),
		pick(&out.Task, d.tasks, a.Task),
		pick(&out.Service, d.services, a.Service),
	)
}

func pickAll[T any](to *[]*T, list []*T, at []uint32) error {
	if len(at) == 0 {
		return nil
	}
	*to = make([]*T, len(at))
	for i := range at {
		if err := pick(&(*to)[i], list, &at[i]); err != nil {
			return err
		}
	}
	return nil
}

func pick[T any](to **T, list []*T, at *uint32) error {
	if at == nil {
		return nil
	}
	if int(*at) >= len(list) {
		return fmt.Errorf("%w: index %d of %d %T", ErrBadReply, *at, len(list), *to)
	}
	*to = list[*at]
	return nil
}
