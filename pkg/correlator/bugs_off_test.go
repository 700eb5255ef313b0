// SPDX-License-Identifier: Apache-2.0

//go:build !pidigree_bugs

package correlator

import (
	"testing"
	"unsafe"
)

func TestWithoutTheTagThereIsNoDeliberateBug(t *testing.T) {
	if n := unsafe.Sizeof(bugSet{}); n != 0 {
		t.Errorf("a bugSet takes %d bytes", n)
	}
	for b := range bugs {
		if (bugSet{}).has(b) {
			t.Errorf("bug %d is made", b)
		}
	}
}
