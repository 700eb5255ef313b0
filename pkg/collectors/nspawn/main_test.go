// SPDX-License-Identifier: Apache-2.0

package nspawn

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// machinesDir makes a directory like machined's.
func machinesDir(tb testing.TB) string {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("machines' files must be owned by root, and nspawn needs it: run the tests as root")
	}
	dir := filepath.Join(tb.TempDir(), "systemd/machines")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// put puts a file in its place at once, as machined does.
func put(tb testing.TB, dir, name, data string) {
	tb.Helper()
	tmp := filepath.Join(dir, ".#"+name)
	if err := os.WriteFile(tmp, []byte(data), 0o644); err != nil {
		tb.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		tb.Fatal(err)
	}
}

func start(tb testing.TB) *collectortest.Machine {
	tb.Helper()
	return collectortest.StartMachine(tb, collectortest.MachineOptions{})
}
