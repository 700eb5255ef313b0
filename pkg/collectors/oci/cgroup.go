// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// hostCgroups is where runtimes on the host see the cgroup file systems,
// whatever this process sees.
const hostCgroups = "/sys/fs/cgroup"

// hierarchies says how the host mounts its cgroups.
type hierarchies struct {
	// unified: cgroup2 is the only one, mounted at hostCgroups itself.
	unified bool
	// names are the directories below hostCgroups where it is not.
	names []string
}

// hierarchies looks at the cgroup root. It is asked each time: one statfs.
func (c *Collector) hierarchies(names bool) hierarchies {
	var st unix.Statfs_t
	if err := unix.Statfs(c.opts.CgroupRoot, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return hierarchies{unified: true}
	}
	var h hierarchies
	if !names {
		return h
	}
	list, _ := subdirs(c.opts.CgroupRoot)
	for _, d := range list[:min(len(list), 32)] {
		h.names = append(h.names, d.name)
	}
	return h
}

// relative gives the path inside the hierarchy, and whether that is cgroup2;
// ok is false for a path that is not below hostCgroups.
func (g cgroup) relative(unified bool) (path string, v2, ok bool) {
	rest, ok := strings.CutPrefix(g.path, hostCgroups+"/")
	if !ok {
		return "", false, false
	}
	if g.controller != "" { // below the mount point of one hierarchy: "pids/c1", "cpu,cpuacct/c1"
		_, rest, ok = strings.Cut(rest, "/")
		return "/" + rest, false, ok
	}
	if !unified { // "unified/c1"; or "c1" from an engine with a v2 mount of its own
		rest = strings.TrimPrefix(rest, "unified/")
	}
	return "/" + rest, true, true
}

// is says whether a cgroup is the one that the state names.
func (g cgroup) is(p workload.CgroupPath, unified bool) bool {
	if g.controller == anyController {
		return p.Path == g.path || crunParent(g.path) == p.Path
	}
	path, v2, ok := g.relative(unified)
	return ok && path == p.Path && v2 == (p.Hierarchy == 0)
}

// crunParent gives the scope of crun's own cgroup below it, "/x.scope/container"; empty for another.
func crunParent(path string) string {
	if scope, ok := strings.CutSuffix(path, "/container"); ok && strings.HasSuffix(scope, ".scope") {
		return scope
	}
	return ""
}

// claimedPaths are absolute on the host. crun and youki name one path for all
// hierarchies: those that have it are claimed.
func (c *Collector) claimedPaths(s *state) []string {
	var paths []string
	for _, g := range s.cgroups {
		if g.controller != anyController {
			paths = append(paths, g.path)
			continue
		}
		h := c.hierarchies(true)
		if h.unified {
			paths = append(paths, hostCgroups+filepath.Clean(g.path))
		}
		for _, name := range h.names {
			if below := "/" + name + filepath.Clean(g.path); isDir(c.opts.CgroupRoot + below) {
				paths = append(paths, hostCgroups+below)
			}
		}
	}
	return paths
}
