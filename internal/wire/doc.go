// SPDX-License-Identifier: Apache-2.0

// Package wire translates between the nouns of package workload and the
// protobuf of the socket, both ways, in one place.
//
// Each message has a table that names each of its fields once, with its number
// and where it is in the Go value; both directions run along the table. What a
// reply holds a thousand times (process.go, results.go, decoder.go) is written
// and read by hand instead. The
// generated code of api/pidigree/v1 is not in the way: going through its
// structs cost 70,000 allocations and 12 ms for a thousand answers, and the
// agent is meant to give them in 3. It is what the tests compare with, field by
// field, and what other languages get.
//
// It guarantees that a value survives the trip there and back, but for what
// the wire cannot hold: bytes that are not valid UTF-8 become U+FFFD, words
// outside an enumeration become its zero, an empty slice or map becomes nil,
// and an error keeps its message and the sentinel it wraps. Encoding never
// fails and never changes its argument. Decoding takes hostile bytes: it
// allocates in proportion to them, ends, refuses what contradicts itself, and
// skips fields and words that a newer side has added. Strings that it gives are
// parts of a copy of their entity: keeping one keeps that entity's bytes, not
// the reply's.
//
// All functions are pure and may be called concurrently.
package wire
