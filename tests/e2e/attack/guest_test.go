// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// guestTimeout bounds one round of the suite inside the guest.
const guestTimeout = 5 * time.Minute

// The same attacks on what most hosts are today: systemd as PID 1, cgroup v2
// alone, Docker with the systemd driver. All of it runs inside the guest, the
// engines, the agent, the oracle and this test: in a PID namespace of its own.
func TestAttacksUnderSystemdAndPureV2(t *testing.T) {
	g := harness.StartGuest(t)
	bin := g.Share + "/bin"
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := harness.Go(t.Context(), "test", "-c", "-vet=off", "-o", bin+"/attack.test", "./tests/e2e/attack"); err != nil {
		t.Fatal(err)
	}
	docker, err := exec.LookPath("docker") // the guest has the engine alone
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range append(programs.All(), docker) {
		if err := harness.CopyFile(from, filepath.Join(bin, filepath.Base(from))); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(*rounds)*guestTimeout)
	defer cancel()
	inside := "/share/bin"
	out, err := g.Run(ctx, "systemd-run", "--quiet", "--wait", "--pipe", "--collect", "--unit=attacks", "--property=Delegate=yes",
		"--property=WorkingDirectory="+inside, "--setenv="+harness.ProgramsEnv+"="+inside, "--setenv=HOME=/root", "--setenv=PATH="+inside+":/usr/sbin:/usr/bin:/sbin:/bin",
		inside+"/attack.test", "-test.v", "-test.run="+*guestRun, "-test.timeout="+(time.Duration(*rounds)*guestTimeout).String(), "-attack.rounds="+strconv.Itoa(*rounds), "-attack.in-guest")
	t.Logf("inside the guest:\n%s", out)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "--- PASS: TestAttacks ") {
		t.Error("the attacks did not run")
	}
}
