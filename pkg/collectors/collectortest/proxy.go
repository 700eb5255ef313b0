// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Proxy stands on a unix socket in front of a real engine and makes it slow,
// hung, cut, gone or silent about events, while it counts the calls. All
// methods may be called from any goroutine.
type Proxy struct {
	// Socket is where clients connect.
	Socket string

	serve func(net.Listener) error

	mu       sync.Mutex // guards all below
	delay    time.Duration
	resumed  chan struct{} // nil: not hung; else closed by Resume
	events   EventFault
	calls    map[string]int
	called   chan struct{} // closed with the next call, and made anew
	asked    []string      // the requests, cut
	listener *net.UnixListener
	conns    map[net.Conn]struct{}
	done     sync.WaitGroup
}

// EventFault is what a Proxy does to the event streams.
type EventFault uint8

// The faults of event streams.
const (
	EventsWhole    EventFault = iota
	EventsDropped             // none comes
	EventsTwice               // each comes twice
	EventsReversed            // what comes together comes the last first
)

// NewDockerProxy stands in front of a Docker socket, or of any other engine
// that speaks HTTP on one and has a path that ends in /events.
func NewDockerProxy(tb testing.TB, upstream string) *Proxy {
	tb.Helper()
	p := newProxy(tb)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", upstream)
	}}
	reverse := &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.Out.URL.Scheme, r.Out.URL.Host = "http", "engine" },
		Transport:      transport,
		FlushInterval:  -1,
		ModifyResponse: p.mangle,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	}
	srv := &http.Server{Handler: p.httpHandler(reverse)}
	p.serve = srv.Serve
	tb.Cleanup(func() {
		p.close()
		_ = srv.Close()
		p.done.Wait()
		transport.CloseIdleConnections()
	})
	p.start(tb)
	return p
}

func newProxy(tb testing.TB) *Proxy {
	dir := privateDir(tb, "pdp")
	tb.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &Proxy{Socket: dir + "/p.sock", calls: map[string]int{}, called: make(chan struct{}), conns: map[net.Conn]struct{}{}}
}

func (p *Proxy) start(tb testing.TB) {
	tb.Helper()
	if err := p.Listen(); err != nil {
		tb.Fatal(err)
	}
}

// Listen makes the socket and serves it; again after Refuse or Remove, with a
// new inode.
func (p *Proxy) Listen() error {
	_ = os.Remove(p.Socket)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.Socket, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.done.Go(func() { _ = p.serve(&gate{Listener: l, p: p}) }) // it ends when l is closed
	return nil
}

// Refuse makes connections fail, as a socket file does that nobody serves.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	l := p.listener
	p.mu.Unlock()
	_ = l.Close()
	p.Cut()
}

// Remove is Refuse, and takes the socket away.
func (p *Proxy) Remove() {
	p.Refuse()
	_ = os.Remove(p.Socket)
}

// Cut closes every connection, in the middle of whatever it carries.
func (p *Proxy) Cut() {
	p.mu.Lock()
	conns := maps.Clone(p.conns)
	p.mu.Unlock()
	for c := range conns {
		_ = c.Close()
	}
}

// Hang makes the engine say nothing more, on any connection, while it still
// accepts new ones: what a SIGSTOP does.
func (p *Proxy) Hang() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resumed == nil {
		p.resumed = make(chan struct{})
	}
}

// Resume ends Hang.
func (p *Proxy) Resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resumed != nil {
		close(p.resumed)
		p.resumed = nil
	}
}

// Delay goes before each answer from now on.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// DropEvents makes the event streams say nothing; all else works.
func (p *Proxy) DropEvents(drop bool) {
	if drop {
		p.Events(EventsDropped)
	} else {
		p.Events(EventsWhole)
	}
}

// Events gives the event streams a fault; all else works. Over HTTP, EventsTwice
// and EventsReversed are for replies that end, which those with "until" do.
func (p *Proxy) Events(f EventFault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = f
}

// Calls counts the calls since the last ResetCalls: "GET /containers/{id}/json"
// for HTTP, "/containerd.services.tasks.v1.Tasks/Get" for gRPC.
func (p *Proxy) Calls() map[string]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.calls)
}

// AwaitCall waits until one call has been made n times since the last ResetCalls.
// It fails with ctx's error.
func (p *Proxy) AwaitCall(ctx context.Context, call string, n int) error {
	for {
		p.mu.Lock()
		made, next := p.calls[call], p.called
		p.mu.Unlock()
		if made >= n {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("%s was called %d times: %w", call, made, ctx.Err())
		}
	}
}

// CallsNaming counts the calls since the last ResetCalls whose request holds a
// text, as an id: a machine has other containers too.
func (p *Proxy) CallsNaming(text string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range p.asked {
		if strings.Contains(r, text) {
			n++
		}
	}
	return n
}

// ResetCalls forgets the counts.
func (p *Proxy) ResetCalls() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.calls)
	p.asked = nil
}

// Bounds of what CallsNaming goes by.
const (
	maxAsked   = 1 << 14
	maxRequest = 4 << 10
)

// record keeps a request for CallsNaming.
func (p *Proxy) record(request string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.asked) < maxAsked {
		p.asked = append(p.asked, request[:min(len(request), maxRequest)])
	}
}

func (p *Proxy) close() {
	p.Resume()
	p.mu.Lock()
	l := p.listener
	p.mu.Unlock()
	_ = l.Close()
	p.Cut()
}

// arrive counts a call, waits the delay, and says whether to drop events.
func (p *Proxy) arrive(ctx context.Context, call string) (drop bool) {
	p.mu.Lock()
	p.calls[call]++
	close(p.called)
	p.called = make(chan struct{})
	delay, drop := p.delay, p.events == EventsDropped
	p.mu.Unlock()
	if delay > 0 {
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	return drop
}

func (p *Proxy) eventFault() EventFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.events
}

// maxEventBody bounds a reply of events that is mangled.
const maxEventBody = 64 << 20

// mangle doubles or reverses the lines of a reply of events.
func (p *Proxy) mangle(r *http.Response) error {
	fault := p.eventFault()
	if fault != EventsTwice && fault != EventsReversed || !strings.HasSuffix(r.Request.URL.Path, "/events") || !r.Request.URL.Query().Has("until") {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxEventBody))
	if err != nil {
		return err
	}
	_ = r.Body.Close()
	var lines []string
	for line := range strings.Lines(string(body)) {
		lines = append(lines, line)
		if fault == EventsTwice {
			lines = append(lines, line)
		}
	}
	if fault == EventsReversed {
		slices.Reverse(lines)
	}
	r.Body = io.NopCloser(strings.NewReader(strings.Join(lines, "")))
	r.ContentLength = -1
	r.Header.Del("Content-Length")
	return nil
}

var (
	apiVersion = regexp.MustCompile(`^/v[0-9.]+/`)
	longID     = regexp.MustCompile(`/[0-9a-f]{12,64}(/|$)`)
)

func (p *Proxy) httpHandler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := apiVersion.ReplaceAllString(r.URL.Path, "/")
		path = longID.ReplaceAllString(path, "/{id}$1")
		p.record(r.URL.String())
		if !p.arrive(r.Context(), r.Method+" "+path) || !strings.HasSuffix(path, "/events") {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		if !r.URL.Query().Has("until") {
			<-r.Context().Done() // a stream without an end
		}
	})
}

// gate is a listener whose connections Hang holds and Cut closes.
type gate struct {
	net.Listener
	p *Proxy
}

func (g *gate) Accept() (net.Conn, error) {
	c, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	gc := &gateConn{Conn: c, p: g.p, gone: make(chan struct{})}
	g.p.mu.Lock()
	defer g.p.mu.Unlock()
	g.p.conns[gc] = struct{}{}
	return gc, nil
}

type gateConn struct {
	net.Conn
	p    *Proxy
	gone chan struct{}
	once sync.Once
}

func (c *gateConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if werr := c.wait(); werr != nil {
		return 0, werr
	}
	return n, err // as it is: readers compare io.EOF
}

func (c *gateConn) Write(b []byte) (int, error) {
	if err := c.wait(); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// Close is by the server or by Cut, whichever is first.
func (c *gateConn) Close() error {
	c.once.Do(func() {
		close(c.gone)
		c.p.mu.Lock()
		delete(c.p.conns, c)
		c.p.mu.Unlock()
	})
	return c.Conn.Close()
}

// wait holds the connection while the proxy hangs.
func (c *gateConn) wait() error {
	c.p.mu.Lock()
	resumed := c.p.resumed
	c.p.mu.Unlock()
	if resumed == nil {
		return nil
	}
	select {
	case <-resumed:
		return nil
	case <-c.gone:
		return io.ErrClosedPipe
	}
}
