// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"fmt"
	"strings"

	pcgroup "github.com/pidigree/pidigree/pkg/cgroup"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// explain lists the evidence, from the process to the workload.
func (r *Resolver) explain(a workload.Answer) []workload.Hop {
	var hops []workload.Hop
	add := func(what, source string, at workload.KTime, format string, args ...any) {
		hops = append(hops, workload.Hop{What: what, Source: source, At: at, Detail: fmt.Sprintf(format, args...)})
	}
	if p := a.Process; p != nil {
		add("process", "kernel", p.Started, "%s, %s, parent %d", p.Key, p.Comm, p.Parent)
		if a.Thread != 0 {
			add("thread", "kernel", 0, "%d is a thread of %d", a.Thread, p.Key.PID)
		}
		r.explainCgroups(p, add)
		if n := len(p.PIDNamespaces); n > 0 {
			add("pid namespace", "kernel", 0, "%d, as PID %d", p.PIDNamespaces[n-1].Inum, p.PIDNamespaces[n-1].PID)
		}
	}
	for _, c := range a.Containers {
		explainContainer(c, add)
	}
	if p := a.Process; p != nil && p.Entry != workload.EntryNone {
		add("membership", "kernel", 0, "by %s", p.Entry)
	}
	if a.Service != nil {
		r.explainService(a.Service, add)
	}
	verdict := string(a.Status)
	if a.Confidence != "" {
		verdict += ", " + string(a.Confidence)
	}
	if a.Reason != "" {
		verdict += ": " + a.Reason
	}
	add("answer", "", a.AsOf, "%s", verdict)
	return hops
}

// explainCgroups shows each distinct path once, with the hierarchies that have it.
func (r *Resolver) explainCgroups(p *workload.Process, add func(what, source string, at workload.KTime, format string, args ...any)) {
	var order []string
	where := map[string][]string{}
	for _, id := range p.Cgroups {
		path, err := r.cgroups.Path(id)
		if err != nil {
			path = "(gone)"
		}
		if where[path] == nil {
			order = append(order, path)
		}
		where[path] = append(where[path], id.String())
	}
	for _, path := range order {
		add("cgroup", "kernel", 0, "%s (%s)", path, strings.Join(where[path], " "))
		for _, c := range pcgroup.Parse(path).Claims {
			add("claim", "cgroup name", 0, "%s %s %s", c.Engine, c.Kind, c.ID)
		}
	}
}

func explainContainer(c *workload.Container, add func(what, source string, at workload.KTime, format string, args ...any)) {
	if c.Run != nil && len(c.Run.Cgroups) > 0 {
		source, at := "", workload.KTime(0)
		for _, m := range c.Timeline {
			if m.What == workload.MarkRegistered {
				source, at = m.Source, m.At
			}
		}
		add("registration", source, at, "%d cgroups, first %s %s, by init %s", len(c.Run.Cgroups), c.Run.Cgroups[0].CgroupID, c.Run.Cgroups[0].Path, c.Run.Init)
	}
	for _, s := range c.Sources {
		if s.Source == store.KernelSource {
			continue // what it says is in the other hops
		}
		add("layer", s.Source, s.At, "describes %s", c.ID)
	}
	add("container", "", 0, "%s, name %s, image %s, %s", c.ID, c.Name, c.Image.Name, c.State)
}

// explainService says whose word each part is: the path's, the manager's, or, of
// what is below a user's manager, that user's.
func (r *Resolver) explainService(s *workload.Service, add func(what, source string, at workload.KTime, format string, args ...any)) {
	add("service", "cgroup", 0, "%s in %s", s.Unit, s.Slice)
	if s.UserUnit != "" {
		add("user unit", "cgroup", 0, "%s in %s, as user %s calls it", s.UserUnit, s.UserSlice, s.User)
	}
	if s.Confidence == workload.Confirmed {
		add("service", "systemd", 0, "%s (%s), %s, invocation %s", s.Active, s.Sub, s.Description, s.InvocationID)
	}
}
