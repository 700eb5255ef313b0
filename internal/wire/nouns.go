// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// The tables of api/pidigree/v1/entities.proto, but for what process.go has.

var cgroupPathMessage = table(
	value(1, cgroupMessage, func(c *workload.CgroupPath) *workload.CgroupID { return &c.CgroupID }),
	text(2, func(c *workload.CgroupPath) *string { return &c.Path }),
)

var containerIDMessage = table(
	text(1, func(c *workload.ContainerID) *string { return &c.Runtime }),
	text(2, func(c *workload.ContainerID) *string { return &c.Instance }),
	text(3, func(c *workload.ContainerID) *string { return &c.Namespace }),
	text(4, func(c *workload.ContainerID) *string { return &c.ID }),
)

var exitMessage = table(
	boolean(1, func(e *workload.Exit) *bool { return &e.Known }),
	number(2, func(e *workload.Exit) *int32 { return &e.Code }),
	number(3, func(e *workload.Exit) *int32 { return &e.Signal }),
	boolean(4, func(e *workload.Exit) *bool { return &e.OOM }),
	number(5, func(e *workload.Exit) *workload.KTime { return &e.At }),
)

var imageRefMessage = table(
	text(1, func(i *workload.ImageRef) *string { return &i.Name }),
	text(2, func(i *workload.ImageRef) *string { return &i.Tag }),
	text(3, func(i *workload.ImageRef) *string { return &i.Digest }),
	text(4, func(i *workload.ImageRef) *string { return &i.ID }),
)

var runMessage = table(
	value(1, keyMessage, func(r *workload.Run) *workload.ProcessKey { return &r.Init }),
	list(2, cgroupPathMessage, func(r *workload.Run) *[]workload.CgroupPath { return &r.Cgroups }),
	texts(3, func(r *workload.Run) *[]string { return &r.ClaimedPaths }),
	boolean(4, func(r *workload.Run) *bool { return &r.Registers }),
	number(5, func(r *workload.Run) *workload.KTime { return &r.Started }),
	pointer(6, exitMessage, func(r *workload.Run) **workload.Exit { return &r.Exit }),
	boolean(7, func(r *workload.Run) *bool { return &r.Homeless }),
)

var networkMessage = table(
	text(1, func(n *workload.Network) *string { return &n.Name }),
	texts(2, func(n *workload.Network) *[]string { return &n.IPs }),
	text(3, func(n *workload.Network) *string { return &n.MAC }),
)

var portMessage = table(
	number(1, func(p *workload.Port) *uint16 { return &p.Container }),
	text(2, func(p *workload.Port) *string { return &p.Protocol }),
	text(3, func(p *workload.Port) *string { return &p.HostIP }),
	number(4, func(p *workload.Port) *uint16 { return &p.HostPort }),
)

var mountMessage = table(
	text(1, func(m *workload.Mount) *string { return &m.Type }),
	text(2, func(m *workload.Mount) *string { return &m.Source }),
	text(3, func(m *workload.Mount) *string { return &m.Destination }),
	boolean(4, func(m *workload.Mount) *bool { return &m.ReadOnly }),
)

var limitsMessage = table(
	number(1, func(l *workload.Limits) *int64 { return &l.MemoryBytes }),
	number(2, func(l *workload.Limits) *int64 { return &l.NanoCPUs }),
	number(3, func(l *workload.Limits) *int64 { return &l.CPUShares }),
	number(4, func(l *workload.Limits) *int64 { return &l.Pids }),
)

var securityMessage = table(
	boolean(1, func(s *workload.Security) *bool { return &s.Privileged }),
	texts(2, func(s *workload.Security) *[]string { return &s.AddedCaps }),
	boolean(3, func(s *workload.Security) *bool { return &s.HostPID }),
	boolean(4, func(s *workload.Security) *bool { return &s.HostNetwork }),
	boolean(5, func(s *workload.Security) *bool { return &s.HostIPC }),
	boolean(6, func(s *workload.Security) *bool { return &s.ReadOnlyRoot }),
)

var podRefMessage = table(
	text(1, func(p *workload.PodRef) *string { return &p.UID }),
	text(2, func(p *workload.PodRef) *string { return &p.Name }),
	text(3, func(p *workload.PodRef) *string { return &p.Namespace }),
)

var provenanceMessage = table(
	text(1, func(p *workload.Provenance) *string { return &p.Source }),
	number(2, func(p *workload.Provenance) *workload.KTime { return &p.At }),
	boolean(3, func(p *workload.Provenance) *bool { return &p.Stale }),
)

var markMessage = table(
	text(1, func(m *workload.Mark) *string { return &m.What }),
	text(2, func(m *workload.Mark) *string { return &m.Source }),
	number(3, func(m *workload.Mark) *workload.KTime { return &m.At }),
)

var containerMessage = table(
	value(1, containerIDMessage, func(c *workload.Container) *workload.ContainerID { return &c.ID }),
	list(2, containerIDMessage, func(c *workload.Container) *[]workload.ContainerID { return &c.Aliases }),
	value(3, containerIDMessage, func(c *workload.Container) *workload.ContainerID { return &c.Parent }),
	text(4, func(c *workload.Container) *string { return &c.Name }),
	text(5, func(c *workload.Container) *string { return &c.Runtime }),
	value(6, imageRefMessage, func(c *workload.Container) *workload.ImageRef { return &c.Image }),
	textMap(7, func(c *workload.Container) *map[string]string { return &c.Labels }),
	textMap(8, func(c *workload.Container) *map[string]string { return &c.Env }),
	enum(9, states, func(c *workload.Container) *workload.State { return &c.State }),
	instant(10, func(c *workload.Container) *time.Time { return &c.Created }),
	instant(11, func(c *workload.Container) *time.Time { return &c.Started }),
	instant(12, func(c *workload.Container) *time.Time { return &c.Finished }),
	pointer(13, exitMessage, func(c *workload.Container) **workload.Exit { return &c.Exit }),
	text(14, func(c *workload.Container) *string { return &c.Hostname }),
	list(15, networkMessage, func(c *workload.Container) *[]workload.Network { return &c.Networks }),
	list(16, portMessage, func(c *workload.Container) *[]workload.Port { return &c.Ports }),
	list(17, mountMessage, func(c *workload.Container) *[]workload.Mount { return &c.Mounts }),
	pointer(18, limitsMessage, func(c *workload.Container) **workload.Limits { return &c.Limits }),
	text(19, func(c *workload.Container) *string { return &c.User }),
	pointer(20, securityMessage, func(c *workload.Container) **workload.Security { return &c.Security }),
	text(21, func(c *workload.Container) *string { return &c.Bundle }),
	boolean(22, func(c *workload.Container) *bool { return &c.Sandbox }),
	pointer(23, podRefMessage, func(c *workload.Container) **workload.PodRef { return &c.Pod }),
	pointer(24, runMessage, func(c *workload.Container) **workload.Run { return &c.Run }),
	enum(25, confidences, func(c *workload.Container) *workload.Confidence { return &c.Confidence }),
	list(26, provenanceMessage, func(c *workload.Container) *[]workload.Provenance { return &c.Sources }),
	texts(27, func(c *workload.Container) *[]string { return &c.Missing }),
	list(28, markMessage, func(c *workload.Container) *[]workload.Mark { return &c.Timeline }),
	texts(29, func(c *workload.Container) *[]string { return &c.Truncated }),
	enum(30, roles, func(c *workload.Container) *workload.Role { return &c.Role }),
	number(31, func(c *workload.Container) *uint32 { return &c.Attempt }),
	textMap(32, func(c *workload.Container) *map[string]string { return &c.Annotations }),
	text(33, func(c *workload.Container) *string { return &c.Reason }),
	boolean(34, func(c *workload.Container) *bool { return &c.Filtered }),
	pointer(35, taskRefMessage, func(c *workload.Container) **workload.TaskRef { return &c.Task }),
	enum(36, healths, func(c *workload.Container) *workload.Health { return &c.Health }),
)

var serviceMessage = table(
	text(1, func(s *workload.Service) *string { return &s.Unit }),
	text(2, func(s *workload.Service) *string { return &s.Slice }),
	text(3, func(s *workload.Service) *string { return &s.Cgroup }),
	text(4, func(s *workload.Service) *string { return &s.User }),
	text(5, func(s *workload.Service) *string { return &s.UserUnit }),
	text(6, func(s *workload.Service) *string { return &s.UserSlice }),
	enum(7, confidences, func(s *workload.Service) *workload.Confidence { return &s.Confidence }),
	text(8, func(s *workload.Service) *string { return &s.Description }),
	text(9, func(s *workload.Service) *string { return &s.Active }),
	text(10, func(s *workload.Service) *string { return &s.Sub }),
	text(11, func(s *workload.Service) *string { return &s.InvocationID }),
	number(12, func(s *workload.Service) *workload.PID { return &s.MainPID }),
)

var processDetailMessage = table(
	texts(1, func(d *workload.ProcessDetail) *[]string { return &d.Command }),
	boolean(2, func(d *workload.ProcessDetail) *bool { return &d.CommandHidden }),
	number(3, func(d *workload.ProcessDetail) *uint32 { return &d.UID }),
	number(4, func(d *workload.ProcessDetail) *uint32 { return &d.EUID }),
	text(5, func(d *workload.ProcessDetail) *string { return &d.User }),
	value(6, keyMessage, func(d *workload.ProcessDetail) *workload.ProcessKey { return &d.Parent }),
	countMap(7, func(d *workload.ProcessDetail) *map[string]uint64 { return &d.Namespaces }),
	texts(8, func(d *workload.ProcessDetail) *[]string { return &d.Truncated }),
)

var familyMessage = table(
	list(1, processMessage, func(f *workload.Family) *[]workload.Process { return &f.Ancestors }),
	list(2, processMessage, func(f *workload.Family) *[]workload.Process { return &f.Children }),
	texts(3, func(f *workload.Family) *[]string { return &f.Truncated }),
)

var imageLayerMessage = table(
	text(1, func(l *workload.ImageLayer) *string { return &l.Digest }),
	text(2, func(l *workload.ImageLayer) *string { return &l.Blob }),
	number(3, func(l *workload.ImageLayer) *int64 { return &l.Size }),
)

var imageMessage = table(
	text(1, func(i *workload.Image) *string { return &i.ID }),
	texts(2, func(i *workload.Image) *[]string { return &i.Names }),
	texts(3, func(i *workload.Image) *[]string { return &i.Digests }),
	number(4, func(i *workload.Image) *int64 { return &i.Size }),
	text(5, func(i *workload.Image) *string { return &i.Runtime }),
	text(6, func(i *workload.Image) *string { return &i.Instance }),
	text(7, func(i *workload.Image) *string { return &i.Namespace }),
	list(8, imageLayerMessage, func(i *workload.Image) *[]workload.ImageLayer { return &i.Layers }),
	text(9, func(i *workload.Image) *string { return &i.OS }),
	text(10, func(i *workload.Image) *string { return &i.Architecture }),
	text(11, func(i *workload.Image) *string { return &i.Variant }),
	textMap(12, func(i *workload.Image) *map[string]string { return &i.Labels }),
	instant(13, func(i *workload.Image) *time.Time { return &i.Created }),
	list(14, provenanceMessage, func(i *workload.Image) *[]workload.Provenance { return &i.Sources }),
	texts(15, func(i *workload.Image) *[]string { return &i.Truncated }),
)

var entityMessage = table(
	enum(1, kinds, func(e *workload.Entity) *workload.Kind { return &e.Kind }),
	pointer(2, containerMessage, func(e *workload.Entity) **workload.Container { return &e.Container }),
	pointer(3, processMessage, func(e *workload.Entity) **workload.Process { return &e.Process }),
	pointer(4, podMessage, func(e *workload.Entity) **workload.Pod { return &e.Pod }),
	pointer(5, imageMessage, func(e *workload.Entity) **workload.Image { return &e.Image }),
	pointer(6, taskMessage, func(e *workload.Entity) **workload.Task { return &e.Task }),
	pointer(7, serviceMessage, func(e *workload.Entity) **workload.Service { return &e.Service }),
	boolean(8, func(e *workload.Entity) *bool { return &e.Gone }),
	number(9, func(e *workload.Entity) *workload.Revision { return &e.Revision }),
)

var changeMessage = table(
	enum(1, changeTypes, func(c *workload.Change) *workload.ChangeType { return &c.Type }),
	number(2, func(c *workload.Change) *workload.Revision { return &c.Revision }),
	value(3, entityMessage, func(c *workload.Change) *workload.Entity { return &c.Entity }),
)

var hopMessage = table(
	text(1, func(h *workload.Hop) *string { return &h.What }),
	text(2, func(h *workload.Hop) *string { return &h.Detail }),
	text(3, func(h *workload.Hop) *string { return &h.Source }),
	number(4, func(h *workload.Hop) *workload.KTime { return &h.At }),
)
