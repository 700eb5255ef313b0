// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"os"

	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Status says how the agent does.
func (a *Agent) Status() workload.AgentStatus {
	counts, cs, ks := a.store.Counts(), a.correlator.Stats(), a.source.Stats()
	s := workload.AgentStatus{
		Version: a.opts.Version, PID: workload.PID(os.Getpid()), Started: a.started,
		Mode: a.mode, CgroupMode: string(a.cgroups.Mode()),
		Revision: a.store.Revision(), Containers: counts.Containers, Processes: counts.Processes, Pods: counts.Pods, Tasks: counts.Tasks, Images: counts.Images,
		Watchers: counts.Watchers, Sources: a.correlator.Sources(), Kernel: kernelStatus(ks),
	}
	s.Kernel.Repairs, s.Kernel.Lag = cs.Repairs, cs.Lag
	s.BootID, s.PIDNamespace, s.Host = hostID(a.opts.Procfs)
	if a.other != nil {
		s.Sources = append(s.Sources, a.other.Status())
	}
	if s.ModeReason = a.degraded(ks, s.Sources); a.mode == ModeOneShot {
		s.ModeReason = a.modeReason
	}
	select {
	case <-a.Ready():
		s.Ready = true
	default:
	}
	described := a.described()
	for i := range s.Sources {
		s.Sources[i].Entities = described[s.Sources[i].Name]
	}
	if a.tombs != nil {
		s.Sources = append(s.Sources, a.tombsStatus())
	}
	return s
}

// described counts the live containers, pods, tasks, units and images that each source describes.
func (a *Agent) described() map[string]int {
	n := map[string]int{}
	for e := range a.store.All(workload.Selector{Kinds: []workload.Kind{workload.KindContainer, workload.KindPod, workload.KindTask, workload.KindService, workload.KindImage}}) {
		said := []workload.Provenance(nil)
		if e.Container != nil {
			said = e.Container.Sources
		} else if e.Pod != nil {
			said = e.Pod.Sources
		} else if e.Task != nil {
			said = e.Task.Sources
		} else if e.Image != nil {
			said = e.Image.Sources
		}
		if s := e.Service; s != nil && s.Confidence == workload.Confirmed {
			n["systemd"]++
		}
		for _, p := range said {
			n[p.Source]++
		}
	}
	return n
}

func kernelStatus(ks kernel.Stats) workload.KernelStatus {
	s := workload.KernelStatus{
		Events: byName(ks.Delivered), Seen: byName(ks.Seen), Filtered: byName(ks.Filtered), Lost: map[string]uint64{},
		Skipped: map[string]uint64{}, Detached: map[string]uint64{}, Programs: map[string]string{}, Stolen: ks.Stolen,
	}
	for t, cpus := range ks.Lost {
		for _, n := range cpus {
			s.Lost[t.String()] += n
		}
	}
	for _, p := range ks.Programs {
		name := p.Type.String()
		s.Programs[name] = "attached"
		if !p.Attached {
			s.Programs[name] = p.Reason
		}
		s.Skipped[name] += p.Skipped
		s.Detached[name] += p.Detached
	}
	return s
}

func byName(counts map[kernel.Type]uint64) map[string]uint64 {
	named := make(map[string]uint64, len(counts))
	for t, n := range counts {
		named[t.String()] = n
	}
	return named
}
