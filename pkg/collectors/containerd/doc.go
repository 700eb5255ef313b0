// SPDX-License-Identifier: Apache-2.0

// Package containerd asks containerd, from 1.6 on, about the containers of all
// its namespaces, and listens to its events.
//
// A container's record (labels, image name, spec) comes from one call; what its
// task does (init PID, state, exit) comes from the events, and from the list at
// start-up, so that a Lookup costs one call and no shim is asked. What Watch
// and List learn of tasks and image digests is remembered while a Watch runs,
// until the container is deleted, because containerd forgets an exit with the
// task. Nothing else outlives a call.
//
// An exec'd process is no container: its exit is not the container's. The exit
// status is containerd's, which does not tell an exit with 137 from a SIGKILL,
// so Exit.Signal is set only where the kernel's out-of-memory killer is known to
// have chosen the container.
//
// The connection is made without waiting, and again when the socket is another
// file: a restarted containerd is picked up by the next call. All methods may be
// called concurrently. Close ends the connection.
//
// An image name can be given to another image. Image.Digest is therefore said
// only where the name cannot have changed between the container's creation and
// the look at the image.
//
// ListImages looks into each image once: what a digest stands for never changes, and
// is remembered as long as the image is listed.
package containerd
