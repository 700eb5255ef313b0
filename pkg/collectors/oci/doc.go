// SPDX-License-Identifier: Apache-2.0

// Package oci reads what low-level runtimes leave on disk: the state of runc,
// crun and youki, and the bundles that they run by the OCI runtime-spec. Docker,
// containerd, CRI-O, podman, BuildKit and a bare `runc run` all start their
// containers through one of the three, so this one collector sees the init
// process and the cgroups of all of them, before the first instruction of the
// user's program.
//
// # What it guarantees
//
// Run.Registers is set for what a state file says, and a state file is believed
// only if root alone could have written it: every file is opened beneath its
// directory without following a link, is regular, owned by root, in directories
// owned by root that others cannot write, and of bounded size. One read is one
// version of the file. A bundle is held to the same, and where it fails only the
// bundle's part of the description is missing (Truncated says "bundle" and why).
//
// # Whose container it is
//
// The id of a container is the runtime's own: Runtime is runc, crun or youki by
// the format of the state file, whatever the directory is called; Instance is
// the state directory, empty for the runtime's default (<run>/runc, <run>/crun,
// <run>/youki); Namespace is the last element of a state directory that an
// engine keeps for each namespace (containerd/runc/<ns>, docker/runtime-runc/<ns>).
// Container.Runtime is the engine where the directory or the bundle tells it
// (docker, containerd, cri-o, podman, buildkit), else the runtime. An engine's
// own collector knows better and wins.
//
// # Where it looks
//
// Below the run directory, at the runtimes' defaults and those of Docker,
// containerd and K3s, each as a glob that may match nothing now and something
// later; at the globs of Options.Roots; and at the state directory that a shim's
// options.json names. Watch follows all of them with one inotify instance, and
// reads the directories again each second, in case an event was lost or the
// kernel allows no more watches.
//
// All methods may be called concurrently. While a Watch runs, Locate by cgroup
// path asks its index and confirms by reading the file; without one it reads all
// states, up to a bound.
package oci
