// SPDX-License-Identifier: Apache-2.0

// Package incus knows the system containers of Incus and of LXD, from which Incus comes:
// what they are by the server's API on its unix socket, and which process is whose init
// by the monitor process that each of them has (package lxcmonitor).
//
// # What it guarantees
//
// Run.Registers is set for an init that is the child of the container's own monitor, and
// names the process by its start; the API's PID is not used. A description is of the
// instance of the name that was asked for, in its project, or there is none.
//
// A call about one container is one request, and so is a list: what the server knows of
// an instance in its database, not its state, for which it would enter the namespaces of
// each. Of configuration no more is told than the keys that users give meaning to
// ("user.*", without those of cloud-init, which hold secrets) and what describes the image.
//
// # What is not shown
//
// Virtual machines; containers of the LXD that is a snap, whose monitors are in the snap's
// own mount namespace, so that nothing shows them to be the host's; other members of a
// cluster; where a server keeps its containers in a directory whose path is so long that
// a socket's name is a hash.
//
// All methods may be called concurrently. Nothing is kept but during a Watch.
package incus
