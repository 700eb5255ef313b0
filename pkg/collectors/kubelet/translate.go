// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// podJSON is what we read of a v1.Pod (k8s.io/api/core/v1, types.go), about a
// tenth of it.
type podJSON struct {
	Metadata struct {
		Name              string            `json:"name"`
		Namespace         string            `json:"namespace"`
		UID               string            `json:"uid"`
		Labels            map[string]string `json:"labels"`
		Annotations       map[string]string `json:"annotations"`
		CreationTimestamp stamp             `json:"creationTimestamp"`
		DeletionTimestamp stamp             `json:"deletionTimestamp"`
		// DeletionGrace is in DeletionTimestamp already.
		DeletionGrace   int64 `json:"deletionGracePeriodSeconds"`
		OwnerReferences []struct {
			Kind       string `json:"kind"`
			Name       string `json:"name"`
			UID        string `json:"uid"`
			Controller bool   `json:"controller"`
		} `json:"ownerReferences"`
	} `json:"metadata"`
	Spec struct {
		InitContainers      []containerJSON              `json:"initContainers"`
		Containers          []containerJSON              `json:"containers"`
		EphemeralContainers []containerJSON              `json:"ephemeralContainers"`
		Volumes             []map[string]json.RawMessage `json:"volumes"`
		NodeName            string                       `json:"nodeName"`
		ServiceAccountName  string                       `json:"serviceAccountName"`
		HostNetwork         bool                         `json:"hostNetwork"`
	} `json:"spec"`
	Status struct {
		Phase      string `json:"phase"`
		QOSClass   string `json:"qosClass"`
		StartTime  stamp  `json:"startTime"`
		PodIP      string `json:"podIP"`
		PodIPs     []ipIn `json:"podIPs"`
		Conditions []struct {
			Type   string `json:"type"`
			Status string `json:"status"`
			Reason string `json:"reason"`
		} `json:"conditions"`
		InitContainerStatuses      []statusJSON `json:"initContainerStatuses"`
		ContainerStatuses          []statusJSON `json:"containerStatuses"`
		EphemeralContainerStatuses []statusJSON `json:"ephemeralContainerStatuses"`
	} `json:"status"`
}

type ipIn struct {
	IP string `json:"ip"`
}

type containerJSON struct {
	Name          string `json:"name"`
	Image         string `json:"image"`
	RestartPolicy string `json:"restartPolicy"`
}

type statusJSON struct {
	Name         string `json:"name"`
	ContainerID  string `json:"containerID"`
	Image        string `json:"image"`
	Ready        bool   `json:"ready"`
	RestartCount uint32 `json:"restartCount"`
	State        struct {
		Running    *struct{} `json:"running"`
		Terminated *struct{} `json:"terminated"`
	} `json:"state"`
}

// stamp is a time of the API's, empty where there is none. One that cannot be
// read is none, too.
type stamp string

func (s stamp) time() time.Time {
	t, err := time.Parse(time.RFC3339Nano, string(s))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// The kubelet's annotations (pkg/kubelet/types/pod_update.go).
const (
	annotationPrefix = "kubernetes.io/config."
	// configSource is written by the kubelet itself over what a pod says: file,
	// http, or api for all that anybody else has made.
	configSource = annotationPrefix + "source"
	configHash   = annotationPrefix + "hash"
)

// pod translates.
func (p *podJSON) pod() *workload.Pod {
	m := &p.Metadata
	out := &workload.Pod{
		PodRef:         workload.PodRef{UID: m.UID, Name: m.Name, Namespace: m.Namespace},
		Labels:         m.Labels,
		Annotations:    m.Annotations,
		HostNetwork:    p.Spec.HostNetwork,
		IPs:            p.ips(),
		Phase:          p.Status.Phase,
		QoS:            p.Status.QOSClass,
		Node:           p.Spec.NodeName,
		ServiceAccount: p.Spec.ServiceAccountName,
		Created:        m.CreationTimestamp.time(),
		Started:        p.Status.StartTime.time(),
		Deleted:        p.deleted(),
		Containers:     p.containers(),
	}
	// A pod of the API's may have a hash written to it by whoever made it: it is
	// another pod's as likely as not.
	if source := m.Annotations[configSource]; source == "file" || source == "http" {
		out.Static = true
		if hash := m.Annotations[configHash]; isPodUID(hash) {
			out.ConfigHash = hash
		}
	}
	for _, o := range m.OwnerReferences {
		out.Owners = append(out.Owners, workload.PodOwner{Kind: o.Kind, Name: o.Name, UID: o.UID, Controller: o.Controller})
	}
	for _, c := range p.Status.Conditions {
		out.Conditions = append(out.Conditions, workload.PodCondition{Type: c.Type, Status: c.Status, Reason: c.Reason})
	}
	for _, v := range p.Spec.Volumes {
		out.Volumes = append(out.Volumes, volume(v))
	}
	for _, c := range out.Containers {
		out.Runtime = cmp.Or(out.Runtime, c.ID.Runtime)
	}
	return out
}

// ips are the pod's own addresses: with the host's network it has none.
func (p *podJSON) ips() []string {
	if p.Spec.HostNetwork {
		return nil
	}
	var ips []string
	for _, ip := range append([]ipIn{{p.Status.PodIP}}, p.Status.PodIPs...) {
		if ip.IP != "" && !slices.Contains(ips, ip.IP) {
			ips = append(ips, ip.IP)
		}
	}
	return ips
}

// deleted is when the deletion was asked for. The timestamp is when the grace for it ends.
func (p *podJSON) deleted() time.Time {
	t := p.Metadata.DeletionTimestamp.time()
	if grace := p.Metadata.DeletionGrace; !t.IsZero() && grace > 0 && grace < 1<<31 {
		t = t.Add(-time.Duration(grace) * time.Second)
	}
	return t
}

// containers joins what the pod is made of with what has become of it, by name.
func (p *podJSON) containers() []workload.PodContainer {
	var out []workload.PodContainer
	add := func(specs []containerJSON, statuses []statusJSON, role workload.Role) {
		by := make(map[string]*statusJSON, len(statuses))
		for i := range statuses {
			by[statuses[i].Name] = &statuses[i]
		}
		for _, c := range specs {
			pc := workload.PodContainer{Name: c.Name, Role: role, Image: c.Image}
			if role == workload.RoleInit && c.RestartPolicy == "Always" {
				pc.Role = workload.RoleSidecar
			}
			if s := by[c.Name]; s != nil {
				pc.ID, pc.State, pc.Ready, pc.Restarts = containerID(s.ContainerID), s.state(), s.Ready, s.RestartCount
				pc.Image = cmp.Or(pc.Image, s.Image)
			}
			out = append(out, pc)
		}
	}
	add(p.Spec.InitContainers, p.Status.InitContainerStatuses, workload.RoleInit)
	add(p.Spec.Containers, p.Status.ContainerStatuses, workload.RoleMain)
	add(p.Spec.EphemeralContainers, p.Status.EphemeralContainerStatuses, workload.RoleEphemeral)
	return out
}

// state is that of the container whose id is in the status. While the kubelet
// waits to make the next one, that is the last one, which has ended.
func (s *statusJSON) state() workload.State {
	switch {
	case s.State.Running != nil:
		return workload.StateRunning
	case s.State.Terminated != nil, s.ContainerID != "":
		return workload.StateExited
	}
	return workload.StateUnknown
}

// containerID reads ENGINE://ID; zero for what no engine of the kubelet's says.
func containerID(text string) workload.ContainerID {
	engine, id, ok := strings.Cut(text, "://")
	if !ok || !isContainerID(id) {
		return workload.ContainerID{}
	}
	switch engine {
	case "containerd":
		return workload.ContainerID{Runtime: engine, Namespace: "k8s.io", ID: id}
	case "cri-o", "docker":
		return workload.ContainerID{Runtime: engine, ID: id}
	}
	return workload.ContainerID{}
}

func isContainerID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// volume is one volume: an object of its name and of one member, whose key is the kind.
func volume(v map[string]json.RawMessage) workload.PodVolume {
	var out workload.PodVolume
	for _, key := range sortedKeys(v) {
		if key == "name" {
			_ = json.Unmarshal(v[key], &out.Name) // without a name, still of a kind
			continue
		}
		var of struct {
			Name, SecretName, ClaimName, Path, Server, Driver, Reference string
		}
		_ = json.Unmarshal(v[key], &of) // of no name, then
		out.Kind = key
		out.Source = cmp.Or(of.ClaimName, of.SecretName, of.Reference, of.Name, of.Path, of.Driver)
		if of.Server != "" { // NFS
			out.Source = of.Server + ":" + of.Path
		}
	}
	return out
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// described is what the kubelet says of one container.
type described struct {
	layer *workload.Container
	runs  bool
}

// describe says of a container what nobody but the kubelet knows, and to whom it
// belongs. It has no name: the id that users see is that of the source with one,
// and that is the engine.
func describe(pod *workload.Pod, c workload.PodContainer) *described {
	ref := pod.PodRef
	layer := &workload.Container{ID: c.ID, Pod: &ref, Role: c.Role, Attempt: c.Restarts}
	collectors.Bound(layer)
	return &described{layer: layer, runs: c.State == workload.StateRunning}
}

// busy: the pod is on its way to where it will stay.
func busy(p *workload.Pod) bool {
	return p.Phase == "Pending" || p.Phase == "Unknown" || !p.Deleted.IsZero() ||
		p.Phase == "Running" && slices.ContainsFunc(p.Containers, func(c workload.PodContainer) bool {
			return c.Role != workload.RoleInit && c.Role != workload.RoleEphemeral && !c.Ready
		})
}
