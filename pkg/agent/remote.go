// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/remote"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// ModeCopy is the mode of an agent that has nothing of its own host.
const ModeCopy = "copy"

// Remote is another pidigree whose store is a source of this one.
type Remote struct {
	// Address is its unix socket, or tls://HOST:PORT; empty for none. Over TLS
	// Options.TLS has the certificates of this end.
	Address string
	// Copy leaves this host out: no kernel events, no engines, no /proc. What is asked
	// about are the other one's PIDs then.
	Copy bool
}

func (a *Agent) remoteOptions() remote.Options {
	o := a.opts
	at := client.Options{Socket: o.Remote.Address, TLS: client.TLS{Certificate: o.TLS.Certificate, Key: o.TLS.Key, CA: o.TLS.CA}}
	if address, ok := strings.CutPrefix(o.Remote.Address, "tls://"); ok {
		at.Address = address
	}
	boot, pidns, _ := hostID(o.Procfs)
	return remote.Options{
		Client: at, Here: remote.Host{BootID: boot, PIDNamespace: pidns, Started: a.started}, Copy: o.Remote.Copy,
		Now: bootTime, Logger: a.log,
	}
}

// openRemote makes the source. Nothing is asked yet.
func (a *Agent) openRemote() error {
	switch r := a.opts.Remote; {
	case r.Address == "" && r.Copy:
		return errors.New("start agent: a copy needs the address of another pidigree")
	case r.Copy && a.opts.Others == OthersOwn:
		return errors.New("start agent: a copy knows no processes of this host, and so none of a user's own")
	case r.Address == "":
		return nil
	}
	o := a.remoteOptions()
	o.Apply = func(changes ...store.Change) { a.store.Apply(changes...) }
	a.other = remote.New(o)
	return nil
}

// hostID says which boot of which host this is, and whose PIDs the agent gives.
func hostID(procfs string) (boot string, pidns uint32, name string) {
	if b, err := os.ReadFile(filepath.Join(procfs, "sys/kernel/random/boot_id")); err == nil {
		boot = strings.TrimSpace(string(b))
	}
	name, _ = os.Hostname() // without one it is empty
	// Whose numbers a mounted proc file system has is that of its own first process.
	if pidns = namespace(procfs, "1/ns/pid"); pidns == 0 {
		pidns = namespace(procfs, "self/ns/pid")
	}
	return boot, pidns, name
}

// standingAtCopy says whether a peer is in a container, where nothing is known of this
// host's processes: it is if it has a PID namespace below the agent's own, which
// everybody may read, or the copy is of this host and knows better.
func (a *Agent) standingAtCopy(p server.Peer) server.Standing {
	status, err := os.ReadFile(filepath.Join(a.opts.Procfs, strconv.FormatUint(uint64(p.PID), 10), "status"))
	if p.PID == 0 || err != nil {
		return server.Contained // it has ended, or cannot be seen
	}
	// One PID for each namespace that it is in, from that of the mounted proc file system on.
	_, pids, _ := strings.Cut(string(status), "\nNSpid:")
	pids, _, _ = strings.Cut(pids, "\n")
	if len(strings.Fields(pids)) != 1 || p.Key.Inode != 0 && a.other.SameBoot() && a.store.Resolve(p.Key).Status == workload.StatusContainer {
		return server.Contained
	}
	return server.OfTheHost
}

// nowhere is the kernel source of a copy.
type nowhere struct{}

// Run implements correlator.Source.
func (nowhere) Run(ctx context.Context, _ func(kernel.Event)) error {
	<-ctx.Done()
	return ctx.Err()
}

// Snapshot implements correlator.Source.
func (nowhere) Snapshot(_ context.Context, fn func(kernel.Event)) error {
	fn(kernel.Event{Type: kernel.SnapshotBegin, Time: bootTime()})
	fn(kernel.Event{Type: kernel.SnapshotEnd, Time: bootTime()})
	return nil
}

// Flush implements correlator.Source.
func (nowhere) Flush(context.Context) error { return nil }

// Process implements correlator.Source.
func (nowhere) Process(pid workload.PID) (kernel.Process, error) {
	return kernel.Process{}, fmt.Errorf("process %d: %w", pid, kernel.ErrGone)
}

// Stats implements source.
func (nowhere) Stats() kernel.Stats { return kernel.Stats{} }

// Close implements source.
func (nowhere) Close() error { return nil }
