// SPDX-License-Identifier: Apache-2.0

// Package docker translates one Docker engine to the collectors' contract. It is
// the only importer of Docker's client.
//
// It knows a container from two places. The engine's own files below its root
// (config.v2.json and hostconfig.json) are there before a container starts, and
// reading them costs the engine nothing: Prefill and Locate ask nobody else. The
// API confirms: Lookup makes one call, and chooses it so that it never waits for
// a start to end. While the files say that the container does not run it lists
// by id, which the engine answers from memory; once they say that it runs it
// inspects, and only that gives the PID of the init.
//
// No event stream stays open, for one that is read too slowly slows the engine
// down. Watch asks for bounded windows of events instead, each second and when
// nudged.
//
// What an event says of a container is little and mixed: the engine lays the
// container's labels, which an image's maker writes, over the event's own
// attributes, so that a label exitCode=0 hides a crash. Hints therefore carry
// what the files say, and of an event only the image and the name, which the
// engine sets last.
//
// Everything that is read is bounded: the size of a file and of a reply, the
// length of a string in either while it is being read, and the result by
// collectors.Bound. A label of 64 MiB costs its length in time, not in memory.
//
// Images are listed with one call, and each that is new is inspected once. The sizes
// of its layers are in the engine's files alone.
//
// A Collector has no state but the engine's root and API version, as last
// learnt by Probe. All methods may be called concurrently.
package docker
