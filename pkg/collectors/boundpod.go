// SPDX-License-Identifier: Apache-2.0

package collectors

import "github.com/pidigree/pidigree/pkg/workload"

// BoundPod cuts a pod's description to the default Bounds.
func BoundPod(p *workload.Pod) { Bounds{}.ApplyPod(p) }

// ApplyPod does for a pod what Apply does for a container.
func (b Bounds) ApplyPod(p *workload.Pod) {
	if p == nil {
		return
	}
	b = b.withDefaults()
	t := trimmer{left: b.Total}
	b.podWords(&t, p)
	p.Sandboxes = head(&t, "sandboxes", p.Sandboxes, b.Few)
	p.IPs = b.texts(&t, "ips", p.IPs, b.Few)
	p.Labels = b.dict(&t, "labels", p.Labels)
	p.Containers = b.podContainers(&t, p.Containers)
	b.podLists(&t, p)
	p.Volumes = b.podVolumes(&t, p.Volumes)
	p.Annotations = b.dict(&t, "annotations", p.Annotations)
	p.Truncated = t.truncated(p.Truncated)
}

func (b Bounds) podWords(t *trimmer, p *workload.Pod) {
	for field, s := range map[string]*string{
		"uid": &p.UID, "name": &p.Name, "namespace": &p.Namespace, "runtime": &p.Runtime,
		"runtimeHandler": &p.RuntimeHandler, "phase": &p.Phase, "qos": &p.QoS, "node": &p.Node,
		"serviceAccount": &p.ServiceAccount, "configHash": &p.ConfigHash,
	} {
		t.text(field, s, b.Name)
	}
}

// podLists bounds the lists whose elements are a few short words.
func (b Bounds) podLists(t *trimmer, p *workload.Pod) {
	p.Conditions = each(t, "conditions", p.Conditions, b.Few, func(c *workload.PodCondition) {
		t.text("conditions", &c.Type, b.Name)
		t.text("conditions", &c.Status, b.Name)
		t.text("conditions", &c.Reason, b.Name)
	})
	p.Owners = each(t, "owners", p.Owners, b.Few, func(o *workload.PodOwner) {
		t.text("owners", &o.Kind, b.Name)
		t.text("owners", &o.Name, b.Name)
		t.text("owners", &o.UID, b.Name)
	})
}

func (b Bounds) podContainers(t *trimmer, in []workload.PodContainer) []workload.PodContainer {
	out := each(t, "containers", in, b.Mounts, func(c *workload.PodContainer) {
		t.text("containers", &c.Name, b.Name)
		t.text("containers", (*string)(&c.Role), b.Name)
		t.text("containers", (*string)(&c.State), b.Name)
		t.text("containers", &c.Image, b.Image)
	})
	return within(t, "containers", out, b.Bytes, func(c workload.PodContainer) int {
		return len(c.Name) + len(c.Role) + len(c.State) + len(c.Image) + len(c.ID.Runtime) + len(c.ID.Instance) + len(c.ID.Namespace) + len(c.ID.ID)
	})
}

func (b Bounds) podVolumes(t *trimmer, in []workload.PodVolume) []workload.PodVolume {
	out := each(t, "volumes", in, b.Mounts, func(v *workload.PodVolume) {
		t.text("volumes", &v.Name, b.Name)
		t.text("volumes", &v.Kind, b.Name)
		t.text("volumes", &v.Source, b.Path)
	})
	return within(t, "volumes", out, b.Bytes, func(v workload.PodVolume) int { return len(v.Name) + len(v.Kind) + len(v.Source) })
}
