// SPDX-License-Identifier: Apache-2.0

package collectors

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// SupervisorOptions say what a Supervisor runs and whom it tells. The functions
// are called from several goroutines at once, must not block, and may be nil.
type SupervisorOptions struct {
	Collectors []Collector
	// Logger gets the state changes. Default: none.
	Logger *slog.Logger
	// OnHint gets what a Watch says.
	OnHint func(source string, h Hint)
	// OnContainer gets each container of a list.
	OnContainer func(source string, c *workload.Container)
	// OnListed gets the end of a list, after its containers.
	OnListed func(source string, l Listing)
	// OnPod gets each pod of a list of pods, OnPodsListed the end of one.
	OnPod        func(source string, p *workload.Pod)
	OnPodsListed func(source string, l PodListing)
	// OnTask and OnTasksListed do for tasks what those do for pods.
	OnTask        func(source string, t *workload.Task)
	OnTasksListed func(source string, l TaskListing)
	// OnImage gets each image of which a list says what is new, or that is not there
	// any more: gone, as it was last listed.
	OnImage func(source string, i *workload.Image, gone bool)
	// NoImages lists no images. ImageDelay is how long after a hint they are listed.
	// Default 500 ms.
	NoImages   bool
	ImageDelay time.Duration
	// OnState gets a source's state, as its Status has it, when it is another one.
	OnState func(source, state string)
	// CallTimeout bounds one call, the wait for its turn included. Default 2 s.
	CallTimeout time.Duration
	// ListTimeout bounds one list. Default 30 s.
	ListTimeout time.Duration
	// MinBackoff and MaxBackoff bound the pause before a source is tried again.
	// Defaults 100 ms and 1 s: what is installed or restarted is found within a second.
	MinBackoff, MaxBackoff time.Duration
	// Concurrency is how many calls of one method a source gets at once. Default 16.
	Concurrency int
	// Now is the clock of Status. Default time.Now.
	Now func() time.Time
}

// Listing is what one list said, for whoever compares it with what it knew.
type Listing struct {
	// Began is when the list was asked for: what became known later may rightly be missing.
	Began time.Time
	// IDs are the containers that were given to OnContainer.
	IDs []workload.ContainerID
	// Complete: every container of the source is in IDs. Otherwise nothing follows from an absence.
	Complete bool
}

// PodListing is what one list of pods said.
type PodListing struct {
	// Began is when the list was asked for.
	Began time.Time
	// UIDs are the pods that were given to OnPod.
	UIDs []string
	// Complete: every pod of the source is in UIDs.
	Complete bool
}

// TaskListing is what one list of tasks said.
type TaskListing struct {
	// Began is when the list was asked for.
	Began time.Time
	// ARNs are the tasks that were given to OnTask.
	ARNs []string
	// Complete: every task of the source is in ARNs.
	Complete bool
}

// Supervisor keeps collectors alive and stands between them and their callers.
//
// For each collector it probes until the source is there, then watches and
// lists, and does it again when the watch breaks or the source's socket is
// another one. It gives calls a deadline and a turn: a source that hangs holds
// neither its callers longer than CallTimeout nor other sources at all, and its
// calls of one method never wait for those of another. A panic in a collector
// is that collector's error.
//
// All methods may be called concurrently, before and during Run.
type Supervisor struct {
	opts    SupervisorOptions
	members []*member
	byName  map[string]*member
}

// NewSupervisor makes a supervisor. It fails if two collectors have one name.
func NewSupervisor(opts SupervisorOptions) (*Supervisor, error) {
	s := &Supervisor{opts: opts.withDefaults(), byName: map[string]*member{}}
	for _, c := range opts.Collectors {
		if s.byName[c.Name()] != nil {
			return nil, fmt.Errorf("supervise collectors: two are called %s", c.Name())
		}
		m := newMember(c, &s.opts)
		m.imagesHinted = s.imagesHinted
		s.members = append(s.members, m)
		s.byName[c.Name()] = m
	}
	return s, nil
}

func (s *Supervisor) imagesHinted() {
	for _, m := range s.members {
		signal(m.images)
	}
}

func (o SupervisorOptions) withDefaults() SupervisorOptions {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.OnHint == nil {
		o.OnHint = func(string, Hint) {}
	}
	if o.OnContainer == nil {
		o.OnContainer = func(string, *workload.Container) {}
	}
	if o.OnListed == nil {
		o.OnListed = func(string, Listing) {}
	}
	if o.OnPod == nil {
		o.OnPod = func(string, *workload.Pod) {}
	}
	if o.OnPodsListed == nil {
		o.OnPodsListed = func(string, PodListing) {}
	}
	if o.OnTask == nil {
		o.OnTask = func(string, *workload.Task) {}
	}
	if o.OnTasksListed == nil {
		o.OnTasksListed = func(string, TaskListing) {}
	}
	if o.OnImage == nil {
		o.OnImage = func(string, *workload.Image, bool) {}
	}
	if o.OnState == nil {
		o.OnState = func(string, string) {}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	def := func(p *time.Duration, v time.Duration) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&o.CallTimeout, 2*time.Second)
	def(&o.ListTimeout, 30*time.Second)
	def(&o.MinBackoff, 100*time.Millisecond)
	def(&o.MaxBackoff, time.Second)
	def(&o.ImageDelay, 500*time.Millisecond)
	if o.Concurrency <= 0 {
		o.Concurrency = 16
	}
	return o
}

// Run supervises every collector until ctx ends, and waits for all of them. It
// returns nil then: a source that fails is no reason to stop.
func (s *Supervisor) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	for _, m := range s.members {
		wg.Go(func() { m.live(ctx) })
	}
	wg.Wait()
	return nil
}

// Names gives the collectors' names, in the order of the options.
func (s *Supervisor) Names() []string {
	names := make([]string, len(s.members))
	for i, m := range s.members {
		names[i] = m.name
	}
	return names
}

// Collector gives a collector by name, nil if there is none.
func (s *Supervisor) Collector(name string) Collector {
	if m := s.byName[name]; m != nil {
		return m.c
	}
	return nil
}

// Status says how each collector does, in the order of the options.
func (s *Supervisor) Status() []workload.SourceStatus {
	out := make([]workload.SourceStatus, len(s.members))
	for i, m := range s.members {
		out[i] = m.snapshot()
	}
	return out
}

// Locate asks one collector whose container the evidence is.
func (s *Supervisor) Locate(ctx context.Context, name string, e workload.Evidence) (workload.ContainerID, error) {
	m, err := s.member(name)
	if err != nil {
		return workload.ContainerID{}, err
	}
	var id workload.ContainerID
	err = m.call(ctx, methodLocate, func(ctx context.Context) (err error) {
		id, err = m.c.Locate(ctx, e)
		return err
	})
	if err != nil {
		return workload.ContainerID{}, fmt.Errorf("%s: locate: %w", name, err)
	}
	return id, nil
}

// Lookup asks one collector about one container.
func (s *Supervisor) Lookup(ctx context.Context, name string, id workload.ContainerID) (*workload.Container, error) {
	m, err := s.member(name)
	if err != nil {
		return nil, err
	}
	return m.describe(ctx, methodLookup, id, m.c.Lookup)
}

// Prefill asks one collector what its files say; ErrNotFound if it reads none.
func (s *Supervisor) Prefill(ctx context.Context, name string, id workload.ContainerID) (*workload.Container, error) {
	m, err := s.member(name)
	if err != nil {
		return nil, err
	}
	p, ok := m.c.(Prefiller)
	if !ok {
		return nil, fmt.Errorf("%s: prefill: %w: it reads no files", name, ErrNotFound)
	}
	return m.describe(ctx, methodPrefill, id, p.Prefill)
}

// LookupPod asks one collector about one pod; ErrNotMine if it knows of none.
func (s *Supervisor) LookupPod(ctx context.Context, name, uid string) (*workload.Pod, error) {
	m, err := s.member(name)
	if err != nil {
		return nil, err
	}
	return m.lookupPod(ctx, uid)
}

// LookupTask asks one collector about one task; ErrNotMine if it knows of none.
func (s *Supervisor) LookupTask(ctx context.Context, name, arn string) (*workload.Task, error) {
	m, err := s.member(name)
	if err != nil {
		return nil, err
	}
	return m.lookupTask(ctx, arn)
}

// LookupUnit asks one collector about one unit; ErrNotMine if it knows of none.
func (s *Supervisor) LookupUnit(ctx context.Context, name, unit, cgroup string) (*workload.Service, error) {
	m, err := s.member(name)
	if err != nil {
		return nil, err
	}
	return m.lookupUnit(ctx, unit, cgroup)
}

// Prompt reports whether a source is worth a short wait for an answer that is
// under way: it runs, answered the last Lookup that ended, and, where it owes
// answers, gave one or was first asked less than silence ago. Memory only.
func (s *Supervisor) Prompt(name string, silence time.Duration) bool {
	m := s.byName[name]
	return m != nil && m.prompt(silence)
}

// ImagesListed reports whether every source that runs and stores images has tried
// to list them once.
func (s *Supervisor) ImagesListed() bool {
	return !slices.ContainsFunc(s.members, func(m *member) bool {
		_, images := m.c.(ImageCollector)
		return images && !s.opts.NoImages && m.owesImages()
	})
}

// Nudge tells every collector that asks at intervals that this is a good time.
// It returns at once.
func (s *Supervisor) Nudge() {
	for _, m := range s.members {
		if n, ok := m.c.(Nudger); ok {
			_ = m.contain("nudge", func() error { n.Nudge(); return nil })
		}
	}
}

// Relist asks for a new list of one collector, or of all for an empty name: the
// repair after something was missed. It returns at once, and many are one.
func (s *Supervisor) Relist(name string) {
	for _, m := range s.members {
		if name == "" || name == m.name {
			signal(m.relist)
		}
	}
}

func (s *Supervisor) member(name string) (*member, error) {
	if m := s.byName[name]; m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("%s: %w: no such collector", name, ErrNotPresent)
}

// signal wakes whoever waits on c, once however often it is called.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
