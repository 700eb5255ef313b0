// SPDX-License-Identifier: Apache-2.0

// Package beat has everything that comes back at intervals come back at the
// same instants.
//
// What an agent costs where nothing happens is how often it wakes up, not what
// it then does: a timer of its own costs a few threads a wake-up each and some
// 150 us, one that is due when another is costs almost nothing. So whoever looks
// at something regularly waits Until the next instant of a grid that all share.
// The package has no state: nobody has to know of anybody else.
package beat

import "time"

// Step is the least interval that is worth sharing; all others should be
// multiples of it.
const Step = 250 * time.Millisecond

// Until says how long it is to the next instant at which everything with this
// interval is due: those are the multiples of d on the host's clock. It is more
// than 0 and at most d; a clock that is set shortens or lengthens one wait
// within that. Intervals share instants where one is a multiple of the other.
//
// It takes the place of d in a wait that is begun again each time, not of a
// bound that must be kept from below: two waits in a row may be short.
func Until(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	into := time.Duration(time.Now().UnixNano()) % d
	if into < 0 { // a host that believes in a year before 1970
		into += d
	}
	return d - into
}

// After gives the wait to the first instant of Step's that is at least d away, for
// what is due once and can wait a little. A wait below two steps is left as it is.
func After(d time.Duration) time.Duration {
	if d < 2*Step {
		return d
	}
	first := Until(Step)
	return first + (d-first+Step-1)/Step*Step
}
