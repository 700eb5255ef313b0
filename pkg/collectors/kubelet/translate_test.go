// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// recorded reads an answer of a standalone kubelet v1.34, as it came over its port:
// testdata/pods-containerd.json with containerd 1.6, pods-crio.json with CRI-O 1.34.
func recorded(tb testing.TB, file string) *list {
	tb.Helper()
	f, err := os.Open("testdata/" + file)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	l, err := decode(f, collectors.MaxKubeletList)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func parsed(tb testing.TB, pods string) *list {
	tb.Helper()
	l, err := decode(strings.NewReader(`{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[`+pods+`]}`), collectors.MaxKubeletList)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

func conditions(reason string) []workload.PodCondition {
	var out []workload.PodCondition
	for _, t := range []string{"PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"} {
		out = append(out, workload.PodCondition{Type: t, Status: "True", Reason: reason})
	}
	return out
}

func at(s string) time.Time { return stamp(s).time() }

func TestTheRecordedAnswersAreUnderstood(t *testing.T) {
	const image = "docker.io/library/busybox:feas"
	containerd := func(id string) workload.ContainerID {
		return workload.ContainerID{Runtime: "containerd", Namespace: "k8s.io", ID: id}
	}
	crio := func(id string) workload.ContainerID { return workload.ContainerID{Runtime: "cri-o", ID: id} }
	for name, tc := range map[string]struct {
		file string
		pod  *workload.Pod
	}{
		"a burstable pod of two containers": {"pods-containerd.json", &workload.Pod{
			PodRef:  workload.PodRef{UID: "60b7f559ed1b3821564c6cca533653f4", Name: "web-feasnode", Namespace: "shop"},
			Runtime: "containerd", Phase: "Running", QoS: "Burstable", Node: "feasnode",
			Labels: map[string]string{"app": "web", "tier": "front"},
			Annotations: map[string]string{
				"example.org/a": "b", "kubernetes.io/config.hash": "60b7f559ed1b3821564c6cca533653f4",
				"kubernetes.io/config.seen": "2026-11-22T07:36:46.343317517Z", "kubernetes.io/config.source": "file",
			},
			IPs: []string{"10.231.0.4"}, Conditions: conditions(""), Started: at("2026-11-22T07:36:46Z"),
			Static: true, ConfigHash: "60b7f559ed1b3821564c6cca533653f4",
			Containers: []workload.PodContainer{
				{Name: "main", Role: workload.RoleMain, ID: containerd("a03076e2b0872c511d36a6526b90ec348c3ca5a43e294f613fb49741cb5651a1"), Image: image, State: workload.StateRunning, Ready: true},
				{Name: "side", Role: workload.RoleMain, ID: containerd("8baf09586d20ef8f4bc0a4c94aa7ee48d7d68aa45913495c8bf29bbd44c02b0c"), Image: image, State: workload.StateRunning, Ready: true},
			},
		}},
		"a pod with the host's network and an init container": {"pods-crio.json", &workload.Pod{
			PodRef:  workload.PodRef{UID: "abc646885c1c6799c5b1fc62d2d24c2e", Name: "be-feasnode", Namespace: "default"},
			Runtime: "cri-o", Phase: "Running", QoS: "BestEffort", Node: "feasnode", HostNetwork: true,
			Annotations: map[string]string{
				"kubernetes.io/config.hash": "abc646885c1c6799c5b1fc62d2d24c2e",
				"kubernetes.io/config.seen": "2026-11-22T08:31:19.011816476Z", "kubernetes.io/config.source": "file",
			},
			Conditions: conditions(""), Started: at("2026-11-22T08:31:19Z"),
			Static: true, ConfigHash: "abc646885c1c6799c5b1fc62d2d24c2e",
			Containers: []workload.PodContainer{
				{Name: "init", Role: workload.RoleInit, ID: crio("cf12026a1b09af64519ae82ee084bb30e045d525704ebcbc10fd89beafdc69d8"), Image: image, State: workload.StateExited, Ready: true},
				{Name: "main", Role: workload.RoleMain, ID: crio("a453cb060609cdb8512b837b4ad164c8b6a0a0c7a88be40bfb2ab104301b3867"), Image: image, State: workload.StateRunning, Ready: true},
			},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			l := recorded(t, tc.file)
			if len(l.pods) != 3 || l.odd != 0 || l.busy {
				t.Errorf("%d pods, %d odd, busy %v; want 3, 0, false", len(l.pods), l.odd, l.busy)
			}
			if d := cmp.Diff(tc.pod, l.pod(tc.pod.UID)); d != "" {
				t.Errorf("pod (-want +got):\n%s", d)
			}
		})
	}
}

// everything is a pod of the API's as the kubelet would have it, made up from
// k8s.io/api/core/v1: an API server to record it from cannot run here.
var everything = `{"metadata":{"name":"job-x","namespace":"prod","uid":"6e0d1f1c-0f5b-4d0e-9f43-0d6a2f7f5c11","creationTimestamp":"2026-11-28T10:00:00Z",
 "deletionTimestamp":"2026-11-28T10:05:30Z","deletionGracePeriodSeconds":30,
 "annotations":{"kubernetes.io/config.source":"api","kubernetes.io/config.hash":"60b7f559ed1b3821564c6cca533653f4","kubernetes.io/config.mirror":"60b7f559ed1b3821564c6cca533653f4"},
 "ownerReferences":[{"apiVersion":"batch/v1","kind":"Job","name":"job","uid":"7b1d9d9e-7c5d-4e0c-a9f4-1f0a8f2b9d10","controller":true,"blockOwnerDeletion":true}],
 "managedFields":[{"manager":"kubectl","fieldsV1":{"f:spec":{}}}]},
"spec":{"volumes":[{"name":"cfg","configMap":{"name":"settings","defaultMode":420}},{"name":"sec","secret":{"secretName":"key"}},{"hostPath":{"path":"/var/log","type":""},"name":"logs"},
  {"name":"tmp","emptyDir":{}},{"name":"data","persistentVolumeClaim":{"claimName":"data-0"}},{"name":"csi","csi":{"driver":"secrets.example.org"}},{"name":"nfs","nfs":{"server":"10.0.0.9","path":"/x"}},
  {"name":"odd","future":["a"]},{"name":"api","projected":{"sources":[]}}],
 "initContainers":[{"name":"setup","image":"a:1"},{"name":"mesh","image":"b:2","restartPolicy":"Always"}],
 "containers":[{"name":"main","image":"c:3"},{"name":"late","image":"d:4"}],
 "ephemeralContainers":[{"name":"debug","image":"e:5"}],"nodeName":"node-1","serviceAccountName":"runner"},
"status":{"phase":"Pending","qosClass":"Guaranteed","podIP":"10.1.2.3","podIPs":[{"ip":"10.1.2.3"},{"ip":"fd00::3"}],"startTime":"2026-11-28T10:00:01Z",
 "conditions":[{"type":"Ready","status":"False","reason":"ContainersNotReady","message":"..."}],
 "initContainerStatuses":[{"name":"setup","ready":true,"restartCount":2,"state":{"terminated":{"exitCode":0}},"containerID":"docker://` + hexA + `"},
  {"name":"mesh","ready":true,"restartCount":0,"state":{"running":{}},"containerID":"containerd://` + hexB + `"}],
 "containerStatuses":[{"name":"main","ready":false,"restartCount":7,"state":{"waiting":{"reason":"CrashLoopBackOff"}},"containerID":"containerd://` + hexC + `"},
  {"name":"late","ready":false,"restartCount":0,"state":{"waiting":{"reason":"ContainerCreating"}},"image":"d","containerID":""}],
 "ephemeralContainerStatuses":[{"name":"debug","state":{"running":{}},"containerID":"made-up://` + hexD + `"}]}}`

var (
	hexA = strings.Repeat("a", 64)
	hexB = strings.Repeat("b", 64)
	hexC = strings.Repeat("c", 64)
	hexD = strings.Repeat("d", 64)
)

func TestAPodOfTheAPIIsUnderstoodWhole(t *testing.T) {
	l := parsed(t, everything)
	want := &workload.Pod{
		PodRef: workload.PodRef{UID: "6e0d1f1c-0f5b-4d0e-9f43-0d6a2f7f5c11", Name: "job-x", Namespace: "prod"},
		// Neither static nor of that hash: anybody may write these annotations but the source's.
		Annotations: map[string]string{
			"kubernetes.io/config.source": "api", "kubernetes.io/config.hash": "60b7f559ed1b3821564c6cca533653f4",
			"kubernetes.io/config.mirror": "60b7f559ed1b3821564c6cca533653f4",
		},
		Runtime: "docker", Phase: "Pending", QoS: "Guaranteed", Node: "node-1", ServiceAccount: "runner",
		IPs:     []string{"10.1.2.3", "fd00::3"},
		Created: at("2026-11-28T10:00:00Z"), Started: at("2026-11-28T10:00:01Z"), Deleted: at("2026-11-28T10:05:00Z"),
		Conditions: []workload.PodCondition{{Type: "Ready", Status: "False", Reason: "ContainersNotReady"}},
		Owners:     []workload.PodOwner{{Kind: "Job", Name: "job", UID: "7b1d9d9e-7c5d-4e0c-a9f4-1f0a8f2b9d10", Controller: true}},
		Containers: []workload.PodContainer{
			{Name: "setup", Role: workload.RoleInit, ID: workload.ContainerID{Runtime: "docker", ID: hexA}, Image: "a:1", State: workload.StateExited, Ready: true, Restarts: 2},
			{Name: "mesh", Role: workload.RoleSidecar, ID: workload.ContainerID{Runtime: "containerd", Namespace: "k8s.io", ID: hexB}, Image: "b:2", State: workload.StateRunning, Ready: true},
			{Name: "main", Role: workload.RoleMain, ID: workload.ContainerID{Runtime: "containerd", Namespace: "k8s.io", ID: hexC}, Image: "c:3", State: workload.StateExited, Restarts: 7},
			{Name: "late", Role: workload.RoleMain, Image: "d:4"},
			{Name: "debug", Role: workload.RoleEphemeral, Image: "e:5", State: workload.StateRunning},
		},
		Volumes: []workload.PodVolume{
			{Name: "cfg", Kind: "configMap", Source: "settings"}, {Name: "sec", Kind: "secret", Source: "key"}, {Name: "logs", Kind: "hostPath", Source: "/var/log"},
			{Name: "tmp", Kind: "emptyDir"}, {Name: "data", Kind: "persistentVolumeClaim", Source: "data-0"}, {Name: "csi", Kind: "csi", Source: "secrets.example.org"},
			{Name: "nfs", Kind: "nfs", Source: "10.0.0.9:/x"}, {Name: "odd", Kind: "future"}, {Name: "api", Kind: "projected"},
		},
	}
	if d := cmp.Diff(want, l.pod(want.UID)); d != "" {
		t.Errorf("pod (-want +got):\n%s", d)
	}
	if l.odd != 0 || !l.busy {
		t.Errorf("%d odd, busy %v; want 0, true", l.odd, l.busy)
	}
	if p := l.pod("60b7f559ed1b3821564c6cca533653f4"); p != nil {
		t.Errorf("an annotation made it %s", p.UID)
	}
	mesh := l.containers[hexB]
	if mesh == nil || !mesh.runs || mesh.layer.Role != workload.RoleSidecar || mesh.layer.Pod.Name != "job-x" {
		t.Errorf("layer of the sidecar: %+v", mesh)
	}
	if main := l.containers[hexC]; main == nil || main.runs || main.layer.Attempt != 7 {
		t.Errorf("layer of what ended: %+v", main)
	}
	if c := l.containers[hexD]; c != nil {
		t.Errorf("an engine that nobody knows has %+v", c)
	}
}

func TestAStaticPodIsFoundByTheHashOfItsManifest(t *testing.T) {
	const pod = `{"metadata":{"name":"a","uid":"written-by-hand","annotations":{"kubernetes.io/config.source":"http","kubernetes.io/config.hash":"0123456789abcdef0123456789abcdef"}}}`
	l := parsed(t, pod)
	if p := l.pod("0123456789abcdef0123456789abcdef"); p == nil || p.UID != "written-by-hand" || !p.Static {
		t.Errorf("by its hash: %+v", p)
	}
	// Another pod's uid is its own, whatever a manifest says of its hash.
	l = parsed(t, strings.ReplaceAll(pod, "0123456789abcdef0123456789abcdef", "victim")+`,{"metadata":{"name":"b","uid":"victim"}}`)
	if p := l.pod("victim"); p == nil || p.Name != "b" {
		t.Errorf("by the other's uid: %+v", p)
	}
}

func TestOneOddPodHidesNoOther(t *testing.T) {
	l := parsed(t, `{"metadata":{"name":"first","uid":"u1"}},{"metadata":{"uid":"u2","labels":5,"name":"second"},"status":{"phase":["x"],"startTime":"yesterday"},"spec":{"nodeName":"n"}},
		7,{"metadata":{"uid":"../etc"}},{"metadata":{"uid":"u1","name":"twin"}},null,{"metadata":{"name":"last","uid":"u3"}}`)
	var names []string
	for _, p := range l.pods {
		names = append(names, p.Name)
	}
	if d := cmp.Diff([]string{"first", "second", "last"}, names); d != "" {
		t.Errorf("pods (-want +got):\n%s", d)
	}
	if p := l.pod("u2"); p.Node != "n" || !p.Started.IsZero() || len(p.Truncated) != 1 || p.Truncated[0] != "labels" {
		t.Errorf("what could be read of it: %+v", p)
	}
	if l.odd != 6 {
		t.Errorf("%d are odd, want 6", l.odd)
	}
}
