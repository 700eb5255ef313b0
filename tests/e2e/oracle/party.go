// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"maps"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/oracle/report"
)

// Label is the label of every container of an oracle, with a value of its own.
const Label = "pidigree.oracle"

// Truth is what a container is. What is empty is not compared.
type Truth struct {
	// ID is the engine's own id, whole. Docker's is known after the start: SetID.
	// Until then the name decides.
	ID string
	// Name, Image and Labels are what the engine was told.
	Name   string
	Image  string
	Labels map[string]string
	// NoLabels: the engine keeps no labels (runc).
	NoLabels bool
	// Homeless: it has no cgroup of its own (rootless podman on v1), and its
	// processes are not asked about by cgroup: the host's is that.
	Homeless bool
	// Twin: another container has the same id and name, in another namespace of
	// its engine. It is not asked about by those, which would be ambiguous.
	Twin bool
	// Within are the containers around it, outermost first.
	Within []*Party
}

// Party is a container, or the host, and what is expected of answers about its processes.
type Party struct {
	// Dir is the host's path of what the container must see as report.Dir.
	Dir string

	oracle *Oracle
	host   bool
	nonce  [report.NonceSize]byte
	number int

	mu        sync.Mutex // guards all below
	truth     Truth
	also      []string // names that are as good
	group     string
	judge     Judge
	doubt     bool // it may stay unknown or in conflict
	noCgroups bool
	reports   uint64
	claimed   map[string]bool // ids that were answered before the true one was known
}

// A Judge replaces what an answer about a party's process is held to. It is
// given the verdict that it would have been, with the reason.
type Judge func(q Question, a workload.Answer, usual Verdict, why string) (Verdict, string)

// OwnOrConflict is for an attacker: it is its own container, unknown or in
// conflict, and nobody else. Its score is kept in the group "attacker", nobody
// waits for it to be known, and its cgroups, which may be another's, are not
// asked about.
func (p *Party) OwnOrConflict() *Party {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.group, p.doubt = "attacker", true
	return p
}

// Group names the group that the party is scored in, "all" by default.
func (p *Party) Group(name string) *Party {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.group = name
	return p
}

// NoCgroups keeps the cgroups of the party's processes from being asked about,
// for they are not, or not surely, the party's own.
func (p *Party) NoCgroups() *Party {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.noCgroups = true
	return p
}

// Expect replaces the judgement of the party; nil restores it.
func (p *Party) Expect(j Judge) *Party {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judge = j
	return p
}

// SetID says the id once the engine has said it. Answers that came before and
// named another one are wrong now.
func (p *Party) SetID(id string) *Party {
	p.mu.Lock()
	p.truth.ID = id
	claims := slices.Collect(maps.Keys(p.claimed))
	p.mu.Unlock()
	for _, c := range claims {
		if c != id {
			p.oracle.wrong(evidence{what: "the container " + p.String() + " was said to be " + c + " before its id was known, but it is " + id})
		}
	}
	return p
}

// AlsoNamed makes a second name as good as the first: while it is being renamed.
func (p *Party) AlsoNamed(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.also = append(p.also, name)
}

// Renamed makes this the only right name.
func (p *Party) Renamed(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.truth.Name, p.also = name, nil
}

// Truth is what the party is now.
func (p *Party) Truth() Truth {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.truth
	t.Labels = maps.Clone(t.Labels)
	return t
}

// called gives the container's id or name to ask with; ok is false where it has
// none, or not for itself.
func (p *Party) called(by By) (ref string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	ref = p.truth.ID
	if by == ByName {
		ref = p.truth.Name
	}
	return ref, ref != "" && !p.host && !p.truth.Twin
}

// Reports is how many processes have reported.
func (p *Party) Reports() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reports
}

// String is for messages.
func (p *Party) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.host {
		return "the host"
	}
	return p.truth.Name + " (" + p.truth.ID + ")"
}

// DockerArgs are for docker run or create, before the image: name, labels and
// the mount.
func (p *Party) DockerArgs() []string {
	t := p.Truth()
	args := []string{"--volume", p.Dir + ":" + report.Dir + ":ro"}
	if t.Name != "" {
		args = append(args, "--name", t.Name)
	}
	return append(args, labelArgs(t.Labels)...)
}

// CtrArgs are for ctr run, before the image.
func (p *Party) CtrArgs() []string {
	return append([]string{"--mount", "type=bind,src=" + p.Dir + ",dst=" + report.Dir + ",options=rbind:ro"}, labelArgs(p.Truth().Labels)...)
}

func labelArgs(labels map[string]string) (args []string) {
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		args = append(args, "--label", k+"="+labels[k])
	}
	return args
}

// Mount is the mount of an OCI runtime-spec, for its "mounts".
func (p *Party) Mount() map[string]any {
	return map[string]any{"type": "bind", "source": p.Dir, "destination": report.Dir, "options": []string{"rbind", "ro"}}
}

// HostCommand is the workload program on the host itself, in the mode and with
// the flags that are given. It is told to end when the oracle ends.
func (p *Party) HostCommand(mode string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(p.oracle.ctx, p.Dir+"/"+report.WorkFile, append([]string{mode, "-dir", p.Dir}, args...)...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	return cmd
}

// RunHost starts HostCommand and waits for it in the background. A failure fails the test.
func (p *Party) RunHost(mode string, args ...string) {
	p.oracle.tb.Helper()
	var stderr strings.Builder
	cmd := p.HostCommand(mode, args...)
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		p.oracle.tb.Fatal(err)
	}
	p.oracle.running.Go(func() {
		if err := cmd.Wait(); err != nil && p.oracle.ctx.Err() == nil {
			p.oracle.tb.Errorf("work %s on the host: %v: %s", mode, err, stderr.String())
		}
	})
}
