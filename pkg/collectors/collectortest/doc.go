// SPDX-License-Identifier: Apache-2.0

// Package collectortest is what the tests of collectors share: real engines
// that are private to one test (StartDockerd, StartContainerd), a proxy that
// makes a good engine slow, hung, cut or lossy (Proxy), a collector scripted in
// memory (Fake), and the conformance suite that every collector passes (Run).
//
// An engine started here keeps its root, state, sockets and pid file in a
// directory of its own, so that several run side by side and beside the host's.
// It is ended, and what it mounted and ran is removed, by the test's cleanup;
// if the test binary dies first, the kernel asks the daemon to stop. All of it
// needs root, the engine's binaries and a static busybox.
//
// The methods of an engine that end the test (Run, Docker, Ctr) are for the
// test's goroutine; those that return an error may be called from any.
package collectortest
