// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"

	"google.golang.org/grpc/credentials"

	"github.com/pidigree/pidigree/internal/mtls"
)

// TLSOptions say who may ask from other hosts. All three files are needed.
type TLSOptions struct {
	// Certificate and Key are the server's own, ClientCA the authority that vouches for
	// its clients: files in PEM, which are read again when they change.
	Certificate, Key, ClientCA string
	// Allow are names of which a client's certificate has to have one, of its DNS names,
	// its URIs or its common name. Empty: whoever ClientCA vouches for may ask.
	Allow []string
}

// CheckTLS reads the files once, and says what is wrong with them.
func CheckTLS(opt TLSOptions) error {
	_, err := opt.source(nil)
	return err
}

func (o TLSOptions) source(warn func(error)) (*mtls.Source, error) {
	return mtls.New(mtls.Files{Certificate: o.Certificate, Key: o.Key, CA: o.ClientCA}, warn)
}

// maxRemote bounds the connections from other hosts, maxRemoteHost those of one address.
const (
	maxRemote     = 256
	maxRemoteHost = 32
)

// ServeTLS answers on connections from other hosts until ctx ends, and gives nil then: TLS
// 1.3 on which both sides show a certificate, and nothing else. Whoever may come in may
// ask everything, but nothing about himself. It closes the listener.
//
// A connection lasts an hour at most, so that who is not to come in any more is out then;
// a stream goes on with the next one.
func (s *Server) ServeTLS(ctx context.Context, l net.Listener, opt TLSOptions) error {
	src, err := opt.source(func(err error) { s.opt.Logger.Warn("certificates", "err", err) })
	if err != nil {
		return errors.Join(fmt.Errorf("serve %s: %w", l.Addr(), err), l.Close())
	}
	g := s.newGRPC(tlsCredentials{credentials.NewTLS(src.Server(opt.Allow))}, hourly())
	return s.serve(ctx, g, &remoteListener{Listener: l, log: s.opt.Logger, byHost: map[string]int{}})
}

// tlsCredentials says who is at the other end of a connection that was let in.
type tlsCredentials struct {
	credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (c tlsCredentials) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	out, info, err := c.TransportCredentials.ServerHandshake(conn)
	if err != nil {
		return nil, nil, err
	}
	t, ok := info.(credentials.TLSInfo)
	if !ok || t.State.Version < tls.VersionTLS13 || len(t.State.VerifiedChains) == 0 {
		return nil, nil, errors.Join(errors.New("the connection is not verified"), out.Close())
	}
	names := mtls.Names(t.State)
	if len(names) == 0 {
		names = []string{"a certificate without a name"}
	}
	return out, Peer{UID: noID, GID: noID, Remote: names[0]}, nil
}

// Clone implements credentials.TransportCredentials.
func (c tlsCredentials) Clone() credentials.TransportCredentials {
	return tlsCredentials{c.TransportCredentials.Clone()}
}

// remoteListener bounds the connections, those among them that have not yet shown anything.
type remoteListener struct {
	net.Listener
	log interface{ Warn(msg string, args ...any) }

	mu     sync.Mutex // guards all below
	total  int
	byHost map[string]int
	full   bool // said so in the log
}

// Accept implements net.Listener. It never fails for what one peer did.
func (l *remoteListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
		if err != nil {
			host = conn.RemoteAddr().String()
		}
		if l.enter(host) {
			return &remoteConn{Conn: conn, l: l, host: host}, nil
		}
		_ = conn.Close() // nothing was said on it
	}
}

func (l *remoteListener) enter(host string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= maxRemote || l.byHost[host] >= maxRemoteHost {
		if !l.full {
			l.full = true
			l.log.Warn("connection refused", "from", host, "err", fmt.Sprintf("%d connections from other hosts are open, %d of this one; %d and %d are the limits", l.total, l.byHost[host], maxRemote, maxRemoteHost))
		}
		return false
	}
	l.total++
	l.byHost[host]++
	return true
}

func (l *remoteListener) leave(host string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.full = false
	l.total--
	if l.byHost[host]--; l.byHost[host] == 0 {
		delete(l.byHost, host)
	}
}

type remoteConn struct {
	net.Conn
	l    *remoteListener
	host string
	once sync.Once
}

// Close may be called twice, as gRPC does.
func (c *remoteConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { c.l.leave(c.host) })
	return err
}
