// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"sync"
)

// flushes are the callers of Flush that wait for Run to have delivered what was
// pending. The zero value is ready.
type flushes struct {
	mu      sync.Mutex // guards all below
	waiting []chan struct{}
}

// wait asks by wake, and returns when Run has passed once through everything
// that was pending, or with the error of ctx or ErrClosed.
func (f *flushes) wait(ctx context.Context, wake func(), closed <-chan struct{}) error {
	done := make(chan struct{})
	f.mu.Lock()
	f.waiting = append(f.waiting, done)
	f.mu.Unlock()
	wake()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-closed:
		return ErrClosed
	}
}

// take gives the callers that have asked so far. Run takes them before it looks
// at what is pending and answers them after it.
func (f *flushes) take() []chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.waiting
	f.waiting = nil
	return w
}

func answer(waiting []chan struct{}) {
	for _, done := range waiting {
		close(done)
	}
}
