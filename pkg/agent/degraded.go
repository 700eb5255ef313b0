// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/remote"
	"github.com/pidigree/pidigree/pkg/kernel"
	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// lossShown is how long a loss stays in the line: its repair takes less.
	lossShown = 10 * time.Second
	// brokenShown is how long a program that broke and was attached again does.
	brokenShown = time.Minute
)

// Degraded says in one line what the agent has to do without, why, and what
// makes up for it; empty where it has everything. Answers are the same then,
// only later.
func (a *Agent) Degraded() string {
	sources := a.correlator.Sources()
	if a.other != nil {
		sources = append(sources, a.other.Status())
	}
	return a.degraded(a.source.Stats(), sources)
}

func (a *Agent) degraded(ks kernel.Stats, sources []workload.SourceStatus) string {
	if a.mode == ModeOneShot {
		return ""
	}
	var parts []string
	if a.mode == ModePolling {
		parts = append(parts, fmt.Sprintf("no kernel events: %s; processes, moves and cgroups are found by reading /proc every %s",
			a.modeReason, cmp.Or(a.opts.PollInterval, kernel.PollInterval)))
	}
	now := bootTime()
	parts = append(parts, missing(ks.Programs)...)
	parts = append(parts, mended(ks.Programs, now)...)
	if ks.LostAt != 0 && now-ks.LostAt < workload.KTime(lossShown) {
		parts = append(parts, fmt.Sprintf("kernel events were lost or skipped in the last %s (%d since the start); a scan has repaired what they were about",
			lossShown, ks.LostTotal()))
	}
	for _, s := range sources {
		if s.Name == remote.Name && (s.State == "failing" || s.State == "absent" && a.mode == ModeCopy) {
			parts = append(parts, fmt.Sprintf("the pidigree at %s is away: %s; what it said is stale after a second", s.Where, cmp.Or(firstLine(s.LastError), "no reason given")))
			continue
		}
		if s.State == "failing" {
			parts = append(parts, fmt.Sprintf("%s fails: %s; what only it knows comes later", s.Name, cmp.Or(firstLine(s.LastError), "no reason given")))
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return "degraded: " + strings.Join(parts, "; ")
}

// found says what is found by a scan while there are no events of a type.
var found = map[kernel.Type]string{
	kernel.Fork: "new processes", kernel.Exec: "new programs", kernel.Exit: "ends",
	kernel.CgroupMkdir: "new cgroups", kernel.CgroupRmdir: "removed cgroups", kernel.CgroupAttach: "moves",
}

// missing says which programs do not run, those with one cause together.
func missing(programs []kernel.ProgramStats) (parts []string) {
	var causes []string
	types, things := map[string][]string{}, map[string][]string{}
	for _, p := range programs {
		if p.Attached {
			continue
		}
		cause := firstLine(p.Reason)
		if p.Type == kernel.Task {
			parts = append(parts, fmt.Sprintf("no task iterator: %s; scans read /proc", cause))
			continue
		}
		if types[cause] == nil {
			causes = append(causes, cause)
		}
		types[cause] = append(types[cause], p.Type.String())
		things[cause] = append(things[cause], found[p.Type])
	}
	for _, c := range causes {
		parts = append(parts, fmt.Sprintf("no %s events: %s; %s are found by a scan every %s",
			strings.Join(types[c], ", "), c, strings.Join(things[c], ", "), kernel.RepairInterval))
	}
	return parts
}

// mended says which programs work again since a short while.
func mended(programs []kernel.ProgramStats, now workload.KTime) (parts []string) {
	for _, p := range programs {
		if p.Attached && p.BrokenAt != 0 && now-p.BrokenAt < workload.KTime(brokenShown) {
			parts = append(parts, fmt.Sprintf("the program for %s events was found detached or silent and attached again in the last %s; a scan has repaired what it missed",
				p.Type, brokenShown))
		}
	}
	return parts
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}
