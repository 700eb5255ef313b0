// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"

	"github.com/pidigree/pidigree/pkg/workload"
)

func podColumns() []column {
	return []column{
		{head: "NAMESPACE", max: 24}, {head: "NAME", max: 48}, {head: "STATE", max: 16}, {head: "READY"}, {head: "IP", max: 24},
		{head: "RUNTIME", max: 12}, {head: "AGE", right: true}, {head: "UID", max: 36},
	}
}

func (p *tableEntities) podRow(e workload.Entity) []painted {
	ip := ""
	switch {
	case len(e.Pod.IPs) > 0:
		ip = e.Pod.IPs[0]
	case e.Pod.HostNetwork:
		ip = "the host's"
	}
	return []painted{
		cell(e.Pod.Namespace), cell(e.Pod.Name), podState(e), cell(podReady(e.Pod)), cell(ip),
		cell(e.Pod.Runtime), cell(p.age(e.Pod.Created)), cell(e.Pod.UID),
	}
}

// podState is the kubelet's word, where it has been heard.
func podState(e workload.Entity) painted {
	switch {
	case e.Gone:
		return painted{"gone", dim}
	case !e.Pod.Deleted.IsZero():
		return painted{"Terminating", yellow}
	case e.Pod.Phase == "Failed":
		return painted{e.Pod.Phase, red}
	case e.Pod.Phase == "":
		return painted{"present", green}
	}
	return painted{e.Pod.Phase, green}
}

// podReady counts those that are ready of the containers that stay.
func podReady(p *workload.Pod) string {
	ready, of := 0, 0
	for _, c := range p.Containers {
		if c.Role == workload.RoleInit || c.Role == workload.RoleEphemeral {
			continue
		}
		if of++; c.Ready {
			ready++
		}
	}
	if of == 0 {
		return ""
	}
	return fmt.Sprintf("%d/%d", ready, of)
}
