// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// slowStart is after how long a start is looked into: ten of `runc create` have
// hung at once for three minutes, and nothing said in what.
const slowStart = time.Minute

// watchStart logs Stacks, once for an engine, if a command that starts containers
// takes longer than slowStart. The command of a container that stays in front may, too.
func (e *engine) watchStart(args []string) (done func()) {
	if !slices.ContainsFunc(args, func(a string) bool { return a == "run" || a == "start" }) {
		return func() {}
	}
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTimer(slowStart)
		defer t.Stop()
		select {
		case <-ended:
		case <-t.C:
			e.slow.Do(func() { e.tb.Logf("%s %q takes over %s:\n%s", e.cli, args, slowStart, e.Stacks()) })
		}
	})
	return func() { close(ended); wg.Wait() }
}

// Stacks tells in what the engine waits: its goroutines, where the kernel has each
// thread of it, of its shims and of any runc on the machine, and the end of the
// kernel's log.
func (e *engine) Stacks() string {
	var b strings.Builder
	for _, pid := range waiters(filepath.Dir(e.d.log)) {
		kernelStacks(&b, pid)
	}
	b.WriteString(e.goroutines())
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	log, err := exec.CommandContext(ctx, "dmesg").CombinedOutput()
	fmt.Fprintf(&b, "the kernel's log ends (%v):\n%s\n", err, log[max(0, len(log)-4000):])
	return b.String()
}

// maxWaiters bounds the processes that are looked at.
const maxWaiters = 64

// waiters are the engine processes that name dir, and every runc.
func waiters(dir string) []int {
	pids := processesNaming(dir)
	files, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, f := range files {
		if comm, err := os.ReadFile(f); err == nil && bytes.HasPrefix(comm, []byte("runc")) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, pid)
		}
	}
	return pids[:min(len(pids), maxWaiters)]
}

// kernelStacks writes where each thread of a process is in the kernel.
func kernelStacks(b *strings.Builder, pid int) {
	proc := fmt.Sprintf("/proc/%d/", pid)
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(text))
	}
	fmt.Fprintf(b, "process %d: %q\n", pid, strings.ReplaceAll(read(proc+"cmdline"), "\x00", " "))
	tasks, _ := filepath.Glob(proc + "task/[0-9]*")
	for _, t := range tasks[:min(len(tasks), 16)] {
		stack := strings.ReplaceAll(read(t+"/stack"), "\n", " ")
		fmt.Fprintf(b, "  %s %s wchan %s: %s\n", filepath.Base(t), read(t+"/comm"), read(t+"/wchan"), stack)
	}
}

// goroutines has the daemon write its stacks, which both do at SIGUSR1: dockerd into
// a file of its exec root, containerd into its log.
func (e *engine) goroutines() string {
	dir, before := filepath.Dir(e.d.log), time.Now().Add(-time.Second)
	if err := e.d.signal(syscall.SIGUSR1); err != nil {
		return fmt.Sprintf("goroutines: %v\n", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var text string
	err := poll(ctx, func() error {
		files, _ := filepath.Glob(dir + "/exec/goroutine-stacks-*.log")
		for _, f := range append(files, e.d.log) {
			st, err := os.Stat(f)
			b, rerr := os.ReadFile(f)
			if err == nil && rerr == nil && st.ModTime().After(before) && bytes.Contains(b, []byte("goroutine ")) {
				text = string(b[max(0, len(b)-64<<10):])
				return nil
			}
		}
		return fmt.Errorf("%s has not written its goroutines", e.d.name)
	})
	if err != nil {
		return err.Error() + "\n"
	}
	return "goroutines:\n" + text + "\n"
}
