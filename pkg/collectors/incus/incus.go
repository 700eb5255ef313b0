// SPDX-License-Identifier: Apache-2.0

package incus

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
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/lxcmonitor"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The two servers, as they call themselves, and the runtimes of their ids.
const (
	nameIncus = "incus"
	nameLXD   = "lxd"
)

// Sockets are where distributions have the two.
func Sockets() []string { return []string{"/var/lib/incus/unix.socket", "/var/lib/lxd/unix.socket"} }

// maxContainers bounds how many containers a server may have to be looked at.
const maxContainers = 4096

// maxReply bounds what is read of one answer, and what is kept of it.
const maxReply = 64 << 20

// Options configure a Collector. The zero value is good for a host with Incus.
type Options struct {
	// Socket is the server's, an absolute path. Default: the first of Sockets. One whose
	// path does not name incus is LXD's.
	Socket string
	// Dir is the server's directory, as the server sees it. Default: the socket's.
	Dir string
	// ProcRoot is the host's procfs. Default "/proc".
	ProcRoot string
	// CgroupRoot is where the host's cgroups are mounted. Default "/sys/fs/cgroup".
	CgroupRoot string
}

// Collector asks one server.
type Collector struct {
	opts     Options
	name     string
	instance string // of its ids
	path     string // lxc.lxcpath
}

var (
	_ collectors.Collector = (*Collector)(nil)
	_ collectors.Lister    = (*Collector)(nil)
	_ collectors.Watcher   = (*Collector)(nil)
	_ collectors.Prober    = (*Collector)(nil)
)

// New makes a Collector. It opens nothing.
func New(opts Options) *Collector {
	opts.Socket = filepath.Clean(cmp.Or(opts.Socket, Sockets()[0]))
	opts.Dir = filepath.Clean(cmp.Or(opts.Dir, filepath.Dir(opts.Socket)))
	opts.ProcRoot = cmp.Or(opts.ProcRoot, "/proc")
	opts.CgroupRoot = cmp.Or(opts.CgroupRoot, "/sys/fs/cgroup")
	c := &Collector{opts: opts, name: nameLXD, path: opts.Dir + "/containers"}
	if strings.Contains(opts.Socket, nameIncus) {
		c.name = nameIncus
	}
	if !slices.Contains(Sockets(), opts.Socket) {
		c.instance = opts.Socket
	}
	return c
}

// Name is "incus" or "lxd".
func (c *Collector) Name() string { return c.name }

// Probe asks the server who it is.
func (c *Collector) Probe(ctx context.Context) (collectors.Report, error) {
	if _, err := os.Stat(c.opts.Socket); missing(err) {
		return collectors.Report{}, fmt.Errorf("%s: probe: %w: no %s", c.name, collectors.ErrNotPresent, c.opts.Socket)
	}
	r := collectors.Report{Where: c.opts.Socket}
	s, err := c.server(ctx)
	if err != nil {
		return r, fmt.Errorf("%s: probe: %w", c.name, err)
	}
	if s.Server != c.name {
		return r, fmt.Errorf("%s: probe: %w: the server at %s calls itself %.40q, and its path does not: configure the path that it has by itself",
			c.name, collectors.ErrUnavailable, c.opts.Socket, s.Server)
	}
	r.Version, r.Detail = s.Version, "containers of all projects, their inits by their monitors"
	return r, nil
}

// missing says that a file or directory is not there.
func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// key names a container as the server does.
type key struct{ project, name string }

// projectDefault is the project of whoever names none.
const projectDefault = "default"

// lxcName is the container's in liblxc, and its directory's (project.Instance in the
// servers' sources): no project and no instance has an underscore in its name.
func (k key) lxcName() string {
	if k.project == projectDefault {
		return k.name
	}
	return k.project + "_" + k.name
}

// keyOf undoes lxcName.
func keyOf(lxcName string) (key, bool) {
	k := key{projectDefault, lxcName}
	if project, name, ok := strings.Cut(lxcName, "_"); ok {
		k = key{project, name}
	}
	return k, isHostName(k.name) && isProject(k.project)
}

// isHostName: what an instance may be called, letters, digits and dashes.
func isHostName(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// isProject: printable ASCII that is neither a path nor an underscore.
func isProject(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '.' {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || strings.IndexByte(`/_"'*`, s[i]) >= 0 {
			return false
		}
	}
	return true
}

func (c *Collector) id(k key) workload.ContainerID {
	id := workload.ContainerID{Runtime: c.name, Instance: c.instance, Namespace: k.project, ID: k.name}
	if k.project == projectDefault {
		id.Namespace = ""
	}
	return id
}

// mine gives the container that an id may be of. A claim by the name of a cgroup has
// liblxc's name for it; one of 64 digits is an engine's.
func (c *Collector) mine(id workload.ContainerID) (key, error) {
	switch {
	case id.Runtime != "" && id.Runtime != c.name && id.Runtime != "lxc", id.Runtime == "" && len(id.ID) == 64:
		return key{}, collectors.ErrNotMine
	case id.Runtime == c.name && id.Instance != c.instance && id.Instance != "", id.Runtime != c.name && id.Instance != "":
		return key{}, collectors.ErrNotMine
	}
	k, ok := keyOf(id.ID)
	if id.Runtime == c.name {
		k, ok = key{cmp.Or(id.Namespace, projectDefault), id.ID}, isHostName(id.ID) && (id.Namespace == "" || isProject(id.Namespace))
	}
	if !ok || id.Runtime != c.name && id.Namespace != "" {
		return key{}, collectors.ErrNotFound
	}
	return k, nil
}

// Lookup describes a container. Without an init that can be shown to be its own, Run is nil.
func (c *Collector) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	k, err := c.mine(id)
	if err != nil {
		return nil, fmt.Errorf("%s: look up %.80q: %w", c.name, id.String(), err)
	}
	i, err := c.one(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("%s: look up %s: %w", c.name, id, err)
	}
	r, err := c.find(k)
	if err != nil {
		return nil, fmt.Errorf("%s: look up %s: %w", c.name, id, err)
	}
	return c.describe(i, r), nil
}

// find looks for what runs of a container.
func (c *Collector) find(k key) (lxcmonitor.Running, error) {
	name := k.lxcName()
	r, err := c.host().Find(c.path, name, lxcmonitor.Places("/", name))
	if err != nil {
		return r, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	return r, nil
}

func (c *Collector) host() lxcmonitor.Host {
	return lxcmonitor.Host{Proc: c.opts.ProcRoot, Cgroup: c.opts.CgroupRoot}
}

// List describes all containers, those that do not run among them.
func (c *Collector) List(ctx context.Context) iter.Seq2[*workload.Container, error] {
	return func(yield func(*workload.Container, error) bool) {
		all, err := c.all(ctx)
		if err != nil {
			yield(nil, fmt.Errorf("%s: list: %w", c.name, err))
			return
		}
		for _, i := range all {
			r, err := c.find(i.key())
			if err != nil { // about one, so not ErrUnavailable
				if !yield(nil, fmt.Errorf("%s: list: %s cannot be read now", c.name, c.id(i.key()))) {
					return
				}
				continue
			}
			if !yield(c.describe(i, r), nil) {
				return
			}
		}
	}
}

// Locate finds the container whose init or cgroup the evidence has. The server is asked
// about a claim alone.
func (c *Collector) Locate(ctx context.Context, e workload.Evidence) (workload.ContainerID, error) {
	id, err := collectors.LocateAmong(ctx, e, c.Lookup, c.runningOf(ctx, e.Cgroups))
	if err != nil {
		return id, fmt.Errorf("%s: locate: %w", c.name, err)
	}
	return id, nil
}

// runningOf gives the containers that run, by their inits alone; where there are
// cgroups, those that one of them may be of.
func (c *Collector) runningOf(ctx context.Context, cgroups []workload.CgroupPath) iter.Seq2[*workload.Container, error] {
	return func(yield func(*workload.Container, error) bool) {
		keys, err := c.keys()
		if err != nil {
			yield(nil, err)
			return
		}
		for _, k := range keys {
			if err := ctx.Err(); err != nil {
				yield(nil, err)
				return
			}
			may := func(g workload.CgroupPath) bool {
				return slices.ContainsFunc(lxcmonitor.Places("/", k.lxcName()), func(p lxcmonitor.Place) bool { return p.Payload == g.Path })
			}
			if len(cgroups) > 0 && !slices.ContainsFunc(cgroups, may) {
				continue
			}
			r, err := c.find(k)
			if err == nil && r.Init.IsZero() {
				continue
			}
			if !yield(c.layer(k, r), err) {
				return
			}
		}
	}
}

// keys lists the containers by their directories, without asking the server.
func (c *Collector) keys() ([]key, error) {
	f, err := os.Open(c.path)
	switch {
	case missing(err):
		return nil, fmt.Errorf("%w: no %s", collectors.ErrNotPresent, c.path)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	defer f.Close()
	names, err := f.Readdirnames(maxContainers + 1)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	case len(names) > maxContainers: // who is left out would be denied
		return nil, fmt.Errorf("%w: %s has more than %d containers", collectors.ErrUnavailable, c.path, maxContainers)
	}
	slices.Sort(names)
	keys := make([]key, 0, len(names))
	for _, n := range names {
		if k, ok := keyOf(n); ok {
			keys = append(keys, k)
		}
	}
	return keys, nil
}
