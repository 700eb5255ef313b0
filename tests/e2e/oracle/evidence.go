// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// evidence is all that there is about one wrong answer.
type evidence struct {
	what string
	text string
}

// maxEvidence bounds how many wrong answers are told in full.
const maxEvidence = 10

// wrong fails the test.
func (o *Oracle) wrong(e evidence) {
	o.tally.mu.Lock()
	o.tally.wrongs++
	n := o.tally.wrongs
	o.tally.mu.Unlock()
	if n <= maxEvidence {
		o.tb.Errorf("WRONG: %s\n%s", e.what, e.text)
	}
}

// doubt keeps the first answers about processes older than 100 ms that were
// unknown or conflict though nothing in the party's truth asks for that.
func (o *Oracle) doubt(b *pending, v Verdict) {
	o.tally.mu.Lock()
	full := len(o.tally.doubts) >= maxEvidence
	o.tally.mu.Unlock()
	if full {
		return
	}
	e := o.evidence(b, v.String())
	o.tally.mu.Lock()
	defer o.tally.mu.Unlock()
	o.tally.doubts = append(o.tally.doubts, e.what+"\n"+e.text)
}

// Doubts tells the first few answers about grown processes that were unknown or
// conflict, with their evidence, for a test that does not accept them.
func (o *Oracle) Doubts() []string {
	o.tally.mu.Lock()
	defer o.tally.mu.Unlock()
	return slices.Clone(o.tally.doubts)
}

// ForgetDoubts begins Doubts anew, for a score that begins now.
func (o *Oracle) ForgetDoubts() {
	o.tally.mu.Lock()
	defer o.tally.mu.Unlock()
	o.tally.doubts = nil
}

// evidence gathers what can be seen now.
func (o *Oracle) evidence(b *pending, why string) evidence {
	p := b.p
	var s strings.Builder
	put := func(name string, text string) { fmt.Fprintf(&s, "--- %s\n%s\n", name, strings.TrimRight(text, "\n")) }
	t := p.party.Truth()
	put("truth", fmt.Sprintf("%s: id %q, name %q, image %q, labels %v; the process has the PID %d, there %d, inode %d, born %d ns after boot; age %s; PID reused %t",
		p.party, t.ID, t.Name, t.Image, t.Labels, p.pid, p.nspid, p.inode, p.born, p.age(), p.reused))
	put("question", fmt.Sprintf("%s by %s: %+v; it lived through the answer: %t", b.q.Way, b.q.By, b.q.Query, b.q.Lived))
	answer, err := json.Marshal(b.result.Answer)
	if err != nil {
		answer = []byte(err.Error())
	}
	put("answer", string(answer)+b.raw)
	if b.result.Err != nil {
		put("error", b.result.Err.Error())
	}
	for _, name := range []string{"cgroup", "stat", "cmdline"} {
		text, err := os.ReadFile(procPath(p.pid, name))
		if err != nil {
			text = []byte(err.Error())
		}
		put(procPath(p.pid, name), strings.ReplaceAll(string(text), "\x00", " "))
	}
	for _, ns := range []string{"pid", "mnt", "cgroup"} {
		link, err := os.Readlink(procPath(p.pid, "ns", ns))
		put("ns/"+ns, fmt.Sprint(link, err))
	}
	put("explain, now", o.explain(p.pid))
	return evidence{fmt.Sprintf("%s, asked by %s about process %d of %s: %s", b.q.Way, b.q.By, p.pid, p.party, why), s.String()}
}

// explain asks once more, for the reasons.
func (o *Oracle) explain(pid workload.PID) string {
	ctx, cancel := context.WithTimeout(o.ctx, 5*time.Second)
	defer cancel()
	q := workload.Query{PID: pid, Explain: true}
	var r workload.Result
	switch {
	case o.opts.Library != nil:
		r = o.opts.Library.Resolve(ctx, q)
	case o.opts.Socket != "":
		c, err := o.asking()
		if err != nil {
			return err.Error()
		}
		rs, err := c.Resolve(ctx, q)
		if err != nil || len(rs) != 1 {
			return fmt.Sprint(err)
		}
		r = rs[0]
	}
	var text strings.Builder
	fmt.Fprintf(&text, "status %s, reason %q, error %v\n", r.Answer.Status, r.Answer.Reason, r.Err)
	for _, h := range r.Explanation {
		fmt.Fprintf(&text, "%s: %s (%s, %d)\n", h.What, h.Detail, h.Source, h.At)
	}
	return text.String()
}
