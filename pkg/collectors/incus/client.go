// SPDX-License-Identifier: Apache-2.0

package incus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/internal/refusal"
	"github.com/pidigree/pidigree/pkg/collectors"
)

// server is what GET /1.0 says of the server itself, as far as it is used.
type server struct {
	Server  string `json:"server"`
	Version string `json:"server_version"`
}

// reply is the envelope of every answer (doc/rest-api.md in the servers' sources).
type reply[T any] struct {
	Type     string `json:"type"`
	Code     int    `json:"error_code"`
	Error    string `json:"error"`
	Metadata T      `json:"metadata"`
}

func (c *Collector) server(ctx context.Context) (server, error) {
	var r reply[struct {
		Environment server `json:"environment"`
	}]
	limits := budgets()
	limits.Only = map[string][]string{"": {"type", "metadata"}, "metadata": {"environment"}}
	err := c.get(ctx, "/1.0", limits, &r)
	return r.Metadata.Environment, err
}

// one asks about one container.
func (c *Collector) one(ctx context.Context, k key) (*instance, error) {
	var r reply[*instance]
	if err := c.get(ctx, "/1.0/instances/"+url.PathEscape(k.name)+"?project="+url.QueryEscape(k.project), budgets(), &r); err != nil {
		return nil, err
	}
	switch {
	case r.Metadata == nil || r.Metadata.key() != k:
		return nil, fmt.Errorf("%w: it answered about another instance", collectors.ErrUnavailable)
	case !r.Metadata.isContainer():
		return nil, fmt.Errorf("%w: a %.30s", collectors.ErrNotFound, r.Metadata.Type)
	}
	return r.Metadata, nil
}

// all asks for the containers of all projects.
func (c *Collector) all(ctx context.Context) ([]*instance, error) {
	limits := budgets()
	limits.Items = "metadata"
	var r reply[[]*instance]
	if err := c.get(ctx, "/1.0/instances?recursion=1&all-projects=true", limits, &r); err != nil {
		return nil, err
	}
	out := r.Metadata[:0]
	for _, i := range r.Metadata {
		if i == nil || !isHostName(i.Name) || !isProject(i.key().project) {
			return nil, fmt.Errorf("%w: an instance without a valid name", collectors.ErrUnavailable)
		}
		if i.isContainer() {
			out = append(out, i)
		}
	}
	return out, nil
}

// budgets are those of one instance; of its configuration what is used is kept in any case.
func budgets() boundjson.Limits {
	return boundjson.Limits{
		Members: 512,
		Bytes:   []int{1 << 20, 512 << 10, 128 << 10},
		Depth:   32,
		Raw:     maxReply,
		Total:   maxReply,
		Keep:    []string{"user.", "image.", "volatile.base_image", "volatile.last_state.power", "name", "type", "status", "project", "created_at"},
	}
}

// get makes one call and decodes the answer into one of the replies. A call has a
// connection of its own: one kept from before a restart of the server would fail the next.
func (c *Collector) get(ctx context.Context, path string, limits boundjson.Limits, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.name+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "pidigree")
	transport := &http.Transport{
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return collectors.DialUnix(ctx, c.opts.Socket, nil)
		},
	}
	defer transport.CloseIdleConnections()
	client := http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		if of, ok := errors.AsType[*url.Error](err); ok {
			err = of.Err
		}
		if missing(err) {
			return fmt.Errorf("%w: %w", collectors.ErrNotPresent, err)
		}
		return fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case resp.StatusCode == http.StatusNotFound && kind == "application/json":
		return c.notFound(resp, limits)
	case resp.StatusCode != http.StatusOK:
		return refusal.Of(resp, "status %d: %s", resp.StatusCode, refusal.Quote(resp.Body))
	case kind != "application/json":
		return refusal.Of(resp, "answered with %.60q, not with JSON: is this %s?", kind, c.name)
	}
	if _, err := boundjson.Decode(resp.Body, limits, into); err != nil {
		return fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
	}
	return nil
}

// notFound says what the server's 404 means: that it has no such instance, if it is the
// server's own answer, whose envelope says it again.
func (c *Collector) notFound(resp *http.Response, limits boundjson.Limits) error {
	var r reply[any]
	if _, err := boundjson.Decode(io.LimitReader(resp.Body, 64<<10), limits, &r); err != nil || r.Type != "error" || r.Code != http.StatusNotFound {
		return refusal.Of(resp, "status 404, which is no answer of %s's", c.name)
	}
	return fmt.Errorf("%w: %.200q", collectors.ErrNotFound, r.Error)
}
