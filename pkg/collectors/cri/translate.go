// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"cmp"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// The labels that the kubelet gives every sandbox and container. It writes them
// over a pod's own, and neither an image nor a container can.
const (
	labelPodName  = "io.kubernetes.pod.name"
	labelPodSpace = "io.kubernetes.pod.namespace"
	labelPodUID   = "io.kubernetes.pod.uid"
)

// fromContainer says what a status and its verbose part say.
func (c *Collector) fromContainer(e engine, s *runtimeapi.ContainerStatus, info map[string]string) *workload.Container {
	out := &workload.Container{
		ID: e.id(s.Id), Runtime: e.name,
		Labels: said(s.Labels), Annotations: said(s.Annotations),
		State:   stateOf(s.State),
		Created: timeOf(s.CreatedAt), Started: timeOf(s.StartedAt), Finished: timeOf(s.FinishedAt),
	}
	v := c.addInfo(out, info)
	out.Name = cmp.Or(s.Metadata.GetName(), out.Name)
	out.Attempt = s.Metadata.GetAttempt()
	out.Pod = cmp.Or(podRef(s.Labels), out.Pod)
	out.Image = imageOf(imageSaid{s.Image, s.ImageRef, s.ImageId}, v.Config.Image.UserSpecified, out.Image.Name)
	if v.Spec == nil {
		out.Mounts = mountsOf(s.Mounts)
	}
	out.Run = v.run(out.State)
	if out.State == workload.StateExited {
		out.Exit, out.Reason = exitOf(s), s.Reason
	}
	return out
}

// addInfo adds what the verbose part says, if it can be read.
func (c *Collector) addInfo(out *workload.Container, info map[string]string) verbose {
	v, err := readInfo(info, c.envAllow)
	if err != nil {
		c.log.Debug("verbose status not read", "container", out.ID.ID, "err", err)
		out.Truncated = append(out.Truncated, "spec")
	}
	v.fill(out, c.envAllow)
	return v
}

// fromListed says what a list says of a container. It has no init, no spec and no exit.
func fromListed(e engine, l *runtimeapi.Container) *workload.Container {
	out := &workload.Container{
		ID: e.id(l.Id), Runtime: e.name, Name: l.Metadata.GetName(), Attempt: l.Metadata.GetAttempt(),
		Image:  imageOf(imageSaid{l.Image, l.ImageRef, l.ImageId}),
		Labels: said(l.Labels), Annotations: said(l.Annotations),
		State: stateOf(l.State), Created: timeOf(l.CreatedAt), Pod: podRef(l.Labels),
	}
	collectors.Bound(out)
	return out
}

// fromSandbox describes the container that a sandbox is.
func (c *Collector) fromSandbox(e engine, s *runtimeapi.PodSandboxStatus, info map[string]string) *workload.Container {
	out := &workload.Container{
		ID: e.id(s.Id), Runtime: e.name, Labels: said(s.Labels), Annotations: said(s.Annotations),
		State: sandboxState(s.State), Created: timeOf(s.CreatedAt),
	}
	v := c.addInfo(out, info)
	asSandbox(out, s.Metadata)
	if out.Image.Name == "" {
		out.Image = runtimespec.ImageRef(v.Image)
	}
	if s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
		out.Run = v.run(out.State)
	}
	return out
}

// fromListedSandbox says what a list says of a sandbox.
func fromListedSandbox(e engine, l *runtimeapi.PodSandbox) *workload.Container {
	out := &workload.Container{
		ID: e.id(l.Id), Runtime: e.name, Labels: said(l.Labels), Annotations: said(l.Annotations),
		State: sandboxState(l.State), Created: timeOf(l.CreatedAt),
	}
	asSandbox(out, l.Metadata)
	collectors.Bound(out)
	return out
}

// asSandbox marks a sandbox, which is named after its pod.
func asSandbox(out *workload.Container, m *runtimeapi.PodSandboxMetadata) {
	out.Sandbox = true
	out.Attempt = m.GetAttempt()
	out.Pod = &workload.PodRef{UID: m.GetUid(), Name: m.GetName(), Namespace: m.GetNamespace()}
	out.Name = out.Pod.Name
}

// podRef reads the kubelet's labels.
func podRef(labels map[string]string) *workload.PodRef {
	p := workload.PodRef{UID: labels[labelPodUID], Name: labels[labelPodName], Namespace: labels[labelPodSpace]}
	if p.UID == "" || p.Name == "" || p.Namespace == "" {
		return nil
	}
	return &p
}

// said: a source that answered has said that there are none where there are none.
func said(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func stateOf(s runtimeapi.ContainerState) workload.State {
	switch s {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return workload.StateCreated
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return workload.StateRunning
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return workload.StateExited
	}
	return workload.StateUnknown
}

// sandboxState: a sandbox that is not ready has been stopped or has ended.
func sandboxState(s runtimeapi.PodSandboxState) workload.State {
	if s == runtimeapi.PodSandboxState_SANDBOX_READY {
		return workload.StateRunning
	}
	return workload.StateExited
}

// timeOf takes nanoseconds since 1970; engines write 0, or less, for none.
func timeOf(ns int64) time.Time {
	if ns <= 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// reasonOOM is both engines' word for the kernel's out-of-memory killer.
const reasonOOM = "OOMKilled"

// exitOf: an exit code does not tell 137 from SIGKILL, so the signal is said only
// with the killer's. What an engine lost it calls 255 and Unknown, or less than 0.
func exitOf(s *runtimeapi.ContainerStatus) *workload.Exit {
	if s.ExitCode < 0 || s.ExitCode > 255 || s.ExitCode == 255 && s.Reason == "Unknown" {
		return &workload.Exit{}
	}
	x := &workload.Exit{Known: true, Code: s.ExitCode, OOM: s.Reason == reasonOOM}
	if x.OOM && x.Code == 137 {
		x.Signal = 9
	}
	return x
}

func mountsOf(list []*runtimeapi.Mount) []workload.Mount {
	var out []workload.Mount
	for _, m := range list {
		out = append(out, workload.Mount{Type: "bind", Source: m.GetHostPath(), Destination: m.GetContainerPath(), ReadOnly: m.GetReadonly()})
	}
	return out
}

// imageSaid is what a message says of the image.
type imageSaid struct {
	spec    *runtimeapi.ImageSpec
	ref, id string
}

// imageOf says what image was asked for, and what it was then. The kubelet
// resolves a name before it makes a container, and containerd gives the first of
// all names of an image in its stead: so what the user said, and what the engine
// annotated, come first.
//
// A reference with a digest is one of those that the image has; that of another
// repository is none of the name's.
func imageOf(s imageSaid, better ...string) workload.ImageRef {
	name := ""
	for _, n := range append(better, s.spec.GetUserSpecifiedImage(), s.spec.GetImage()) {
		if name == "" && !isDigest(n) {
			name = n
		}
	}
	ref := runtimespec.ImageRef(name)
	repository, digest, found := strings.Cut(s.ref, "@")
	if found && isDigest(digest) && ref.Digest == "" && name != "" && repositoryOf(ref) == repository {
		ref.Digest = digest
	}
	for _, id := range []string{s.id, s.ref, s.spec.GetImage()} {
		if runtimespec.IsHex64(id) {
			id = "sha256:" + id
		}
		if ref.ID == "" && isDigest(id) {
			ref.ID = id
		}
	}
	return ref
}

// repositoryOf is a name without its tag and digest.
func repositoryOf(ref workload.ImageRef) string {
	name, _, _ := strings.Cut(ref.Name, "@")
	if ref.Tag != "" {
		name = strings.TrimSuffix(name, ":"+ref.Tag)
	}
	return name
}

func isDigest(s string) bool {
	hex, ok := strings.CutPrefix(s, "sha256:")
	return ok && runtimespec.IsHex64(hex)
}
