// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// podJSON is what is read of a pod's config (libpod/pod.go).
type podJSON struct {
	ID      string            `json:"id"`
	Name    string            `json:"name"`
	Labels  map[string]string `json:"labels"`
	Created time.Time         `json:"created"`
}

// podStateJSON is what is read of a pod's state.
type podStateJSON struct {
	Infra string `json:"InfraContainerID"`
}

// LookupPod implements collectors.PodCollector.
func (c *Collector) LookupPod(ctx context.Context, uid string) (*workload.Pod, error) {
	if !isID(uid) {
		return nil, fmt.Errorf("podman: look up pod: %w: a pod's id is 64 lower-case hexadecimal digits", collectors.ErrNotMine)
	}
	err := error(collectors.ErrNotFound)
	for _, s := range c.known() {
		if s.user {
			continue
		}
		p, serr := s.pod(ctx, uid)
		if serr == nil {
			return p, nil
		}
		if !errors.Is(serr, collectors.ErrNotFound) {
			err = serr
		}
	}
	return nil, fmt.Errorf("podman: look up pod %s: %w", uid, err)
}

// ListPods implements collectors.PodCollector.
func (c *Collector) ListPods(ctx context.Context) iter.Seq2[*workload.Pod, error] {
	return func(yield func(*workload.Pod, error) bool) {
		for _, s := range c.known() {
			ids, err := s.podIDs(ctx)
			if err != nil && !yield(nil, s.failed(ctx, "list pods", err)) {
				return
			}
			for _, id := range ids {
				p, err := s.pod(ctx, id)
				switch {
				case errors.Is(err, collectors.ErrNotFound):
				case err != nil && ctx.Err() == nil:
					if !yield(nil, errors.New("podman: list pods: "+id+": "+err.Error())) {
						return
					}
				case err != nil:
					yield(nil, fmt.Errorf("podman: list pods: %w: %w", collectors.ErrUnavailable, ctx.Err()))
					return
				case !yield(p, nil):
					return
				}
			}
		}
	}
}

// podIDs lists the pods of a store. Of a user's there is nothing: a pod is known by
// its id alone, and he could give his the id of another's.
func (s *store) podIDs(ctx context.Context) (ids []string, _ error) {
	if s.user {
		return nil, nil
	}
	err := s.view(ctx, func(d database) (err error) {
		ids, err = d.podIDs()
		return err
	})
	if errors.Is(err, collectors.ErrNotFound) {
		return nil, ctx.Err()
	}
	return ids, err
}

// pod describes a pod as its record does.
func (s *store) pod(ctx context.Context, uid string) (*workload.Pod, error) {
	var r record
	err := s.view(ctx, func(d database) (err error) {
		r, err = d.pod(uid)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.describePod(&r)
}

func (s *store) describePod(r *record) (*workload.Pod, error) {
	var c podJSON
	var st podStateJSON
	if err := errors.Join(decode(r.config, &c), decode(r.state, &st)); err != nil {
		return nil, fmt.Errorf("%w: pod %s: %w", collectors.ErrUnavailable, r.id, err)
	}
	if c.ID != r.id {
		return nil, fmt.Errorf("%w: the record of pod %s is another's", collectors.ErrUnavailable, r.id)
	}
	// The budgets of a container's name and labels are those of a pod's.
	bounded := &workload.Container{Name: c.Name, Labels: c.Labels, Truncated: cutFields(r.cut, nil)}
	finish(bounded)
	p := &workload.Pod{
		PodRef: workload.PodRef{UID: c.ID, Name: bounded.Name}, Runtime: name,
		Labels: bounded.Labels, Created: utc(c.Created), Truncated: bounded.Truncated,
	}
	if runtimespec.IsHex64(st.Infra) {
		p.Sandboxes = []workload.ContainerID{s.id(st.Infra)}
	}
	return p, nil
}
