// SPDX-License-Identifier: Apache-2.0

package collectors

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// lookupPod asks about one pod and refuses an answer about another.
func (m *member) lookupPod(ctx context.Context, uid string) (*workload.Pod, error) {
	pc, ok := m.c.(PodCollector)
	if !ok {
		return nil, fmt.Errorf("%s: look up pod: %w: it knows of none", m.name, ErrNotMine)
	}
	p, err := lookupGroup(ctx, m, methodLookupPod, uid, pc.LookupPod, describesPod)
	if err != nil {
		return nil, fmt.Errorf("%s: look up pod %.80q: %w", m.name, uid, err)
	}
	return p, nil
}

// describesPod: a static pod may have been asked for by the hash of its manifest.
func describesPod(p *workload.Pod, uid string) bool {
	return p != nil && p.UID != "" && (p.UID == uid || p.Static && p.ConfigHash == uid)
}

// lookupTask asks about one task and refuses an answer about another.
func (m *member) lookupTask(ctx context.Context, arn string) (*workload.Task, error) {
	tc, ok := m.c.(TaskCollector)
	if !ok {
		return nil, fmt.Errorf("%s: look up task: %w: it knows of none", m.name, ErrNotMine)
	}
	t, err := lookupGroup(ctx, m, methodLookupTask, arn, tc.LookupTask, func(t *workload.Task, arn string) bool { return t != nil && t.ARN == arn })
	if err != nil {
		return nil, fmt.Errorf("%s: look up task %.150q: %w", m.name, arn, err)
	}
	return t, nil
}

// lookupGroup asks about one thing that has containers.
func lookupGroup[T any](ctx context.Context, m *member, method, key string, ask func(context.Context, string) (*T, error), describes func(*T, string) bool) (*T, error) {
	var out *T
	err := m.call(ctx, method, func(ctx context.Context) (err error) {
		if out, err = ask(ctx, key); err == nil && !describes(out, key) {
			return fmt.Errorf("%w: the answer is not about what was asked for", ErrUnavailable)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// listAll lists what the source has: containers, then pods and tasks.
func (m *member) listAll(ctx context.Context) error {
	if l, ok := m.c.(Lister); ok {
		if err := m.list(ctx, l); err != nil {
			return err
		}
	}
	if pc, ok := m.c.(PodCollector); ok {
		began, uids, complete, err := listGroups(ctx, m, countListPods, pc.ListPods, func(p *workload.Pod) string { return p.UID }, m.opts.OnPod)
		m.opts.OnPodsListed(m.name, PodListing{Began: began, UIDs: uids, Complete: complete})
		if err != nil {
			return err
		}
	}
	if tc, ok := m.c.(TaskCollector); ok {
		began, arns, complete, err := listGroups(ctx, m, countListTasks, tc.ListTasks, func(t *workload.Task) string { return t.ARN }, m.opts.OnTask)
		m.opts.OnTasksListed(m.name, TaskListing{Began: began, ARNs: arns, Complete: complete})
		return err
	}
	return nil
}

// listGroups hands out one list of pods or tasks, as list does for containers.
func listGroups[T any](ctx context.Context, m *member, method string, list func(context.Context) iter.Seq2[*T, error], key func(*T) string, on func(string, *T)) (began time.Time, keys []string, complete bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, m.opts.ListTimeout)
	defer cancel()
	m.count(method)
	began, complete = m.opts.Now(), true
	var broken error
	err = m.contain(method, func() error {
		for e, err := range list(ctx) {
			if err != nil || e == nil || key(e) == "" {
				complete = false
				broken = errors.Join(broken, m.listError(err))
				continue
			}
			keys = append(keys, key(e))
			on(m.name, e)
		}
		return nil
	})
	if err = errors.Join(broken, err, ctx.Err()); err != nil {
		complete = false
	}
	return began, keys, complete, err
}

// lists reports whether a source has anything to list.
func lists(c Collector) bool {
	_, containers := c.(Lister)
	_, pods := c.(PodCollector)
	_, tasks := c.(TaskCollector)
	return containers || pods || tasks
}
