// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"cmp"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

var (
	_ collectors.Collector      = (*Collector)(nil)
	_ collectors.Lister         = (*Collector)(nil)
	_ collectors.Watcher        = (*Collector)(nil)
	_ collectors.Nudger         = (*Collector)(nil)
	_ collectors.Prober         = (*Collector)(nil)
	_ collectors.PodCollector   = (*Collector)(nil)
	_ collectors.ImageCollector = (*Collector)(nil)
)

// DefaultEndpoint is containerd's own socket.
const DefaultEndpoint = "/run/containerd/containerd.sock"

// Endpoints are the usual sockets: containerd's, CRI-O's, that of the containerd in
// k3s, and cri-dockerd's.
func Endpoints() []string {
	return []string{DefaultEndpoint, "/run/crio/crio.sock", "/run/k3s/containerd/containerd.sock", "/run/cri-dockerd.sock"}
}

// Options say which engine. The zero value is containerd's own.
type Options struct {
	// Endpoint is the path of the socket, with or without unix://. Default DefaultEndpoint.
	Endpoint string
	// EnvAllow are the names of the variables that are kept. Default: none.
	EnvAllow []string
	// Interval is how often Watch compares where nobody nudges. Default 5 s.
	Interval time.Duration
	// CallTimeout bounds one call that Watch makes. Default 2 s.
	CallTimeout time.Duration
	// Logger may be nil.
	Logger *slog.Logger
}

// Collector asks one engine.
type Collector struct {
	socket   string
	envAllow map[string]bool
	interval time.Duration
	timeout  time.Duration
	log      *slog.Logger
	nudged   chan struct{}
	memory   *memory

	mu   sync.Mutex // guards all below
	conn *conn
	// without is the incarnation of the socket that is known to have no CRI.
	without   incarnation
	withoutIs error
}

// New makes a Collector. It does not connect.
func New(opts Options) (*Collector, error) {
	socket := strings.TrimPrefix(cmp.Or(opts.Endpoint, DefaultEndpoint), "unix://")
	if !filepath.IsAbs(socket) {
		return nil, fmt.Errorf("cri endpoint %q: not unix:// and an absolute path", opts.Endpoint)
	}
	c := &Collector{
		socket:   filepath.Clean(socket),
		envAllow: make(map[string]bool),
		interval: orDefault(opts.Interval, 5*time.Second),
		timeout:  orDefault(opts.CallTimeout, 2*time.Second),
		log:      opts.Logger,
		nudged:   make(chan struct{}, 1),
		memory:   newMemory(),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	for _, name := range opts.EnvAllow {
		c.envAllow[name] = true
	}
	return c, nil
}

func orDefault(d, def time.Duration) time.Duration {
	if d <= 0 {
		return def
	}
	return d
}

// Name is "cri".
func (c *Collector) Name() string { return "cri" }

// engine is who answers at the socket.
type engine struct {
	// name is the runtime of its containers' ids, version its own word.
	name, version string
	// instance and namespace complete the ids.
	instance, namespace string
}

// The engines that other collectors know too.
const (
	engineContainerd = "containerd"
	engineCRIO       = "cri-o"
	engineDocker     = "docker"
)

// namespaceKubernetes is where containerd's CRI plugin has its containers.
const namespaceKubernetes = "k8s.io"

// engineOf says who calls itself that. cri-dockerd calls itself docker, which
// engine's it cannot say: it is taken to be the host's own.
func (c *Collector) engineOf(name, version string) (engine, error) {
	e := engine{name: strings.ToLower(name), version: version}
	if e.name == "" || len(e.name) > 32 || strings.Trim(e.name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return engine{}, fmt.Errorf("%w: it calls itself %q, which is no name of an engine", collectors.ErrUnavailable, cut(name))
	}
	if e.name == engineContainerd {
		e.namespace = namespaceKubernetes
	}
	if e.name != engineDocker && !isUsual(e.name, c.socket) {
		e.instance = c.socket
	}
	return e, nil
}

// isUsual: the engine's ids need no instance at its own socket.
func isUsual(name, socket string) bool {
	return socket == map[string]string{engineContainerd: DefaultEndpoint, engineCRIO: "/run/crio/crio.sock"}[name] ||
		name == engineCRIO && socket == "/var/run/crio/crio.sock"
}

// id makes the whole id of one of the engine's containers.
func (e engine) id(hex string) workload.ContainerID {
	return workload.ContainerID{Runtime: e.name, Instance: e.instance, Namespace: e.namespace, ID: hex}
}

// mine says whether an id, which may be a claim of any container's making, can be
// one of this engine's. Nothing that fails here reaches a call.
func (e engine) mine(id workload.ContainerID) error {
	switch id.Runtime {
	case e.name:
		if id.Instance != "" && id.Instance != e.instance || id.Namespace != "" && id.Namespace != e.namespace {
			return collectors.ErrNotMine
		}
	case "", "kubernetes":
	case "runc", "crun", "youki", engineContainerd:
		// Those below the engine know its containers by the same ids.
		if id.Namespace != "" && id.Namespace != e.below() || id.Runtime == engineContainerd && e.name != engineDocker {
			return collectors.ErrNotMine
		}
	default:
		return collectors.ErrNotMine
	}
	if !runtimespec.IsHex64(id.ID) {
		return fmt.Errorf("%w: an id of the CRI's is 64 lower-case hexadecimal digits", collectors.ErrNotFound)
	}
	return nil
}

// below is the namespace of the engine's containers at the runtimes below it.
func (e engine) below() string {
	if e.name == engineDocker {
		return "moby"
	}
	return e.namespace
}

func cut(s string) string {
	const limit = 80
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}
