// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"strconv"
	"strings"
)

// allIn reports whether s has bytes, and only such ones.
func allIn(s string, in func(byte) bool) bool {
	for i := range len(s) {
		if !in(s[i]) {
			return false
		}
	}
	return s != ""
}

func digit(c byte) bool    { return '0' <= c && c <= '9' }
func hexDigit(c byte) bool { return digit(c) || 'a' <= c && c <= 'f' }
func base36(c byte) bool   { return digit(c) || 'a' <= c && c <= 'z' }
func letter(c byte) bool   { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

// isHex64 reports whether s is a container's id as most engines make it: 64
// lower-case hexadecimal digits, no more and no fewer.
func isHex64(s string) bool { return len(s) == 64 && allIn(s, hexDigit) }

func isDigits(s string) bool { return len(s) <= 20 && allIn(s, digit) }

// isBuildID: 25 digits of base 36, which is what BuildKit makes of 128 random bits.
func isBuildID(s string) bool { return len(s) == 25 && allIn(s, base36) }

// isGroups reports whether s is groups of hexadecimal digits of these lengths.
func isGroups(s string, sep byte, lengths ...int) bool {
	for i, n := range lengths {
		if i > 0 {
			if s == "" || s[0] != sep {
				return false
			}
			s = s[1:]
		}
		if len(s) < n || !allIn(s[:n], hexDigit) {
			return false
		}
		s = s[n:]
	}
	return s == ""
}

func isUUID(s string, sep byte) bool { return len(s) == 36 && isGroups(s, sep, 8, 4, 4, 4, 12) }

// isPodUID: a UUID, or for a static pod the 32 digits of its manifest's hash.
func isPodUID(s string, sep byte) bool {
	return len(s) == 32 && allIn(s, hexDigit) || isUUID(s, sep)
}

// isTaskID: 32 digits since 2018, a UUID before.
func isTaskID(s string) bool { return isPodUID(s, '-') }

// isGardenHandle: Diego's 8-4-4-4-4, or a UUID.
func isGardenHandle(s string) bool { return isGroups(s, '-', 8, 4, 4, 4, 4) || isUUID(s, '-') }

// isWord: an ECS cluster's name.
func isWord(s string) bool {
	return len(s) <= 255 && allIn(s, func(c byte) bool { return letter(c) || digit(c) || c == '-' || c == '_' })
}

// isMachine: what machined takes for a machine's name, a host name.
func isMachine(s string) bool {
	return len(s) <= 64 && allIn(s, func(c byte) bool { return letter(c) || digit(c) || c == '-' || c == '_' || c == '.' })
}

// isPrintable: ASCII without spaces, what LXC names are in practice. LXC itself
// takes anything; who names a container otherwise gets no claim.
func isPrintable(s string) bool {
	return len(s) <= 255 && allIn(s, func(c byte) bool { return '!' <= c && c <= '~' })
}

// cutBoth takes a prefix and a suffix off.
func cutBoth(s, prefix, suffix string) (string, bool) {
	mid, ok := strings.CutPrefix(s, prefix)
	if !ok {
		return "", false
	}
	return strings.CutSuffix(mid, suffix)
}

// unescapeUnit undoes systemd-escape: \xNN is a byte. ("-" for "/" does not
// matter here: a machine's name has none.)
func unescapeUnit(s string) string {
	if !strings.Contains(s, `\x`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) && s[i+1] == 'x' {
			if v, err := strconv.ParseUint(s[i+2:i+4], 16, 8); err == nil {
				b = append(b, byte(v))
				i += 3
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}
