// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Hierarchy is a cgroup hierarchy of this host.
type Hierarchy struct {
	// ID is its number, 0 for v2.
	ID uint32
	// Controllers are the v1 controllers bound to it, as /proc names them.
	Controllers []string
	// Name is that of a hierarchy without a controller ("systemd" of name=systemd).
	Name string
}

// String gives it as a line of /proc/PID/cgroup has it.
func (h Hierarchy) String() string {
	s := strings.Join(h.Controllers, ",")
	if h.Name != "" {
		s = strings.TrimPrefix(s+",name="+h.Name, ",")
	}
	return fmt.Sprintf("%d:%s", h.ID, s)
}

// maxHierarchyLines bounds what is read of a cgroup file: more lines than the
// kernel has room for are not from a kernel.
const maxHierarchyLines = 64

// readHierarchies lists the hierarchies by a process's own cgroup file, which
// has a line for each, whatever its cgroup namespace. Not /proc/cgroups: that
// one knows no named hierarchies.
func readHierarchies(procfs string) ([]Hierarchy, error) {
	b, err := os.ReadFile(filepath.Join(procfs, "self/cgroup"))
	if errors.Is(err, os.ErrNotExist) {
		// procfs is of another PID namespace than ours.
		b, err = os.ReadFile(filepath.Join(procfs, "1/cgroup"))
	}
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	return parseHierarchies(b), nil
}

func parseHierarchies(b []byte) []Hierarchy {
	var hs []Hierarchy
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() && len(hs) < maxHierarchyLines {
		if h, _, ok := parseCgroupLine(sc.Text()); ok {
			hs = append(hs, h)
		}
	}
	return hs
}

// parseCgroupLine reads "4:cpu,cpuacct:/path". The path is hostile and may hold colons.
func parseCgroupLine(line string) (h Hierarchy, path string, ok bool) {
	number, rest, ok := strings.Cut(line, ":")
	if !ok {
		return h, "", false
	}
	list, path, ok := strings.Cut(rest, ":")
	if !ok {
		return h, "", false
	}
	id, err := strconv.ParseUint(number, 10, 31)
	if err != nil {
		return h, "", false
	}
	h.ID = uint32(id)
	for c := range strings.SplitSeq(list, ",") {
		if name, named := strings.CutPrefix(c, "name="); named {
			h.Name = name
		} else if c != "" {
			h.Controllers = append(h.Controllers, c)
		}
	}
	return h, path, true
}
