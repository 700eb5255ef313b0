// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

var (
	_ collectors.Collector = (*Collector)(nil)
	_ collectors.Prefiller = (*Collector)(nil)
	_ collectors.Lister    = (*Collector)(nil)
	_ collectors.Watcher   = (*Collector)(nil)
	_ collectors.Prober    = (*Collector)(nil)
)

// Options say where to look. The zero value is good for a host.
type Options struct {
	// Roots are globs of state directories, absolute, beside the defaults. A
	// root's subdirectories are containers, by id.
	Roots []string
	// RunDir is where the defaults are looked for. Default: run below HostRoot.
	RunDir string
	// HostRoot is where the host's root directory is mounted; bundles are read below it. Default "/".
	HostRoot string
	// ProcRoot is the host's procfs. Default "/proc".
	ProcRoot string
	// CgroupRoot is where the host's cgroups are mounted here. Default "/sys/fs/cgroup".
	CgroupRoot string
	// EnvAllow are the names of the variables that are kept. Default: none.
	EnvAllow []string
	// Logger may be nil.
	Logger *slog.Logger
}

// Collector reads the state of low-level runtimes.
type Collector struct {
	opts     Options
	log      *slog.Logger
	envAllow map[string]bool
	// index is that of the running Watch, nil without one.
	index atomic.Pointer[index]
	scans scans
	shims shims
	looks looks

	mu      sync.Mutex // guards all below
	learned map[string]root
}

// New makes a Collector. It opens nothing.
func New(opts Options) (*Collector, error) {
	opts.HostRoot = cmp.Or(opts.HostRoot, "/")
	opts.RunDir = cmp.Or(opts.RunDir, filepath.Join(opts.HostRoot, "run"))
	opts.ProcRoot = cmp.Or(opts.ProcRoot, "/proc")
	opts.CgroupRoot = cmp.Or(opts.CgroupRoot, hostCgroups)
	roots := make([]string, 0, len(opts.Roots))
	for _, g := range opts.Roots {
		if _, err := filepath.Match(g, ""); err != nil || !filepath.IsAbs(g) {
			return nil, fmt.Errorf("state directory %q: not an absolute path or glob", g)
		}
		if rest, ok := strings.CutPrefix(filepath.Clean(g), "/var/run/"); ok && opts.HostRoot == "/" {
			g = filepath.Join("/run", rest)
		}
		roots = append(roots, filepath.Clean(g))
	}
	opts.Roots = roots
	c := &Collector{opts: opts, log: opts.Logger, envAllow: make(map[string]bool), learned: make(map[string]root), scans: newScans()}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	for _, name := range opts.EnvAllow {
		c.envAllow[name] = true
	}
	return c, nil
}

// Name is "oci".
func (c *Collector) Name() string { return "oci" }

// Probe says which directories there are. It never fails: a host without any
// may have one the next moment, and Watch sees it come.
func (c *Collector) Probe(ctx context.Context) (collectors.Report, error) {
	if err := ctx.Err(); err != nil {
		return collectors.Report{}, err
	}
	var where []string
	for _, r := range c.roots() {
		if !r.bundles && len(where) < 8 {
			where = append(where, r.path)
		}
	}
	if len(where) == 0 {
		return collectors.Report{Where: c.opts.RunDir, Detail: "no state directory yet"}, nil
	}
	return collectors.Report{Where: strings.Join(where, " "), Detail: "state of runc, crun, youki"}, nil
}

// Prefill is Lookup: the files are the runtime's own truth, and cost no call.
func (c *Collector) Prefill(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	return c.Lookup(ctx, id)
}

// Lookup describes a container by its state and bundle. Where only the bundle
// is there yet, Run is nil. An id without Instance or Namespace is looked for
// everywhere; one that several living containers have is not found, for nothing
// is guessed.
func (c *Collector) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	if !validID(id.ID) {
		return nil, fmt.Errorf("container id %q: %w", cut(id.ID), collectors.ErrNotFound)
	}
	if !knownRuntimes[id.Runtime] {
		return nil, fmt.Errorf("look up %s: %w", id, collectors.ErrNotMine)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	found, err := c.find(id)
	if err != nil {
		return nil, fmt.Errorf("look up %s: %w", id, err)
	}
	return c.describe(found), nil
}

// knownRuntimes are the words by which a claim may call what one of the three
// runtimes runs; empty is a claim that does not say.
var knownRuntimes = map[string]bool{
	"": true, runtimeRunc: true, runtimeCrun: true, runtimeYouki: true,
	engineDocker: true, engineContainerd: true, "cri-o": true, "podman": true, "buildkit": true,
	"kubernetes": true, "ecs": true, "garden": true,
}

// find gives the one place that has the id.
func (c *Collector) find(id workload.ContainerID) (*reading, error) {
	all, err := c.candidates(id)
	if r := c.only(all); r != nil {
		return r, nil
	}
	if len(all) > 1 {
		return nil, fmt.Errorf("%d containers have this id: %w", len(all), collectors.ErrNotFound)
	}
	return nil, refusal(err)
}

// only gives the one reading of a list, or the one whose init lives.
func (c *Collector) only(all []*reading) *reading {
	if len(all) == 1 {
		return all[0]
	}
	var alive *reading
	for _, r := range all {
		if r.state == nil || r.life == workload.StateExited {
			continue
		}
		if alive != nil {
			return nil
		}
		alive = r
	}
	return alive
}

// candidates reads every place that has the id: state first, a bundle only if
// no runtime knows it yet. The error is that of a place that could not be read.
func (c *Collector) candidates(id workload.ContainerID) ([]*reading, error) {
	roots := c.rootsFor(id)
	all, err := c.readEach(roots, id.ID)
	if len(all) > 0 {
		return all, nil
	}
	var more []root
	var bundles []*reading
	for _, r := range roots {
		if !r.bundles || !has(r.path, id.ID) {
			continue
		}
		b, berr := c.readBundle(r, id.ID)
		if berr != nil {
			err = errors.Join(err, ignoreMissing(berr))
			continue
		}
		bundles = append(bundles, b)
		if c.learn(b) {
			more = append(more, b.root)
		}
	}
	if all, merr := c.readEach(more, id.ID); len(all) > 0 {
		return all, nil
	} else if merr != nil {
		err = errors.Join(err, merr)
	}
	if len(bundles) > 0 {
		return bundles, nil
	}
	return nil, err
}

func (c *Collector) readEach(roots []root, id string) ([]*reading, error) {
	var all []*reading
	var err error
	for _, r := range roots {
		if r.bundles || !has(r.path, id) {
			continue
		}
		s, serr := c.read(r, id)
		if serr != nil {
			err = errors.Join(err, ignoreMissing(serr))
			continue
		}
		all = append(all, s)
	}
	return all, err
}

// rootsFor gives the directories where an id may be.
func (c *Collector) rootsFor(id workload.ContainerID) []root {
	ours := id.Runtime == runtimeRunc || id.Runtime == runtimeCrun || id.Runtime == runtimeYouki
	var list []root
	for _, r := range c.roots() {
		if id.Namespace != "" && r.namespace != id.Namespace {
			continue
		}
		if ours && id.Instance != "" && r.path != id.Instance && !r.bundles {
			continue
		}
		if ours && id.Instance == "" && r.owner == id.Runtime {
			if has(r.path, id.ID) {
				return []root{r} // the id is complete: it means the default directory
			}
		}
		list = append(list, r)
	}
	return list
}

func has(dir, id string) bool {
	var st unix.Stat_t
	return unix.Lstat(filepath.Join(dir, id), &st) == nil
}

// ignoreMissing keeps the errors that are about something that is there.
func ignoreMissing(err error) error {
	if missing(err) {
		return nil
	}
	return err
}

// refusal turns the errors of reading into the contract's.
func refusal(err error) error {
	switch {
	case err == nil:
		return collectors.ErrNotFound
	case errors.Is(err, collectors.ErrUnavailable):
		return err
	case errors.Is(err, errUntrusted):
		return fmt.Errorf("%w: %w", collectors.ErrNotFound, err)
	}
	return fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
}

// List describes all containers that a runtime has state of.
func (c *Collector) List(ctx context.Context) iter.Seq2[*workload.Container, error] {
	return func(yield func(*workload.Container, error) bool) {
		if err := ctx.Err(); err != nil {
			yield(nil, err)
			return
		}
		defer c.looks.share()()
		c.learnAll(ctx)
		for _, r := range c.roots() {
			if !r.bundles && !c.listRoot(ctx, r, yield) {
				return
			}
		}
	}
}

func (c *Collector) listRoot(ctx context.Context, r root, yield func(*workload.Container, error) bool) bool {
	list, err := subdirs(r.path)
	if err != nil && !missing(err) {
		return yield(nil, fmt.Errorf("list: %w", err))
	}
	for _, d := range slices.Backward(list) { // a Watch's first look comes from the other end
		if err := ctx.Err(); err != nil {
			return yield(nil, err) && false
		}
		if !validID(d.name) {
			continue
		}
		_, out, err := c.look(r, d.name)
		switch {
		case err == nil:
			if !yield(out, nil) {
				return false
			}
		case errors.Is(err, errUntrusted), missing(err), errors.Is(err, errNoState):
			// Not a container, or not yet or no longer one: the others are complete without it.
			c.log.Debug("state not listed", "container", d.name, "err", err)
		case !yield(nil, fmt.Errorf("list: %w", err)): // about one container, so not ErrUnavailable
			return false
		}
	}
	return true
}

// learnAll reads the options of all shims.
func (c *Collector) learnAll(ctx context.Context) {
	for _, r := range c.roots() {
		if !r.bundles {
			continue
		}
		list, _ := subdirs(r.path)
		for _, d := range list {
			if ctx.Err() != nil {
				return
			}
			if b, err := c.readBundle(r, d.name); err == nil {
				c.learn(b)
			}
		}
	}
}

func closeFD(fd int) { _ = unix.Close(fd) }
