// SPDX-License-Identifier: Apache-2.0

package nspawn

import (
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/procdir"
	"github.com/pidigree/pidigree/pkg/workload"
)

// leader is where a machine's first process is in its life.
type leader struct {
	// gone: it has ended, whoever has its PID now.
	gone bool
	// key and payload are set once the process is the leader and in the unit: the path
	// of the unit's sub-cgroup for the container.
	key     workload.ProcessKey
	payload string
}

// leader finds and verifies a machine's first process. An error says that it could not
// be looked at; while it is not yet where it will be, the leader has no key.
func (c *Collector) leader(m *machine) (leader, error) {
	d, err := procdir.Open(c.opts.ProcRoot, m.leader)
	if procdir.Gone(err) {
		return leader{gone: true}, nil
	}
	if err != nil {
		return leader{}, err
	}
	defer d.Close()
	l, err := m.verify(d)
	if procdir.Gone(err) {
		return leader{gone: true}, nil
	}
	return l, err
}

// verify looks at the process that has the leader's PID. All of it is read beneath
// one directory, so it is of one process.
func (m *machine) verify(d *procdir.Dir) (leader, error) {
	st, err := d.Stat()
	if err != nil {
		return leader{}, err
	}
	inode, err := d.Inode()
	if err != nil {
		return leader{}, err
	}
	if st.Ended || !m.means(st, inode) {
		return leader{gone: true}, nil
	}
	status, err := d.Status()
	if err != nil {
		return leader{}, err
	}
	cgroups, err := d.Cgroups()
	if err != nil {
		return leader{}, err
	}
	payload := payloadOf(cgroups, m.unit)
	if !status.FirstOfNamespace() || payload == "" {
		return leader{}, nil
	}
	return leader{key: d.Key(st), payload: payload}, nil
}

// means reports whether the file's PID is this process's: by its inode where both are
// there, else by its start. When the machine was registered the leader had the PID, so
// whoever has it now and began before then is the leader.
func (m *machine) means(st procdir.Stat, inode uint64) bool {
	if m.leaderInode != 0 && inode != 0 {
		return m.leaderInode == inode
	}
	var boot, mono unix.Timespec
	if m.since == 0 || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return false
	}
	// The file's clock stood still while the host was suspended, a start's did not. How
	// much of it was before is not known: all of it, at most.
	asleep := max(0, time.Duration(boot.Nano()-mono.Nano()))
	return time.Duration(st.Ticks)*workload.TickNS <= m.since+asleep
}

// payloadOf gives the path of the unit's sub-cgroup for the container, where the
// process is in it or, before nspawn has moved it there, in the unit itself. The unit
// must be the host's: whatever is below another unit is that one's business.
func payloadOf(cgroups []workload.CgroupPath, unit string) string {
	if unit == "" || strings.Contains(unit, "/") {
		return ""
	}
	for _, g := range cgroups {
		path := strings.Split(strings.TrimPrefix(g.Path, "/"), "/")
		i := slices.IndexFunc(path, func(s string) bool { return !strings.HasSuffix(s, ".slice") })
		if i < 0 || strings.TrimPrefix(path[i], "_") != unit {
			continue
		}
		if len(path) == i+1 || path[i+1] == payload {
			return "/" + strings.Join(append(path[:i+1:i+1], payload), "/")
		}
	}
	return ""
}

// payload is the sub-cgroup that nspawn makes for the container (create_subcgroup in
// src/nspawn/nspawn-cgroup.c), in cgroup2 and in systemd's own hierarchy.
const payload = "payload"
