// SPDX-License-Identifier: Apache-2.0

// Package api holds the protobuf definition of pidigree's socket, one folder
// for each version of it, and the Go code generated from it, which is
// committed. It owns no behaviour: internal/wire translates to and from the
// nouns of pkg/workload.
package api

//go:generate go tool -modfile=../tools/go.mod buf lint
//go:generate go tool -modfile=../tools/go.mod buf generate
//go:generate go test -run TestTheReferenceIsUpToDate . -update
