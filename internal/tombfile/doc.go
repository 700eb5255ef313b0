// SPDX-License-Identifier: Apache-2.0

// Package tombfile keeps what an agent knows in a file, so that the next agent of
// the same boot can answer for what has ended: who lived, when, and how it ended.
// Nothing that lives is ever answered from it; see store.Restore.
//
// The file is a header (format, boot, run) and records, each with its length and
// a CRC32-C that goes on from the one before: a record is good only where it was
// written, after all those before it. A reader takes records up to the first one
// that is not good and drops the rest, so an agent may be killed at any byte. A
// header that is not good, or of another boot, means that there is no file.
//
// A File reads the store's changes when it wants to, twice a second, and never
// makes the store's writer wait or wake anybody: a writer that lags gets fewer
// changes, not a queue. It begins a new file with all that there is when it
// starts, when it lost its place and when the old one has doubled, and puts it in
// the old one's place by renaming. Nothing is synced to a disk: the file is for
// the next process, not for the next boot.
//
// A File that cannot be written costs the memory of what has ended across the
// next restart, and nothing else; it says so once in the log and in its Status.
//
// Open, Load and Run are called one after the other; Status by anybody.
package tombfile
