// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// fullEnv makes the test binary an agent with many entities, on the socket that it names.
const fullEnv = "PIDIGREE_CLIENT_TEST_FULL"

const (
	fullContainers = 10_000
	fullProcesses  = 100_000
	// snapshotMost is what a reader of all that may cost the agent.
	snapshotMost = 64 << 20
)

// beFull serves until its standard input ends.
func beFull(socket string) error {
	debug.SetGCPercent(50) // as `pidigree agent` does
	s := store.New(store.Options{})
	id := func(i int) string { return fmt.Sprintf("%064x", i) }
	for i := range fullContainers {
		c := &workload.Container{
			ID: containerID(id(i)), Name: fmt.Sprintf("k8s_app_pod-%d", i), Runtime: "docker", Image: workload.ImageRef{Name: "registry.example/app:1.2.3", ID: id(i % 100)},
			State: workload.StateRunning, Pod: &workload.PodRef{Name: fmt.Sprintf("pod-%d", i), Namespace: "default", UID: id(i)},
			Labels: map[string]string{"app.kubernetes.io/name": "app", "io.kubernetes.pod.name": fmt.Sprintf("pod-%d", i), "io.kubernetes.pod.namespace": "default"},
		}
		s.Apply(store.Change{Container: &store.ContainerChange{ID: c.ID, Source: "docker", Layer: c}})
	}
	for i := range fullProcesses {
		p := &workload.Process{
			Key: workload.ProcessKey{PID: workload.PID(i + 10), Start: uint64(i + 1), Inode: uint64(i + 1)}, Comm: "worker", Parent: 1,
			Status: workload.StatusContainer, Container: containerID(id(i % fullContainers)),
		}
		s.Apply(store.Change{Process: p})
	}
	stop, err := of(s).serve(socket)
	if err != nil {
		return err
	}
	defer stop()
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// memory reads a line of a process's status, in bytes.
func memory(t *testing.T, pid int, line string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	must(t, err)
	_, rest, ok := strings.Cut(string(b), "\n"+line+":")
	if !ok {
		t.Fatalf("no %s", line)
	}
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	must(t, err)
	return kib << 10
}

// apart makes the test binary an agent in a process of its own, until the test ends, and
// waits until it is ready. The agent ends with its standard input.
func apart(t *testing.T, env string) (pid int, in io.Writer, says *bufio.Reader) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env)
	cmd.Stderr = os.Stderr
	out, err1 := cmd.StdoutPipe()
	stdin, err2 := cmd.StdinPipe()
	must(t, errors.Join(err1, err2, cmd.Start()))
	t.Cleanup(func() {
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the agent: %v", err)
		}
	})
	says = bufio.NewReader(out)
	if line, err := says.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the agent says %q, %v", line, err)
	}
	return cmd.Process.Pid, stdin, says
}

// A reader of everything costs the agent little beside what it keeps anyhow. How much
// is held to without the race detector, as the virtual machines run it.
func TestASnapshotOfAHundredThousandProcessesTakesLittleMemory(t *testing.T) {
	socket := tempSocket(t)
	pid, _, _ := apart(t, fullEnv+"="+socket)
	// From here on its peak is that of what follows: CLEAR_REFS_MM_HIWATER_RSS, proc(5).
	must(t, os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0))
	before := memory(t, pid, "VmRSS")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	began := time.Now()
	n := map[workload.Kind]int{}
	for ch, err := range connect(t, socket).Watch(ctx, workload.Selector{Kinds: []workload.Kind{workload.KindContainer, workload.KindProcess}}) {
		must(t, err)
		if ch.Type == workload.ChangeBookmark {
			break
		}
		n[ch.Entity.Kind]++
	}
	took := time.Since(began)
	most := memory(t, pid, "VmHWM") - before
	t.Logf("%v in %s, for %.1f MiB more at most than the %.1f MiB that the agent had", n, took.Round(time.Millisecond), float64(most)/(1<<20), float64(before)/(1<<20))
	if n[workload.KindContainer] != fullContainers || n[workload.KindProcess] != fullProcesses {
		t.Errorf("%v came", n)
	}
	if !raced && most > snapshotMost {
		t.Errorf("%d bytes more at most, more than %d", most, snapshotMost)
	}
}
