// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
)

// Cutter stands on a unix socket in front of another one and cuts each connection
// somewhere in what the server says: before anything was said, in a message, between two.
type Cutter struct {
	// Socket is where it listens.
	Socket string

	after func() int64
	cuts  atomic.Int64
	conns sync.WaitGroup
}

// NewCutter listens until the test ends. After says, for one connection, after how many
// bytes it is cut; it is called from several goroutines.
func NewCutter(tb testing.TB, upstream string, after func() int64) *Cutter {
	tb.Helper()
	dir := privateDir(tb, "pdp")
	c := &Cutter{Socket: dir + "/c.sock", after: after}
	l, err := net.Listen("unix", c.Socket)
	if err != nil {
		tb.Fatal(err)
	}
	var accepts sync.WaitGroup
	accepts.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return // closed below
			}
			c.conns.Go(func() { c.pass(from, upstream) })
		}
	})
	tb.Cleanup(func() {
		_ = l.Close()
		accepts.Wait()
		c.conns.Wait()
		_ = os.RemoveAll(dir)
	})
	return c
}

// Cuts is how many connections were cut; others ended before.
func (c *Cutter) Cuts() int64 { return c.cuts.Load() }

func (c *Cutter) pass(from net.Conn, upstream string) {
	defer from.Close()
	to, err := net.Dial("unix", upstream)
	if err != nil {
		return
	}
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(to, from)
		_ = to.Close() // the client has gone
	})
	n := c.after()
	if m, _ := io.CopyN(from, to, n); m == n {
		c.cuts.Add(1)
	}
	_ = from.Close()
	_ = to.Close()
	up.Wait()
}
