// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"time"
)

// sweepBatch is how many processes a sweep asks about in one call at most.
const sweepBatch = 200

// cycle is what a sweep asks a process with, in turn. A bare PID is the harder
// question and comes most often; what costs the oracle more than the answer
// costs pidigree comes once.
var cycle = map[Way][]By{
	Library: {ByPID, ByInode, ByPID, ByStart, ByPID, ByTicks, ByPID, ByInode, ByPID, ByThread, ByPID, ByStart, ByPID, ByInode, ByCgroupID, ByCgroupPath, ByPID, ByID, ByPID, ByName},
	Socket:  {ByPID, ByInode, ByPidfd, ByStart, ByPID, ByTicks, ByPID, ByInode, ByThread, ByPID, ByCgroupID, ByPID, ByCgroupPath, ByPID, ByID, ByName},
	Command: {ByPID, ByThread, ByStart, ByTicks, ByCgroupPath, ByPID, ByID, ByName},
	Alone:   {ByPID, ByTicks, ByID, ByCgroupPath},
}

// sweep starts one sweep for each way.
func (o *Oracle) sweep() {
	for _, way := range o.ways() {
		o.running.Go(func() { o.sweepEver(way) })
	}
	if len(o.opts.Command) > 0 && o.opts.Socket != "" {
		o.running.Go(func() { o.sweepCommand(Command, o.opts.CommandEvery) })
	}
	if len(o.opts.Command) > 0 && len(o.opts.Env) > 0 {
		o.running.Go(func() { o.sweepCommand(Alone, 2*o.opts.CommandEvery) })
	}
}

// sweepEver asks about all that live, over and over, at the rate.
func (o *Oracle) sweepEver(way Way) {
	size := sweepBatch
	if o.opts.Rate > 0 {
		size = max(1, min(size, o.opts.Rate/10))
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	for turn := 0; ; turn++ {
		asked := 0
		begin := time.Now()
		ps := o.snapshot(nil)
		for len(ps) > 0 && o.ctx.Err() == nil {
			n := min(size, len(ps))
			batch := o.questions(way, ps[:n], turn)
			o.ask(way, batch)
			releaseAll(ps[:n])
			ps, asked = ps[n:], len(batch)
			if !o.pace(pause, asked, begin) {
				break
			}
			begin = time.Now()
		}
		releaseAll(ps)
		if o.ctx.Err() != nil || asked == 0 && !o.rest(pause, 5*time.Millisecond) {
			return
		}
	}
}

// pace waits for as long as so many lookups may take. It is false once the
// oracle has ended.
func (o *Oracle) pace(t *time.Timer, asked int, begin time.Time) bool {
	if o.opts.Rate < 0 {
		return o.ctx.Err() == nil
	}
	return o.rest(t, time.Duration(asked)*time.Second/time.Duration(o.opts.Rate)-time.Since(begin))
}

func (o *Oracle) rest(t *time.Timer, d time.Duration) bool {
	t.Reset(d)
	select {
	case <-o.ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// sweepCommand asks the command line now and then, each time about others.
func (o *Oracle) sweepCommand(way Way, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for turn := 0; ; turn++ {
		select {
		case <-o.ctx.Done():
			return
		case <-tick.C:
		}
		ps := o.snapshot(nil)
		n := min(len(ps), 100)
		if n > 0 {
			o.ask(way, o.questions(way, ps[:n], turn))
		}
		releaseAll(ps)
	}
}

// questions are one for each process, each by what its turn says.
func (o *Oracle) questions(way Way, ps []*process, turn int) []pending {
	batch := make([]pending, 0, len(ps))
	bys := cycle[way]
	for i, p := range ps {
		b, ok := p.question(bys[(i+turn)%len(bys)])
		if !ok {
			b, _ = p.question(ByPID)
		}
		batch = append(batch, b)
	}
	return batch
}

// snapshot gives the processes that live, of one party or of all, in no order.
// Each must be released.
func (o *Oracle) snapshot(of *Party) []*process {
	o.mu.Lock()
	defer o.mu.Unlock()
	var ps []*process
	for p := range o.live {
		if of == nil || p.party == of {
			p.refs.Add(1)
			ps = append(ps, p)
		}
	}
	return ps
}

func releaseAll(ps []*process) {
	for _, p := range ps {
		p.release()
	}
}
