// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"context"
	"errors"
	"fmt"
	"strings"

	pcgroup "github.com/pidigree/pidigree/pkg/cgroup"
	"github.com/pidigree/pidigree/pkg/workload"
)

// cgroup answers for a cgroup: the innermost registered one at or above it.
func (r *Resolver) cgroup(ctx context.Context, id workload.CgroupID) (workload.Answer, error) {
	if a, ok := r.store.CgroupAnswer(id); ok {
		return a, nil
	}
	if r.copy {
		return workload.Answer{}, fmt.Errorf("cgroup %s: %w", id, workload.ErrNotFound)
	}
	l, err := r.cgroups.Lineage(id)
	if err != nil {
		return workload.Answer{}, fmt.Errorf("cgroup %s: %w", id, notFound(err))
	}
	for _, g := range l {
		if a, ok := r.store.CgroupAnswer(g.CgroupID); ok {
			return a, nil
		}
	}
	return r.unregistered(ctx, l), nil
}

// unregistered answers for a cgroup that belongs to no registered one. Its path
// decides nothing: `ctr` gives a container any path at all, and a registration
// may be under way, so that the host's is only what the host's processes are in.
func (r *Resolver) unregistered(ctx context.Context, l pcgroup.Lineage) workload.Answer {
	a := workload.Answer{Status: workload.StatusUnknown, AsOf: r.store.AsOf(), Revision: r.store.Revision()}
	if len(l) == 0 {
		a.Reason = "the cgroup's path is not known"
		return a
	}
	p := pcgroup.Parse(l[0].Path)
	if c, ok := p.Innermost(pcgroup.KindContainer); ok && c.Role != pcgroup.RoleMonitor {
		a.Reason = "its name claims " + c.ID + ", which no source has registered"
		return a
	}
	if l[0].Path != "/" {
		if a.Reason = r.inhabitants(ctx, l[0].CgroupID); a.Reason != "" {
			return a
		}
	}
	a.Status = workload.StatusHost
	if p.Unit != "" || p.Slice != "" {
		a.Service = r.service(p)
	}
	return a
}

// maxInhabitants bounds how many processes of a cgroup are asked about.
const maxInhabitants = 4096

// inhabitants says why the processes of a cgroup do not make it the host's; ""
// if one of them does. Others beside that one decide nothing: they are on their
// way into a container, or of one that has no cgroups of its own. A cgroup without
// processes is the host's if it holds other ones: a container's is made with neither.
func (r *Resolver) inhabitants(ctx context.Context, id workload.CgroupID) string {
	pids, err := r.cgroups.Processes(id)
	switch {
	case err != nil:
		return "no source has registered it, and its processes cannot be listed"
	case len(pids) == 0 && r.cgroups.HasChildren(id):
		return ""
	case len(pids) == 0:
		return "no source has registered it, and no process is in it"
	}
	for _, pid := range pids[:min(len(pids), maxInhabitants)] {
		if a, err := r.PID(ctx, pid); err == nil && !a.Exited && a.Status == workload.StatusHost {
			return ""
		}
	}
	return "no source has registered it, and none of its processes is known to be the host's"
}

// cgroupPath answers for a path inside a hierarchy, or below the cgroup mount.
// In hybrid mode one path names a cgroup in each hierarchy: the first registered
// one answers, and two that disagree are a conflict. Without any, all of them
// must be the host's.
func (r *Resolver) cgroupPath(ctx context.Context, path string) (workload.Answer, error) {
	if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) || len(path) > pcgroup.MaxPath {
		return workload.Answer{}, fmt.Errorf("cgroup %q: give an absolute path: %w", path, workload.ErrInvalid)
	}
	if r.copy {
		return r.pastPath(path)
	}
	if h, in, ok := r.cgroups.StripMount(path); ok {
		id, err := r.cgroups.ID(h, in)
		if err != nil {
			return r.pastPath(in)
		}
		return r.cgroup(ctx, id)
	}
	var found *workload.Answer
	for _, h := range r.cgroups.Hierarchies() {
		id, err := r.cgroups.ID(h.ID, path)
		if err != nil {
			continue
		}
		a, err := r.cgroup(ctx, id)
		if err != nil {
			continue
		}
		if found != nil && conflicting(*found, a) {
			return workload.Answer{Status: workload.StatusConflict, Reason: "hierarchies name different containers", AsOf: a.AsOf, Revision: a.Revision}, nil
		}
		if found == nil || found.Container() == nil && found.Status != workload.StatusUnknown || a.Container() != nil {
			found = &a
		}
	}
	if found == nil {
		return r.pastPath(path)
	}
	return *found, nil
}

func conflicting(a, b workload.Answer) bool {
	x, y := a.Container(), b.Container()
	return x != nil && y != nil && x.ID != y.ID
}

// pastPath answers for a cgroup that is gone, by the runs that had it.
func (r *Resolver) pastPath(path string) (workload.Answer, error) {
	for e := range r.store.All(workload.Selector{Kinds: []workload.Kind{workload.KindContainer}, All: true}) {
		c := e.Container
		if c == nil || c.Run == nil {
			continue
		}
		for _, g := range c.Run.Cgroups {
			if g.Path == path {
				if a, ok := r.store.ContainerAnswer(c.ID); ok {
					return a, nil
				}
			}
		}
	}
	return workload.Answer{}, fmt.Errorf("cgroup %q: %w", path, workload.ErrNotFound)
}

func notFound(err error) error {
	if errors.Is(err, pcgroup.ErrGone) || errors.Is(err, pcgroup.ErrHierarchy) {
		return workload.ErrNotFound
	}
	return err
}

// service is what is known of the unit that a path names.
func (r *Resolver) service(p pcgroup.Parsed) *workload.Service {
	s := workload.Service{Unit: p.Unit, Slice: p.Slice, Cgroup: p.UnitPath, User: p.User, Confidence: workload.Claimed}
	if known, ok := r.store.Service(p.UnitPath); ok && p.UnitPath != "" {
		s = *known
	}
	s.UserUnit, s.UserSlice = p.UserUnit, p.UserSlice
	return &s
}
