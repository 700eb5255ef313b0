// SPDX-License-Identifier: Apache-2.0

// Package wire translates between the nouns of package workload and the
// protobuf of the socket, both ways, in one place.
//
// It guarantees that a value survives the trip there and back, but for what
// the wire cannot hold: bytes that are not valid UTF-8 become U+FFFD, words
// outside an enumeration become its zero, an empty slice or map becomes nil,
// and an error keeps its message and the sentinel it wraps. Encoding never
// fails and never changes its argument; what it returns may share maps and
// strings with it and is only for marshalling. Decoding bounds what it indexes
// and refuses what contradicts itself.
//
// All functions are pure and may be called concurrently.
package wire
