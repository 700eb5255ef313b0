// SPDX-License-Identifier: Apache-2.0

// Package cgroupdir reads what the host's cgroup file systems say of one cgroup, for
// collectors of what makes cgroups by itself.
//
// All functions may be called concurrently. Nothing is kept.
package cgroupdir

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// maxMounts bounds the hierarchies that are looked for: the kernel has 16 controllers.
const maxMounts = 32

// Mounts gives the mount points below where the host's cgroups are, cgroup2's first.
func Mounts(root string) []string {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{root}
	}
	list := []string{root + "/unified", root + "/systemd"}
	dirs, _ := os.ReadDir(root) // without one there is nothing to be found
	for _, d := range dirs[:min(len(dirs), maxMounts)] {
		if dir := filepath.Join(root, d.Name()); d.IsDir() && !slices.Contains(list, dir) {
			list = append(list, dir)
		}
	}
	return list
}

// Frozen reports whether a cgroup, by its absolute path in whichever hierarchy, is frozen
// or below one that is.
func Frozen(root, cgroup string) bool {
	for _, top := range Mounts(root) {
		// Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst and cgroup-v2.rst; both
		// files are a few words. What is not there is not frozen.
		if text, err := os.ReadFile(top + cgroup + "/freezer.state"); err == nil && string(bytes.TrimSpace(text)) == "FROZEN" {
			return true
		}
		if text, err := os.ReadFile(top + cgroup + "/cgroup.events"); err == nil && bytes.Contains(text, []byte("frozen 1\n")) {
			return true
		}
	}
	return false
}
