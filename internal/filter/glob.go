// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"fmt"
	"unicode/utf8"
)

// glob is a checked pattern. Matching takes no more than pattern times text, and
// no recursion: patterns come from whoever may ask.
type glob string

// checkGlob says what is wrong with a pattern.
func checkGlob(p string) error {
	if p == "" {
		return fmt.Errorf("is empty")
	}
	if len(p) > maxPattern {
		return fmt.Errorf("has %d bytes: %d are allowed", len(p), maxPattern)
	}
	if !utf8.ValidString(p) {
		return fmt.Errorf("is not valid UTF-8")
	}
	for i := 0; i < len(p); {
		n, _, ok := one(p[i:], 0)
		if !ok {
			return fmt.Errorf("ends within [ ] or after \\")
		}
		i += n
	}
	return nil
}

// match reports whether the pattern fits the whole text.
func (g glob) match(s string) bool {
	p := string(g)
	i, j := 0, 0
	star, from := -1, 0 // the last * and where in s what it took ends
	for j < len(s) {
		if i < len(p) && p[i] == '*' {
			star, from = i, j
			i++
			continue
		}
		r, size := utf8.DecodeRuneInString(s[j:])
		if i < len(p) {
			if n, fits, _ := one(p[i:], r); fits {
				i, j = i+n, j+size
				continue
			}
		}
		if star < 0 {
			return false
		}
		_, size = utf8.DecodeRuneInString(s[from:]) // the * takes one more
		from += size
		i, j = star+1, from
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// one reads the first element of a pattern, which is n bytes long, and says
// whether it fits r. Not ok: the pattern ends within it.
func one(p string, r rune) (n int, fits, ok bool) {
	switch p[0] {
	case '*', '?':
		return 1, true, true
	case '[':
		return class(p, r)
	}
	c, n, ok := literal(p)
	return n, c == r, ok
}

// literal reads one character, which a backslash may keep from meaning anything.
func literal(p string) (c rune, n int, ok bool) {
	if p[0] == '\\' {
		if len(p) == 1 {
			return 0, 0, false
		}
		c, n = utf8.DecodeRuneInString(p[1:])
		return c, n + 1, true
	}
	c, n = utf8.DecodeRuneInString(p)
	return c, n, true
}

// class reads [abc], [a-z] or [^a-z].
func class(p string, r rune) (n int, fits, ok bool) {
	i, not := 1, false
	if i < len(p) && p[i] == '^' {
		i, not = i+1, true
	}
	for first := true; i < len(p); first = false {
		if p[i] == ']' && !first {
			return i + 1, fits != not, true
		}
		lo, n, good := literal(p[i:])
		if !good {
			return 0, false, false
		}
		i += n
		hi := lo
		if i+1 < len(p) && p[i] == '-' && p[i+1] != ']' {
			if hi, n, good = literal(p[i+1:]); !good {
				return 0, false, false
			}
			i += n + 1
		}
		fits = fits || lo <= r && r <= hi
	}
	return 0, false, false
}
