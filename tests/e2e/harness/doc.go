// SPDX-License-Identifier: Apache-2.0

// Package harness runs pidigree as a user does: the built binary, as a process
// of its own, beside private engines (collectortest's) or inside a systemd
// guest, asked over its socket and by its command line.
//
// It knows the command line and its JSON and nothing of what is behind them, so
// that a test here fails where a user would see it. Whatever it starts has its
// own directory below /tmp and is ended, by the PID that was started, when the
// test ends. Nothing is safe for concurrent use unless it says so.
package harness
