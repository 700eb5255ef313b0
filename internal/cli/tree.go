// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/pidigree/pidigree/internal/plain"
	"github.com/pidigree/pidigree/pkg/workload"
)

// maxIndent is how many levels of a tree are drawn; what is deeper stands below the last.
const maxIndent = 24

// branch is a process at its depth in a tree.
type branch struct {
	entity workload.Entity
	depth  int
}

// leaf is a process while the tree is made.
type leaf struct {
	entity   workload.Entity
	children []*leaf
	placed   bool
}

// forest puts processes below their parents, the oldest first. A parent is found by
// its key, never by its PID alone: who has a parent that is not there, or that is not
// certain, stands at the top.
func forest(list []workload.Entity) []branch {
	byPID := map[workload.PID][]*leaf{}
	leaves := make([]*leaf, 0, len(list))
	for _, e := range list {
		l := &leaf{entity: e}
		leaves = append(leaves, l)
		byPID[e.Process.Key.PID] = append(byPID[e.Process.Key.PID], l)
	}
	slices.SortStableFunc(leaves, func(a, b *leaf) int {
		x, y := a.entity.Process.Key, b.entity.Process.Key
		return cmp.Or(cmp.Compare(x.Start, y.Start), cmp.Compare(x.PID, y.PID))
	})
	var tops []*leaf
	for _, l := range leaves {
		if p := parentOf(l, byPID); p != nil && p != l {
			p.children = append(p.children, l)
		} else {
			tops = append(tops, l)
		}
	}
	out := make([]branch, 0, len(list))
	out = place(out, tops)
	return place(out, leaves) // what only hangs on itself, which no kernel says
}

// place lays leaves out with all that is below them. It does not call itself: a
// chain may be as deep as there are processes.
func place(out []branch, tops []*leaf) []branch {
	type step struct {
		l     *leaf
		depth int
	}
	var stack []step
	for _, l := range slices.Backward(tops) {
		stack = append(stack, step{l, 0})
	}
	for len(stack) > 0 {
		at := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if at.l.placed {
			continue
		}
		at.l.placed = true
		out = append(out, branch{at.l.entity, at.depth})
		for _, c := range slices.Backward(at.l.children) {
			stack = append(stack, step{c, at.depth + 1})
		}
	}
	return out
}

// parentOf finds the parent that a process has now, where that was read; else the one
// that it was last seen with.
func parentOf(l *leaf, byPID map[workload.PID][]*leaf) *leaf {
	p := l.entity.Process
	if d := p.Detail; d != nil {
		for _, c := range byPID[d.Parent.PID] {
			if c.entity.Process.Key.Same(d.Parent) {
				return c
			}
		}
		return nil
	}
	var best *leaf
	for _, c := range byPID[p.Parent] {
		if k := c.entity.Process.Key; startedBefore(k, p.Key) && (best == nil || startedBefore(best.entity.Process.Key, k)) {
			best = c
		}
	}
	// Whoever had the PID when the child was made is its parent; the last one that began
	// before it may have ended before it, too.
	if best == nil || best.entity.Gone && !outlived(best.entity.Process, p) {
		return nil
	}
	return best
}

func startedBefore(a, b workload.ProcessKey) bool {
	if a.Ticks || b.Ticks {
		return a.Start/workload.TickNS < b.Start/workload.TickNS
	}
	return a.Start < b.Start
}

// outlived reports whether a process lived when another one began.
func outlived(p, child *workload.Process) bool {
	return p.Exit != nil && p.Exit.At != 0 && child.Key.Start != 0 && uint64(p.Exit.At) > child.Key.Start
}

// limb draws where in a tree a command stands.
func limb(depth int, comm string) string {
	if depth <= 0 {
		return comm
	}
	return strings.Repeat("  ", min(depth, maxIndent)-1) + `\_ ` + comm
}

// commandLine is a command line for people: what would not be one word is quoted.
func commandLine(d *workload.ProcessDetail) string {
	switch {
	case d == nil:
		return ""
	case d.CommandHidden:
		return "(not for you)"
	}
	words := make([]string, 0, len(d.Command)+1)
	for _, a := range d.Command {
		if a == "" || strings.ContainsAny(a, " \t\n\"'\\") {
			a = strconv.Quote(a)
		}
		words = append(words, a)
	}
	if slices.Contains(d.Truncated, "command") {
		words = append(words, plain.Ellipsis)
	}
	return strings.Join(words, " ")
}

// userText names the effective user, and the real one where that is another.
func userText(d *workload.ProcessDetail) string {
	if d == nil {
		return ""
	}
	text := strconv.FormatUint(uint64(d.EUID), 10)
	if d.User != "" {
		text = d.User + " (" + text + ")"
	}
	if d.UID != d.EUID {
		text += ", for " + strconv.FormatUint(uint64(d.UID), 10)
	}
	return text
}

// treeEntities prints processes as a tree when all have come.
type treeEntities struct {
	tableEntities
	list []workload.Entity
}

func (p *treeEntities) entity(e workload.Entity) error {
	if e.Process != nil {
		p.list = append(p.list, e)
	}
	return nil
}

func (p *treeEntities) flush() error {
	for _, b := range forest(p.list) {
		row := p.processRow(b.entity)
		row[1].text = limb(b.depth, row[1].text)
		p.rows = append(p.rows, row)
	}
	return p.tableEntities.flush()
}

type detailJSON struct {
	Command           []string          `json:"command,omitempty"`
	CommandHidden     bool              `json:"commandHidden,omitempty"`
	UID               uint32            `json:"uid"`
	EUID              uint32            `json:"euid"`
	User              string            `json:"user,omitempty"`
	Parent            *parentJSON       `json:"parent,omitempty"`
	Namespaces        map[string]uint64 `json:"namespaces,omitempty"`
	TruncatedInDetail []string          `json:"truncated,omitempty"`
}

// parentJSON is the parent at the moment of the reading; parentPid is the one last seen.
type parentJSON struct {
	PID            uint32 `json:"pid"`
	StartTimeNs    uint64 `json:"startTimeNs"`
	StartTimeTicks bool   `json:"startTimeTicks,omitempty"`
	PidfsInode     uint64 `json:"pidfsInode,omitempty"`
}

func detailObject(d *workload.ProcessDetail) *detailJSON {
	if d == nil {
		return nil
	}
	o := &detailJSON{
		Command: d.Command, CommandHidden: d.CommandHidden, UID: d.UID, EUID: d.EUID, User: d.User,
		Namespaces: d.Namespaces, TruncatedInDetail: d.Truncated,
	}
	if k := d.Parent; !k.IsZero() {
		o.Parent = &parentJSON{uint32(k.PID), k.Start, k.Ticks, k.Inode}
	}
	return o
}

// familyJSON: ancestors from the parent upwards, children by age.
type familyJSON struct {
	Ancestors []processJSON `json:"ancestors"`
	Children  []processJSON `json:"children"`
	Truncated []string      `json:"truncated,omitempty"`
}

func familyObject(f *workload.Family) *familyJSON {
	if f == nil {
		return nil
	}
	return &familyJSON{list(convert(f.Ancestors, relativeObject)), list(convert(f.Children, relativeObject)), f.Truncated}
}

func relativeObject(p workload.Process) processJSON { return processObject(&p) }
