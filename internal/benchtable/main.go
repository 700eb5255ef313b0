// SPDX-License-Identifier: Apache-2.0

// Command benchtable makes docs/benchmarks.md from the raw output of the
// benchmarks: the promised figures, each beside its baseline of the same run
// (figures.go), and after them every benchmark there is. It measures nothing
// and judges only by the limits that figures.go states.
//
//	go run ./internal/benchtable -raw docs/bench -out docs/benchmarks.md
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

func main() {
	raw := flag.String("raw", "docs/bench", "folder with the raw output, *.txt, and environment.md")
	out := flag.String("out", "docs/benchmarks.md", "the page to write")
	flag.Parse()
	if err := run(*raw, *out); err != nil {
		fmt.Fprintln(os.Stderr, "benchtable:", err)
		os.Exit(1)
	}
}

func run(raw, out string) error {
	files, err := filepath.Glob(filepath.Join(raw, "*.txt"))
	if err != nil {
		return err
	}
	slices.Sort(files)
	var all []result
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		results, err := parse(f)
		_ = f.Close() // it was only read
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
		all = append(all, results...)
	}
	if len(all) == 0 {
		return fmt.Errorf("no benchmark in %s/*.txt", raw)
	}
	environment, err := os.ReadFile(filepath.Join(raw, "environment.md"))
	if err != nil {
		return err
	}
	return os.WriteFile(out, []byte(render(string(environment), figures(), all)), 0o644)
}
