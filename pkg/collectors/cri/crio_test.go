// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// What CRI-O 1.34.0 answered is in testdata: a container's and its sandbox's
// verbose status, and /proc/PID/cgroup of the container's init. CRI-O itself is
// not installed by the tests.
const (
	crioContainer = "368ebfab2d2fddb2c05a198e8f7c9130c347249675a7092356fcd76c3af7323e"
	crioSandbox   = "c129c1da60d00fb3355d9ef2fadf564faa498dcf259fc67a8d93217c9d1fcaa1"
	crioPod       = "11111111-2222-3333-4444-555555555555"
	crioPID       = 7673
)

// recorded reads a recorded status, with the ids of another container and pod
// where those are given.
func recorded(tb testing.TB, file string, into proto.Message, replace ...string) {
	tb.Helper()
	data, err := os.ReadFile("testdata/" + file)
	if err != nil {
		tb.Fatal(err)
	}
	text := strings.NewReplacer(replace...).Replace(string(data))
	if err := protojson.Unmarshal([]byte(text), into); err != nil {
		tb.Fatal(err)
	}
}

// newCRIO is a CRI-O with the recorded pod.
func newCRIO(tb testing.TB) *collectortest.FakeCRI {
	tb.Helper()
	f := collectortest.NewFakeCRI(tb, "cri-o", "1.34.0")
	putRecorded(tb, f)
	return f
}

func putRecorded(tb testing.TB, f *collectortest.FakeCRI, replace ...string) {
	tb.Helper()
	var c runtimeapi.ContainerStatusResponse
	var s runtimeapi.PodSandboxStatusResponse
	recorded(tb, "crio-1.34-container-status.json", &c, replace...)
	recorded(tb, "crio-1.34-sandbox-status.json", &s, replace...)
	f.PutSandbox(&s)
	f.PutContainer(s.Status.Id, &c)
}

// recordedCgroups are those of the recorded container's init.
func recordedCgroups(tb testing.TB, replace ...string) []workload.CgroupPath {
	tb.Helper()
	data, err := os.ReadFile("testdata/crio-1.34-proc-cgroup.txt")
	if err != nil {
		tb.Fatal(err)
	}
	var list []workload.CgroupPath
	for line := range strings.Lines(strings.NewReplacer(replace...).Replace(string(data))) {
		var p workload.CgroupPath
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		_, _ = fmt.Sscan(f[0], &p.Hierarchy)
		p.Path = f[2]
		list = append(list, p)
	}
	return list
}

func TestCRIOsPodIsDescribedAsRecorded(t *testing.T) {
	f := newCRIO(t)
	c := newCollector(t, Options{Endpoint: f.Socket})
	r, err := c.Probe(t.Context())
	if err != nil || r.Version != "1.34.0" || !strings.Contains(r.Detail, "cri-o") {
		t.Errorf("Probe: %+v, %v", r, err)
	}
	ref := workload.PodRef{UID: crioPod, Name: "web", Namespace: "shop"}
	got := must[*workload.Container](t)(c.Lookup(t.Context(), workload.ContainerID{Runtime: "cri-o", ID: crioContainer}))
	want := &workload.Container{
		ID:   workload.ContainerID{Runtime: "cri-o", Instance: f.Socket, ID: crioContainer},
		Name: "main", Runtime: "cri-o", State: workload.StateRunning, User: "0:0",
		Image: workload.ImageRef{
			Name: "docker.io/library/busybox:feas", Tag: "feas", Digest: "sha256:f20216ff58f4d378162829ba232483adfe086ac60f9a26b2aded6597f2acdee0",
			ID: "sha256:09aca2d74b50dde7727e526d9d8b5a411d8e51d331a77f95e126133bbff25ec9",
		},
		Labels: map[string]string{"io.kubernetes.container.name": "main"},
		Run:    &workload.Run{Init: workload.ProcessKey{PID: crioPID}},
	}
	collectortest.Covers(t, want, got)
	path := "/kubepods/besteffort/pod" + crioPod + "/crio-" + crioContainer
	if *got.Pod != ref || !got.Run.Registers || !slices.Equal(got.Run.ClaimedPaths, []string{path}) || len(got.Truncated) != 0 {
		t.Errorf("pod %+v, run %+v, truncated %q", got.Pod, got.Run, got.Truncated)
	}
	if got.Created.UnixNano() != 1795337030030370110 || got.Started.UnixNano() != 1795337030046847123 {
		t.Errorf("created %v, started %v", got.Created, got.Started)
	}
	// Its sandbox has no process: CRI-O needs none.
	box := must[*workload.Container](t)(c.Lookup(t.Context(), workload.ContainerID{ID: crioSandbox}))
	if !box.Sandbox || box.Name != "web" || *box.Pod != ref || box.Run != nil || box.Image.Name != "registry.local/pause:3.9" {
		t.Errorf("sandbox: %+v", box)
	}
	pod := must[*workload.Pod](t)(c.LookupPod(t.Context(), crioPod))
	if pod.PodRef != ref || pod.Runtime != "cri-o" || !pod.HostNetwork || len(pod.IPs) != 0 || len(pod.Sandboxes) != 1 || len(pod.Containers) != 1 || pod.Containers[0].Name != "main" {
		t.Errorf("pod: %+v", pod)
	}
}

func TestTheCollectorKeepsTheContractOnRecordedCRIO(t *testing.T) {
	f := newCRIO(t)
	var n atomic.Int64
	at := func(tb testing.TB, socket string) collectors.Collector {
		return newCollector(tb, Options{Endpoint: socket, Interval: 100 * time.Millisecond})
	}
	collectortest.Run(t, collectortest.Harness{
		New:     func(tb testing.TB) collectors.Collector { return at(tb, f.Socket) },
		NewAt:   at,
		Proxy:   func(tb testing.TB) *collectortest.Proxy { return collectortest.NewContainerdProxy(tb, f.Socket) },
		Unknown: workload.ContainerID{Runtime: "cri-o", Instance: f.Socket, ID: strings.Repeat("0", 64)},
		Start: func(tb testing.TB) *collectortest.Started {
			i := n.Add(1)
			id, sandbox, uid := fmt.Sprintf("%064x", i), fmt.Sprintf("%064x", 1<<32+i), fmt.Sprintf("%08x-2222-3333-4444-555555555555", i)
			with := []string{crioContainer, id, crioSandbox, sandbox, crioPod, uid}
			putRecorded(tb, f, with...)
			var c runtimeapi.ContainerStatusResponse
			recorded(tb, "crio-1.34-container-status.json", &c, with...)
			return &collectortest.Started{
				Want: &workload.Container{
					ID:   workload.ContainerID{Runtime: "cri-o", Instance: f.Socket, ID: id},
					Name: "main", Runtime: "cri-o", Labels: map[string]string{"io.kubernetes.pod.uid": uid},
				},
				Evidence: workload.Evidence{
					Cgroups: recordedCgroups(tb, with...),
					Claims:  []workload.ContainerID{{Runtime: "cri-o", ID: id}},
					Init:    workload.ProcessKey{PID: crioPID},
				},
				Stop: func() {
					c.Status.State, c.Status.FinishedAt = runtimeapi.ContainerState_CONTAINER_EXITED, time.Now().UnixNano()
					f.PutContainer(sandbox, &c)
				},
				Remove: func() { f.Remove(id) },
			}
		},
	})
}

func TestAClaimIsOnlyWhereToLook(t *testing.T) {
	f := newCRIO(t)
	c := newCollector(t, Options{Endpoint: f.Socket})
	claims := []workload.ContainerID{{Runtime: "cri-o", ID: crioContainer}}
	for name, e := range map[string]workload.Evidence{
		"a cgroup that someone named": {Claims: claims, Cgroups: []workload.CgroupPath{{Path: "/kubepods/mallory/crio-" + crioContainer}}},
		"conmon's cgroup":             {Claims: claims, Cgroups: []workload.CgroupPath{{Path: "/kubepods/besteffort/pod" + crioPod + "/crio-conmon-" + crioContainer}}},
		"another init":                {Claims: claims, Init: workload.ProcessKey{PID: crioPID + 1}},
		"another engine's claim":      {Claims: []workload.ContainerID{{Runtime: "podman", ID: crioContainer}}, Cgroups: recordedCgroups(t)},
	} {
		if id, err := c.Locate(t.Context(), e); err == nil {
			t.Errorf("%s: located %v", name, id)
		}
	}
	for name, e := range map[string]workload.Evidence{
		"its cgroups": {Claims: claims, Cgroups: recordedCgroups(t)},
		"its init":    {Claims: claims, Init: workload.ProcessKey{PID: crioPID}},
		"its bundle":  {Bundle: "/run/containers/storage/overlay-containers/" + crioContainer, Cgroups: recordedCgroups(t)},
	} {
		if id, err := c.Locate(t.Context(), e); err != nil || id.ID != crioContainer {
			t.Errorf("%s: %v, %v", name, id, err)
		}
	}
}
