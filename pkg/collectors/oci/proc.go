// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// lifeOf says where a container is in its life. No runtime but youki writes it
// down: the FIFO tells created from running, and the init process the rest.
func (c *Collector) lifeOf(s *state, fifo bool) workload.State {
	if s.pid == 0 || s.ticks == 0 {
		return s.status
	}
	if ticks, zombie := c.processStart(s.pid); ticks != s.ticks || zombie {
		return workload.StateExited
	}
	switch {
	case s.status != "":
		return s.status
	case fifo:
		return workload.StateCreated
	}
	return workload.StateRunning
}

// processStart gives the start of a process in ticks since boot, 0 if there is none.
func (c *Collector) processStart(pid workload.PID) (ticks uint64, zombie bool) {
	data, err := os.ReadFile(c.opts.ProcRoot + "/" + strconv.FormatUint(uint64(pid), 10) + "/stat")
	if err != nil {
		return 0, false
	}
	return parseStat(data)
}

// parseStat reads the third and the 22nd field of /proc/PID/stat. The second is
// the command in parentheses, and may hold any byte.
func parseStat(data []byte) (ticks uint64, zombie bool) {
	i := bytes.LastIndexByte(data, ')')
	if i < 0 {
		return 0, false
	}
	f := bytes.Fields(data[i+1:])
	if len(f) < 20 {
		return 0, false
	}
	ticks, err := strconv.ParseUint(string(f[19]), 10, 64)
	if err != nil {
		return 0, false
	}
	return ticks, f[0][0] == 'Z' || f[0][0] == 'X'
}

// startBefore gives the start of a process in ticks if it began before an
// instant, else 0. youki writes no start time; but who has the PID now and had
// begun when the file was made is the process that the file means.
func (c *Collector) startBefore(pid workload.PID, at time.Time) uint64 {
	ticks, zombie := c.processStart(pid)
	var boot unix.Timespec
	if ticks == 0 || zombie || at.IsZero() || unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil {
		return 0
	}
	sinceBoot := boot.Nano() - int64(time.Since(at))
	if int64(ticks)*workload.TickNS > sinceBoot {
		return 0
	}
	return ticks
}
