// SPDX-License-Identifier: Apache-2.0

package cli

import "fmt"

// nearest gives the name that a mistyped word most likely meant: the one with
// the fewest edits, if those are at most a third of the word (and at least one).
// Empty if none is near. Long words are not compared; nobody typed them.
func nearest(word string, names []string) string {
	if len(word) > 64 {
		return ""
	}
	best, least := "", max(1, len(word)/3)+1
	for _, n := range names {
		if d := edits(word, n); d < least {
			best, least = n, d
		}
	}
	return best
}

// didYouMean is the tail of an error message, empty if nothing is near.
func didYouMean(prefix, word string, names []string) string {
	n := nearest(word, names)
	if n == "" {
		return ""
	}
	return fmt.Sprintf(": did you mean %q?", prefix+n)
}

// edits counts insertions, deletions, substitutions and swaps of neighbours
// (the optimal string alignment distance).
func edits(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
