// SPDX-License-Identifier: Apache-2.0

package tombfile

import (
	"slices"
	"time"

	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// Source is the provenance of what a File brought across a restart.
const Source = "before restart"

// The words that the timeline of a container gets whose end nobody saw.
const (
	markSeen  = "last seen alive"
	markFound = "found gone"
)

// Host is the host as it is now.
type Host struct {
	// Now is CLOCK_BOOTTIME, Wall the same instant of the wall clock.
	Now  workload.KTime
	Wall time.Time
	// Grace is how long what is gone stays answerable.
	Grace time.Duration
	// Alive reports whether this very process is there, or may be.
	Alive func(workload.ProcessKey) bool
}

// Ended says what has ended by now, of all that the file knows. What lived when
// it was written and does no more ended unseen, between two known instants. What
// cannot have been is left out: an instant still to come, an end before its
// beginning.
func (p *Past) Ended(h Host) store.Past {
	var out store.Past
	if p == nil || p.Seen <= 0 || p.Seen > h.Now {
		return out
	}
	for _, r := range p.Containers {
		if c, ok := p.container(r, h); ok {
			out.Containers = append(out.Containers, c)
		}
	}
	out.Pods, out.Tasks = p.pods(out.Containers, h), p.tasks(out.Containers, h)
	for _, r := range p.Processes {
		if q, ok := p.process(r, h); ok {
			out.Processes = append(out.Processes, q)
		}
	}
	// The oldest first, as they came: the newest are kept where there are too many.
	slices.SortFunc(out.Containers, func(a, b store.PastContainer) int { return compare(a.Since, b.Since, a.ID.String(), b.ID.String()) })
	slices.SortFunc(out.Pods, func(a, b store.PastPod) int { return compare(a.Since, b.Since, a.UID, b.UID) })
	slices.SortFunc(out.Tasks, func(a, b store.PastTask) int { return compare(a.Since, b.Since, a.ARN, b.ARN) })
	slices.SortFunc(out.Processes, func(a, b store.PastProcess) int { return compare(a.Since, b.Since, a.Key.String(), b.Key.String()) })
	return out
}

// pods gives those that were known. One that was there when the file was written
// has ended if each of its containers has, of which there was one at least: that of
// the others the sources will say.
func (p *Past) pods(cs []store.PastContainer, h Host) (out []store.PastPod) {
	ended := endedAll(cs, func(c *workload.Container) string {
		if c.Pod == nil {
			return ""
		}
		return c.Pod.UID
	})
	for _, r := range p.Pods {
		q := store.PastPod{Pod: r.Pod.Clone()}
		q.Missing = nil
		q.Sources = p.remembered(q.Sources)
		switch {
		case r.Gone:
			q.Ended, q.Since = true, within(r.Since, h)
		case ended[r.Pod.UID]:
			q.Ended, q.Since, q.Phase = true, h.Now, ""
		}
		if q.Since == 0 || q.Since+workload.KTime(h.Grace) > h.Now {
			out = append(out, q)
		}
	}
	return out
}

// tasks gives those that were known, as pods does.
func (p *Past) tasks(cs []store.PastContainer, h Host) (out []store.PastTask) {
	ended := endedAll(cs, func(c *workload.Container) string {
		if c.Task == nil {
			return ""
		}
		return c.Task.ARN
	})
	for _, r := range p.Tasks {
		q := store.PastTask{Task: r.Task.Clone()}
		q.Missing, q.Sources = nil, p.remembered(q.Sources)
		switch {
		case r.Gone:
			q.Ended, q.Since = true, within(r.Since, h)
		case ended[r.Task.ARN]:
			q.Ended, q.Since, q.Known = true, h.Now, ""
		}
		if q.Since == 0 || q.Since+workload.KTime(h.Grace) > h.Now {
			out = append(out, q)
		}
	}
	return out
}

// endedAll says of what containers belong to whether all that are known have ended.
func endedAll(cs []store.PastContainer, of func(*workload.Container) string) map[string]bool {
	ended := map[string]bool{}
	for _, c := range cs {
		key := of(c.Container)
		if key == "" {
			continue
		}
		others, known := ended[key]
		ended[key] = c.Ended && (others || !known)
	}
	return ended
}

// remembered adds to the sources that it was brought across a restart.
func (p *Past) remembered(sources []workload.Provenance) []workload.Provenance {
	if slices.ContainsFunc(sources, func(s workload.Provenance) bool { return s.Source == Source }) {
		return sources
	}
	return append(sources, workload.Provenance{Source: Source, At: p.Seen})
}

func compare(a, b workload.KTime, as, bs string) int {
	switch {
	case a != b:
		return int(min(max(a-b, -1), 1))
	case as < bs:
		return -1
	case as > bs:
		return 1
	}
	return 0
}

func (p *Past) container(r Record, h Host) (store.PastContainer, bool) {
	c := r.Container.Clone()
	c.Sources = p.remembered(c.Sources)
	c.Missing = nil
	past := store.PastContainer{Container: c}
	switch {
	case r.Gone:
		past.Ended, past.Since = true, within(r.Since, h)
	case c.Run == nil || c.Run.Init.IsZero():
		c.State = workload.StateUnknown // it may have started since
	case c.Run.Exit != nil:
		past.Ended, past.Since = !h.Alive(c.Run.Init), within(c.Run.Exit.At, h)
	case h.Alive(c.Run.Init):
		c.State = workload.StateUnknown // not for us to say: the sources will
	default:
		past.Ended, past.Since = true, h.Now
		p.endUnseen(c, h)
	}
	c.State = ended(past.Ended, c.State)
	return past, past.Since == 0 || past.Since+workload.KTime(h.Grace) > h.Now
}

func ended(yes bool, s workload.State) workload.State {
	if yes {
		return workload.StateExited
	}
	return s
}

// endUnseen is the end of a container that lived when the file was written: its
// init's where that is known.
func (p *Past) endUnseen(c *workload.Container, h Host) {
	e := workload.Exit{}
	if init, ok := p.Processes[c.Run.Init]; ok && init.Gone && init.Process.Exit != nil {
		e = *init.Process.Exit
	}
	c.Exit, c.Run.Exit = &e, &e
	if e.At == 0 {
		c.Timeline = append(c.Timeline, workload.Mark{What: markSeen, Source: Source, At: p.Seen}, workload.Mark{What: markFound, Source: Source, At: h.Now})
	}
}

// within is an instant that a record names, where it can be.
func within(at workload.KTime, h Host) workload.KTime {
	if at <= 0 || at > h.Now {
		return h.Now
	}
	return at
}

func (p *Past) process(r Record, h Host) (store.PastProcess, bool) {
	q := store.PastProcess{Process: r.Process.Clone(), Since: h.Now}
	k := q.Key
	began := max(q.Started, workload.KTime(k.Start))
	if began <= 0 || began > h.Now {
		return q, false
	}
	switch {
	case !r.Gone && h.Alive(k):
		return q, false
	case !r.Gone:
		q.Exit, q.SeenUntil = &workload.Exit{}, p.Seen
		q.Reason = p.unseen(q.Reason, h)
	case q.Exit == nil, q.Exit.At > h.Now, q.Exit.At != 0 && q.Exit.At < workload.KTime(k.Start)-workload.TickNS:
		return q, false
	default:
		q.Since = within(max(r.Since, q.Exit.At), h)
	}
	return q, q.Since+workload.KTime(h.Grace) > h.Now
}

// unseen says between which instants a process ended.
func (p *Past) unseen(reason string, h Host) string {
	s := "ended unseen, between " + h.clock(p.Seen) + " and " + h.clock(h.Now)
	if reason == "" {
		return s
	}
	return reason + "; " + s
}

func (h Host) clock(at workload.KTime) string {
	return h.Wall.Add(time.Duration(at - h.Now)).UTC().Format(time.RFC3339)
}
