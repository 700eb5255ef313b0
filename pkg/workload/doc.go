// SPDX-License-Identifier: Apache-2.0

// Package workload holds the nouns of pidigree: processes, containers, runs,
// pods, tasks, images, services, and the Answer that joins them.
//
// It owns no behaviour beyond comparing, printing and cloning, and imports
// nothing of ours, so that every other package can speak it.
//
// Values are immutable once they have been handed to another package: a reader
// may keep a pointer for ever and needs no lock, and whoever wants a changed
// value makes a Clone. A zero field means that nobody said anything about it;
// groups of booleans are therefore pointers to a struct (Security), never bare.
package workload
