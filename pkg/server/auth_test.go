// SPDX-License-Identifier: Apache-2.0

package server

import (
	"testing"

	"github.com/pidigree/pidigree/pkg/workload"
)

// The rule alone, which needs nobody who is another user; that it is asked of every
// kind of call is TestACommandLineIsForRootAndItsOwnUser.
func TestWhoSeesACommandLine(t *testing.T) {
	const agent, group, user, other = 10, 20, 4711, 4712
	for name, c := range map[string]struct {
		peer      Peer
		uid, euid uint32
		all       bool
		shown     bool
	}{
		"root sees everybody's":         {peer: Peer{UID: 0}, uid: user, euid: user, shown: true},
		"a user sees his own":           {peer: Peer{UID: user}, uid: user, euid: user, shown: true},
		"not another's":                 {peer: Peer{UID: user, GID: group}, uid: other, euid: other},
		"nor root's":                    {peer: Peer{UID: user, GID: group}},
		"nor what he runs as another":   {peer: Peer{UID: user, GID: group}, uid: user, euid: 0},
		"nor what another runs as he":   {peer: Peer{UID: user, GID: group}, uid: other, euid: user},
		"nor does the agent's own user": {peer: Peer{UID: agent}, uid: user, euid: user},
		"all, where it is configured":   {peer: Peer{UID: user, GID: group}, uid: other, euid: 0, all: true, shown: true},
		"by a group that is not first":  {peer: Peer{UID: user, Groups: []uint32{1, group}}, uid: other, euid: 0, all: true, shown: true},
		"but not for everybody":         {peer: Peer{UID: user, GID: 21}, uid: other, euid: other, all: true},
	} {
		p := &workload.Process{Detail: &workload.ProcessDetail{UID: c.uid, EUID: c.euid, Command: []string{"login", "secret"}, Truncated: []string{"command"}}}
		authorizer{uid: agent, gid: group, commands: c.all}.redactProcess(c.peer, p)
		if d := p.Detail; (len(d.Command) == 2) != c.shown || d.CommandHidden == c.shown || (d.Truncated != nil) != c.shown {
			t.Errorf("%s: shows %q, hidden %v", name, d.Command, d.CommandHidden)
		}
	}
	none := &workload.Process{Detail: &workload.ProcessDetail{UID: other}}
	if (authorizer{}).redactProcess(Peer{UID: user}, none); none.Detail.CommandHidden {
		t.Error("a command line that is not there is called hidden")
	}
}

// A verdict is remembered with its connection: one that took long to reach is not
// asked for with each call.
func TestAVerdictHoldsForAWhile(t *testing.T) {
	p := Peer{standing: &standing{}}
	asked, verdict := 0, Unclear
	a := authorizer{standing: func(Peer) Standing { asked++; return verdict }}
	for range 100 {
		if a.contained(p) {
			t.Fatal("one who is not clear is contained")
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	p.standing.until.Store(0) // it is over
	verdict = Contained
	if !a.contained(p) || a.mayAll(p) {
		t.Error("one in a container is not contained")
	}
	if a.contained(Peer{standing: &standing{}}) != true || asked != 3 {
		t.Errorf("another connection has its verdict; asked %d times", asked)
	}
}
