// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pidigree/pidigree/pkg/workload"
)

// kinds are the words for what can be listed, in the plural and the singular.
func kinds() []struct {
	word string
	kind workload.Kind
} {
	return []struct {
		word string
		kind workload.Kind
	}{
		{"containers", workload.KindContainer}, {"pods", workload.KindPod}, {"images", workload.KindImage},
		{"tasks", workload.KindTask}, {"services", workload.KindService}, {"processes", workload.KindProcess},
	}
}

func kindWords() []string {
	var words []string
	for _, k := range kinds() {
		words = append(words, k.word)
	}
	return words
}

// kindArg reads the optional KIND.
func kindArg(args []string) (workload.Kind, error) {
	if len(args) == 0 {
		return workload.KindContainer, nil
	}
	if len(args) > 1 {
		return "", usagef("takes one KIND, not %d", len(args))
	}
	for _, k := range kinds() {
		if args[0] == k.word || args[0] == string(k.kind) {
			return k.kind, nil
		}
	}
	return "", usagef("unknown kind %q%s; the kinds are %s", args[0], didYouMean("", args[0], kindWords()), strings.Join(kindWords(), ", "))
}

func (a *app) listCmd() *cobra.Command {
	var sel selection
	var detail, tree bool
	cmd := &cobra.Command{
		Use:   "list [flags] [KIND]",
		Short: "list containers, pods, images, tasks, services or processes",
		Long: `List what is on this host. KIND is containers (the default), pods, images, tasks
(of ECS), services (of systemd) or processes. With --all also what has ended and
is still remembered; how long that is, the agent's setting "grace" says. The
sandbox (pause) containers of pods are left out; --sandboxes shows them.

` + filterHelp + `

--detail reads of each process that lives what the kernel's events do not say: its
program, command line, user, namespaces and present parent. --tree does so, and puts
each process below its parent. A command line is for root and for the process's own
user, unless the agent is configured otherwise ("command-lines").

Without an agent the list comes from the runtimes themselves.`,
		Example: `  pidigree list
  pidigree list --all
  pidigree list pods --namespace 'kube-*'
  pidigree list --image '*/nginx' --label app=shop --exclude-name 'test-*'
  pidigree list processes --tree
  pidigree list processes -o json | jq -r 'select(.status == "conflict")'
  pidigree list -o go-template='{{.id}} {{index .labels "app"}}'`,
		Args: func(_ *cobra.Command, args []string) error { _, err := kindArg(args); return err },
		RunE: func(cmd *cobra.Command, args []string) error {
			kind, err := kindArg(args)
			if err != nil {
				return err
			}
			s, err := sel.selector(kind)
			if err != nil {
				return err
			}
			if (detail || tree) && kind != workload.KindProcess {
				return usagef("--detail and --tree are for processes: pidigree list processes --tree")
			}
			s.Detail = detail || tree
			return a.list(cmd, s, tree)
		},
		ValidArgs: kindWords(),
	}
	a.formatFlag(cmd, formats()...)
	sel.flags(cmd)
	cmd.Flags().BoolVar(&detail, "detail", false, "with each process's program, command line, user and parent")
	cmd.Flags().BoolVar(&tree, "tree", false, "processes below their parents")
	a.askFlags(cmd, true)
	return cmd
}

func (a *app) list(cmd *cobra.Command, sel workload.Selector, tree bool) (err error) {
	f, err := a.parseFormat(formats()...)
	if err != nil {
		return err
	}
	if tree && f.kind != "table" && f.kind != "wide" {
		return usagef("--tree is for tables; with --detail each object of -o %s has its parent", f.kind)
	}
	c, err := a.settings(cmd)
	if err != nil {
		return err
	}
	ctx, cancel := a.limit(cmd.Context(), 0)
	defer cancel()
	b, err := a.open(ctx, c)
	if err != nil {
		return a.explainError(err)
	}
	defer closeBackend(b, &err)
	out := a.entityPrinter(f, sel.Kinds[0])
	if table, ok := out.(*tableEntities); ok {
		table.detail = sel.Detail
		if tree {
			out = &treeEntities{tableEntities: *table}
		}
	}
	for e, err := range b.List(ctx, sel) {
		if err != nil {
			return a.explainError(err)
		}
		if err := out.entity(e); err != nil {
			return err
		}
	}
	return out.flush()
}

// An entityPrinter prints entities of one kind as they come.
type entityPrinter interface {
	entity(workload.Entity) error
	flush() error
}

func (a *app) entityPrinter(f format, kind workload.Kind) entityPrinter {
	switch {
	case f.objects():
		return objectEntities{a.encoder(f)}
	case f.kind == "name":
		return nameEntities{a.screen()}
	}
	return &tableEntities{app: a, screen: a.screen(), kind: kind, wide: f.kind == "wide"}
}

type objectEntities struct{ enc *encoder }

func (p objectEntities) entity(e workload.Entity) error { return p.enc.encode(entityObject(e)) }
func (p objectEntities) flush() error                   { return nil }

type nameEntities struct{ screen *screen }

func (p nameEntities) entity(e workload.Entity) error {
	p.screen.printf("%s\n", entityName(e))
	return nil
}

func (p nameEntities) flush() error { return p.screen.close() }

// entityName is what who takes, or what an engine would: one word a line.
func entityName(e workload.Entity) string {
	switch {
	case e.Container != nil:
		return containerLabel(e.Container)
	case e.Process != nil:
		return strconv.FormatUint(uint64(e.Process.Key.PID), 10)
	case e.Pod != nil:
		return podName(&e.Pod.PodRef)
	case e.Image != nil:
		return imageLabel(e.Image)
	case e.Task != nil:
		return e.Task.ARN
	case e.Service != nil:
		return e.Service.Unit
	}
	return ""
}

// tableEntities collects the rows of a table.
type tableEntities struct {
	app    *app
	screen *screen
	kind   workload.Kind
	wide   bool
	detail bool // of processes
	rows   [][]painted
}

func (p *tableEntities) flush() error {
	cols := p.columns()
	if p.wide {
		for i := range cols {
			cols[i].max *= 4
		}
	}
	p.screen.table(cols, p.rows)
	return p.screen.close()
}

func (p *tableEntities) columns() []column {
	switch p.kind {
	case workload.KindProcess:
		return p.processColumns()
	case workload.KindPod:
		return podColumns()
	case workload.KindImage:
		return imageColumns()
	case workload.KindTask:
		return taskColumns()
	case workload.KindService:
		return []column{{head: "UNIT", max: 64}, {head: "SLICE", max: 40}, {head: "STATE", max: 32}, {head: "PID", right: true}, {head: "DESCRIPTION", max: 48}}
	}
	return []column{
		{head: "ID", max: 20}, {head: "NAME", max: 32}, {head: "IMAGE", max: 40}, {head: "RUNTIME", max: 12}, {head: "STATE", max: 24},
		{head: "PID", right: true}, {head: "POD", max: 40}, {head: "AGE", right: true},
	}
}

// processColumns: a tree needs room for its branches.
func (p *tableEntities) processColumns() []column {
	cols := []column{{head: "PID", right: true}, {head: "COMMAND", max: 16}, {head: "STATUS", max: 24}, {head: "WORKLOAD", max: 40}, {head: "PARENT", right: true}}
	if p.detail {
		cols[1].max = 48
		cols = append(cols, column{head: "USER", max: 20}, column{head: "EXE", max: 40}, column{head: "COMMAND LINE", max: 80})
	}
	return cols
}

func (p *tableEntities) entity(e workload.Entity) error {
	if row := p.row(e); row != nil {
		p.rows = append(p.rows, row)
	}
	return nil
}

// row gives nil for an entity of another kind, which a newer agent may send.
func (p *tableEntities) row(e workload.Entity) []painted {
	switch {
	case e.Container != nil:
		return p.containerRow(e.Container)
	case e.Process != nil:
		return p.processRow(e)
	case e.Pod != nil:
		return p.podRow(e)
	case e.Image != nil:
		return p.imageRow(e)
	case e.Task != nil:
		return taskRow(e)
	case e.Service != nil:
		return serviceRow(e)
	}
	return nil
}

func (p *tableEntities) containerRow(c *workload.Container) []painted {
	pid := ""
	if c.Run != nil && c.Run.Init.PID != 0 && c.State != workload.StateExited {
		pid = strconv.FormatUint(uint64(c.Run.Init.PID), 10)
	}
	id := shortID(c.ID.ID)
	if p.wide {
		id = c.ID.ID
	}
	return []painted{
		cell(id), cell(c.Name), cell(shortImage(c)), cell(c.Runtime), stateCell(c),
		cell(pid), cell(podName(c.Pod)), cell(p.age(c.Created)),
	}
}

func stateCell(c *workload.Container) painted {
	switch c.State {
	case workload.StateRunning:
		switch c.Health {
		case "":
			return painted{string(c.State), green}
		case workload.HealthHealthy:
			return painted{string(c.State) + " (healthy)", green}
		}
		return painted{string(c.State) + " (" + string(c.Health) + ")", yellow}
	case workload.StateExited:
		return painted{exitText(lastExit(c)), dim}
	}
	return painted{stateWord(c.State), yellow}
}

func (p *tableEntities) processRow(e workload.Entity) []painted {
	proc := e.Process
	ans := workload.Answer{Status: proc.Status, Confidence: proc.Confidence, Exited: e.Gone || proc.Exit != nil, Process: proc}
	parent := proc.Parent
	if proc.Detail != nil {
		parent = proc.Detail.Parent.PID
	}
	row := []painted{
		cell(entityName(e)), cell(proc.Comm), statusCell(ans), cell(processHome(proc)), cell(strconv.FormatUint(uint64(parent), 10)),
	}
	if p.detail {
		row = append(row, cell(userText(proc.Detail)), cell(proc.Exe), cell(commandLine(proc.Detail)))
	}
	return row
}

// processHome is what a process belongs to, in one word.
func processHome(p *workload.Process) string {
	if id := shortID(p.Container.ID); id != "" || p.Service == nil {
		return id
	}
	return p.Service.Unit
}

// serviceRow: what the manager says of a unit that is gone was before its end.
func serviceRow(e workload.Entity) []painted {
	s, state, pid := e.Service, goneCell(e), ""
	if s.Active != "" && !e.Gone {
		state = painted{unitState(s), yellow}
		if s.Active == "active" {
			state.paint = green
		}
	}
	if s.MainPID != 0 && !e.Gone {
		pid = strconv.FormatUint(uint64(s.MainPID), 10)
	}
	return []painted{cell(s.Unit), cell(s.Slice), state, cell(pid), cell(s.Description)}
}

// unitState is the state as systemctl prints it: active (running).
func unitState(s *workload.Service) string {
	if s.Sub == "" {
		return s.Active
	}
	return s.Active + " (" + s.Sub + ")"
}

func goneCell(e workload.Entity) painted {
	if e.Gone {
		return painted{"gone", dim}
	}
	return painted{"present", green}
}

// age prints how long ago something was, in its largest unit that says enough.
func (p *tableEntities) age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return span(p.app.env.Now().Sub(t))
}

func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// size prints bytes in units of 1000, as image registries do.
func size(n int64) string {
	switch f := float64(n); {
	case n < 1000:
		return fmt.Sprintf("%d B", n)
	case n < 1e6:
		return fmt.Sprintf("%.1f kB", f/1e3)
	case n < 1e9:
		return fmt.Sprintf("%.1f MB", f/1e6)
	default:
		return fmt.Sprintf("%.1f GB", f/1e9)
	}
}

// entityHead begins the object of every entity.
type entityHead struct {
	Kind     string `json:"kind"`
	Gone     bool   `json:"gone"`
	Revision uint64 `json:"revision"`
}

// entityObject makes the object of an entity: its head and its own fields.
func entityObject(e workload.Entity) any {
	head := entityHead{string(e.Kind), e.Gone, uint64(e.Revision)}
	switch {
	case e.Container != nil:
		return struct {
			entityHead
			containerJSON
		}{head, containerObject(e.Container)}
	case e.Process != nil:
		return struct {
			entityHead
			processJSON
		}{head, processObject(e.Process)}
	case e.Pod != nil:
		return struct {
			entityHead
			podJSON
		}{head, *podObject(e.Pod)}
	case e.Image != nil:
		return struct {
			entityHead
			imageJSON
		}{head, imageObject(e.Image)}
	case e.Task != nil:
		return struct {
			entityHead
			taskJSON
		}{head, *taskObject(e.Task)}
	case e.Service != nil:
		return struct {
			entityHead
			serviceJSON
		}{head, *serviceObject(e.Service)}
	}
	return head
}
