// SPDX-License-Identifier: Apache-2.0

package beat

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestWaitsBegunAtDifferentTimesEndTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const short, long = 250 * time.Millisecond, time.Second
		begin := time.Now()
		ends := map[time.Time]int{}
		for i := range 40 {
			time.Sleep(time.Duration(i) * time.Millisecond) // virtual
			for _, d := range []time.Duration{short, long} {
				wait := Until(d)
				if wait <= 0 || wait > d {
					t.Fatalf("Until(%v) is %v", d, wait)
				}
				ends[time.Now().Add(wait)]++
			}
		}
		// 780 ms have passed: four quarters of a second ended, and one whole one
		// (or two) with one of them.
		if n := int(time.Since(begin)/short) + 2; len(ends) > n {
			t.Errorf("80 waits end at %d instants, want %d at most: %v", len(ends), n, ends)
		}
	})
}

func TestAnIntervalOfNothingIsNoWait(t *testing.T) {
	if d := Until(0); d != 0 {
		t.Errorf("Until(0) is %v", d)
	}
}
