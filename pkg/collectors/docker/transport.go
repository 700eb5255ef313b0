// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"io"
	"mime"
	"net"
	"net/http"

	"github.com/docker/docker/client"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/pkg/collectors"
)

// maxJSON is the size of a config.v2.json from which on the engine is not asked
// about its container: a label of 64 MiB takes it seconds to send, each time.
const maxJSON = 4 << 20

// maxText bounds a reply that is no JSON: an error of a proxy's.
const maxText = 1 << 20

// errTooLarge means that a file or reply is over its budget.
var errTooLarge = boundjson.ErrTooLarge

// transport connects anew for each call: calls are few, and a connection kept
// from before a restart would fail the first call after it.
func (c *Collector) transport() *http.Transport {
	return &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return collectors.DialUnix(ctx, c.socket, c.dialed)
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
	var body io.Reader = io.LimitReader(resp.Body, maxText)
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "application/json" || kind == "application/x-ndjson" {
		limits := collectors.Reading(nil)
		limits.Raw, limits.Total, limits.List = collectors.MaxReply, b.maxReply, true
		// The keys of an event's attributes, among which its container's labels are.
		limits.Keep = append(limits.Keep, "name", "image", "exitCode")
		body = boundjson.NewReader(resp.Body, limits)
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{body, resp.Body}
	return resp, nil
}
