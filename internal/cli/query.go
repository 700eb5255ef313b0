// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// A question is a Query and the word that it was made from.
type question struct {
	word  string
	query workload.Query
}

// maxWord bounds one word of the command line or of standard input.
const maxWord = 4096

// parseQuestion reads one word: a PID, PID@START, self, cgroup:PATH,
// container:NAME, or a container's id, prefix or name.
func parseQuestion(word string) (workload.Query, error) {
	kind, rest, prefixed := strings.Cut(word, ":")
	switch {
	case len(word) > maxWord:
		return workload.Query{}, fmt.Errorf("a word of %d bytes is not a PID, container or cgroup:PATH", len(word))
	case word == "self":
		return workload.Query{Self: true}, nil
	case prefixed && kind == "cgroup":
		return cgroupQuery(rest)
	case prefixed && kind == "container":
		return containerQuery(rest, word)
	case looksNumeric(word):
		return pidQuery(word)
	}
	if pid, start, ok := strings.Cut(word, "@"); ok && looksNumeric(pid) {
		return keyQuery(pid, start, word)
	}
	return containerQuery(word, word)
}

// looksNumeric finds what was meant as a number, so that -5, +5 and 99999999999
// are called bad PIDs and not unknown containers.
func looksNumeric(word string) bool {
	digits := strings.TrimLeft(word, "+-")
	return digits != "" && strings.Trim(digits, "0123456789") == ""
}

func pidQuery(word string) (workload.Query, error) {
	n, err := strconv.ParseUint(word, 10, 32)
	if err != nil || n == 0 || workload.PID(n) > workload.MaxPID {
		return workload.Query{}, fmt.Errorf("%q is not a PID: PIDs are 1 to %d; for a container of that name write container:%s",
			word, workload.MaxPID, strings.TrimLeft(word, "+-"))
	}
	return workload.Query{PID: workload.PID(n)}, nil
}

// keyQuery reads PID@STARTNS, as explain prints it and as pid and startTimeNs of
// the JSON give it.
func keyQuery(pid, start, word string) (workload.Query, error) {
	q, err := pidQuery(pid)
	if err != nil {
		return q, err
	}
	ns, ticks := strings.CutSuffix(start, "~")
	n, err := strconv.ParseUint(ns, 10, 63)
	if err != nil || n == 0 {
		return q, fmt.Errorf("%q is not PID@START: START is the process's start in nanoseconds since boot", word)
	}
	return workload.Query{Key: workload.ProcessKey{PID: q.PID, Start: n, Ticks: ticks}}, nil
}

func cgroupQuery(path string) (workload.Query, error) {
	if !strings.HasPrefix(path, "/") || strings.ContainsRune(path, 0) {
		return workload.Query{}, fmt.Errorf("%q is not a cgroup: write cgroup:/PATH, as in /proc/PID/cgroup or below /sys/fs/cgroup", "cgroup:"+path)
	}
	return workload.Query{CgroupPath: path}, nil
}

// containerName is what engines allow as an id or a name; a leading slash is how
// Docker prints names.
var containerName = regexp.MustCompile(`^/?[A-Za-z0-9][A-Za-z0-9._-]*$`)

func containerQuery(name, word string) (workload.Query, error) {
	if !containerName.MatchString(name) {
		return workload.Query{}, fmt.Errorf("%q is not a PID, container or cgroup:PATH", word)
	}
	return workload.Query{Container: strings.TrimPrefix(name, "/")}, nil
}

// parseAt reads a point in the past: RFC 3339, or how long ago (30s, -30s).
func parseAt(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(-d.Abs()), nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	switch {
	case err != nil:
		return t, fmt.Errorf("--at %q is not a time: write 30s for half a minute ago, or %s", text, "2006-01-02T15:04:05Z")
	case t.After(now):
		return t, fmt.Errorf("--at %q is in the future", text)
	}
	return t, nil
}

// words gives the words of standard input, separated by white space.
func words(r io.Reader, yield func(string) error) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 4096), maxWord+1)
	sc.Split(bufio.ScanWords)
	for sc.Scan() {
		if err := yield(sc.Text()); err != nil {
			return err
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("read standard input: %w", err)
	}
	return nil
}
