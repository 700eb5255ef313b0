// SPDX-License-Identifier: Apache-2.0

package server

import (
	"sync/atomic"
	"time"
)

// Standing is where a peer stands in the eyes of Options.Standing.
type Standing uint8

const (
	// OfTheHost peers may ask what their user may.
	OfTheHost Standing = iota
	// Contained peers may ask only about themselves, whoever their user is. So may those
	// that have ended: who has got their connection, nobody knows.
	Contained
	// Unclear is as OfTheHost, and not asked about again soon.
	Unclear
)

const (
	// standingFor is how long a verdict holds for a connection: a process may be moved.
	standingFor = time.Second
	// unclearFor is that where the verdict is that there is none, which may have taken
	// its time.
	unclearFor = time.Minute
)

// standing remembers the verdict on the peer of a connection. Methods may be called
// concurrently: then more than one may ask, and each has a right answer.
type standing struct {
	// until is when it ends, in nanoseconds since epoch, times two, and 1 more for
	// Contained; 0 for none.
	until atomic.Int64
}

var epoch = time.Now()

func (s *standing) contained(p Peer, ask func(Peer) Standing) bool {
	now := int64(time.Since(epoch))
	if v := s.until.Load(); v>>1 > now {
		return v&1 == 1
	}
	verdict, holds := ask(p), standingFor
	if p.ended() { // and its PID may have been another's when it was asked about
		verdict = Contained
	}
	if verdict == Unclear {
		holds = unclearFor
	}
	v := (int64(time.Since(epoch)) + int64(holds)) << 1
	if verdict == Contained {
		v |= 1
	}
	s.until.Store(v)
	return verdict == Contained
}
