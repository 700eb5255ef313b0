// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Way is how a question reaches pidigree.
type Way uint8

// The ways.
const (
	Library Way = iota // an agent in this process
	Socket             // pkg/client
	Command            // `pidigree who -o json`
	Alone              // the same with no agent
	ways
)

// By is what a question asks with.
type By uint8

// What can be asked with.
const (
	ByPID        By = iota
	ByThread        // a thread that is not the leader
	ByInode         // PID and pidfs inode
	ByTicks         // PID and the start of /proc/PID/stat
	ByStart         // PID and the start that pidigree itself gave
	ByPidfd         // client.ResolvePIDFD
	ByCgroupID      // of a cgroup that the process is in
	ByCgroupPath    //
	ByID            // the container's
	ByName          //
	bys
)

// Age is how old the process was when the answer came.
type Age uint8

// The ages.
const (
	Under20ms Age = iota
	Under100ms
	Older
	Ended // it did not live through the question
	ages
)

// Verdict is what an answer was worth.
type Verdict uint8

// The verdicts.
const (
	Right    Verdict = iota
	Partial          // the right container, of which not all is known yet
	Unknown          // or not found, of a process that lives
	Conflict         //
	Wrong            //
	Gone             // the process ended meanwhile: it says nothing
	Failed           // no answer: nobody could be asked
	verdicts
)

var (
	wayNames     = [ways]string{"library", "socket", "command", "alone"}
	byNames      = [bys]string{"pid", "thread", "pid+inode", "pid+ticks", "pid+start", "pidfd", "cgroup id", "cgroup path", "container id", "name"}
	ageNames     = [ages]string{"<20ms", "<100ms", "older", "ended"}
	verdictNames = [verdicts]string{"right", "partial", "unknown", "conflict", "wrong", "gone", "failed"}
)

// String names the way.
func (w Way) String() string { return wayNames[w] }

// String names what is asked with.
func (b By) String() string { return byNames[b] }

// String names the age.
func (a Age) String() string { return ageNames[a] }

// String names the verdict.
func (v Verdict) String() string { return verdictNames[v] }

// Cell is what is counted apart.
type Cell struct {
	Group  string
	Way    Way
	By     By
	Age    Age
	Reused bool // the PID had been another process's just before
}

// Counts are numbers of answers, by verdict.
type Counts [verdicts]uint64

// All is how many lookups there were.
func (c Counts) All() (n uint64) {
	for _, v := range c {
		n += v
	}
	return n
}

// Judged is how many answers could be held to account: those about a process
// that lived, and were given.
func (c Counts) Judged() uint64 { return c.All() - c[Gone] - c[Failed] }

// Rate is the part of the judged answers with this verdict, 0 to 1.
func (c Counts) Rate(v Verdict) float64 {
	if c.Judged() == 0 {
		return 0
	}
	return float64(c[v]) / float64(c.Judged())
}

// Score is what the oracle has counted since it started, or since another Score.
type Score struct {
	Cells map[Cell]Counts
	// Processes is how many distinct ones have reported, Reused of them on a PID
	// that had just been another's.
	Processes, Reused uint64
	// Known are the times from a process's beginning, as far as it is known
	// exactly, to the first right answer about it, sorted.
	Known []time.Duration
	// Never counts processes that lived and were still not known after Patience.
	Never uint64
	// Strays counts connections that brought no report that could be used.
	Strays uint64
	// Failures say for each way why the last question was not answered; LastStray
	// why the last connection brought no report.
	Failures  [ways]string
	LastStray string
}

// Sum adds the cells that are chosen; nil chooses all.
func (s Score) Sum(choose func(Cell) bool) (sum Counts) {
	for c, n := range s.Cells {
		if choose == nil || choose(c) {
			for v := range n {
				sum[v] += n[v]
			}
		}
	}
	return sum
}

// Group is the sum of a group's cells.
func (s Score) Group(name string) Counts { return s.Sum(func(c Cell) bool { return c.Group == name }) }

// Settled is the sum of what was asked about processes of a group that were
// older than 100 ms, without containers' own questions.
func (s Score) Settled(group string) Counts {
	return s.Sum(func(c Cell) bool { return c.Group == group && c.Age == Older })
}

// Since is what has come since an earlier score.
func (s Score) Since(t Score) Score {
	d := s
	d.Cells = map[Cell]Counts{}
	for c, n := range s.Cells {
		for v := range n {
			n[v] -= t.Cells[c][v]
		}
		if n.All() > 0 {
			d.Cells[c] = n
		}
	}
	d.Processes, d.Reused, d.Never, d.Strays = s.Processes-t.Processes, s.Reused-t.Reused, s.Never-t.Never, s.Strays-t.Strays
	return d
}

// Plus is this score and another, of different times. Times to known are left out.
func (s Score) Plus(t Score) Score {
	sum := s
	sum.Known = nil
	sum.Cells = maps.Clone(t.Cells)
	if sum.Cells == nil {
		sum.Cells = map[Cell]Counts{}
	}
	for c, n := range s.Cells {
		for v := range n {
			n[v] += t.Cells[c][v]
		}
		sum.Cells[c] = n
	}
	sum.Processes, sum.Reused, sum.Never, sum.Strays = s.Processes+t.Processes, s.Reused+t.Reused, s.Never+t.Never, s.Strays+t.Strays
	return sum
}

// Percentile gives a time to known, p from 0 to 1.
func (s Score) Percentile(p float64) time.Duration {
	if len(s.Known) == 0 {
		return 0
	}
	return s.Known[min(len(s.Known)-1, int(p*float64(len(s.Known))))]
}

// String is a table by way, by question, by age and by group.
func (s Score) String() string {
	var b strings.Builder
	all := s.Sum(nil)
	fmt.Fprintf(&b, "%d lookups about %d processes (%d on reused PIDs): %d wrong; unknown %.4f %%, conflict %.4f %% of those that lived; %d never known, %d strays\n",
		all.All(), s.Processes, s.Reused, all[Wrong], 100*all.Rate(Unknown), 100*all.Rate(Conflict), s.Never, s.Strays)
	if len(s.Known) > 0 {
		fmt.Fprintf(&b, "time to known of %d processes: p50 %s, p99 %s, max %s\n", len(s.Known), round(s.Percentile(0.5)), round(s.Percentile(0.99)), round(s.Percentile(1)))
	}
	for way, why := range s.Failures {
		if why != "" {
			fmt.Fprintf(&b, "last failure, %s: %s\n", Way(way), why)
		}
	}
	fmt.Fprintf(&b, "%-24s %10s", "", "lookups")
	for _, v := range verdictNames {
		fmt.Fprintf(&b, " %9s", v)
	}
	b.WriteByte('\n')
	s.rows(&b, "", func(c Cell) string { return c.Way.String() })
	s.rows(&b, "by ", func(c Cell) string { return c.By.String() })
	s.rows(&b, "age ", func(c Cell) string { return c.Age.String() })
	s.rows(&b, "", func(c Cell) string { return map[bool]string{true: "PID reused", false: "PID fresh"}[c.Reused] })
	s.rows(&b, "group ", func(c Cell) string { return c.Group })
	return b.String()
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

func (s Score) rows(b *strings.Builder, prefix string, key func(Cell) string) {
	sums := map[string]Counts{}
	var names []string
	for c, n := range s.Cells {
		k := key(c)
		sum, ok := sums[k]
		if !ok {
			names = append(names, k)
		}
		for v := range n {
			sum[v] += n[v]
		}
		sums[k] = sum
	}
	slices.Sort(names)
	for _, k := range names {
		fmt.Fprintf(b, "%-24s %10d", prefix+k, sums[k].All())
		for _, n := range sums[k] {
			fmt.Fprintf(b, " %9d", n)
		}
		b.WriteByte('\n')
	}
}

// tally is where it is counted.
type tally struct {
	processes, reused, never atomic.Uint64

	mu       sync.Mutex // guards all below
	cells    map[Cell]Counts
	known    []time.Duration
	strays   uint64
	stranger string // why the last stray was one
	failures [ways]string
	wrongs   int
	doubts   []string
}

func (t *tally) add(c Cell, v Verdict) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cells == nil {
		t.cells = map[Cell]Counts{}
	}
	n := t.cells[c]
	n[v]++
	t.cells[c] = n
}

func (t *tally) knownAfter(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.known = append(t.known, d)
}

func (t *tally) stray(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.strays++
	t.stranger = err.Error()
}

func (t *tally) failed(q Question, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.failures[q.Way] = "by " + q.By.String() + ": " + err.Error()
}

// Score is what has been counted up to now.
func (o *Oracle) Score() Score {
	t := &o.tally
	s := Score{Processes: t.processes.Load(), Reused: t.reused.Load(), Never: t.never.Load()}
	t.mu.Lock()
	defer t.mu.Unlock()
	s.Cells = make(map[Cell]Counts, len(t.cells))
	maps.Copy(s.Cells, t.cells)
	s.Known = slices.Clone(t.known)
	slices.Sort(s.Known)
	s.Strays, s.LastStray, s.Failures = t.strays, t.stranger, t.failures
	return s
}
