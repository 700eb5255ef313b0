// SPDX-License-Identifier: Apache-2.0

// Package remote takes what another pidigree knows into the store of this one: its
// stream of containers, processes, pods, tasks, images and units, over a unix socket or,
// from another host, by TLS with a certificate on both sides.
//
// It owns the stream and what may be taken from it, and nothing that this host's own
// sources say: those go before it, which the store sees to (store.RemoteChange). It is
// no collectors.Collector, since the correlator never asks it: whose a process of this
// host is does not depend on what another pidigree says, unless nobody here can tell.
//
// The stream is opened again, with growing pauses of which half is chance, and resumed
// after the last change. Where that cannot be, because the other one has forgotten or is
// another one by now, a whole snapshot comes, and what is not in it any more has ended.
// While the other one is away what it has said of the living is marked as stale.
//
// A process is taken only where its PID means the same here: in the same boot and PID
// namespace, or where the store is a copy of the other's and has nothing of this host
// (Options.Copy). Cgroups and units are taken by a copy alone: every other agent reads
// those of its own host. Of another host come containers, pods, tasks and images, without
// PIDs, and with ids of an Instance of their own, which is joined with no id of this host.
// What the other one has by hearsay, from a third, is never taken: two that listen to each
// other would keep alive what has long ended.
//
// A server may lie or go back in time. Each change is checked, cut to the budgets of
// package collectors and counted; a stream whose revisions go back is given up, and
// everything in it is asked for again.
package remote
