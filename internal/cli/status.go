// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pidigree/pidigree/pkg/workload"
)

func statusFormats() []string { return []string{"table", "wide", "json", "yaml", "go-template"} }

func (a *app) statusCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "status [flags]",
		Short: "show how the agent does: mode, sources, events, losses",
		Long: `Show how the agent does: whether it reads the kernel's events or polls, and why;
each source (Docker, containerd, runtime state) with its last error; the kernel's
events with what was lost, skipped and repaired; and how far behind it is.

Sources are absent (not on this host: no error), starting, running or failing. A
failing source is asked again with growing pauses; answers that it could add to
name it under "waiting for". LOST counts events that a full buffer dropped,
SKIPPED runs of a program that the kernel left out; each loss is followed by a
repair, which reads the processes and cgroups anew.

The mode is ebpf, or polling where BPF cannot be used. After it, "degraded: ..."
says in one line what the agent does without, why, and what makes up for it: no
BPF, one of its programs missing or found detached, events lost a moment ago, a
source that fails. The answers are the same then, only later. -o json has the
line as .modeReason, empty if nothing is missing. A health check (grpc.health.v1)
of pidigree.v1.PidigreeService.Full is SERVING only while nothing is; of
pidigree.v1.PidigreeService also while something is.

Needs an agent. Exit status: 0 if it answered, also when it is degraded; scripts
look at .ready, .modeReason and .sources[].state of -o json.`,
		Example: `  pidigree status
  pidigree status -o json | jq '.kernel.lost'
  pidigree status -o wide              # with the calls to each source`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.status(cmd) },
	}
	a.formatFlag(cmd, statusFormats()...)
	a.askFlags(cmd, false)
	return cmd
}

// noArgs is for commands that take flags only.
func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("takes no arguments, not %q", args[0])
	}
	return nil
}

func (a *app) status(cmd *cobra.Command) (err error) {
	f, err := a.parseFormat(statusFormats()...)
	if err != nil {
		return err
	}
	c, err := a.settings(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := a.limit(cmd.Context(), 0)
	defer cancel()
	b, err := a.needAgent(ctx, c)
	if err != nil {
		return err
	}
	defer closeBackend(b, &err)
	st, err := b.Status(ctx)
	if err != nil {
		return a.explainError(err)
	}
	if f.objects() {
		return a.encoder(f).encode(statusObject(st))
	}
	p := statusPage{a, a.screen()}
	p.head(st)
	p.sources(st, f.kind == "wide")
	p.kernel(st.Kernel)
	return p.screen.close()
}

// statusPage prints a status for a person.
type statusPage struct {
	app    *app
	screen *screen
}

func (p statusPage) head(st workload.AgentStatus) {
	ready := painted{"ready", green}
	if !st.Ready {
		ready = painted{"starting: it does not know everything yet", yellow}
	}
	p.line("agent", "%s, PID %d, up %s, %s", st.Version, uint32(st.PID), p.since(st.Started), ready)
	mode := painted{st.Mode, green}
	if st.ModeReason != "" {
		mode = painted{st.Mode + ", " + st.ModeReason, yellow}
	}
	p.line("mode", "%s", mode)
	p.line("cgroups", "%s", st.CgroupMode)
	p.line("holds", "%d containers, %d pods, %d tasks, %d images, %d processes at revision %d, for %d watchers", st.Containers, st.Pods, st.Tasks, st.Images, st.Processes, uint64(st.Revision), st.Watchers)
	p.line("behind", "%s", st.Kernel.Lag.Round(time.Microsecond))
	p.line("repairs", "%d", st.Kernel.Repairs)
}

func (p statusPage) line(name, format string, values ...any) {
	p.screen.printf("%s", painted{fmt.Sprintf("%-8s", name), bold})
	p.screen.printf(format+"\n", values...)
}

func (p statusPage) since(t time.Time) string {
	if t.IsZero() {
		return "for an unknown time"
	}
	return span(p.app.env.Now().Sub(t))
}

func (p statusPage) sources(st workload.AgentStatus, wide bool) {
	cols := []column{
		{head: "SOURCE", max: 16}, {head: "STATE"}, {head: "WHERE", max: 48}, {head: "VERSION", max: 16}, {head: "ENTITIES", right: true},
		{head: "CALLS", right: true}, {head: "ERRORS", right: true}, {head: "RESTARTS", right: true}, {head: "LAST", right: true}, {head: "LAST ERROR", max: 60},
	}
	if wide {
		cols[5] = column{head: "CALLS", max: 120}
		cols[9].max = 200
		cols = append(cols, column{head: "DETAIL", max: 120})
	}
	var rows [][]painted
	for _, s := range st.Sources {
		rows = append(rows, []painted{
			cell(s.Name), sourceState(s.State), cell(s.Where), cell(s.Version), cell(strconv.Itoa(s.Entities)),
			cell(calls(s.Calls, wide)), cell(count(s.Errors)), cell(count(s.Restarts)), cell(p.ago(s.LastContact)), cell(p.lastError(s)), cell(s.Detail),
		})
	}
	p.screen.printf("\n")
	p.screen.table(cols, rows)
}

func sourceState(state string) painted {
	switch state {
	case "running":
		return painted{state, green}
	case "failing":
		return painted{state, red}
	case "absent":
		return painted{state, dim}
	}
	return painted{state, yellow}
}

// calls sums what a source was asked, or lists it by method.
func calls(by map[string]uint64, each bool) string {
	var sum uint64
	var list []string
	for _, method := range slices.Sorted(maps.Keys(by)) {
		sum += by[method]
		list = append(list, fmt.Sprintf("%s=%d", method, by[method]))
	}
	if !each || len(list) == 0 {
		return count(sum)
	}
	return strings.Join(list, " ")
}

func count(n uint64) string { return strconv.FormatUint(n, 10) }

func (p statusPage) ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return span(p.app.env.Now().Sub(t)) + " ago"
}

func (p statusPage) lastError(s workload.SourceStatus) string {
	if s.LastError == "" || s.LastErrorAt.IsZero() {
		return s.LastError
	}
	return p.ago(s.LastErrorAt) + ": " + s.LastError
}

func (p statusPage) kernel(k workload.KernelStatus) {
	rows := make([][]painted, 0, len(k.Events))
	for _, event := range eventNames(k) {
		lost := cell(count(k.Lost[event]))
		if k.Lost[event] > 0 {
			lost.paint = red
		}
		rows = append(rows, []painted{cell(event), cell(count(k.Events[event])), lost, cell(count(k.Skipped[event])), cell(k.Programs[event])})
	}
	if len(rows) == 0 {
		return
	}
	p.screen.printf("\n")
	p.screen.table([]column{{head: "EVENT", max: 24}, {head: "COUNT", right: true}, {head: "LOST", right: true}, {head: "SKIPPED", right: true}, {head: "PROGRAM", max: 80}}, rows)
}

// eventNames are all names that any of the counters has.
func eventNames(k workload.KernelStatus) []string {
	names := map[string]bool{}
	for _, m := range []map[string]uint64{k.Events, k.Lost, k.Skipped} {
		for n := range m {
			names[n] = true
		}
	}
	for n := range k.Programs {
		names[n] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// statusJSON is the object of status -o json.
type statusJSON struct {
	Version    string       `json:"version"`
	PID        uint32       `json:"pid"`
	Started    *time.Time   `json:"started"`
	Ready      bool         `json:"ready"`
	Mode       string       `json:"mode"`
	ModeReason string       `json:"modeReason"`
	CgroupMode string       `json:"cgroupMode"`
	Revision   uint64       `json:"revision"`
	Containers int          `json:"containers"`
	Processes  int          `json:"processes"`
	Pods       int          `json:"pods"`
	Tasks      int          `json:"tasks"`
	Images     int          `json:"images"`
	Watchers   int          `json:"watchers"`
	Host       string       `json:"host,omitempty"`
	BootID     string       `json:"bootId,omitempty"`
	PIDNS      uint32       `json:"pidNamespace,omitempty"`
	Sources    []sourceJSON `json:"sources"`
	Kernel     kernelJSON   `json:"kernel"`
}

type sourceJSON struct {
	Name        string            `json:"name"`
	State       string            `json:"state"`
	Where       string            `json:"where"`
	Version     string            `json:"version"`
	LastContact *time.Time        `json:"lastContact"`
	LastError   string            `json:"lastError"`
	LastErrorAt *time.Time        `json:"lastErrorAt"`
	Restarts    uint64            `json:"restarts"`
	Calls       map[string]uint64 `json:"calls"`
	Errors      uint64            `json:"errors"`
	Entities    int               `json:"entities"`
	Detail      string            `json:"detail,omitempty"`
}

type kernelJSON struct {
	Events   map[string]uint64 `json:"events"`
	Seen     map[string]uint64 `json:"seen"`
	Filtered map[string]uint64 `json:"filtered"`
	Lost     map[string]uint64 `json:"lost"`
	Skipped  map[string]uint64 `json:"skipped"`
	Programs map[string]string `json:"programs"`
	Detached map[string]uint64 `json:"detached"`
	Stolen   uint64            `json:"stolen"`
	Repairs  uint64            `json:"repairs"`
	LagNs    int64             `json:"lagNs"`
}

func statusObject(st workload.AgentStatus) statusJSON {
	k := st.Kernel
	return statusJSON{
		Version: st.Version, PID: uint32(st.PID), Started: timeObject(st.Started), Ready: st.Ready, Mode: st.Mode,
		ModeReason: st.ModeReason, CgroupMode: st.CgroupMode, Revision: uint64(st.Revision), Containers: st.Containers,
		Processes: st.Processes, Pods: st.Pods, Tasks: st.Tasks, Images: st.Images, Watchers: st.Watchers,
		Host: st.Host, BootID: st.BootID, PIDNS: st.PIDNamespace, Sources: list(convert(st.Sources, sourceObject)),
		Kernel: kernelJSON{
			Events: object(k.Events), Seen: object(k.Seen), Filtered: object(k.Filtered), Lost: object(k.Lost), Skipped: object(k.Skipped), Programs: object(k.Programs),
			Detached: object(k.Detached), Stolen: k.Stolen, Repairs: k.Repairs, LagNs: int64(k.Lag),
		},
	}
}

func sourceObject(s workload.SourceStatus) sourceJSON {
	return sourceJSON{
		Name: s.Name, State: s.State, Where: s.Where, Version: s.Version, LastContact: timeObject(s.LastContact),
		LastError: s.LastError, LastErrorAt: timeObject(s.LastErrorAt), Restarts: s.Restarts, Calls: object(s.Calls),
		Errors: s.Errors, Entities: s.Entities, Detail: s.Detail,
	}
}

// object makes nil an empty map, which JSON writes as {} and not as null.
func object[V any](m map[string]V) map[string]V {
	if m == nil {
		return map[string]V{}
	}
	return m
}
