// SPDX-License-Identifier: Apache-2.0

package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/pidigree/pidigree/internal/wire"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// maxLines bounds the connections for questions that are asked at the same
	// time; what is asked beyond goes over gRPC's one connection.
	maxLines = 8
	// pauseLines is how long a server that does not know the preface, as one
	// from before it, is spared from it.
	pauseLines = 10 * time.Second
	// keptBuffer is the largest buffer that an idle line keeps.
	keptBuffer = 256 << 10
)

// lines are connections on which ResolveStream goes without gRPC; see its
// definition for their form. One has one question under way at a time, so a
// slow answer holds up nobody else's.
type lines struct {
	dialer *dialer

	mu     sync.Mutex // guards all below
	idle   []*line
	open   map[*line]struct{}
	making int
	paused time.Time // no line before
	closed bool
}

// line is one connection. It belongs to whoever took it.
type line struct {
	conn  net.Conn
	in    *bufio.Reader
	buf   []byte
	asked uint64
	spare bool // made by New: the agent may have been restarted since
}

// take gives a line, new or used, nil where there can be none.
func (ls *lines) take(ctx context.Context) *line {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if n := len(ls.idle); n > 0 {
		l := ls.idle[n-1]
		ls.idle = ls.idle[:n-1]
		return l
	}
	if ls.closed || len(ls.open)+ls.making >= maxLines || !ls.paused.IsZero() && time.Now().Before(ls.paused) {
		return nil
	}
	ls.making++
	ls.mu.Unlock()
	conn, spare, err := ls.dialer.line(ctx)
	ls.mu.Lock()
	ls.making--
	if err != nil {
		return nil // who asks by gRPC instead learns why
	}
	if ls.closed {
		_ = conn.Close() // nothing was said on it
		return nil
	}
	l := &line{conn: conn, in: bufio.NewReaderSize(conn, 16<<10), spare: spare}
	if ls.open == nil {
		ls.open = make(map[*line]struct{})
	}
	ls.open[l] = struct{}{}
	return l
}

func (ls *lines) put(l *line) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if !ls.closed {
		ls.idle = append(ls.idle, l)
	}
}

// drop closes a line that is of no use any more. Where it broke, so did those
// that wait, for which the agent's end is the likely reason; a new one that
// breaks means that the agent does not know of lines.
func (ls *lines) drop(l *line, broke bool) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.closeLocked(l)
	if !broke {
		return
	}
	for _, other := range ls.idle {
		ls.closeLocked(other)
	}
	ls.idle = nil
	if l.asked <= 1 && !l.spare {
		ls.paused = time.Now().Add(pauseLines)
	}
}

func (ls *lines) closeLocked(l *line) {
	delete(ls.open, l)
	_ = l.conn.Close() // all that was to be said was said
}

// close ends the lines, also those in use.
func (ls *lines) close() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.closed = true
	for l := range ls.open {
		ls.closeLocked(l)
	}
	ls.idle = nil
}

// errBroken means that a line ended before the reply did: ask another way.
var errBroken = errors.New("the connection broke")

// overLine asks over a line. False: there is none, or it broke.
func (c *Client) overLine(ctx context.Context, queries []workload.Query) ([]workload.Result, bool, error) {
	if ctx.Err() != nil {
		return nil, false, nil
	}
	l := c.lines.take(ctx)
	if l == nil {
		return nil, false, nil
	}
	// An error here means that the line is closed, which asking finds out too.
	_ = l.conn.SetDeadline(time.Now().Add(c.opt.Timeout))
	unhook := func() bool { return true }
	if ctx.Done() != nil {
		unhook = context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(time.Unix(1, 0)) })
	}
	results, err := l.ask(queries)
	var said remote
	switch untouched := unhook(); {
	case err == nil || errors.As(err, &said):
		if untouched {
			c.lines.put(l)
		} else {
			c.lines.drop(l, false)
		}
		if err != nil {
			return nil, true, fmt.Errorf("resolve: %w", said.error)
		}
		return results, true, nil
	case errors.Is(err, errBroken) && ctx.Err() == nil:
		c.lines.drop(l, true)
		return nil, false, nil
	}
	c.lines.drop(l, false)
	return nil, true, c.lineError(ctx, err)
}

// lineError says in one line why a question was not answered.
func (c *Client) lineError(ctx context.Context, err error) error {
	switch cause := context.Cause(ctx); {
	case cause != nil:
		return fmt.Errorf("resolve: %w", cause)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return c.timedOut("resolve")
	}
	return fmt.Errorf("resolve: %w", err)
}

// remote is what the agent says of a request as a whole.
type remote struct{ error }

// ask makes one request and reads its reply. Its error is a remote, errBroken,
// os.ErrDeadlineExceeded or wire.ErrMalformed.
func (l *line) ask(queries []workload.Query) ([]workload.Result, error) {
	l.asked++
	if err := l.send(queries); err != nil {
		return nil, broken(err)
	}
	if l.asked == 1 {
		if err := l.greeted(); err != nil {
			return nil, err
		}
	}
	reply := wire.NewStreamResults(l.asked, queries)
	for last := false; !last; {
		b, err := l.frame()
		if err != nil {
			return nil, broken(err)
		}
		if last, err = reply.Add(b); err != nil {
			if last && !errors.Is(err, wire.ErrMalformed) {
				err = remote{err}
			}
			return nil, err
		}
		if cap(l.buf) > keptBuffer {
			l.buf = nil
		}
	}
	return reply.Results()
}

// broken tells an end of the line from one of the time.
func broken(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", errBroken, err)
}

// send writes a request, the first with the preface before it.
func (l *line) send(queries []workload.Query) error {
	b := l.buf[:0]
	if l.asked == 1 {
		b = append(b, wire.FramesPreface...)
	}
	from := len(b)
	b = append(b, make([]byte, wire.FrameHeader)...)
	b = wire.AppendStreamRequest(b, wire.StreamRequest{ID: l.asked, Queries: queries})
	wire.PutFrameLength(b[from:])
	l.buf = b
	_, err := l.conn.Write(b)
	return err
}

// greeted reads the server's preface. Whatever else is said there is said by
// something that speaks gRPC, or by no agent.
func (l *line) greeted() error {
	b := make([]byte, len(wire.FramesPreface))
	if _, err := io.ReadFull(l.in, b); err != nil {
		return broken(err)
	}
	if string(b) != wire.FramesPreface {
		return fmt.Errorf("%w: no preface", errBroken)
	}
	return nil
}

// growth is how much of a frame is waited for at a time: its length is not
// believed before the bytes are there.
const growth = 1 << 20

// frame reads a frame; its bytes are there until the next.
func (l *line) frame() ([]byte, error) {
	header, err := l.in.Peek(wire.FrameHeader)
	if err != nil {
		return nil, err
	}
	n := int(wire.FrameLength(header))
	if _, err := l.in.Discard(wire.FrameHeader); err != nil {
		return nil, err
	}
	b := l.buf[:0]
	for len(b) < n {
		have := len(b)
		more := min(n-have, growth)
		if cap(b) < have+more {
			b = append(make([]byte, 0, max(2*have, have+more)), b...)
		}
		b = b[:have+more]
		if _, err := io.ReadFull(l.in, b[have:]); err != nil {
			return nil, err
		}
	}
	l.buf = b
	return b, nil
}
