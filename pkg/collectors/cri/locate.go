// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// maxClaims bounds the calls of one Locate.
const maxClaims = 8

// Locate finds the container by the ids that the evidence claims: a call for
// each. A claim is only where to look: the container's spec must have asked for
// the cgroup of the evidence, or its init must be the process.
func (c *Collector) Locate(ctx context.Context, e workload.Evidence) (workload.ContainerID, error) {
	n, eng, err := c.ask(ctx)
	if err != nil {
		return workload.ContainerID{}, fmt.Errorf("cri: locate: %w", err)
	}
	result := collectors.ErrNotFound
	for _, hex := range candidates(eng, e) {
		fits, err := c.fits(ctx, n, hex, e)
		switch {
		case err == nil && fits:
			return eng.id(hex), nil
		case err != nil && !errors.Is(err, collectors.ErrNotFound):
			result = unavailable(err)
		}
	}
	return workload.ContainerID{}, fmt.Errorf("cri: locate: %w", result)
}

// candidates are the ids that the evidence may mean.
func candidates(eng engine, e workload.Evidence) []string {
	var ids []string
	if base := filepath.Base(e.Bundle); runtimespec.IsHex64(base) {
		ids = append(ids, base)
	}
	for _, claim := range e.Claims {
		if eng.mine(claim) == nil && len(ids) < maxClaims {
			ids = append(ids, claim.ID)
		}
	}
	return ids
}

// fits asks for one container or sandbox and compares.
func (c *Collector) fits(ctx context.Context, n *conn, hex string, e workload.Evidence) (bool, error) {
	info, err := c.infoOf(ctx, n, hex)
	if err != nil {
		return false, err
	}
	v, err := readInfo(info, nil)
	if err != nil || v.Spec == nil {
		return false, nil // who says nothing of a cgroup, as cri-dockerd, finds nothing by it
	}
	if len(e.Cgroups) == 0 {
		return e.Init.PID == 0 || v.PID == int64(e.Init.PID), nil
	}
	return v.Spec.AsksFor(hex, e.Cgroups), nil
}

// infoOf gives the verbose part of a container's or a sandbox's status.
func (c *Collector) infoOf(ctx context.Context, n *conn, hex string) (map[string]string, error) {
	if !c.memory.isSandbox(hex) {
		r, err := c.containerStatus(ctx, n, hex, true)
		if err == nil {
			return r.Info, nil
		}
		if !errors.Is(err, collectors.ErrNotFound) {
			return nil, err
		}
	}
	r, err := c.sandboxStatus(ctx, n, hex, true)
	if err != nil {
		return nil, err
	}
	return r.Info, nil
}
