// SPDX-License-Identifier: Apache-2.0

// Package bare holds pidigree to its promises with nothing but a kernel and
// runc: containers without an engine, and containers that attack each other. It
// needs no image, no network and no Go, so that it runs in the virtual machines
// of scripts/vm.sh, on kernels that the host does not have; it runs on the host
// as well.
//
// Truth comes from the test having asked a process inside a container to start
// another one there. What a cgroup is called plays no part in it.
package bare
