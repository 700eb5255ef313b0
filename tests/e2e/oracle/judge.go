// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Question is one that was asked about a party's process.
type Question struct {
	Way   Way
	By    By
	Party *Party
	// Query is what was asked; zero for a pidfd.
	Query workload.Query
	// Lived: the process had not ended when the answer was there.
	Lived bool
}

// aboutProcess reports whether an answer has to name the process.
func (q Question) aboutProcess() bool { return q.By <= ByPidfd }

// verdict is what an answer about p is worth, and why it is wrong.
func (o *Oracle) verdict(p *process, q Question, r workload.Result) (Verdict, string) {
	if r.Err != nil {
		return o.failure(q, r.Err)
	}
	party := q.Party
	if q.aboutProcess() {
		other, v, why := o.instance(p, q, r.Answer)
		if v != Right {
			return party.last(q, r.Answer, v, why)
		}
		if other != nil {
			party = other
		}
	}
	v, why := party.identity(r.Answer, q)
	if !q.Lived && v != Wrong && v != Right {
		v = Gone
	}
	return party.last(q, r.Answer, v, why)
}

// failure is a question that got no answer.
func (o *Oracle) failure(q Question, err error) (Verdict, string) {
	switch {
	case errors.Is(err, workload.ErrNotFound) && q.Lived:
		return Unknown, ""
	case errors.Is(err, workload.ErrNotFound):
		return Gone, ""
	}
	o.tally.failed(q, err)
	return Failed, ""
}

// instance holds an answer to the process that was asked about. It gives the
// party of the process that the answer names instead, where that may be.
func (o *Oracle) instance(p *process, q Question, a workload.Answer) (*Party, Verdict, string) {
	n := a.Process
	switch {
	case n == nil && a.Status == workload.StatusUnknown:
		return nil, Right, ""
	case n == nil:
		return nil, Wrong, "it names no process"
	case p.is(n.Key) && a.Exited && q.Lived:
		return nil, Wrong, "it says that the process has ended, but it lives"
	case p.is(n.Key):
		return nil, Right, ""
	case q.Lived:
		return nil, Wrong, fmt.Sprintf("it names another process instance, %s", n.Key)
	case q.By != ByPID && q.By != ByThread:
		return nil, Wrong, fmt.Sprintf("asked about one instance, it names another, %s", n.Key)
	}
	// The PID is another process's by now. Is it one that we know?
	o.mu.Lock()
	other := o.met[n.Key.Inode]
	o.mu.Unlock()
	if other == nil || n.Key.Inode == 0 {
		return nil, Gone, ""
	}
	return other, Right, ""
}

// is reports whether the key can mean this process, as far as both say.
func (p *process) is(k workload.ProcessKey) bool {
	if k.PID != p.pid {
		return false
	}
	if k.Inode != 0 && p.inode != 0 {
		return k.Inode == p.inode
	}
	if p.met != 0 && k.Start > p.met {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ticks == 0 || k.Start == 0 || k.Start/workload.TickNS == p.ticks/workload.TickNS
}

// last lets the party's own judge speak.
func (p *Party) last(q Question, a workload.Answer, v Verdict, why string) (Verdict, string) {
	p.mu.Lock()
	judge := p.judge
	p.mu.Unlock()
	if judge == nil {
		return v, why
	}
	return judge(q, a, v, why)
}

// identity holds what an answer says to the truth.
func (p *Party) identity(a workload.Answer, q Question) (Verdict, string) {
	switch a.Status {
	case workload.StatusUnknown:
		return Unknown, ""
	case workload.StatusConflict:
		return Conflict, ""
	case workload.StatusHost:
		if !p.host {
			return Wrong, "it says host"
		}
		if len(a.Containers) > 0 {
			return Wrong, "it says host and names a container"
		}
		return Right, ""
	case workload.StatusContainer:
		if p.host {
			return Wrong, "it says container"
		}
		return p.container(a)
	}
	return Wrong, fmt.Sprintf("the status %q means nothing", a.Status)
}

// container holds the innermost container of an answer to the truth.
func (p *Party) container(a workload.Answer) (Verdict, string) {
	c := a.Container()
	if c == nil {
		return Wrong, "it says container and names none"
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.truth
	if t.ID != "" && c.ID.ID != t.ID && !slices.ContainsFunc(c.Aliases, func(id workload.ContainerID) bool { return id.ID == t.ID }) {
		return Wrong, "it names the container " + c.ID.String()
	}
	if t.ID == "" && len(p.claimed) < 8 {
		p.claimed[c.ID.ID] = true // held to the truth by SetID
	}
	if why := t.around(a.Containers[:len(a.Containers)-1]); why != "" {
		return Wrong, why
	}
	return p.describedLocked(c)
}

// describedLocked holds name, image and labels to the truth. What is not said
// yet is not wrong.
func (p *Party) describedLocked(c *workload.Container) (Verdict, string) {
	t, v := p.truth, Right
	switch {
	case t.Name == "" || c.Name == t.Name || slices.Contains(p.also, c.Name):
	case c.Name == "":
		v = Partial
	default:
		return Wrong, fmt.Sprintf("it gives the name %q", c.Name)
	}
	switch {
	case t.Image == "" || c.Image.Name == t.Image:
	case c.Image.Name == "":
		v = Partial
	default:
		return Wrong, fmt.Sprintf("it gives the image %q", c.Image.Name)
	}
	if t.NoLabels {
		return v, ""
	}
	for k, want := range t.Labels {
		got, ok := c.Labels[k]
		switch {
		case got == want:
		case !ok:
			v = Partial
		default:
			return Wrong, fmt.Sprintf("it gives the label %s=%q", k, got)
		}
	}
	return v, ""
}

// around holds the outer containers of an answer to the truth.
func (t Truth) around(outer []*workload.Container) string {
	if len(outer) == 0 {
		return ""
	}
	if len(outer) != len(t.Within) {
		return fmt.Sprintf("it puts %d containers around it", len(outer))
	}
	for i, c := range outer {
		w := t.Within[i].Truth()
		if w.ID != "" && c.ID.ID != w.ID || c.Name != "" && w.Name != "" && c.Name != w.Name {
			return "it puts " + c.ID.String() + " around it"
		}
	}
	return ""
}

// nsPID compares the namespace PID of an answer with what the process itself sees.
func (p *process) nsPID(a workload.Answer) string {
	if a.Process == nil || len(a.Process.PIDNamespaces) == 0 || !p.is(a.Process.Key) {
		return ""
	}
	got := a.Process.PIDNamespaces[len(a.Process.PIDNamespaces)-1].PID
	if got == p.nspid {
		return ""
	}
	return fmt.Sprintf("it gives the PID %d in its namespace, where it is %d", got, p.nspid)
}

// lastWord is the part of an id's printed form behind the last slash.
func lastWord(s string) string { return s[strings.LastIndexByte(s, '/')+1:] }
