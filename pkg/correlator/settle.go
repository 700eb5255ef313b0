// SPDX-License-Identifier: Apache-2.0

package correlator

import (
	"context"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// SettleBound is how long after an engine was asked for the first time about a
	// container a question still waits for that answer. On two cores that start
	// twelve containers at a time an engine that is well answers within it; it is
	// an eighth of what a call may take before it has failed, so whoever meets an
	// engine that hangs waits for a fraction of that, and only until that is known.
	SettleBound = 250 * time.Millisecond
	// maxSettling bounds the questions that wait for engines at the same time, each
	// a goroutine of the asker's. All others are answered as things are.
	maxSettling = 1024
)

// settling is what questions about one container wait for.
type settling struct {
	done  chan struct{} // closed when another number of answers is under way
	asked int           // how many are
	count int           // of the questions
}

// Settle waits for the first answers about a container that engines are giving
// at this moment, and reports whether it waited for any that came: then it is
// in the store. It gives up SettleBound after each engine was asked, and when ctx
// ends. It does not wait at all for an engine that fails, refuses or has owed
// others an answer for that long, nor where a thousand questions wait already.
func (c *Correlator) Settle(ctx context.Context, id workload.ContainerID) bool {
	came, waited := false, false
	for ctx.Err() == nil {
		s, ct, wait := c.beginSettling(id)
		if s == nil {
			break
		}
		waited = true
		t := time.NewTimer(wait)
		select {
		case <-s.done:
			came = true
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		c.endSettling(s, ct)
	}
	switch {
	case came:
		c.settled.Add(1)
	case waited:
		c.unsettled.Add(1)
	}
	return came
}

// beginSettling joins those who wait for a container's first answers, where an
// engine that is well is giving one, and says how long that may take.
func (c *Correlator) beginSettling(id workload.ContainerID) (*settling, *container, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ct := c.m.find(id)
	if ct == nil || c.questions >= maxSettling {
		return nil, nil, 0
	}
	wait := c.settlesIn(ct, c.at())
	if wait <= 0 {
		return nil, nil, 0
	}
	s := c.settlers[ct]
	if s == nil {
		s = &settling{done: make(chan struct{}), asked: c.m.firstsUnderWay(ct)}
		c.settlers[ct] = s
	}
	s.count++
	c.questions++
	return s, ct, wait
}

func (c *Correlator) endSettling(s *settling, ct *container) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.questions--
	if s.count--; s.count == 0 && c.settlers[ct] == s {
		delete(c.settlers, ct)
	}
}

// settlesIn is how long the first answers that engines are giving about a
// container may still be waited for; 0 if there is nothing to wait for.
func (c *Correlator) settlesIn(ct *container, at workload.KTime) time.Duration {
	wait := time.Duration(0)
	for i := range ct.asks {
		if !c.m.firstUnderWay(ct, i) {
			continue
		}
		if left := SettleBound - time.Duration(at-ct.asks[i].sentAt); left > wait && c.sup.Prompt(c.names[i], SettleBound) {
			wait = left
		}
	}
	return wait
}

// settleLocked wakes up those for whom something has come: they look whether to
// wait for the rest.
func (c *Correlator) settleLocked() {
	for ct, s := range c.settlers {
		if ct.forgotten || c.m.firstsUnderWay(ct) != s.asked {
			delete(c.settlers, ct)
			close(s.done)
		}
	}
}

// firstUnderWay reports whether an engine has been asked about a container and
// has not said anything yet that was not an event: who it is may be in that.
func (m *machine) firstUnderWay(c *container, i int) bool {
	a := &c.asks[i]
	return a.busy && a.stage == askFirst && !m.cfg.sources[i].files
}

func (m *machine) firstsUnderWay(c *container) int {
	n := 0
	for i := range c.asks {
		if m.firstUnderWay(c, i) {
			n++
		}
	}
	return n
}
