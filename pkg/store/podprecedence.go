// SPDX-License-Identifier: Apache-2.0

package store

import (
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

type (
	pod        = workload.Pod
	podLayer   = layerOf[pod]
	podRule    = ruleOf[pod]
	podMerging = mergingOf[pod]
)

// made: whoever made the sandbox knows first what it is like; the kubelet's
// status follows by up to a minute.
var made = []string{srcCRI, srcPodman, srcKubelet, srcDocker, srcContainerd, srcOCI, KernelSource}

// podPrecedence is the table of rule 7 for pods. The order of pods is that of the
// one who decides over them first.
var podPrecedence = []podRule{
	{"UID", nil, false, "the entity's key: the uid that the pod's cgroup has", func(*pod, podMerging) {}},
	{"Name", pods, false, firstSays, pick(func(p *pod) *string { return &p.Name }, notZero)},
	{"Namespace", pods, false, firstSays, pick(func(p *pod) *string { return &p.Namespace }, notZero)},
	{"Runtime", made, false, firstSays, pick(func(p *pod) *string { return &p.Runtime }, notZero)},
	{"Labels", pods, false, firstWhole, pick(func(p *pod) *map[string]string { return &p.Labels }, mapSaid)},
	{"Annotations", pods, false, firstWhole, pick(func(p *pod) *map[string]string { return &p.Annotations }, mapSaid)},
	{"IPs", made, false, firstWhole, pick(func(p *pod) *[]string { return &p.IPs }, listSaid)},
	{"HostNetwork", made, false, "set where anyone says so", anyPod(func(p *pod) *bool { return &p.HostNetwork })},
	{"RuntimeHandler", made, false, firstSays, pick(func(p *pod) *string { return &p.RuntimeHandler }, notZero)},
	{"Sandboxes", made, false, firstWhole, pick(func(p *pod) *[]workload.ContainerID { return &p.Sandboxes }, listSaid)},
	{"Phase", pods, false, "the first that says it; of a tombstone not Pending or Running", mergePhase},
	{"QoS", pods, false, firstSays, pick(func(p *pod) *string { return &p.QoS }, notZero)},
	{"Conditions", pods, false, firstWhole, pick(func(p *pod) *[]workload.PodCondition { return &p.Conditions }, listSaid)},
	{"Owners", pods, false, firstWhole, pick(func(p *pod) *[]workload.PodOwner { return &p.Owners }, listSaid)},
	{"Containers", pods, false, firstWhole, pick(func(p *pod) *[]workload.PodContainer { return &p.Containers }, listSaid)},
	{"Volumes", pods, false, firstWhole, pick(func(p *pod) *[]workload.PodVolume { return &p.Volumes }, listSaid)},
	{"Node", pods, false, firstSays, pick(func(p *pod) *string { return &p.Node }, notZero)},
	{"ServiceAccount", pods, false, firstSays, pick(func(p *pod) *string { return &p.ServiceAccount }, notZero)},
	{"Static", pods, false, "set where anyone says so", anyPod(func(p *pod) *bool { return &p.Static })},
	{"ConfigHash", pods, false, firstSays, pick(func(p *pod) *string { return &p.ConfigHash }, notZero)},
	{"Created", pods, false, firstSays, pick(func(p *pod) *time.Time { return &p.Created }, notZero)},
	{"Started", pods, false, firstSays, pick(func(p *pod) *time.Time { return &p.Started }, notZero)},
	{"Deleted", pods, false, firstSays, pick(func(p *pod) *time.Time { return &p.Deleted }, notZero)},
	{"Sources", nil, false, "every layer with the time of its arrival, in the order of their first arrival", mergeSources(func(p *pod) *[]workload.Provenance { return &p.Sources })},
	{"Missing", own, true, kernelAlone, pickOwn(func(p *pod) *[]string { return &p.Missing }, listSaid)},
	{"Truncated", pods, false, "what any layer had to cut", mergeTruncated(func(p *pod) *[]string { return &p.Truncated })},
	{"Filtered", agent, true, hidden, func(*pod, podMerging) {}},
}

func mergePod(uid string, layers []podLayer, gone bool) *pod {
	p := mergeBy(podPrecedence, podMerging{arrived: layers, gone: gone})
	p.UID = uid
	return p
}

func anyPod(field func(*pod) *bool) func(*pod, podMerging) {
	return func(dst *pod, in podMerging) {
		*field(dst) = slices.ContainsFunc(in.layers, func(l podLayer) bool { return *field(l.c) })
	}
}

// mergePhase: what the kubelet said last of a pod that is gone is what it was
// then, and only an end is still true.
func mergePhase(dst *pod, in podMerging) {
	pick(func(p *pod) *string { return &p.Phase }, notZero)(dst, in)
	if in.gone && (dst.Phase == "Pending" || dst.Phase == "Running") {
		dst.Phase = ""
	}
}
