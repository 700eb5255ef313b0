// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Lookup asks for one container or sandbox with its runtime-spec: one call where
// a Watch runs, which knows the sandboxes. An id that it does not know may be that
// of one that is being made: then it looks again soon.
func (c *Collector) Lookup(ctx context.Context, id workload.ContainerID) (*workload.Container, error) {
	n, e, err := c.ask(ctx)
	if err != nil {
		return nil, fmt.Errorf("cri: look up: %w", err)
	}
	if err := e.mine(id); err != nil {
		return nil, fmt.Errorf("cri: look up %q: %w", cut(id.String()), err)
	}
	out, err := c.describe(ctx, n, e, id.ID)
	if err != nil {
		return nil, fmt.Errorf("cri: look up %s: %w", id.ID, err)
	}
	return out, nil
}

func (c *Collector) describe(ctx context.Context, n *conn, e engine, id string) (*workload.Container, error) {
	if c.memory.isSandbox(id) {
		out, _, err := c.sandbox(ctx, n, e, id)
		return out, err
	}
	out, err := c.container(ctx, n, e, id)
	if err == nil {
		c.memory.setTold(id, out.State)
	}
	if !errors.Is(err, collectors.ErrNotFound) {
		return out, err
	}
	if c.memory.isLive() {
		c.Nudge()
		return nil, err
	}
	out, _, err = c.sandbox(ctx, n, e, id)
	return out, err
}

// container asks for one container. One whose reply cannot be taken is asked for
// without its spec, and what is left of it then is its id.
func (c *Collector) container(ctx context.Context, n *conn, e engine, id string) (*workload.Container, error) {
	r, err := c.containerStatus(ctx, n, id, true)
	cutAway := []string(nil)
	if errors.Is(err, errUnreadable) {
		cutAway = []string{"spec"}
		r, err = c.containerStatus(ctx, n, id, false)
	}
	if errors.Is(err, errUnreadable) {
		return &workload.Container{ID: e.id(id), Runtime: e.name, Truncated: []string{"image", "labels", "spec"}}, nil
	}
	if err != nil {
		return nil, err
	}
	out := c.fromContainer(e, r.Status, r.Info)
	out.Truncated = append(out.Truncated, cutAway...)
	collectors.Bound(out)
	return out, nil
}

func (c *Collector) containerStatus(ctx context.Context, n *conn, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	r, err := n.api.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: verbose})
	if err != nil {
		return nil, translate("container status", err)
	}
	if r.Status.GetId() != id {
		return nil, fmt.Errorf("container status: %w: the answer is about another container", collectors.ErrUnavailable)
	}
	return r, nil
}

// sandbox asks for one sandbox, which is a container and a pod.
func (c *Collector) sandbox(ctx context.Context, n *conn, e engine, id string) (*workload.Container, *workload.Pod, error) {
	r, err := c.sandboxStatus(ctx, n, id, true)
	cutAway := []string(nil)
	if errors.Is(err, errUnreadable) {
		cutAway = []string{"spec"}
		r, err = c.sandboxStatus(ctx, n, id, false)
	}
	if errors.Is(err, errUnreadable) {
		return &workload.Container{ID: e.id(id), Runtime: e.name, Sandbox: true, Truncated: []string{"labels", "spec"}}, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	out := c.fromSandbox(e, r.Status, r.Info)
	out.Truncated = append(out.Truncated, cutAway...)
	collectors.Bound(out)
	pod := podOf(e, r.Status)
	pod.Containers = statusContainers(e, r.ContainersStatuses)
	return out, pod, nil
}

func (c *Collector) sandboxStatus(ctx context.Context, n *conn, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	r, err := n.api.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id, Verbose: verbose})
	if err != nil {
		return nil, translate("pod sandbox status", err)
	}
	if r.Status.GetId() != id {
		return nil, fmt.Errorf("pod sandbox status: %w: the answer is about another sandbox", collectors.ErrUnavailable)
	}
	return r, nil
}
