// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/client"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The defaults of Options.
const (
	DefaultSocket = "/var/run/docker.sock"
	DefaultRoot   = "/var/lib/docker"
)

// name is the collector's, and the runtime of its containers.
const name = "docker"

// namespace is where Docker keeps its containers in containerd, and below runc's
// state directory (dockerd --containerd-namespace, which nobody changes).
const namespace = "moby"

// noRoot is a directory that cannot be: nothing is found there.
const noRoot = "/dev/null/none"

// Options say which engine to read. The zero value is the host's own.
type Options struct {
	// Host is the engine's socket, as a path or as unix://path. Default DefaultSocket.
	Host string
	// Root is the engine's --data-root as this process sees it. Default: what
	// the engine says once it was probed, DefaultRoot until then.
	Root string
	// NoFiles is for an engine in a container: its paths are not the host's, so no
	// file is read, whatever Root says.
	NoFiles bool
	// Dialed looks at each new connection to the engine; its error ends it. Default none.
	Dialed func(net.Conn) error
	// EnvAllow are the names of the environment variables to keep. Default none.
	EnvAllow []string
	// CallTimeout bounds one call that Watch and Probe make. Default 2 s.
	CallTimeout time.Duration
	// Interval is how often Watch asks for events. Default 1 s.
	Interval time.Duration
	// Logger gets what is odd and not worth an error. Default none.
	Logger *slog.Logger
}

// Collector is one Docker engine.
type Collector struct {
	socket   string
	instance string
	fixed    bool // Root was given
	noFiles  bool
	dialed   func(net.Conn) error
	env      map[string]bool
	timeout  time.Duration
	interval time.Duration
	log      *slog.Logger
	nudged   chan struct{}
	maxReply int // bytes of a reply, its strings cut

	root atomic.Pointer[string]

	mu  sync.Mutex     // guards api
	api *client.Client // replaced by Probe: a new engine may speak another version
}

var (
	_ collectors.Collector = (*Collector)(nil)
	_ collectors.Prefiller = (*Collector)(nil)
	_ collectors.Lister    = (*Collector)(nil)
	_ collectors.Watcher   = (*Collector)(nil)
	_ collectors.Prober    = (*Collector)(nil)
	_ collectors.Nudger    = (*Collector)(nil)

	_ collectors.ImageCollector = (*Collector)(nil)
)

// New makes a collector. It connects to nothing: an engine may come later.
func New(opts Options) (*Collector, error) {
	socket, err := socketPath(opts.Host)
	if err != nil {
		return nil, fmt.Errorf("docker collector: %w", err)
	}
	c := &Collector{
		socket:   socket,
		fixed:    opts.Root != "" || opts.NoFiles,
		noFiles:  opts.NoFiles,
		dialed:   opts.Dialed,
		env:      map[string]bool{},
		timeout:  orDefault(opts.CallTimeout, 2*time.Second),
		interval: orDefault(opts.Interval, time.Second),
		log:      opts.Logger,
		nudged:   make(chan struct{}, 1),
		maxReply: collectors.MaxList,
	}
	if socket != DefaultSocket && socket != "/run/docker.sock" {
		c.instance = socket
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	for _, k := range opts.EnvAllow {
		c.env[k] = true
	}
	root := opts.Root
	if root == "" {
		root = DefaultRoot
	}
	if opts.NoFiles {
		root = noRoot
	}
	c.root.Store(&root)
	if c.api, err = newAPI(socket, c.transport(), c.maxReply); err != nil {
		return nil, fmt.Errorf("docker collector: %w", err)
	}
	return c, nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

// socketPath takes a path or unix://path. Other schemes would take the agent's
// questions off the host.
func socketPath(host string) (string, error) {
	if host == "" {
		return DefaultSocket, nil
	}
	path := strings.TrimPrefix(host, "unix://")
	if !filepath.IsAbs(path) {
		return "", fmt.Errorf("host %q is not unix:// and an absolute path", host)
	}
	return filepath.Clean(path), nil
}

// Name implements collectors.Collector.
func (c *Collector) Name() string { return name }

// id makes the whole id of one of the engine's containers.
func (c *Collector) id(hex string) workload.ContainerID {
	return workload.ContainerID{Runtime: name, Instance: c.instance, ID: hex}
}

// mine says whether an id, which may be a claim of any container's making, can
// be one of this engine's. Nothing that fails here reaches a path or a query.
func (c *Collector) mine(id workload.ContainerID) error {
	switch id.Runtime {
	case name:
		if id.Namespace != "" || id.Instance != "" && id.Instance != c.instance {
			return collectors.ErrNotMine
		}
	case "", "containerd", "runc", "crun", "youki":
		// Those below Docker know its containers by the same ids, in a namespace of its own.
		if id.Namespace != "" && id.Namespace != namespace {
			return collectors.ErrNotMine
		}
	default:
		return collectors.ErrNotMine
	}
	if !isID(id.ID) {
		return fmt.Errorf("%w: an id of Docker is 64 lower-case hexadecimal digits", collectors.ErrNotFound)
	}
	return nil
}

func isID(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, b := range []byte(s) {
		if (b < '0' || b > '9') && (b < 'a' || b > 'f') {
			return false
		}
	}
	return true
}

// Locate implements collectors.Collector. It takes the innermost claim, or the
// bundle's name, whose container has a directory below the engine's root, and
// asks the engine only where that cannot be read.
func (c *Collector) Locate(ctx context.Context, e workload.Evidence) (workload.ContainerID, error) {
	unreadable := ""
	for _, hex := range c.candidates(e) {
		if err := ctx.Err(); err != nil {
			return workload.ContainerID{}, fmt.Errorf("docker: locate: %w: %w", collectors.ErrUnavailable, err)
		}
		err := c.exists(hex)
		if err == nil {
			return c.id(hex), nil
		}
		if unreadable == "" && errors.Is(err, collectors.ErrUnavailable) {
			unreadable = hex
		}
	}
	if unreadable == "" {
		return workload.ContainerID{}, fmt.Errorf("docker: locate: %w", collectors.ErrNotFound)
	}
	if _, err := c.listOne(ctx, unreadable); err != nil {
		return workload.ContainerID{}, fmt.Errorf("docker: locate: %w", err)
	}
	return c.id(unreadable), nil
}

// candidates are the ids that the evidence may mean, few and in order of trust.
func (c *Collector) candidates(e workload.Evidence) []string {
	var ids []string
	for _, claim := range e.Claims {
		if c.mine(claim) == nil && len(ids) < 16 {
			ids = append(ids, claim.ID)
		}
	}
	if base := filepath.Base(e.Bundle); isID(base) {
		ids = append(ids, base)
	}
	return ids
}

// Probe implements collectors.Prober. Without a socket there is no engine to
// speak of, whatever an earlier one left on disk.
func (c *Collector) Probe(ctx context.Context) (collectors.Report, error) {
	report := collectors.Report{Where: c.socket}
	if _, err := os.Stat(c.socket); errors.Is(err, os.ErrNotExist) {
		return report, fmt.Errorf("docker: probe: %w: no %s", collectors.ErrNotPresent, c.socket)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	api, err := newAPI(c.socket, c.transport(), c.maxReply)
	if err != nil {
		return report, fmt.Errorf("docker: probe: %w", err)
	}
	version, err := api.ServerVersion(ctx)
	if err != nil {
		return report, fmt.Errorf("docker: probe: %w", c.fail(err))
	}
	info, err := api.Info(ctx)
	if err != nil {
		return report, fmt.Errorf("docker: probe: %w", c.fail(err))
	}
	c.mu.Lock()
	c.api = api
	c.mu.Unlock()
	report.Version = version.Version
	report.Detail = c.learnRoot(info.DockerRootDir)
	return report, nil
}

// learnRoot takes the engine's root unless one was given, and says what will be read.
func (c *Collector) learnRoot(said string) string {
	if !c.fixed && filepath.IsAbs(said) {
		said = filepath.Clean(said)
		c.root.Store(&said)
	}
	root := *c.root.Load()
	if err := readable(root); err != nil {
		return "no files: " + err.Error()
	}
	if filepath.Clean(said) != filepath.Clean(root) {
		return "reads " + root + ", the engine says " + said
	}
	return "reads " + root
}

// client gives the API as last probed.
func (c *Collector) client() *client.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.api
}

// fail translates an error of the API to the contract's.
func (c *Collector) fail(err error) error {
	switch {
	case cerrdefs.IsNotFound(err):
		return collectors.ErrNotFound
	case c.absent():
		return fmt.Errorf("%w: no %s and no %s", collectors.ErrNotPresent, c.socket, *c.root.Load())
	}
	return fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
}

// absent: neither a socket nor a root.
func (c *Collector) absent() bool {
	if _, err := os.Stat(c.socket); !errors.Is(err, os.ErrNotExist) {
		return false
	}
	_, err := os.Stat(*c.root.Load())
	return errors.Is(err, os.ErrNotExist)
}
