// SPDX-License-Identifier: Apache-2.0

package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pidigree/pidigree/internal/beat"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

const name = "systemd"

// Options configure a Collector. The zero value works.
type Options struct {
	// Socket is one D-Bus socket to ask at, and no other. Default: the manager's own
	// in RunDir, and where that cannot be opened the system bus.
	Socket string
	// RunDir is the host's /run. Default "/run".
	RunDir string
	// Interval is how often Watch asks for units between two states. Default 5 s.
	Interval time.Duration
	// CallTimeout bounds each call of Watch's. Default 2 s.
	CallTimeout time.Duration
}

// Collector asks one system manager.
type Collector struct {
	opts    Options
	sockets []string
	dialing chan struct{} // holds one: who may connect

	mu   sync.Mutex // guards all below
	conn *conn      // nil: none
}

var (
	_ collectors.UnitCollector = (*Collector)(nil)
	_ collectors.Watcher       = (*Collector)(nil)
	_ collectors.Prober        = (*Collector)(nil)
)

// New makes a Collector. It connects to nothing: the manager may come later.
func New(opts Options) *Collector {
	if opts.RunDir == "" {
		opts.RunDir = "/run"
	}
	if opts.Interval <= 0 {
		opts.Interval = 5 * time.Second
	}
	if opts.CallTimeout <= 0 {
		opts.CallTimeout = 2 * time.Second
	}
	c := &Collector{opts: opts, dialing: make(chan struct{}, 1)}
	if opts.Socket != "" {
		c.sockets = []string{opts.Socket}
	} else {
		c.sockets = []string{filepath.Join(opts.RunDir, privateSocket), filepath.Join(opts.RunDir, "dbus/system_bus_socket")}
	}
	return c
}

// privateSocket is the manager's own, below /run; it answers root alone, and there
// is no bus behind it (src/core/dbus.c).
const privateSocket = "systemd/private"

// Name is "systemd".
func (c *Collector) Name() string { return name }

// Close ends the connection. The Collector may be used again.
func (c *Collector) Close() error {
	c.drop(nil)
	return nil
}

// Probe asks the manager for its version.
func (c *Collector) Probe(ctx context.Context) (collectors.Report, error) {
	if !slices.ContainsFunc(c.sockets, exists) {
		return collectors.Report{}, fmt.Errorf("%w: no D-Bus socket at %s", collectors.ErrNotPresent, strings.Join(c.sockets, " or "))
	}
	var version, where string
	err := c.with(ctx, func(n *conn) (err error) {
		where = n.socket
		version, err = property[string](ctx, n, managerPath, managerInterface, "Version")
		return err
	})
	if err != nil {
		return collectors.Report{Where: where}, fmt.Errorf("probe systemd: %w", err)
	}
	return collectors.Report{Where: where, Version: version, Detail: "units by name"}, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// Locate finds nothing: a unit is no container.
func (c *Collector) Locate(context.Context, workload.Evidence) (workload.ContainerID, error) {
	return workload.ContainerID{}, fmt.Errorf("systemd: locate: %w", collectors.ErrNotMine)
}

// Lookup knows no container.
func (c *Collector) Lookup(context.Context, workload.ContainerID) (*workload.Container, error) {
	return nil, fmt.Errorf("systemd: lookup: %w", collectors.ErrNotMine)
}

// LookupUnit implements collectors.UnitCollector.
func (c *Collector) LookupUnit(ctx context.Context, unit, cgroup string) (*workload.Service, error) {
	var s *workload.Service
	err := c.with(ctx, func(n *conn) (err error) {
		s, err = n.unit(ctx, unit, cgroup)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("systemd: unit %.80q: %w", unit, err)
	}
	return s, nil
}

// Watch says at its beginning that every unit may have changed, and then which
// units are between two states, or were the last time.
func (c *Collector) Watch(ctx context.Context, fn func(collectors.Hint)) error {
	defer c.drop(nil)
	var were []string
	for first := true; ; first = false {
		now, err := c.between(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("systemd: watch: %w", err)
		}
		fn(collectors.Hint{Kind: collectors.HintAlive})
		if first {
			fn(collectors.Hint{Kind: collectors.HintChanged, Unit: collectors.EveryUnit})
		}
		for _, unit := range slices.Compact(slices.Sorted(slices.Values(append(were, now...)))) {
			fn(collectors.Hint{Kind: collectors.HintChanged, Unit: unit})
		}
		were = now
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(beat.Until(c.opts.Interval)):
		}
	}
}

// maxBetween bounds how many units are followed from one look to the next.
const maxBetween = 4096

// between gives the names of the units that are between two states.
func (c *Collector) between(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.CallTimeout)
	defer cancel()
	var names []string
	err := c.with(ctx, func(n *conn) (err error) {
		names, err = n.inStates(ctx, "activating", "deactivating", "reloading", "refreshing")
		return err
	})
	return names[:min(len(names), maxBetween)], err
}

// with does something by the connection, and throws it away if it does not answer.
// Who asks for what is not there has been answered.
func (c *Collector) with(ctx context.Context, fn func(*conn) error) error {
	n, err := c.connect(ctx)
	if err == nil {
		err = fn(n)
	}
	switch {
	case err == nil || errors.Is(err, collectors.ErrNotFound):
		return err
	case n != nil && !errors.Is(err, errRefused):
		c.drop(n)
	}
	return fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
}

// connect gives the connection, made by one caller at a time.
func (c *Collector) connect(ctx context.Context) (*conn, error) {
	if n := c.current(); n != nil {
		return n, nil
	}
	select {
	case c.dialing <- struct{}{}:
		defer func() { <-c.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if n := c.current(); n != nil {
		return n, nil
	}
	var errs []error
	for _, socket := range c.sockets {
		n, err := dial(ctx, socket)
		if err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.conn = n
			return n, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

func (c *Collector) current() *conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && !c.conn.bus.Connected() {
		c.conn = nil
	}
	return c.conn
}

// drop ends a connection, or whichever there is.
func (c *Collector) drop(n *conn) {
	c.mu.Lock()
	if n == nil {
		n = c.conn
	}
	if c.conn == n {
		c.conn = nil
	}
	c.mu.Unlock()
	if n != nil {
		n.close()
	}
}
