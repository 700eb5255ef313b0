// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// FakePods is a Fake that knows pods as well. Its methods are "lookup-pod" and
// "list-pods".
type FakePods struct {
	*Fake

	mu   sync.Mutex // guards pods
	pods map[string]*workload.Pod
}

var _ collectors.PodCollector = (*FakePods)(nil)

// NewFakePods makes an empty source that works.
func NewFakePods(name string) *FakePods {
	return &FakePods{Fake: NewFake(name), pods: map[string]*workload.Pod{}}
}

// PutPod adds or replaces a pod, without a hint.
func (f *FakePods) PutPod(p *workload.Pod) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pods[p.UID] = p.Clone()
}

// DropPod removes a pod, without a hint.
func (f *FakePods) DropPod(uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.pods, uid)
}

// LookupPod implements collectors.PodCollector.
func (f *FakePods) LookupPod(ctx context.Context, uid string) (*workload.Pod, error) {
	if _, err := f.enter(ctx, "lookup-pod"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.pods[uid]; p != nil {
		return p.Clone(), nil
	}
	return nil, fmt.Errorf("look up pod %s: %w", uid, collectors.ErrNotFound)
}

// ListPods implements collectors.PodCollector, in the order of the uids.
func (f *FakePods) ListPods(ctx context.Context) iter.Seq2[*workload.Pod, error] {
	return func(yield func(*workload.Pod, error) bool) {
		if _, err := f.enter(ctx, "list-pods"); err != nil {
			yield(nil, err)
			return
		}
		f.mu.Lock()
		pods := maps.Clone(f.pods)
		f.mu.Unlock()
		for _, uid := range slices.Sorted(maps.Keys(pods)) {
			if !yield(pods[uid].Clone(), nil) {
				return
			}
		}
	}
}
