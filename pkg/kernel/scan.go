// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// polled is a process as the last scans found it.
type polled struct {
	Process
	stack uint64
}

// young and oldScans: a process's cgroups are read anew in each scan while
// it is young, when runtimes move processes, and later in every eighth, because
// it costs four times what reading stat does.
const (
	young    = 5 * time.Second
	oldScans = 8
)

// changes is what one scan found, in the order that it is told in: a cgroup
// exists before a process is in it and is empty before it goes.
type changes struct {
	mkdirs, exits, forks, execs, attaches, rmdirs []Event
}

// scan compares the host with the last scan and says what changed. What it
// could not read stays as it was.
func (p *Poller) scan(say func(*Event)) error {
	began := time.Now()
	var ch changes
	p.scanCgroups(&ch)
	err := p.scanProcesses(&ch)
	for _, events := range [][]Event{ch.mkdirs, ch.exits, ch.forks, ch.execs, ch.attaches, ch.rmdirs} {
		for i := range events {
			events[i].Time = bootTime()
			say(&events[i])
		}
	}
	p.scans.Add(1)
	p.scanNanos.Store(int64(time.Since(began)))
	return err
}

func (p *Poller) scanCgroups(ch *changes) {
	now := p.files.walk()
	for id, cg := range now {
		if _, ok := p.cgroups[id]; !ok {
			ch.mkdirs = append(ch.mkdirs, Event{Type: CgroupMkdir, Cgroup: cg})
		}
	}
	for id, cg := range p.cgroups {
		if _, ok := now[id]; !ok {
			ch.rmdirs = append(ch.rmdirs, Event{Type: CgroupRmdir, Cgroup: cg})
		}
	}
	p.cgroups = now
	byDepth := func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.Cgroup.Level, b.Cgroup.Level), cmp.Compare(a.Cgroup.Path, b.Cgroup.Path))
	}
	slices.SortFunc(ch.mkdirs, byDepth)
	slices.SortFunc(ch.rmdirs, func(a, b Event) int { return byDepth(b, a) })
}

func (p *Poller) scanProcesses(ch *changes) error {
	told := p.takeTold() // before the processes are listed: else one would be missed that came meanwhile
	pids, err := p.proc.pids()
	if err != nil {
		p.tell(slices.Collect(maps.Values(told))...)
		return err
	}
	now := make(map[workload.PID]*polled, len(pids))
	var errs error
	for _, pid := range pids {
		was := p.processes[pid]
		is, err := p.look(pid, was)
		switch {
		case errors.Is(err, errGone):
		case err != nil:
			errs = cmp.Or(errs, err)
			if was != nil {
				now[pid] = was
			}
			if t, ok := told[pid]; ok {
				delete(told, pid)
				p.tell(t)
			}
		default:
			now[pid] = is
		}
	}
	for pid, was := range p.processes {
		if is, ok := now[pid]; !ok || !is.Key.Same(was.Key) {
			ch.exits = append(ch.exits, Event{Type: Exit, Process: was.Process})
		}
	}
	for pid, t := range told {
		if !p.processes[pid].same(t.Key) && !now[pid].same(t.Key) {
			ch.exits = append(ch.exits, Event{Type: Exit, Process: t})
		}
	}
	p.untell(ch.exits)
	for pid, is := range now {
		if parent := now[is.Parent]; parent != nil {
			is.ParentStart = startOfParent(&is.Process, &parent.Process)
		}
		compareProcess(ch, p.processes[pid], is, now[is.Parent])
	}
	p.processes = now
	byStart := func(a, b Event) int {
		return cmp.Or(cmp.Compare(a.Process.Key.Start, b.Process.Key.Start), cmp.Compare(a.Process.Key.PID, b.Process.Key.PID))
	}
	slices.SortFunc(ch.forks, byStart)
	slices.SortFunc(ch.execs, byStart)
	return errs
}

// same reports whether a process was found and is the one with this key.
func (p *polled) same(key workload.ProcessKey) bool { return p != nil && p.Key.Same(key) }

// look reads a process: only its stat where that says that nothing changed, and
// its cgroups where they are due. The start time tells a reused PID apart,
// because no PID comes round again within one tick.
func (p *Poller) look(pid workload.PID, was *polled) (*polled, error) {
	if was != nil {
		st, err := p.proc.stat(pid)
		if err != nil {
			return nil, goneOr(err)
		}
		if st.dead() {
			return nil, errGone
		}
		if st.start == was.Key.Start && st.stack == was.stack {
			is := *was
			is.Comm, is.Parent = st.comm, st.parent
			if p.due(pid, &st) {
				p.proc.regroup(&is.Process)
			}
			return &is, nil
		}
	}
	proc, st, err := p.proc.process(pid)
	if err != nil {
		return nil, err
	}
	if was != nil && proc.Cgroups.N == 0 && was.Key.Same(proc.Key) {
		proc.Cgroups = was.Cgroups // could not be read this time
	}
	return &polled{Process: proc, stack: st.stack}, nil
}

func (p *Poller) due(pid workload.PID, st *procStat) bool {
	age := bootTime() - workload.KTime(st.start)
	return age < workload.KTime(young) || (p.scans.Load()+uint64(pid))%oldScans == 0
}

// compareProcess says what happened to a process since it was seen before. A
// new one that has its parent's stack has not run a program of its own yet.
func compareProcess(ch *changes, was, is, parent *polled) {
	fresh := was == nil || !was.Key.Same(is.Key)
	if fresh {
		ch.forks = append(ch.forks, Event{Type: Fork, Process: is.Process})
		if !is.KernelThread && (parent == nil || parent.stack != is.stack || parent.ExeInode != is.ExeInode) {
			ch.execs = append(ch.execs, Event{Type: Exec, Process: is.Process})
		}
		return
	}
	if was.stack != is.stack || was.ExeInode != is.ExeInode || was.ExeDev != is.ExeDev {
		ch.execs = append(ch.execs, Event{Type: Exec, Process: is.Process})
	}
	for _, id := range is.Cgroups.Slice() {
		if !slices.Contains(was.Cgroups.Slice(), id) {
			ch.attaches = append(ch.attaches, Event{Type: CgroupAttach, Process: is.Process, Cgroup: Cgroup{ID: id}})
		}
	}
}
