// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// maxUID bounds a pod's uid: a UUID, a static pod's hash, whatever a client chose.
const maxUID = 128

// LookupPod asks for one pod: by its sandbox, where a Watch knows that, else by
// the kubelet's label, which gives all but the addresses; without a Watch that
// would bring them, those are a second call.
func (c *Collector) LookupPod(ctx context.Context, uid string) (*workload.Pod, error) {
	n, e, err := c.ask(ctx)
	if err != nil {
		return nil, fmt.Errorf("cri: look up pod: %w", err)
	}
	if uid == "" || len(uid) > maxUID {
		return nil, fmt.Errorf("cri: look up pod %q: %w", cut(uid), collectors.ErrNotFound)
	}
	pod, err := c.pod(ctx, n, e, uid)
	if err != nil {
		return nil, fmt.Errorf("cri: look up pod %s: %w", uid, err)
	}
	collectors.BoundPod(pod)
	return pod, nil
}

func (c *Collector) pod(ctx context.Context, n *conn, e engine, uid string) (*workload.Pod, error) {
	if known := c.memory.pod(uid); known != nil {
		_, pod, err := c.sandbox(ctx, n, e, known.Sandboxes[0].ID)
		if err == nil && pod != nil && pod.UID == uid {
			c.memory.setAddresses(pod)
			return complete(pod, known), nil
		}
		if err != nil && !errors.Is(err, collectors.ErrNotFound) {
			return nil, err
		}
	}
	list, err := c.listSandboxes(ctx, n, &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{labelPodUID: uid}})
	if err != nil {
		return nil, notForAll(err)
	}
	list = slices.DeleteFunc(list, func(s *runtimeapi.PodSandbox) bool { return s.Metadata.GetUid() != uid })
	if len(list) == 0 {
		return nil, collectors.ErrNotFound
	}
	newestFirst(list)
	pod := podOfListed(e, list)
	if c.memory.isLive() {
		c.Nudge() // a sandbox that it has not seen
		return pod, nil
	}
	c.addAddresses(ctx, n, e, pod)
	return pod, nil
}

// complete adds to a pod that its sandbox described what else is known of it.
func complete(pod, known *workload.Pod) *workload.Pod {
	pod.Sandboxes, pod.Created = slices.Clone(known.Sandboxes), known.Created
	if pod.Containers == nil {
		pod.Containers = slices.Clone(known.Containers)
	}
	return pod
}

// addAddresses adds what only a status says. A pod without it is still a pod.
func (c *Collector) addAddresses(ctx context.Context, n *conn, e engine, pod *workload.Pod) {
	r, err := c.sandboxStatus(ctx, n, pod.Sandboxes[0].ID, false)
	if err != nil {
		return
	}
	s := podOf(e, r.Status)
	c.memory.setAddresses(s)
	addAddresses(pod, s)
	if pod.Containers == nil {
		pod.Containers = statusContainers(e, r.ContainersStatuses)
	}
}

func addAddresses(pod, s *workload.Pod) {
	pod.IPs, pod.HostNetwork, pod.RuntimeHandler = slices.Clone(s.IPs), s.HostNetwork, cmp.Or(s.RuntimeHandler, pod.RuntimeHandler)
}

// ListPods lists the pods with their containers: two calls, and one for the
// addresses of each pod that runs.
func (c *Collector) ListPods(ctx context.Context) iter.Seq2[*workload.Pod, error] {
	return func(yield func(*workload.Pod, error) bool) {
		n, e, err := c.ask(ctx)
		if err != nil {
			yield(nil, fmt.Errorf("cri: list pods: %w", err))
			return
		}
		all, err := c.both(ctx, n)
		if err != nil && !yield(nil, fmt.Errorf("cri: list pods: %w", err)) || all == nil {
			return
		}
		for _, g := range all.pods(e) {
			pod := g.pod(e)
			if g.sandboxes[0].State == runtimeapi.PodSandboxState_SANDBOX_READY {
				c.addAddresses(ctx, n, e, pod)
			}
			collectors.BoundPod(pod)
			if !yield(pod, nil) {
				return
			}
		}
	}
}

// pod describes a pod as lists have it, without addresses.
func (g *group) pod(e engine) *workload.Pod {
	pod := podOfListed(e, g.sandboxes)
	pod.Containers = g.containers
	return pod
}

// newestFirst sorts the sandboxes of one pod: the kubelet makes a new one, as a
// further attempt, where the last has ended.
func newestFirst(list []*runtimeapi.PodSandbox) {
	slices.SortFunc(list, func(a, b *runtimeapi.PodSandbox) int {
		return cmp.Or(cmp.Compare(b.Metadata.GetAttempt(), a.Metadata.GetAttempt()), cmp.Compare(b.CreatedAt, a.CreatedAt), cmp.Compare(a.Id, b.Id))
	})
}

// podOfListed describes a pod by its sandboxes, the newest first.
func podOfListed(e engine, list []*runtimeapi.PodSandbox) *workload.Pod {
	s := list[0]
	pod := &workload.Pod{
		PodRef:  workload.PodRef{UID: s.Metadata.GetUid(), Name: s.Metadata.GetName(), Namespace: s.Metadata.GetNamespace()},
		Runtime: e.name, Labels: said(s.Labels), Annotations: said(s.Annotations), RuntimeHandler: s.RuntimeHandler,
		Created: timeOf(list[len(list)-1].CreatedAt),
	}
	for _, l := range list {
		pod.Sandboxes = append(pod.Sandboxes, e.id(l.Id))
	}
	return pod
}

// podOf describes a pod by the status of its sandbox.
func podOf(e engine, s *runtimeapi.PodSandboxStatus) *workload.Pod {
	pod := podOfListed(e, []*runtimeapi.PodSandbox{{
		Id: s.Id, Metadata: s.Metadata, CreatedAt: s.CreatedAt, Labels: s.Labels, Annotations: s.Annotations, RuntimeHandler: s.RuntimeHandler,
	}})
	pod.HostNetwork = s.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE
	if ip := s.Network.GetIp(); ip != "" && !pod.HostNetwork {
		pod.IPs = append(pod.IPs, ip)
		for _, more := range s.Network.AdditionalIps {
			pod.IPs = append(pod.IPs, more.GetIp())
		}
	}
	return pod
}

// statusContainers are the containers of a pod as a status of its sandbox has them.
func statusContainers(e engine, list []*runtimeapi.ContainerStatus) []workload.PodContainer {
	var out []workload.PodContainer
	for _, s := range list {
		out = append(out, workload.PodContainer{
			Name: s.GetMetadata().GetName(), ID: e.id(s.GetId()), State: stateOf(s.GetState()), Restarts: s.GetMetadata().GetAttempt(),
			Image: imageOf(imageSaid{s.GetImage(), s.GetImageRef(), s.GetImageId()}).Name,
		})
	}
	return currentOnly(out)
}

// podContainer is a container of a pod as a list has it.
func podContainer(e engine, l *runtimeapi.Container) workload.PodContainer {
	return workload.PodContainer{
		Name: l.Metadata.GetName(), ID: e.id(l.Id), State: stateOf(l.State), Restarts: l.Metadata.GetAttempt(),
		Image: imageOf(imageSaid{l.Image, l.ImageRef, l.ImageId}).Name,
	}
}

// currentOnly leaves the last attempt of each name, in the order of the names.
func currentOnly(list []workload.PodContainer) []workload.PodContainer {
	slices.SortFunc(list, func(a, b workload.PodContainer) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(b.Restarts, a.Restarts), cmp.Compare(a.ID.ID, b.ID.ID))
	})
	return slices.CompactFunc(list, func(a, b workload.PodContainer) bool { return a.Name == b.Name })
}
