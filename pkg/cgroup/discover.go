// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// table is what discovery found. It never changes once it is published.
type table struct {
	hierarchies []Hierarchy       // by ID
	mounts      map[uint32]*mount // what each hierarchy is read through
	prefixes    []prefix          // every mount seen, longest first, for StripMount
}

// prefix says which part of which hierarchy is at a mount point.
type prefix struct {
	point, root string
	hierarchy   uint32
}

// prefixes lists the mount points of a hierarchy. Where the agent's own mount
// begins above its cgroup namespace, so do all paths.
func (m *mount) prefixes(lines []mountLine) []prefix {
	var out []prefix
	for _, l := range lines {
		if root, ok := m.ns.translate(l.root); ok {
			out = append(out, prefix{l.point, root, m.hierarchy})
		}
	}
	return out
}

func (t *table) close() error {
	var errs []error
	for _, m := range t.mounts {
		errs = append(errs, m.dir.Close())
	}
	return errors.Join(errs...)
}

// discover reads mountinfo and the list of hierarchies of the agent itself.
func discover(procfs, root string, old *table) (*table, error) {
	hs, err := readHierarchies(filepath.Join(procfs, "self/cgroup"))
	if err != nil {
		return nil, err
	}
	lines, err := readMounts(filepath.Join(procfs, "self/mountinfo"), root)
	if err != nil {
		return nil, err
	}
	t := &table{mounts: map[uint32]*mount{}}
	byHierarchy := map[uint32][]mountLine{}
	for _, l := range lines {
		if h, ok := hierarchyOf(l, hs); ok {
			byHierarchy[h] = append(byHierarchy[h], l)
		}
	}
	for h, ls := range byHierarchy {
		if m := openBest(h, ls, hs, old); m != nil {
			t.mounts[h] = m
			t.prefixes = append(t.prefixes, m.prefixes(ls)...)
		}
	}
	slices.SortStableFunc(t.prefixes, func(a, b prefix) int { return len(b.point) - len(a.point) })
	if len(t.mounts) == 0 {
		return nil, fmt.Errorf("no cgroup file system is mounted at or below %q: %w", cmpOr(root, "/"), ErrHierarchy)
	}
	t.hierarchies = describe(hs, t.mounts)
	return t, nil
}

func cmpOr(s, or string) string {
	if s != "" {
		return s
	}
	return or
}

// selfHierarchy is a hierarchy with the agent's own cgroup in it.
type selfHierarchy struct {
	Hierarchy
	self string
}

// readHierarchies lists the hierarchies from the agent's own cgroup file: every
// one that exists has a line there, mounted or not (v2 once it was mounted).
func readHierarchies(path string) ([]selfHierarchy, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	entries, err := parseProcCgroup(string(data))
	if err != nil {
		return nil, fmt.Errorf("parse %s: %w", path, err)
	}
	hs := make([]selfHierarchy, 0, len(entries)+1)
	for _, e := range entries {
		h := selfHierarchy{Hierarchy: Hierarchy{ID: e.hierarchy}, self: e.path}
		for c := range strings.SplitSeq(e.controllers, ",") {
			if name, ok := strings.CutPrefix(c, "name="); ok {
				h.Name = name
			} else if c != "" {
				h.Controllers = append(h.Controllers, c)
			}
		}
		hs = append(hs, h)
	}
	return hs, nil
}

// readMounts lists the cgroup mounts at or below root.
func readMounts(path, root string) ([]mountLine, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	lines, err := parseMountinfo(file)
	if err != nil || root == "" {
		return lines, err
	}
	if real, err := filepath.EvalSymlinks(root); err == nil {
		root = real // mountinfo has no symbolic links in it
	}
	return slices.DeleteFunc(lines, func(l mountLine) bool {
		_, ok := below(l.point, filepath.Clean(root))
		return !ok
	}), nil
}

// hierarchyOf says which hierarchy is mounted there: the one whose name or
// whose controllers stand among the mount's options.
func hierarchyOf(l mountLine, hs []selfHierarchy) (uint32, bool) {
	if l.v2 {
		return 0, true
	}
	for _, h := range hs {
		named := h.Name != "" && slices.Contains(l.options, "name="+h.Name)
		bound := slices.ContainsFunc(h.Controllers, func(c string) bool { return slices.Contains(l.options, c) })
		if h.ID != 0 && (named || bound) {
			return h.ID, true
		}
	}
	return 0, false
}

// openBest opens the mount that shows the most of a hierarchy. A mount point
// that another mount hides is recognised by its device number and left out.
func openBest(h uint32, lines []mountLine, hs []selfHierarchy, old *table) *mount {
	lines = slices.Clone(lines)
	slices.SortStableFunc(lines, compareMounts)
	self := "/"
	if i := slices.IndexFunc(hs, func(s selfHierarchy) bool { return s.ID == h }); i >= 0 {
		self = hs[i].self
	}
	for _, l := range lines {
		if m := old.mounts[h]; m != nil && m.same(l) {
			return m
		}
		if m, err := openMount(h, l, self); err == nil {
			return m
		}
	}
	return nil
}

// compareMounts puts first what reaches furthest up, then what is at the usual
// place, then the shortest.
func compareMounts(a, b mountLine) int {
	if d := rank(a.root) - rank(b.root); d != 0 {
		return d
	}
	_, ua := below(a.point, "/sys/fs/cgroup")
	_, ub := below(b.point, "/sys/fs/cgroup")
	if ua != ub {
		if ua {
			return -1
		}
		return 1
	}
	return len(a.point) - len(b.point)
}

// rank is the depth of a mount's root below the agent's cgroup namespace, less
// than 0 above it.
func rank(root string) int {
	ups, rest := splitUps(root)
	return strings.Count(strings.TrimRight(rest, "/"), "/") - ups
}

// describe completes the list with v2, which has no line until it was mounted,
// and with what only the mounts tell.
func describe(hs []selfHierarchy, mounts map[uint32]*mount) []Hierarchy {
	out := make([]Hierarchy, 0, len(hs)+1)
	for _, h := range hs {
		out = append(out, h.Hierarchy)
	}
	isV2 := func(h Hierarchy) bool { return h.ID == 0 }
	if mounts[0] != nil && !slices.ContainsFunc(out, isV2) {
		out = append(out, Hierarchy{})
	}
	for i := range out {
		if m := mounts[out[i].ID]; m != nil {
			out[i].Mount = m.point
			if isV2(out[i]) {
				out[i].Controllers = m.controllers()
			}
		}
	}
	slices.SortFunc(out, func(a, b Hierarchy) int { return int(a.ID) - int(b.ID) })
	return out
}
