// SPDX-License-Identifier: Apache-2.0

package collectors

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/pidigree/pidigree/pkg/workload"
)

// maxLocateClaims bounds the claims of one LocateAmong.
const maxLocateClaims = 16

// LocateAmong is the Locate of a source that has no index but looks at all that it has:
// it gives the container whose init or registered cgroup the evidence has. A claim alone
// is where to look; with cgroups or an init it leads nowhere by itself. What cannot be
// said about one of all, or about them as a whole, denies nothing: ErrUnavailable.
func LocateAmong(ctx context.Context, e workload.Evidence, lookup func(context.Context, workload.ContainerID) (*workload.Container, error), all iter.Seq2[*workload.Container, error]) (workload.ContainerID, error) {
	if len(e.Cgroups) == 0 && e.Init.IsZero() {
		for _, claim := range e.Claims[:min(len(e.Claims), maxLocateClaims)] {
			if c, err := lookup(ctx, claim); err == nil {
				return c.ID, nil
			}
		}
	}
	var unread error
	for c, err := range all {
		switch {
		case err == nil && isOf(c, e):
			return c.ID, nil
		case err != nil:
			unread = err // the last one will do
		}
	}
	switch {
	case unread == nil:
		return workload.ContainerID{}, ErrNotFound
	case ctx.Err() == nil && errors.Is(unread, ErrNotPresent):
		return workload.ContainerID{}, unread
	}
	return workload.ContainerID{}, fmt.Errorf("%w: %w", ErrUnavailable, unread)
}

// isOf reports whether evidence is of a container.
func isOf(c *workload.Container, e workload.Evidence) bool {
	if c.Run == nil || !c.Run.Registers {
		return false
	}
	return c.Run.Init.Same(e.Init) || slices.ContainsFunc(e.Cgroups, func(g workload.CgroupPath) bool { return slices.Contains(c.Run.ClaimedPaths, g.Path) })
}
