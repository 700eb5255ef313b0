// SPDX-License-Identifier: Apache-2.0

// Package sitters keeps the children of a container's init that does what a test
// orders: each is the same program again, in a role of its own, which says that it
// is where it should be and then only sits there until it is ended.
//
// Whoever is started ends with its parent, by the end of its input. PIDs are of
// the container's own namespace. Nothing is safe for concurrent use.
package sitters

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// Role is the first argument of a program that is a sitter, and no init.
const Role = "sit"

// Ready is the line that a sitter prints once it is where it should be.
const Ready = "ready"

// Sitters are the live ones, by PID.
type Sitters map[int]*exec.Cmd

// Start starts a sitter with these arguments, waits until it is ready, and gives
// the answer to the order: "pid N".
func (s Sitters) Start(args ...string) (string, error) { return s.start(nil, args) }

// Clone is Start for one that is born in a v2 cgroup, by its directory.
func (s Sitters) Clone(cgroup string, args ...string) (string, error) {
	dir, err := os.Open(cgroup)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	return s.start(&syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}, args)
}

func (s Sitters) start(attr *syscall.SysProcAttr, args []string) (string, error) {
	cmd := exec.Command("/proc/self/exe", append([]string{Role}, args...)...)
	cmd.SysProcAttr = attr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if _, err := cmd.StdinPipe(); err != nil { // it ends with us
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != Ready+"\n" {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return "", errors.Join(fmt.Errorf("the child said %q", line), err)
	}
	s[cmd.Process.Pid] = cmd
	return fmt.Sprint("pid ", cmd.Process.Pid), nil
}

// End ends a sitter and reaps it.
func (s Sitters) End(pid string) error {
	n, err := strconv.Atoi(pid)
	cmd, ok := s[n]
	if err != nil || !ok {
		return fmt.Errorf("no child %q", pid)
	}
	delete(s, n)
	_ = cmd.Process.Kill()
	_ = cmd.Wait() // says only that it was killed
	return nil
}
