// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Name is the name of the source.
const Name = workload.SourceRemote

var (
	// ErrWentBack means that the other one gave a revision that is older than the last.
	ErrWentBack = errors.New("its revisions went back")
	// ErrTooMuch means that it tells of more entities than Options.MaxEntities.
	ErrTooMuch = errors.New("it tells of too many entities")
	// ErrSelf means that the other one is this process.
	ErrSelf = errors.New("it is this agent")
)

// Options configure a Source. Client and Apply are required.
type Options struct {
	// Client says where the other one is, and with which certificates to ask it.
	Client client.Options
	// Apply takes changes into the store; see store.Store.Apply. One call at a time.
	Apply func(...store.Change)
	// Here is this host.
	Here Host
	// Copy: the store has nothing of this host, and the other's PIDs are what it is asked
	// about.
	Copy bool
	// Now is the clock of provenance. Default: all times are 0.
	Now func() workload.KTime
	// StaleAfter is how long the stream may be broken before what came over it is stale.
	// Default 1 s.
	StaleAfter time.Duration
	// MinPause and MaxPause bound the pause before the stream is opened again. Defaults
	// 50 ms and 5 s.
	MinPause, MaxPause time.Duration
	// MaxEntities bounds what is taken. Default 1,000,000.
	MaxEntities int
	// Logger gets the state changes. Default: none.
	Logger *slog.Logger
}

// Host says where PIDs and instants of the kernel's clock mean the same.
type Host struct {
	// BootID is the kernel's id of the boot, PIDNamespace the inode of the PID namespace.
	BootID       string
	PIDNamespace uint32
	// Started is when this agent was, which tells it from others with its PID.
	Started time.Time
}

// maxMessage bounds one message of the stream: the agent's are of 1 MiB, and one entity more.
const maxMessage = 4 << 20

func (o Options) withDefaults() Options {
	o.StaleAfter = cmp.Or(o.StaleAfter, time.Second)
	o.MinPause = cmp.Or(o.MinPause, 50*time.Millisecond)
	o.MaxPause = max(cmp.Or(o.MaxPause, 5*time.Second), o.MinPause)
	o.MaxEntities = cmp.Or(o.MaxEntities, 1_000_000)
	o.Client.MaxMessage = maxMessage
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = func() workload.KTime { return 0 }
	}
	return o
}

// Source is one other pidigree. Make one with New; Run may be called once. All methods
// may be called concurrently.
type Source struct {
	opt   Options
	whole chan struct{}

	// Run's own: where the stream is, and what it has told of.
	from     workload.Revision
	gen      uint64           // of the snapshot
	snapshot bool             // one is under way
	known    map[string]*told // by the key of the entity
	pending  []store.Change   // not applied yet
	space    space            // what means the same here
	peer     workload.AgentStatus

	mu     sync.Mutex // guards all below, and calls of Apply
	status workload.SourceStatus
	away   bool
	// sameBoot: see SameBoot.
	sameBoot bool
	timer    *time.Timer // marks what is there as stale, nil while the stream is well
	closed   bool
}

// told is what is remembered of an entity that the other one has told of.
type told struct {
	gen uint64
	// bare is the entity with its id or key alone.
	bare workload.Entity
}

// New makes a source.
func New(o Options) *Source {
	o = o.withDefaults()
	where := o.Client.Socket
	if o.Client.Address != "" {
		where = "tls://" + o.Client.Address
	}
	return &Source{
		opt: o, whole: make(chan struct{}), known: map[string]*told{},
		status: workload.SourceStatus{Name: Name, State: "starting", Where: where, Calls: map[string]uint64{}},
	}
}

// Whole is closed when everything that the other one knew has come for the first time.
func (s *Source) Whole() <-chan struct{} { return s.whole }

// SameBoot reports whether the other one, as it was met last, is of this host's boot.
func (s *Source) SameBoot() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sameBoot
}

// Status says how the other one does.
func (s *Source) Status() workload.SourceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.status
	out.Calls = maps.Clone(s.status.Calls)
	return out
}

// Run keeps the store up to date until ctx ends, whose error it returns. It is no
// client.Client.Follow: each stream begins with a look at whose it is, and a refusal that
// an operator may take back, as of a certificate, ends nothing.
func (s *Source) Run(ctx context.Context) error {
	defer s.end()
	pause := s.opt.MinPause
	for {
		took, err := s.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if took {
			pause = s.opt.MinPause
		}
		if errors.Is(err, ErrTooMuch) || errors.Is(err, ErrSelf) {
			pause = s.opt.MaxPause // waiting does not mend it
		}
		s.broke(err)
		t := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		case <-t.C:
		}
		pause = min(2*pause, s.opt.MaxPause)
	}
}

func (s *Source) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// broke notes why the stream has ended.
func (s *Source) broke(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.status.State
	s.status.State = "failing"
	if errors.Is(err, client.ErrNoAgent) && s.status.LastContact.IsZero() {
		s.status.State = "absent"
	}
	s.status.LastError, s.status.LastErrorAt = err.Error(), time.Now()
	s.status.Errors++
	if was != s.status.State {
		s.opt.Logger.Warn("the other pidigree is away", "where", s.status.Where, "err", err)
	}
	if s.timer == nil && !s.away && !s.status.LastContact.IsZero() {
		s.timer = time.AfterFunc(s.opt.StaleAfter, s.setAway)
	}
}

func (s *Source) setAway() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer == nil || s.closed {
		return
	}
	s.timer, s.away = nil, true
	s.opt.Apply(store.Change{Remote: &store.RemoteChange{Away: true}})
}

// wellLocked notes that everything up to now has come.
func (s *Source) wellLocked() {
	if s.timer != nil {
		s.timer.Stop()
		s.timer = nil
	}
	if s.away {
		s.away = false
		s.opt.Apply(store.Change{Remote: &store.RemoteChange{Back: true}})
	}
	if s.status.State != "running" {
		s.status.State = "running"
		s.opt.Logger.Info("the other pidigree is heard", "where", s.status.Where, "host", s.peer.Host, "detail", s.status.Detail)
	}
}

// session opens the stream once, and says whether it came to where the other one is.
func (s *Source) session(ctx context.Context) (took bool, err error) {
	c, err := client.New(s.opt.Client)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	s.count("status")
	st, err := c.Status(ctx)
	if err != nil {
		return false, err
	}
	if err := s.meet(st); err != nil {
		return false, err
	}
	s.count("stream")
	if s.from == 0 {
		s.begin()
	}
	last := s.from
	for ch, err := range c.Watch(ctx, workload.Selector{Kinds: kinds, All: true, From: s.from}) {
		if err != nil {
			s.flush()
			return took, err
		}
		took = took || ch.Type == workload.ChangeBookmark
		if last, err = s.take(ch, last); err != nil {
			s.from = 0 // all of it is asked for again
			if errors.Is(err, ErrTooMuch) {
				s.begin()
				s.drop()
			}
			s.flush()
			return took, err
		}
	}
	s.flush()
	return took, errors.New("the stream has ended")
}

var kinds = []workload.Kind{
	workload.KindContainer, workload.KindProcess, workload.KindPod, workload.KindTask, workload.KindImage, workload.KindService,
}

func (s *Source) count(method string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Calls[method]++
}

// meet looks at who is there now. What was told by somebody else is taken back.
func (s *Source) meet(st workload.AgentStatus) error {
	if st.BootID == "" {
		return fmt.Errorf("%w: it does not say which boot of which host it is of", client.ErrTooOld)
	}
	if st.BootID == s.opt.Here.BootID && int(st.PID) == os.Getpid() && st.PIDNamespace == s.opt.Here.PIDNamespace && st.Started.Equal(s.opt.Here.Started) {
		return ErrSelf
	}
	if s.peer.BootID != "" && (st.BootID != s.peer.BootID || st.PIDNamespace != s.peer.PIDNamespace || hostName(st.Host) != hostName(s.peer.Host)) {
		s.from = 0
		s.begin()
		s.drop()
		s.snapshot = false
	}
	if !st.Started.Equal(s.peer.Started) {
		s.from = 0 // another agent there: its revisions are others
	}
	s.peer = st
	s.space = s.spaceOf(st)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.status.LastContact.IsZero() {
		s.status.Restarts++
	}
	s.sameBoot = s.space.boot
	s.status.Version, s.status.LastContact, s.status.Detail = st.Version, time.Now(), s.space.detail()
	return nil
}

// Probe looks at the other one once, and says in a few words what would come from it.
func (s *Source) Probe(ctx context.Context) (st workload.AgentStatus, detail string, err error) {
	c, err := client.New(s.opt.Client)
	if err != nil {
		return st, "", err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if st, err = c.Status(ctx); err != nil {
		return st, "", err
	}
	return st, s.spaceOf(st).detail(), nil
}

// begin begins a snapshot: what is not in it has ended.
func (s *Source) begin() {
	s.gen++
	s.snapshot = true
}

// batch is how many changes of a snapshot are applied together.
const batch = 256

// take takes one change, and gives the revision that the next one must not be before.
func (s *Source) take(ch workload.Change, last workload.Revision) (workload.Revision, error) {
	if ch.Type == workload.ChangeResync {
		s.from = 0
		s.begin()
		return 0, nil
	}
	if ch.Revision < last || ch.Revision == 0 {
		return last, fmt.Errorf("%w: %d after %d", ErrWentBack, ch.Revision, last)
	}
	switch ch.Type {
	case workload.ChangeSet, workload.ChangeUnset:
		if err := s.tell(ch); err != nil {
			return last, err
		}
	case workload.ChangeBookmark:
		s.bookmark()
	default:
		return last, fmt.Errorf("it gives changes of the type %q, which is none", ch.Type)
	}
	s.from = ch.Revision
	if !s.snapshot || len(s.pending) >= batch {
		s.flush()
	}
	return ch.Revision, nil
}

// bookmark: what has come is what the other one knows.
func (s *Source) bookmark() {
	if s.snapshot {
		s.snapshot = false
		s.drop()
	}
	s.flush()
	s.mu.Lock()
	s.wellLocked()
	s.mu.Unlock()
	select {
	case <-s.whole:
	default:
		close(s.whole)
	}
}

// drop takes back what is of an older snapshot.
func (s *Source) drop() {
	for k, t := range s.known {
		if t.gen != s.gen {
			s.unset(k, t)
		}
		if len(s.pending) >= batch { // whoever publishes waits for no more than that
			s.flush()
		}
	}
	s.flush()
}

func (s *Source) unset(key string, t *told) {
	delete(s.known, key)
	s.pending = append(s.pending, store.Change{Remote: &store.RemoteChange{Entity: t.bare, Unset: true}})
}

// tell takes what is said of one entity.
func (s *Source) tell(ch workload.Change) error {
	e, ok := s.space.entity(ch.Entity, s.opt.Now())
	if e.Kind == "" {
		s.refused()
		return nil
	}
	key := e.Key()
	had := s.known[key]
	if ch.Type == workload.ChangeUnset || !ok {
		if had != nil {
			s.unset(key, had)
		}
		return nil
	}
	if had == nil && len(s.known) >= s.opt.MaxEntities {
		return fmt.Errorf("%w: over %d", ErrTooMuch, s.opt.MaxEntities)
	}
	if had == nil {
		had = &told{bare: e.Bare()}
		s.known[key] = had
	}
	had.gen = s.gen
	s.pending = append(s.pending, store.Change{Remote: &store.RemoteChange{Entity: e}})
	return nil
}

// refused counts an entity that names nothing.
func (s *Source) refused() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.Errors++
	s.status.LastError, s.status.LastErrorAt = "it told of an entity without a usable id", time.Now()
}

func (s *Source) flush() {
	if len(s.pending) == 0 {
		return
	}
	s.mu.Lock()
	s.opt.Apply(s.pending...)
	s.status.LastContact = time.Now()
	s.mu.Unlock()
	clear(s.pending)
	s.pending = s.pending[:0]
}
