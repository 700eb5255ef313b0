// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/pidigree/pidigree/internal/refusal"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

var (
	_ collectors.Collector    = (*Collector)(nil)
	_ collectors.PodCollector = (*Collector)(nil)
	_ collectors.Watcher      = (*Collector)(nil)
	_ collectors.Nudger       = (*Collector)(nil)
	_ collectors.Prober       = (*Collector)(nil)
)

const name = "kubelet"

// Options say where the kubelet is and who asks. The zero value finds both. What
// is set here stands over what is found, each by itself.
type Options struct {
	// Address is https://HOST:PORT, or http://HOST:PORT for a read-only port, which
	// must be at an address of this host. Default: what the kubelet was started with.
	Address string
	// ServerName is the name in the kubelet's certificate. Default: the node's name, or else the address.
	ServerName string
	// CA is a file of the authorities, or of the certificate itself, by which the
	// kubelet's certificate is verified. Default: its own serving certificate, the
	// authority of its kubeconfig, and that of this process's service account.
	CA string
	// Certificate and Key are files of a client certificate; Key may be in Certificate.
	Certificate, Key string
	// Token is a file of a bearer token. Default: that of this process's service
	// account, where neither this nor Certificate is set.
	Token string
	// Procfs is the host's proc, where the kubelet's process is looked for. Default /proc.
	Procfs string
	// Interval is how often Watch asks where nothing happens. Default 30 s.
	Interval time.Duration
	// CallTimeout bounds one call of Watch's. Default 5 s.
	CallTimeout time.Duration
	// Logger gets what is odd and not worth an error. Default none.
	Logger *slog.Logger
}

// Collector asks one kubelet.
type Collector struct {
	opts   Options
	log    *slog.Logger
	find   *finder
	timing timing
	// maxReply bounds a list, in bytes.
	maxReply int
	// fetch asks once; tests put another one here.
	fetch func(context.Context) (*list, error)

	nudged chan struct{}
	news   chan struct{} // a list came by somebody else's call than Watch's

	mu      sync.Mutex // guards all below
	flight  *flight    // the call under way
	last    *list      // the last good one
	answers time.Time  // since when it has answered each call; zero: it did not
	watches int
	gate    refusal.Gate
	known   map[string]*standing // by UID; see standing
	// misses counts the lists in a row in which a lookup did not find its pod, missedIn is the last of them.
	misses   int
	missedIn *list
}

// timing are the pauses, which tests shorten.
type timing struct {
	// fresh is how old a list may be for whoever begins: Probe, Watch and ListPods
	// come one after the other.
	fresh time.Duration
	// spacing is the least time between the beginnings of two calls for lookups.
	spacing time.Duration
	// soon is when to look again after a change. The kubelet itself looks at its
	// containers every second (pkg/kubelet/pleg/generic.go), so not earlier.
	soon time.Duration
	// spare is how long it takes until a nudge that led to nothing is followed by
	// another call. With Interval it makes the 12 calls in five minutes.
	spare time.Duration
	// young is how long a kubelet that has begun may not know all of its pods.
	young time.Duration
}

var usual = timing{
	fresh:   time.Second,
	spacing: 500 * time.Millisecond,
	soon:    1500 * time.Millisecond,
	spare:   5 * time.Minute,
	young:   30 * time.Second,
}

// New makes a Collector. It connects to nothing and reads nothing: the kubelet
// and its files may come later.
func New(opts Options) (*Collector, error) {
	if _, err := parseAddress(opts.Address); opts.Address != "" && err != nil {
		return nil, fmt.Errorf("kubelet collector: %w", err)
	}
	if opts.Procfs == "" {
		opts.Procfs = "/proc"
	}
	if opts.Interval <= 0 {
		opts.Interval = 30 * time.Second
	}
	if opts.CallTimeout <= 0 {
		opts.CallTimeout = 5 * time.Second
	}
	c := &Collector{
		opts:   opts,
		log:    opts.Logger,
		find:   newFinder(opts.Procfs),
		timing: usual, maxReply: collectors.MaxKubeletList,
		nudged: make(chan struct{}, 1),
		news:   make(chan struct{}, 1),
		known:  map[string]*standing{},
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.fetch = c.get
	return c, nil
}

// Name is "kubelet".
func (c *Collector) Name() string { return name }

// Probe asks for the pods, and says where. The kubelet does not say its version there.
func (c *Collector) Probe(ctx context.Context) (collectors.Report, error) {
	l, err := c.ask(ctx, time.Now().Add(-c.timing.fresh))
	if err != nil {
		return collectors.Report{}, fmt.Errorf("probe the kubelet: %w", err)
	}
	return collectors.Report{Where: l.where, Detail: fmt.Sprintf("%d pods, %s", len(l.pods), l.how)}, nil
}

// Locate finds nothing: the kubelet knows no cgroup and no process.
func (c *Collector) Locate(context.Context, workload.Evidence) (workload.ContainerID, error) {
	return workload.ContainerID{}, fmt.Errorf("kubelet: locate: %w", collectors.ErrNotMine)
}

// Lookup says what the last list said of a container, and asks nobody: nothing of
// a container waits for the kubelet. What is not in it is not the kubelet's, for
// all that it would know comes with the next list as a hint.
func (c *Collector) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("kubelet: lookup: %w: %w", collectors.ErrUnavailable, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last != nil && c.watches > 0 && isContainerID(id.ID) {
		if known := c.last.containers[id.ID]; known != nil && known.runs && means(id, known.layer.ID) {
			return known.layer.Clone(), nil
		}
	}
	return nil, fmt.Errorf("kubelet: lookup: %w", collectors.ErrNotMine)
}

// means says whether a claim can mean a container that the kubelet named.
func means(claim, known workload.ContainerID) bool {
	return (claim.Runtime == "" || claim.Runtime == "kubernetes" || claim.Runtime == known.Runtime) &&
		(claim.Namespace == "" || claim.Namespace == known.Namespace)
}

// LookupPod gives one pod, by its UID or, for a static one, the hash of its
// manifest, by a call that it shares with all who wait; one that just misses a
// call joins the next. A pod that is in a list of this second is given from that.
// One that a kubelet which has just begun does not know any more is unavailable.
func (c *Collector) LookupPod(ctx context.Context, uid string) (*workload.Pod, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("kubelet: look up pod: %w: %w", collectors.ErrUnavailable, err)
	}
	if !isPodUID(uid) {
		return nil, fmt.Errorf("kubelet: look up pod: %w: not a pod's uid of Kubernetes", collectors.ErrNotFound)
	}
	since := time.Now()
	if p := c.remembered(uid); p != nil {
		return p, nil
	}
	if err := c.wait(ctx); err != nil {
		return nil, fmt.Errorf("kubelet: look up pod %s: %w", uid, err)
	}
	l, err := c.ask(ctx, since)
	if err != nil {
		return nil, fmt.Errorf("kubelet: look up pod %s: %w", uid, err)
	}
	p := l.pod(uid)
	c.missed(l, p == nil)
	switch {
	case p != nil:
		return p.Clone(), nil
	case c.was(uid) && !c.settled(l):
		return nil, fmt.Errorf("kubelet: look up pod %s: %w: %w", uid, collectors.ErrUnavailable, errYoung)
	}
	return nil, fmt.Errorf("kubelet: look up pod %s: %w", uid, collectors.ErrNotFound)
}

// remembered gives a pod of the last list, where that is fresh.
func (c *Collector) remembered(uid string) *workload.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last == nil || time.Since(c.last.began) > c.timing.fresh {
		return nil
	}
	return c.last.pod(uid).Clone()
}

// was reports whether a pod was there before and has not been given up.
func (c *Collector) was(uid string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.known[uid] != nil
}

// errYoung means that a list may not have all pods yet. It is no failure of the
// source, but the list is not to be taken for whole.
var errYoung = errors.New("the kubelet has just begun and may not know all of its pods yet")

// ListPods lists all pods, with one call or none where one has just been made.
func (c *Collector) ListPods(ctx context.Context) iter.Seq2[*workload.Pod, error] {
	return func(yield func(*workload.Pod, error) bool) {
		l, err := c.ask(ctx, time.Now().Add(-c.timing.fresh))
		if err != nil {
			yield(nil, fmt.Errorf("kubelet: list pods: %w", err))
			return
		}
		for _, p := range l.pods {
			if !yield(p.Clone(), nil) {
				return
			}
		}
		if !c.settled(l) {
			yield(nil, fmt.Errorf("kubelet: list pods: %w", errYoung))
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
