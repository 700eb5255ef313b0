// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/workload"
)

// aProcess is PID@START with the parent that it was last seen with.
func aProcess(pid workload.PID, start uint64, parent workload.PID) *workload.Process {
	return &workload.Process{Key: workload.ProcessKey{PID: pid, Start: start}, Parent: parent}
}

func endedAt(p *workload.Process, at workload.KTime) *workload.Process {
	p.Exit = &workload.Exit{Known: true, At: at}
	return p
}

// below says which parent was read.
func below(p *workload.Process, parent workload.ProcessKey) *workload.Process {
	p.Detail = &workload.ProcessDetail{Parent: parent}
	return p
}

func rounded(p *workload.Process) *workload.Process {
	p.Key.Ticks = true
	return p
}

func TestATreeLinksByKeyAndNeverByPIDAlone(t *testing.T) {
	const ms = 1_000_000
	cases := map[string]struct {
		processes []*workload.Process
		want      string
	}{
		"a parent is the one that was read": {
			[]*workload.Process{aProcess(1, 1, 0), aProcess(2, 2, 1), below(aProcess(3, 3, 2), workload.ProcessKey{PID: 1, Start: 1})},
			"1@1, -2@2, -3@3",
		},
		"a parent that was read and is another's PID by now is none": {
			[]*workload.Process{aProcess(1, 9, 0), below(aProcess(3, 3, 1), workload.ProcessKey{PID: 1, Start: 1})},
			"3@3, 1@9",
		},
		"without a reading it is who had the PID at the child's start": {
			[]*workload.Process{endedAt(aProcess(7, 10, 0), 15), endedAt(aProcess(7, 20, 0), 40), aProcess(7, 50, 0), endedAt(aProcess(8, 30, 7), 60)},
			"7@10, 7@20, -8@30, 7@50",
		},
		"who had ended before the child began is not its parent": {
			[]*workload.Process{endedAt(aProcess(7, 10, 0), 15), aProcess(8, 30, 7)},
			"7@10, 8@30",
		},
		"nor is one of whom it is not known when it ended": {
			[]*workload.Process{endedAt(aProcess(7, 10, 0), 0), aProcess(8, 30, 7)},
			"7@10, 8@30",
		},
		"nor one that began later": {
			[]*workload.Process{aProcess(7, 40, 0), aProcess(8, 30, 7)},
			"8@30, 7@40",
		},
		"of one clock tick nobody knows who was first": {
			[]*workload.Process{rounded(aProcess(7, 40*ms, 0)), aProcess(8, 45*ms, 7), aProcess(9, 51*ms, 7)},
			"7@40000000~, -9@51000000, 8@45000000",
		},
		"who hangs on himself is shown once": {
			[]*workload.Process{below(aProcess(7, 1, 8), workload.ProcessKey{PID: 8, Start: 2}), below(aProcess(8, 2, 7), workload.ProcessKey{PID: 7, Start: 1}), below(aProcess(9, 3, 9), workload.ProcessKey{PID: 9, Start: 3})},
			"9@3, 7@1, -8@2",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var list []workload.Entity
			for _, p := range c.processes {
				list = append(list, workload.Entity{Kind: workload.KindProcess, Process: p, Gone: p.Exit != nil})
			}
			var got []string
			for _, b := range forest(list) {
				got = append(got, strings.Repeat("-", b.depth)+b.entity.Process.Key.String())
			}
			if d := cmp.Diff(c.want, strings.Join(got, ", ")); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestADeepTreeIsDrawnInBoundedWidth(t *testing.T) {
	var list []workload.Entity
	for i := range workload.PID(100_000) {
		list = append(list, workload.Entity{Process: aProcess(i+1, uint64(i+1), i)})
	}
	branches := forest(list)
	if len(branches) != len(list) || branches[len(list)-1].depth != len(list)-1 {
		t.Fatalf("%d branches, the last at %d", len(branches), branches[len(branches)-1].depth)
	}
	if n := len(limb(99_999, "sh")); n > 2*maxIndent+5 {
		t.Errorf("a limb has %d columns", n)
	}
}

func TestFlagsOfProcessesAreRefusedForOthers(t *testing.T) {
	for _, args := range [][]string{
		{"list", "--tree"}, {"list", "pods", "--detail"}, {"list", "processes", "--tree", "-o", "json"}, {"list", "processes", "--tree", "-o", "name"},
	} {
		if got := (&world{agent: testAgent()}).main(t, args...); got.code != ExitUsage || got.stdout != "" {
			t.Errorf("%q: %+v", args, got)
		}
	}
}

func TestExplainAsksForFewFamiliesAtATime(t *testing.T) {
	f := &batches{fake: fake{results: map[string]workload.Result{}}}
	args := []string{"explain"}
	for i := range 150 {
		args = append(args, fmt.Sprint(i+1))
	}
	(&world{agent: f}).main(t, args...)
	if d := cmp.Diff([]int{64, 64, 22}, f.sizes); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// batches notes how many questions each call has.
type batches struct {
	fake
	sizes []int
}

func (b *batches) Resolve(ctx context.Context, queries ...workload.Query) ([]workload.Result, error) {
	b.sizes = append(b.sizes, len(queries))
	return b.fake.Resolve(ctx, queries...)
}
