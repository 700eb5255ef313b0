// SPDX-License-Identifier: Apache-2.0

// Package nspawn reads what systemd-machined keeps of the containers that
// systemd-nspawn registers with it: /run/systemd/machines/NAME, a file of KEY=value
// lines, replaced by a rename. The file gives the name, the unit, the leader (the
// container's first process), the root directory and the machine id.
//
// # What it guarantees
//
// Run.Registers is set for a leader that is the process which the file means, and
// nobody else. A file is believed only if root alone could have written it. It gives
// no more than a PID, and in newer versions that process's pidfs inode: the process
// that has the PID now must have this inode, or have begun before the file's own time,
// when machined saw the leader alive; it must be the first of a PID namespace below
// the host's, and in the cgroup of the file's unit, where nspawn alone put it. What
// cannot be verified registers nothing.
//
// The claimed cgroup is the sub-cgroup "payload" of the unit. Beside it, in
// "supervisor", is nspawn itself, which is a process of the host.
//
// # What is not shown
//
// Virtual machines; containers of others that machined knows (libvirt's), whose
// cgroups are laid out otherwise; those of a user's own machined; and a container that
// is not registered (--register=no), of which there is no file.
//
// All methods may be called concurrently. Nothing is kept but during a Watch.
package nspawn
