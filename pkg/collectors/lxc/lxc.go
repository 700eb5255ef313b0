// SPDX-License-Identifier: Apache-2.0

package lxc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/lxcmonitor"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// name is the collector's, and the runtime of its ids.
const name = "lxc"

// DefaultPath is where LXC keeps root's containers.
const DefaultPath = "/var/lib/lxc"

// maxContainers bounds how many containers a directory may have to be looked at.
const maxContainers = 4096

// Options configure a Collector. The zero value is good for a host.
type Options struct {
	// Paths are the directories of containers (lxc.lxcpath), absolute. Default: DefaultPath.
	Paths []string
	// ProcRoot is the host's procfs. Default "/proc".
	ProcRoot string
	// CgroupRoot is where the host's cgroups are mounted. Default "/sys/fs/cgroup".
	CgroupRoot string
}

// Collector looks for containers of LXC's.
type Collector struct{ opts Options }

var (
	_ collectors.Collector = (*Collector)(nil)
	_ collectors.Prefiller = (*Collector)(nil)
	_ collectors.Lister    = (*Collector)(nil)
	_ collectors.Watcher   = (*Collector)(nil)
	_ collectors.Prober    = (*Collector)(nil)
)

// New makes a Collector. It opens nothing.
func New(opts Options) *Collector {
	if opts.Paths == nil {
		opts.Paths = []string{DefaultPath}
	}
	opts.Paths = slices.Clone(opts.Paths)
	for i, p := range opts.Paths {
		opts.Paths[i] = filepath.Clean(p)
	}
	opts.ProcRoot = cmp.Or(opts.ProcRoot, "/proc")
	opts.CgroupRoot = cmp.Or(opts.CgroupRoot, "/sys/fs/cgroup")
	return &Collector{opts: opts}
}

func (c *Collector) host() lxcmonitor.Host {
	return lxcmonitor.Host{Proc: c.opts.ProcRoot, Cgroup: c.opts.CgroupRoot}
}

// Name is "lxc".
func (c *Collector) Name() string { return name }

// Probe says whether one of the directories is there.
func (c *Collector) Probe(ctx context.Context) (collectors.Report, error) {
	if err := ctx.Err(); err != nil {
		return collectors.Report{}, err
	}
	for _, path := range c.opts.Paths {
		dir, err := open(path)
		if errors.Is(err, collectors.ErrNotPresent) {
			continue
		}
		if err != nil {
			return collectors.Report{Where: path}, fmt.Errorf("lxc: probe: %w", err)
		}
		_ = unix.Close(dir)
		return collectors.Report{Where: path, Detail: "root's containers, by their monitors"}, nil
	}
	return collectors.Report{}, fmt.Errorf("lxc: probe: %w: no %s", collectors.ErrNotPresent, c.opts.Paths[0])
}

// open opens a directory of containers.
func open(path string) (int, error) {
	fd, err := safefile.OpenTop("/", path, trust)
	switch {
	case missing(err):
		return -1, fmt.Errorf("%w: no %s", collectors.ErrNotPresent, path)
	case err != nil:
		return -1, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	return fd, nil
}

// Prefill is Lookup: no call is made to anybody.
func (c *Collector) Prefill(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	return c.Lookup(ctx, id)
}

// Lookup describes a container that runs. While LXC starts it, Run is nil. One of the
// name in several directories is found where one of them runs.
func (c *Collector) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	paths, err := c.mine(id)
	if err != nil {
		return nil, fmt.Errorf("lxc: look up %.80q: %w", id.String(), err)
	}
	err = collectors.ErrNotFound
	var out *workload.Container
	for _, path := range paths {
		if cerr := ctx.Err(); cerr != nil {
			return nil, cerr
		}
		f, lerr := c.look(path, id.ID, nil)
		switch {
		case lerr == nil && (out == nil || out.Run == nil):
			out = f.describe()
		case lerr != nil && !errors.Is(lerr, collectors.ErrNotFound) && !errors.Is(lerr, collectors.ErrNotPresent):
			err = lerr
		}
	}
	if out == nil {
		return nil, fmt.Errorf("lxc: look up %s: %w", id, err)
	}
	return out, nil
}

// mine gives the directories where an id may be. An id of 64 digits that nobody
// calls LXC's is an engine's.
func (c *Collector) mine(id workload.ContainerID) ([]string, error) {
	switch {
	case id.Runtime != "" && id.Runtime != name, id.Namespace != "", id.Runtime == "" && len(id.ID) == 64:
		return nil, collectors.ErrNotMine
	case !isName(id.ID):
		return nil, collectors.ErrNotFound
	case id.Instance == "":
		return c.opts.Paths, nil
	case !slices.Contains(c.opts.Paths, id.Instance):
		return nil, collectors.ErrNotMine
	}
	return []string{id.Instance}, nil
}

// found is a container with what runs of it.
type found struct {
	lxcmonitor.Running
	id   workload.ContainerID
	conf config
}

func idOf(path, container string) workload.ContainerID {
	id := workload.ContainerID{Runtime: name, Instance: path, ID: container}
	if path == DefaultPath {
		id.Instance = ""
	}
	return id
}

// look reads a container's configuration and finds what runs of it. ErrNotFound: there
// is none, it is no configuration, nothing of it runs (Begun says that it may soon), or
// maybe, where there is one, says that it is not it by the configuration.
func (c *Collector) look(path, container string, maybe func(config) bool) (*found, error) {
	f := &found{id: idOf(path, container)}
	top, err := open(path)
	if err != nil {
		return f, err
	}
	defer unix.Close(top)
	dir, err := safefile.OpenDir(top, container, trust)
	if err == nil {
		defer unix.Close(dir)
		f.conf, err = readConfig(dir)
	}
	switch {
	case missing(err), isBad(err):
		return f, fmt.Errorf("%w: %w", collectors.ErrNotFound, err)
	case err != nil:
		return f, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	case maybe != nil && !maybe(f.conf):
		return f, collectors.ErrNotFound
	}
	f.Running, err = c.host().Find(path, container, f.conf.places(container))
	switch {
	case err != nil:
		return f, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	case !f.Monitor:
		return f, fmt.Errorf("%w: nothing of it runs", collectors.ErrNotFound)
	}
	return f, nil
}

// isBad reports whether a configuration is to be complained about.
func isBad(err error) bool {
	return errors.Is(err, errNonsense) || errors.Is(err, safefile.ErrUntrusted)
}

// missing says that a file or directory is not there.
func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// describe says what is known of a container.
func (f *found) describe() *workload.Container {
	out := &workload.Container{ID: f.id, Name: f.id.ID, Runtime: name, Hostname: f.conf.hostname, State: workload.StateCreated}
	if f.conf.rootfs != "" {
		out.Annotations = map[string]string{"lxc.rootfs.path": f.conf.rootfs}
	}
	if !f.Init.IsZero() {
		out.State = workload.StateRunning
		if f.Frozen {
			out.State = workload.StatePaused
		}
		out.Run = &workload.Run{Init: f.Init, ClaimedPaths: []string{f.Payload}, Registers: true}
	}
	return out
}

// List describes all containers that run.
func (c *Collector) List(ctx context.Context) iter.Seq2[*workload.Container, error] {
	return c.list(ctx, nil)
}

// list describes those that may be meant, by their configurations; nil: all.
func (c *Collector) list(ctx context.Context, maybe func(string, config) bool) iter.Seq2[*workload.Container, error] {
	return func(yield func(*workload.Container, error) bool) {
		err := c.each(ctx, maybe, func(f *found, err error) bool {
			switch {
			case err == nil:
				return yield(f.describe(), nil)
			case errors.Is(err, collectors.ErrNotFound):
				return true
			}
			return yield(nil, fmt.Errorf("lxc: list: %s cannot be read now", f.id)) // about one, so not ErrUnavailable
		})
		if err != nil {
			yield(nil, fmt.Errorf("lxc: list: %w", err))
		}
	}
}

// each looks at every container, until fn has enough. The error is one about all of them.
func (c *Collector) each(ctx context.Context, maybe func(string, config) bool, fn func(*found, error) bool) error {
	err := fmt.Errorf("%w: no %s", collectors.ErrNotPresent, c.opts.Paths)
	for _, path := range c.opts.Paths {
		if cerr := ctx.Err(); cerr != nil {
			return cerr
		}
		names, nerr := names(path)
		if nerr != nil {
			if !errors.Is(nerr, collectors.ErrNotPresent) {
				return nerr
			}
			continue
		}
		err = nil
		for _, container := range names {
			if cerr := ctx.Err(); cerr != nil {
				return cerr
			}
			var may func(config) bool
			if maybe != nil {
				may = func(conf config) bool { return maybe(container, conf) }
			}
			if !fn(c.look(path, container, may)) {
				return nil
			}
		}
	}
	return err
}

// names lists the directories that may be containers'.
func names(path string) ([]string, error) {
	f, err := os.Open(path)
	switch {
	case missing(err):
		return nil, fmt.Errorf("%w: no %s", collectors.ErrNotPresent, path)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	defer f.Close()
	list, err := f.ReadDir(maxContainers + 1)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	case len(list) > maxContainers: // who is left out would be denied
		return nil, fmt.Errorf("%w: %s has more than %d directories", collectors.ErrUnavailable, path, maxContainers)
	}
	var names []string
	for _, d := range list {
		if d.IsDir() && isName(d.Name()) {
			names = append(names, d.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// Locate finds the container whose init or cgroup the evidence has.
func (c *Collector) Locate(ctx context.Context, e workload.Evidence) (workload.ContainerID, error) {
	var maybe func(string, config) bool
	if len(e.Cgroups) > 0 { // what is in none of a container's cgroups need not be looked for in /proc
		maybe = func(container string, conf config) bool {
			return slices.ContainsFunc(conf.places(container), func(p lxcmonitor.Place) bool {
				return slices.ContainsFunc(e.Cgroups, func(g workload.CgroupPath) bool { return g.Path == p.Payload })
			})
		}
	}
	id, err := collectors.LocateAmong(ctx, e, c.Lookup, c.list(ctx, maybe))
	if err != nil {
		return id, fmt.Errorf("lxc: locate: %w", err)
	}
	return id, nil
}
