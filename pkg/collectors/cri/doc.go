// SPDX-License-Identifier: Apache-2.0

// Package cri asks an engine of Kubernetes through runtime.v1 of the CRI about
// its pods and containers: containerd with its CRI plugin (k3s has one of its
// own), CRI-O, cri-dockerd. One Collector has one socket; which engine is behind
// it is told by the Version call, once for each incarnation of the socket, and
// decides how the ids are named, so that a container of containerd's is the same
// entity for this package and for package containerd.
//
// A container costs one call with its runtime-spec in it. An id that is no
// container's may be a sandbox's: that is a second call, made only where no Watch
// runs that would have told. A sandbox is a container marked as such and also a
// pod; engines show one only once it runs, so who a pod is before its first
// instruction is read from its bundle (package oci).
//
// There is no standing stream. GetContainerEvents is not called, for nowhere does
// it leave others alone: containerd 1.7 has one channel for all readers, who take
// the events from each other; from 2.0 on, and in CRI-O, a reader that has stopped
// holds up the engine's own calls or has the kubelet's events dropped
// (docs/adr/0004). Watch compares lists instead, at intervals and when nudged,
// which is two calls however much happened.
//
// Images are those of the engine's image service at the same socket. The CRI tells of
// no pull and no removal: they are listed when a container has an image that none had
// before, when another source hints at images, and at intervals.
//
// What an engine says is bounded: a reply in bytes, a description by Bound. A list
// that is too large, or has a string in it that is no UTF-8, is asked for pod by
// pod, so that one pod hides no other.
//
// All methods may be called concurrently. Close ends the connection.
package cri
