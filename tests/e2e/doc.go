// SPDX-License-Identifier: Apache-2.0

// Package e2e holds pidigree to its promises from the outside: the built binary
// beside real engines, asked as a user asks, by real containers about
// themselves. It needs root and the packages of `make test`, takes minutes, and
// fails rather than skips where it could run.
package e2e
