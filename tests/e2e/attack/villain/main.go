// SPDX-License-Identifier: Apache-2.0

// Command villain is the init of the containers that attack each other, and of
// those that are attacked: it does what it is told over its standard input, one
// line at a time, words apart by tabs and quoted as in Go, and answers each with
// one line.
//
//	sit                  start a process that reports itself to the oracle and stays; its PID
//	enter DIR...         the same, but it first moves itself into these cgroups, and forks there
//	clone DIR            the same, but it is born in this v2 cgroup
//	called NAME ARG...   the same, with a hostile name and arguments
//	move PID DIR...      move a process
//	dance PID DIR...     move it in a loop: into the first half of these, into the second, ...
//	halt                 end the dance; how many moves it made
//	churn NS DIR         mkdir and rmdir below DIR for so long; how many of each
//	flood NS             start programs for so long; how many
//	connect SOCKET PREFACE PROCESSES N
//	                     each of so many processes opens so many connections; they are held
//	end PID              end a process that was started, and reap it
//
// PIDs are of its own namespace.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pidigree/pidigree/tests/e2e/oracle/report"
	"github.com/pidigree/pidigree/tests/e2e/sitters"
)

// callersRole makes the program one that connects.
const callersRole = "call"

func main() {
	if len(os.Args) > 1 && os.Args[1] == sitters.Role {
		if err := sit(os.Args[2:]); err != nil {
			fmt.Println(oneLine(err))
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) == 5 && os.Args[1] == callersRole {
		call(os.Args[2], os.Args[3], os.Args[4])
	}
	serve()
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", " ") }

// A villain is what obeys.
type villain struct {
	sitters sitters.Sitters
	reports io.Closer // that of the villain itself

	stop  chan struct{}
	moves chan result
}

type result struct {
	n   uint64
	err error
}

// serve obeys until its input ends, and says first that it is there.
func serve() {
	v := &villain{sitters: sitters.Sitters{}}
	conn, err := report.Send(report.Dir, report.Stay)
	if err != nil {
		fmt.Println("error", oneLine(err))
		os.Exit(1)
	}
	v.reports = conn
	fmt.Println("here")
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		answer, err := v.obey(lines.Text())
		if err != nil {
			answer = "error " + oneLine(err)
		}
		fmt.Println(answer)
	}
	os.Exit(0)
}

func (v *villain) obey(line string) (string, error) {
	var words []string
	for quoted := range strings.SplitSeq(line, "\t") {
		w, err := strconv.Unquote(quoted)
		if err != nil {
			return "", fmt.Errorf("%q: %w", quoted, err)
		}
		words = append(words, w)
	}
	order, rest := words[0], words[1:]
	switch order {
	case "sit", "enter":
		return v.sitters.Start(sitter("", nil, rest)...)
	case "clone":
		return v.sitters.Clone(rest[0], sitter("", nil, nil)...)
	case "called":
		return v.sitters.Start(sitter(rest[0], rest[1:], nil)...)
	case "move":
		return "moved", move(rest[0], rest[1:])
	case "dance":
		return v.dance(rest[0], rest[1:])
	case "halt":
		close(v.stop)
		r := <-v.moves
		return fmt.Sprint("made ", r.n), r.err
	case "churn":
		return churn(rest[0], rest[1])
	case "flood":
		return flood(rest[0])
	case "connect":
		return connect(rest[0], rest[1], rest[2], rest[3])
	case "end":
		return "ended", v.sitters.End(rest[0])
	}
	return "", fmt.Errorf("no order %q", order)
}

// sitter are the arguments that sit reads.
func sitter(comm string, args, dirs []string) []string {
	return append([]string{comm, strconv.Itoa(len(dirs))}, append(dirs, args...)...)
}

// sit is such a process: a name for itself (or none), how many cgroups, these,
// and arguments that mean nothing.
func sit(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if err := move("0", args[2:2+n]); err != nil {
		return err
	}
	if args[0] != "" {
		if err := os.WriteFile("/proc/self/comm", []byte(args[0]), 0); err != nil {
			return err
		}
	}
	conn, err := report.Send(report.Dir, report.Stay)
	if err != nil {
		return err
	}
	defer conn.Close()
	if n > 0 { // what is born in a cgroup is no more that one's than its parent
		child := exec.Command(filepath.Join(report.Dir, report.WorkFile), "stay")
		child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := child.Start(); err != nil {
			return err
		}
	}
	fmt.Println(sitters.Ready)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// move writes a PID into cgroups, which it makes where they are not there; 0 is
// the caller.
func move(pid string, dirs []string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteString(pid)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// dance moves a process to and fro until it is told to stop.
func (v *villain) dance(pid string, dirs []string) (string, error) {
	v.stop, v.moves = make(chan struct{}), make(chan result, 1)
	halves := [][]string{dirs[:len(dirs)/2], dirs[len(dirs)/2:]}
	go func() {
		var r result
		for r.err == nil {
			select {
			case <-v.stop:
				v.moves <- r
				return
			default:
			}
			r.err = move(pid, halves[r.n%2])
			r.n++
		}
		v.moves <- r
	}()
	return "dancing", nil
}

// workers do one thing side by side for so many nanoseconds.
func workers(ns string, one func(worker int) error) (string, error) {
	d, err := strconv.ParseInt(ns, 10, 64)
	if err != nil {
		return "", err
	}
	var n atomic.Uint64
	var all sync.WaitGroup
	errs := make([]error, 4)
	until := time.Now().Add(time.Duration(d))
	for w := range errs {
		all.Go(func() {
			for time.Now().Before(until) && errs[w] == nil {
				errs[w] = one(w)
				n.Add(1)
			}
		})
	}
	all.Wait()
	return fmt.Sprint("made ", n.Load()), errors.Join(errs...)
}

// churn makes and removes cgroups, each with a name of its own.
func churn(ns, dir string) (string, error) {
	var serial atomic.Uint64
	return workers(ns, func(worker int) error {
		name := filepath.Join(dir, fmt.Sprintf("churn-%d-%d", worker, serial.Add(1)))
		if err := syscall.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return syscall.Rmdir(name)
	})
}

// flood executes a program that ends at once.
func flood(ns string) (string, error) {
	return workers(ns, func(int) error {
		pid, err := syscall.ForkExec("/bin/busybox", []string{"true"}, &syscall.ProcAttr{})
		if err != nil {
			return err
		}
		var status syscall.WaitStatus
		for {
			if _, err := syscall.Wait4(pid, &status, 0, nil); !errors.Is(err, syscall.EINTR) {
				return err
			}
		}
	})
}

// connect has processes call, and awaits that each has.
func connect(socket, preface, processes, n string) (string, error) {
	count, err := strconv.Atoi(processes)
	if err != nil {
		return "", err
	}
	made := 0
	for range count {
		cmd := exec.Command("/proc/self/exe", callersRole, socket, preface, n)
		if _, err := cmd.StdinPipe(); err != nil { // it ends with us
			return "", err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return "", err
		}
		if err := cmd.Start(); err != nil {
			return "", err
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			return "", err
		}
		got, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return "", fmt.Errorf("a caller said %q", line)
		}
		made += got
	}
	return fmt.Sprint("made ", made), nil
}

// call opens connections, says the preface on each, and holds them. It never returns.
func call(socket, preface, n string) {
	count, err := strconv.Atoi(n)
	if err != nil {
		fmt.Println(oneLine(err))
		os.Exit(1)
	}
	var conns []net.Conn
	for range count {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			fmt.Println(oneLine(err))
			os.Exit(1)
		}
		_, _ = io.WriteString(conn, preface) // it may have been closed already
		conns = append(conns, conn)
	}
	fmt.Println(len(conns))
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
