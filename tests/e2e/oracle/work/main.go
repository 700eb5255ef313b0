// SPDX-License-Identifier: Apache-2.0

// Command work is what runs in the oracle's containers, and beside them on the
// host: it reports itself, and makes processes of every kind that report
// themselves.
//
//	work once                           report, be scored, end
//	work stay [-children N] [-levels K] [-threads T] [-for D]
//	                                    report, and so do K levels of N children; all of them stay
//	work stream [-rate R] [-count N] [-for D] [-kind fork,tree,exec,session,daemon]
//	                                    short-lived processes, R a second
//	work reuse -pids LO-HI [-count N] [-for D] [-rate R]
//	                                    short-lived processes whose PIDs on the host are LO to HI, again and again
//
// It is static, and its children are forked by bare system calls: they run no
// instruction of Go's runtime, as a short-lived program in C would not.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pidigree/pidigree/tests/e2e/oracle/report"
)

type options struct {
	dir      string
	children int
	levels   int
	threads  int
	life     time.Duration
	rate     float64
	count    int
	kinds    string
	pids     string
}

func main() {
	var o options
	if len(os.Args) < 2 {
		fail(fmt.Errorf("work once|stay|stream|reuse [flags]"))
	}
	f := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	f.StringVar(&o.dir, "dir", report.Dir, "the directory that the oracle made for this container")
	f.IntVar(&o.children, "children", 0, "children of each process that stays")
	f.IntVar(&o.levels, "levels", 1, "levels of children")
	f.IntVar(&o.threads, "threads", 0, "further threads")
	f.DurationVar(&o.life, "for", 0, "how long to go on; 0 until killed")
	f.Float64Var(&o.rate, "rate", 0, "processes a second; 0 as fast as they are scored")
	f.IntVar(&o.count, "count", 0, "how many processes; 0 without end")
	f.StringVar(&o.kinds, "kind", "fork", "kinds of processes, in turn")
	f.StringVar(&o.pids, "pids", "", "the host's PIDs to use, LO-HI")
	_ = f.Parse(os.Args[2:]) // ExitOnError
	if err := run(os.Args[1], o); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "work:", err)
	os.Exit(1)
}

func run(mode string, o options) error {
	switch mode {
	case "once":
		return report.Hold(o.dir, 0)
	case "stay":
		return stay(o)
	case "stream":
		return stream(o)
	case "reuse":
		return reuse(o)
	}
	return fmt.Errorf("no mode %q: once, stay, stream or reuse", mode)
}

// stay reports and waits for the end, which comes with SIGTERM, the end of its
// time, or the oracle's.
func stay(o options) error {
	for range o.threads {
		go func() {
			runtime.LockOSThread()
			select {}
		}()
	}
	conn, err := report.Send(o.dir, report.Stay)
	if err != nil {
		return err
	}
	defer conn.Close()
	var below sync.WaitGroup
	var children []*exec.Cmd
	if o.levels > 0 {
		for range o.children {
			cmd := exec.Command("/proc/self/exe", "stay", "-dir", o.dir, "-children", strconv.Itoa(o.children),
				"-levels", strconv.Itoa(o.levels-1), "-threads", strconv.Itoa(o.threads))
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				return err
			}
			children = append(children, cmd)
			below.Go(func() { _ = cmd.Wait() }) // it was told to end
		}
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	gone := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, conn) // ends with the oracle
		close(gone)
	}()
	var end <-chan time.Time
	if o.life > 0 {
		end = time.After(o.life)
	}
	select {
	case <-term:
	case <-gone:
	case <-end:
	}
	for _, c := range children {
		_ = c.Process.Signal(syscall.SIGTERM)
	}
	below.Wait()
	return nil
}

// stream makes processes until it has made enough.
func stream(o options) error {
	kinds := strings.Split(o.kinds, ",")
	m, err := newMaker(o.dir)
	if err != nil {
		return err
	}
	return paced(o, func(i int) error { return m.make(kinds[i%len(kinds)]) }, m.reap)
}

// reuse makes processes with the same few PIDs of the host.
func reuse(o options) error {
	lo, hi, ok := strings.Cut(o.pids, "-")
	first, err1 := strconv.Atoi(lo)
	last, err2 := strconv.Atoi(hi)
	if !ok || err1 != nil || err2 != nil || first < 2 || last < first {
		return fmt.Errorf("-pids %q is not LO-HI", o.pids)
	}
	m, err := newMaker(o.dir)
	if err != nil {
		return err
	}
	m.message.Flags |= report.Reused
	next := first + os.Getpid()%(last-first+1)
	return paced(o, func(int) error {
		for {
			for range last - first + 1 {
				err := m.forkAs(next)
				next = first + (next+1-first)%(last-first+1)
				if !errors.Is(err, syscall.EEXIST) { // somebody else has it just now
					return err
				}
			}
			time.Sleep(time.Millisecond) // all are taken, by our own children or by others'
			if err := m.reap(false); err != nil {
				return err
			}
		}
	}, m.reap)
}

// paced calls one, rate times a second, until count or the time is up; then it
// waits for what it made.
func paced(o options, one func(int) error, reap func(all bool) error) error {
	var tick <-chan time.Time
	if o.rate > 0 {
		t := time.NewTicker(time.Duration(float64(time.Second) / o.rate))
		defer t.Stop()
		tick = t.C
	}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM, syscall.SIGINT)
	begin := time.Now()
	for i := 0; (o.count == 0 || i < o.count) && (o.life == 0 || time.Since(begin) < o.life); i++ {
		select {
		case <-term:
			return nil
		default:
		}
		if tick != nil {
			<-tick
		}
		if err := one(i); err != nil {
			return err
		}
		if err := reap(false); err != nil {
			return err
		}
	}
	return reap(true)
}

// program is the other name of this program in the directory, which is another
// file to execute for whoever looks at names.
func program(dir string) string { return filepath.Join(dir, report.OtherFile) }
