// SPDX-License-Identifier: Apache-2.0

// Package fault holds the tests of what an agent does while something around it
// fails: an engine, its socket, its events, the agent's own means, the kernel's
// rings, its clients, or the number of everything. Real engines, the built
// binary, and the oracle (tests/e2e/oracle), which asks all the way through.
//
// A fault test has four parts. Before: containers that the oracle has found to
// be known. The fault, and changes of the engine's containers during it, as far
// as the engine can be told or its processes be killed. During: no answer may be
// wrong, every question is answered, and what was known before is answered right
// each time, in about the time that it takes else. After: what `list` gives must
// equal what the engine itself lists, within two seconds of the fault's end, or
// on a busy machine within the looks that these two seconds have room for. An
// engine that was ended has ended its fault when it answers again.
//
// docs/robustness.md says which test shows which fault. The package holds tests
// alone.
package fault
