// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"slices"
	"strings"
)

// v1Controllers are all that v1 ever had (include/linux/cgroup_subsys.h; "io"
// is blkio there): a directory of that name below /sys/fs/cgroup is a v1 mount,
// not a v2 cgroup.
var v1Controllers = [...]string{
	"cpuset", "cpu", "cpuacct", "blkio", "memory", "devices", "freezer", "net_cls",
	"perf_event", "net_prio", "hugetlb", "pids", "rdma", "misc", "debug", "systemd",
}

// StripMount turns an absolute path on the host, such as
// "/sys/fs/cgroup/pids/docker/4f3a", into a hierarchy and the path in it. It
// goes by names alone: the cgroup need not exist, and the result is as good a
// claim as the path was.
//
// The mounts that the agent knows come first. A path that is below none of them
// may have been written in another mount namespace (the host's, or that of an
// engine with a v2 mount of its own), where the places are the usual ones:
// /sys/fs/cgroup/<controller>, /sys/fs/cgroup/unified, and /sys/fs/cgroup
// itself for v2.
func (f *FS) StripMount(abs string) (hierarchy uint32, path string, ok bool) {
	if !validPath(abs) {
		return 0, "", false
	}
	t := f.table.Load()
	for _, p := range t.prefixes {
		if rest, ok := below(abs, p.point); ok {
			return p.hierarchy, join(p.root, rest), true
		}
	}
	rest, ok := below(abs, "/sys/fs/cgroup")
	if !ok {
		return 0, "", false
	}
	hierarchy, path, ok = t.stripUsual(rest)
	if !ok {
		path = ""
	}
	return hierarchy, path, ok
}

// stripUsual reads what is below /sys/fs/cgroup as systemd lays it out.
func (t *table) stripUsual(rest string) (uint32, string, bool) {
	first, below, _ := strings.Cut(rest, "/")
	if first == "unified" {
		return 0, "/" + below, t.has(0)
	}
	controllers := strings.Split(first, ",")
	for _, h := range t.hierarchies {
		if h.ID != 0 && (h.Name != "" && h.Name == first || slices.Contains(h.Controllers, controllers[0])) {
			return h.ID, "/" + below, true
		}
	}
	if slices.Contains(v1Controllers[:], controllers[0]) {
		return 0, "", false
	}
	return 0, "/" + rest, t.has(0)
}

func (t *table) has(hierarchy uint32) bool {
	return slices.ContainsFunc(t.hierarchies, func(h Hierarchy) bool { return h.ID == hierarchy })
}
