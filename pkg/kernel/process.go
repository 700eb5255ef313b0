// SPDX-License-Identifier: Apache-2.0

package kernel

import "github.com/pidigree/pidigree/pkg/workload"

// ErrGone means that the process ended, or is a zombie.
var ErrGone = errGone

// Process reads one process from /proc, for questions about a process whose
// event has not come (yet). Errors: ErrGone, or what reading /proc gave. The key
// has Ticks set. Safe for concurrent use.
func (t *Tracer) Process(pid workload.PID) (Process, error) { return readProcess(t.proc, pid) }

// Process reads one process from /proc, like Tracer.Process. That it has ended
// is an event also where no scan has ever found it.
func (p *Poller) Process(pid workload.PID) (Process, error) {
	is, err := readProcess(p.proc, pid)
	if err == nil {
		p.tell(is)
	}
	return is, err
}

func readProcess(r *procReader, pid workload.PID) (Process, error) {
	p, _, err := r.process(pid)
	return p, err
}
