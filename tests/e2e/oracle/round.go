// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/oracle/report"
)

// question is one about p; ok is false where there is nothing to ask with.
func (p *process) question(by By) (b pending, ok bool) {
	b = pending{p: p, q: Question{By: by}}
	q := &b.q.Query
	switch by {
	case ByPID:
		q.PID = p.pid
	case ByThread:
		b.thread = p.thread()
		q.PID = b.thread
	case ByInode:
		q.Key = workload.ProcessKey{PID: p.pid, Inode: p.inode}
		return b, p.inode != 0
	case ByTicks:
		q.Key = workload.ProcessKey{PID: p.pid, Start: p.startTicks(), Ticks: true}
		return b, q.Key.Start != 0
	case ByStart:
		p.mu.Lock()
		q.Key = workload.ProcessKey{PID: p.pid, Start: p.own}
		p.mu.Unlock()
		return b, q.Key.Start != 0
	case ByPidfd:
		return b, true
	case ByCgroupID, ByCgroupPath:
		if p.party.Truth().Homeless {
			return pending{}, false
		}
		g, ok := p.cgroup()
		if by == ByCgroupPath {
			q.CgroupPath = g.path
		} else {
			q.Cgroup = g.id
		}
		return b, ok
	case ByID, ByName:
		q.Container, ok = p.party.called(by)
		return b, ok
	}
	return b, q.PID != 0
}

// ways are those that were asked for.
func (o *Oracle) ways() (ws []Way) {
	if o.opts.Library != nil {
		ws = append(ws, Library)
	}
	if o.opts.Socket != "" {
		ws = append(ws, Socket)
	}
	return ws
}

// firstRound asks about a process that has just reported, until it is known or
// has had its time.
func (o *Oracle) firstRound(p *process) {
	known, last := o.askOnce(p)
	if ways := o.ways(); !known && len(ways) > 0 && last != Failed {
		o.untilKnown(p, ways[0])
	}
}

// askOnce asks in every way, and reports whether an answer was right. The
// library comes first and waits for nobody.
func (o *Oracle) askOnce(p *process) (known bool, last Verdict) {
	for _, way := range o.ways() {
		if way == Socket {
			select {
			case o.slots <- struct{}{}:
			case <-o.ctx.Done():
				return known, Failed
			}
			defer func() { <-o.slots }()
		}
		for round := 0; round <= o.opts.Rounds; round++ {
			batch := p.firstQuestions(way, round)
			for way == Socket && round < o.opts.Rounds { // a call costs more than what it asks
				round++
				batch = append(batch, p.firstQuestions(way, round)...)
			}
			for _, v := range o.ask(way, batch) {
				last = v
				if v == Right && !known {
					known = true
					o.tally.knownAfter(time.Duration(report.SinceBoot() - p.said))
				}
			}
		}
	}
	return known, last
}

// firstQuestions are what is asked first, and in each further round the cycle of
// the sweeps.
func (p *process) firstQuestions(way Way, round int) (batch []pending) {
	bys := []By{ByPID, ByInode}
	switch {
	case round > 0:
		bys = cycle[way]
	case way == Socket:
		bys = append(bys, ByPidfd)
	}
	if p.stays && round == 0 {
		bys = append(bys, ByThread, ByTicks)
	}
	for _, by := range bys {
		if by == ByThread && !p.stays || (by == ByCgroupID || by == ByCgroupPath) && p.party.host {
			// The first has one thread, and looking for others takes its time. A cgroup
			// of the host's has pidigree look at everybody in there: the sweeps ask so.
			continue
		}
		if b, ok := p.question(by); ok {
			batch = append(batch, b)
		}
	}
	return batch
}

// linger holds some of the short-lived processes.
func (o *Oracle) linger() {
	if o.opts.Linger <= 0 || o.brief.Add(1)%8 != 0 {
		return
	}
	t := time.NewTimer(rand.N(o.opts.Linger))
	defer t.Stop()
	select {
	case <-t.C:
	case <-o.ctx.Done():
	}
}

// untilKnown asks by PID with growing pauses.
func (o *Oracle) untilKnown(p *process, way Way) {
	ctx, cancel := context.WithTimeout(o.ctx, o.opts.Patience)
	defer cancel()
	t := time.NewTimer(0)
	defer t.Stop()
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		t.Reset(pause)
		select {
		case <-ctx.Done():
			if p.alive() && o.ctx.Err() == nil && !p.party.expectsDoubt() {
				o.tally.never.Add(1)
			}
			return
		case <-t.C:
		}
		b, _ := p.question(ByPID)
		switch o.ask(way, []pending{b})[0] {
		case Right:
			o.tally.knownAfter(time.Duration(report.SinceBoot() - p.said))
			return
		case Wrong, Gone, Failed:
			return
		case Conflict: // it will not change for the asking
			if p.party.expectsDoubt() {
				return
			}
		}
	}
}

// expectsDoubt reports whether the party's processes may stay unknown or in conflict.
func (p *Party) expectsDoubt() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.judge != nil || p.doubt
}

// afterwards asks about one in eight processes that have ended: the key must
// still mean that one, the PID may be another's.
func (o *Oracle) afterwards(p *process) {
	if p.inode%8 != 0 || o.ctx.Err() != nil {
		return
	}
	fds := []unix.PollFd{{Fd: int32(p.pidfd), Events: unix.POLLIN}}
	if n, err := unix.Poll(fds, 1000); err != nil || n == 0 {
		return
	}
	for _, way := range o.ways() {
		var batch []pending
		for _, by := range []By{ByPID, ByInode, ByStart} {
			if b, ok := p.question(by); ok {
				batch = append(batch, b)
			}
		}
		o.ask(way, batch)
	}
}

// WaitReports waits until n processes of the party have reported since the oracle
// began, and fails the test where they do not.
func (o *Oracle) WaitReports(patience time.Duration, p *Party, n uint64) {
	o.tb.Helper()
	o.wait(patience, func() error {
		if got := p.Reports(); got < n {
			return fmt.Errorf("%d processes of %s have reported, not %d", got, p, n)
		}
		return nil
	})
}

// WaitKnown waits until every process of the parties that lives is answered
// right in all ways but the command line, and fails the test where they are not.
// A party that has not reported is not known.
func (o *Oracle) WaitKnown(patience time.Duration, parties ...*Party) {
	o.tb.Helper()
	o.wait(patience, func() error {
		for _, party := range parties {
			if err := o.knows(party); err != nil {
				return err
			}
		}
		return nil
	})
}

func (o *Oracle) knows(party *Party) error {
	if party.Reports() == 0 {
		return fmt.Errorf("no process of %s has reported", party)
	}
	ps := o.snapshot(party)
	defer releaseAll(ps)
	for _, way := range o.ways() {
		for _, p := range ps {
			b, _ := p.question(ByPID)
			if v := o.ask(way, []pending{b})[0]; v != Right && v != Gone {
				return fmt.Errorf("process %d of %s is %s by the %s; it is explained as\n%s", p.pid, party, v, way, o.explain(p.pid))
			}
		}
	}
	return nil
}

// wait polls what nobody announces.
func (o *Oracle) wait(patience time.Duration, fn func() error) {
	o.tb.Helper()
	ctx, cancel := context.WithTimeout(o.tb.Context(), patience)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fn()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			o.tb.Fatal(errors.Join(err, ctx.Err()))
		case <-tick.C:
		}
	}
}
