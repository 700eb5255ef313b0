// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// DefaultRoot is where podman keeps root's containers.
const DefaultRoot = "/var/lib/containers/storage"

// name is the collector's, and the runtime of its containers.
const name = "podman"

// Options say where to look. The zero value is good for a host.
type Options struct {
	// Roots are the storage directories of root's podman (podman --root). Default: what
	// the host's storage.conf says when New is called, else DefaultRoot.
	Roots []string
	// NoUsers leaves out the stores of users who are not root, which are found by
	// the conmons that run and in the homes.
	NoUsers bool
	// HostRoot is where the host's root directory is mounted. Default "/".
	HostRoot string
	// ProcRoot is the host's procfs. Default "/proc".
	ProcRoot string
	// CgroupRoot is where the host's cgroups are mounted. Default "/sys/fs/cgroup".
	CgroupRoot string
	// EnvAllow are the names of the environment variables to keep. Default none.
	EnvAllow []string
	// Interval is how often Watch looks whether a database has changed. Default 1 s.
	Interval time.Duration
	// Logger gets what is odd and not worth an error. Default none.
	Logger *slog.Logger
}

// Collector reads podman's stores.
type Collector struct {
	host string
	proc string
	// cgroupRoot is where the host's cgroups are.
	cgroupRoot string
	env        map[string]bool
	interval   time.Duration
	log        *slog.Logger
	nudged     chan struct{}
	noUsers    bool

	mu         sync.Mutex // guards all below
	stores     []*store   // those that were given first
	discovered time.Time
}

var (
	_ collectors.Collector    = (*Collector)(nil)
	_ collectors.Prefiller    = (*Collector)(nil)
	_ collectors.Lister       = (*Collector)(nil)
	_ collectors.PodCollector = (*Collector)(nil)
	_ collectors.Watcher      = (*Collector)(nil)
	_ collectors.Prober       = (*Collector)(nil)
	_ collectors.Nudger       = (*Collector)(nil)

	_ collectors.ImageCollector = (*Collector)(nil)
)

// New makes a collector. It opens nothing: a store may come later.
func New(o Options) (*Collector, error) {
	c := &Collector{
		host: cmp.Or(o.HostRoot, "/"), proc: cmp.Or(o.ProcRoot, "/proc"),
		env: map[string]bool{}, interval: o.Interval, log: o.Logger, nudged: make(chan struct{}, 1),
		noUsers: o.NoUsers, cgroupRoot: cmp.Or(o.CgroupRoot, "/sys/fs/cgroup"),
	}
	if c.interval <= 0 {
		c.interval = time.Second
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	for _, k := range o.EnvAllow {
		c.env[k] = true
	}
	roots := o.Roots
	if roots == nil {
		roots = []string{cmp.Or(configuredRoot(c.host), DefaultRoot)}
	}
	for i, root := range roots {
		if !filepath.IsAbs(root) {
			return nil, fmt.Errorf("podman collector: root %q is not an absolute path", root)
		}
		s := &store{c: c, root: filepath.Clean(root), owner: uint32(os.Geteuid())}
		if i > 0 {
			s.instance = s.root
		}
		c.stores = append(c.stores, s)
	}
	return c, nil
}

// Name implements collectors.Collector.
func (c *Collector) Name() string { return name }

// known gives the stores by now.
func (c *Collector) known() []*store {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clip(c.stores)
}

// mine gives the stores that may have an id, which may be a claim of any
// container's making. Nothing that fails here reaches a path.
func (c *Collector) mine(id workload.ContainerID) ([]*store, error) {
	switch id.Runtime {
	case name, "", "runc", "crun", "youki":
	default:
		return nil, collectors.ErrNotMine
	}
	if id.Namespace != "" {
		return nil, collectors.ErrNotMine
	}
	if !isID(id.ID) {
		return nil, fmt.Errorf("%w: an id of podman is 64 lower-case hexadecimal digits", collectors.ErrNotFound)
	}
	var stores []*store
	for _, s := range c.known() {
		if id.Runtime == name && id.Instance != "" {
			if s.instance == id.Instance {
				return []*store{s}, nil
			}
		} else if !s.user { // a bare id means none of a user's: he may call his what he likes
			stores = append(stores, s)
		}
	}
	if len(stores) == 0 {
		return nil, collectors.ErrNotMine
	}
	return stores, nil
}

// Probe implements collectors.Prober: it says which stores there are.
func (c *Collector) Probe(ctx context.Context) (collectors.Report, error) {
	c.discover(ctx)
	var where, detail []string
	var failed error
	for _, s := range c.known() {
		kind, err := s.probe(ctx)
		switch {
		case err == nil:
			where = append(where, s.root)
			detail = append(detail, kind)
		case !errors.Is(err, collectors.ErrNotFound):
			failed = fmt.Errorf("podman: probe %s: %w", s.root, err)
		}
	}
	r := collectors.Report{Where: strings.Join(where, " "), Detail: strings.Join(detail, ", ")}
	switch {
	case len(where) > 0:
		return r, nil
	case failed != nil:
		return collectors.Report{Where: c.known()[0].root}, failed
	case ctx.Err() != nil:
		return r, fmt.Errorf("podman: probe: %w: %w", collectors.ErrUnavailable, ctx.Err())
	}
	return r, fmt.Errorf("podman: probe: %w: no store", collectors.ErrNotPresent)
}

// Prefill implements collectors.Prefiller: what the database says, and nothing else is read.
func (c *Collector) Prefill(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	return c.find(ctx, id, (*store).prefill)
}

// Lookup implements collectors.Collector: what the database, the bundle and the kernel say.
func (c *Collector) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	return c.find(ctx, id, (*store).lookup)
}

// find asks the stores in turn.
func (c *Collector) find(ctx context.Context, id workload.ContainerID, ask func(*store, context.Context, string) (*workload.Container, error)) (*workload.Container, error) {
	stores, err := c.mine(id)
	if err != nil {
		return nil, fmt.Errorf("podman: look up: %w", err)
	}
	err = collectors.ErrNotFound
	for _, s := range stores {
		one, serr := ask(s, ctx, id.ID)
		if serr == nil {
			return one, nil
		}
		if errors.Is(serr, collectors.ErrNotFound) && s.told.deny(id.ID) {
			c.Nudge()
		}
		if !errors.Is(serr, collectors.ErrNotFound) {
			err = serr
		}
	}
	return nil, fmt.Errorf("podman: look up %s: %w", id.ID, err)
}
