// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

func TestEscapeSpellsOutWhatATerminalWouldActOn(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"plain":                     {"web-1", "web-1"},
		"letters of any script":     {"größe 東京", "größe 東京"},
		"escape sequence":           {"\x1b[31m", `\x1b[31m`},
		"line ends":                 {"a\r\nb\tc", `a\r\nb\tc`},
		"NUL and DEL":               {"\x00\x7f", `\x00\x7f`},
		"C1 control":                {"\u009b1m", `\u009b1m`},
		"bidi override":             {"gpj.\u202egnp", `gpj.\u202egnp`},
		"zero width":                {"a\u200bb\ufeff", `a\u200bb\ufeff`},
		"line separator":            {"a\u2028b", `a\u2028b`},
		"no-break space":            {"a\u00a0b", `a\u00a0b`},
		"invalid UTF-8":             {"a\xffb\xc3", `a\xffb\xc3`},
		"surrogate half":            {"\xed\xa0\x80", `\xed\xa0\x80`},
		"tag characters":            {"\U000e0041", `\U000e0041`},
		"hangul filler":             {"\u3164", `\u3164`},
		"a unit's own backslash":    {`dev-a\x2db.device`, `dev-a\x2db.device`},
		"the replacement character": {"\ufffd", "\ufffd"},
	}
	for name, tt := range tests {
		if got := escape(tt.in); got != tt.want {
			t.Errorf("%s: escape(%q) = %q, want %q", name, tt.in, got, tt.want)
		}
	}
}

func TestEscapeCutsToColumns(t *testing.T) {
	tests := []struct {
		in    string
		width int
		want  string
	}{
		{"abcdef", 6, "abcdef"}, {"abcdefg", 6, "abcde…"}, {"東京都", 6, "東京都"}, {"東京都x", 6, "東京…"},
		{"ab\x1bcd", 6, "ab…"}, {"ab\x1b", 6, `ab\x1b`}, {"", 6, ""}, {strings.Repeat("x", 1<<20), 3, "xx…"},
	}
	for _, tt := range tests {
		if got := escapeCut(tt.in, tt.width); got != tt.want {
			t.Errorf("escapeCut(%.20q, %d) = %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}

func FuzzEscape(f *testing.F) {
	f.Add(hostile, 10)
	f.Add("größe 東京\u0301", 4)
	f.Fuzz(func(t *testing.T, s string, width int) {
		width = min(max(width, 1), 200)
		got := escapeCut(s, width)
		if columns(got) > width {
			t.Errorf("%q takes %d of %d columns", got, columns(got), width)
		}
		checkSafe(t, got)
		if twice := escapeCut(got, width); twice != got {
			t.Errorf("escaping %q again gives %q", got, twice)
		}
	})
}

// checkSafe fails on anything that a terminal could act on.
func checkSafe(t *testing.T, s string) {
	t.Helper()
	if !utf8.ValidString(s) {
		t.Errorf("%q is not UTF-8", s)
	}
	for _, r := range s {
		if !unicode.IsPrint(r) {
			t.Errorf("%q has %U", s, r)
		}
	}
}

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
			checkSafe(t, l)
		}
	})
}

func FuzzEscapingWriter(f *testing.F) {
	f.Add([]byte("a\tb\n" + hostile))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		n, err := (&escapingWriter{&out}).Write(data)
		if err != nil || n != len(data) {
			t.Fatalf("wrote %d of %d: %v", n, len(data), err)
		}
		checkSafe(t, strings.NewReplacer("\n", "", "\t", "").Replace(out.String()))
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
			checkSafe(t, strings.ReplaceAll(out.String(), "\n", ""))
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
			checkSafe(t, escape(err.Error()))
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
