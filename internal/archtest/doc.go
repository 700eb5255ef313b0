// SPDX-License-Identifier: Apache-2.0

// Package archtest holds the architecture in place: its test reads the tables of
// ARCHITECTURE.md and fails where the code no longer agrees with them. It has no
// code of its own, and nothing imports it.
package archtest
