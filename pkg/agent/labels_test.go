// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"slices"
	"testing"
)

// TestMetricLabelsAreOfAFixedSet: a label whose values a container, a client or a
// path could choose would let them make series without end. Whoever adds one
// says here that its values are of a fixed list.
func TestMetricLabelsAreOfAFixedSet(t *testing.T) {
	fixed := []string{"mode", "type", "source", "method"}
	for name, m := range metrics() {
		for _, label := range m.labels {
			if !slices.Contains(fixed, label) {
				t.Errorf("%s has the label %s, which is not among %q", name, label, fixed)
			}
		}
	}
}
