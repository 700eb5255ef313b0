// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// podJSON is a pod. In a container it has the three that name it, and no more.
type podJSON struct {
	UID            string             `json:"uid"`
	Name           string             `json:"name"`
	Namespace      string             `json:"namespace"`
	Runtime        string             `json:"runtime,omitempty"`
	Labels         map[string]string  `json:"labels,omitempty"`
	Annotations    map[string]string  `json:"annotations,omitempty"`
	Phase          string             `json:"phase,omitempty"`
	QoS            string             `json:"qos,omitempty"`
	Node           string             `json:"node,omitempty"`
	ServiceAccount string             `json:"serviceAccount,omitempty"`
	IPs            []string           `json:"ips,omitempty"`
	HostNetwork    bool               `json:"hostNetwork,omitempty"`
	RuntimeHandler string             `json:"runtimeHandler,omitempty"`
	Static         bool               `json:"static,omitempty"`
	ConfigHash     string             `json:"configHash,omitempty"`
	Owners         []podOwnerJSON     `json:"owners,omitempty"`
	Conditions     []podConditionJSON `json:"conditions,omitempty"`
	Sandboxes      []string           `json:"sandboxes,omitempty"`
	Containers     []podContainerJSON `json:"containers,omitempty"`
	Volumes        []podVolumeJSON    `json:"volumes,omitempty"`
	Created        *time.Time         `json:"created,omitempty"`
	Started        *time.Time         `json:"started,omitempty"`
	Deleted        *time.Time         `json:"deleted,omitempty"`
	Sources        []provenanceJSON   `json:"sources,omitempty"`
	Missing        []string           `json:"missing,omitempty"`
	Truncated      []string           `json:"truncated,omitempty"`
	Filtered       bool               `json:"filtered,omitempty"`
}

type podOwnerJSON struct {
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
	Controller bool   `json:"controller"`
}

type podConditionJSON struct {
	Type   string `json:"type"`
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

type podContainerJSON struct {
	Name     string `json:"name"`
	Role     string `json:"role,omitempty"`
	ID       string `json:"id,omitempty"`
	Image    string `json:"image"`
	State    string `json:"state"`
	Ready    bool   `json:"ready"`
	Restarts uint32 `json:"restarts"`
}

type podVolumeJSON struct {
	Name   string `json:"name"`
	Kind   string `json:"kind"`
	Source string `json:"source,omitempty"`
}

func podObject(p *workload.Pod) *podJSON {
	if p == nil {
		return nil
	}
	o := &podJSON{
		UID: p.UID, Name: p.Name, Namespace: p.Namespace, Runtime: p.Runtime, Labels: p.Labels, Annotations: p.Annotations,
		Phase: p.Phase, QoS: p.QoS, Node: p.Node, ServiceAccount: p.ServiceAccount, IPs: p.IPs, HostNetwork: p.HostNetwork,
		RuntimeHandler: p.RuntimeHandler, Static: p.Static, ConfigHash: p.ConfigHash,
		Owners:     convert(p.Owners, func(w workload.PodOwner) podOwnerJSON { return podOwnerJSON(w) }),
		Conditions: convert(p.Conditions, func(c workload.PodCondition) podConditionJSON { return podConditionJSON(c) }),
		Sandboxes:  convert(p.Sandboxes, workload.ContainerID.String),
		Containers: convert(p.Containers, podContainerObject),
		Volumes:    convert(p.Volumes, func(v workload.PodVolume) podVolumeJSON { return podVolumeJSON(v) }),
		Created:    timeObject(p.Created), Started: timeObject(p.Started), Deleted: timeObject(p.Deleted),
		Missing: p.Missing, Truncated: p.Truncated, Filtered: p.Filtered,
	}
	if len(p.Sources) > 0 {
		o.Sources = provenance(p.Sources)
	}
	return o
}

func podContainerObject(c workload.PodContainer) podContainerJSON {
	o := podContainerJSON{
		Name: c.Name, Role: string(c.Role), Image: c.Image, State: stateWord(c.State), Ready: c.Ready, Restarts: c.Restarts,
	}
	if !c.ID.IsZero() {
		o.ID = c.ID.String()
	}
	return o
}

func podRefObject(p *workload.PodRef) *podJSON {
	if p == nil {
		return nil
	}
	return &podJSON{UID: p.UID, Name: p.Name, Namespace: p.Namespace}
}
