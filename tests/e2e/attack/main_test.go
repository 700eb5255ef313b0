// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// villain is the program that is the init of every container here.
var villain string

// In the guest, which has no Go, a directory holds the programs and the test's
// own binary; it is harness.Build that reads it for the others.
const programsEnv = "PIDIGREE_PROGRAMS"

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	flag.Parse()
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "the attacks need root: they start engines and load BPF programs")
		return 1
	}
	dir, err := os.MkdirTemp("", "pidigree-attack")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if programs, err = harness.Build(context.Background(), dir); err == nil {
		villain, err = buildVillain(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func buildVillain(dir string) (string, error) {
	if built, ok := os.LookupEnv(programsEnv); ok {
		path := filepath.Join(built, "villain")
		_, err := os.Stat(path)
		return path, err
	}
	path := filepath.Join(dir, "villain")
	return path, goBuild(context.Background(), "build", "-trimpath", "-o", path, "./villain")
}

// goBuild compiles without cgo, so that it runs in an image that holds nothing else.
func goBuild(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if log, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %q: %w\n%s", args, err, log)
	}
	return nil
}

// patience is how long a test waits for what has to become true soon.
const patience = 20 * time.Second

// eventually tries until it works or patience ends.
func eventually(try func() error) error { return within(patience, try) }

func within(patience time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}
