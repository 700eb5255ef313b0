// SPDX-License-Identifier: Apache-2.0

// Package plain makes text that somebody hostile chose safe to show: what a
// terminal could act on, and what a reader would not see, is spelled out.
package plain

import (
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"
)

// MaxText bounds what one string may add to a line for people: an engine takes
// a label of 64 MiB, a terminal does not.
const MaxText = 4096

// Ellipsis ends a string that was cut.
const Ellipsis = "…"

// Text makes a hostile string safe to show: what is not printable (control
// characters, ESC, newline, bidi and zero-width marks, private use, odd spaces)
// and what is not UTF-8 is spelled out. The backslash itself is left alone,
// because systemd's unit names are full of them.
func Text(s string) string { return Cut(s, MaxText) }

// Cut is Text for at most width columns; a longer string ends in an
// ellipsis. It reads no more of s than it shows.
func Cut(s string, width int) string {
	var b strings.Builder
	cols, fit := 0, 0 // fit: bytes of b that leave room for the ellipsis
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		piece, w := escapeRune(r, s[:size])
		if cols+w > width {
			return b.String()[:fit] + Ellipsis
		}
		b.WriteString(piece)
		if cols += w; cols < width {
			fit = b.Len()
		}
		s = s[size:]
	}
	return b.String()
}

// escapeRune gives what to show for one rune, raw being its bytes, and how many
// columns that takes.
func escapeRune(r rune, raw string) (string, int) {
	var out string
	switch {
	case r == utf8.RuneError && len(raw) == 1:
		out = fmt.Sprintf(`\x%02x`, raw[0])
	case unicode.IsPrint(r) && !Invisible(r):
		return raw, runeWidth(r)
	case r == '\n':
		out = `\n`
	case r == '\r':
		out = `\r`
	case r == '\t':
		out = `\t`
	case r < 0x80:
		out = fmt.Sprintf(`\x%02x`, r)
	case r < 0x10000:
		out = fmt.Sprintf(`\u%04x`, r)
	default:
		out = fmt.Sprintf(`\U%08x`, r)
	}
	return out, len(out)
}

// Invisible finds letters and marks that Unicode calls printable and that show
// nothing: the Hangul fillers, the grapheme joiner, variation selectors.
func Invisible(r rune) bool {
	switch r {
	case 0x034f, 0x115f, 0x1160, 0x17b4, 0x17b5, 0x2800, 0x3164, 0xffa0:
		return true
	}
	return unicode.Is(unicode.Variation_Selector, r)
}

// runeWidth is 2 for the scripts and symbols that terminals draw two columns
// wide. Marks count as one: a column too wide is better than a mark for nothing,
// of which a name could have thousands.
func runeWidth(r rune) int {
	switch {
	case r < 0x1100:
		return 1
	case r <= 0x115f, r >= 0x2e80 && r <= 0xa4cf, r >= 0xac00 && r <= 0xd7a3,
		r >= 0xf900 && r <= 0xfaff, r >= 0xfe30 && r <= 0xfe6f, r >= 0xff00 && r <= 0xff60,
		r >= 0xffe0 && r <= 0xffe6, r >= 0x1f300 && r <= 0x1faff, r >= 0x20000 && r <= 0x3fffd:
		return 2
	}
	return 1
}

// Writer makes what is written to it plain, but for newlines and tabs: it is
// for text that another package has laid out in lines. It buffers nothing, so a rune
// that two writes cut in half is shown as bytes.
type Writer struct{ Out io.Writer }

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	var b strings.Builder
	for s := string(p); s != ""; {
		r, size := utf8.DecodeRuneInString(s)
		if r == '\n' || r == '\t' {
			b.WriteRune(r)
		} else {
			piece, _ := escapeRune(r, s[:size])
			b.WriteString(piece)
		}
		s = s[size:]
	}
	if _, err := io.WriteString(w.Out, b.String()); err != nil {
		return 0, fmt.Errorf("write output: %w", err)
	}
	return len(p), nil
}

// Columns is the width of a string that Text or Cut has made.
func Columns(s string) int {
	n := 0
	for _, r := range s {
		n += runeWidth(r)
	}
	return n
}
