// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"path/filepath"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
)

// The annotations that engines write into a bundle.
const (
	criType      = "io.kubernetes.cri.container-type"
	criName      = "io.kubernetes.cri.container-name"
	criImage     = "io.kubernetes.cri.image-name"
	criPodName   = "io.kubernetes.cri.sandbox-name"
	criPodSpace  = "io.kubernetes.cri.sandbox-namespace"
	criPodUID    = "io.kubernetes.cri.sandbox-uid"
	crioType     = "io.kubernetes.cri-o.ContainerType"
	crioImage    = "io.kubernetes.cri-o.ImageName"
	crioImageRef = "io.kubernetes.cri-o.ImageRef"
	crioLabels   = "io.kubernetes.cri-o.Labels"
	kubeName     = "io.kubernetes.container.name"
	kubePodName  = "io.kubernetes.pod.name"
	kubePodSpace = "io.kubernetes.pod.namespace"
	kubePodUID   = "io.kubernetes.pod.uid"
	manager      = "io.container.manager"
	nerdctlName  = "nerdctl/name"
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
	case r.engine == engineContainerd && a[criType] != "" && r.namespace == "k8s.io":
		c.Runtime = engineContainerd
		annotateCRI(c, a)
	case r.engine == engineContainerd:
		c.Runtime = engineContainerd
		c.Name = a[nerdctlName]
		nameByID(c)
	case a[manager] == "cri-o":
		c.Runtime = "cri-o"
		annotateCRIO(c, a)
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
	if c.Name == "" && !isHex64(c.ID.ID) {
		c.Name = c.ID.ID
	}
}

func isHex64(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// isBuildStep: BuildKit's executor, dockerd's built-in one included, runs each
// RUN of a Dockerfile from <its root>/executor/<25 characters> with runc's default state directory.
func isBuildStep(bundle string) bool {
	return filepath.Base(filepath.Dir(bundle)) == "executor" && len(filepath.Base(bundle)) == 25
}

func annotateCRI(c *workload.Container, a map[string]string) {
	c.Image = imageRef(a[criImage])
	c.Sandbox = a[criType] == "sandbox"
	c.Name = a[criName]
	if a[criPodName] == "" && a[criPodUID] == "" {
		return
	}
	// containerd before 1.6.9 does not say the uid.
	c.Pod = &workload.PodRef{UID: a[criPodUID], Name: a[criPodName], Namespace: a[criPodSpace]}
	if c.Sandbox {
		c.Name = c.Pod.Name
	}
}

func annotateCRIO(c *workload.Container, a map[string]string) {
	c.Image = imageRef(a[crioImage])
	if id := a[crioImageRef]; isHex64(id) {
		c.Image.ID = "sha256:" + id
	}
	c.Sandbox = a[crioType] == "sandbox"
	c.Name = a[kubeName]
	c.Pod = &workload.PodRef{UID: a[kubePodUID], Name: a[kubePodName], Namespace: a[kubePodSpace]}
	if c.Sandbox {
		c.Name = c.Pod.Name
	}
	var labels map[string]string
	if json.Unmarshal([]byte(a[crioLabels]), &labels) == nil {
		c.Labels = labels
	}
}

// imageRef splits name:tag@digest.
func imageRef(name string) workload.ImageRef {
	ref := workload.ImageRef{Name: name}
	rest, digest, ok := strings.Cut(name, "@")
	if ok {
		ref.Digest = digest
	}
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		ref.Tag = rest[i+1:]
	}
	return ref
}
