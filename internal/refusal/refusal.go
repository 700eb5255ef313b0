// SPDX-License-Identifier: Apache-2.0

// Package refusal is how collectors that ask over HTTP treat a server that answers
// with none: an error that is the same in a moment, and a Gate that keeps it from
// being asked again at once, whoever asks.
package refusal

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
)

// The pauses after a refusal, which double from one to the next. A server that says
// how long is believed within maxRetryAfter.
const (
	MinPause      = time.Second
	MaxPause      = 30 * time.Second
	maxRetryAfter = 5 * time.Minute
)

// Error is an answer that is none, and will be the same in a moment. It is
// collectors.ErrUnavailable.
type Error struct {
	Err error
	// Code is the HTTP status, 0 where the answer was not refused by that.
	Code int
	// Wait is what the server asked for.
	Wait time.Duration
}

// Of makes the Error of a response.
func Of(resp *http.Response, format string, args ...any) error {
	return &Error{Err: fmt.Errorf(format, args...), Code: resp.StatusCode, Wait: retryAfter(resp)}
}

// Error implements error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap implements errors.Unwrap.
func (e *Error) Unwrap() []error { return []error{e.Err, collectors.ErrUnavailable} }

// Gate is closed for a while after a refusal. The zero value is open. Not for
// concurrent use.
type Gate struct {
	until time.Time
	err   error
	pause time.Duration
}

// Closed gives the reason why the server is not asked now, nil if it may be.
func (g *Gate) Closed() error {
	if time.Now().Before(g.until) {
		return g.err
	}
	return nil
}

// After notes how a call failed. One that got no answer at all may be repeated.
func (g *Gate) After(err error) {
	var r *Error
	if !errors.As(err, &r) {
		*g = Gate{}
		return
	}
	g.pause = min(max(2*g.pause, MinPause), MaxPause)
	g.err = err
	g.until = time.Now().Add(max(g.pause, min(r.Wait, maxRetryAfter)))
}

// Waiting is how long the gate is closed, at the least, after this response.
func Waiting(resp *http.Response) time.Duration {
	return max(MinPause, min(retryAfter(resp), maxRetryAfter))
}

// retryAfter reads the header in both of its forms.
func retryAfter(resp *http.Response) time.Duration {
	text := resp.Header.Get("Retry-After")
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return time.Until(at)
	}
	return 0
}

// Quote gives the beginning of a text that somebody else wrote.
func Quote(r io.Reader) string {
	text, _ := io.ReadAll(io.LimitReader(r, 160)) // what there is
	return strconv.Quote(strings.TrimSpace(string(text)))
}
