// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
)

// nsRoot tells how the paths that the kernel prints for the agent become paths
// of a mount that reaches above the agent's cgroup namespace: an agent in a
// container with a cgroup namespace of its own, with the host's mounts. The
// zero value is for every other mount: the paths are the same.
type nsRoot struct {
	// ups is how many levels the mount's root is above the namespace's.
	ups int
	// names are those levels, top first; nil if they could not be found out.
	names []string
}

// translate gives the path from the mount's root, false if it cannot be told
// or is above it.
func (n nsRoot) translate(path string) (string, bool) {
	ups, rest := splitUps(path)
	switch {
	case n.ups == 0:
		return path, ups == 0
	case ups > n.ups, ups < n.ups && n.names == nil:
		return "", false
	case ups == n.ups:
		return rest, true
	}
	base := "/" + strings.Join(n.names[:n.ups-ups], "/")
	return join(base, strings.TrimPrefix(rest, "/")), true
}

// findNamespace finds out where the agent's cgroup namespace is: the agent's
// own cgroup is known from both sides, by its path in the namespace (self) and
// by having the agent's PID in it.
func (m *mount) findNamespace(ups int, self string) nsRoot {
	n := nsRoot{ups: ups}
	if above, _ := splitUps(self); above > 0 {
		return n
	}
	rel, err := m.findProcess(workload.PID(os.Getpid()))
	if err != nil {
		return n
	}
	root, ok := strings.CutSuffix("/"+rel, strings.TrimSuffix(self, "/"))
	names := strings.Split(strings.TrimPrefix(root, "/"), "/")
	if ok && len(names) == ups {
		n.names = names
	}
	return n
}

// findProcess searches all cgroups for the one that a process is in.
func (m *mount) findProcess(pid workload.PID) (string, error) {
	found := ""
	err := m.walk(func(rel string, _ uint64) error {
		h, err := m.open(rel)
		if err != nil {
			return nil //nolint:nilerr // it is gone; the walk goes on
		}
		defer h.close()
		if pids, err := readProcs(h.fd); err == nil && slices.Contains(pids, pid) {
			found = rel
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		return found, nil
	}
	if err == nil {
		err = ErrGone
	}
	return "", err
}
