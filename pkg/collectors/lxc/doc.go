// SPDX-License-Identifier: Apache-2.0

// Package lxc knows the running containers of root's LXC: by /var/lib/lxc/NAME/config
// and by the monitor process that each of them has. LXC keeps no state of a container
// in a file, so what registers one is read from /proc and the cgroup file systems.
//
// # What it guarantees
//
// Run.Registers is set for an init that is the child of the container's own monitor. A
// monitor is a process of the host (root's, in the PID, mount and user namespaces of the
// host's first process), in the cgroup that LXC gives the monitor of that name, and it
// holds the listening command socket of that very container, which only one process in a
// network namespace can have. Its child is the first of a PID namespace and in the
// cgroup that LXC gives the payload. A container, whatever cgroups it may make and
// whatever it may bind, has no process of the host's to be one.
//
// A configuration is believed only if root alone could have written it. It is read for
// the name of the host, the root file system and the cgroups' places.
//
// # What is not shown
//
// Stopped containers; those of users; those of Incus and LXD, which keep no
// configuration there: they are named by their cgroups, as a claim. Containers in the
// host's PID namespace, with lxc.cgroup.relative, or in a directory whose path is so long
// that the socket's name is a hash.
//
// All methods may be called concurrently. Nothing is kept but during a Watch.
package lxc
