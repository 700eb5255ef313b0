// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/pidigree/pidigree/pkg/workload"
)

func TestWhatAnotherHasReadIsTakenOnlyWhileItIsSo(t *testing.T) {
	run := testRun(t)
	dir := mkdir(t, run+"/runc")
	bundle := makeRunc(t, dir, "c1", "/c1")
	child := exec.CommandContext(t.Context(), "sleep", "3600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	c := newCollector(t, Options{RunDir: run})
	ticks, _ := c.processStart(workload.PID(child.Process.Pid))
	write(t, dir+"/c1/state.json", runcFile(t, "c1", workload.ProcessKey{PID: workload.PID(child.Process.Pid), Start: ticks * workload.TickNS}, bundle, nil))
	r := root{path: dir, owner: runtimeRunc}
	last := &reading{}
	look := func(shared bool, life workload.State) {
		t.Helper()
		s, out, err := c.look(r, "c1")
		if err != nil {
			t.Fatal(err)
		}
		if out.State != life || s.life != life || out.Hostname != "h-c1" {
			t.Errorf("it is %s, %s, of host name %q; want %s", out.State, s.life, out.Hostname, life)
		}
		if (s.state == last.state) != shared {
			t.Errorf("taken from the other: %t, want %t", s.state == last.state, shared)
		}
		last = s
	}

	alone := c.looks.share()
	look(false, workload.StateRunning)
	look(false, workload.StateRunning) // nobody else looks
	other := c.looks.share()
	look(false, workload.StateRunning)
	look(true, workload.StateRunning)
	write(t, dir+"/c1/"+fileFIFO, nil)
	look(true, workload.StateCreated)
	_ = child.Process.Kill()
	_ = child.Wait() // it was killed
	look(true, workload.StateExited)
	alone()
	look(true, workload.StateExited) // what was read is for the other
	alone = c.looks.share()
	write(t, dir+"/c1/state.json", runcFile(t, "c1", selfKey(t), bundle, nil))
	look(false, workload.StateCreated)
	look(true, workload.StateCreated)
	other()
	alone()
	look(false, workload.StateCreated)
	if c.looks.made != nil {
		t.Error("something is kept when nobody looks")
	}
}

func TestAListBesideAWatchHasAllOfIt(t *testing.T) {
	run := testRun(t)
	dir := mkdir(t, run+"/runc")
	const n = 50
	for i := range n {
		makeRunc(t, dir, "c"+pidString(workload.PID(i)), filepath.Join("/c", pidString(workload.PID(i))))
	}
	c := newCollector(t, Options{RunDir: run})
	listed := make(chan int, 1)
	go func() {
		ids := map[workload.ContainerID]bool{}
		for out, err := range c.List(t.Context()) {
			if err == nil && out.State == workload.StateRunning && out.Hostname != "" {
				ids[out.ID] = true
			}
		}
		listed <- len(ids)
	}()
	hints := startWatch(t, c)
	if got := <-listed; got != n || len(hints) != n {
		t.Errorf("the list has %d containers and the Watch %d, want %d", got, len(hints), n)
	}
}
