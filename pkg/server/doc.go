// SPDX-License-Identifier: Apache-2.0

// Package server answers pidigree's questions over a unix socket.
//
// It owns the socket's file, who may ask what, the limits of a call and the
// status codes; the answers come from a Backend. It guarantees that a peer is
// who the kernel says (credentials and pidfd, taken when it connects), that a
// hostile or broken peer costs a bounded amount of memory and delays nobody
// else, and that no reply shows more of an error than one line.
//
// Authorisation, in one place (auth.go): uid 0, the agent's own uid and the members of the socket's
// group may ask everything, unless they are in a container (Options.Standing). Whoever
// else got hold of the socket may ask about itself and nothing more.
//
// A peer is the process that called connect. A process that was forked
// afterwards, or got the descriptor from another one, speaks for that process.
//
// ResolveStream answers one request after the other, each in parts, so that the
// asker reads the first while the next is made. It is there twice: as a method of
// gRPC, and on a connection that begins with wire.FramesPreface, which carries
// its messages alone; which one is told in gRPC's handshake. Either way it is
// the same session, under the same rules.
//
// A Server serves once. All its goroutines end before Serve returns.
package server
