// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"cmp"
	"context"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

const (
	// maxAncestors bounds a chain of parents.
	maxAncestors = 64
	// maxChildren bounds the children that are given, maxCandidates those that are read.
	maxChildren   = 256
	maxCandidates = 4096
)

// family gives the processes above and below one, nil where it is gone. Each link
// was read from the processes themselves, which their /proc directories hold: a
// PID alone links nobody.
func (r *Resolver) family(ctx context.Context, p *workload.Process) *workload.Family {
	if p == nil || p.Exit != nil {
		return nil
	}
	self, err := r.open(p.Key.PID)
	if err != nil {
		return nil
	}
	defer unix.Close(self.dir)
	if !self.key.Same(p.Key) {
		return nil
	}
	f := &workload.Family{}
	r.ancestors(ctx, self, f)
	r.children(ctx, self, f)
	if _, err := readStat(self.dir); err != nil {
		return nil // it ended meanwhile: whose children they were is not certain
	}
	return f
}

func (r *Resolver) ancestors(ctx context.Context, of instance, f *workload.Family) {
	for k := r.parentOf(of); !k.IsZero() && ctx.Err() == nil; {
		if len(f.Ancestors) == maxAncestors {
			f.Truncated = append(f.Truncated, "ancestors")
			return
		}
		p := r.relative(ctx, k)
		if p == nil {
			return
		}
		f.Ancestors = append(f.Ancestors, *p)
		k = r.parentOfKey(k)
	}
}

// parentOfKey is parentOf by a key, zero where that process is gone.
func (r *Resolver) parentOfKey(k workload.ProcessKey) workload.ProcessKey {
	i, err := r.open(k.PID)
	if err != nil {
		return workload.ProcessKey{}
	}
	defer unix.Close(i.dir)
	if !i.key.Same(k) {
		return workload.ProcessKey{}
	}
	return r.parentOf(i)
}

// relative gives what is known of a process, nil where nothing is.
func (r *Resolver) relative(ctx context.Context, k workload.ProcessKey) *workload.Process {
	a, err := r.Key(ctx, k)
	if err != nil {
		return nil
	}
	return a.Process
}

// children are among those that were last seen to have this parent, and among those
// whose parent has ended, which somebody has adopted. Who it is now, each says itself.
func (r *Resolver) children(ctx context.Context, of instance, f *workload.Family) {
	candidates := r.candidates(of.key.PID)
	if len(candidates) > maxCandidates {
		candidates, f.Truncated = candidates[:maxCandidates], append(f.Truncated, "children")
	}
	for _, p := range candidates {
		if ctx.Err() != nil || !r.isChild(p, of) {
			continue
		}
		if len(f.Children) == maxChildren {
			f.Truncated = append(f.Truncated, "children")
			break
		}
		f.Children = append(f.Children, *p)
	}
	f.Truncated = slices.Compact(f.Truncated)
}

// candidates are the living processes that may have this parent, the oldest first.
func (r *Resolver) candidates(parent workload.PID) (list []*workload.Process) {
	var orphans []*workload.Process
	living := map[workload.PID]uint64{} // their starts
	processes := workload.Selector{Kinds: []workload.Kind{workload.KindProcess}}
	for e := range r.store.All(processes) {
		if e.Process != nil && e.Process.Exit == nil {
			living[e.Process.Key.PID] = e.Process.Key.Start
		}
	}
	for e := range r.store.All(processes) {
		p := e.Process
		if p == nil || p.Exit != nil || p.Key.PID == parent {
			continue
		}
		start, lives := living[p.Parent]
		switch {
		case p.Parent == parent:
			list = append(list, p)
		case !lives || start > p.Key.Start: // its PID is nobody's, or of one that came later
			orphans = append(orphans, p)
		}
	}
	byStart := func(a, b *workload.Process) int {
		return cmp.Or(cmp.Compare(a.Key.Start, b.Key.Start), cmp.Compare(a.Key.PID, b.Key.PID))
	}
	slices.SortFunc(list, byStart)
	slices.SortFunc(orphans, byStart)
	list = append(list, orphans[:min(len(orphans), maxCandidates)]...)
	return list
}

// isChild: its parent's PID is that of a process that we hold, and which the caller
// finds alive afterwards: so the number was that one's all the time.
func (r *Resolver) isChild(p *workload.Process, of instance) bool {
	i, err := r.open(p.Key.PID)
	if err != nil {
		return false
	}
	defer unix.Close(i.dir)
	return i.key.Same(p.Key) && i.parent == of.key.PID
}
