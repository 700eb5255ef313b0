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
}

// programsEnv names a directory with programs that are built already, for
// machines without Go: the virtual ones of scripts/vm.sh.
const programsEnv = "PIDIGREE_PROGRAMS"

// Build compiles the programs into dir, as `make build` does: without cgo, so
// that they run in an image that holds nothing else. Where PIDIGREE_PROGRAMS
// names a directory, they are taken from there.
func Build(ctx context.Context, dir string) (Programs, error) {
	built, ok := os.LookupEnv(programsEnv)
	if ok {
		dir = built
	}
	p := Programs{Pidigree: filepath.Join(dir, "pidigree"), Asker: filepath.Join(dir, "asker"), Work: filepath.Join(dir, "work"), Servant: filepath.Join(dir, "servant")}
	for out, pkg := range map[string]string{p.Pidigree: "./cmd/agent", p.Asker: "./tests/e2e/asker", p.Work: "./tests/e2e/oracle/work", p.Servant: "./tests/e2e/bare/servant"} {
		if ok {
			if _, err := os.Stat(out); err != nil {
				return Programs{}, fmt.Errorf("%s has not all programs: %w: scripts/vm.sh builds them", programsEnv, err)
			}
			continue
		}
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, pkg)
		cmd.Dir = moduleRoot()
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if log, err := cmd.CombinedOutput(); err != nil {
			return Programs{}, fmt.Errorf("build %s: %w\n%s", pkg, err, log)
		}
	}
	return p, nil
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
