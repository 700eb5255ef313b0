// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	maxClaims = 8
	// maxInits bounds the tasks whose cgroups are read for one Locate: 16 us each.
	maxInits = 2048
	// maxCgroupFile bounds /proc/PID/cgroup: 16 hierarchies of PATH_MAX.
	maxCgroupFile = 128 << 10
)

// Locate finds the container by its bundle, by the ids that the evidence
// claims, and by comparing the process and the cgroups with the inits of all
// tasks, which a Watch remembers and which are listed without one.
//
// A claim is only where to look: the container's spec must have asked for the
// cgroup of the evidence.
func (c *Collector) Locate(ctx context.Context, e workload.Evidence) (workload.ContainerID, error) {
	n, err := c.connect()
	if err != nil {
		return workload.ContainerID{}, err
	}
	if k, ok := c.memory.byInit(e.Init.PID); ok {
		return c.idOf(k.namespace, k.id), nil
	}
	var errs error
	for _, claim := range c.claims(e) {
		id, err := c.locateClaim(ctx, n, claim, e)
		if err == nil {
			return id, nil
		}
		errs = errors.Join(errs, err)
	}
	id, err := c.locateInit(ctx, n, e)
	if errors.Is(err, collectors.ErrNotFound) && errors.Is(errs, collectors.ErrUnavailable) {
		return id, fmt.Errorf("locate: %w", errs)
	}
	return id, err
}

// claims are the ids worth asking for: a bundle's directory is named after the
// namespace and the id, then the names of the cgroups.
func (c *Collector) claims(e workload.Evidence) []workload.ContainerID {
	var list []workload.ContainerID
	if e.Bundle != "" {
		dir, id := filepath.Split(filepath.Clean(e.Bundle))
		dir, ns := filepath.Split(filepath.Clean(dir))
		if filepath.Base(dir) == "io.containerd.runtime.v2.task" {
			list = append(list, workload.ContainerID{Runtime: runtimeName, Instance: c.instance, Namespace: ns, ID: id})
		}
	}
	return append(list, e.Claims[:min(len(e.Claims), maxClaims)]...)
}

func (c *Collector) locateClaim(ctx context.Context, n *conn, claim workload.ContainerID, e workload.Evidence) (workload.ContainerID, error) {
	if err := c.mine(claim); err != nil {
		return workload.ContainerID{}, err
	}
	r, err := c.find(ctx, n, claim)
	if err != nil {
		return workload.ContainerID{}, err
	}
	if r.missing {
		return workload.ContainerID{}, fmt.Errorf("%s: its record is too large: %w", r.ID, collectors.ErrNotFound) // its task may tell
	}
	if !c.fits(r, e) {
		return workload.ContainerID{}, fmt.Errorf("%s asked for another cgroup: %w", r.ID, collectors.ErrNotFound)
	}
	return c.idOf(r.namespace, r.ID), nil
}

// fits says whether the spec asked for one of the cgroups of the evidence.
func (c *Collector) fits(r record, e workload.Evidence) bool {
	return len(e.Cgroups) == 0 || c.specOf(r, &workload.Container{}).AsksFor(r.ID, e.Cgroups)
}

// locateInit compares with the inits of all tasks.
func (c *Collector) locateInit(ctx context.Context, n *conn, e workload.Evidence) (workload.ContainerID, error) {
	if e.Init.IsZero() && len(e.Cgroups) == 0 {
		return workload.ContainerID{}, collectors.ErrNotFound
	}
	inits, err := c.inits(ctx, n)
	if k, ok := inits[e.Init.PID]; ok && e.Init.PID != 0 {
		return c.idOf(k.namespace, k.id), nil
	}
	asked := make(map[string]bool, len(e.Cgroups))
	for _, g := range e.Cgroups {
		if g.Path != "" && g.Path != "/" {
			asked[cgroupLine(g.Hierarchy, g.Path)] = true
		}
	}
	for pid, k := range inits {
		if len(asked) == 0 {
			break
		}
		if ctx.Err() != nil {
			return workload.ContainerID{}, ctx.Err()
		}
		if c.inCgroup(pid, asked) {
			return c.idOf(k.namespace, k.id), nil
		}
	}
	if err == nil {
		err = collectors.ErrNotFound
	}
	return workload.ContainerID{}, fmt.Errorf("locate: %w", err)
}

// inits gives the living inits: those that a Watch remembers, else a list's.
func (c *Collector) inits(ctx context.Context, n *conn) (map[workload.PID]taskKey, error) {
	if c.memory.isLive() {
		return bounded(c.memory.living())
	}
	namespaces, err := c.namespaces(ctx, n)
	if err != nil {
		return nil, err
	}
	all := make(map[workload.PID]taskKey)
	for _, ns := range namespaces[:min(len(namespaces), maxNamespaces)] {
		tasks, err := c.listTasks(ctx, n, ns)
		if err != nil {
			return all, err
		}
		for id, t := range tasks {
			if t.pid != 0 && t.state != workload.StateExited {
				all[t.pid] = taskKey{ns, id}
			}
		}
	}
	return bounded(all)
}

func bounded(all map[workload.PID]taskKey) (map[workload.PID]taskKey, error) {
	if len(all) <= maxInits {
		return all, nil
	}
	n := 0
	for pid := range all {
		if n++; n > maxInits {
			delete(all, pid)
		}
	}
	return all, fmt.Errorf("more than %d tasks: %w", maxInits, collectors.ErrUnavailable)
}

// inCgroup says whether a process is in one of the cgroups.
func (c *Collector) inCgroup(pid workload.PID, asked map[string]bool) bool {
	data, whole, err := safefile.Head(c.opts.ProcRoot+"/"+strconv.FormatUint(uint64(pid), 10)+"/cgroup", maxCgroupFile)
	if err != nil || !whole {
		return false
	}
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) == 3 && asked[f[0]+":"+f[2]] {
			return true
		}
	}
	return false
}

func cgroupLine(hierarchy uint32, path string) string {
	return strconv.FormatUint(uint64(hierarchy), 10) + ":" + path
}
