// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/pidigree/pidigree/pkg/agent"
	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/workload"
)

// This file is where the commands meet the host: what Env.withDefaults puts in
// for the functions that the caller left out.

// dialHost connects to the agent. Its errors are the client's, one line each.
func dialHost(ctx context.Context, cfg AgentConfig) (Backend, error) {
	timeout := 24 * time.Hour // --timeout 0: as good as for ever
	if deadline, ok := ctx.Deadline(); ok {
		timeout = max(time.Until(deadline), time.Millisecond)
	}
	c, err := client.New(client.Options{
		Socket: cfg.Socket, Timeout: timeout, TLS: client.TLS{Certificate: cfg.TLS.Certificate, Key: cfg.TLS.Key, CA: cfg.TLS.CA},
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// agentOptions turns settings into what package agent takes.
func agentOptions(c AgentConfig) agent.Options {
	o := agent.Options{
		Procfs: c.ProcFS, Sysfs: c.SysFS, CgroupRoot: c.CgroupRoot, RunDir: c.RunDir,
		DockerHosts: c.DockerHosts, DockerRoot: c.DockerRoot, NestedDockerHosts: c.NestedDockerHosts, NestedContainerdAddresses: c.NestedContainerdAddresses, ContainerdAddresses: c.ContainerdAddresses, CRIEndpoints: c.CRIEndpoints,
		LXCPaths: c.LXCPaths, IncusSockets: c.IncusSockets, PodmanRoots: c.PodmanRoots, PodmanNoUsers: c.PodmanUsers == "off", OCIRoots: c.OCIRoots, EnvAllow: c.EnvAllow, Include: c.Include, Exclude: c.Exclude, Access: c.Access, NoBPF: c.BPF == "off", PollInterval: c.PollInterval,
		Grace: c.Grace, Nice: c.Nice, MetricsAddress: c.MetricsAddress, DisablePrograms: c.DisablePrograms,
	}
	o.Kubelet, o.ECS = c.Kubelet, c.ECS
	o.ECS.Tags = c.ECSTags == "on"
	if slices.Equal(o.PodmanRoots, []string{"auto"}) {
		o.PodmanRoots = nil
	}
	o.NoImages = c.Images == "off"
	if o.SystemdSocket = c.SystemdSocket; o.SystemdSocket == "auto" {
		o.SystemdSocket = ""
	}
	if o.MachinesDir = c.MachinesDir; o.MachinesDir == "auto" {
		o.MachinesDir = ""
	}
	return o
}

// runHost runs the agent until ctx ends.
func runHost(ctx context.Context, version string, c AgentConfig) error {
	o := withOthers(agentOptions(c), c)
	o.Version = version
	o.Socket, o.SocketGroup, o.Notify = c.Socket, c.SocketGroup, true
	o.CommandLines = c.CommandLines == "all"
	o.Others, o.OthersLabels = map[string]agent.Others{"self": agent.OthersSelf, "own": agent.OthersOwn}[c.Others], c.OthersLabels
	o.StateDir = c.stateDir()
	o.Logger = c.Logger(os.Stderr)
	tame()
	a, err := agent.New(o)
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// checkHost writes what an agent would collect and what it misses.
func checkHost(ctx context.Context, c AgentConfig, w io.Writer) error {
	return agent.Check(ctx, withOthers(agentOptions(c), c), w)
}

// withOthers adds other hosts and another agent, which a look at this host needs not.
func withOthers(o agent.Options, c AgentConfig) agent.Options {
	o.TLS = c.TLS
	o.Remote = agent.Remote{Address: c.RemoteAddress, Copy: c.RemoteCopy == "on"}
	return o
}

// localHost answers in this process: an agent that takes one look at the host.
func localHost(ctx context.Context, l LocalOptions) (Backend, error) {
	o := agentOptions(l.Config)
	o.OneShot, o.Nice, o.MetricsAddress = true, 0, ""
	a, err := agent.New(o)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	b := &localBackend{a: a, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(b.done)
		b.err = a.Run(ctx)
	}()
	select {
	case <-a.Ready():
		return b, nil
	case <-b.done:
		cancel()
		return nil, fmt.Errorf("look at the host: %w", b.err)
	case <-ctx.Done():
		_ = b.Close()
		return nil, fmt.Errorf("look at the host: %w", context.Cause(ctx))
	}
}

// localBackend answers from an agent in this process.
type localBackend struct {
	a      *agent.Agent
	cancel context.CancelFunc
	once   sync.Once
	done   chan struct{}
	err    error // of Run; readable once done is closed
}

func (b *localBackend) Resolve(ctx context.Context, qs ...workload.Query) ([]workload.Result, error) {
	out := make([]workload.Result, len(qs))
	for i, q := range qs {
		asked := q
		if q.Self {
			asked.Self, asked.PID = false, workload.PID(os.Getppid())
		}
		out[i] = b.a.Resolve(ctx, asked)
		out[i].Query = q
	}
	return out, ctx.Err()
}

func (b *localBackend) List(ctx context.Context, sel workload.Selector) iter.Seq2[workload.Entity, error] {
	return func(yield func(workload.Entity, error) bool) {
		for e := range b.a.List(ctx, sel) {
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (b *localBackend) Watch(ctx context.Context, sel workload.Selector) iter.Seq2[workload.Change, error] {
	return func(yield func(workload.Change, error) bool) {
		for batch := range b.a.Watch(ctx, sel) {
			for _, c := range batch {
				if !yield(c, nil) {
					return
				}
			}
		}
	}
}

func (b *localBackend) Status(context.Context) (workload.AgentStatus, error) {
	return b.a.Status(), nil
}

// Unseen says what this user does not see of the host.
func (b *localBackend) Unseen() string { return agent.Unseen() }

// Close ends the agent and waits for it.
func (b *localBackend) Close() error {
	b.once.Do(b.cancel)
	<-b.done
	return nil
}

// gcPercent is how much the heap of an agent grows before it is collected. Beside 500
// containers Go's 100 costs 12 MiB more, and saves no time that can be measured.
const gcPercent = 50

// tame bounds the agent's memory, unless its environment does.
func tame() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
}
