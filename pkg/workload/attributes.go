// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Attribute is one attribute by its name in OpenTelemetry's semantic conventions.
// The value is a string, an int64 or a []string.
type Attribute struct {
	Key   string
	Value any
}

// Attributes says an answer in the names of OpenTelemetry's semantic conventions
// (1.43), sorted by name: what is known of the process, of the innermost container,
// of its pod and of its task. What nobody has said has no attribute, and what the
// conventions have no name for is left out; docs/fields.md lists which field
// becomes what. The same answer gives the same attributes.
func (a Answer) Attributes() []Attribute {
	var b attributes
	if a.Process != nil {
		b.process(a.Process)
	}
	if c := a.Container(); c != nil {
		b.container(c)
	}
	if a.Pod != nil {
		b.pod(a.Pod)
	}
	if a.Task != nil {
		b.task(a.Task)
	}
	slices.SortFunc(b.list, func(x, y Attribute) int { return strings.Compare(x.Key, y.Key) })
	return b.list
}

type attributes struct{ list []Attribute }

func (b *attributes) text(key, value string) {
	if value != "" {
		b.list = append(b.list, Attribute{key, value})
	}
}

func (b *attributes) number(key string, value int64) {
	b.list = append(b.list, Attribute{key, value})
}

func (b *attributes) dict(prefix string, m map[string]string) {
	for k, v := range m {
		if k != "" {
			b.list = append(b.list, Attribute{prefix + k, v})
		}
	}
}

func (b *attributes) process(p *Process) {
	if p.Key.PID != 0 {
		b.number("process.pid", int64(p.Key.PID))
	}
	if p.Parent != 0 {
		b.number("process.parent_pid", int64(p.Parent))
	}
	if p.Exe != "" {
		b.text("process.executable.path", p.Exe)
		b.text("process.executable.name", path.Base(p.Exe))
	}
	if d := p.Detail; d != nil {
		if len(d.Command) > 0 {
			b.list = append(b.list, Attribute{"process.command_args", d.Command})
		}
		b.text("process.owner", d.User)
		b.text("process.user.id", strconv.FormatUint(uint64(d.EUID), 10))
		b.text("process.real_user.id", strconv.FormatUint(uint64(d.UID), 10))
	}
	if n := len(p.PIDNamespaces); n > 0 && p.PIDNamespaces[n-1].PID != 0 {
		b.number("process.vpid", int64(p.PIDNamespaces[n-1].PID))
	}
	if p.Exit != nil && p.Exit.Known {
		b.number("process.exit.code", int64(p.Exit.Code))
	}
}

func (b *attributes) container(c *Container) {
	b.text("container.id", c.ID.ID)
	b.text("container.name", c.Name)
	runtime := c.Runtime
	if runtime == "" {
		runtime = c.ID.Runtime
	}
	b.text("container.runtime.name", runtime)
	b.image(&c.Image)
	b.dict("container.label.", c.Labels)
	if c.Pod != nil && kubernetes(c.Pod) && !c.Sandbox {
		b.kubeContainer(c)
	}
}

func (b *attributes) image(i *ImageRef) {
	b.text("container.image.name", bareImage(i.Name))
	b.text("container.image.id", i.ID)
	b.text("oci.manifest.digest", i.Digest)
	if i.Tag != "" {
		b.list = append(b.list, Attribute{"container.image.tags", []string{i.Tag}})
	}
}

// bareImage is an image's name without tag and digest. One that is only an id has none.
func bareImage(name string) string {
	if strings.HasPrefix(name, "sha256:") {
		return ""
	}
	name, _, _ = strings.Cut(name, "@")
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		name = name[:at]
	}
	return name
}

// kubernetes tells its pods from podman's, which have no namespace.
func kubernetes(p *PodRef) bool { return p.Namespace != "" }

func (b *attributes) kubeContainer(c *Container) {
	b.text("k8s.container.name", c.Name)
	if c.Attempt > 0 || slices.ContainsFunc(c.Sources, countsRestarts) {
		b.number("k8s.container.restart_count", int64(c.Attempt))
	}
	switch c.State {
	case StateRunning:
		b.text("k8s.container.status.state", "running")
	case StateExited:
		b.text("k8s.container.status.state", "terminated")
		b.text("k8s.container.status.reason", c.Reason)
	}
}

// countsRestarts: of others a count of 0 says nothing.
func countsRestarts(p Provenance) bool {
	kind, _, _ := strings.Cut(p.Source, "@")
	return kind == "cri" || kind == "kubelet"
}

// owners are the kinds that the conventions have names for.
var owners = []string{"ReplicaSet", "StatefulSet", "DaemonSet", "Job", "ReplicationController"}

func (b *attributes) pod(p *Pod) {
	if !kubernetes(&p.PodRef) {
		return
	}
	b.text("k8s.pod.uid", p.UID)
	b.text("k8s.pod.name", p.Name)
	b.text("k8s.namespace.name", p.Namespace)
	b.text("k8s.node.name", p.Node)
	b.text("k8s.pod.status.phase", p.Phase)
	if len(p.IPs) > 0 {
		b.text("k8s.pod.ip", p.IPs[0])
	}
	if !p.Started.IsZero() {
		b.text("k8s.pod.start_time", p.Started.UTC().Format(time.RFC3339))
	}
	b.dict("k8s.pod.label.", p.Labels)
	b.dict("k8s.pod.annotation.", p.Annotations)
	for _, o := range p.Owners {
		if o.Controller && slices.Contains(owners, o.Kind) {
			b.text("k8s."+strings.ToLower(o.Kind)+".name", o.Name)
			b.text("k8s."+strings.ToLower(o.Kind)+".uid", o.UID)
		}
	}
}

func (b *attributes) task(t *Task) {
	b.text("aws.ecs.task.arn", t.ARN)
	b.text("aws.ecs.task.family", t.Family)
	b.text("aws.ecs.task.revision", t.Revision)
	b.text("aws.ecs.launchtype", strings.ToLower(t.LaunchType))
	b.text("cloud.availability_zone", t.Zone)
	n, ok := ParseTaskARN(t.ARN)
	if !ok {
		return
	}
	b.text("aws.ecs.task.id", n.ID)
	b.text("aws.ecs.cluster.arn", n.ClusterARN(t.Cluster))
	b.text("cloud.account.id", n.Account)
	b.text("cloud.region", n.Region)
	b.text("cloud.provider", "aws")
	b.text("cloud.platform", "aws_ecs")
}

// AttributeNames says which field of an entity becomes which attribute, for the
// documentation.
func AttributeNames() map[string][]string {
	return map[string][]string{
		"Process.Key": {"process.pid"}, "Process.Parent": {"process.parent_pid"},
		"Process.Exe":           {"process.executable.path", "process.executable.name"},
		"Process.PIDNamespaces": {"process.vpid"}, "Process.Exit": {"process.exit.code"},
		"ProcessDetail.Command": {"process.command_args"}, "ProcessDetail.User": {"process.owner"},
		"ProcessDetail.EUID": {"process.user.id"}, "ProcessDetail.UID": {"process.real_user.id"},
		"Container.ID": {"container.id"}, "Container.Name": {"container.name", "k8s.container.name"},
		"Container.Runtime": {"container.runtime.name"}, "Container.Image.Name": {"container.image.name"},
		"Container.Image.Tag": {"container.image.tags"}, "Container.Image.Digest": {"oci.manifest.digest"},
		"Container.Image.ID": {"container.image.id"}, "Container.Labels": {"container.label.<key>"},
		"Container.Attempt": {"k8s.container.restart_count"}, "Container.State": {"k8s.container.status.state"},
		"Container.Reason": {"k8s.container.status.reason"},
		"Pod.UID":          {"k8s.pod.uid"}, "Pod.Name": {"k8s.pod.name"}, "Pod.Namespace": {"k8s.namespace.name"}, "Pod.Node": {"k8s.node.name"},
		"Pod.Phase": {"k8s.pod.status.phase"}, "Pod.IPs": {"k8s.pod.ip"}, "Pod.Started": {"k8s.pod.start_time"},
		"Pod.Labels": {"k8s.pod.label.<key>"}, "Pod.Annotations": {"k8s.pod.annotation.<key>"},
		"Pod.Owners":  {"k8s.<kind>.name", "k8s.<kind>.uid"},
		"Task.ARN":    {"aws.ecs.task.arn", "aws.ecs.task.id", "cloud.account.id", "cloud.region", "cloud.provider", "cloud.platform"},
		"Task.Family": {"aws.ecs.task.family"}, "Task.Revision": {"aws.ecs.task.revision"}, "Task.Cluster": {"aws.ecs.cluster.arn"},
		"Task.LaunchType": {"aws.ecs.launchtype"}, "Task.Zone": {"cloud.availability_zone"},
	}
}
