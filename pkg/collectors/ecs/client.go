// SPDX-License-Identifier: Apache-2.0

package ecs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"github.com/pidigree/pidigree/internal/boundjson"
	"github.com/pidigree/pidigree/internal/refusal"
	"github.com/pidigree/pidigree/pkg/collectors"
)

// checkAddress takes http://HOST[:PORT], and nothing beside.
func checkAddress(address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "http" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("address %q is not http://HOST:PORT", address)
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n <= 0 || n > 65535 {
			return fmt.Errorf("address %q has no port", address)
		}
	}
	return nil
}

// get pays for one call, makes it and gives the answer to read. A call has a connection of its
// own, for one kept from before a restart of the agent would fail the next.
func (c *Collector) get(ctx context.Context, where string, read func(io.Reader) error) error {
	if err := c.bucket.Wait(ctx); err != nil {
		return fmt.Errorf("%w: wait for the token bucket: %w", collectors.ErrUnavailable, err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, where, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "pidigree")
	transport := &http.Transport{
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 64 << 10,
		DialContext:            (&net.Dialer{Control: onlyHere}).DialContext,
	}
	defer transport.CloseIdleConnections()
	client := http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		if of, ok := errors.AsType[*url.Error](err); ok {
			err = of.Err // the address is said by who asked
		}
		return fmt.Errorf("%s: %w: %w", where, collectors.ErrUnavailable, err)
	}
	defer resp.Body.Close()
	if err = check(resp); err == nil {
		err = read(boundjson.NewReader(resp.Body, limits(c.maxReply)))
		if err != nil && (ctx.Err() != nil || isNetwork(err)) {
			err = fmt.Errorf("%w: %w", collectors.ErrUnavailable, err)
		} else if err != nil {
			err = &refusal.Error{Err: err}
		}
	}
	if err != nil {
		return fmt.Errorf("%s: %w", where, err)
	}
	return nil
}

// onlyHere fails unless the address is one of this host's, or link-local, as are
// those of metadata endpoints: what is not signed by anybody is taken from nobody else.
func onlyHere(_, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	host, _, _ = strings.Cut(host, "%") // a link-local address's interface
	ip := net.ParseIP(host)
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() {
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
	return fmt.Errorf("%s is not an address of this host, and the ECS agent is asked on no other", host)
}

// check refuses what is no answer.
func check(resp *http.Response) error {
	refuse := func(format string, args ...any) error { return refusal.Of(resp, format, args...) }
	switch code := resp.StatusCode; {
	case code == http.StatusTooManyRequests:
		return refuse("429: the ECS agent is asked too often; waiting %v", refusal.Waiting(resp))
	case code >= 300 && code < 400:
		return refuse("%d: redirected to %.100q, which is not followed", code, resp.Header.Get("Location"))
	case code != http.StatusOK:
		return refuse("status %d: %s", code, refusal.Quote(resp.Body))
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind != "application/json" {
		return refuse("answered with %.60q, not with JSON: is this an ECS agent?", kind)
	}
	return nil
}

// isNetwork: the reply was cut short, and may be whole the next time.
func isNetwork(err error) bool {
	return errors.As(err, new(net.Error)) || errors.Is(err, io.ErrUnexpectedEOF)
}

// isStatus reports whether a call was answered with a status.
func isStatus(err error, code int) bool {
	var r *refusal.Error
	return errors.As(err, &r) && r.Code == code
}

// limits are the budgets of an answer: ECS allows 10 containers in a task.
func limits(maxReply int) boundjson.Limits {
	return boundjson.Limits{
		String:  8 << 10,
		Members: 512,
		Bytes:   []int{1 << 20, 512 << 10, 128 << 10},
		Depth:   32,
		Items:   "Tasks",
		Raw:     maxReply,
		Total:   maxReply,
		Keep:    []string{"com.amazonaws.ecs."},
	}
}
