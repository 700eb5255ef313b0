// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/workload"
)

// Trace is an independent witness of execs: bpftrace, with its own program and
// its own clock.
type Trace struct {
	tb  testing.TB
	out string
	p   *process
}

// witness is a name that the trace sees too, to know that it is attached.
const witness = "pidigree-wit"

// TraceExecs records every exec of a program of this name, which has 15 bytes
// at most.
func TraceExecs(tb testing.TB, comm string) *Trace {
	tb.Helper()
	dir := tb.TempDir()
	t := &Trace{tb: tb, out: dir + "/trace"}
	program := fmt.Sprintf(`tracepoint:sched:sched_process_exec /comm == %q || comm == %q/ { printf("%%s %%d %%llu\n", comm, pid, nsecs); }`, comm, witness)
	// bpftrace 0.17 looks for tracefs below debugfs; mounted for it alone.
	script := `mount -t debugfs debugfs /sys/kernel/debug && mount -t tracefs tracefs /sys/kernel/debug/tracing; exec bpftrace -B line -e "$1"`
	var err error
	if t.p, err = start(t.out, cleanEnv(), false, "unshare", "--mount", "sh", "-c", script, "sh", program); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = t.p.stop(syscall.SIGINT, 10*time.Second) })
	t.attached(dir)
	return t
}

// attached execs the witness until the trace has seen it.
func (t *Trace) attached(dir string) {
	t.tb.Helper()
	b, err := os.ReadFile("/bin/true")
	if err == nil {
		err = os.WriteFile(dir+"/"+witness, b, 0o755)
	}
	if err != nil {
		t.tb.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.tb.Context(), 30*time.Second)
	defer cancel()
	err = await(ctx, func(ctx context.Context) error {
		if !t.p.running() {
			return errors.New("bpftrace ended at once")
		}
		_ = exec.CommandContext(ctx, dir+"/"+witness).Run() // that it was executed is all that matters
		if b, err := os.ReadFile(t.out); err != nil || !strings.Contains(string(b), "\n"+witness+" ") {
			return errors.Join(err, errors.New("bpftrace has not seen its witness"))
		}
		return nil
	})
	if err != nil {
		t.tb.Fatalf("%v: %s", err, t.p.tail())
	}
}

// Stop ends the trace and gives the instant of the last exec by PID.
func (t *Trace) Stop() map[int]workload.KTime {
	t.tb.Helper()
	if err := t.p.stop(syscall.SIGINT, 10*time.Second); err != nil {
		t.tb.Error(err)
	}
	f, err := os.Open(t.out)
	if err != nil {
		t.tb.Fatal(err)
	}
	defer f.Close()
	execs := map[int]workload.KTime{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		var comm string
		var pid int
		var at workload.KTime
		if n, _ := fmt.Sscanf(s.Text(), "%s %d %d", &comm, &pid, &at); n == 3 && comm != witness {
			execs[pid] = at
		}
	}
	return execs
}
