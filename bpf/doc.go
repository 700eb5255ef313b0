// SPDX-License-Identifier: Apache-2.0

// Package bpf holds the C programs, their map and event layouts, and the
// generated Go that loads them.
//
// tracer.bpf.c has one program for each tracepoint and a task iterator, and
// records.h the records that they write. The generated files are committed, so
// that building needs only Go; go generate makes them again with clang 14.
//
// The programs hold no state but counters of losses, and package kernel is the
// only one that loads them.
package bpf
