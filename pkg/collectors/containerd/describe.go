// SPDX-License-Identifier: Apache-2.0

package containerd

import (
	"bytes"
	"context"
	"strings"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The namespaces whose owner gives labels and annotations a meaning.
const (
	namespaceKubernetes = "k8s.io"
	namespaceDocker     = "moby"
)

// The labels by which containerd's CRI plugin and nerdctl say who it is.
const (
	labelKind     = "io.cri-containerd.kind"
	labelName     = "io.kubernetes.container.name"
	labelPodName  = "io.kubernetes.pod.name"
	labelPodSpace = "io.kubernetes.pod.namespace"
	labelPodUID   = "io.kubernetes.pod.uid"
	labelNerdctl  = "nerdctl/name"
)

func isHex64(s string) bool { return runtimespec.IsHex64(s) }

// describe joins a record with what is remembered of its task and image.
func (c *Collector) describe(ctx context.Context, n *conn, r record) *workload.Container {
	out := c.fromRecord(r)
	c.memory.fill(out)
	c.claimCgroup(out, r)
	if out.Image.Name != "" && out.Image.Digest == "" {
		out.Image.Digest = c.digest(ctx, n, r)
	}
	collectors.Bound(out)
	return out
}

// withoutRecord stands for a record that is too large to be had: its id is known.
func (c *Collector) withoutRecord(namespace, id string) record {
	return record{namespace, &containersapi.Container{ID: id}, true}
}

// claimCgroup says where the spec asked for the cgroup: what is in it is the
// container's, once its init is seen there.
func (c *Collector) claimCgroup(out *workload.Container, r record) {
	if out.Run == nil {
		return
	}
	if spec := c.specOf(r, &workload.Container{}); spec != nil && spec.CgroupPath() != "" {
		out.Run.ClaimedPaths = []string{spec.CgroupPath()}
	}
}

// fromRecord says what the record says.
func (c *Collector) fromRecord(r record) *workload.Container {
	out := &workload.Container{
		ID:      c.idOf(r.namespace, r.ID),
		Runtime: runtimeName,
		Labels:  r.Labels,
		Image:   runtimespec.ImageRef(r.Image),
	}
	if r.CreatedAt.IsValid() {
		out.Created = r.CreatedAt.AsTime()
	}
	if r.missing {
		out.Truncated = append(out.Truncated, "image", "labels", "spec")
	}
	spec := c.specOf(r, out)
	if spec != nil {
		spec.Fill(out, c.envAllow)
	}
	switch r.namespace {
	case namespaceDocker:
		out.Runtime = "docker" // and Docker knows the rest
	case namespaceKubernetes:
		kubernetes(out, r, spec)
	default:
		out.Name = r.Labels[labelNerdctl]
	}
	if out.Name == "" && !isHex64(r.ID) {
		out.Name = r.ID // a user chose it
	}
	return out
}

// specOf parses the spec; containerd keeps it as JSON in an Any.
func (c *Collector) specOf(r record, out *workload.Container) *runtimespec.Spec {
	if r.Spec == nil || !strings.Contains(r.Spec.TypeUrl, "opencontainers/runtime-spec") {
		return nil // a sandboxed runtime of another kind
	}
	spec, err := runtimespec.Read(bytes.NewReader(r.Spec.Value), collectors.Reading(c.envAllow))
	if err == nil {
		return spec
	}
	c.log.Debug("spec not read", "container", r.ID, "err", err)
	out.Truncated = append(out.Truncated, "spec")
	return nil
}

// kubernetes adds the pod. The annotations are the plugin's own; kubelet's
// labels add the uid, which containerd before 1.6.9 does not annotate. An
// image's labels are beneath kubelet's, so they are asked last.
func kubernetes(out *workload.Container, r record, spec *runtimespec.Spec) {
	if spec != nil {
		runtimespec.CRI(out, spec.Annotations)
	}
	if r.Labels[labelKind] == "" {
		return // not the plugin's
	}
	out.Sandbox = out.Sandbox || r.Labels[labelKind] == "sandbox"
	if out.Pod == nil {
		out.Pod = &workload.PodRef{Name: r.Labels[labelPodName], Namespace: r.Labels[labelPodSpace]}
	}
	if out.Pod.UID == "" {
		out.Pod.UID = r.Labels[labelPodUID]
	}
	if out.Name == "" {
		out.Name = r.Labels[labelName]
	}
	if out.Sandbox {
		out.Name = out.Pod.Name
	}
}
