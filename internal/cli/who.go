// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/pidigree/pidigree/pkg/workload"
)

// batch is how many questions go out in one call. The agent takes more; this
// keeps a long standard input flowing.
const batch = 1000

// explainBatch is how many go out that ask for a process's family: an agent takes no
// more of those in one call.
const explainBatch = 64

// maxWait bounds --wait: longer than any engine needs for a start.
const maxWait = 5 * time.Minute

func (a *app) whoCmd() *cobra.Command {
	var w who
	cmd := &cobra.Command{
		Use:   "who [flags] PID|CONTAINER|cgroup:PATH|self|- ...",
		Short: "name the workload behind each PID",
		Long: `Name the workload behind each PID: its container (and those around it), image,
runtime, pod and state, or the system service of a process on the host itself.

Each argument is one of

  4242               a process id, or a thread id, of the host
  4242@8316120000    one process instance: PID@START, START in ns since boot
  4f3a91             a container's id, or 4 characters or more of its beginning
  web                a container's name (container:web if it reads like a PID)
  cgroup:/docker/4f  a cgroup, as in /proc/PID/cgroup or below /sys/fs/cgroup
  self               the process that asks
  -                  words like these from standard input

STATUS says what was found: container; container (claimed) if only a cgroup's
name says so; host, which is a finding and not a guess; unknown or conflict with
the reason. "exited" is added for what is gone and still remembered.

No runtime is waited for, unless --wait says how long. But about a container
that has just begun the first answer of its engine is, for 250 ms at most, where
that is on its way.

Without an agent the answer comes from /proc, cgroups and runtimes, and says so
on standard error.

Exit status: 0 if every question has an answer, 3 if one is unknown, in conflict
or about something that does not exist, 2 if one makes no sense, 1 if nobody
could be asked. Of several, the highest.`,
		Example: `  pidigree who 4242
  pidigree who $(pgrep nginx) -o wide
  pidigree who 4242 -o json | jq -r '.containers[-1].labels'
  pidigree who --at 2m 4242            # who had PID 4242 two minutes ago?
  pidigree who --wait 500ms 4242       # wait until its runtime has told all
  ps -eo pid= | pidigree who - -o name | sort | uniq -c`,
		Args:              atLeastOne("a PID, container, cgroup:PATH, self or -"),
		RunE:              func(cmd *cobra.Command, args []string) error { return a.who(cmd, &w, args) },
		ValidArgsFunction: a.completeContainers,
	}
	flags := cmd.Flags()
	a.formatFlag(cmd, formats()...)
	flags.DurationVar(&w.wait, "wait", 0, "`DURATION` wait so long at most until every source has answered")
	flags.StringVar(&w.at, "at", "", "`TIME` ask about the past: 30s (ago) or 2006-01-02T15:04:05Z")
	a.askFlags(cmd, true)
	return cmd
}

// who is one run of the command.
type who struct {
	wait    time.Duration
	at      string
	explain bool

	template workload.Query
	out      resultPrinter
	backend  Backend
	worst    int
}

// A resultPrinter prints results as they come; flush ends the output.
type resultPrinter interface {
	result(question, workload.Result) error
	flush() error
}

// atLeastOne demands arguments of the given kind.
func atLeastOne(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return usagef("needs %s", what)
		}
		return nil
	}
}

func (a *app) who(cmd *cobra.Command, w *who, args []string) (err error) {
	f, err := a.parseFormat(formats()...)
	if err != nil {
		return err
	}
	if err := w.prepare(a); err != nil {
		return err
	}
	w.out = a.resultPrinter(f)
	return a.ask(cmd, w, args)
}

// prepare turns the flags into what all queries share.
func (w *who) prepare(a *app) error {
	w.template = workload.Query{Wait: w.wait, Explain: w.explain, Detail: w.explain, Family: w.explain}
	if w.wait < 0 || w.wait > maxWait {
		return usagef("--wait %s is not between 0 and %s", w.wait, shortDuration(maxWait))
	}
	if w.at == "" {
		return nil
	}
	at, err := parseAt(w.at, a.env.Now())
	if err != nil {
		return &exitError{ExitUsage, err}
	}
	if w.wait > 0 {
		return usagef("--wait and --at exclude each other: the past does not change")
	}
	w.template.At = at
	return nil
}

// ask puts all questions and prints the results.
func (a *app) ask(cmd *cobra.Command, w *who, args []string) (err error) {
	c, err := a.settings(cmd)
	if err != nil {
		return err
	}
	questions, stdin, err := w.questions(args)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	dialCtx, cancel := a.limit(ctx, 0)
	defer cancel()
	if w.backend, err = a.open(dialCtx, c); err != nil {
		return a.explainError(err)
	}
	defer closeBackend(w.backend, &err)
	if err := a.resolve(ctx, w, questions); err != nil {
		return err
	}
	if stdin {
		if err := a.fromStdin(ctx, w); err != nil {
			return err
		}
	}
	if err := w.out.flush(); err != nil {
		return err
	}
	if w.worst != ExitOK {
		return silence(w.worst)
	}
	return nil
}

// questions parses the arguments, all of them before the first is asked.
func (w *who) questions(args []string) (qs []question, stdin bool, err error) {
	for _, word := range args {
		if word == "-" {
			stdin = true
			continue
		}
		q, err := w.question(word)
		if err != nil {
			return nil, false, &exitError{ExitUsage, err}
		}
		qs = append(qs, q)
	}
	return qs, stdin, nil
}

func (w *who) question(word string) (question, error) {
	q, err := parseQuestion(word)
	q.At, q.Wait, q.Explain = w.template.At, w.template.Wait, w.template.Explain
	q.Detail, q.Family = w.template.Detail, w.template.Family
	return question{word, q}, err
}

// fromStdin asks what standard input names, batch by batch. A bad word there is
// reported and does not stop the others.
func (a *app) fromStdin(ctx context.Context, w *who) error {
	var pending []question
	err := words(a.env.Stdin, func(word string) error {
		q, err := w.question(word)
		if err != nil {
			a.note("who: %s", err)
			w.worst = max(w.worst, ExitUsage)
			return nil
		}
		if pending = append(pending, q); len(pending) < w.batch() {
			return nil
		}
		err = a.resolve(ctx, w, pending)
		pending = pending[:0]
		return err
	})
	return errors.Join(err, a.resolve(ctx, w, pending))
}

// batch is how many questions go out in one call.
func (w *who) batch() int {
	if w.explain {
		return explainBatch
	}
	return batch
}

// resolve asks, batch by batch.
func (a *app) resolve(ctx context.Context, w *who, qs []question) error {
	for some := range slices.Chunk(qs, w.batch()) {
		if err := a.resolveSome(ctx, w, some); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) resolveSome(ctx context.Context, w *who, qs []question) error {
	queries := make([]workload.Query, len(qs))
	for i, q := range qs {
		queries[i] = q.query
	}
	ctx, cancel := a.limit(ctx, w.wait)
	defer cancel()
	results, err := w.backend.Resolve(ctx, queries...)
	if err != nil {
		return a.explainError(err)
	}
	if len(results) != len(qs) {
		return failf("%s gave %d results for %d questions", a.asked, len(results), len(qs))
	}
	for i, r := range results {
		if err := a.printResult(w, qs[i], r); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) printResult(w *who, q question, r workload.Result) error {
	if r.Err != nil {
		a.note("%s: %s", map[bool]string{true: "explain", false: "who"}[w.explain], questionError(q, r.Err))
	}
	w.worst = max(w.worst, resultCode(r))
	return w.out.result(q, r)
}

// questionError says what is wrong with one question, and what to do.
func questionError(q question, err error) string {
	switch {
	case !errors.Is(err, workload.ErrNotFound):
		return fmt.Sprintf("%s: %s", q.word, err)
	case q.query.PID != 0 && !q.query.At.IsZero():
		return fmt.Sprintf("%s: nobody is remembered to have had that PID then", q.word)
	case q.query.PID != 0 || q.query.Key.PID != 0:
		return fmt.Sprintf("%s: no such process, and none is remembered", q.word)
	case q.query.CgroupPath != "":
		return fmt.Sprintf("%s: no such cgroup", q.word)
	case q.query.Container != "":
		return fmt.Sprintf("%q is not a PID, container or cgroup:PATH; 'pidigree list --all' shows the containers", q.word)
	}
	return fmt.Sprintf("%s: %s", q.word, err)
}

// resultCode is the exit code of one result.
func resultCode(r workload.Result) int {
	switch {
	case r.Err == nil && (r.Answer.Status == workload.StatusContainer || r.Answer.Status == workload.StatusHost):
		return ExitOK
	case r.Err == nil, errors.Is(r.Err, workload.ErrNotFound):
		return ExitNoAnswer
	case errors.Is(r.Err, workload.ErrInvalid), errors.Is(r.Err, workload.ErrAmbiguous):
		return ExitUsage
	}
	return ExitFailed
}

func (a *app) resultPrinter(f format) resultPrinter {
	switch {
	case f.objects():
		return objectResults{a, a.encoder(f)}
	case f.kind == "name":
		return nameResults{a.screen()}
	}
	return &tableResults{screen: a.screen(), wide: f.kind == "wide"}
}

// objectResults prints an object for each result, errors included, so that the
// lines match the questions.
type objectResults struct {
	app *app
	enc *encoder
}

func (p objectResults) result(q question, r workload.Result) error {
	return p.enc.encode(p.app.answerObject(q, r))
}

func (p objectResults) flush() error { return nil }

// nameResults prints the name of each workload that there is one for.
type nameResults struct{ screen *screen }

func (p nameResults) result(_ question, r workload.Result) error {
	if name := workloadName(r.Answer); r.Err == nil && name != "" {
		p.screen.printf("%s\n", name)
	}
	return nil
}

func (p nameResults) flush() error { return p.screen.close() }

// tableResults collects the rows of a table.
type tableResults struct {
	screen *screen
	wide   bool
	rows   [][]painted
}

func (p *tableResults) flush() error {
	cols := []column{{head: "PID", max: 24}, {head: "WORKLOAD", max: 48}, {head: "IMAGE", max: 48}, {head: "RUNTIME", max: 12}, {head: "STATUS", max: 80}}
	if p.wide {
		cols = []column{
			{head: "PID", max: 24}, {head: "WORKLOAD", max: 120}, {head: "IMAGE", max: 120}, {head: "RUNTIME", max: 24}, {head: "ID", max: 64},
			{head: "POD", max: 80}, {head: "COMMAND", max: 16}, {head: "PARENT"}, {head: "SOURCES", max: 60}, {head: "STATUS", max: 200},
		}
	}
	if len(p.rows) > 0 {
		p.screen.table(cols, p.rows)
	}
	return p.screen.close()
}

func (p *tableResults) result(q question, r workload.Result) error {
	if r.Err != nil {
		return nil // said on standard error
	}
	ans := r.Answer
	var c workload.Container
	if inner := ans.Container(); inner != nil {
		c = *inner
	}
	row := []painted{cell(pidCell(q, ans)), cell(workloadCell(ans)), cell(shortImage(&c)), cell(c.Runtime)}
	if p.wide {
		row = append(row, cell(c.ID.ID), cell(podCell(ans)), cell(comm(ans)), cell(parent(ans)), cell(sourcesCell(&c)))
	}
	p.rows = append(p.rows, append(row, statusCell(ans)))
	return nil
}

// pidCell is the PID that the answer is about, or the word that asked.
func pidCell(q question, ans workload.Answer) string {
	switch {
	case ans.Process != nil:
		return strconv.FormatUint(uint64(ans.Process.Key.PID), 10)
	case q.query.PID != 0:
		return strconv.FormatUint(uint64(q.query.PID), 10)
	}
	return q.word
}

// workloadName is what people call the workload: the innermost container's
// name, or its id; on the host the unit, or the command.
func workloadName(ans workload.Answer) string {
	switch c := ans.Container(); {
	case c != nil:
		return containerLabel(c)
	case ans.Status != workload.StatusHost:
		return ""
	case ans.Service != nil && ans.Service.Unit != "":
		return ans.Service.Unit
	}
	return comm(ans)
}

// workloadCell is workloadName with the containers around it.
func workloadCell(ans workload.Answer) string {
	var chain []string
	for _, c := range ans.Containers {
		chain = append(chain, containerLabel(c))
	}
	if len(chain) > 1 {
		return strings.Join(chain, " > ")
	}
	return workloadName(ans)
}

func containerLabel(c *workload.Container) string {
	if c.Name != "" {
		return c.Name
	}
	return shortID(c.ID.ID)
}

// shortID is the 12 characters that engines print of a 64-digit id. Other ids
// are names that somebody chose, and stay whole.
func shortID(id string) string {
	if len(id) == 64 && strings.Trim(id, "0123456789abcdef") == "" {
		return id[:12]
	}
	return id
}

// shortImage is the image's name, or the beginning of its id.
func shortImage(c *workload.Container) string {
	if c.Image.Name != "" {
		return c.Image.Name
	}
	return shortDigest(c.Image.ID)
}

func shortDigest(id string) string {
	if hex, ok := strings.CutPrefix(id, "sha256:"); ok {
		return shortID(hex)
	}
	return shortID(id)
}

func podCell(ans workload.Answer) string {
	if ans.Pod != nil {
		return podName(&ans.Pod.PodRef)
	}
	if c := ans.Container(); c != nil {
		return podName(c.Pod)
	}
	return ""
}

func podName(p *workload.PodRef) string {
	switch {
	case p == nil:
		return ""
	case p.Name == "":
		return p.UID
	case p.Namespace == "":
		return p.Name
	}
	return p.Namespace + "/" + p.Name
}

func comm(ans workload.Answer) string {
	if ans.Process == nil {
		return ""
	}
	return ans.Process.Comm
}

func parent(ans workload.Answer) string {
	if ans.Process == nil || ans.Process.Parent == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(ans.Process.Parent), 10)
}

func sourcesCell(c *workload.Container) string {
	names := make([]string, len(c.Sources))
	for i, s := range c.Sources {
		names[i] = s.Source
		if s.Stale {
			names[i] += " (stale)"
		}
	}
	return strings.Join(names, ",")
}

// statusCell says everything about an answer's standing.
func statusCell(ans workload.Answer) painted {
	text := statusWords(ans)
	switch ans.Status {
	case workload.StatusContainer:
		if ans.Confidence == workload.Claimed {
			return painted{text, yellow}
		}
		return painted{text, green}
	case workload.StatusHost:
		return painted{text, none}
	case workload.StatusConflict:
		return painted{text, red}
	}
	return painted{text, yellow}
}

func statusWords(ans workload.Answer) string {
	text := string(ans.Status)
	if text == "" {
		text = string(workload.StatusUnknown)
	}
	if ans.Confidence == workload.Claimed {
		text += " (claimed)"
	}
	if p := ans.Process; p != nil && p.Entry == workload.EntryExec {
		text += ", by exec"
	}
	if p := ans.Process; p != nil && p.ForeignNamespaces {
		text += ", in foreign namespaces"
	}
	if ans.Thread != 0 {
		text += fmt.Sprintf(", thread %d", ans.Thread)
	}
	text += exitWords(ans)
	if missing := ans.Missing(); len(missing) > 0 {
		text += ", waiting for " + strings.Join(missing, ", ")
	}
	if stale(ans) {
		text += ", stale: the pidigree that said so is away"
	}
	if c := ans.Container(); c != nil && c.Filtered {
		text += ", hidden by the agent's configuration"
	}
	if ans.Reason != "" {
		text += ": " + ans.Reason
	}
	return text
}

// stale reports whether what is said was so when another pidigree was last heard.
func stale(ans workload.Answer) bool {
	if p := ans.Process; p != nil && p.Stale {
		return true
	}
	c := ans.Container()
	return c != nil && !ans.Exited && len(c.Sources) > 0 && !slices.ContainsFunc(c.Sources, func(s workload.Provenance) bool { return !s.Stale && s.Source != "kernel" })
}

// exitWords says how what was asked for ended, empty while it lives.
func exitWords(ans workload.Answer) string {
	if !ans.Exited {
		return ""
	}
	var e *workload.Exit
	if ans.Process != nil {
		e = ans.Process.Exit
	} else if c := ans.Container(); c != nil {
		e = lastExit(c)
	}
	return ", " + exitText(e)
}

func exitText(e *workload.Exit) string {
	switch {
	case e == nil || !e.Known:
		return "exited"
	case e.OOM:
		return fmt.Sprintf("exited %d (out of memory)", e.Code)
	case e.Signal != 0:
		return fmt.Sprintf("exited %d (signal %d)", e.Code, e.Signal)
	}
	return fmt.Sprintf("exited %d", e.Code)
}
