// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pidigree/pidigree/internal/plain"
	"github.com/pidigree/pidigree/pkg/workload"
)

func watchFormats() []string { return []string{"table", "json", "name", "go-template"} }

func (a *app) watchCmd() *cobra.Command {
	var since string
	var sel selection
	cmd := &cobra.Command{
		Use:   "watch [flags] [KIND]",
		Short: "print a line for each change, as it happens",
		Long: `Print a line for each change of the containers (or pods, images, tasks, services,
processes) of this host, from now on, until interrupted. Needs an agent.

Every change has a revision. --since REVISION continues after one that an earlier
run printed; --since 0 begins with everything that is there now. If the agent no
longer remembers that far back, or has been restarted, it says "resync" and
begins again with everything that is there: a gap is never passed over.

The sandbox (pause) containers of pods are left out; --sandboxes shows them.
` + filterHelp + ` What does not match any more is
said to be forgotten.

A reader that is slower than the changes misses none of the things that changed,
only states in between.`,
		Example: `  pidigree watch
  pidigree watch processes -o json | jq 'select(.entity.status == "conflict")'
  pidigree watch pods --namespace prod
  pidigree watch --since 18212`,
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
			return a.watch(cmd, since, s)
		},
		ValidArgs: kindWords(),
	}
	a.formatFlag(cmd, watchFormats()...)
	cmd.Flags().StringVar(&since, "since", "", "`REVISION` continue after this one; 0 begins with what is there")
	sel.flags(cmd)
	a.askFlags(cmd, false)
	return cmd
}

func (a *app) watch(cmd *cobra.Command, since string, sel workload.Selector) (err error) {
	f, err := a.parseFormat(watchFormats()...)
	if err != nil {
		return err
	}
	c, err := a.settings(cmd)
	if err != nil {
		return err
	}
	w := watcher{app: a, format: f, enc: a.encoder(f), skip: since == ""}
	if since != "" {
		n, err := strconv.ParseUint(since, 10, 64)
		if err != nil {
			return usagef("--since %q is not a revision: it is the number that watch and -o json print", since)
		}
		sel.From = workload.Revision(n)
	}
	ctx := cmd.Context()
	dialCtx, cancel := a.limit(ctx, 0)
	defer cancel()
	b, err := a.needAgent(dialCtx, c)
	if err != nil {
		return err
	}
	defer closeBackend(b, &err)
	for change, err := range b.Watch(ctx, sel) {
		if ctx.Err() != nil {
			return nil // interrupted is how a watch ends
		}
		if err != nil {
			return w.broken(err)
		}
		if err := w.change(change); err != nil {
			return err
		}
	}
	if ctx.Err() == nil {
		return w.broken(errors.New("the stream ended"))
	}
	return nil
}

// watcher prints changes.
type watcher struct {
	app    *app
	format format
	enc    *encoder
	// skip drops the snapshot up to its bookmark: only what comes after was asked for.
	skip bool
	last workload.Revision
}

// broken says how to go on after the agent went away.
func (w *watcher) broken(err error) error {
	if w.last == 0 {
		return w.app.explainError(err)
	}
	return failf("%w: go on with --since %d", w.app.explainError(err), w.last)
}

func (w *watcher) change(c workload.Change) error {
	w.last = max(w.last, c.Revision)
	switch c.Type {
	case workload.ChangeBookmark:
		w.skip = false
	case workload.ChangeResync:
		w.last, w.skip = c.Revision, false
	default:
		if w.skip {
			return nil
		}
	}
	if w.format.objects() {
		return w.enc.encode(changeObject(c))
	}
	s := w.app.screen()
	w.line(s, c)
	return s.close()
}

// line prints a change for a person. A bookmark changes nothing, so it has none.
func (w *watcher) line(s *screen, c workload.Change) {
	switch {
	case c.Type == workload.ChangeBookmark:
	case c.Type == workload.ChangeResync:
		w.app.note("watch: resync: changes were missed; what is there now follows")
	case w.format.kind == "name":
		s.printf("%s\n", entityName(c.Entity))
	default:
		s.printf("%s  %-8s  %-9s  %s\n", w.app.env.Now().Format("15:04:05.000"), strconv.FormatUint(uint64(c.Revision), 10), c.Entity.Kind, changeText(c))
	}
}

// changeText says in words what a thing is now.
func changeText(c workload.Change) painted {
	e := c.Entity
	name := entityName(e)
	switch {
	case c.Type == workload.ChangeUnset:
		return painted{name + "  forgotten", dim}
	case e.Container != nil:
		state := stateCell(e.Container)
		return painted{plain.Cut(name, 48) + "  " + state.text + "  " + plain.Cut(e.Container.Runtime, 12) + "  " + shortImage(e.Container), state.paint}
	case e.Process != nil:
		ans := workload.Answer{Status: e.Process.Status, Confidence: e.Process.Confidence, Exited: e.Gone || e.Process.Exit != nil, Process: e.Process, Reason: e.Process.Reason}
		status := statusCell(ans)
		return painted{name + "  " + plain.Cut(e.Process.Comm, 48) + "  " + status.text + "  " + shortID(e.Process.Container.ID), status.paint}
	case e.Pod != nil && !e.Gone:
		state := podState(e)
		return painted{plain.Cut(name, 80) + "  " + state.text, state.paint}
	case e.Task != nil && !e.Gone:
		state := taskState(e)
		return painted{plain.Cut(name, 120) + "  " + plain.Cut(taskFamily(e.Task), 48) + "  " + plain.Cut(state.text, 16), state.paint}
	case e.Image != nil && !e.Gone:
		return painted{plain.Cut(imageNames(e.Image), 96) + "  " + plain.Cut(imageStore(e.Image), 32) + "  " + shortDigest(e.Image.ID), none}
	case e.Gone:
		return painted{name + "  gone", dim}
	}
	return painted{name, none}
}

// changeJSON is one line of watch -o json.
type changeJSON struct {
	Type     string `json:"type"`
	Revision uint64 `json:"revision"`
	Kind     string `json:"kind,omitempty"`
	Entity   any    `json:"entity,omitempty"`
}

func changeObject(c workload.Change) changeJSON {
	o := changeJSON{Type: string(c.Type), Revision: uint64(c.Revision)}
	if c.Type == workload.ChangeSet || c.Type == workload.ChangeUnset {
		o.Kind, o.Entity = string(c.Entity.Kind), entityObject(c.Entity)
	}
	return o
}
