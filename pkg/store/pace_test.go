// SPDX-License-Identifier: Apache-2.0

package store

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A hundred watchers that have fallen behind get their batches one after the other,
// as their size is; who has not fallen behind waits for none of them.
func TestWhoCatchesUpDelaysNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := pace{born: time.Now()}
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() { p.turn(t.Context(), maxBatch) })
		}
		synctest.Wait()
		begin := time.Now()
		p.turn(t.Context(), 1)
		if d := time.Since(begin); d > 200*paceSlot {
			t.Errorf("one who was told a change waited %v", d)
		}
		wg.Wait()
		if d, least := time.Since(begin), 90*maxBatch*paceChange; d < least {
			t.Errorf("a hundred batches of %d were given in %v, want %v at least", maxBatch, d, least)
		}
	})
}
