// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// cgroupFiles finds cgroups by their directories. It is the CgroupReader for a
// caller that gave none, and walks the trees for the Poller. Immutable.
type cgroupFiles struct {
	// mounts has the directory of each hierarchy that is mounted below root.
	mounts map[uint32]string
}

// cgroupRoot gives the default mount point of the hierarchies.
func cgroupRoot(root, sysfs string) string {
	if root != "" {
		return root
	}
	return filepath.Join(sysfs, "fs/cgroup")
}

func newCgroupFiles(procfs, root string) *cgroupFiles {
	c := &cgroupFiles{mounts: make(map[uint32]string)}
	hs, err := readHierarchies(procfs)
	if err != nil {
		return c
	}
	for _, h := range hs {
		if dir := hierarchyDir(root, h); dir != "" {
			c.mounts[h.ID] = dir
		}
	}
	return c
}

// hierarchyDir finds where below root a hierarchy is mounted, by the names that
// systemd and every runtime use: v2 at the root itself or at unified, v1 by its
// list of controllers or by one of them, a named one by its name.
func hierarchyDir(root string, h Hierarchy) string {
	if h.ID == 0 {
		for _, dir := range []string{root, filepath.Join(root, "unified")} {
			if fsType(dir) == unix.CGROUP2_SUPER_MAGIC {
				return dir
			}
		}
		return ""
	}
	names := append([]string{strings.Join(h.Controllers, ","), h.Name}, h.Controllers...)
	for _, name := range names {
		dir := filepath.Join(root, name)
		if name != "" && fsType(dir) == unix.CGROUP_SUPER_MAGIC {
			return dir
		}
	}
	return ""
}

func fsType(dir string) int64 {
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil {
		return 0
	}
	return int64(fs.Type)
}

// read is a CgroupReader.
func (c *cgroupFiles) read(dir *os.File) (set CgroupSet, err error) {
	err = readAt(int(dir.Fd()), "cgroup", func(b []byte) error {
		for line := range bytes.Lines(b) {
			h, path, ok := parseCgroupLine(strings.TrimSuffix(string(line), "\n"))
			if !ok {
				continue
			}
			if ino := c.inode(h.ID, path); ino != 0 {
				set.add(workload.CgroupID{Hierarchy: h.ID, ID: ino})
			}
		}
		return nil
	})
	return set, err
}

// inode gives the id of a cgroup by its path, 0 if it cannot. A path that leads
// out of the mount (a cgroup outside of our cgroup namespace) is not followed;
// one that ends in " (deleted)" does not exist, unless somebody made a cgroup of
// that very name, which is left out too.
func (c *cgroupFiles) inode(hierarchy uint32, path string) uint64 {
	mount, ok := c.mounts[hierarchy]
	if !ok || !strings.HasPrefix(path, "/") || strings.HasPrefix(path+"/", "/../") || strings.HasSuffix(path, " (deleted)") {
		return 0
	}
	return inodeOf(mount + path)
}

// maxCgroups bounds a walk; the kernel's own limit is 65535 for a v1 controller
// (MEM_CGROUP_ID_MAX) and none for v2.
const maxCgroups = 100_000

// walk lists every cgroup of every mounted hierarchy, parents first.
func (c *cgroupFiles) walk() map[workload.CgroupID]Cgroup {
	found := make(map[workload.CgroupID]Cgroup)
	for id, mount := range c.mounts {
		root := Cgroup{ID: workload.CgroupID{Hierarchy: id, ID: inodeOf(mount)}, Path: "/"}
		found[root.ID] = root
		walkCgroups(mount, root, found)
	}
	return found
}

func walkCgroups(mount string, above Cgroup, found map[workload.CgroupID]Cgroup) {
	entries, err := os.ReadDir(mount + above.Path)
	if err != nil {
		return // removed meanwhile
	}
	for _, e := range entries {
		if !e.IsDir() || len(found) >= maxCgroups {
			continue
		}
		cg := Cgroup{Parent: above.ID.ID, Level: above.Level + 1, Path: strings.TrimSuffix(above.Path, "/") + "/" + e.Name()}
		cg.ID = workload.CgroupID{Hierarchy: above.ID.Hierarchy, ID: inodeOf(mount + cg.Path)}
		if cg.ID.ID == 0 {
			continue
		}
		found[cg.ID] = cg
		walkCgroups(mount, cg, found)
	}
}
