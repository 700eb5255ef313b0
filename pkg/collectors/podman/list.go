// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// List implements collectors.Lister: the ids at one version of each database, then
// each container by itself.
func (c *Collector) List(ctx context.Context) iter.Seq2[*workload.Container, error] {
	return func(yield func(*workload.Container, error) bool) {
		c.discover(ctx)
		for _, s := range c.known() {
			ids, err := s.ids(ctx)
			if err != nil && !yield(nil, s.failed(ctx, "list", err)) {
				return
			}
			listed := make(map[string]bool, len(ids))
			for _, id := range ids {
				one, err := s.lookup(ctx, id)
				listed[id] = !errors.Is(err, collectors.ErrNotFound)
				switch {
				case !listed[id]:
					continue // removed meanwhile
				case ctx.Err() != nil:
					yield(nil, fmt.Errorf("podman: list: %w: %w", collectors.ErrUnavailable, ctx.Err()))
					return
				case err != nil:
					// The text without the sentinel, which would mean that the whole source is down.
					if !yield(nil, errors.New("podman: list "+id+": "+err.Error())) {
						return
					}
				case !yield(one, nil):
					return
				}
			}
			if err == nil && s.told.denyAllBut(listed) {
				c.Nudge()
			}
		}
	}
}

// failed says that a store cannot be read. Of a user's without the sentinel, which
// would mean that the whole source is down: he may make his own unreadable.
func (s *store) failed(ctx context.Context, what string, err error) error {
	if s.user && ctx.Err() == nil {
		return errors.New("podman: " + what + ": user " + strconv.FormatUint(uint64(s.owner), 10) + ": " + err.Error())
	}
	return fmt.Errorf("podman: %s: %w", what, err)
}

// ids lists the containers of a store; of none, where there is no store.
func (s *store) ids(ctx context.Context) ([]string, error) {
	ids, err := s.allIDs(ctx)
	if s.user && len(ids) > maxUserContainers {
		ids = ids[:maxUserContainers]
	}
	return ids, err
}

func (s *store) allIDs(ctx context.Context) (ids []string, _ error) {
	err := s.view(ctx, func(d database) (err error) {
		ids, err = d.containerIDs()
		return err
	})
	if err == nil {
		return ids, nil
	}
	_, serr := s.listStored(func(list []storedJSON) bool {
		ids = nil
		for i := range list {
			ids, _ = addID(ids, list[i].ID)
		}
		return len(ids) > 0
	})
	switch {
	case serr == nil && len(ids) > 0:
		return ids, nil
	case errors.Is(err, collectors.ErrNotFound):
		return nil, ctx.Err()
	}
	return nil, err
}
