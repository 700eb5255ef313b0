// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// connections counts who is connected, so that no process and no container can
// keep the others out.
type connections struct {
	log     *slog.Logger
	auth    authorizer
	max     int
	maxPeer int

	mu      sync.Mutex // guards all below
	total   int
	limited int // of peers that may ask only about themselves, or are in a container
	byPID   map[workload.PID]int
	byNS    map[uint64]int // of other PID namespaces than ours
	full    bool           // said so in the log
}

func newConnections(opt Options, auth authorizer) *connections {
	return &connections{
		log: opt.Logger, auth: auth, max: opt.MaxConnections, maxPeer: opt.MaxPeerConnections,
		byPID: make(map[workload.PID]int), byNS: make(map[uint64]int),
	}
}

// isLimited reports whether a peer shares half of the room with its like: those
// that may ask only about themselves, and those in a container, root or not. The
// other half is for those who look after the host.
func (c *connections) isLimited(p Peer) bool { return !c.auth.trusted(p) || p.namespace != 0 }

// enter counts a connection in, or says why it cannot come in. A container may
// have as many processes as it likes, so they are counted together, by their PID
// namespace: it has a quarter of the room.
func (c *connections) enter(p Peer) error {
	limited := c.isLimited(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.total >= c.max:
		return fmt.Errorf("%d connections are open, which is the limit", c.total)
	case limited && c.limited >= c.max/2:
		return fmt.Errorf("%d connections of unprivileged peers and of containers are open, which is their limit", c.limited)
	case p.namespace != 0 && c.byNS[p.namespace] >= max(1, c.max/4):
		return fmt.Errorf("the processes of its PID namespace have %d connections, which is their limit", c.max/4)
	case c.byPID[p.PID] >= c.maxPeer:
		return fmt.Errorf("the process has %d connections, which is the limit", c.maxPeer)
	}
	c.total++
	c.byPID[p.PID]++
	if p.namespace != 0 {
		c.byNS[p.namespace]++
	}
	if limited {
		c.limited++
	}
	return nil
}

func (c *connections) leave(p Peer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.full = false
	c.total--
	if c.byPID[p.PID]--; c.byPID[p.PID] == 0 {
		delete(c.byPID, p.PID)
	}
	if p.namespace != 0 {
		if c.byNS[p.namespace]--; c.byNS[p.namespace] == 0 {
			delete(c.byNS, p.namespace)
		}
	}
	if c.isLimited(p) {
		c.limited--
	}
}

// refused logs the first refusal since there was room, not each of a flood.
func (c *connections) refused(p Peer, err error) {
	c.mu.Lock()
	first := !c.full
	c.full = true
	c.mu.Unlock()
	if first {
		c.log.Warn("connection refused", "pid", p.PID, "uid", p.UID, "err", err)
	}
}

// peerListener accepts peers that can be told and for whom there is room. The
// others are closed at once, which their client reports as a dead agent.
type peerListener struct {
	net.Listener
	conns *connections
}

// Accept never fails for what one peer did.
func (l peerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		pc, err := l.admit(conn)
		if err == nil {
			return pc, nil
		}
		_ = conn.Close() // nothing was said on it
	}
}

func (l peerListener) admit(conn net.Conn) (*peerConn, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("peer of a %T: only unix sockets have one", conn)
	}
	p, err := identify(uc)
	if err == nil {
		err = l.conns.enter(p)
	}
	if err != nil {
		l.conns.refused(p, err)
		return nil, errors.Join(err, p.close())
	}
	return &peerConn{UnixConn: uc, peer: p, conns: l.conns}, nil
}

// peerConn is an accepted connection; closing it lets go of the peer.
type peerConn struct {
	*net.UnixConn
	peer  Peer
	conns *connections
	once  sync.Once
	// dispatched: gRPC's deadlines no longer count. It belongs to gRPC's goroutine for the connection.
	dispatched bool
}

// dispatch takes the connection away from gRPC, whose handshake had a deadline.
func (c *peerConn) dispatch() error {
	c.dispatched = true
	return c.UnixConn.SetDeadline(time.Time{})
}

// SetDeadline is what gRPC calls around a handshake, also when the connection
// is no longer its own.
func (c *peerConn) SetDeadline(t time.Time) error {
	if c.dispatched {
		return nil
	}
	return c.UnixConn.SetDeadline(t)
}

// Close may be called twice, as gRPC does.
func (c *peerConn) Close() error {
	err := c.UnixConn.Close()
	c.once.Do(func() {
		c.conns.leave(c.peer)
		err = errors.Join(err, c.peer.close())
	})
	return err
}

// begunConn is a connection whose first bytes were read already.
type begunConn struct {
	*peerConn
	first []byte
}

// Read implements net.Conn.
func (c *begunConn) Read(b []byte) (int, error) {
	if len(c.first) == 0 {
		return c.peerConn.Read(b)
	}
	n := copy(b, c.first)
	c.first = c.first[n:]
	return n, nil
}
