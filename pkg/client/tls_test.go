// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"iter"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/internal/mtls/mtlstest"
	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

// by gives what asks with a certificate for a name.
func by(a *mtlstest.Authority, name string, edit func(*x509.Certificate)) client.TLS {
	cert, key := a.Issue(name, edit)
	return client.TLS{Certificate: cert, Key: key, CA: a.CA}
}

// serveTLS runs an agent for other hosts until the test ends, or stop is called.
func serveTLS(t *testing.T, a agent, address string, opt server.TLSOptions) (at string, stop func()) {
	t.Helper()
	s, err := server.New(server.Options{Backend: a, Group: strconv.Itoa(os.Getegid())})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.ServeTLS(ctx, l, opt) }()
	stopped := false
	stop = func() {
		cancel()
		if !stopped {
			stopped = true
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

func node1(a *mtlstest.Authority, allow ...string) server.TLSOptions {
	cert, key := a.Issue("node1", nil)
	return server.TLSOptions{Certificate: cert, Key: key, ClientCA: a.CA, Allow: allow}
}

func ask(address string, files client.TLS) (*client.Client, error) {
	c, err := client.New(client.Options{Address: address, TLS: files, Timeout: 10 * time.Second})
	if err != nil {
		return nil, err
	}
	// A client hears that its certificate is not taken with its first call.
	if _, err := c.Status(context.Background()); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func TestAnAgentOnAnotherHostAnswersOverTLS(t *testing.T) {
	a := mtlstest.New(t, "ca")
	at, _ := serveTLS(t, agent{}, "127.0.0.1:0", node1(a, "gateway"))
	c, err := ask(at, by(a, "gateway", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	results, err := c.Resolve(t.Context(), workload.Query{PID: 7}, workload.Query{PID: 8})
	if err != nil || results[1].Answer.Containers[0].Name != "web" {
		t.Errorf("Resolve = %+v, %v", results, err)
	}
	for e, err := range c.List(t.Context(), workload.Selector{}) {
		if err != nil || e.Container.Name != "web" {
			t.Errorf("List has %+v, %v", e, err)
		}
	}
	m, err := c.Mirror(t.Context(), client.MirrorOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := m.Container(web.ID); !ok || got.Name != "web" {
		t.Errorf("the mirror has %+v, %t", got, ok)
	}
	m.Close()
	if _, err := c.Self(t.Context()); !errors.Is(err, workload.ErrInvalid) {
		t.Errorf("Self: %v, want ErrInvalid", err)
	}
	if _, err := c.Resolve(t.Context(), workload.Query{PID: 7}, workload.Query{Self: true}); !errors.Is(err, workload.ErrInvalid) {
		t.Errorf("Self among others: %v, want ErrInvalid", err)
	}
}

func TestWhoIsNotVouchedForIsNotAnswered(t *testing.T) {
	a, other := mtlstest.New(t, "ca"), mtlstest.New(t, "other")
	at, _ := serveTLS(t, agent{}, "127.0.0.1:0", node1(a, "gateway"))
	good := by(a, "gateway", nil)
	foreign := by(other, "gateway", nil)
	foreign.CA = a.CA
	wrongCA := good
	wrongCA.CA = other.CA
	wrongName := good
	wrongName.ServerName = "node2"
	for name, tc := range map[string]struct {
		files client.TLS
		want  error
	}{
		"a certificate of another authority's": {foreign, client.ErrDenied},
		"of a name that is not allowed":        {by(a, "stranger", nil), client.ErrDenied},
		"one that has expired":                 {by(a, "gateway", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), client.ErrDenied},
		"one for servers":                      {by(a, "gateway", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), client.ErrDenied},
		"an agent of another authority's":      {wrongCA, client.ErrUntrusted},
		"an agent of another name":             {wrongName, client.ErrUntrusted},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := ask(at, tc.files)
			if c != nil || !errors.Is(err, tc.want) {
				t.Errorf("%v; want %v", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("the error has several lines: %q", err)
			}
		})
	}
	t.Run("nothing at all", func(t *testing.T) {
		for name, files := range map[string]client.TLS{"no files": {}, "no such file": {Certificate: "/none", Key: "/none", CA: "/none"}} {
			if c, err := client.New(client.Options{Address: at, TLS: files}); c != nil || err == nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
	pair, err := tls.LoadX509KeyPair(by(a, "gateway", nil).Certificate, filepath.Join(a.Dir, "gateway-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]*tls.Config{
		"without a certificate": {RootCAs: pool, ServerName: "node1", NextProtos: []string{"h2"}},
		"with TLS 1.2":          {RootCAs: pool, ServerName: "node1", NextProtos: []string{"h2"}, MaxVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", at, cfg)
			if err == nil {
				_, err = io.ReadAll(conn)
				_ = conn.Close()
			}
			if err == nil || !strings.Contains(err.Error(), "remote error: tls: ") {
				t.Errorf("%v; want an alert", err)
			}
		})
	}
	t.Run("without TLS", func(t *testing.T) {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(conn); err != nil || len(got) > 7 { // an alert has 7 bytes
			t.Errorf("it answers %q, %v", got, err)
		}
	})
	// And it still answers who is vouched for.
	c, err := ask(at, good)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
}

// Certificates that are replaced count for the next connection; half a file does not.
func TestCertificatesAreReadAgain(t *testing.T) {
	a, next := mtlstest.New(t, "ca"), mtlstest.New(t, "next")
	opt := node1(a)
	at, _ := serveTLS(t, agent{}, "127.0.0.1:0", opt)
	old, fresh := by(a, "gateway", nil), by(next, "gateway", nil)
	must := func(what string, files client.TLS, want error) {
		t.Helper()
		c, err := ask(at, files)
		if c != nil {
			defer c.Close()
		}
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	must("the first", old, nil)
	replace := func(path, by string) {
		t.Helper()
		data, err := os.ReadFile(by)
		if err == nil {
			err = errors.Join(os.WriteFile(path+".new", data, 0o600), os.Rename(path+".new", path))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(opt.ClientCA)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(opt.ClientCA, kept[:len(kept)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	oldCA := filepath.Join(t.TempDir(), "ca.pem") // the client's copy is whole
	if err := os.WriteFile(oldCA, kept, 0o600); err != nil {
		t.Fatal(err)
	}
	old.CA = oldCA
	must("beside half a file", old, nil)
	cert, key := next.Issue("node1", nil)
	replace(opt.Certificate, cert)
	must("beside a key that is not the certificate's", old, nil)
	replace(opt.Key, key)
	replace(opt.ClientCA, next.CA)
	must("of the new authority", fresh, nil)
	must("an agent that is another's now", old, client.ErrUntrusted)
	old.CA = next.CA
	must("of the old authority", old, client.ErrDenied)
}

// A stream goes on where it was when the agent comes back; until then the error says so.
func TestAStreamFromAnotherHostGoesOn(t *testing.T) {
	a := mtlstest.New(t, "ca")
	opt := node1(a)
	streams := agent{watch: func(ctx context.Context, _ workload.Selector) iter.Seq[[]workload.Change] {
		return func(yield func([]workload.Change) bool) {
			if yield([]workload.Change{{Type: workload.ChangeBookmark, Revision: 3}}) {
				<-ctx.Done()
			}
		}
	}}
	at, stop := serveTLS(t, streams, "127.0.0.1:0", opt)
	c, err := ask(at, by(a, "gateway", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, err := c.Mirror(t.Context(), client.MirrorOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	stop()
	for m.Err() == nil {
		<-time.After(time.Millisecond)
	}
	if _, err := c.Status(t.Context()); !errors.Is(err, client.ErrDead) {
		t.Errorf("Status of an agent that is gone: %v", err)
	}
	if _, err := ask(at, by(a, "gateway", nil)); !errors.Is(err, client.ErrDead) {
		t.Errorf("New to an agent that is gone: %v", err)
	}
	serveTLS(t, streams, at, opt)
	for m.Err() != nil {
		<-time.After(time.Millisecond)
	}
}

// Whoever opens connections and says nothing keeps out nobody on another host, and is let go of.
func TestOneAddressHasSoManyConnections(t *testing.T) {
	a := mtlstest.New(t, "ca")
	at, _ := serveTLS(t, agent{}, "127.0.0.1:0", node1(a))
	var conns []net.Conn
	closed := 0
	for range 40 {
		conn, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	for _, conn := range conns[32:] {
		if err := conn.SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil { // before the handshake's time is over
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			closed++
		}
	}
	if closed != 8 {
		t.Errorf("%d of the 8 that are too many were closed at once", closed)
	}
	for _, conn := range conns[:32] {
		_ = conn.Close()
	}
	for {
		c, err := ask(at, by(a, "gateway", nil))
		if err == nil {
			_ = c.Close()
			return
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}
