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
		Mode: a.mode, ModeReason: a.modeReason, CgroupMode: string(a.cgroups.Mode()),
		Revision: a.store.Revision(), Containers: counts.Containers, Processes: counts.Processes,
		Watchers: counts.Watchers, Sources: a.correlator.Sources(), Kernel: kernelStatus(ks),
	}
	s.Kernel.Repairs, s.Kernel.Lag = cs.Repairs, cs.Lag
	select {
	case <-a.Ready():
		s.Ready = true
	default:
	}
	for i := range s.Sources {
		s.Sources[i].Entities = a.described(s.Sources[i].Name)
	}
	if a.tombs != nil {
		s.Sources = append(s.Sources, a.tombsStatus())
	}
	return s
}

// described counts the live containers that a source describes.
func (a *Agent) described(source string) (n int) {
	for e := range a.store.All(workload.Selector{Kinds: []workload.Kind{workload.KindContainer}}) {
		for _, p := range e.Container.Sources {
			if p.Source == source {
				n++
			}
		}
	}
	return n
}

func kernelStatus(ks kernel.Stats) workload.KernelStatus {
	s := workload.KernelStatus{Events: map[string]uint64{}, Lost: map[string]uint64{}, Skipped: map[string]uint64{}, Programs: map[string]string{}}
	for t, n := range ks.Delivered {
		s.Events[t.String()] = n
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
	}
	return s
}
