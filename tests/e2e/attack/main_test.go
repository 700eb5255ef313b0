// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"flag"
	"testing"
	"time"

	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// The long form: -attack.rounds=50 -timeout=2h.
var (
	rounds   = flag.Int("attack.rounds", 1, "how often each attack is made")
	guestRun = flag.String("attack.guest", "^TestAttacks$", "what runs in the guest, as for -run")
	inGuest  = flag.Bool("attack.in-guest", false, "this is the guest: TestAttacksUnderSystemdAndPureV2 sets it")
)

// programs are built once, by TestMain, and only read by the tests.
var programs harness.Programs

func TestMain(m *testing.M) { harness.Main(m, &programs) }

// patience is how long a test waits for what has to become true soon.
const patience = 20 * time.Second
