// SPDX-License-Identifier: Apache-2.0

// Package cgroup says which cgroups a task is in, how a cgroup's id and path
// belong together, and what the path claims.
//
// It has two halves that know nothing of each other.
//
// The file system half (FS) works on the cgroup v1, hybrid and v2 mounts of
// the agent's own mount namespace: the cgroups of a process (OfPID, OfProc),
// path to id (ID), id to path (Path), a cgroup with all its ancestors
// (Lineage), and the processes in one (Processes). An id is only ever given
// for a directory that was really looked at; what cannot be resolved has an ID
// of 0, never a guess. A lookup by id either speaks of that very cgroup or says
// ErrGone: a directory that was removed and made again has another id. No
// lookup leaves the hierarchy's mount, follows a symbolic link or crosses into
// another file system.
//
// The grammar half (Parse) is pure. It reads a whole path and lists what the
// names in it claim: containers, pods, tasks, machines, helpers such as conmon,
// and the systemd unit. A claim is what somebody wrote, and whoever may make a
// directory in a cgroup may write it; it never is an identity.
//
// Paths are absolute within their hierarchy and are those that the agent sees:
// relative to the root of its own cgroup namespace, or, where the mounts that
// it was given reach above that root, relative to the mounts. Both are the
// kernel's own paths for an agent that runs in the initial cgroup namespace.
//
// Everything may be called concurrently; FS.Close only after the last call.
// There are no goroutines. All input is bounded: see the Max constants.
package cgroup
