// SPDX-License-Identifier: Apache-2.0

// Package podman reads what podman keeps of its containers and pods. Podman has no
// daemon to ask: each command of it works on the files, and so does this package.
//
// A store is a directory of storage (graph root) with libpod's database in it, a
// bbolt file until podman 4, a SQLite file since 5. The database has a container's
// name, image, labels and pod before its runtime is called, and is read in place
// without a lock (internal/boltread, internal/sqliteread): podman waits for nobody,
// and what was read is thrown away where podman wrote meanwhile. Where it cannot be
// read, the storage's containers.json still gives names and images.
//
// What is alive is asked of the kernel, not of the database, which a crash or a
// reboot leaves behind: a container's init is said to be one only where it is the
// child of the conmon that has the container's id in its arguments.
//
// Images are in the storage's own lists and beside them, files that are replaced as a whole.
//
// Everything in a store is bounded and hostile: paths are opened beneath it, files
// must be its owner's, JSON is cut while it is read.
//
// A Collector keeps the places of the stores, nothing of their content; Watch keeps
// what it compares with as long as it runs. All methods may be called concurrently.
package podman
