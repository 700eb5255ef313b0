// SPDX-License-Identifier: Apache-2.0

package plain

import (
	"bytes"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/internal/plain/plaintest"
)

func TestTextSpellsOutWhatATerminalWouldActOn(t *testing.T) {
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
		if got := Text(tt.in); got != tt.want {
			t.Errorf("%s: Text(%q) = %q, want %q", name, tt.in, got, tt.want)
		}
	}
}

func TestCutCutsToColumns(t *testing.T) {
	tests := []struct {
		in    string
		width int
		want  string
	}{
		{"abcdef", 6, "abcdef"}, {"abcdefg", 6, "abcde…"}, {"東京都", 6, "東京都"}, {"東京都x", 6, "東京…"},
		{"ab\x1bcd", 6, "ab…"}, {"ab\x1b", 6, `ab\x1b`}, {"", 6, ""}, {strings.Repeat("x", 1<<20), 3, "xx…"},
	}
	for _, tt := range tests {
		if got := Cut(tt.in, tt.width); got != tt.want {
			t.Errorf("Cut(%.20q, %d) = %q, want %q", tt.in, tt.width, got, tt.want)
		}
	}
}

func FuzzCut(f *testing.F) {
	f.Add(plaintest.Hostile, 10)
	f.Add("größe 東京\u0301", 4)
	f.Fuzz(func(t *testing.T, s string, width int) {
		width = min(max(width, 1), 200)
		got := Cut(s, width)
		if Columns(got) > width {
			t.Errorf("%q takes %d of %d columns", got, Columns(got), width)
		}
		plaintest.Check(t, got)
		if twice := Cut(got, width); twice != got {
			t.Errorf("escaping %q again gives %q", got, twice)
		}
	})
}

func FuzzWriter(f *testing.F) {
	f.Add([]byte("a\tb\n" + plaintest.Hostile))
	f.Fuzz(func(t *testing.T, data []byte) {
		var out bytes.Buffer
		n, err := (&Writer{&out}).Write(data)
		if err != nil || n != len(data) {
			t.Fatalf("wrote %d of %d: %v", n, len(data), err)
		}
		plaintest.Check(t, strings.NewReplacer("\n", "", "\t", "").Replace(out.String()))
	})
}
