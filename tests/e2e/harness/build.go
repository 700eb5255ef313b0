// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Programs are the binaries under test.
type Programs struct {
	// Pidigree is the agent and command line.
	Pidigree string
	// Asker is the static program that asks about itself.
	Asker string
	// Work is what runs in the oracle's containers.
	Work string
	// Servant is the init of the containers of tests/e2e/bare.
	Servant string
	// Villain is that of the containers of tests/e2e/attack.
	Villain string
}

// All gives their paths.
func (p Programs) All() []string {
	return []string{p.Pidigree, p.Asker, p.Work, p.Servant, p.Villain}
}

// ProgramsEnv names a directory with programs that are built already, for
// machines without Go: the virtual ones of scripts/vm.sh, and the guest.
const ProgramsEnv = "PIDIGREE_PROGRAMS"

// Build compiles the programs into dir, as `make build` does: without cgo, so
// that they run in an image that holds nothing else. Where PIDIGREE_PROGRAMS
// names a directory, they are taken from there.
func Build(ctx context.Context, dir string) (Programs, error) {
	built, ok := os.LookupEnv(ProgramsEnv)
	if ok {
		dir = built
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	p := Programs{Pidigree: in("pidigree"), Asker: in("asker"), Work: in("work"), Servant: in("servant"), Villain: in("villain")}
	for out, pkg := range map[string]string{
		p.Pidigree: "./cmd/agent", p.Asker: "./tests/e2e/asker", p.Work: "./tests/e2e/oracle/work",
		p.Servant: "./tests/e2e/bare/servant", p.Villain: "./tests/e2e/attack/villain",
	} {
		if ok {
			if _, err := os.Stat(out); err != nil {
				return Programs{}, fmt.Errorf("%s has not all programs: %w: scripts/vm.sh builds them", ProgramsEnv, err)
			}
			continue
		}
		if err := Go(ctx, "build", "-trimpath", "-o", out, pkg); err != nil {
			return Programs{}, err
		}
	}
	return p, nil
}

// Go runs the go command in the module's root, without cgo.
func Go(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = moduleRoot()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if log, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %q: %w\n%s", args, err, log)
	}
	return nil
}

// moduleRoot is the nearest folder upward with a go.mod: `go test` runs a
// package's tests in its own folder.
func moduleRoot() string {
	dir, err := os.Getwd()
	if err != nil {
		return "."
	}
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if _, err := os.Stat(filepath.Join(d, "go.mod")); err == nil {
			return d
		}
	}
	return dir
}
