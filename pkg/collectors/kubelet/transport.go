// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/internal/refusal"
	"github.com/pidigree/pidigree/pkg/collectors"
)

// get asks the kubelet once.
func (c *Collector) get(ctx context.Context) (*list, error) {
	t, err := c.target()
	if err != nil {
		return nil, err
	}
	where := t.base.JoinPath("pods").String()
	l, err := t.pods(ctx, where, c.maxReply)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, t.fail(err))
	}
	l.where, l.how, l.process = t.base.String(), t.how, t.process
	if l.odd > 0 {
		c.log.Debug("pods that cannot be read in part", "source", name, "count", l.odd)
	}
	return l, nil
}

// pods makes the call, on a connection of its own: calls are few, and one kept
// from before a restart, or with yesterday's certificate, would fail the next.
func (t *target) pods(ctx context.Context, where string, maxReply int) (*list, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "pidigree")
	if t.token != "" {
		req.Header.Set("Authorization", "Bearer "+t.token)
	}
	transport := t.transport()
	defer transport.CloseIdleConnections()
	client := http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if err := t.check(resp); err != nil {
		return nil, err
	}
	l, err := decode(resp.Body, maxReply)
	if err != nil && ctx.Err() == nil && !isNetwork(err) {
		err = &refusal.Error{Err: err}
	}
	return l, err
}

// transport asks no proxy, and speaks TLS, to who is verified, or to this host alone.
func (t *target) transport() *http.Transport {
	return &http.Transport{
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		DialContext:            (&net.Dialer{Control: onlyHere}).DialContext,
		DialTLSContext:         t.dial,
	}
}

// dial tries the names that the certificate may have, one handshake each.
func (t *target) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var first error
	for _, name := range t.names {
		config := &tls.Config{RootCAs: t.roots, ServerName: name, MinVersion: tls.VersionTLS12}
		if t.cert != nil {
			config.Certificates = []tls.Certificate{*t.cert}
		}
		conn, err := (&tls.Dialer{Config: config}).DialContext(ctx, network, address)
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
		if !errors.As(err, new(x509.HostnameError)) {
			return nil, err
		}
	}
	return nil, first
}

// onlyHere fails unless the address is one of this host's. A list that is not
// signed by anybody is taken from here only.
func onlyHere(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if i := strings.IndexByte(host, '%'); i >= 0 {
		host = host[:i] // a link-local address's interface
	}
	ip := net.ParseIP(host)
	if ip.IsLoopback() {
		return nil
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, a := range own {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(ip) {
			return nil
		}
	}
	return fmt.Errorf("%s is not an address of this host, and without TLS no other one is asked", host)
}

// check refuses what is no list of pods.
func (t *target) check(resp *http.Response) error {
	refuse := func(format string, args ...any) error { return refusal.Of(resp, format, args...) }
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized:
		return refuse("401: the kubelet does not know who asks (%s): set kubelet.token or kubelet.certificate", t.how)
	case code == http.StatusForbidden:
		return refuse("403: who asks (%s) may not: it needs get on nodes/pods, before Kubernetes 1.33 on nodes/proxy; the kubelet says %s", t.how, refusal.Quote(resp.Body))
	case code == http.StatusTooManyRequests:
		return refuse("429: the kubelet is asked too often; waiting %v", refusal.Waiting(resp))
	case code >= 300 && code < 400:
		return refuse("%d: redirected to %.100q, which is not followed", code, resp.Header.Get("Location"))
	case code != http.StatusOK:
		return refuse("status %d: %s", code, refusal.Quote(resp.Body))
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind != "application/json" {
		return refuse("answered with %.60q, not with JSON: is this a kubelet?", kind)
	}
	return nil
}

// fail says what an error of a call means.
func (t *target) fail(err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return &refusal.Error{Err: fmt.Errorf("the kubelet's certificate is signed by none of %s: set kubelet.ca", strings.Join(t.trusted, ", "))}
	case errors.As(err, &name):
		return &refusal.Error{Err: fmt.Errorf("the kubelet's certificate is for none of %s: another node's? set kubelet.server-name", strings.Join(t.names, ", "))}
	case errors.As(err, &invalid):
		return &refusal.Error{Err: fmt.Errorf("the kubelet's certificate: %w", invalid)}
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, new(tls.RecordHeaderError)):
		return &refusal.Error{Err: errors.New("no TLS is spoken there")}
	case errors.As(err, new(*refusal.Error)):
		return err
	}
	return fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
}

// isNetwork: the reply was cut short, and may be whole the next time.
func isNetwork(err error) bool {
	return errors.As(err, new(net.Error)) || errors.Is(err, io.ErrUnexpectedEOF)
}

// limits are the budgets of a list of pods. The API server takes 1.5 MiB of a pod
// (etcd's limit), the kubelet serves any number of them.
func limits(maxReply int) boundjson.Limits {
	return boundjson.Limits{
		String:  8 << 10,
		Members: 512,
		Bytes:   []int{4 << 20, 2 << 20, 1 << 20, 128 << 10},
		Depth:   64,
		Items:   "items",
		Raw:     maxReply,
		Total:   maxReply,
		Keep:    []string{annotationPrefix},
	}
}
