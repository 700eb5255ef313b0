// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"errors"
	"fmt"
	"strings"

	pcgroup "github.com/pidigree/pidigree/pkg/cgroup"
	"github.com/pidigree/pidigree/pkg/workload"
)

// cgroup answers for a cgroup: the innermost registered one at or above it.
func (r *Resolver) cgroup(id workload.CgroupID) (workload.Answer, error) {
	if a, ok := r.store.CgroupAnswer(id); ok {
		return a, nil
	}
	l, err := r.cgroups.Lineage(id)
	if err != nil {
		return workload.Answer{}, fmt.Errorf("cgroup %s: %w", id, notFound(err))
	}
	return r.lineage(l), nil
}

func (r *Resolver) lineage(l pcgroup.Lineage) workload.Answer {
	for _, g := range l {
		if a, ok := r.store.CgroupAnswer(g.CgroupID); ok {
			return a
		}
	}
	a := workload.Answer{Status: workload.StatusHost, AsOf: r.store.AsOf(), Revision: r.store.Revision()}
	if len(l) == 0 {
		a.Status, a.Reason = workload.StatusUnknown, "the cgroup's path is not known"
		return a
	}
	p := pcgroup.Parse(l[0].Path)
	if c, ok := p.Innermost(pcgroup.KindContainer); ok {
		a.Status = workload.StatusUnknown
		a.Reason = "its name claims " + c.ID + ", which no source has registered"
		return a
	}
	if p.Unit != "" || p.Slice != "" {
		a.Service = &workload.Service{Unit: p.Unit, Slice: p.Slice}
	}
	return a
}

// cgroupPath answers for a path inside a hierarchy, or below the cgroup mount.
// In hybrid mode one path names a cgroup in each hierarchy: the first registered
// one answers, and two that disagree are a conflict.
func (r *Resolver) cgroupPath(path string) (workload.Answer, error) {
	if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) || len(path) > pcgroup.MaxPath {
		return workload.Answer{}, fmt.Errorf("cgroup %q: give an absolute path: %w", path, workload.ErrInvalid)
	}
	if h, in, ok := r.cgroups.StripMount(path); ok {
		id, err := r.cgroups.ID(h, in)
		if err != nil {
			return r.pastPath(in)
		}
		return r.cgroup(id)
	}
	var found *workload.Answer
	for _, h := range r.cgroups.Hierarchies() {
		id, err := r.cgroups.ID(h.ID, path)
		if err != nil {
			continue
		}
		a, err := r.cgroup(id)
		if err != nil {
			continue
		}
		if found != nil && conflicting(*found, a) {
			return workload.Answer{Status: workload.StatusConflict, Reason: "hierarchies name different containers", AsOf: a.AsOf, Revision: a.Revision}, nil
		}
		if found == nil || found.Container() == nil {
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
