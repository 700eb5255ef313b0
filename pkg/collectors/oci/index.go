// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"maps"
	"path/filepath"
	"sync"

	"github.com/pidigree/pidigree/pkg/workload"
)

// index is what a running Watch has read, by cgroup path and PID, so that
// Locate need not read every state. A nil index knows nothing. It says where to
// look and never what is true: what it names is read again.
type index struct {
	mu     sync.Mutex // guards all below
	roots  []root     // replaced, never changed
	places map[string]*indexed
	byPath map[string]map[string]place
	byPID  map[workload.PID]map[string]place
	// byBundle is by the cleaned path.
	byBundle map[string]map[string]place
}

// indexed is one container in the index.
type indexed struct {
	ino    uint64
	paths  []string
	pid    workload.PID
	bundle string
}

func newIndex() *index {
	return &index{
		places:   make(map[string]*indexed),
		byPath:   make(map[string]map[string]place),
		byPID:    make(map[workload.PID]map[string]place),
		byBundle: make(map[string]map[string]place),
	}
}

func (x *index) setRoots(roots []root) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.roots = roots
}

func (x *index) allRoots() []root {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.roots
}

func placeKey(root, id string) string { return root + "/" + id }

// put adds or replaces a container.
func (x *index) put(r *reading, unified bool) {
	key := placeKey(r.root.path, r.id)
	in := &indexed{ino: r.ino, pid: r.state.pid, bundle: filepath.Clean(r.bundle)}
	for _, g := range r.state.cgroups {
		in.paths = append(in.paths, g.indexPaths(unified)...)
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeLocked(key)
	x.places[key] = in
	p := place{root: r.root, id: r.id}
	for _, path := range in.paths {
		add(x.byPath, path, key, p)
	}
	add(x.byPID, in.pid, key, p)
	add(x.byBundle, in.bundle, key, p)
}

// indexPaths are the paths inside hierarchies under which a cgroup is looked for.
func (g cgroup) indexPaths(unified bool) []string {
	if g.controller != anyController {
		if path, _, ok := g.relative(unified); ok {
			return []string{path}
		}
		return nil
	}
	if scope := crunParent(g.path); scope != "" {
		return []string{g.path, scope}
	}
	return []string{g.path}
}

// remove forgets a container.
func (x *index) remove(root, id string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.removeLocked(placeKey(root, id))
}

func (x *index) removeLocked(key string) {
	in := x.places[key]
	if in == nil {
		return
	}
	delete(x.places, key)
	for _, path := range in.paths {
		drop(x.byPath, path, key)
	}
	drop(x.byPID, in.pid, key)
	drop(x.byBundle, in.bundle, key)
}

// lookup gives the places that the evidence may be about.
func (x *index) lookup(e workload.Evidence) []place {
	if x == nil {
		return nil
	}
	found := make(map[string]place)
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, g := range e.Cgroups {
		maps.Copy(found, x.byPath[g.Path])
	}
	maps.Copy(found, x.byPID[e.Init.PID])
	if e.Bundle != "" {
		maps.Copy(found, x.byBundle[filepath.Clean(e.Bundle)])
	}
	list := make([]place, 0, len(found))
	for _, p := range found {
		list = append(list, p)
	}
	return list
}

// knows says whether the index has read this very directory.
func (x *index) knows(root string, d dirent) bool {
	if x == nil {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	in := x.places[placeKey(root, d.name)]
	return in != nil && in.ino == d.ino
}

func add[K comparable](m map[K]map[string]place, k K, key string, p place) {
	if m[k] == nil {
		m[k] = make(map[string]place, 1)
	}
	m[k][key] = p
}

func drop[K comparable](m map[K]map[string]place, k K, key string) {
	if delete(m[k], key); len(m[k]) == 0 {
		delete(m, k)
	}
}
