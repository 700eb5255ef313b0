// SPDX-License-Identifier: Apache-2.0

package podman

import "sync"

// told are the containers of a store that its watcher has met. Whoever asks reads the
// database by himself, and may find another in its place for a moment between two
// looks (podman makes an empty one where there is none): then he denies what the
// watcher never saw removed, and nobody would say it again. The watcher does, with
// its next look. Methods may be called concurrently.
type told struct {
	mu     sync.Mutex
	ids    map[string]bool // true for one that was denied since
	denied bool            // one was
}

// begin forgets all: another watcher begins.
func (t *told) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ids, t.denied = map[string]bool{}, false
}

// met: the watcher is about to look at a container that is there. It reports whether
// somebody has denied it.
func (t *told) met(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.ids[id]
	t.ids[id] = false
	return was
}

func (t *told) removed(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.ids, id)
}

// deny reports whether the watcher is to look again.
func (t *told) deny(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.ids[id]; !ok {
		return false
	}
	t.ids[id], t.denied = true, true
	return true
}

// denyAllBut is deny for all that a list left out.
func (t *told) denyAllBut(listed map[string]bool) (any bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id := range t.ids {
		if !listed[id] {
			t.ids[id], t.denied, any = true, true, true
		}
	}
	return any
}

// owes reports whether one was denied since it was asked last.
func (t *told) owes() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.denied
	t.denied = false
	return was
}
