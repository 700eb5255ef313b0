// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// CgroupsOf reads the cgroups of a process from /proc, without their ids: an
// oracle that is not the collector.
func CgroupsOf(tb testing.TB, pid workload.PID) []workload.CgroupPath {
	tb.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		tb.Fatal(err)
	}
	var list []workload.CgroupPath
	for line := range strings.Lines(string(data)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		var p workload.CgroupPath
		_, _ = fmt.Sscan(f[0], &p.Hierarchy)
		p.Path = f[2]
		list = append(list, p)
	}
	return list
}

// AwaitHint gives the first hint that fits, and ends the test where none comes
// for 20 s.
func AwaitHint(tb testing.TB, hints <-chan collectors.Hint, what string, fits func(collectors.Hint) bool) collectors.Hint {
	tb.Helper()
	var seen []string
	timeout := time.After(20 * time.Second)
	for {
		select {
		case h := <-hints:
			if fits(h) {
				return h
			}
			seen = append(seen, fmt.Sprintf("%s %s", h.Kind, h.ID))
		case <-timeout:
			tb.Fatalf("no hint of %s; heard %q", what, seen)
		}
	}
}

// AwaitKind is AwaitHint for one of a kind about a container.
func AwaitKind(tb testing.TB, hints <-chan collectors.Hint, kind collectors.HintKind, id string) collectors.Hint {
	tb.Helper()
	return AwaitHint(tb, hints, string(kind)+" "+id, func(h collectors.Hint) bool { return h.Kind == kind && h.ID.ID == id })
}
