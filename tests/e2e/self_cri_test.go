// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// A pod's container is told its pod, too: where the engine says it by the CRI, and
// where nobody is asked by it, so that it comes from the bundle and from containerd.
func TestAPodsContainerThatAsksAboutItselfIsToldItsPod(t *testing.T) {
	e := collectortest.StartCRI(t, engineOptions(t))
	for _, f := range []form{
		{name: "everything on"},
		{name: "cgroup programs not loaded", args: []string{"--disable-programs", "cgroup_mkdir,cgroup_rmdir,cgroup_attach"}},
	} {
		t.Run(f.name, func(t *testing.T) {
			agent := harness.StartAgent(t, programs, harness.AgentOptions{CRI: e, Args: f.args})
			askAll(t, criFleet(e), filepath.Dir(agent.Socket))
		})
	}
}

// criFleet makes a pod for each asker, as the kubelet would.
func criFleet(e *collectortest.CRI) fleet {
	return fleet{name: "cri", pod: podOf, start: func(ctx context.Context, socketDir string, want identity) (string, error) {
		p := podOf(want)
		sandbox, err := e.RunPod(ctx, collectortest.PodConfig{Name: p.Name, Namespace: p.Namespace, UID: p.UID})
		if err != nil {
			return "", err
		}
		defer func() { _ = e.RemovePod(context.WithoutCancel(ctx), sandbox) }()
		return runAsker(ctx, e, sandbox, socketDir, want)
	}}
}

// podOf is the pod of an asker in a pod.
func podOf(want identity) workload.PodRef {
	return workload.PodRef{UID: "0a0a0a0a-1111-2222-3333-" + fmt.Sprintf("%012s", want.label), Name: "pod-" + want.name, Namespace: "askers"}
}

// runAsker runs an asker to its end and gives what it printed.
func runAsker(ctx context.Context, e *collectortest.CRI, sandbox, socketDir string, want identity) (string, error) {
	ref := podOf(want)
	p := collectortest.PodConfig{Name: ref.Name, Namespace: ref.Namespace, UID: ref.UID}
	c := collectortest.ContainerConfig{
		Name: want.name, Image: want.image, Command: []string{"/bin/asker"},
		Labels: map[string]string{"test.n": want.label}, Mounts: map[string]string{containerSocket: socketDir},
	}
	id, err := e.RunContainer(ctx, sandbox, p, c)
	if err != nil {
		return "", err
	}
	if _, err := e.Wait(ctx, id); err != nil {
		return "", err
	}
	return e.LogOf(p, c)
}
