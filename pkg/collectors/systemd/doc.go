// SPDX-License-Identifier: Apache-2.0

// Package systemd asks the host's system manager about its units: description,
// state, invocation id and main process of the unit that a cgroup is of.
//
// Which unit a process is in is read from its cgroup's path and never waits for
// this. The manager is asked over D-Bus, root on its own socket and others on the
// system bus, by the unit's name: one answer is good for all processes of it,
// where a question by PIDFD would be one for each. What it says counts only if it
// names the very cgroup that was asked about.
//
// No signals are subscribed to: a manager that has a subscriber tells it of each
// change of each unit. What changes shows in the kernel first, as a cgroup, a
// process that the manager forks or a main process that ends. Watch asks every
// few seconds for the units that are between two states, of which there are few.
//
// All methods may be called concurrently. One connection is kept, and thrown away
// with the first call that it does not answer.
package systemd
