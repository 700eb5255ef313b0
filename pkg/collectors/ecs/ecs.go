// SPDX-License-Identifier: Apache-2.0

package ecs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/pidigree/pidigree/internal/refusal"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

var (
	_ collectors.Collector     = (*Collector)(nil)
	_ collectors.TaskCollector = (*Collector)(nil)
	_ collectors.Watcher       = (*Collector)(nil)
	_ collectors.Nudger        = (*Collector)(nil)
	_ collectors.Prober        = (*Collector)(nil)
)

const name = "ecs"

// Where the agent listens (amazon-ecs-agent, agent/handlers, tmds).
const (
	defaultAddress  = "http://127.0.0.1:51678"
	defaultMetadata = "http://169.254.170.2"
)

// Options say where the ECS agent is. The zero value is an agent of this host.
type Options struct {
	// Address is the agent's introspection, http://HOST:PORT. Default http://127.0.0.1:51678,
	// or where nobody listens there, the metadata endpoint that Getenv names.
	Address string
	// Metadata is where tasks' metadata endpoints are, http://HOST[:PORT]. Default http://169.254.170.2.
	Metadata string
	// Tags asks for tags, which costs the ECS agent a call to AWS for each task.
	Tags bool
	// Rate is how many calls are made in a second, Burst how many at once. Defaults 35 and 60.
	Rate  float64
	Burst int
	// CacheFor is how long what an endpoint said, or did not say, of a task is kept. Default 3 min.
	CacheFor time.Duration
	// Init gives the first process of a container of Docker's. Without it no
	// container's environment is read, and no task's endpoint asked.
	Init func(id workload.ContainerID) (workload.PID, bool)
	// Procfs is the host's proc. Default /proc.
	Procfs string
	// Getenv gives this process's environment. Default os.Getenv.
	Getenv func(string) string
	// Interval is how often Watch asks where nothing happens. Default 30 s.
	Interval time.Duration
	// CallTimeout bounds one call of Watch's. Default 2 s.
	CallTimeout time.Duration
	// Logger gets what is odd and not worth an error. Default none.
	Logger *slog.Logger
}

// Collector asks one ECS agent.
type Collector struct {
	opts   Options
	log    *slog.Logger
	bucket *rate.Limiter
	timing timing
	// maxReply bounds one answer, in bytes.
	maxReply int
	// configured: Address was.
	configured bool

	nudged chan struct{}
	news   chan struct{} // a list came by somebody else's call than Watch's

	mu     sync.Mutex   // guards all below
	flight *flight      // the call under way
	last   *list        // the last good one
	agent  *instance    // nil: not asked yet, or gone since
	gate   refusal.Gate // of lists
	shy    refusal.Gate // of metadata endpoints
	// known are the tasks that were told as hints, by ARN; details what endpoints said.
	known   map[string]*standing
	details map[string]*detail
	// misses counts the lists in a row in which a lookup did not find what it is for, missedIn is the last of them.
	misses   int
	missedIn *list
}

// timing are the pauses, which tests shorten.
type timing struct {
	// fresh is how old a list may be for whoever begins: Probe, Watch and ListTasks
	// come one after the other.
	fresh time.Duration
	// spacing is the least time between the beginnings of two calls for lookups.
	spacing time.Duration
	// soon is when to look again after a change.
	soon time.Duration
	// spare is how long it takes until a nudge that led to nothing is followed by
	// another call.
	spare time.Duration
}

var usual = timing{
	fresh:   time.Second,
	spacing: 500 * time.Millisecond,
	soon:    time.Second,
	spare:   5 * time.Minute,
}

// New makes a Collector. It connects to nothing: the agent may come later.
func New(opts Options) (*Collector, error) {
	configured := opts.Address != ""
	if !configured {
		opts.Address = defaultAddress
	}
	if opts.Metadata == "" {
		opts.Metadata = defaultMetadata
	}
	for _, address := range []string{opts.Address, opts.Metadata} {
		if err := checkAddress(address); err != nil {
			return nil, fmt.Errorf("ecs collector: %w", err)
		}
	}
	c := &Collector{
		opts: opts.withDefaults(), log: opts.Logger, timing: usual, maxReply: collectors.MaxTaskList, configured: configured,
		nudged: make(chan struct{}, 1),
		news:   make(chan struct{}, 1),
		known:  map[string]*standing{}, details: map[string]*detail{},
	}
	c.bucket = rate.NewLimiter(rate.Limit(c.opts.Rate), c.opts.Burst)
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

func (o Options) withDefaults() Options {
	if o.Rate <= 0 {
		o.Rate = 35
	}
	if o.Burst <= 0 {
		o.Burst = 60
	}
	if o.CacheFor <= 0 {
		o.CacheFor = 3 * time.Minute
	}
	if o.Init == nil {
		o.Init = func(workload.ContainerID) (workload.PID, bool) { return 0, false }
	}
	if o.Procfs == "" {
		o.Procfs = "/proc"
	}
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Interval <= 0 {
		o.Interval = 30 * time.Second
	}
	if o.CallTimeout <= 0 {
		o.CallTimeout = 2 * time.Second
	}
	return o
}

// Name is "ecs".
func (c *Collector) Name() string { return name }

// Probe asks for the tasks, and says where and of whom.
func (c *Collector) Probe(ctx context.Context) (collectors.Report, error) {
	l, err := c.ask(ctx, time.Now().Add(-c.timing.fresh))
	if err != nil {
		return collectors.Report{}, fmt.Errorf("probe the ECS agent: %w", err)
	}
	detail := fmt.Sprintf("%d tasks", len(l.tasks))
	if l.agent.cluster != "" {
		detail += " of cluster " + l.agent.cluster
	}
	if len(l.refused) > 0 {
		detail += fmt.Sprintf(", %d refused", len(l.refused))
	}
	if c.opts.Tags {
		detail += ", with tags"
	}
	return collectors.Report{Where: l.agent.where, Version: l.agent.version, Detail: detail}, nil
}

// Locate finds nothing: ECS knows no cgroup and no process.
func (c *Collector) Locate(context.Context, workload.Evidence) (workload.ContainerID, error) {
	return workload.ContainerID{}, fmt.Errorf("ecs: locate: %w", collectors.ErrNotMine)
}

// Lookup says which task a container is in, by the last list or by a call that it
// shares with all who wait. Until an agent has been seen it asks nobody, so that a
// host without ECS pays nothing for its containers.
func (c *Collector) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("ecs: lookup: %w: %w", collectors.ErrUnavailable, err)
	}
	if id.Runtime != "" && id.Runtime != "docker" && id.Runtime != name || id.Namespace != "" || containerID(id.ID).ID == "" {
		return nil, fmt.Errorf("ecs: lookup: %w", collectors.ErrNotMine)
	}
	if c.latest() == nil {
		return nil, fmt.Errorf("ecs: lookup: %w: no agent has answered yet", collectors.ErrNotMine)
	}
	l, err := c.having(ctx, func(l *list) bool { return l.containers[id.ID] != nil })
	if err != nil {
		return nil, fmt.Errorf("ecs: look up container %s: %w", id.ID, err)
	}
	layer := l.containers[id.ID]
	if layer == nil || id.Runtime != "" && id.Runtime != layer.ID.Runtime {
		return nil, fmt.Errorf("ecs: look up container %s: %w", id.ID, collectors.ErrNotFound)
	}
	return layer.Clone(), nil
}

// LookupTask gives one task by its ARN, by the last list or by a call that it
// shares with all who wait.
func (c *Collector) LookupTask(ctx context.Context, arn string) (*workload.Task, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("ecs: look up task: %w: %w", collectors.ErrUnavailable, err)
	}
	if _, ok := workload.ParseTaskARN(arn); !ok {
		return nil, fmt.Errorf("ecs: look up task: %w: not a task's ARN", collectors.ErrNotFound)
	}
	l, err := c.having(ctx, func(l *list) bool { return l.byARN[arn] != nil })
	if err != nil {
		return nil, fmt.Errorf("ecs: look up %s: %w", arn, err)
	}
	if t := l.byARN[arn]; t != nil {
		return c.whole(l, t), nil
	}
	return nil, fmt.Errorf("ecs: look up %s: %w", arn, collectors.ErrNotFound)
}

// ListTasks lists all tasks, with one call or none where one has just been made.
func (c *Collector) ListTasks(ctx context.Context) iter.Seq2[*workload.Task, error] {
	return func(yield func(*workload.Task, error) bool) {
		l, err := c.ask(ctx, time.Now().Add(-c.timing.fresh))
		if err != nil {
			yield(nil, fmt.Errorf("ecs: list tasks: %w", err))
			return
		}
		for _, t := range l.tasks {
			if !yield(c.whole(l, t), nil) {
				return
			}
		}
		if len(l.refused) > 0 {
			yield(nil, fmt.Errorf("ecs: list tasks: %w", l.whyRefused()))
		}
	}
}

// Nudge tells Watch that something ended.
func (c *Collector) Nudge() { signal(c.nudged) }

// signal wakes whoever waits on ch, once however often it is called.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// errOther means that an answer is about another task than was asked for.
var errOther = errors.New("the answer is about another task")
