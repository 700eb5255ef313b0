// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

// partSize is how many questions are answered, written and sent at a time: few
// enough that the asker soon has something to read, enough for two CPUs.
const partSize = 256

// errStopping is what a request gets that came too late.
var errStopping = status.Error(codes.Unavailable, "the agent is stopping")

// link carries the messages of one ResolveStream.
type link interface {
	// receive gives the next request, io.EOF after the last.
	receive() (*wire.Bytes, error)
	// send sends what fill appends.
	send(fill func([]byte) []byte) error
}

// session answers the requests of one link, one after the other: what a peer
// has in flight is one request, and what its buffers hold.
type session struct {
	peer Peer
	link link
	// cut ends the link; it may be called at any time, and again.
	cut func()
	// hungUp reports whether the peer is gone, nil where the context says so.
	hungUp func() bool
	ctx    context.Context // of what is being answered; it ends with the session
	cancel context.CancelFunc

	mu       sync.Mutex // guards all below
	busy     bool
	stopping bool
	asked    uint64      // the requests so far
	watched  uint64      // asked, when the timer was set
	timer    *time.Timer // nil: not set
}

// watchEvery is how often a request that is being answered has its peer looked
// after. The timer is not touched by a request that is quicker.
const watchEvery = 20 * time.Millisecond

// begin reports whether the request that was received shall be answered.
func (ss *session) begin() bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if ss.stopping {
		return false
	}
	ss.busy = true
	ss.asked++
	if ss.timer == nil && ss.hungUp != nil {
		ss.watched = ss.asked
		ss.timer = time.AfterFunc(watchEvery, ss.watch)
	}
	return true
}

// end reports whether there may be another request.
func (ss *session) end() bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.busy = false
	return !ss.stopping
}

// watch ends the session whose peer has gone while its request was answered.
func (ss *session) watch() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	switch {
	case !ss.busy || ss.ctx.Err() != nil:
		ss.timer = nil
		return
	case ss.watched == ss.asked && ss.hungUp():
		ss.timer = nil
		ss.cancel()
		return
	}
	ss.watched = ss.asked
	ss.timer.Reset(watchEvery)
}

// stop ends the session at once where it is idle, else after the request.
func (ss *session) stop() {
	ss.mu.Lock()
	ss.stopping = true
	idle := !ss.busy
	ss.mu.Unlock()
	if idle {
		ss.cut()
	}
}

// sessions are those that are open.
type sessions struct {
	all sync.WaitGroup

	mu       sync.Mutex // guards all below
	open     map[*session]struct{}
	stopping bool
}

// enter takes a session in, whose leave must follow. False: the server stops.
func (s *sessions) enter(ss *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	if s.open == nil {
		s.open = make(map[*session]struct{})
	}
	s.open[ss] = struct{}{}
	s.all.Add(1)
	return true
}

func (s *sessions) leave(ss *session) {
	s.mu.Lock()
	delete(s.open, ss)
	s.mu.Unlock()
	ss.cancel()
	s.all.Done()
}

// stop ends idle sessions at once and the others after their request.
func (s *sessions) stop() {
	for _, ss := range s.list(true) {
		ss.stop()
	}
}

// cut ends all, whatever they do.
func (s *sessions) cut() {
	for _, ss := range s.list(true) {
		ss.cancel()
		ss.cut()
	}
}

func (s *sessions) list(stopping bool) []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = s.stopping || stopping
	list := make([]*session, 0, len(s.open))
	for ss := range s.open {
		list = append(list, ss)
	}
	return list
}

// converse answers until the link ends, which is io.EOF, or breaks.
func (s *Server) converse(ss *session) error {
	for {
		msg, err := ss.link.receive()
		if err != nil {
			return err
		}
		if !ss.begin() {
			return errStopping
		}
		err = s.reply(ss, msg)
		if more := ss.end(); err != nil {
			return err
		} else if !more {
			return errStopping
		}
	}
}

// reply answers one request. Its error is about the link.
func (s *Server) reply(ss *session, msg *wire.Bytes) error {
	in := rooms.Get().(*room)
	req, err := wire.DecodeStreamRequest(msg, s.opt.MaxQueries, in.queries)
	r := reply{session: ss, max: s.opt.MaxReply, out: wire.NewStreamReply(req.ID, len(req.Queries))}
	if err == nil {
		err = s.answer(&r, &req, in.results[:])
	}
	if err == nil { // a backend that panicked may have left somebody at work in it
		in.back(req.Queries)
	}
	if err != nil && !r.ended {
		return ss.link.send(func(b []byte) []byte { return r.out.AppendError(b, err) })
	}
	return r.broken
}

// room is what a request needs while it is answered; an idle session has none.
type room struct {
	queries []workload.Query
	results [partSize]workload.Result
}

var rooms = sync.Pool{New: func() any { return new(room) }}

// keptQueries is for how many questions room is kept.
const keptQueries = 4096

// back gives the room to whoever is next, with nothing in it that would be kept.
func (r *room) back(queries []workload.Query) {
	r.queries = nil
	if cap(queries) <= keptQueries {
		clear(queries)
		r.queries = queries[:0]
	}
	clear(r.results[:min(len(queries), partSize)])
	rooms.Put(r)
}

// reply is what is sent for one request.
type reply struct {
	*session
	out    *wire.StreamReply
	size   int
	max    int
	ended  bool  // nothing more is to be sent
	broken error // what happened to the link
}

// send sends the next results, or in their place that they are too much.
func (r *reply) send(results []workload.Result, last bool) {
	r.broken = r.link.send(func(b []byte) []byte {
		before := len(b)
		b = r.out.Append(b, results, last)
		if r.size += len(b) - before; r.size <= r.max {
			return b
		}
		last = true
		return r.out.AppendError(b[:before],
			status.Errorf(codes.ResourceExhausted, "the reply is larger than max (%d bytes): ask less at once", r.max))
	})
	r.ended = last || r.broken != nil
}

// answer answers what may be asked, part by part. Its error is for the peer,
// unless the reply has ended already.
func (s *Server) answer(r *reply, req *wire.StreamRequest, room []workload.Result) (err error) {
	defer guard{log: s.opt.Logger}.recovered(wire.MethodResolveStream, &err)
	only, err := s.auth.checkQueries(r.peer, req.Queries)
	if err != nil {
		return err
	}
	refuseWaits(req)
	ctx := r.ctx
	if req.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, req.Timeout)
		defer cancel()
	}
	for from := 0; !r.ended; from += partSize {
		to := min(from+partSize, len(req.Queries))
		results := room[:to-from]
		s.ask(ctx, r.peer, only, req.Queries[from:to], between(req.Bad, from, to), results)
		if err := ctx.Err(); err != nil {
			return err
		}
		r.send(results, to == len(req.Queries))
	}
	return nil
}

// refuseWaits marks the questions that would hold up those behind them.
func refuseWaits(req *wire.StreamRequest) {
	for i := range req.Queries {
		if req.Queries[i].Wait <= 0 || req.Bad[i] != nil {
			continue
		}
		if req.Bad == nil {
			req.Bad = make(map[int]error)
		}
		req.Bad[i] = fmt.Errorf("%w: a question that waits is not for a stream, where others are behind it: call Resolve", workload.ErrInvalid)
	}
}

// between gives the errors of some questions, at their index among these.
func between(bad map[int]error, from, to int) map[int]error {
	if len(bad) == 0 {
		return nil
	}
	some := make(map[int]error)
	for i := from; i < to; i++ {
		if err := bad[i]; err != nil {
			some[i-from] = err
		}
	}
	return some
}

// newSession gives a session that has entered, nil if the server stops. The
// caller leaves.
func (s *Server) newSession(ctx context.Context, p Peer, l link, cut func()) *session {
	ss := &session{peer: p, link: l, cut: sync.OnceFunc(cut)}
	ss.ctx, ss.cancel = context.WithCancel(ctx)
	if !s.sessions.enter(ss) {
		ss.cancel()
		return nil
	}
	return ss
}

// ended is how a session's end is said to a gRPC peer.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}
