// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

var podOwnerMessage = table(
	text(1, func(o *workload.PodOwner) *string { return &o.Kind }),
	text(2, func(o *workload.PodOwner) *string { return &o.Name }),
	text(3, func(o *workload.PodOwner) *string { return &o.UID }),
	boolean(4, func(o *workload.PodOwner) *bool { return &o.Controller }),
)

var podConditionMessage = table(
	text(1, func(c *workload.PodCondition) *string { return &c.Type }),
	text(2, func(c *workload.PodCondition) *string { return &c.Status }),
	text(3, func(c *workload.PodCondition) *string { return &c.Reason }),
)

var podContainerMessage = table(
	text(1, func(c *workload.PodContainer) *string { return &c.Name }),
	enum(2, roles, func(c *workload.PodContainer) *workload.Role { return &c.Role }),
	value(3, containerIDMessage, func(c *workload.PodContainer) *workload.ContainerID { return &c.ID }),
	text(4, func(c *workload.PodContainer) *string { return &c.Image }),
	enum(5, states, func(c *workload.PodContainer) *workload.State { return &c.State }),
	boolean(6, func(c *workload.PodContainer) *bool { return &c.Ready }),
	number(7, func(c *workload.PodContainer) *uint32 { return &c.Restarts }),
)

var podVolumeMessage = table(
	text(1, func(v *workload.PodVolume) *string { return &v.Name }),
	text(2, func(v *workload.PodVolume) *string { return &v.Kind }),
	text(3, func(v *workload.PodVolume) *string { return &v.Source }),
)

var podMessage = table(
	value(1, podRefMessage, func(p *workload.Pod) *workload.PodRef { return &p.PodRef }),
	textMap(2, func(p *workload.Pod) *map[string]string { return &p.Labels }),
	text(3, func(p *workload.Pod) *string { return &p.Runtime }),
	textMap(4, func(p *workload.Pod) *map[string]string { return &p.Annotations }),
	texts(5, func(p *workload.Pod) *[]string { return &p.IPs }),
	boolean(6, func(p *workload.Pod) *bool { return &p.HostNetwork }),
	text(7, func(p *workload.Pod) *string { return &p.RuntimeHandler }),
	list(8, containerIDMessage, func(p *workload.Pod) *[]workload.ContainerID { return &p.Sandboxes }),
	text(9, func(p *workload.Pod) *string { return &p.Phase }),
	text(10, func(p *workload.Pod) *string { return &p.QoS }),
	list(11, podConditionMessage, func(p *workload.Pod) *[]workload.PodCondition { return &p.Conditions }),
	list(12, podOwnerMessage, func(p *workload.Pod) *[]workload.PodOwner { return &p.Owners }),
	list(13, podContainerMessage, func(p *workload.Pod) *[]workload.PodContainer { return &p.Containers }),
	list(14, podVolumeMessage, func(p *workload.Pod) *[]workload.PodVolume { return &p.Volumes }),
	text(15, func(p *workload.Pod) *string { return &p.Node }),
	text(16, func(p *workload.Pod) *string { return &p.ServiceAccount }),
	boolean(17, func(p *workload.Pod) *bool { return &p.Static }),
	text(18, func(p *workload.Pod) *string { return &p.ConfigHash }),
	instant(19, func(p *workload.Pod) *time.Time { return &p.Created }),
	instant(20, func(p *workload.Pod) *time.Time { return &p.Started }),
	instant(21, func(p *workload.Pod) *time.Time { return &p.Deleted }),
	list(22, provenanceMessage, func(p *workload.Pod) *[]workload.Provenance { return &p.Sources }),
	texts(23, func(p *workload.Pod) *[]string { return &p.Missing }),
	texts(24, func(p *workload.Pod) *[]string { return &p.Truncated }),
	boolean(25, func(p *workload.Pod) *bool { return &p.Filtered }),
)
