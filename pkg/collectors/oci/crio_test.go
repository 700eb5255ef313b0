// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// CRI-O cannot be installed where the tests run. What it gives to runc can: the
// annotations of CRI-O 1.34.0, as recorded, and its cgroups' names.
func TestWhatCRIOMakesIsAPodsContainerBeforeItStarts(t *testing.T) {
	const (
		recordedID = "368ebfab2d2fddb2c05a198e8f7c9130c347249675a7092356fcd76c3af7323e"
		pod        = "11111111-2222-3333-4444-555555555555"
	)
	id := fmt.Sprintf("%064x", os.Getpid())
	data, err := os.ReadFile("testdata/crio-1.34-container.json")
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct{ Annotations map[string]string }
	if err := json.Unmarshal([]byte(strings.ReplaceAll(string(data), recordedID, id)), &recorded); err != nil {
		t.Fatal(err)
	}
	above := "/pidigree-oci-crio/besteffort/pod" + pod
	bundle := realBundle(t, func(spec map[string]any) {
		spec["annotations"] = recorded.Annotations
		spec["linux"].(map[string]any)["cgroupsPath"] = above + "/crio-" + id
	})
	run := testRun(t)
	runc, root := tool(t, "runc"), run+"/runc"
	c := newCollector(t, Options{RunDir: run})
	hints := startWatch(t, c)
	t.Cleanup(func() {
		for _, path := range []string{above, "/pidigree-oci-crio/besteffort", "/pidigree-oci-crio"} {
			removeCgroups(t, path)
		}
	})
	runtimeCommand(t, runc, "--root", root, "create", "--bundle", bundle, id)
	defer runtimeCommand(t, runc, "--root", root, "delete", "--force", id)

	l := collectortest.AwaitKind(t, hints, collectors.HintCreated, id).Layer
	if l == nil || l.State != workload.StateCreated || l.Run == nil || !l.Run.Registers {
		t.Fatalf("at create: %+v", l)
	}
	if want := (workload.PodRef{UID: pod, Name: "web", Namespace: "shop"}); l.Pod == nil || *l.Pod != want {
		t.Errorf("pod %+v, want %+v", l.Pod, want)
	}
	if l.Runtime != "cri-o" || l.Name != "main" || l.Sandbox || l.Image.Name != "docker.io/library/busybox:feas" || l.Labels["io.kubernetes.container.name"] != "main" {
		t.Errorf("at create: %+v", l)
	}
	ask := func(name string) (workload.ContainerID, error) {
		return c.Locate(t.Context(), workload.Evidence{
			Claims: []workload.ContainerID{{Runtime: "cri-o", ID: id}}, Cgroups: []workload.CgroupPath{{Path: above + "/" + name}},
		})
	}
	if got, err := ask("crio-" + id); err != nil || got.ID != id {
		t.Errorf("Locate by its cgroup: %v, %v", got, err)
	}
	if got, err := ask("crio-conmon-" + id); err == nil {
		t.Errorf("conmon's cgroup is said to be the container's: %v", got)
	}
}
