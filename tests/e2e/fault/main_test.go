// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"flag"
	"testing"
	"time"

	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// The long form: -fault.rounds=5 -fault.stop=2m -fault.runs=5 -fault.watchers=1000 -fault.short=1000 -timeout=2h.
var (
	rounds   = flag.Int("fault.rounds", 1, "how often each fault is made")
	stopFor  = flag.Duration("fault.stop", 20*time.Second, "how long the agent is stopped in all, while the runtimes are measured")
	stopRuns = flag.Int("fault.runs", 1, "how often that is measured")
	watchers = flag.Int("fault.watchers", 100, "how many clients watch and never read")
	brief    = flag.Int("fault.short", 100, "how many short containers are run")
)

// within is how soon after a fault's end the store must equal the truth, on a
// machine that has time for it (equality.late).
const within = 2 * time.Second

// patience is how long a test waits for what has to become true soon: on two
// cores that several tests share, far longer than it takes.
const patience = 30 * time.Second

// programs are built once, by TestMain, and only read by the tests.
var programs harness.Programs

func TestMain(m *testing.M) { harness.Main(m, &programs) }
