// SPDX-License-Identifier: Apache-2.0

package nspawn

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/pidigree/pidigree/internal/safefile"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// maxFile is the size of the largest file that is read: machined's have some 500
// bytes, and a path in them 4096 at most.
const maxFile = 64 << 10

// trust is what is believed: what root alone can write.
var trust = safefile.Trust{Max: maxFile}

// errNonsense means that a file is none of machined's.
var errNonsense = errors.New("not a machine's file")

// machine is what a file says, as far as it is used (src/machine/machine.c, machine_save).
type machine struct {
	name, unit, service, class, root, id string

	leader workload.PID
	// leaderInode is the leader's pidfs inode, 0 where the file does not say (systemd 257 does not).
	leaderInode uint64
	// since and started are when the machine was registered, on the clock that stands
	// still while the host is suspended, and by the calendar.
	since   time.Duration
	started time.Time
	// uid is whose machine it is (systemd 258): 0 for root's.
	uid uint64
}

// read reads one version of a machine's file in an open directory.
func read(dir int, name string) (m *machine, s safefile.Stamp, err error) {
	s, err = safefile.Read(dir, name, trust, func(r io.Reader) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		m, err = parse(string(data), name)
		return err
	})
	if errors.Is(err, safefile.ErrChanging) {
		err = fmt.Errorf("%w: %w", err, collectors.ErrUnavailable)
	}
	if err != nil {
		return nil, s, err
	}
	return m, s, nil
}

// parse reads a file of this name.
func parse(data, name string) (*machine, error) {
	m := &machine{}
	for line := range strings.Lines(data) {
		line = strings.TrimSuffix(line, "\n")
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || !isKey(key) {
			return nil, fmt.Errorf("%w: the line %.40q", errNonsense, line)
		}
		if err := m.set(key, value); err != nil {
			return nil, fmt.Errorf("%w: %s=%.40q", errNonsense, key, value)
		}
	}
	if m.name != name {
		return nil, fmt.Errorf("%w: the file of %.80q says that it is that of %.80q", errNonsense, name, m.name)
	}
	return m, nil
}

// isKey: upper case letters, digits and underscores.
func isKey(s string) bool {
	return s != "" && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") == ""
}

// set takes one line. Keys that are not used are left alone: each version adds some.
func (m *machine) set(key, value string) (err error) {
	number := func(bits int) (n uint64) {
		n, err = strconv.ParseUint(value, 10, bits)
		return n
	}
	text := func(into *string) { *into, err = unescape(value) }
	switch key {
	case "NAME":
		m.name = value
	case "SCOPE": // whatever type the unit has
		text(&m.unit)
	case "SERVICE":
		text(&m.service)
	case "ROOT":
		text(&m.root)
	case "CLASS":
		m.class = value
	case "ID":
		m.id = value
	case "LEADER":
		n := number(32)
		if err == nil && (n == 0 || n > uint64(workload.MaxPID)) {
			err = errNonsense
		}
		m.leader = workload.PID(n)
	case "LEADER_PIDFDID":
		m.leaderInode = number(64)
	case "MONOTONIC":
		m.since = time.Duration(number(48)) * time.Microsecond
	case "REALTIME":
		m.started = time.UnixMicro(int64(number(62))).UTC()
	case "UID":
		m.uid = number(32)
	}
	return err
}

// unescape undoes what machined does to a value before it writes it (cescape), as far
// as it is undone when the file is read again: a backslash stands for the next
// character, of which only those are taken that mean themselves.
func unescape(s string) (string, error) {
	if !strings.Contains(s, `\`) {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' {
			if i++; i == len(s) || strings.IndexByte(`\"'`, s[i]) < 0 {
				return "", errNonsense
			}
		}
		b.WriteByte(s[i])
	}
	return b.String(), nil
}

// isName reports whether a machine may be called that: a host name, as machined wants
// it (hostname_is_valid). In the directory are also links by unit, "unit:NAME".
func isName(s string) bool {
	if s == "" || len(s) > 64 || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("_-.", c) >= 0) {
			return false
		}
	}
	return true
}

// ours reports whether it is a container of systemd-nspawn's, of root.
func (m *machine) ours() bool {
	return m.class == "container" && m.service == "systemd-nspawn" && m.uid == 0
}
