// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// result is one benchmark: for each unit, what every repetition measured.
type result struct {
	pkg  string
	name string // without "Benchmark" and the number of CPUs
	runs int
	by   map[string][]float64
}

// cpus is the suffix that go test gives a name with GOMAXPROCS other than 1.
var cpus = regexp.MustCompile(`-\d+$`)

// parse reads what `go test -bench` prints and leaves out everything else.
func parse(r io.Reader) ([]result, error) {
	var (
		out []result
		pkg string
	)
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		line := s.Text()
		if rest, ok := strings.CutPrefix(line, "pkg: "); ok {
			pkg = strings.TrimPrefix(rest, "github.com/pidigree/pidigree/")
		}
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		if _, err := strconv.Atoi(fields[1]); err != nil {
			continue // a benchmark's log, not its line
		}
		name := cpus.ReplaceAllString(strings.TrimPrefix(fields[0], "Benchmark"), "")
		i := slices.IndexFunc(out, func(r result) bool { return r.pkg == pkg && r.name == name })
		if i < 0 {
			out, i = append(out, result{pkg: pkg, name: name, by: map[string][]float64{}}), len(out)
		}
		if err := out[i].add(fields[2:]); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return out, s.Err()
}

// add takes one line's pairs of value and unit.
func (r *result) add(pairs []string) error {
	if len(pairs)%2 != 0 {
		return fmt.Errorf("%d words where pairs of value and unit belong", len(pairs))
	}
	for i := 0; i < len(pairs); i += 2 {
		v, err := strconv.ParseFloat(pairs[i], 64)
		if err != nil {
			return err
		}
		r.by[pairs[i+1]] = append(r.by[pairs[i+1]], v)
	}
	r.runs++
	return nil
}

// median gives the middle measurement of a unit.
func (r result) median(unit string) (float64, bool) {
	v := slices.Sorted(slices.Values(r.by[unit]))
	if len(v) == 0 {
		return 0, false
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2, true
}

// spread gives the least and the most.
func (r result) spread(unit string) (least, most float64) {
	return slices.Min(r.by[unit]), slices.Max(r.by[unit])
}
