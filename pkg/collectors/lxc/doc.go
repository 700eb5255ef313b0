// SPDX-License-Identifier: Apache-2.0

// Package lxc knows the running containers of root's LXC: by /var/lib/lxc/NAME/config
// and by the monitor process that each of them has. LXC keeps no state of a container
// in a file, so what registers one is read from /proc and the cgroup file systems.
//
// # What it guarantees
//
// Run.Registers is set for an init that is the child of the container's own monitor: see
// package lxcmonitor, which finds both.
//
// A configuration is believed only if root alone could have written it. It is read for
// the name of the host, the root file system and the cgroups' places.
//
// # What is not shown
//
// Stopped containers; those of users; those of Incus and LXD, which keep no
// configuration there (package incus knows them). Containers in the host's PID namespace,
// with lxc.cgroup.relative, or in a directory whose path is so long that the socket's name
// is a hash.
//
// All methods may be called concurrently. Nothing is kept but during a Watch.
package lxc
