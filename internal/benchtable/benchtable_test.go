// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const raw = `goos: linux
pkg: github.com/pidigree/pidigree/pkg/store
cpu: whatever
BenchmarkHit/store-2         	 100	       150 ns/op	       0 B/op	       0 allocs/op
BenchmarkHit/store-2         	 100	       170 ns/op	       0 B/op	       0 allocs/op
BenchmarkHit/map-2           	 100	       120 ns/op	       0 B/op	       0 allocs/op
BenchmarkHit/map-2 says something
PASS
pkg: github.com/pidigree/pidigree/tests/e2e
BenchmarkSelf/docker         	   1	1500000000 ns/op	        60.00 right	  22500000 lead-ns
ok  	github.com/pidigree/pidigree/tests/e2e	12s
`

func TestAPageHasFiguresBesideTheirBaselines(t *testing.T) {
	all, err := parse(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	page := render("The machine.", []figure{
		{what: "a hit", at: "pkg/store Hit/store ns/op", goal: "1.5x of a map", limit: 1.5, ratio: true, baselines: []baseline{{"a map", "pkg/store Hit/map ns/op"}}},
		{what: "right", at: "tests/e2e Self/docker right", goal: "60", limit: 60, least: true},
		{what: "lead", at: "tests/e2e Self/docker lead-ns", goal: "10 ms", limit: 1e7},
		{what: "lost", at: "tests/e2e Gone ns/op", goal: "1"},
	}, all)
	_, got, _ := strings.Cut(page, "|---|---|---|---|\n")
	want := `| a hit | 160 ns/op (150 ns/op to 170 ns/op), 1.33x ✓ | 1.5x of a map | a map: 120 ns/op |
| right | 60 right ✓ | 60 |  |
| lead | 22.5 ms lead **missed** | 10 ms |  |
| lost | not measured | 1 |  |

## Everything

### pkg/store

| benchmark | measured |
|---|---|
| Hit/store | 160 ns/op, 0 B/op, 0 allocs/op |
| Hit/map | 120 ns/op, 0 B/op, 0 allocs/op |

### tests/e2e

| benchmark | measured |
|---|---|
| Self/docker | 1.50 s/op, 22.5 ms lead, 60 right |
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("page (-want +got):\n%s", diff)
	}
}

func TestALineThatIsNoMeasurementIsAnError(t *testing.T) {
	if _, err := parse(strings.NewReader("BenchmarkX 1 2 ns/op 3\n")); err == nil {
		t.Error("no error for a value without a unit")
	}
}
