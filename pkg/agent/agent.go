// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/filter"
	pcgroup "github.com/pidigree/pidigree/pkg/cgroup"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/remote"
	"github.com/pidigree/pidigree/pkg/correlator"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/resolve"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The modes of AgentStatus.
const (
	ModeBPF     = "ebpf"
	ModePolling = "polling"
	ModeOneShot = "one-shot"
)

// Options configure an Agent. The zero value is an agent for this host without
// a socket, for embedding.
type Options struct {
	// Procfs, Sysfs, CgroupRoot and RunDir are where the host's are mounted.
	// Defaults: /proc, /sys, every cgroup mount, /run.
	Procfs, Sysfs, CgroupRoot, RunDir string
	// DockerHosts are Docker's sockets, DockerRoot its data directory.
	// Defaults: the engine's own.
	DockerHosts []string
	DockerRoot  string
	// NestedDockerHosts are the sockets of Docker engines that run in containers. Each
	// is believed about what is in its own container, and nothing else. Default: none.
	NestedDockerHosts []string
	// NestedContainerdAddresses are the sockets of containerds that do: those of kind's nodes.
	NestedContainerdAddresses []string
	// ContainerdAddresses are containerd's sockets. Default: the engine's own.
	ContainerdAddresses []string
	// CRIEndpoints are the sockets of engines that the kubelet uses. Default: cri.Endpoints.
	CRIEndpoints []string
	// PodmanRoots are the storage directories of root's podman. Default: podman's own.
	PodmanRoots []string
	// PodmanNoUsers leaves out the podmans of users who are not root.
	PodmanNoUsers bool
	// SystemdSocket is the D-Bus socket at which the system manager is asked about
	// units. Default: its own, and where that may not be opened the system bus.
	// NoSystemd: it is not asked.
	SystemdSocket string
	// LXCPaths are the directories of root's LXC containers. Default: lxc.DefaultPath.
	LXCPaths []string
	// TLS is for those who ask from other hosts. Default: nobody may.
	TLS TLS
	// Remote is another pidigree whose store is a source of this one. Default: none.
	Remote Remote
	// IncusSockets are those of Incus and LXD. Default: incus.Sockets.
	IncusSockets []string
	// MachinesDir is where systemd-machined keeps what it knows of machines, among them
	// systemd-nspawn's containers. Default: systemd/machines below RunDir. NoMachines:
	// it is not read.
	MachinesDir string
	// OCIRoots are globs of state directories of runc, crun and youki, beside the usual ones.
	OCIRoots []string
	// Kubelet says where the kubelet is and who asks.
	Kubelet Kubelet
	// ECS says where the ECS agent is and what is asked of it.
	ECS ECS
	// EnvAllow names the environment variables of containers that are kept. Default: none.
	EnvAllow []string
	// Include and Exclude decide which containers, pods and tasks are shown: in lists and
	// streams, and with more than their ids in answers. They change no identity.
	Include, Exclude workload.Filter
	// Access is for the containers whose processes may ask everything, if their user may:
	// others may ask only about themselves. Default: none but the agent's own.
	Access workload.Filter
	// Others says what users may ask over the socket who are neither root nor in SocketGroup.
	Others Others
	// OthersLabels are patterns for the keys of labels, annotations and tags which those
	// see of their own processes' workloads. Default: none.
	OthersLabels []string
	// CommandLines lets everybody who may ask over the socket see every process's
	// command line, and not only root all of them and others those of their own.
	CommandLines bool
	// NoImages leaves out the images that the engines store.
	NoImages bool
	// Collectors replace the ones above, where not nil.
	Collectors []collectors.Collector

	// NoBPF polls /proc instead.
	NoBPF bool
	// DisablePrograms names BPF programs that are not loaded, by their events:
	// fork, exec, exit, cgroup_mkdir, cgroup_rmdir, cgroup_attach.
	DisablePrograms []string
	// PollInterval is how often /proc is read where BPF is not used. Default 250 ms.
	PollInterval time.Duration
	// OneShot takes one look at the host and answers from it.
	OneShot bool

	// Grace is how long what is gone stays answerable. Default 5 minutes.
	Grace time.Duration
	// Socket is the unix socket to serve on; empty for none. SocketGroup may ask, beside root.
	Socket, SocketGroup string
	// StateDir is where the agent keeps, across its restarts, what has ended;
	// empty for nowhere. One agent at a time has it.
	StateDir string
	// MetricsAddress serves Prometheus metrics; empty for none.
	MetricsAddress string
	// Nice is the priority that the agent gives itself; 0 leaves it as it is. The
	// scheduling group of a session that the process leads gets the same.
	Nice int
	// Notify tells systemd when the agent is ready.
	Notify bool
	// Version is what Status says.
	Version string
	// Logger gets state changes. Default: none.
	Logger *slog.Logger
}

// Others says what users may ask who may not ask everything.
type Others uint8

const (
	// OthersNone keeps them off the socket. Who has got a connection may ask about itself.
	OthersNone Others = iota
	// OthersSelf opens the socket: a process may ask about itself.
	OthersSelf
	// OthersOwn opens it, and a process may ask about the living processes of its user, by PID.
	OthersOwn
)

// NoKubelet is an address that turns the kubelet's source off.
const NoKubelet = "none"

// Kubelet are the options of the kubelet's source; see kubelet.Options. The zero
// value finds it and its credentials.
type Kubelet struct {
	Address, ServerName, CA, Certificate, Key, Token string
}

// NoECS is an address that turns the ECS agent's source off.
const NoECS = "none"

// ECS are the options of the ECS agent's source; see ecs.Options. The zero value finds it.
type ECS struct {
	Address, Metadata string
	Tags              bool
}

// TLS says where other hosts may ask and who, all in PEM; see server.TLSOptions.
type TLS struct {
	// Listen is HOST:PORT; empty: nowhere.
	Listen string
	// Certificate and Key are the agent's own, CA vouches for those who ask.
	Certificate, Key, CA string
	// Allow are names of which a certificate has to have one.
	Allow []string
}

// Agent is a running pidigree. Methods may be called concurrently.
type Agent struct {
	opts         Options
	log          *slog.Logger
	source       source
	mode         string
	modeReason   string
	started      time.Time
	cgroups      *pcgroup.FS
	store        *store.Store
	sight        sight
	othersLabels filter.Keys
	granted      *filter.Matcher // nil, which elsewhere means all: no container
	correlator   *correlator.Correlator
	resolver     *resolve.Resolver
	sources      []collectors.Collector // those that New made
	other        *remote.Source         // nil: there is none
	listener     net.Listener
	remote       net.Listener // of those who ask from other hosts
	metrics      net.Listener
	tombs        *tombs // nil: not kept
	ready        chan struct{}
	closeOnce    sync.Once
}

// source is what *kernel.Tracer and *kernel.Poller have in common.
type source interface {
	correlator.Source
	Stats() kernel.Stats
	Close() error
}

// New opens what the agent reads and, with Socket, the socket. Events are kept
// from here on; Run starts to apply them. An engine that is absent is no error.
// Run, or Close where Run is never called, releases everything.
func New(o Options) (_ *Agent, err error) {
	o.Procfs, o.Sysfs, o.RunDir = cmp.Or(o.Procfs, "/proc"), cmp.Or(o.Sysfs, "/sys"), cmp.Or(o.RunDir, "/run")
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	a := &Agent{opts: o, log: o.Logger, started: time.Now(), ready: make(chan struct{})}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if err := a.listen(); err != nil {
		return nil, err
	}
	if o.Nice != 0 {
		if err := setPriority(o.Nice); err != nil {
			level := slog.LevelWarn
			if o.Remote.Copy { // which is in no hurry, and often somebody's who may not
				level = slog.LevelDebug
			}
			a.log.Log(context.Background(), level, "priority unchanged", "nice", o.Nice, "err", err)
		}
	}
	if a.cgroups, err = pcgroup.New(pcgroup.Options{Procfs: o.Procfs, CgroupRoot: o.CgroupRoot}); err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	if err := a.openSource(); err != nil {
		return nil, fmt.Errorf("start agent: %w", err)
	}
	return a, a.wire()
}

func (a *Agent) listen() (err error) {
	if a.opts.Socket != "" {
		if a.listener, err = server.Listen(a.opts.Socket, a.opts.SocketGroup, a.opts.Others != OthersNone); err != nil {
			return err
		}
	}
	if t := a.opts.TLS; t.Listen != "" {
		if err = server.CheckTLS(a.tlsOptions()); err != nil {
			return fmt.Errorf("serve other hosts: %w", err)
		}
		if a.remote, err = net.Listen("tcp", t.Listen); err != nil {
			return fmt.Errorf("serve other hosts: %w", err)
		}
	}
	if a.opts.MetricsAddress != "" {
		if a.metrics, err = net.Listen("tcp", a.opts.MetricsAddress); err != nil {
			return fmt.Errorf("serve metrics: %w", err)
		}
	}
	return nil
}

// openSource takes BPF where it can, and says why where it cannot.
func (a *Agent) openSource() error {
	o := a.opts
	if o.Remote.Copy && !o.OneShot {
		a.source, a.mode = nowhere{}, ModeCopy
		return nil
	}
	disable, err := eventTypes(o.DisablePrograms)
	if err != nil {
		return err
	}
	if !o.OneShot && !o.NoBPF {
		t, err := kernel.NewTracer(kernel.TracerOptions{
			Procfs: o.Procfs, Sysfs: o.Sysfs, CgroupRoot: o.CgroupRoot, Logger: a.log, Disable: disable,
		})
		if err == nil {
			a.source, a.mode = faulty(t), ModeBPF
			return nil
		}
		a.modeReason = oneLine(err)
		a.log.Warn("polling instead of BPF", "err", err)
	}
	p, err := kernel.NewPoller(kernel.PollerOptions{
		Procfs: o.Procfs, Sysfs: o.Sysfs, CgroupRoot: o.CgroupRoot, Interval: o.PollInterval, Logger: a.log,
	})
	if err != nil {
		return err
	}
	a.source, a.mode = p, ModePolling
	switch {
	case o.OneShot:
		a.mode, a.modeReason = ModeOneShot, "no agent"
	case o.NoBPF:
		a.modeReason = "switched off by configuration"
	}
	return nil
}

func eventTypes(names []string) (types []kernel.Type, _ error) {
	for _, name := range names {
		i := kernel.Fork
		for i <= kernel.CgroupAttach && i.String() != name {
			i++
		}
		if i > kernel.CgroupAttach {
			return nil, fmt.Errorf("no BPF program is called %q", name)
		}
		types = append(types, i)
	}
	return types, nil
}

func oneLine(err error) string {
	s, _, _ := strings.Cut(err.Error(), "\n")
	return s
}

func (a *Agent) wire() (err error) {
	base := workload.Revision(time.Now().UnixMicro())
	a.store = store.New(store.Options{Grace: a.opts.Grace, Base: base, OnProcessWatched: a.processesWatched()})
	hide, err := filter.New(a.opts.Include, a.opts.Exclude)
	if err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	a.sight = sight{a.store, hide}
	if a.othersLabels, err = filter.NewKeys(a.opts.OthersLabels); err != nil {
		return fmt.Errorf("start agent: labels for others: %w", err)
	}
	if a.granted, err = filter.New(a.opts.Access, workload.Filter{}); err != nil {
		return fmt.Errorf("start agent: %w", err)
	}
	a.openTombs(base)
	if err := a.openRemote(); err != nil {
		return err
	}
	cols := a.opts.Collectors
	if cols == nil && a.mode != ModeCopy {
		if cols, err = a.collectors(); err != nil {
			return err
		}
		a.sources = cols
	}
	a.correlator, err = correlator.New(correlator.Options{
		Store: a.store, Source: a.source, Cgroups: a.cgroups, Collectors: cols,
		HostMountNS: hostMountNS(a.opts.Procfs), NoImages: a.opts.NoImages, Logger: a.log,
		NestedCgroups: namespace(a.opts.Procfs, "self/ns/cgroup") != initialCgroupNS,
	})
	if err != nil {
		return err
	}
	a.resolver, err = resolve.New(resolve.Options{Store: a.store, Cgroups: a.cgroups, Observer: a.correlator, Procfs: a.opts.Procfs, Copy: a.mode == ModeCopy})
	return err
}

// processesWatched gives what has the kernel's events of processes come at once
// while somebody watches processes; nil for a source that cannot.
func (a *Agent) processesWatched() func(bool) {
	if p, ok := a.source.(interface{ Prompt(on bool) }); ok {
		return p.Prompt
	}
	return nil
}

// initialCgroupNS is PROC_CGROUP_INIT_INO, include/linux/proc_ns.h.
const initialCgroupNS = 0xEFFFFFFB

// hostMountNS is the mount namespace of PID 1, or, where that one cannot be
// looked at, of the kernel's threads, which never leave the first one.
func hostMountNS(procfs string) uint32 {
	return cmp.Or(namespace(procfs, "1/ns/mnt"), namespace(procfs, "2/ns/mnt"), namespace(procfs, "self/ns/mnt"))
}

// namespace gives the inode of a namespace, 0 if it cannot be seen.
func namespace(procfs, link string) uint32 {
	var st unix.Stat_t
	if unix.Stat(filepath.Join(procfs, link), &st) != nil {
		return 0
	}
	return uint32(st.Ino)
}

// Run collects and serves until ctx ends. It returns nil then, and an error
// where something broke that the agent cannot do without.
func (a *Agent) Run(ctx context.Context) error {
	defer a.close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.correlator.Run(ctx) })
	g.Go(func() error { a.remember(ctx); return nil })
	if a.other != nil {
		g.Go(func() error { return a.other.Run(ctx) })
	}
	if a.listener != nil || a.remote != nil {
		s, err := server.New(a.serverOptions())
		if err != nil {
			return err
		}
		s.SetReady(false)
		if a.listener != nil {
			g.Go(func() error { return s.Serve(ctx, a.listener) })
		}
		if a.remote != nil {
			a.log.Info("other hosts may ask", "address", a.remote.Addr())
			g.Go(func() error { return s.ServeTLS(ctx, a.remote, a.tlsOptions()) })
		}
		g.Go(func() error { a.announce(ctx, s); return nil })
	}
	if a.metrics != nil {
		g.Go(func() error { return a.serveMetrics(ctx) })
	}
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (a *Agent) tlsOptions() server.TLSOptions {
	t := a.opts.TLS
	return server.TLSOptions{Certificate: t.Certificate, Key: t.Key, ClientCA: t.CA, Allow: t.Allow}
}

func (a *Agent) serverOptions() server.Options {
	o := server.Options{
		Backend: backend{a}, Degraded: a.Degraded, Logger: a.log, Group: a.opts.SocketGroup,
		CommandLines: a.opts.CommandLines, Standing: backend{a}.standing, OthersLabel: a.othersLabels.Match,
	}
	if a.opts.Others == OthersOwn {
		o.Owner = a.resolver.Owner
	}
	return o
}

// announce tells the health service and systemd when the agent knows the host.
func (a *Agent) announce(ctx context.Context, s *server.Server) {
	select {
	case <-ctx.Done():
		return
	case <-a.Ready():
	}
	s.SetReady(true)
	a.log.Info("ready", "mode", a.mode, "reason", a.Degraded(), "containers", a.store.Counts().Containers)
	if !a.opts.Notify {
		return
	}
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		a.log.Warn("systemd not told", "err", err)
	}
}

// Close releases what New opened, where Run is never called.
func (a *Agent) Close() error {
	a.close()
	return nil
}

func (a *Agent) close() {
	a.closeOnce.Do(func() {
		if a.listener != nil {
			_ = a.listener.Close() // closed by Serve already, where that ran
		}
		if a.metrics != nil {
			_ = a.metrics.Close()
		}
		if a.source != nil {
			if err := a.source.Close(); err != nil {
				a.log.Warn("kernel source not closed", "err", err)
			}
		}
		if a.resolver != nil {
			a.resolver.Close()
		}
		if a.cgroups != nil {
			_ = a.cgroups.Close()
		}
		if a.tombs != nil {
			a.tombs.close()
		}
		closeAll(a.sources)
	})
}

// Ready is closed once the processes and containers that were there at the start
// are known, and what an earlier agent kept of those that have ended.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Resolve answers one question; see resolve.Resolver. Self means nothing here.
func (a *Agent) Resolve(ctx context.Context, q workload.Query) workload.Result {
	res := []workload.Result{a.resolver.Resolve(ctx, q)}
	a.sight.conceal(res)
	return res[0]
}

// List gives the entities that are selected. A filter with a bad pattern selects
// nothing.
func (a *Agent) List(ctx context.Context, sel workload.Selector) iter.Seq[workload.Entity] {
	if a.opts.OneShot && slices.Contains(sel.Kinds, workload.KindImage) {
		a.correlator.AwaitImages(ctx) // Ready does not wait for them
	}
	if !sel.Detail {
		return a.sight.list(sel)
	}
	return a.sight.concealCommands(a.resolver.DetailAll(ctx, a.sight.list(sel)))
}

// Watch gives a snapshot and then the changes; see store.Store.Watch. What is
// filtered is told from that: an entity that is not selected any more is unset.
func (a *Agent) Watch(ctx context.Context, sel workload.Selector) iter.Seq[[]workload.Change] {
	return a.sight.watch(ctx, sel)
}

// setPriority gives every thread of the process a nice value: on Linux it is a
// thread's, and threads to come take their maker's. Its scheduling group gets the
// same, for that is what competes with containers.
func setPriority(nice int) error {
	if err := setGroupPriority(nice); err != nil {
		return err
	}
	for range 2 { // a thread made meanwhile by one not yet done is caught the second time
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range tasks {
			var tid int
			if _, err := fmt.Sscan(t.Name(), &tid); err != nil {
				continue
			}
			if err := unix.Setpriority(unix.PRIO_PROCESS, tid, nice); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return nil
}

// setGroupPriority gives a nice value to the group in which the kernel schedules
// our session (sched_autogroup_enabled). A thread's own counts only within such a
// group, and containers are outside of it: without this an agent of raised
// priority waits with all the other groups for a CPU. It leaves a session alone
// that somebody else leads, whose other processes it would raise as well.
func setGroupPriority(nice int) error {
	if sid, err := unix.Getsid(0); err != nil || sid != os.Getpid() {
		return nil
	}
	err := os.WriteFile("/proc/self/autogroup", []byte(strconv.Itoa(nice)), 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.EINVAL) { // this kernel makes no such groups
		return nil
	}
	return err
}
