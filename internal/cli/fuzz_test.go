// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/pidigree/pidigree/internal/plain"
	"github.com/pidigree/pidigree/internal/plain/plaintest"
)

func FuzzScreen(f *testing.F) {
	f.Add(hostile, "web")
	f.Add("\x1b[2J", "\n\n\n")
	f.Fuzz(func(t *testing.T, a, b string) {
		var out bytes.Buffer
		s := newScreen(&out, false)
		s.printf("%s is %s and %v\n", a, painted{b, red}, []string{a, b})
		s.table([]column{{head: "A", max: 12}, {head: "B", right: true}}, [][]painted{{cell(a), cell(b)}, {cell(b)}})
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(out.String(), "\n")
		if len(lines) != 5 {
			t.Errorf("%d lines: %q", len(lines), lines)
		}
		for _, l := range lines {
			plaintest.Check(t, l)
		}
	})
}

// FuzzObjects checks that JSON and YAML keep every string, and show none raw.
func FuzzObjects(f *testing.F) {
	for _, s := range []string{hostile, "yes", "1e3", "~", "<<", "2001-01-01", "a: b", "#", "\U000e0041\u0085", "- x", "\u2028", "é\n x\n", strings.Repeat("k", 200), strings.Repeat("-", 1100)} {
		f.Add(s, "value")
		f.Add("key", s)
	}
	f.Fuzz(func(t *testing.T, k, v string) {
		k, v = strings.ToValidUTF8(k, "\ufffd"), strings.ToValidUTF8(v, "\ufffd")
		want := map[string][]string{k: {v, "x"}}
		for kind, decode := range map[string]func([]byte, any) error{"json": json.Unmarshal, "yaml": yaml.Unmarshal} {
			var out bytes.Buffer
			if err := (&encoder{format: format{kind: kind}, out: &out}).encode(want); err != nil {
				t.Fatalf("%s: %v", kind, err)
			}
			plaintest.Check(t, strings.ReplaceAll(out.String(), "\n", ""))
			var got map[string][]string
			if err := decode(out.Bytes(), &got); err != nil {
				t.Fatalf("%s: %v in %q", kind, err, out.String())
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s %q: %s", kind, out.String(), diff)
			}
		}
	})
}

func FuzzParseQuestion(f *testing.F) {
	for _, s := range []string{"1", "-1", "4194304", "self", "cgroup:/x", "web", "1@2", "1@2~", "container:1", "\x00", "99999999999999999999"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, word string) {
		q, err := parseQuestion(word)
		if err != nil {
			plaintest.Check(t, plain.Text(err.Error()))
			return
		}
		set := 0
		for _, is := range []bool{q.Self, q.PID != 0, q.Key.PID != 0, q.CgroupPath != "", q.Container != ""} {
			if is {
				set++
			}
		}
		if set != 1 {
			t.Errorf("%q asks %d things: %+v", word, set, q)
		}
	})
}
