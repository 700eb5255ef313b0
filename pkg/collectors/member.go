// SPDX-License-Identifier: Apache-2.0

package collectors

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The states of a source, as workload.SourceStatus has them.
const (
	stateAbsent   = "absent"
	stateStarting = "starting"
	stateRunning  = "running"
	stateFailing  = "failing"
)

const (
	// stable is how long a session must have lasted for the back-off to start afresh.
	stable = 10 * time.Second
	// repeatLogs is how long the same line is not logged again.
	repeatLogs = time.Minute
)

// ListAgain is how long after its first list of containers a session with a source that
// is watched lists once more. The list and the watch begin side by side, and what is removed
// before the source has begun to tell is in the list and in no event.
const ListAgain = time.Second

// member is one supervised collector.
type member struct {
	c    Collector
	name string
	opts *SupervisorOptions

	slots   map[string]chan struct{} // of each method; full when all turns are taken
	relist  chan struct{}
	suspect chan struct{} // a call failed: probe
	images  chan struct{} // list them
	// imagesHinted has the images of all sources listed: two may tell of one engine's
	// (containerd and its CRI), and what one does not say any more the other would keep.
	imagesHinted func()
	// stored is what the last list of images said, by key. For one session at a time.
	stored map[string]*workload.Image

	mu     sync.Mutex // guards all below
	status workload.SourceStatus
	// logged is when each line was last written, lastLine the last of them.
	logged   map[string]time.Time
	lastLine string
	// panickedAt is when a panic was last logged.
	panickedAt time.Time
	// owed are the lookups under way; owedSince is when the source was last asked
	// while it owed nothing, or last answered while it did.
	owed      int
	owedSince time.Time
	// refused: the last lookup that ended had no answer.
	refused bool
	// begun: the session that goes on has listed its containers, which somebody may hear
	// of before it is running.
	begun bool
	// imagesListed: a list of images has ended, well or not.
	imagesListed bool
}

func newMember(c Collector, opts *SupervisorOptions) *member {
	m := &member{
		c:       c,
		name:    c.Name(),
		opts:    opts,
		slots:   map[string]chan struct{}{},
		relist:  make(chan struct{}, 1),
		suspect: make(chan struct{}, 1),
		images:  make(chan struct{}, 1),
		stored:  map[string]*workload.Image{},
		logged:  map[string]time.Time{},
		status:  workload.SourceStatus{Name: c.Name(), State: stateStarting, Calls: map[string]uint64{}},
	}
	for _, method := range []string{methodLocate, methodLookup, methodPrefill, methodLookupPod, methodLookupTask, methodLookupUnit} {
		m.slots[method] = make(chan struct{}, opts.Concurrency)
	}
	return m
}

// live runs sessions with the source, one after another.
func (m *member) live(ctx context.Context) {
	pause := m.opts.MinBackoff
	for ctx.Err() == nil {
		began := time.Now()
		err := m.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) >= stable {
			pause = m.opts.MinBackoff
		}
		wait := pause
		if errors.Is(err, ErrNotPresent) {
			// A probe of what is not there costs next to nothing. Less than
			// MaxBackoff, so that probe and pause together stay below it.
			wait = beat.Until(m.opts.MaxBackoff / 2)
			pause = m.opts.MinBackoff
		} else {
			pause = min(2*pause, m.opts.MaxBackoff)
		}
		m.ended(err)
		sleep(ctx, wait)
	}
}

// session is one life of the source: probe, then watch and list until it
// breaks. It returns why it broke; nil means that it is to be begun again.
func (m *member) session(ctx context.Context) error {
	where, err := m.probe(ctx)
	if err != nil {
		return err
	}
	identity := socketIdentity(where)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() {
		cancel()
		wg.Wait()
	}()
	broke := make(chan error, 2)
	if w, ok := m.c.(Watcher); ok {
		wg.Go(func() { broke <- m.watch(ctx, w) })
	}
	if ic, ok := m.c.(ImageCollector); ok && !m.opts.NoImages {
		wg.Go(func() { m.followImages(ctx, ic) })
	}
	ask := make(chan struct{}, 1)
	if lists(m.c) {
		signal(ask)
		wg.Go(func() { broke <- m.listWhenAsked(ctx, ask) })
	} else {
		m.running()
	}
	return m.attend(ctx, where, identity, broke, ask)
}

// attend waits for the end of a session.
func (m *member) attend(ctx context.Context, where string, identity fileIdentity, broke <-chan error, list chan struct{}) error {
	tick := time.NewTimer(beat.Until(m.opts.MaxBackoff / 2))
	defer tick.Stop()
	began := time.Now()
	suspect := m.suspect
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-broke:
			return err
		case <-m.relist:
			signal(list)
		case <-suspect:
			suspect = nil // until the next tick: failing calls may be many
			if _, err := m.probe(ctx); err != nil {
				return err
			}
			m.running()
		case <-tick.C:
			tick.Reset(beat.Until(m.opts.MaxBackoff / 2))
			suspect = m.suspect
			if time.Since(began) >= stable {
				m.settled()
			}
			if now := socketIdentity(where); now != identity {
				return fmt.Errorf("%w: %s was replaced or removed", ErrUnavailable, where)
			}
		}
	}
}

// probe asks where the source is; a collector that cannot say is taken to be there.
func (m *member) probe(ctx context.Context) (where string, err error) {
	p, ok := m.c.(Prober)
	if !ok {
		return "", nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.opts.CallTimeout)
	defer cancel()
	m.count("probe")
	var r Report
	err = m.contain("probe", func() (err error) {
		r, err = p.Probe(ctx)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("probe: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status.Where, m.status.Version, m.status.Detail = r.Where, r.Version, firstText(r.Detail)
	m.status.LastContact = m.opts.Now()
	return r.Where, nil
}

func (m *member) watch(ctx context.Context, w Watcher) error {
	m.count("watch")
	err := m.contain("watch", func() error {
		return w.Watch(ctx, func(h Hint) {
			m.contact()
			if h.Err != nil {
				m.failed(h.Err)
			}
			switch h.Kind {
			case HintAlive:
			case HintImages:
				m.imagesHinted()
			default:
				m.opts.OnHint(m.name, h)
			}
		})
	})
	if err == nil {
		err = ErrUnavailable // it ended by itself: begin again
	}
	return fmt.Errorf("watch: %w", err)
}

// listWhenAsked lists at once, ListAgain after that where the source is watched, and
// at each request; a list that fails as a whole ends the session.
func (m *member) listWhenAsked(ctx context.Context, ask <-chan struct{}) error {
	_, watched := m.c.(Watcher)
	_, containers := m.c.(Lister)
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ask:
		case <-again:
		}
		if err := m.listAll(ctx); err != nil {
			return fmt.Errorf("list: %w", err)
		}
		signal(m.images) // after the containers, which somebody may wait for
		m.running()
		if again == nil && watched && containers {
			again = time.After(ListAgain)
		}
	}
}

// list hands out one list. An error about one container makes the list
// incomplete and hides no other; an unavailable source is an error.
func (m *member) list(ctx context.Context, l Lister) error {
	ctx, cancel := context.WithTimeout(ctx, m.opts.ListTimeout)
	defer cancel()
	m.count("list")
	out := Listing{Began: m.opts.Now(), Complete: true}
	var broken error
	err := m.contain("list", func() error {
		for c, err := range l.List(ctx) {
			if err != nil || c == nil {
				out.Complete = false
				broken = errors.Join(broken, m.listError(err))
				continue
			}
			out.IDs = append(out.IDs, c.ID)
			m.opts.OnContainer(m.name, c)
		}
		return nil
	})
	if err = errors.Join(broken, err, ctx.Err()); err != nil {
		out.Complete = false
	}
	m.listed(len(out.IDs), err == nil)
	m.opts.OnListed(m.name, out)
	return err
}

// listError counts an error of a list and gives it back if it ends the session.
func (m *member) listError(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ErrUnavailable) || errors.Is(err, ErrNotPresent) {
		return err
	}
	m.failed(fmt.Errorf("list: %w", err))
	return nil
}

// running ends a start.
func (m *member) running() {
	m.become(stateRunning, nil)
}

// ended says how a session ended.
func (m *member) ended(err error) {
	if errors.Is(err, ErrNotPresent) {
		m.become(stateAbsent, nil)
		return
	}
	if err == nil {
		err = errEnded
	}
	m.become(stateFailing, err)
}

// errEnded stands for a session that ended without a reason.
var errEnded = errors.New("ended")

// become notes a state, and tells whoever wants to know if it is a new one. err
// says why a source fails.
func (m *member) become(state string, err error) {
	m.mu.Lock()
	was := m.status.State
	m.status.State, m.begun = state, state == stateRunning
	switch problem := ""; {
	case state == stateRunning:
		m.status.LastContact = m.opts.Now()
		m.logLocked("")
	default:
		if was == stateRunning {
			m.status.Restarts++
		}
		if err != nil {
			problem = firstLine(err)
			m.status.Errors++
			m.status.LastError, m.status.LastErrorAt = problem, m.opts.Now()
		}
		m.logLocked(problem)
	}
	m.mu.Unlock()
	if state != was {
		m.opts.OnState(m.name, state)
	}
}

// logLocked writes a line about the state, the same one once a minute at most:
// a source that flaps is said to fail and to run once, not at each turn.
func (m *member) logLocked(problem string) {
	line := m.status.State + ": " + problem
	if at, ok := m.logged[line]; ok && (line == m.lastLine && problem == "" || time.Since(at) < repeatLogs) {
		return
	}
	if len(m.logged) > 32 {
		clear(m.logged) // an error that differs each time
	}
	m.logged[line], m.lastLine = time.Now(), line
	log := m.opts.Logger.With("source", m.name, "state", m.status.State)
	switch {
	case problem != "":
		log.Warn("source is failing", "err", problem, "restarts", m.status.Restarts)
	case m.status.State == stateAbsent:
		log.Info("source is absent")
	default:
		log.Info("source is running", "where", m.status.Where, "version", m.status.Version)
	}
}

// settled writes that the source runs, if flapping kept it from being written.
func (m *member) settled() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.status.State == stateRunning && !strings.HasPrefix(m.lastLine, stateRunning) {
		clear(m.logged)
		m.logLocked("")
	}
}

func (m *member) count(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status.Calls[what]++
}

func (m *member) contact() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status.LastContact = m.opts.Now()
}

func (m *member) failed(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status.Errors++
	m.status.LastError, m.status.LastErrorAt = firstLine(err), m.opts.Now()
}

func (m *member) listed(n int, well bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status.Entities, m.begun = n, well
}

func (m *member) snapshot() workload.SourceStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.status
	s.Calls = maps.Clone(s.Calls)
	return s
}

// firstText bounds what a probe says as firstLine does an error.
func firstText(s string) string {
	if s == "" {
		return ""
	}
	return firstLine(errors.New(s))
}

// firstLine makes an error fit for a status line. Errors may quote what a
// container or a stranger on a socket said.
func firstLine(err error) string {
	if err == nil {
		return "ended"
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	if len(line) > 300 {
		line = cutAt(line, 300)
	}
	return strings.ToValidUTF8(line, "\uFFFD")
}

// fileIdentity tells one socket from its successor of the same name. The change
// time is in it because tmpfs may give a new file the inode of the old one.
type fileIdentity struct {
	dev, ino uint64
	changed  unix.Timespec
}

// socketIdentity gives the identity of a socket, zero if where names none: a
// directory's change time says nothing about the source.
func socketIdentity(where string) fileIdentity {
	var st unix.Stat_t
	path := strings.TrimPrefix(where, "unix://")
	if path == "" || unix.Stat(path, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return fileIdentity{}
	}
	return fileIdentity{dev: uint64(st.Dev), ino: st.Ino, changed: st.Ctim}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
