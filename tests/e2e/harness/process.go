// SPDX-License-Identifier: Apache-2.0

package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// process is one long-lived program and its log.
type process struct {
	log  string
	pid  int
	done chan struct{} // closed once it has been waited for
	err  error         // how it ended, once done is closed
}

// start runs argv with the log as its output. The program dies with the tests.
// Its session is ours, or one of its own.
func start(log string, env []string, session bool, argv ...string) (*process, error) {
	p := &process{log: log, done: make(chan struct{})}
	started := make(chan error, 1)
	go p.own(env, session, argv, started)
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	return p, nil
}

// own starts and waits on one thread: the kernel sends Pdeathsig when the
// thread that forked ends.
func (p *process) own(env []string, session bool, argv []string, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		started <- err
		return
	}
	defer out.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: !session, Setsid: session}
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	p.pid = cmd.Process.Pid
	started <- nil
	p.err = cmd.Wait()
	close(p.done)
}

// running reports whether the process has not been waited for.
func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// signal sends s, unless the process is gone.
func (p *process) signal(s syscall.Signal) error {
	if !p.running() {
		return os.ErrProcessDone
	}
	return syscall.Kill(p.pid, s)
}

// stop sends s and waits; a process that does not end is killed, and that is an error.
func (p *process) stop(s syscall.Signal, patience time.Duration) error {
	_ = p.signal(s)
	_ = p.signal(syscall.SIGCONT)
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
	}
	_ = p.signal(syscall.SIGKILL)
	<-p.done
	return fmt.Errorf("process %d had not ended %s after %s", p.pid, patience, s)
}

// tail gives the end of the log.
func (p *process) tail() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-8000):])
}

// Within tries again, every 2 ms, until it works, and gives the last error where
// patience ended first. It is for what nobody announces.
func Within(patience time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return poll(ctx, 2*time.Millisecond, func(context.Context) error { return try() })
}

// await is for what starts programs to see whether it is so.
func await(ctx context.Context, fn func(context.Context) error) error {
	return poll(ctx, 10*time.Millisecond, fn)
}

// poll calls fn until it gives nil.
func poll(ctx context.Context, every time.Duration, fn func(context.Context) error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	var last error // not what the end of ctx itself made fail
	for {
		err := fn(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return errors.Join(last, ctx.Err())
		case <-tick.C:
		}
	}
}
