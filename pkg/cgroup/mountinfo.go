// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// mountLine is what a line of mountinfo says about a cgroup mount
// (fs/proc_namespace.c, show_mountinfo).
type mountLine struct {
	dev     uint64 // st_dev of what is mounted
	root    string // the cgroup that is the mount's root, seen from the reader's cgroup namespace; "/.." above it
	point   string
	v2      bool
	options []string // of the super block: controllers, name=
}

// maxMountLine bounds one line. Overlay mounts print a page of options, and an
// option string may be as long as the kernel's seq_file likes.
const maxMountLine = 1 << 20

// parseMountinfo lists the cgroup mounts in the order of the file. Lines that
// are not understood are other file systems or a newer kernel's: left out.
func parseMountinfo(r io.Reader) ([]mountLine, error) {
	var out []mountLine
	sc := bufio.NewScanner(r)
	sc.Buffer(nil, maxMountLine)
	for sc.Scan() {
		if l, ok := parseMountLine(sc.Text()); ok {
			out = append(out, l)
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read mountinfo: %w", err)
	}
	return out, nil
}

func parseMountLine(line string) (mountLine, bool) {
	left, right, ok := strings.Cut(line, " - ")
	if !ok {
		return mountLine{}, false
	}
	l, r := strings.Fields(left), strings.Fields(right)
	if len(l) < 6 || len(r) < 3 || r[0] != "cgroup" && r[0] != "cgroup2" {
		return mountLine{}, false
	}
	major, minor, _ := strings.Cut(l[2], ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if err1 != nil || err2 != nil {
		return mountLine{}, false
	}
	return mountLine{
		dev:     unix.Mkdev(uint32(ma), uint32(mi)),
		root:    unescapeOctal(l[3]),
		point:   unescapeOctal(l[4]),
		v2:      r[0] == "cgroup2",
		options: strings.Split(r[2], ","),
	}, true
}

// unescapeOctal undoes the kernel's seq_escape: a backslash and three octal
// digits stand for one byte. /proc/PID/cgroup, in contrast, escapes nothing:
// cgroup_mkdir refuses a newline, and all else stands there as it is.
func unescapeOctal(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if v, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b = append(b, byte(v))
				i += 3
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}
