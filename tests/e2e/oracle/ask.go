// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/oracle/report"
)

// A pending is a question about a process, asked or not yet.
type pending struct {
	p      *process
	q      Question
	thread workload.PID // that was asked about, 0 for none
	result workload.Result
	raw    string // what the command line printed
}

// askTimeout bounds one call. The client gives up earlier; a command line
// alone looks at the whole host first, on a machine that others load.
const askTimeout = 3 * time.Minute

// ask asks in one way, as far as possible in one call, and scores. It gives the
// verdicts in order.
func (o *Oracle) ask(way Way, batch []pending) []Verdict {
	ctx, cancel := context.WithTimeout(o.ctx, askTimeout)
	defer cancel()
	switch way {
	case Library:
		for i := range batch {
			batch[i].result = o.opts.Library.Resolve(ctx, batch[i].q.Query)
		}
	case Socket:
		o.askSocket(ctx, batch)
	case Command, Alone:
		way = o.askCommand(ctx, way, batch)
	}
	if o.ctx.Err() != nil { // the oracle ends: what came back is of no worth
		return make([]Verdict, len(batch))
	}
	return o.score(way, batch)
}

// askSocket puts the pidfds one by one and the rest in one call.
func (o *Oracle) askSocket(ctx context.Context, batch []pending) {
	c, err := o.asking()
	if err != nil {
		fail(batch, err)
		return
	}
	var queries []workload.Query
	for i := range batch {
		if b := &batch[i]; b.q.By == ByPidfd {
			b.result.Answer, b.result.Err = c.ResolvePIDFD(ctx, b.p.pidfd)
		} else {
			queries = append(queries, b.q.Query)
		}
	}
	if len(queries) == 0 {
		return
	}
	results, err := c.Resolve(ctx, queries...)
	if err == nil && len(results) != len(queries) {
		err = fmt.Errorf("%d results for %d questions", len(results), len(queries))
	}
	for i := range batch {
		b := &batch[i]
		switch {
		case b.q.By == ByPidfd:
		case err != nil:
			b.result.Err = err
		default:
			b.result, results = results[0], results[1:]
		}
	}
}

func fail(batch []pending, err error) {
	for i := range batch {
		batch[i].result.Err = err
	}
}

// byItself is what the command line notes where no agent runs.
const byItself = "no agent at "

// errByItself means that the command line answered without an agent, and was not
// told of the test's engines.
var errByItself = errors.New("there was no agent, and the command line knows nothing of the engines")

// askCommand runs `who -o json` once. It gives the way that was gone: without an
// agent the command line answers by itself.
func (o *Oracle) askCommand(ctx context.Context, way Way, batch []pending) Way {
	argv := slices.Concat(o.opts.Command, []string{"--socket", o.opts.Socket, "who", "-o", "json"})
	if way == Alone {
		argv = append(argv, "--no-agent", "--timeout", askTimeout.String())
	} else {
		argv = append(argv, "--timeout", o.opts.Timeout.String())
	}
	for _, b := range batch {
		argv = append(argv, commandWord(b.q.Query))
	}
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), o.opts.Env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run() // its exit code tells of unknown ones too
	lines := slices.Collect(strings.Lines(stdout.String()))
	if len(lines) != len(batch) {
		fail(batch, fmt.Errorf("%d lines for %d questions: %w: %s", len(lines), len(batch), cmp.Or(err, errNoExit), strings.TrimSpace(stderr.String())))
		return way
	}
	if strings.Contains(stderr.String(), byItself) {
		way = Alone
		if len(o.opts.Env) == 0 {
			fail(batch, errByItself)
			return way
		}
	}
	for i := range batch {
		batch[i].raw = lines[i]
		batch[i].result.Answer, batch[i].result.Err = decodeAnswer(lines[i], commandWord(batch[i].q.Query))
	}
	return way
}

var errNoExit = errors.New("exit status 0")

// commandWord is a query as the command line takes it.
func commandWord(q workload.Query) string {
	switch {
	case q.PID != 0:
		return word(q.PID)
	case !q.Key.IsZero():
		return fmt.Sprintf("%d@%d%s", q.Key.PID, q.Key.Start, map[bool]string{true: "~"}[q.Key.Ticks])
	case q.CgroupPath != "":
		return "cgroup:" + q.CgroupPath
	}
	return "container:" + q.Container
}

// printed is the JSON of `pidigree who`, as its users may rely on it.
type printed struct {
	Query      string
	Status     string
	Exited     bool
	Reason     string
	Error      string
	Thread     workload.PID
	Containers []struct {
		ID, Name, Runtime, Namespace, Image string
		Aliases                             []string
		Labels                              map[string]string
	}
	Process *struct {
		PID            workload.PID
		StartTimeNs    uint64
		StartTimeTicks bool
		PidfsInode     uint64
		Comm           string
		PIDNamespaces  []workload.PIDNamespace
	}
}

// decodeAnswer makes an answer of a printed object.
func decodeAnswer(line, asked string) (workload.Answer, error) {
	var o printed
	if err := json.Unmarshal([]byte(line), &o); err != nil {
		return workload.Answer{}, fmt.Errorf("%w: %q", err, line)
	}
	if o.Query != asked {
		return workload.Answer{}, fmt.Errorf("asked about %q, answered about %q", asked, o.Query)
	}
	if o.Error != "" {
		if strings.HasSuffix(o.Error, workload.ErrNotFound.Error()) {
			return workload.Answer{}, fmt.Errorf("%s: %w", o.Error, workload.ErrNotFound)
		}
		return workload.Answer{}, errors.New(o.Error)
	}
	a := workload.Answer{Status: workload.Status(o.Status), Exited: o.Exited, Reason: o.Reason, Thread: o.Thread}
	for _, c := range o.Containers {
		n := &workload.Container{
			ID:   workload.ContainerID{Runtime: c.Runtime, Namespace: c.Namespace, ID: c.ID},
			Name: c.Name, Image: workload.ImageRef{Name: c.Image}, Labels: c.Labels,
		}
		for _, alias := range c.Aliases {
			n.Aliases = append(n.Aliases, workload.ContainerID{ID: lastWord(alias)})
		}
		a.Containers = append(a.Containers, n)
	}
	if p := o.Process; p != nil {
		a.Process = &workload.Process{
			Key:           workload.ProcessKey{PID: p.PID, Start: p.StartTimeNs, Ticks: p.StartTimeTicks, Inode: p.PidfsInode},
			Comm:          p.Comm,
			PIDNamespaces: p.PIDNamespaces,
		}
	}
	return a, nil
}

// score judges the answers after a look at which processes lived through them.
func (o *Oracle) score(way Way, batch []pending) []Verdict {
	lived, now := livedThrough(batch), report.SinceBoot()
	out := make([]Verdict, len(batch))
	for i := range batch {
		b := &batch[i]
		b.q.Way, b.q.Party, b.q.Lived = way, b.p.party, lived[i]
		if b.thread != 0 && b.q.Lived {
			b.q.Lived = b.p.hasThread(b.thread)
		}
		if b.q.Lived && b.result.Answer.Exited && b.q.aboutProcess() {
			b.q.Lived = !b.p.ending()
		}
		v, why := o.verdict(b.p, b.q, b.result)
		if b.result.Err == nil && v != Wrong {
			if bad := b.p.nsPID(b.result.Answer); bad != "" {
				v, why = Wrong, bad
			}
		}
		out[i] = v
		o.count(b, v, now)
		if v == Wrong {
			o.wrong(o.evidence(b, why))
		}
	}
	return out
}

// livedThrough asks the kernel once about all of them.
func livedThrough(batch []pending) []bool {
	fds := make([]unix.PollFd, len(batch))
	for i := range batch {
		fds[i] = unix.PollFd{Fd: int32(batch[i].p.pidfd), Events: unix.POLLIN}
	}
	for {
		if _, err := unix.Poll(fds, 0); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	lived := make([]bool, len(batch))
	for i := range fds {
		lived[i] = fds[i].Revents == 0
	}
	return lived
}

// count adds one verdict of now, in ns since boot, to the tally, and learns what a right answer tells.
func (o *Oracle) count(b *pending, v Verdict, now uint64) {
	p := b.p
	c := Cell{Group: p.party.groupName(), Way: b.q.Way, By: b.q.By, Age: Older, Reused: p.reused}
	age := time.Duration(now - p.born)
	switch {
	case !b.q.Lived:
		c.Age = Ended
	case age < 20*time.Millisecond:
		c.Age = Under20ms
	case age < 100*time.Millisecond:
		c.Age = Under100ms
	}
	o.tally.add(c, v)
	if (v == Unknown || v == Conflict) && c.Age == Older && !p.party.expectsDoubt() {
		o.doubt(b, v)
	}
	if v != Right || !b.q.aboutProcess() || b.result.Answer.Process == nil {
		return
	}
	k := b.result.Answer.Process.Key
	if k.Ticks || !p.is(k) { // a right answer may be about whoever has its PID now
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.own == 0 {
		p.own = k.Start
	}
}

func (p *Party) groupName() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.group
}
