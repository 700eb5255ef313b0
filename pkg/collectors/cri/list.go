// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/runtimespec"
	"github.com/pidigree/pidigree/pkg/workload"
)

// maxExits bounds the ended containers that one list asks about.
const maxExits = 256

// lists are the sandboxes and the containers of an engine.
type lists struct {
	sandboxes  []*runtimeapi.PodSandbox
	containers []*runtimeapi.Container
	// seq is the memory's, from before they were asked for.
	seq uint64
}

// List describes the sandboxes and the containers: two calls, and one for each
// container that has ended and whose exit nobody has asked for yet.
func (c *Collector) List(ctx context.Context) iter.Seq2[*workload.Container, error] {
	return func(yield func(*workload.Container, error) bool) {
		n, e, err := c.ask(ctx)
		if err != nil {
			yield(nil, fmt.Errorf("cri: list: %w", err))
			return
		}
		all, err := c.both(ctx, n)
		if err != nil && !yield(nil, fmt.Errorf("cri: list: %w", err)) || all == nil {
			return
		}
		c.memory.listed(all, all.pods(e), e)
		for _, s := range all.sandboxes {
			if !yield(fromListedSandbox(e, s), nil) {
				return
			}
		}
		exits := 0
		for _, l := range all.containers {
			out := fromListed(e, l)
			if out.State == workload.StateExited && exits < maxExits {
				exits++
				if full, err := c.container(ctx, n, e, l.Id); err == nil {
					out = full
				}
			}
			if !yield(out, nil) {
				return
			}
		}
	}
}

// both lists the sandboxes and the containers. What can be had of them comes with
// an error about the rest; lists are nil where nothing can.
func (c *Collector) both(ctx context.Context, n *conn) (*lists, error) {
	all := &lists{seq: c.memory.now()}
	var bad error
	if all.sandboxes, bad = c.listSandboxes(ctx, n, nil); bad != nil && !errors.Is(bad, errUnreadable) {
		return nil, bad
	}
	var err error
	all.containers, err = c.listContainers(ctx, n, nil)
	if errors.Is(err, errUnreadable) && bad == nil {
		err = c.podByPod(ctx, n, all)
	}
	if err != nil && !errors.Is(err, errUnreadable) {
		return nil, err
	}
	if bad == nil {
		bad = err
	}
	return all, bad
}

// podByPod lists the containers of each sandbox by themselves.
func (c *Collector) podByPod(ctx context.Context, n *conn, all *lists) error {
	unreadable := 0
	var last error
	for _, s := range all.sandboxes {
		list, err := c.listContainers(ctx, n, &runtimeapi.ContainerFilter{PodSandboxId: s.Id})
		if err != nil && !errors.Is(err, errUnreadable) {
			return err
		}
		if err != nil {
			unreadable, last = unreadable+1, err
		}
		all.containers = append(all.containers, list...)
	}
	if unreadable == 0 {
		return nil
	}
	return fmt.Errorf("the containers of %d pods are left out: %w", unreadable, last)
}

func (c *Collector) listSandboxes(ctx context.Context, n *conn, f *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	r, err := n.api.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: f}, grpc.MaxCallRecvMsgSize(collectors.MaxPodList))
	if err != nil {
		return nil, notOne(translate("list pod sandboxes", err))
	}
	return slices.DeleteFunc(r.Items, func(s *runtimeapi.PodSandbox) bool { return !runtimespec.IsHex64(s.GetId()) }), nil
}

func (c *Collector) listContainers(ctx context.Context, n *conn, f *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	r, err := n.api.ListContainers(ctx, &runtimeapi.ListContainersRequest{Filter: f}, grpc.MaxCallRecvMsgSize(collectors.MaxPodList))
	if err != nil {
		return nil, notOne(translate("list containers", err))
	}
	return slices.DeleteFunc(r.Containers, func(l *runtimeapi.Container) bool { return !runtimespec.IsHex64(l.GetId()) }), nil
}

// notOne: a list that is not found is no answer.
func notOne(err error) error {
	if errors.Is(err, collectors.ErrNotFound) {
		return fmt.Errorf("%w: %s", collectors.ErrUnavailable, err.Error())
	}
	return err
}

// notForAll: what cannot be read about one is unavailable to who asked for one.
func notForAll(err error) error {
	if errors.Is(err, errUnreadable) {
		return unavailable(err)
	}
	return err
}

// group is one pod: its sandboxes, the newest first, and its containers.
type group struct {
	uid        string
	sandboxes  []*runtimeapi.PodSandbox
	containers []workload.PodContainer
}

// pods groups what is listed by pod, in the order of the uids.
func (l *lists) pods(e engine) []*group {
	groups, bySandbox := map[string]*group{}, map[string]*group{}
	for _, s := range l.sandboxes {
		uid := s.Metadata.GetUid()
		if uid == "" || len(uid) > maxUID {
			continue
		}
		if groups[uid] == nil {
			groups[uid] = &group{uid: uid, containers: []workload.PodContainer{}}
		}
		bySandbox[s.Id] = groups[uid]
		groups[uid].sandboxes = append(groups[uid].sandboxes, s)
	}
	for _, k := range l.containers {
		if g := bySandbox[k.PodSandboxId]; g != nil {
			g.containers = append(g.containers, podContainer(e, k))
		}
	}
	out := make([]*group, 0, len(groups))
	for _, uid := range slices.Sorted(maps.Keys(groups)) {
		g := groups[uid]
		newestFirst(g.sandboxes)
		g.containers = currentOnly(g.containers)
		out = append(out, g)
	}
	return out
}
