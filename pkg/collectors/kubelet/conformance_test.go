// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"os"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// TestConformance runs on the recorded answers; TestARealKubelet does on a real one.
func TestConformance(t *testing.T) {
	for file, runtime := range map[string]string{"pods-containerd.json": "containerd", "pods-crio.json": "cri-o"} {
		t.Run(runtime, func(t *testing.T) {
			answer, err := os.ReadFile("testdata/" + file)
			if err != nil {
				t.Fatal(err)
			}
			collectortest.RunPods(t, collectortest.PodHarness{
				New: func(tb testing.TB) collectors.Collector { return answering(tb, say(string(answer))) },
				Start: func(testing.TB) *collectortest.StartedPod {
					return &collectortest.StartedPod{Want: &workload.Pod{
						PodRef:  workload.PodRef{UID: "60b7f559ed1b3821564c6cca533653f4", Name: "web-feasnode", Namespace: "shop"},
						Labels:  map[string]string{"app": "web"},
						Runtime: runtime, Phase: "Running", QoS: "Burstable", Static: true,
					}}
				},
				Unknown: "00000000-0000-0000-0000-000000000000",
			})
		})
	}
}
