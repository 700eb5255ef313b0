// SPDX-License-Identifier: Apache-2.0

package runtimespec

import (
	"encoding/json"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
)

// The annotations that engines of Kubernetes write.
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
)

// CRI puts into c what containerd's CRI plugin says in annotations. The caller
// knows that it was the plugin: whoever may choose annotations could say the same.
func CRI(c *workload.Container, a map[string]string) {
	if a[criType] == "" {
		return
	}
	c.Image = ImageRef(a[criImage])
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

// CRIO is CRI for CRI-O.
func CRIO(c *workload.Container, a map[string]string) {
	c.Image = ImageRef(a[crioImage])
	if id := a[crioImageRef]; IsHex64(id) {
		c.Image.ID = "sha256:" + id
	}
	c.Sandbox = a[crioType] == "sandbox"
	c.Name = a[kubeName]
	c.Pod = &workload.PodRef{UID: a[kubePodUID], Name: a[kubePodName], Namespace: a[kubePodSpace]}
	if c.Sandbox {
		c.Name = c.Pod.Name
	}
	var labels map[string]string
	if err := json.Unmarshal([]byte(a[crioLabels]), &labels); err == nil {
		c.Labels = labels
	} else if a[crioLabels] != "" {
		c.Truncated = append(c.Truncated, "labels")
	}
}

// ImageRef splits name:tag@digest.
func ImageRef(name string) workload.ImageRef {
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

// IsHex64 says whether an id was chosen by an engine: 64 hexadecimal digits.
func IsHex64(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
