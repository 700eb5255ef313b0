// SPDX-License-Identifier: Apache-2.0

//go:build pidigree_bugs

package correlator

// bugSet is the one mistake to make.
type bugSet bug

func (s bugSet) has(b bug) bool { return bug(s) == b }
