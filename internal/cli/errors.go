// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Exit codes of Main.
const (
	ExitOK       = 0
	ExitFailed   = 1
	ExitUsage    = 2
	ExitNoAnswer = 3
)

// exitError carries the exit code of an error.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// silence is an outcome that was printed already: only its code counts.
type silence int

func (s silence) Error() string { return fmt.Sprintf("exit code %d", int(s)) }

// usagef makes an error about the command line; the command's name and where to
// read on are added when it is printed.
func usagef(format string, args ...any) error {
	return &exitError{ExitUsage, fmt.Errorf(format, args...)}
}

// failf makes an error of exit code 1 that already says what to do.
func failf(format string, args ...any) error {
	return &exitError{ExitFailed, fmt.Errorf(format, args...)}
}

func exitCode(err error) int {
	var e *exitError
	var s silence
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &s):
		return int(s)
	case errors.As(err, &e):
		return e.code
	}
	return ExitFailed
}

// explainError puts what a user can do into an error of a backend.
func (a *app) explainError(err error) error {
	var e *exitError
	if err == nil || errors.As(err, &e) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return failf("no answer from %s within %s: it may be stopped or overloaded; try a longer --timeout", a.asked, a.timeout)
	}
	if errors.Is(err, context.Canceled) {
		return failf("interrupted")
	}
	switch {
	case errors.Is(err, workload.ErrDenied):
		return err // whoever denies says what to do: it is not the same for all
	case errors.Is(err, workload.ErrUnavailable):
		return failf("%w: try again in a moment", err)
	case errors.Is(err, workload.ErrInvalid), errors.Is(err, workload.ErrAmbiguous):
		return &exitError{ExitUsage, err}
	case errors.Is(err, workload.ErrNotFound):
		return &exitError{ExitNoAnswer, err}
	}
	return err
}
