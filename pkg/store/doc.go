// SPDX-License-Identifier: Apache-2.0

// Package store holds what pidigree knows right now: processes and containers,
// indexed, versioned, and with what has just gone.
//
// It owns the merged view of a container (one layer for each source, joined by
// the table in precedence.go), the index from a process to its chain of
// containers, the tombstones, and who gets told of a change. It knows nothing
// of kernels, runtimes or clocks: instants arrive in changes.
//
// # Guarantees
//
// Every value that is handed out is immutable. Every change of an entity gets
// the next Revision, and a change that says nothing new gets none. Resolve,
// PID, PIDAt, Container, ByCgroup and ContainerAnswer take no lock; Resolve
// allocates nothing. What is not certain is unknown: a process whose container
// is not in the store, a key that fits two processes of the same clock tick, an
// alias that two containers claim, a cgroup that two unrelated containers claim.
//
// # Concurrency
//
// There is one writer, the correlator: Apply and SetAsOf. A mutex makes two
// writers safe, though not meaningful. No reader can make the writer wait:
// readers see pointers that the writer swaps, and a watcher that does not read
// costs one batch of memory at most (see Watch).
package store
