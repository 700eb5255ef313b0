// SPDX-License-Identifier: Apache-2.0

// Package correlator joins kernel events, cgroup lineages and what the sources
// say into changes of the store. It is the only writer of the store.
//
// The core is the machine: a pure state machine without goroutines, clocks or
// I/O. Inputs are kernel events, lineages, process reads, answers, hints and
// the passing of time; outputs are store changes and requests ("ask docker
// about 4f3a", "read the lineage of 0:1234"). It is indifferent to the order of
// events from different rings, because every fact carries the kernel's stamp.
// So a seeded simulator can drive it through millions of interleavings.
//
// The shell, Correlator, feeds the machine under one mutex and carries the
// requests out, each in a goroutine of its own with a deadline. The ring reader
// steps the machine itself: a step is microseconds of map work, never a call
// out, so that no hand-over delays a container's registration.
//
// The two rules that decide identity live here. Registration (register.go):
// only a trusted source's word about an init process, checked against that
// process's start time and cgroups, binds a cgroup to a container; names and
// paths never do. Membership (membership.go): a process belongs to a container
// because a member forked it, or because it entered the container's cgroup
// while it belonged to no other; being in a cgroup is not enough.
package correlator
