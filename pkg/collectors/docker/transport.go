// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/docker/docker/client"
)

// Budgets of what is read, in bytes. maxString is twice what Bound lets a label
// have, so that Bound sees that it is too long. maxJSON is what remains to be
// decoded of one container; a whole list may have maxListJSON, some 20,000
// containers. maxRaw is what is read at all: a few seconds of the engine's time.
const (
	maxString   = 8 << 10
	maxJSON     = 4 << 20
	maxListJSON = 64 << 20
	maxRaw      = 1 << 30
)

// errTooLarge means that a file or reply is over its budget.
var errTooLarge = errors.New("too large")

// unixTransport connects anew for each call: calls are few, and a connection kept
// from before a restart would fail the first call after it.
func unixTransport(socket string) *http.Transport {
	return &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}
}

// newAPI makes a client of the engine at socket.
func newAPI(socket string, transport *http.Transport, maxReply int) (*client.Client, error) {
	return client.NewClientWithOpts(
		client.WithHost("unix://"+socket),
		client.WithHTTPClient(&http.Client{Transport: bounded{transport, maxReply}, CheckRedirect: client.CheckRedirect}),
		client.WithAPIVersionNegotiation(),
		client.WithUserAgent("pidigree"),
	)
}

// bounded bounds the body of every reply.
type bounded struct {
	next     http.RoundTripper
	maxReply int
}

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := b.next.RoundTrip(r)
	if err != nil || resp.Body == nil {
		return resp, err
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{shorten(resp.Body, maxString, b.maxReply), resp.Body}
	return resp, nil
}

// shortener passes JSON on with every string literal cut to a number of
// characters, and fails when too much is left or was read. It does not check
// the JSON: what is malformed stays so.
type shortener struct {
	r     io.Reader
	limit int // characters of one string
	left  int // bytes that may still be passed on
	raw   int // bytes that may still be read

	state   lexState
	hex     int // digits of \uXXXX still to come
	n       int // characters of the current string
	dropped bool
}

type lexState uint8

const (
	lexOutside lexState = iota
	lexString
	lexEscape
	lexHex
)

func shorten(r io.Reader, limit, total int) *shortener {
	return &shortener{r: r, limit: limit, left: total, raw: maxRaw}
}

// Read filters in place: what it passes on is never longer than what it read.
func (s *shortener) Read(p []byte) (int, error) {
	for {
		n, err := s.r.Read(p)
		if s.raw -= n; s.raw < 0 {
			return 0, errTooLarge
		}
		out := 0
		for _, b := range p[:n] {
			if s.keep(b) {
				p[out] = b
				out++
			}
		}
		if s.left -= out; s.left < 0 {
			return 0, errTooLarge
		}
		if out > 0 || err != nil || len(p) == 0 {
			return out, err
		}
	}
}

// keep says whether a byte is passed on. An escape is kept or dropped whole.
func (s *shortener) keep(b byte) bool {
	switch s.state {
	case lexOutside:
		if b == '"' {
			s.state, s.n = lexString, 0
		}
		return true
	case lexString:
		if b == '"' {
			s.state = lexOutside
			return true
		}
		s.dropped = s.n >= s.limit
		s.n++
		if b == '\\' {
			s.state = lexEscape
		}
	case lexEscape:
		s.state = lexString
		if b == 'u' {
			s.state, s.hex = lexHex, 4
		}
	case lexHex:
		if s.hex--; s.hex == 0 {
			s.state = lexString
		}
	}
	return !s.dropped
}
