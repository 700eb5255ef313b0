// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// The engines that keep state directories for each namespace.
const (
	engineDocker     = "docker"
	engineContainerd = "containerd"
)

// taskDir is the directory that holds the bundles of containerd's shims, by namespace.
const taskDir = "io.containerd.runtime.v2.task"

// maxRoots bounds the state directories.
const maxRoots = 256

// root is a directory whose subdirectories are containers, by id.
type root struct {
	path string
	// bundles: the subdirectories are bundles, not a runtime's state.
	bundles bool
	// engine and namespace are set where an engine keeps the directory.
	engine, namespace string
	// owner is the runtime whose default directory this is.
	owner string
}

// classify tells from a directory's path whose it is.
func (c *Collector) classify(path string) root {
	c.mu.Lock()
	r, ok := c.learned[path]
	c.mu.Unlock()
	if ok {
		return r
	}
	r = root{path: path}
	last := filepath.Base(path)
	switch parent := filepath.Base(filepath.Dir(path)); {
	case parent == taskDir:
		r.bundles, r.engine, r.namespace = true, engineContainerd, last
		if last == "moby" || last == "plugins.moby" {
			r.engine = engineDocker
		}
	case strings.HasPrefix(parent, "runtime-"): // Docker's, by the name of the runtime
		r.engine, r.namespace = engineDocker, last
	case parent == runtimeRunc || parent == runtimeCrun || parent == runtimeYouki:
		r.engine, r.namespace = engineContainerd, last
	case filepath.Dir(path) == c.opts.RunDir:
		r.owner = last
	}
	return r
}

// defaultRoots are the globs below the run directory. Docker keeps its state
// in runtime-<name> for each runtime in its configuration; its built-in
// BuildKit, CRI-O and podman use the runtimes' own.
func defaultRoots(run string) []string {
	globs := []string{
		"runc", "crun", "youki",
		"containerd/runc/*", "containerd/" + taskDir + "/*",
		"docker/runtime-*/*", "docker/containerd/daemon/" + taskDir + "/*",
		"k3s/containerd/runc/*", "k3s/containerd/" + taskDir + "/*",
	}
	for i, g := range globs {
		globs[i] = filepath.Join(run, g)
	}
	return globs
}

// expand walks all globs and calls found for each directory, once. before, if
// not nil, is called for each directory that decides what exists, with the
// element that is looked for in it, before the look.
func (c *Collector) expand(before func(dir, elem string), found func(root)) {
	seen := make(map[string]bool)
	w := walker{before: before, dirs: make(map[string]bool), found: func(path string) {
		if !seen[path] && len(seen) < maxRoots {
			seen[path] = true
			found(c.classify(path))
		}
	}}
	for _, g := range c.globs() {
		w.walk("/", strings.Split(strings.Trim(g, "/"), "/"))
	}
}

// walker walks globs that begin alike: it looks at each directory once.
type walker struct {
	before func(dir, elem string)
	found  func(string)
	dirs   map[string]bool
}

func (w *walker) walk(dir string, elems []string) {
	if len(elems) == 0 || elems[0] == "" {
		w.found(dir)
		return
	}
	elem, rest := elems[0], elems[1:]
	if !strings.ContainsAny(elem, "*?[") {
		if next := filepath.Join(dir, elem); w.has(dir, elem, next) {
			w.walk(next, rest)
		}
		return
	}
	if w.before != nil {
		w.before(dir, elem)
	}
	list, _ := subdirs(dir)
	for _, d := range list {
		if ok, _ := filepath.Match(elem, d.name); ok {
			w.walk(filepath.Join(dir, d.name), rest)
		}
	}
}

func (w *walker) has(dir, elem, next string) bool {
	there, known := w.dirs[next]
	if known {
		return there
	}
	there = isDir(next)
	if !there && w.before != nil {
		w.before(dir, elem)
		there = isDir(next) // it may have come before the watch
	}
	w.dirs[next] = there
	return there
}

// globs are the configured ones, the defaults and those found in options.json.
func (c *Collector) globs() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Concat(c.opts.Roots, defaultRoots(c.opts.RunDir), slices.Sorted(maps.Keys(c.learned)))
}

// roots lists the state directories and the bundle directories that exist. A
// running Watch knows them.
func (c *Collector) roots() []root {
	if idx := c.index.Load(); idx != nil {
		return idx.allRoots()
	}
	var list []root
	c.expand(nil, func(r root) { list = append(list, r) })
	return list
}

// learn adds the state directory that a shim's options name, and says whether it is new.
func (c *Collector) learn(b *reading) bool {
	r := b.root
	if !b.optioned {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.learned[r.path]; ok || len(c.learned) >= maxRoots/4 || strings.ContainsAny(r.path, "*?[\\") {
		return false
	}
	c.learned[r.path] = r
	return true
}

// shimOptions are what a runc shim writes beside its bundle's config.json.
type shimOptions struct {
	// Root is the state directory without the namespace; the shim's default is /run/containerd/runc.
	Root       string `json:"root"`
	BinaryName string `json:"binary_name"`
}

// stateRootOf says where the state of a bundle's container is or will be, the
// runtime, and whether the shim's options said so.
func (c *Collector) stateRootOf(bundles root, dir int) (root, string, bool) {
	var o shimOptions
	data, _, err := readFile(dir, "options.json")
	optioned := err == nil && json.Unmarshal(data, &o) == nil
	path := filepath.Join(c.opts.RunDir, "containerd", "runc", bundles.namespace)
	if filepath.IsAbs(o.Root) && len(o.Root) < unix.PathMax {
		path = filepath.Join(c.onHost(o.Root), bundles.namespace)
	}
	return root{path: path, engine: bundles.engine, namespace: bundles.namespace}, runtimeOf(o.BinaryName), optioned
}

// onHost gives the path here of a path of the host's. /var/run is a link to
// /run wherever it is not the directory itself.
func (c *Collector) onHost(path string) string {
	path = filepath.Clean(path)
	for _, run := range []string{"/var/run/", "/run/"} {
		if rest, ok := strings.CutPrefix(path, run); ok {
			return filepath.Join(c.opts.RunDir, rest)
		}
	}
	return filepath.Join(c.opts.HostRoot, path)
}

// runtimeOf guesses the runtime from its binary's name until a state file tells.
func runtimeOf(binary string) string {
	name := filepath.Base(binary)
	for _, r := range []string{runtimeCrun, runtimeYouki} {
		if strings.Contains(name, r) {
			return r
		}
	}
	return runtimeRunc
}
