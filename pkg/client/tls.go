// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/pidigree/pidigree/internal/mtls"
)

// TLS are the files with which an agent on another host is asked, in PEM. They are read
// again for each connection that is made after they have changed.
type TLS struct {
	// Certificate and Key are the caller's own.
	Certificate, Key string
	// CA is the authority that vouches for the agent.
	CA string
	// ServerName is what the agent's certificate has to be for. Default: the host in
	// Options.Address.
	ServerName string
}

// otherHost is what a dialer needs for an agent on another host.
type otherHost struct {
	name string
	src  *mtls.Source
}

func newOtherHost(opt Options) (*otherHost, error) {
	host, _, err := net.SplitHostPort(opt.Address)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: it is not HOST:PORT: %w", opt.Address, err)
	}
	r := &otherHost{name: host}
	if opt.TLS.ServerName != "" {
		r.name = opt.TLS.ServerName
	}
	r.src, err = mtls.New(mtls.Files{Certificate: opt.TLS.Certificate, Key: opt.TLS.Key, CA: opt.TLS.CA}, nil)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", opt.Address, err)
	}
	return r, nil
}

// connect makes a connection to an agent on another host, without a word on it.
func (r *otherHost) connect(ctx context.Context, address string) (net.Conn, error) {
	var nd net.Dialer
	conn, err := nd.DialContext(ctx, "tcp", address)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, context.DeadlineExceeded) {
			err = opError(err)
		}
		return nil, fmt.Errorf("connect to %s: %w: %w: is the agent's tls.listen this address?", address, ErrDead, err)
	}
	return conn, nil
}

// opError leaves out what net says again of the address.
func opError(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

// try makes a connection and shows the certificates, so that New can say at once what is wrong.
func (r *otherHost) try(ctx context.Context, address string) error {
	conn, err := r.connect(ctx, address)
	if err != nil {
		return err
	}
	defer conn.Close()
	t := tls.Client(conn, r.src.Client(r.name))
	if err = t.HandshakeContext(ctx); err == nil {
		_, err = firstByte(ctx, t)
	}
	if err != nil {
		return handshakeError(address, err)
	}
	return nil
}

// firstByte waits for what the agent says first, which it does before it is asked. With
// TLS 1.3 a client hears only then whether its certificate is taken.
func firstByte(ctx context.Context, conn net.Conn) ([]byte, error) {
	defer context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })()
	first := make([]byte, 1)
	_, err := io.ReadFull(conn, first)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return first, err
}

// begun is a connection whose first byte was read already.
type begun struct {
	net.Conn
	first []byte
}

// Read implements net.Conn.
func (c *begun) Read(b []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.first)
	c.first = c.first[n:]
	return n, nil
}

// credentials are gRPC's, new for each connection: the files may be others by then.
func (r *otherHost) credentials(d *dialer) credentials.TransportCredentials {
	return &reloaded{TransportCredentials: credentials.NewTLS(r.src.Client(r.name)), r: r, d: d}
}

type reloaded struct {
	credentials.TransportCredentials
	r *otherHost
	d *dialer
}

// ClientHandshake implements credentials.TransportCredentials.
func (c *reloaded) ClientHandshake(ctx context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	out, info, err := credentials.NewTLS(c.r.src.Client(c.r.name)).ClientHandshake(ctx, c.r.name, conn)
	var first []byte
	if err == nil {
		if first, err = firstByte(ctx, out); err != nil {
			_ = out.Close()
		}
	}
	if err != nil {
		err = handshakeError(c.d.opt.Address, err)
		c.d.failed(err)
		return nil, nil, err
	}
	return &begun{out, first}, info, nil
}

// Clone implements credentials.TransportCredentials.
func (c *reloaded) Clone() credentials.TransportCredentials {
	return &reloaded{TransportCredentials: c.TransportCredentials.Clone(), r: c.r, d: c.d}
}

// certError is about a certificate of either side.
type certError struct {
	is   error
	text string
}

func (e *certError) Error() string        { return e.text }
func (e *certError) Is(target error) bool { return target == e.is }

// handshakeError says whose certificate is not taken.
func handshakeError(address string, err error) error {
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var name x509.HostnameError
	switch {
	case errors.As(err, &unknown), errors.As(err, &invalid), errors.As(err, &name):
		return &certError{ErrUntrusted, fmt.Sprintf("connect to %s: the agent's certificate is not trusted: %s: name its authority and its name", address, firstLine(err.Error()))}
	case isAlert(err.Error()):
		return refusedCert(address, err.Error())
	}
	return fmt.Errorf("connect to %s: %w: %w", address, ErrDead, err)
}

// isAlert reports whether a text is that of an alert of the other end's: with TLS 1.3 a
// client hears that its certificate is not taken after its own handshake.
func isAlert(text string) bool { return strings.Contains(text, "remote error: tls: ") }

func refusedCert(address, text string) error {
	_, alert, _ := strings.Cut(text, "remote error: tls: ")
	alert, _, _ = strings.Cut(alert, `"`)
	return &certError{ErrDenied, fmt.Sprintf("connect to %s: the agent does not take this certificate (%s): it has to be its tls.ca's, of a name that tls.allow has", address, firstLine(alert))}
}
