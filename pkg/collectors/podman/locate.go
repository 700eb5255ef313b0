// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// maxClaims bounds the claims of one Locate.
const maxClaims = 16

// Locate implements collectors.Collector: the innermost claim whose container a
// store has, or the bundle's.
func (c *Collector) Locate(ctx context.Context, e workload.Evidence) (workload.ContainerID, error) {
	if err := ctx.Err(); err != nil {
		return workload.ContainerID{}, fmt.Errorf("podman: locate: %w: %w", collectors.ErrUnavailable, err)
	}
	err := error(collectors.ErrNotFound)
	for _, claim := range c.claims(e) {
		id, lerr := c.has(ctx, claim)
		if lerr == nil {
			return id, nil
		}
		if !errors.Is(lerr, collectors.ErrNotFound) && !errors.Is(lerr, collectors.ErrNotMine) {
			err = lerr
		}
	}
	id, perr := c.locateProcess(ctx, e.Init)
	if perr == nil {
		return id, nil
	}
	if !errors.Is(perr, collectors.ErrNotFound) {
		err = perr
	}
	if cerr := ctx.Err(); cerr != nil {
		err = fmt.Errorf("%w: %w", collectors.ErrUnavailable, cerr)
	}
	return workload.ContainerID{}, fmt.Errorf("podman: locate: %w", err)
}

// claims are the ids that the evidence may mean, few and in order of trust.
func (c *Collector) claims(e workload.Evidence) []workload.ContainerID {
	ids := append([]workload.ContainerID{}, e.Claims[:min(len(e.Claims), maxClaims)]...)
	if dir, ok := strings.CutSuffix(filepath.Clean(e.Bundle), "/userdata"); ok {
		ids = append(ids, workload.ContainerID{ID: filepath.Base(dir)})
	}
	return ids
}

// has gives the whole id where one store has it.
func (c *Collector) has(ctx context.Context, id workload.ContainerID) (workload.ContainerID, error) {
	stores, err := c.mine(id)
	if err != nil {
		return workload.ContainerID{}, err
	}
	err = collectors.ErrNotFound
	for _, s := range stores {
		serr := s.exists(ctx, id.ID)
		if serr == nil {
			return s.id(id.ID), nil
		}
		if !errors.Is(serr, collectors.ErrNotFound) {
			err = serr
		}
	}
	return workload.ContainerID{}, err
}
