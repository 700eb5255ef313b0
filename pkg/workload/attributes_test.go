// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func fullAnswer() Answer {
	ref := PodRef{UID: "u1", Name: "web-0", Namespace: "prod"}
	return Answer{
		Status: StatusContainer,
		Process: &Process{
			Key: ProcessKey{PID: 4242, Start: 1}, Parent: 4200, Comm: "nginx", Exe: "/usr/sbin/nginx",
			PIDNamespaces: []PIDNamespace{{1, 9}, {2, 7}}, Exit: &Exit{Known: true, Code: 137},
			Detail: &ProcessDetail{Command: []string{"nginx", "-g", "daemon off;"}, UID: 1000, EUID: 0, User: "root"},
		},
		Containers: []*Container{{ID: ContainerID{ID: "outer"}, Name: "node"}, {
			ID: ContainerID{Runtime: "containerd", Namespace: "k8s.io", ID: "4f3a"}, Name: "nginx", Pod: &ref, State: StateExited, Reason: "OOMKilled",
			Image:  ImageRef{Name: "registry:5000/shop/nginx:1.25@sha256:ab", Tag: "1.25", Digest: "sha256:ab", ID: "sha256:cd"},
			Labels: map[string]string{"tier": "front", "": "nobody"}, Attempt: 3,
		}},
		Pod: &Pod{
			PodRef: ref, Labels: map[string]string{"app": "shop"}, Annotations: map[string]string{"note": ""}, IPs: []string{"10.0.0.7", "fd00::7"},
			Phase: "Running", Node: "n1", Started: time.Date(2026, 1, 2, 4, 4, 5, 6, time.FixedZone("", 3600)),
			Owners: []PodOwner{{Kind: "ReplicaSet", Name: "web-7d", UID: "rs", Controller: true}, {Kind: "Node", Name: "n1", UID: "n", Controller: true}, {Kind: "Job", Name: "no"}},
		},
		Task: &Task{ARN: someTask, Family: "f", Revision: "7", LaunchType: "FARGATE", Zone: "cn-north-1b"},
	}
}

const someTask = "arn:aws-cn:ecs:cn-north-1:111122223333:task/prod/158d1c8083dd49d6b527399fd6414f5c"

func TestAnAnswerInOpenTelemetrysNames(t *testing.T) {
	want := []Attribute{
		{"aws.ecs.cluster.arn", "arn:aws-cn:ecs:cn-north-1:111122223333:cluster/prod"}, {"aws.ecs.launchtype", "fargate"},
		{"aws.ecs.task.arn", someTask}, {"aws.ecs.task.family", "f"}, {"aws.ecs.task.id", "158d1c8083dd49d6b527399fd6414f5c"}, {"aws.ecs.task.revision", "7"},
		{"cloud.account.id", "111122223333"}, {"cloud.availability_zone", "cn-north-1b"}, {"cloud.platform", "aws_ecs"}, {"cloud.provider", "aws"}, {"cloud.region", "cn-north-1"},
		{"container.id", "4f3a"}, {"container.image.id", "sha256:cd"}, {"container.image.name", "registry:5000/shop/nginx"},
		{"container.image.tags", []string{"1.25"}}, {"container.label.tier", "front"}, {"container.name", "nginx"}, {"container.runtime.name", "containerd"},
		{"k8s.container.name", "nginx"}, {"k8s.container.restart_count", int64(3)}, {"k8s.container.status.reason", "OOMKilled"}, {"k8s.container.status.state", "terminated"},
		{"k8s.namespace.name", "prod"}, {"k8s.node.name", "n1"}, {"k8s.pod.annotation.note", ""}, {"k8s.pod.ip", "10.0.0.7"},
		{"k8s.pod.label.app", "shop"}, {"k8s.pod.name", "web-0"}, {"k8s.pod.start_time", "2026-01-02T03:04:05Z"}, {"k8s.pod.status.phase", "Running"}, {"k8s.pod.uid", "u1"},
		{"k8s.replicaset.name", "web-7d"}, {"k8s.replicaset.uid", "rs"}, {"oci.manifest.digest", "sha256:ab"},
		{"process.command_args", []string{"nginx", "-g", "daemon off;"}}, {"process.executable.name", "nginx"}, {"process.executable.path", "/usr/sbin/nginx"}, {"process.exit.code", int64(137)},
		{"process.owner", "root"}, {"process.parent_pid", int64(4200)}, {"process.pid", int64(4242)},
		{"process.real_user.id", "1000"}, {"process.user.id", "0"}, {"process.vpid", int64(7)},
	}
	if d := cmp.Diff(want, fullAnswer().Attributes()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestWhatNobodySaidIsNoAttribute(t *testing.T) {
	if got := (Answer{Status: StatusUnknown}).Attributes(); got != nil {
		t.Errorf("%v", got)
	}
	a := Answer{Containers: []*Container{{ID: ContainerID{Runtime: "podman", ID: "1"}, Image: ImageRef{Name: "sha256:ab"}, Pod: &PodRef{UID: "64", Name: "p"}}}, Pod: &Pod{PodRef: PodRef{UID: "64", Name: "p"}}}
	if d := cmp.Diff([]Attribute{{"container.id", "1"}, {"container.runtime.name", "podman"}}, a.Attributes()); d != "" {
		t.Errorf("podman's pods are none of Kubernetes' (-want +got):\n%s", d)
	}
	c := &Container{ID: ContainerID{ID: "1"}, Name: "x", Pod: &PodRef{Namespace: "n"}, State: StateRunning, Reason: "Error"}
	count := func() bool {
		return slices.ContainsFunc((Answer{Containers: []*Container{c}}).Attributes(), func(a Attribute) bool { return a.Key == "k8s.container.restart_count" })
	}
	if count() {
		t.Error("a count that nobody counted")
	}
	if c.Sources = []Provenance{{Source: "cri@/run/x.sock"}}; !count() {
		t.Error("a count of 0 is left out")
	}
}

func TestEveryAttributeIsDocumentedAndMade(t *testing.T) {
	made := map[string]bool{}
	for _, a := range fullAnswer().Attributes() {
		key := a.Key
		for _, prefix := range []string{"container.label.", "k8s.pod.label.", "k8s.pod.annotation."} {
			if strings.HasPrefix(key, prefix) {
				key = prefix + "<key>"
			}
		}
		made[strings.Replace(key, "replicaset", "<kind>", 1)] = true
	}
	for field, names := range AttributeNames() {
		for _, n := range names {
			if !made[n] {
				t.Errorf("%s: %s is never made", field, n)
			}
			delete(made, n)
		}
	}
	if len(made) > 0 {
		t.Errorf("not documented: %v", made)
	}
}
