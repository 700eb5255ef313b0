// SPDX-License-Identifier: Apache-2.0

package nspawn

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

	"github.com/pidigree/pidigree/internal/cgroupdir"
	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// name is the collector's, and the runtime of its ids.
const name = "nspawn"

// maxMachines bounds how many machines are read.
const maxMachines = 4096

// Options configure a Collector. The zero value is good for a host.
type Options struct {
	// Dir is machined's directory. Default: systemd/machines below RunDir.
	Dir string
	// RunDir is the host's /run. Default "/run".
	RunDir string
	// ProcRoot is the host's procfs. Default "/proc".
	ProcRoot string
	// CgroupRoot is where the host's cgroups are mounted. Default "/sys/fs/cgroup".
	CgroupRoot string
}

// Collector reads machined's files.
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
	opts.RunDir = cmp.Or(opts.RunDir, "/run")
	opts.Dir = cmp.Or(opts.Dir, filepath.Join(opts.RunDir, "systemd/machines"))
	opts.ProcRoot = cmp.Or(opts.ProcRoot, "/proc")
	opts.CgroupRoot = cmp.Or(opts.CgroupRoot, "/sys/fs/cgroup")
	return &Collector{opts: opts}
}

// Name is "nspawn".
func (c *Collector) Name() string { return name }

// Probe says whether machined has its directory. It is there from machined's first
// start on.
func (c *Collector) Probe(ctx context.Context) (collectors.Report, error) {
	if err := ctx.Err(); err != nil {
		return collectors.Report{}, err
	}
	dir, err := c.open()
	if err != nil {
		return collectors.Report{Where: c.opts.Dir}, fmt.Errorf("nspawn: probe: %w", err)
	}
	defer unix.Close(dir)
	return collectors.Report{Where: c.opts.Dir, Detail: "machines that systemd-machined knows"}, nil
}

// open opens machined's directory.
func (c *Collector) open() (int, error) {
	fd, err := safefile.OpenTop("/", c.opts.Dir, trust)
	switch {
	case missing(err):
		return -1, fmt.Errorf("%w: no %s", collectors.ErrNotPresent, c.opts.Dir)
	case err != nil:
		return -1, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	return fd, nil
}

// names lists the machines. A directory of more than maxMachines is cut, and says so.
func (c *Collector) names() ([]string, error) {
	f, err := os.Open(c.opts.Dir)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	defer f.Close()
	all, err := f.Readdirnames(2*maxMachines + 2) // each may have a link by its unit
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	all = slices.DeleteFunc(all, func(s string) bool { return !isName(s) })
	if len(all) > maxMachines {
		return all[:maxMachines], fmt.Errorf("more than %d machines", maxMachines)
	}
	slices.Sort(all)
	return all, nil
}

// Prefill is Lookup: there is nothing but files.
func (c *Collector) Prefill(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	return c.Lookup(ctx, id)
}

// Lookup describes a machine by its file and its leader. While nspawn is starting it,
// Run is nil.
func (c *Collector) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	if err := mine(id); err != nil {
		return nil, fmt.Errorf("nspawn: look up %.80q: %w", id.String(), err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	dir, err := c.open()
	if err != nil {
		return nil, fmt.Errorf("nspawn: look up %s: %w", id, err)
	}
	defer unix.Close(dir)
	f, err := c.look(dir, id.ID)
	if err != nil {
		return nil, fmt.Errorf("nspawn: look up %s: %w", id, refusal(err))
	}
	return f.describe(), nil
}

// mine fails where an id is none of a machine's. An id of 64 digits is an engine's:
// no host name is as long without a dot.
func mine(id workload.ContainerID) error {
	switch {
	case id.Runtime != "" && id.Runtime != name, id.Instance != "", id.Namespace != "", len(id.ID) == 64 && id.Runtime == "":
		return collectors.ErrNotMine
	case !isName(id.ID):
		return collectors.ErrNotFound
	}
	return nil
}

// found is a machine with its leader.
type found struct {
	*machine
	leader
	stamp safefile.Stamp
	// frozen: all of it is stopped, by "systemctl freeze" of its unit or whoever else
	// writes to its cgroup.
	frozen bool
}

// look reads a machine and its leader.
func (c *Collector) look(dir int, name string) (*found, error) {
	m, stamp, err := read(dir, name)
	if err != nil {
		return nil, err
	}
	f := &found{machine: m, stamp: stamp}
	if !m.ours() {
		return f, fmt.Errorf("a %.20s of %.40s: %w", cmp.Or(m.class, "machine"), cmp.Or(m.service, "nobody"), errNotOurs)
	}
	f.leader, err = c.leader(m)
	if err != nil {
		return f, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	f.frozen = f.payload != "" && cgroupdir.Frozen(c.opts.CgroupRoot, f.payload)
	return f, nil
}

// errNotOurs means that machined knows it, and that it is no container of nspawn's.
var errNotOurs = errors.New("not a container of systemd-nspawn")

// refusal turns the errors of reading into the contract's. A file that is nonsense, or
// that somebody else may have written, is no machine.
func refusal(err error) error {
	switch {
	case errors.Is(err, collectors.ErrUnavailable):
		return err
	case missing(err), isBad(err), errors.Is(err, errNotOurs):
		return fmt.Errorf("%w: %w", collectors.ErrNotFound, err)
	}
	return fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
}

// isBad reports whether a file is to be complained about.
func isBad(err error) bool {
	return errors.Is(err, errNonsense) || errors.Is(err, safefile.ErrUntrusted)
}

// missing says that a file or directory is not there.
func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

func idOf(machine string) workload.ContainerID {
	return workload.ContainerID{Runtime: name, ID: machine}
}

// describe says what is known of a machine.
func (f *found) describe() *workload.Container {
	out := &workload.Container{ID: idOf(f.name), Name: f.name, Runtime: name, Started: f.started, Annotations: map[string]string{}}
	// By the names that machined's properties have on D-Bus.
	for key, value := range map[string]string{"Id": f.id, "RootDirectory": f.root, "Unit": f.unit} {
		if value != "" {
			out.Annotations[key] = value
		}
	}
	switch {
	case f.gone:
		out.State = workload.StateExited
	case !f.key.IsZero():
		out.State = workload.StateRunning
		if f.frozen {
			out.State = workload.StatePaused
		}
		out.Run = &workload.Run{Init: f.key, ClaimedPaths: []string{f.payload}, Registers: true}
	}
	return out
}

// List describes all machines. What is nonsense is none; a Watch says so.
func (c *Collector) List(ctx context.Context) iter.Seq2[*workload.Container, error] {
	return func(yield func(*workload.Container, error) bool) {
		err := c.each(ctx, func(f *found, err error) bool {
			switch {
			case err == nil:
				return yield(f.describe(), nil)
			case missing(err), isBad(err), errors.Is(err, errNotOurs):
				return true
			}
			return yield(nil, fmt.Errorf("nspawn: list: %w", err))
		})
		if err != nil {
			yield(nil, fmt.Errorf("nspawn: list: %w", err))
		}
	}
}

// each looks at every machine, until fn has enough. The error is one about all of them.
func (c *Collector) each(ctx context.Context, fn func(*found, error) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir, err := c.open()
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	names, cut := c.names()
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		f, err := c.look(dir, name)
		if errors.Is(err, collectors.ErrUnavailable) {
			err = fmt.Errorf("machine %s cannot be read now", name) // about one, so not ErrUnavailable
		}
		if !fn(f, err) {
			return nil
		}
	}
	return cut
}

// Locate finds the machine whose leader the evidence has, or whose cgroup.
func (c *Collector) Locate(ctx context.Context, e workload.Evidence) (workload.ContainerID, error) {
	id, err := collectors.LocateAmong(ctx, e, c.Lookup, c.List(ctx))
	if err != nil {
		return id, fmt.Errorf("nspawn: locate: %w", err)
	}
	return id, nil
}
