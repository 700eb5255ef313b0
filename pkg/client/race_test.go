// SPDX-License-Identifier: Apache-2.0

//go:build race

package client_test

// raced: the race detector takes several times the memory.
const raced = true
