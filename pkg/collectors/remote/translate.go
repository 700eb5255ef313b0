// SPDX-License-Identifier: Apache-2.0

package remote

import (
	"cmp"
	"strings"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// space says what of the other one's means the same here.
type space struct {
	// boot: cgroups, units and instants of the kernel's clock do.
	boot bool
	// pids: PIDs do.
	pids bool
	// copy: nothing of this host is in the store, so that nothing can be mixed up.
	copy bool
	// host is in the Instance of all ids where the other one is of another host, whose
	// names may be given again here; else empty.
	host string
}

func (s *Source) spaceOf(st workload.AgentStatus) space {
	here := s.opt.Here
	sp := space{boot: st.BootID == here.BootID, copy: s.opt.Copy}
	sp.pids = sp.copy || sp.boot && st.PIDNamespace != 0 && st.PIDNamespace == here.PIDNamespace
	if !sp.boot && !sp.copy {
		sp.host = hostName(st.Host)
	}
	return sp
}

// hostName is what may stand in an id of what another host calls itself.
func hostName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '.' || r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '_'
	}, name)
	return cmp.Or(name[:min(len(name), 64)], "unnamed")
}

func (sp space) detail() string {
	switch {
	case sp.copy && sp.boot:
		return "a copy of an agent of this host"
	case sp.copy:
		return "a copy of an agent of another host"
	case sp.pids:
		return "of this host: what is not known here"
	case sp.boot:
		return "of this host: no processes, its PIDs are those of another PID namespace"
	}
	return "of another host: its containers, pods, tasks and images"
}

// entity gives what is taken of an entity: a copy in which nothing means anything else
// here. The kind is empty for one without a usable id; false: it is not taken.
func (sp space) entity(e workload.Entity, now workload.KTime) (workload.Entity, bool) {
	out := workload.Entity{Kind: e.Kind, Gone: e.Gone}
	said := []workload.Provenance{{Source: Name, At: now}}
	switch {
	case e.Container != nil && !e.Container.ID.IsZero() && fits(e.Container.ID):
		out.Container = sp.container(e.Container)
		out.Container.Sources = said
		return out, !hearsay(e.Container.Sources)
	case e.Process != nil && e.Process.Key.OfInstance() && fits(e.Process.Container):
		out.Process = sp.process(e.Process, now)
		return out, sp.pids && e.Process.Source != workload.SourceRemote
	case e.Pod != nil && e.Pod.UID != "" && len(e.Pod.UID) <= maxID:
		out.Pod = e.Pod.Clone()
		for i := range out.Pod.Sandboxes {
			out.Pod.Sandboxes[i] = sp.id(out.Pod.Sandboxes[i])
		}
		collectors.BoundPod(out.Pod)
		out.Pod.Sources, out.Pod.Missing = said, nil
		return out, !hearsay(e.Pod.Sources)
	case e.Task != nil && e.Task.ARN != "" && len(e.Task.ARN) <= maxID:
		out.Task = e.Task.Clone()
		collectors.BoundTask(out.Task)
		out.Task.Sources, out.Task.Missing = said, nil
		return out, !hearsay(e.Task.Sources)
	case e.Image != nil && e.Image.ID != "" && len(e.Image.ID) <= maxID:
		i := *e.Image
		out.Image = &i
		collectors.BoundImage(out.Image)
		i.Instance = sp.instance(i.Instance)
		i.Sources = said
		return out, !hearsay(e.Image.Sources)
	case e.Service != nil && e.Service.Cgroup != "" && len(e.Service.Cgroup) <= maxID:
		u := *e.Service
		out.Service = &u
		collectors.BoundUnit(out.Service)
		return out, sp.copy // every agent reads those of its own host from the cgroups
	}
	return workload.Entity{}, false
}

// hearsay reports whether the other one has it from a third: the third's word counts
// there only where no source of that host describes the entity.
func hearsay(said []workload.Provenance) bool {
	return workload.FromRemote(said)
}

// maxID is longer than any id is, and than a path.
const maxID = 4096

func fits(id workload.ContainerID) bool {
	return len(id.Runtime)+len(id.Instance)+len(id.Namespace)+len(id.ID) <= maxID
}

func (sp space) instance(was string) string {
	if sp.host == "" {
		return was
	}
	return workload.RemoteInstance(sp.host, was)
}

func (sp space) id(id workload.ContainerID) workload.ContainerID {
	if !id.IsZero() {
		id.Instance = sp.instance(id.Instance)
	}
	return id
}

func (sp space) container(c *workload.Container) *workload.Container {
	n := c.Clone()
	n.Aliases = n.Aliases[:min(len(n.Aliases), 16)]
	n.Timeline, n.Missing = n.Timeline[:min(len(n.Timeline), 24)], n.Missing[:min(len(n.Missing), 24)]
	collectors.Bound(n)
	n.ID, n.Parent = sp.id(n.ID), sp.id(n.Parent)
	for i := range n.Aliases {
		n.Aliases[i] = sp.id(n.Aliases[i])
	}
	if !sp.boot { // its clock is another one
		n.Timeline = nil
		if n.Exit != nil {
			n.Exit.At = 0
		}
	}
	switch r := n.Run; {
	case r == nil:
	case sp.host != "":
		n.Run = nil
	default:
		r.Registers, r.ClaimedPaths = false, nil
		if !sp.copy {
			r.Cgroups = nil // whose a cgroup of this host is, is found out here
		}
		r.Cgroups = r.Cgroups[:min(len(r.Cgroups), maxCgroups)]
		if !sp.pids {
			r.Init = workload.ProcessKey{}
		}
		if !sp.boot {
			r.Started = 0
			if r.Exit != nil {
				r.Exit.At = 0
			}
		}
	}
	return n
}

func (sp space) process(p *workload.Process, now workload.KTime) *workload.Process {
	n := p.Clone()
	n.Detail = nil
	n.Comm, n.Reason, n.Exe = head(n.Comm), head(n.Reason), head(n.Exe)
	n.Cgroups = n.Cgroups[:min(len(n.Cgroups), maxCgroups)]
	n.PIDNamespaces = n.PIDNamespaces[:min(len(n.PIDNamespaces), maxCgroups)]
	if n.Service != nil {
		collectors.BoundUnit(n.Service)
	}
	if n.Started != 0 {
		n.Started = max(n.Started, workload.KTime(n.Key.Start))
	}
	if n.Exit != nil && now > 0 {
		n.Exit.At = min(n.Exit.At, now)
	}
	if !sp.boot {
		n.Started, n.Exec = 0, 0
		if n.Exit != nil {
			n.Exit.At = 0
		}
	}
	return n
}

// maxCgroups is more hierarchies than there are, and deeper than PID namespaces nest.
const maxCgroups = 32

// head cuts a word that has no budget of its own.
func head(s string) string { return s[:min(len(s), 256)] }
