// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"path/filepath"

	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The annotations that tell who manages a container.
const (
	manager     = "io.container.manager"
	nerdctlName = "nerdctl/name"
)

// annotate puts into c who it is, as the root and the annotations tell.
//
// Who may write annotations decides what is believed: CRI's only in the
// namespace that kubelet uses, CRI-O's only where its mark is, none for Docker,
// which has no pods. A user who runs runc himself describes his own container.
func annotate(c *workload.Container, r root, a map[string]string) {
	switch {
	case r.engine == engineDocker:
		c.Runtime = engineDocker
	case r.engine == engineContainerd && r.namespace == "k8s.io":
		c.Runtime = engineContainerd
		runtimespec.CRI(c, a)
	case r.engine == engineContainerd:
		c.Runtime = engineContainerd
		c.Name = a[nerdctlName]
		nameByID(c)
	case a[manager] == "cri-o":
		c.Runtime = "cri-o"
		runtimespec.CRIO(c, a)
	case a[manager] == "libpod":
		c.Runtime = "podman"
	case isBuildStep(c.Bundle):
		c.Runtime = "buildkit"
		c.Name = c.ID.ID
	default:
		c.Runtime = c.ID.Runtime
		c.Labels = a
		nameByID(c)
	}
}

// nameByID: an id that a user chose is a name; 64 hexadecimal digits were chosen by an engine.
func nameByID(c *workload.Container) {
	if c.Name == "" && !runtimespec.IsHex64(c.ID.ID) {
		c.Name = c.ID.ID
	}
}

// isBuildStep: BuildKit's executor, dockerd's built-in one included, runs each
// RUN of a Dockerfile from <its root>/executor/<25 characters> with runc's default state directory.
func isBuildStep(bundle string) bool {
	return filepath.Base(filepath.Dir(bundle)) == "executor" && len(filepath.Base(bundle)) == 25
}
