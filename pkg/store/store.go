// SPDX-License-Identifier: Apache-2.0

package store

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// The defaults of Options.
const (
	DefaultGrace                  = 5 * time.Minute
	DefaultMaxProcessTombstones   = 20_000
	DefaultMaxContainerTombstones = 5_000
	DefaultMaxPodTombstones       = 2_000
	DefaultMaxTaskTombstones      = 2_000
	DefaultMaxServiceTombstones   = 2_000
	DefaultMaxImageTombstones     = 2_000
)

// Options configure a Store. The zero value works.
type Options struct {
	// Grace is how long an exited process, container, pod or task stays answerable. Default DefaultGrace.
	Grace time.Duration
	// MaxProcessTombstones, MaxContainerTombstones, MaxPodTombstones and
	// MaxTaskTombstones bound how many of them are kept; the oldest go first and are counted. Defaults above.
	MaxProcessTombstones   int
	MaxContainerTombstones int
	MaxPodTombstones       int
	MaxTaskTombstones      int
	// MaxServiceTombstones bounds those of units likewise.
	MaxServiceTombstones int
	// MaxImageTombstones bounds those of images likewise.
	MaxImageTombstones int
	// Base is where revisions start: the first is Base+1. An agent gives
	// microseconds since 1970 here, so that a revision of an earlier agent is
	// recognised as foreign and never resumed from. Default 0.
	Base workload.Revision
	// OnProcessWatched is told when the first watcher of processes comes and when the
	// last has gone, one call at a time. Default: nobody is told.
	OnProcessWatched func(watched bool)
}

func (o Options) withDefaults() Options {
	if o.Grace <= 0 {
		o.Grace = DefaultGrace
	}
	if o.MaxProcessTombstones <= 0 {
		o.MaxProcessTombstones = DefaultMaxProcessTombstones
	}
	if o.MaxContainerTombstones <= 0 {
		o.MaxContainerTombstones = DefaultMaxContainerTombstones
	}
	if o.MaxPodTombstones <= 0 {
		o.MaxPodTombstones = DefaultMaxPodTombstones
	}
	if o.MaxTaskTombstones <= 0 {
		o.MaxTaskTombstones = DefaultMaxTaskTombstones
	}
	if o.MaxServiceTombstones <= 0 {
		o.MaxServiceTombstones = DefaultMaxServiceTombstones
	}
	if o.MaxImageTombstones <= 0 {
		o.MaxImageTombstones = DefaultMaxImageTombstones
	}
	return o
}

// KernelSource is the name of the correlator's own layer. It alone sets Parent,
// Run, Confidence, Missing and Timeline, and it alone brings a tombstone back.
const KernelSource = "kernel"

// Counts says what the store holds and what it had to drop.
type Counts struct {
	Containers, ContainerTombstones int
	Processes, ProcessTombstones    int
	Pods, PodTombstones             int
	Tasks, TaskTombstones           int
	Services, ServiceTombstones     int
	Images, ImageTombstones         int
	Watchers                        int
	// DroppedTombstones went before their time because there were too many.
	DroppedTombstones uint64
	// Rejected are changes that could not be applied (no usable key).
	Rejected uint64
	// Resyncs counts streams that could not be resumed or fell too far behind.
	Resyncs uint64
}

// Store is the state. Make one with New.
type Store struct {
	opt Options

	// What readers use; the writer swaps what is behind.
	rev                                atomic.Uint64 // last revision published
	asOf                               atomic.Int64
	pids                               pidTable
	ids                                *index[workload.ContainerID, cell]
	cgroups                            *index[workload.CgroupID, contItem]
	pods                               *groups[pod]
	tasks                              *groups[task]
	images                             *groups[image]
	services                           *index[string, serviceItem] // by the path of the cgroup
	svcLog                             *changeLog
	svcCount, svcsGone                 atomic.Int64
	svcTombs                           tombs // the writer's, as is the next
	svcMarkers                         *markers[string]
	procLog                            *changeLog
	contLog                            *changeLog
	watchers                           atomic.Int64
	processWatchers                    processWatchers
	pace                               pace
	conts, contsGone, procs, procsGone atomic.Int64
	dropped, rejected, resyncs         atomic.Uint64

	mu sync.Mutex // for the writer alone; guards all below, and who may change what is above
	// head is the last revision given, which is rev once the batch is done.
	head workload.Revision
	// pending have changed since publishPending was called last.
	pending   []unpublished
	byKey     map[workload.ContainerID]*contItem
	byBare    map[string][]*contItem                          // by the ids that are the same everywhere
	children  map[workload.ContainerID]map[*contItem]struct{} // by the parent's id as the child names it
	claims    map[workload.CgroupID][]*contItem
	procTombs tombs // of processes in containers; its max is for both
	hostTombs tombs
	contTombs tombs
	// farTombs are of those that another pidigree alone knew: a flood of them crowds
	// out nobody who was known here.
	farTombs struct{ procs, conts, services tombs }
	// restoredProcs and restoredConts count what Restore brought and is still there.
	restoredProcs, restoredConts int
	far                          *far // nil as long as no other pidigree has said anything

	procMarkers *markers[workload.ProcessKey]
	contMarkers *markers[workload.ContainerID]
}

// New makes an empty store.
func New(opt Options) *Store {
	tombSeq := new(uint64)
	opt = opt.withDefaults()
	s := &Store{
		opt:       opt,
		head:      opt.Base,
		ids:       newIndex[workload.ContainerID, cell](),
		cgroups:   newIndex[workload.CgroupID, contItem](),
		procLog:   newChangeLog(opt.Base),
		contLog:   newChangeLog(opt.Base),
		byKey:     map[workload.ContainerID]*contItem{},
		byBare:    map[string][]*contItem{},
		children:  map[workload.ContainerID]map[*contItem]struct{}{},
		claims:    map[workload.CgroupID][]*contItem{},
		procTombs: tombs{max: opt.MaxProcessTombstones, seq: tombSeq},
		hostTombs: tombs{seq: tombSeq},
		contTombs: tombs{max: opt.MaxContainerTombstones, seq: tombSeq},
		pace:      pace{born: time.Now()},
	}
	s.farTombs.procs = tombs{max: opt.MaxProcessTombstones, seq: tombSeq}
	s.farTombs.conts = tombs{max: opt.MaxContainerTombstones, seq: tombSeq}
	s.farTombs.services = tombs{max: opt.MaxServiceTombstones, seq: tombSeq}
	s.pids.init()
	s.rev.Store(uint64(opt.Base))
	s.procMarkers = newMarkers[workload.ProcessKey](s.procLog, opt.MaxProcessTombstones)
	s.contMarkers = newMarkers[workload.ContainerID](s.contLog, opt.MaxContainerTombstones)
	s.pods = newGroups(s, podKind, tombs{max: opt.MaxPodTombstones, seq: tombSeq})
	s.services, s.svcLog = newIndex[string, serviceItem](), newChangeLog(opt.Base)
	s.svcTombs = tombs{max: opt.MaxServiceTombstones, seq: tombSeq}
	s.svcMarkers = newMarkers[string](s.svcLog, opt.MaxServiceTombstones)
	s.tasks = newGroups(s, taskKind, tombs{max: opt.MaxTaskTombstones, seq: tombSeq})
	s.images = newGroups(s, imageKind, tombs{max: opt.MaxImageTombstones, seq: tombSeq})
	return s
}

// Apply makes the changes, in order and as one batch for watchers, and gives
// the revision of the last. It never waits for a reader. A change without a
// usable key, or to a container that is not there, is counted and left out. The
// values given must not be changed any more. For the one writer, but for changes
// that are Remote: they may come from another goroutine, and take turns with it.
func (s *Store) Apply(changes ...Change) workload.Revision {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range changes {
		switch ch := &changes[i]; {
		case ch.Process != nil:
			s.publishPending() // whoever finds the process finds its container as it is by now
			s.putProcess(ch.Process)
		case ch.Container != nil:
			s.changeContainer(ch.Container)
		case ch.Pod != nil:
			s.pods.change(ch.Pod.group())
		case ch.Task != nil:
			s.tasks.change(ch.Task.group())
		case ch.Image != nil:
			s.images.change(ch.Image.group())
		case ch.Service != nil:
			s.changeService(ch.Service)
		case ch.Remote != nil:
			s.changeRemote(ch.Remote)
		case ch.Expire != 0:
			s.publishPending()
			s.expire(ch.Expire)
		default:
			s.rejected.Add(1)
		}
	}
	s.publishPending()
	s.publishBatchLocked()
	return s.head
}

// unpublished is an entity that a batch has changed. What several changes of one
// batch say of it is merged and shown once: merging is most of what a batch costs,
// and between its changes nobody can tell the difference. Who ends or comes back
// is shown at once, so that each end and each return is one.
type unpublished interface{ publishIn(s *Store) }

func (s *Store) publishSoon(u unpublished) { s.pending = append(s.pending, u) }

// publishPending shows what the batch has changed so far, in the order of the
// first changes.
func (s *Store) publishPending() {
	for _, u := range s.pending {
		u.publishIn(s)
	}
	clear(s.pending)
	s.pending = s.pending[:0]
}

func (s *Store) publishBatchLocked() {
	s.rev.Store(uint64(s.head)) // after all entries: a watcher reads up to it
	s.procLog.wake()
	s.contLog.wake()
	s.pods.log.wake()
	s.tasks.log.wake()
	s.images.log.wake()
	s.svcLog.wake()
}

// next gives the revision of the change at hand.
func (s *Store) next() workload.Revision {
	s.head++
	return s.head
}

func (s *Store) expire(now workload.KTime) {
	before := now - workload.KTime(s.opt.Grace)
	for d := s.dueProc(before, now); d != nil; d = s.dueProc(before, now) {
		s.dropProcess(d.proc)
	}
	for _, q := range []*tombs{&s.contTombs, &s.farTombs.conts} {
		for d := q.due(before, now); d != nil; d = q.due(before, now) {
			s.removeContainer(d.cont, true)
		}
	}
	s.pods.expireDue(before, now)
	s.tasks.expireDue(before, now)
	s.images.expireDue(before, now)
	for _, q := range []*tombs{&s.svcTombs, &s.farTombs.services} {
		for d := q.due(before, now); d != nil; d = q.due(before, now) {
			s.removeService(d.svc)
		}
	}
}

func (s *Store) dueProc(before, now workload.KTime) *tomb {
	for _, q := range []*tombs{&s.hostTombs, &s.farTombs.procs} {
		if d := q.due(before, now); d != nil {
			return d
		}
	}
	return s.procTombs.due(before, now)
}

// SetAsOf says which instant the store is right at: that of the last event
// whose consequences have been applied. For the one writer.
func (s *Store) SetAsOf(t workload.KTime) { s.asOf.Store(int64(t)) }

// AsOf is what SetAsOf said last.
func (s *Store) AsOf() workload.KTime { return workload.KTime(s.asOf.Load()) }

// Revision is that of the last batch applied.
func (s *Store) Revision() workload.Revision { return workload.Revision(s.rev.Load()) }

// Counts says what there is. The figures are read one after the other.
func (s *Store) Counts() Counts {
	conts, contsGone := int(s.conts.Load()), int(s.contsGone.Load())
	procs, procsGone := int(s.procs.Load()), int(s.procsGone.Load())
	pods, podsGone := int(s.pods.all.Load()), int(s.pods.gone.Load())
	svcs, svcsGone := int(s.svcCount.Load()), int(s.svcsGone.Load())
	tasks, tasksGone := int(s.tasks.all.Load()), int(s.tasks.gone.Load())
	images, imagesGone := int(s.images.all.Load()), int(s.images.gone.Load())
	return Counts{
		Containers: conts - contsGone, ContainerTombstones: contsGone,
		Processes: procs - procsGone, ProcessTombstones: procsGone,
		Pods: pods - podsGone, PodTombstones: podsGone,
		Tasks: tasks - tasksGone, TaskTombstones: tasksGone,
		Services: svcs - svcsGone, ServiceTombstones: svcsGone,
		Images: images - imagesGone, ImageTombstones: imagesGone,
		Watchers:          int(s.watchers.Load()),
		DroppedTombstones: s.dropped.Load(),
		Rejected:          s.rejected.Load(),
		Resyncs:           s.resyncs.Load(),
	}
}
