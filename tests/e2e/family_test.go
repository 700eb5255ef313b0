// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// What events do not say of processes, and how they hang together: a container's
// init and its child, one that docker exec put in, and one that nsenter did.
func TestProcessesOfAContainerInDetailAndAsATree(t *testing.T) {
	docker := collectortest.StartDockerd(t, collectortest.EngineOptions{})
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker})
	c := connect(t, agent)
	id := docker.Run("--name", "family", collectortest.BusyboxImage, "/bin/sh", "-c", "sleep 3601 & sleep 3602") // who becomes the latter itself
	init := docker.InitPID(id)
	docker.Docker("exec", "--detach", "family", "/bin/sh", "-c", "sleep 3603; true")
	entered := exec.CommandContext(t.Context(), "nsenter", "--target", strconv.Itoa(init), "--mount", "--pid", "--no-fork", "/bin/sleep", "3604")
	if err := entered.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = entered.Process.Kill()
		_ = entered.Wait()
	})

	children := harness.Children(init)
	inited := awaitCommand(t, c, "sleep", "3601")
	executed := awaitCommand(t, c, "sleep", "3603")
	nsentered := awaitCommand(t, c, "/bin/sleep", "3604")
	if !slices.Contains(children, int(inited.Key.PID)) || int(nsentered.Key.PID) != entered.Process.Pid {
		t.Fatalf("%s of %d, %s of %d", inited.Key, children, nsentered.Key, entered.Process.Pid)
	}
	if inited.Entry != workload.EntryInit || executed.Entry != workload.EntryExec || inited.Container.ID != id || executed.Container.ID != id {
		t.Errorf("by %q in %s, by %q in %s", inited.Entry, inited.Container, executed.Entry, executed.Container)
	}
	if nsentered.Status != workload.StatusHost || !nsentered.Container.IsZero() { // it sees the container's files, and is the host's
		t.Errorf("nsenter's is %+v", nsentered)
	}
	for _, p := range []*workload.Process{inited, executed, nsentered} {
		checkDetail(t, p)
	}

	first := askFamily(t, c, workload.PID(init))
	var got []int
	for _, child := range first.Family.Children {
		got = append(got, int(child.Key.PID))
	}
	slices.Sort(got)
	slices.Sort(children)
	if !slices.Equal(got, children) {
		t.Errorf("the init's children are %d, not %d", got, children)
	}
	for _, p := range []*workload.Process{inited, executed, nsentered} {
		checkAncestors(t, c, p)
	}
	checkTree(t, agent, init, int(inited.Key.PID))
}

// awaitCommand waits until a list in detail has a process with this command line.
func awaitCommand(t *testing.T, c *client.Client, command ...string) (found *workload.Process) {
	t.Helper()
	err := harness.Within(patience, func() error {
		for e, err := range c.List(t.Context(), workload.Selector{Kinds: []workload.Kind{workload.KindProcess}, Detail: true}) {
			if err != nil {
				return err
			}
			if p := e.Process; p != nil && p.Detail != nil && slices.Equal(p.Detail.Command, command) {
				if p.Status == workload.StatusUnknown {
					return fmt.Errorf("%q is unknown: %s", command, p.Reason)
				}
				found = p
				return nil
			}
		}
		return fmt.Errorf("nobody runs %q", command)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func askFamily(t *testing.T, c *client.Client, pid workload.PID) workload.Result {
	t.Helper()
	results, err := c.Resolve(t.Context(), workload.Query{PID: pid, Detail: true, Family: true})
	if err != nil || results[0].Err != nil || results[0].Family == nil || results[0].Answer.Process.Detail == nil {
		t.Fatalf("%v: %+v", err, results)
	}
	return results[0]
}

// checkDetail compares with what the kernel's files say to somebody else.
func checkDetail(t *testing.T, p *workload.Process) {
	t.Helper()
	pid := int(p.Key.PID)
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil || p.Exe != exe {
		t.Errorf("process %d runs %q, not %q: %v", pid, p.Exe, exe, err)
	}
	for kind, inode := range p.Detail.Namespaces {
		if link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind)); err != nil || link != fmt.Sprintf("%s:[%d]", kind, inode) {
			t.Errorf("process %d: %s is %d, not %s: %v", pid, kind, inode, link, err)
		}
	}
	if len(p.Detail.Namespaces) < 6 || p.Detail.UID != 0 || p.Detail.EUID != 0 || p.Detail.CommandHidden {
		t.Errorf("process %d: %+v", pid, p.Detail)
	}
	_, numbers, _ := strings.Cut(harness.ProcFile(t, pid, "status"), "\nNSpid:")
	numbers, _, _ = strings.Cut(numbers, "\n")
	said := []string{strconv.Itoa(pid)}
	for _, ns := range p.PIDNamespaces {
		said = append(said, strconv.Itoa(int(ns.PID)))
	}
	// The namespaces above the host's own, where the tests run in one, are not the agent's.
	if all := strings.Fields(numbers); !slices.Equal(all, said) {
		t.Errorf("process %d is %s in its PID namespaces, not %s", pid, said, all)
	}
}

// checkAncestors follows the parents by hand, which is right while none ends.
func checkAncestors(t *testing.T, c *client.Client, p *workload.Process) {
	t.Helper()
	r := askFamily(t, c, p.Key.PID)
	var got, want []int
	for _, a := range r.Family.Ancestors {
		got = append(got, int(a.Key.PID))
	}
	for at := int(p.Key.PID); ; {
		stat := harness.ProcFile(t, at, "stat")
		parent, err := strconv.Atoi(strings.Fields(stat[strings.LastIndex(stat, ")"):])[2])
		if err != nil {
			t.Fatal(err)
		}
		if parent == 0 {
			break
		}
		want = append(want, parent)
		at = parent
	}
	if !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("process %d is below %d, not %d", p.Key.PID, got, want)
	}
	if d := r.Answer.Process.Detail; len(got) > 0 && !d.Parent.Same(r.Family.Ancestors[0].Key) {
		t.Errorf("its parent is %s and its first ancestor %s", d.Parent, r.Family.Ancestors[0].Key)
	}
}

// checkTree reads what people see: a child stands below its parent, one step further in.
func checkTree(t *testing.T, agent *harness.Agent, parent, child int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := agent.Command(ctx, "list", "processes", "--tree")
	indent := map[string]int{}
	var order []string
	for line := range strings.Lines(out.Stdout) {
		f := strings.Fields(line)
		if len(f) > 2 && (f[0] == strconv.Itoa(parent) || f[0] == strconv.Itoa(child)) {
			indent[f[0]] = strings.Index(line, `\_`)
			order = append(order, f[0])
		}
	}
	a, b := strconv.Itoa(parent), strconv.Itoa(child)
	if out.Code != 0 || !slices.Equal(order, []string{a, b}) || indent[b] != indent[a]+2 {
		t.Errorf("%d stands at %d and %d at %d: %s\n%s", parent, indent[a], child, indent[b], out.Stdout, out.Stderr)
	}
	explained := agent.Command(ctx, "explain", b)
	for _, want := range []string{"program   /bin/busybox", "command   sleep 3601", "Processes"} {
		if !strings.Contains(explained.Stdout, want) {
			t.Errorf("explain has no %q: %s%s", want, explained.Stdout, explained.Stderr)
		}
	}
}
