// SPDX-License-Identifier: Apache-2.0

// Package kubelet asks the kubelet of this node about its pods. What it adds to
// what CRI and bundles say is who owns a pod, its phase, conditions and QoS, its
// volumes, and what each container is in it: init, sidecar, ephemeral.
//
// There is one question, /pods, and its answer is the whole node. So it is asked
// seldom: when a pod is asked for that was not in the last list, every 30 s, a
// few times after something changed, and once when the kernel showed that
// something ended. Lookups that wait share one call. A node on which nothing
// changes is asked 12 times in five minutes at most.
//
// The kubelet is found by its process (Options.Procfs) and what that was started
// with, or is configured. Its read-only port needs no credentials; the other one
// is asked by TLS only, with a certificate or a token, and only after its own
// certificate was verified: there is no setting that skips this. No redirect is
// followed and no proxy used. Credentials are read anew for each call, for they
// are rotated, and are kept no longer than it.
//
// The answer is read in a stream, one pod at a time, each cut to a budget.
//
// Identity never waits for the kubelet. Lookup answers from the last list alone,
// and Locate not at all: the kubelet knows no cgroup and no process. What a
// container is in its pod comes as hints, which Watch gives as it finds out.
//
// A pod that is missing from a list is deleted only if it is missing from the
// next one, too, and the kubelet has run for a while: one that has just begun
// does not know its pods yet.
//
// All methods may be called concurrently. The last list is remembered, and which
// pods there were, so that one that was deleted while the kubelet was away is
// noticed.
package kubelet
