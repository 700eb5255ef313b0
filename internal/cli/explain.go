// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pidigree/pidigree/pkg/workload"
)

func explainFormats() []string { return []string{"table", "json", "yaml", "go-template"} }

func (a *app) explainCmd() *cobra.Command {
	w := who{explain: true}
	cmd := &cobra.Command{
		Use:   "explain [flags] PID|CONTAINER|cgroup:PATH|self ...",
		Short: "show how pidigree knows: the evidence and the timeline",
		Long: `Show the evidence behind an answer of who: each hop from the process to its
workload, which source said it and when; and, for a container that the agent saw
start, a timeline with latencies: from the moment its cgroup was made, over what
each source said, to its first user instruction.

Of a process that lives, it also reads the program, the command line and the user,
and shows the processes above and below. A command line is for root and for the
process's own user, unless the agent is configured otherwise ("command-lines").

Times are "since boot", the kernel's clock, which nobody can set back. The
timeline counts from its first line. "known ... before" at its end is the lead
that the identity had over the container's own first instruction.

Arguments, and exit status, are those of who.`,
		Example: `  pidigree explain 4242
  pidigree explain web
  pidigree explain 4242 -o json | jq '.timeline'`,
		Args:              atLeastOne("a PID, container, cgroup:PATH or self"),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.explain(cmd, &w, args) },
		ValidArgsFunction: a.completeContainers,
	}
	a.formatFlag(cmd, explainFormats()...)
	cmd.Flags().DurationVar(&w.wait, "wait", 0, "`DURATION` wait so long at most until every source has answered")
	cmd.Flags().StringVar(&w.at, "at", "", "`TIME` ask about the past: 30s (ago) or 2006-01-02T15:04:05Z")
	a.askFlags(cmd, true)
	return cmd
}

func (a *app) explain(cmd *cobra.Command, w *who, args []string) error {
	f, err := a.parseFormat(explainFormats()...)
	if err != nil {
		return err
	}
	if err := w.prepare(a); err != nil {
		return err
	}
	if f.objects() {
		w.out = objectEvidence{a, a.encoder(f)}
	} else {
		w.out = &evidence{screen: a.screen()}
	}
	return a.ask(cmd, w, args)
}

// objectEvidence is objectResults with the timeline.
type objectEvidence struct {
	app *app
	enc *encoder
}

func (p objectEvidence) result(q question, r workload.Result) error {
	o := p.app.answerObject(q, r)
	if c := r.Answer.Container(); c != nil {
		o.Timeline = timelineObject(c.Timeline)
	}
	o.Family = familyObject(r.Family)
	return p.enc.encode(o)
}

func (p objectEvidence) flush() error { return nil }

// evidence prints a paragraph for each result.
type evidence struct {
	screen *screen
	count  int
}

func (p *evidence) flush() error { return p.screen.close() }

func (p *evidence) result(q question, r workload.Result) error {
	if r.Err != nil {
		return nil // said on standard error
	}
	if p.count++; p.count > 1 {
		p.screen.printf("\n")
	}
	p.verdict(q, r.Answer)
	p.hops(r.Explanation)
	p.family(r)
	if c := r.Answer.Container(); c != nil && len(c.Timeline) > 0 {
		p.timeline(c)
	}
	return nil
}

// verdict is the answer in a line or two.
func (p *evidence) verdict(q question, ans workload.Answer) {
	subject := q.word
	if ans.Process != nil {
		subject = fmt.Sprintf("%s (%s, %s)", pidCell(q, ans), ans.Process.Comm, ans.Process.Key)
	}
	p.screen.printf("%s: %s\n", painted{subject, bold}, statusCell(ans))
	p.detail(ans.Process)
	for i, c := range ans.Containers {
		what := "container"
		if i < len(ans.Containers)-1 {
			what = "inside"
		}
		p.screen.printf("  %-9s %s  %s", what, containerLabel(c), c.ID)
		if image := shortImage(c); image != "" {
			p.screen.printf("  %s", image)
		}
		p.screen.printf("\n")
	}
	if c := ans.Container(); c != nil && len(c.Truncated) > 0 {
		p.screen.printf("  %-9s %s: cut to the budget of one container, or left out\n", "truncated", strings.Join(c.Truncated, ", "))
	}
	p.pod(ans)
	if ans.Task != nil {
		p.screen.printf("  %-9s %s  %s", "task", taskFamily(ans.Task), ans.Task.ARN)
		for _, word := range []string{ans.Task.Service, ans.Task.LaunchType, ans.Task.Zone, ans.Task.Known} {
			if word != "" {
				p.screen.printf("  %s", word)
			}
		}
		if len(ans.Task.Missing) > 0 {
			p.screen.printf("  (waiting for %s)", strings.Join(ans.Task.Missing, ", "))
		}
		p.screen.printf("\n")
	}
	if ans.Service != nil {
		p.unit(ans.Service)
	}
}

// detail is what was read of the process.
func (p *evidence) detail(of *workload.Process) {
	if of == nil || of.Detail == nil {
		return
	}
	for _, line := range [][2]string{{"program", of.Exe}, {"command", commandLine(of.Detail)}, {"user", userText(of.Detail)}} {
		if line[1] != "" {
			p.screen.printf("  %-9s %s\n", line[0], line[1])
		}
	}
}

// family draws the processes above and below.
func (p *evidence) family(r workload.Result) {
	f, self := r.Family, r.Answer.Process
	if f == nil || self == nil || len(f.Ancestors)+len(f.Children) == 0 {
		return
	}
	p.screen.printf("\n%s\n", painted{"Processes", bold})
	var rows [][]painted
	add := func(of *workload.Process, depth int, paint paint) { rows = append(rows, familyRow(of, depth, paint)) }
	for i, a := range slices.Backward(f.Ancestors) {
		add(&a, len(f.Ancestors)-1-i, none)
	}
	add(self, len(f.Ancestors), bold)
	for _, c := range f.Children {
		add(&c, len(f.Ancestors)+1, none)
	}
	p.screen.table([]column{{head: "  PID", right: true}, {head: "COMMAND", max: 72}, {head: "STATUS", max: 24}, {head: "WORKLOAD", max: 40}}, rows)
	if len(f.Truncated) > 0 {
		p.screen.printf("  there are more %s\n", strings.Join(f.Truncated, " and "))
	}
}

func familyRow(of *workload.Process, depth int, paint paint) []painted {
	ans := workload.Answer{Status: of.Status, Confidence: of.Confidence, Exited: of.Exit != nil, Process: of}
	return []painted{
		{"  " + strconv.FormatUint(uint64(of.Key.PID), 10), paint}, {limb(depth, of.Comm), paint}, statusCell(ans), cell(processHome(of)),
	}
}

// unit names the unit, and what is known of it beyond its name. What a user calls
// it is said after whose it is.
func (p *evidence) unit(s *workload.Service) {
	p.screen.printf("  %-9s %s", "unit", cmp.Or(s.Unit, s.Slice))
	if s.Active != "" {
		p.screen.printf("  %s", unitState(s))
	}
	if s.Description != "" {
		p.screen.printf("  %s", s.Description)
	}
	p.screen.printf("\n")
	if s.UserUnit != "" {
		p.screen.printf("  %-9s %s, as user %s calls it\n", "user unit", s.UserUnit, s.User)
	}
	if s.InvocationID != "" {
		p.screen.printf("  %-9s %s\n", "invoked", s.InvocationID)
	}
}

// pod names the pod, and what is known of it beyond its name.
func (p *evidence) pod(ans workload.Answer) {
	name := podCell(ans)
	if name == "" {
		return
	}
	p.screen.printf("  %-9s %s", "pod", name)
	if pod := ans.Pod; pod != nil {
		for _, word := range []string{pod.UID, pod.Phase, pod.QoS, pod.Node} {
			if word != "" && word != name {
				p.screen.printf("  %s", word)
			}
		}
		if len(pod.Missing) > 0 {
			p.screen.printf("  (waiting for %s)", strings.Join(pod.Missing, ", "))
		}
	}
	p.screen.printf("\n")
}

func (p *evidence) hops(hops []workload.Hop) {
	if len(hops) == 0 {
		return
	}
	p.screen.printf("\n%s\n", painted{"Evidence", bold})
	var rows [][]painted
	for _, h := range hops {
		rows = append(rows, []painted{cell("  " + h.What), cell(h.Source), cell(bootTime(h.At)), cell(h.Detail)})
	}
	p.screen.table([]column{{head: "  HOP", max: 24}, {head: "SOURCE", max: 16}, {head: "SINCE BOOT", right: true}, {head: "WHAT", max: 200}}, rows)
}

// bootTime prints an instant as seconds since boot.
func bootTime(t workload.KTime) string {
	if t <= 0 {
		return ""
	}
	return fmt.Sprintf("%d.%06ds", t/1e9, t%1e9/1000)
}

func (p *evidence) timeline(c *workload.Container) {
	first := c.Timeline[0].At
	p.screen.printf("\n%s\n", painted{"Timeline, from " + bootTime(first) + " since boot", bold})
	rows := make([][]painted, len(c.Timeline))
	for i, m := range c.Timeline {
		rows[i] = []painted{cell("  " + millis(m.At-first)), cell(m.What), cell(m.Source)}
	}
	p.screen.table([]column{{head: "  AFTER", right: true}, {head: "WHAT", max: 32}, {head: "SOURCE", max: 16}}, rows)
	if text := lead(c.Timeline); text != "" {
		p.screen.printf("  %s\n", text)
	}
}

// millis prints a span in milliseconds, which is what a start takes.
func millis(d workload.KTime) string { return fmt.Sprintf("%+.3f ms", float64(d)/1e6) }

// lead compares when the identity was known with the first user exec. It says
// nothing where either was not seen.
func lead(marks []workload.Mark) string {
	known, exec := mark(marks, workload.MarkKnown), mark(marks, workload.MarkFirstExec)
	if known == 0 || exec == 0 {
		return ""
	}
	d := time.Duration(exec - known)
	if d >= 0 {
		return fmt.Sprintf("known %.3f ms before its first user instruction", float64(d)/1e6)
	}
	return fmt.Sprintf("known %.3f ms after its first user instruction", float64(-d)/1e6)
}

func mark(marks []workload.Mark, what string) workload.KTime {
	for _, m := range marks {
		if m.What == what {
			return m.At
		}
	}
	return 0
}
