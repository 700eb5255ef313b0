// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	namespacesapi "github.com/containerd/containerd/api/services/namespaces/v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

var (
	_ collectors.Collector = (*Collector)(nil)
	_ collectors.Lister    = (*Collector)(nil)
	_ collectors.Watcher   = (*Collector)(nil)
	_ collectors.Prober    = (*Collector)(nil)

	_ collectors.ImageCollector = (*Collector)(nil)
)

const (
	runtimeName    = "containerd"
	defaultAddress = "/run/containerd/containerd.sock"
	// maxNamespaces bounds the namespaces that are asked for a bare id, listed and located in.
	maxNamespaces = 32
)

// Options say which containerd. The zero value is good for a host.
type Options struct {
	// Address is the path of the socket. Default /run/containerd/containerd.sock.
	Address string
	// Namespaces are those looked at. Default: all, as they come and go.
	Namespaces []string
	// ProcRoot is the host's procfs, for Locate by cgroup. Default "/proc".
	ProcRoot string
	// EnvAllow are the names of the variables that are kept. Default: none.
	EnvAllow []string
	// Dialed looks at each new connection to containerd; its error ends it. Default none.
	Dialed func(net.Conn) error
	// Logger may be nil.
	Logger *slog.Logger
}

// Collector asks one containerd.
type Collector struct {
	opts     Options
	instance string // of all ids: empty for the default address
	log      *slog.Logger
	envAllow map[string]bool
	memory   *memory
	images   *imageCache
	contents insights

	mu   sync.Mutex // guards all below
	conn *conn
}

// New makes a Collector. It does not connect.
func New(opts Options) (*Collector, error) {
	opts.Address = filepath.Clean(cmp.Or(opts.Address, defaultAddress))
	opts.ProcRoot = cmp.Or(opts.ProcRoot, "/proc")
	if !filepath.IsAbs(opts.Address) {
		return nil, fmt.Errorf("containerd address %q: not an absolute path", opts.Address)
	}
	for _, ns := range opts.Namespaces {
		if !validID(ns) {
			return nil, fmt.Errorf("containerd namespace %q: not a valid name", ns)
		}
	}
	c := &Collector{opts: opts, log: opts.Logger, envAllow: make(map[string]bool), memory: newMemory(), images: newImageCache()}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if opts.Address != defaultAddress {
		c.instance = opts.Address
	}
	for _, name := range opts.EnvAllow {
		c.envAllow[name] = true
	}
	return c, nil
}

// Name is "containerd".
func (c *Collector) Name() string { return runtimeName }

// Probe asks for the version.
func (c *Collector) Probe(ctx context.Context) (collectors.Report, error) {
	report := collectors.Report{Where: c.opts.Address}
	n, err := c.connect()
	if err != nil {
		return report, err
	}
	v, err := n.version.Version(ctx, &emptypb.Empty{})
	if err != nil {
		return report, translate("version of containerd", err)
	}
	report.Version, report.Detail = v.Version, "containers, tasks, events"
	return report, nil
}

// Lookup asks for one container's record, one call, and adds what the events
// said of its task. An id without a namespace is looked for in all of them, one
// call each; one that several have is not found, for nothing is guessed.
func (c *Collector) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	if err := c.mine(id); err != nil {
		return nil, fmt.Errorf("look up %q: %w", cut(id.String()), err)
	}
	n, err := c.connect()
	if err != nil {
		return nil, err
	}
	found, err := c.find(ctx, n, id)
	if err != nil {
		return nil, err
	}
	return c.describe(ctx, n, found), nil
}

// mine says whether an id can be one of ours.
func (c *Collector) mine(id workload.ContainerID) error {
	if !validID(id.ID) || id.Namespace != "" && !validID(id.Namespace) {
		return collectors.ErrNotFound
	}
	switch id.Runtime {
	case runtimeName:
		if id.Instance != "" && id.Instance != c.instance { // a claim cannot tell which containerd
			return collectors.ErrNotMine
		}
	case "", "docker", "ecs", "kubernetes", "garden", "buildkit":
		// A claim by a cgroup's name: all of these may run on containerd.
	case "runc", "crun", "youki":
		if id.Namespace == "" {
			return collectors.ErrNotMine // a bare runtime's container has no namespace
		}
	default:
		return collectors.ErrNotMine
	}
	if id.Namespace != "" && !c.follows(id.Namespace) {
		return collectors.ErrNotMine
	}
	return nil
}

func (c *Collector) follows(namespace string) bool {
	return len(c.opts.Namespaces) == 0 || slices.Contains(c.opts.Namespaces, namespace)
}

// record is a container of containerd's.
type record struct {
	namespace string
	*containersapi.Container
	// missing: it is too large to be had, and only its id is here.
	missing bool
}

func (c *Collector) find(ctx context.Context, n *conn, id workload.ContainerID) (record, error) {
	if id.Namespace != "" {
		return c.getOrID(ctx, n, id.Namespace, id.ID)
	}
	namespaces, err := c.namespacesFor(ctx, n, id)
	if err != nil {
		return record{}, err
	}
	var found []record
	for _, ns := range namespaces {
		r, err := c.getOrID(ctx, n, ns, id.ID)
		switch {
		case err == nil:
			found = append(found, r)
		case !errors.Is(err, collectors.ErrNotFound):
			return record{}, err
		}
		if len(found) > 0 && isHex64(id.ID) {
			break // an engine made it up: there is no other
		}
	}
	if len(found) != 1 {
		return record{}, fmt.Errorf("container %s is in %d namespaces: %w", id.ID, len(found), collectors.ErrNotFound)
	}
	return found[0], nil
}

// namespacesFor gives the namespaces where an id may be, the likely ones first.
func (c *Collector) namespacesFor(ctx context.Context, n *conn, id workload.ContainerID) ([]string, error) {
	if id.Runtime == "docker" || id.Runtime == "ecs" {
		return []string{"moby"}, nil // what Docker calls its own
	}
	all, err := c.namespaces(ctx, n)
	if err != nil {
		return nil, err
	}
	rank := func(ns string) int {
		if i := slices.Index([]string{"k8s.io", "default", "moby"}, ns); i >= 0 {
			return i
		}
		return 3
	}
	slices.SortStableFunc(all, func(a, b string) int { return rank(a) - rank(b) })
	return all[:min(len(all), maxNamespaces)], nil
}

// namespaces lists the namespaces that are followed; the list is the caller's.
func (c *Collector) namespaces(ctx context.Context, n *conn) ([]string, error) {
	if len(c.opts.Namespaces) > 0 {
		return slices.Clone(c.opts.Namespaces), nil
	}
	resp, err := n.namespaces.List(ctx, &namespacesapi.ListNamespacesRequest{})
	if err != nil {
		return nil, translate("list namespaces", err)
	}
	var all []string
	for _, ns := range resp.Namespaces {
		if validID(ns.Name) {
			all = append(all, ns.Name)
		}
	}
	slices.Sort(all)
	return all, nil
}

func (c *Collector) get(ctx context.Context, n *conn, namespace, id string) (record, error) {
	resp, err := n.containers.Get(within(ctx, namespace), &containersapi.GetContainerRequest{ID: id})
	if err != nil {
		return record{}, translate("get container "+namespace+"/"+id, err)
	}
	if resp.Container == nil || resp.Container.ID != id {
		return record{}, fmt.Errorf("get container %s/%s: an answer about another one: %w", namespace, id, collectors.ErrNotFound)
	}
	return record{namespace: namespace, Container: resp.Container}, nil
}

// getOrID is get, with the id alone where the record is too large.
func (c *Collector) getOrID(ctx context.Context, n *conn, namespace, id string) (record, error) {
	r, err := c.get(ctx, n, namespace, id)
	if errors.Is(err, errTooLarge) {
		return c.withoutRecord(namespace, id), nil
	}
	return r, err
}

// idOf is the id as this collector names it.
func (c *Collector) idOf(namespace, id string) workload.ContainerID {
	return workload.ContainerID{Runtime: runtimeName, Instance: c.instance, Namespace: namespace, ID: id}
}

// maxID bounds an id of containerd's.
const maxID = 76

// validID is containerd's rule for ids and namespaces: up to 76 letters and
// digits, with single dots, hyphens and underscores between them.
func validID(s string) bool {
	if len(s) == 0 || len(s) > maxID {
		return false
	}
	between := true // a separator may not come first, nor after another
	for i := range len(s) {
		switch b := s[i]; {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9':
			between = false
		case (b == '.' || b == '-' || b == '_') && !between:
			between = true
		default:
			return false
		}
	}
	return !between
}

func cut(s string) string {
	const limit = 80
	if len(s) > limit {
		return s[:limit] + "..."
	}
	return s
}
