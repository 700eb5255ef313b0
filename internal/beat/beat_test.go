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

func TestWhatCanWaitIsPutOffToTheNextInstant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(40 * time.Millisecond) // virtual
		for d := time.Duration(0); d < 2*time.Second; d += 7 * time.Millisecond {
			wait := After(d)
			switch at := time.Now().Add(wait).UnixNano() % int64(Step); {
			case d < 2*Step:
				if wait != d {
					t.Errorf("After(%v) is %v: that can be too late", d, wait)
				}
			case at != 0 || wait < d || wait >= d+Step:
				t.Errorf("After(%v) is %v, %v past an instant", d, wait, time.Duration(at))
			}
		}
	})
}
