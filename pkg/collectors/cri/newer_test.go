// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// newer starts the containerd of Debian's sid, in a chroot. Its pods have the
// host's network: it has no CNI plugins there.
func newer(t *testing.T) *collectortest.CRI {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "../../../scripts/sid-containerd.sh").Output()
	if err != nil {
		t.Fatalf("sid-containerd.sh: %v", err)
	}
	return collectortest.StartCRI(t, collectortest.EngineOptions{Root: strings.TrimSpace(string(out))})
}

func TestANewerContainerdIsDescribedInTheSameWay(t *testing.T) {
	e := newer(t)
	c := newCollector(t, Options{Endpoint: e.Address, Interval: 200 * time.Millisecond})
	r, err := c.Probe(t.Context())
	if err != nil || strings.HasPrefix(r.Version, "1.") {
		t.Errorf("Probe: %+v, %v; want containerd 2", r, err)
	}
	hints := watching(t, c)
	p := newPod(false)
	sandbox := must[string](t)(e.RunPod(t.Context(), p))
	id := must[string](t)(e.RunContainer(t.Context(), sandbox, p, sleeper))
	if h := collectortest.AwaitKind(t, hints, collectors.HintStarted, sandbox); !h.Layer.Sandbox || h.Layer.Pod.UID != p.UID || h.Layer.Run == nil {
		t.Errorf("sandbox: %+v", h.Layer)
	}
	collectortest.AwaitKind(t, hints, collectors.HintStarted, id)
	got := must[*workload.Container](t)(c.Lookup(t.Context(), workload.ContainerID{ID: id}))
	collectortest.Covers(t, &workload.Container{
		ID:   workload.ContainerID{Runtime: "containerd", Instance: e.Address, Namespace: "k8s.io", ID: id},
		Name: "main", State: workload.StateRunning,
		Image: workload.ImageRef{Name: collectortest.BusyboxImage, Tag: "1"},
		Run:   &workload.Run{Init: workload.ProcessKey{PID: workload.PID(e.InitOf(id))}},
	}, got)
	if got.Pod == nil || got.Pod.UID != p.UID || got.Security == nil || !got.Security.HostNetwork || got.Image.ID == "" || got.Annotations["hash"] != "4f3a" {
		t.Errorf("container: %+v, pod %+v, security %+v", got, got.Pod, got.Security)
	}
	pod := must[*workload.Pod](t)(c.LookupPod(t.Context(), p.UID))
	if pod.Name != p.Name || !pod.HostNetwork || len(pod.Containers) != 1 || pod.Containers[0].ID.ID != id || pod.Sandboxes[0].ID != sandbox {
		t.Errorf("pod: %+v", pod)
	}
	if err := e.RemovePod(t.Context(), sandbox); err != nil {
		t.Fatal(err)
	}
	collectortest.AwaitHint(t, hints, "the pod's end", func(h collectors.Hint) bool {
		return h.Kind == collectors.HintDeleted && h.Pod != nil && h.Pod.UID == p.UID
	})
}
