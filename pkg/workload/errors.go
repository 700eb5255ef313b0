// SPDX-License-Identifier: Apache-2.0

package workload

import "errors"

// What can be wrong with a question. They live here because they cross the
// socket: a Result.Err matches the same sentinel in the agent and in a client.
// Whoever makes such an error wraps one of these.
var (
	// ErrInvalid means that the question itself makes no sense; asking again does not help.
	ErrInvalid = errors.New("invalid question")
	// ErrNotFound means that there is no such process, cgroup or container, and none is remembered.
	ErrNotFound = errors.New("not found")
	// ErrAmbiguous means that a prefix or a name fits several containers.
	ErrAmbiguous = errors.New("ambiguous")
	// ErrUnavailable means that it cannot be said now; ask again later.
	ErrUnavailable = errors.New("unavailable")
	// ErrDenied means that the asker may not ask this.
	ErrDenied = errors.New("permission denied")
)
