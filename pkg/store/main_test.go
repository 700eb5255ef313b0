// SPDX-License-Identifier: Apache-2.0

package store

import (
	"flag"
	"testing"

	"github.com/pidigree/pidigree/pkg/workload"
	"go.uber.org/goleak"
)

var update = flag.Bool("update", false, "rewrite docs/precedence.md")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What the tests build their worlds from.

const second = workload.KTime(1_000_000_000)

func key(pid workload.PID, inode uint64) workload.ProcessKey {
	return workload.ProcessKey{PID: pid, Inode: inode, Start: inode * 1_000_003}
}

func docker(id string) workload.ContainerID { return workload.ContainerID{Runtime: "docker", ID: id} }

func moby(id string) workload.ContainerID {
	return workload.ContainerID{Runtime: "containerd", Namespace: "moby", ID: id}
}

func inContainer(k workload.ProcessKey, id workload.ContainerID) *workload.Process {
	return &workload.Process{
		Key: k, Comm: "sleep", Status: workload.StatusContainer, Confidence: workload.Confirmed,
		Container: id, Entry: workload.EntryInit, Started: workload.KTime(k.Start),
	}
}

func onHost(k workload.ProcessKey) *workload.Process {
	return &workload.Process{Key: k, Comm: "bash", Status: workload.StatusHost, Started: workload.KTime(k.Start)}
}

func exited(p *workload.Process, at workload.KTime, code int32) *workload.Process {
	p = p.Clone()
	p.Exit = &workload.Exit{Known: true, Code: code, At: at}
	return p
}

func put(p *workload.Process) Change { return Change{Process: p} }

func putLayer(id workload.ContainerID, source string, c *workload.Container) Change {
	return Change{Container: &ContainerChange{ID: id, Source: source, Layer: c}}
}

func named(id workload.ContainerID, name string) *workload.Container {
	return &workload.Container{ID: id, Name: name, State: workload.StateRunning}
}

func gone(id workload.ContainerID, at workload.KTime) Change {
	return Change{Container: &ContainerChange{ID: id, Gone: at}}
}

func forget(id workload.ContainerID) Change {
	return Change{Container: &ContainerChange{ID: id, Forget: true}}
}

func expire(now workload.KTime) Change { return Change{Expire: now} }

func names(cs []*workload.Container) []string {
	var out []string
	for _, c := range cs {
		out = append(out, c.Name)
	}
	return out
}

// wantName fails unless the key resolves to the container of that name.
func wantName(t *testing.T, s *Store, k workload.ProcessKey, name string) {
	t.Helper()
	a := s.Resolve(k)
	if a.Status != workload.StatusContainer || a.Container().Name != name {
		t.Errorf("Resolve(%v) = %s %q (%s), want container %q", k, a.Status, containerName(a), a.Reason, name)
	}
}

// wantUnknown fails unless the key resolves to unknown, with the reason.
func wantUnknown(t *testing.T, s *Store, k workload.ProcessKey, reason string) {
	t.Helper()
	a := s.Resolve(k)
	if a.Status != workload.StatusUnknown || a.Reason != reason || a.Containers != nil || a.Confidence != "" {
		t.Errorf("Resolve(%v) = %s %q (%q), want unknown (%q)", k, a.Status, containerName(a), a.Reason, reason)
	}
}

func containerName(a workload.Answer) string {
	if c := a.Container(); c != nil {
		return c.Name
	}
	return ""
}
