// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"fmt"
	"os"
	"testing"
)

// Main is a package's TestMain: it builds the programs, which the tests then only
// read, runs the tests and ends the process. What is started by the tests needs
// root, so without it nothing runs and that is a failure, not a skip.
func Main(m *testing.M, programs *Programs) { os.Exit(run(m, programs)) }

func run(m *testing.M, programs *Programs) int {
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests need root: they start containers and load BPF programs")
		return 1
	}
	dir, err := os.MkdirTemp("", "pidigree-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if *programs, err = Build(context.Background(), dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}
