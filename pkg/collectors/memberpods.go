// SPDX-License-Identifier: Apache-2.0

package collectors

import (
	"context"
	"errors"
	"fmt"

	"github.com/pidigree/pidigree/pkg/workload"
)

// lookupPod asks about one pod and refuses an answer about another.
func (m *member) lookupPod(ctx context.Context, uid string) (*workload.Pod, error) {
	pc, ok := m.c.(PodCollector)
	if !ok {
		return nil, fmt.Errorf("%s: look up pod: %w: it knows of none", m.name, ErrNotMine)
	}
	var p *workload.Pod
	err := m.call(ctx, methodLookupPod, func(ctx context.Context) (err error) {
		if p, err = pc.LookupPod(ctx, uid); err == nil && !describesPod(p, uid) {
			return fmt.Errorf("%w: the answer is not about the pod asked for", ErrUnavailable)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%s: look up pod %.80q: %w", m.name, uid, err)
	}
	return p, nil
}

// describesPod: a static pod may have been asked for by the hash of its manifest.
func describesPod(p *workload.Pod, uid string) bool {
	return p != nil && p.UID != "" && (p.UID == uid || p.Static && p.ConfigHash == uid)
}

// listAll lists what the source has: containers, then pods.
func (m *member) listAll(ctx context.Context) error {
	if l, ok := m.c.(Lister); ok {
		if err := m.list(ctx, l); err != nil {
			return err
		}
	}
	if pc, ok := m.c.(PodCollector); ok {
		return m.listPods(ctx, pc)
	}
	return nil
}

// listPods hands out one list of pods, as list does for containers.
func (m *member) listPods(ctx context.Context, pc PodCollector) error {
	ctx, cancel := context.WithTimeout(ctx, m.opts.ListTimeout)
	defer cancel()
	m.count(countListPods)
	out := PodListing{Began: m.opts.Now(), Complete: true}
	var broken error
	err := m.contain(countListPods, func() error {
		for p, err := range pc.ListPods(ctx) {
			if err != nil || p == nil || p.UID == "" {
				out.Complete = false
				broken = errors.Join(broken, m.listError(err))
				continue
			}
			out.UIDs = append(out.UIDs, p.UID)
			m.opts.OnPod(m.name, p)
		}
		return nil
	})
	if err = errors.Join(broken, err, ctx.Err()); err != nil {
		out.Complete = false
	}
	m.opts.OnPodsListed(m.name, out)
	return err
}

// lists reports whether a source has anything to list.
func lists(c Collector) bool {
	_, containers := c.(Lister)
	_, pods := c.(PodCollector)
	return containers || pods
}
