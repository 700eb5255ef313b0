// SPDX-License-Identifier: Apache-2.0

// Package plaintest has what tests of shown text need.
package plaintest

import (
	"testing"
	"unicode"
	"unicode/utf8"
)

// Hostile is what an attacker would put into every string: it clears the screen,
// moves the cursor, ends the line and turns the text around.
const Hostile = "\x1b[2J\r\nroot\x00\u202egpj.\xff\u200b\u009b1m"

// Check fails on anything that a terminal could act on.
func Check(t *testing.T, s string) {
	t.Helper()
	if !utf8.ValidString(s) {
		t.Errorf("%q is not UTF-8", s)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			t.Errorf("%q has %U", s, r)
		}
	}
}
