// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Bounds of one Locate.
const (
	maxClaims = 16
	// maxScan is how many states are read for those who locate where no index is there: about a second's worth.
	maxScan = 4096
)

// Locate finds the container by the ids that the evidence claims, by its
// bundle, and by comparing cgroups and init processes with every state.
//
// A claim is only where to look: the state that is found must name one of the
// cgroups of the evidence, or its process. So a cgroup named after someone
// else's container does not lead there. A cgroup below the container's is not
// the container's own and leads nowhere either.
func (c *Collector) Locate(ctx context.Context, e workload.Evidence) (workload.ContainerID, error) {
	if err := ctx.Err(); err != nil {
		return workload.ContainerID{}, err
	}
	var errs error
	for _, claim := range e.Claims[:min(len(e.Claims), maxClaims)] {
		id, err := c.locateClaim(claim, e)
		if err == nil {
			return id, nil
		}
		errs = errors.Join(errs, err)
	}
	if e.Bundle != "" {
		claim := workload.ContainerID{ID: filepath.Base(e.Bundle)}
		if id, err := c.locateClaim(claim, workload.Evidence{Bundle: e.Bundle}); err == nil {
			return id, nil
		}
	}
	id, err := c.locateState(ctx, e)
	if errors.Is(err, collectors.ErrNotFound) && errors.Is(errs, collectors.ErrUnavailable) {
		return id, fmt.Errorf("locate: %w", errs)
	}
	return id, err
}

func (c *Collector) locateClaim(claim workload.ContainerID, e workload.Evidence) (workload.ContainerID, error) {
	if !validID(claim.ID) {
		return workload.ContainerID{}, collectors.ErrNotFound
	}
	// An engine's own name for itself is not ours: only namespace and id lead anywhere.
	all, err := c.candidates(workload.ContainerID{Namespace: claim.Namespace, ID: claim.ID})
	all = slices.DeleteFunc(all, func(r *reading) bool { return !c.fits(r, e) })
	if r := c.only(all); r != nil {
		return r.containerID(), nil
	}
	return workload.ContainerID{}, refusal(err)
}

// fits says whether a reading agrees with the evidence: on one cgroup, or the
// process, or the bundle. Evidence without any of these contradicts nothing.
func (c *Collector) fits(r *reading, e workload.Evidence) bool {
	if r.state == nil {
		return c.bundleFits(r, e)
	}
	return r.matches(e, c.hierarchies(false).unified) || silent(e)
}

// silent: nothing but claims.
func silent(e workload.Evidence) bool {
	return len(e.Cgroups) == 0 && e.Init.IsZero() && e.Bundle == ""
}

// matches: the state names a cgroup of the evidence, or its process, or its bundle.
func (r *reading) matches(e workload.Evidence, unified bool) bool {
	if r.key().Same(e.Init) || r.inBundle(e) {
		return true
	}
	for _, g := range r.state.cgroups {
		for _, p := range e.Cgroups {
			if p.Path != "" && p.Path != "/" && g.is(p, unified) {
				return true
			}
		}
	}
	return false
}

func (r *reading) inBundle(e workload.Evidence) bool {
	return e.Bundle != "" && filepath.Clean(e.Bundle) == filepath.Clean(r.bundle)
}

func (r *reading) key() workload.ProcessKey {
	return workload.ProcessKey{PID: r.state.pid, Ticks: true, Start: r.state.ticks * workload.TickNS}
}

// bundleFits compares what the bundle asks for with the cgroup that there is.
func (c *Collector) bundleFits(r *reading, e workload.Evidence) bool {
	if r.inBundle(e) || silent(e) {
		return true
	}
	spec, err := c.specOf(r)
	return err == nil && spec.AsksFor(r.id, e.Cgroups)
}

// locateState compares with every state.
func (c *Collector) locateState(ctx context.Context, e workload.Evidence) (workload.ContainerID, error) {
	if silent(e) {
		return workload.ContainerID{}, collectors.ErrNotFound
	}
	unified := c.hierarchies(false).unified
	places, err := c.placesFor(ctx, e)
	var all []*reading
	for _, p := range places {
		if cerr := ctx.Err(); cerr != nil {
			return workload.ContainerID{}, cerr
		}
		r, rerr := c.read(p.root, p.id)
		if rerr != nil {
			if !errors.Is(rerr, errUntrusted) && !missing(rerr) {
				err = errors.Join(err, rerr)
			}
			continue
		}
		if r.matches(e, unified) {
			all = append(all, r)
		}
	}
	if r := c.only(all); r != nil {
		return r.containerID(), nil
	}
	return workload.ContainerID{}, refusal(err)
}

// place is where one container's state is.
type place struct {
	root root
	id   string
}
