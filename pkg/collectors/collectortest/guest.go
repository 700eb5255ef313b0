// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// GuestRoot makes the root file system of the newer release that tests boot, or
// take newer engines from, where it is not there yet, and gives its path. It is
// made once on a machine, which takes a minute or more.
func GuestRoot(ctx context.Context) (string, error) {
	top, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(top, "scripts/nspawn-guest.sh"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("make the guest's root: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// moduleRoot is the directory above the tests' own that has the go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	for err == nil && dir != "/" {
		if _, serr := os.Stat(filepath.Join(dir, "go.mod")); serr == nil {
			return dir, nil
		}
		dir = filepath.Dir(dir)
	}
	return "", fmt.Errorf("find go.mod above %s: %w", dir, os.ErrNotExist)
}
