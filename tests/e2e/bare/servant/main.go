// SPDX-License-Identifier: Apache-2.0

// Command servant is the init of the containers of tests/e2e/bare: it does what
// it is told over its standard input, one line at a time, and answers each with
// one line:
//
//	enter DIR...  start a process that writes itself into these cgroups; its PID
//	clone DIR     start a process that is born in this v2 cgroup; its PID
//	end PID       end it, and reap it
//
// PIDs are of the container's own namespace. With arguments it is such a process:
// it moves itself and then only waits.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// sitterRole makes the program a sitter.
const sitterRole = "sit"

func main() {
	if len(os.Args) > 1 && os.Args[1] == sitterRole {
		sit(os.Args[2:])
	}
	serve()
}

// serve obeys until its input ends. It never returns.
func serve() {
	sitters := make(map[int]*exec.Cmd)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		answer, err := obey(sitters, words)
		if err != nil {
			answer = "error " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Println(answer)
	}
	os.Exit(0)
}

func obey(sitters map[int]*exec.Cmd, words []string) (string, error) {
	switch {
	case len(words) == 0:
		return "", errors.New("an empty line")
	case words[0] == "enter":
		return startSitter(sitters, nil, words[1:])
	case words[0] == "clone" && len(words) == 2:
		dir, err := os.Open(words[1])
		if err != nil {
			return "", err
		}
		defer dir.Close()
		return startSitter(sitters, &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}, nil)
	case words[0] == "end" && len(words) == 2:
		pid, _ := strconv.Atoi(words[1])
		cmd, ok := sitters[pid]
		if !ok {
			return "", fmt.Errorf("no child %q", words[1])
		}
		delete(sitters, pid)
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // says only that it was killed
		return "ended", nil
	}
	return "", fmt.Errorf("no such order: %q", words)
}

// startSitter returns once the sitter is where it should be.
func startSitter(sitters map[int]*exec.Cmd, attr *syscall.SysProcAttr, dirs []string) (string, error) {
	cmd := exec.Command("/proc/self/exe", append([]string{sitterRole}, dirs...)...)
	cmd.SysProcAttr = attr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if _, err := cmd.StdinPipe(); err != nil { // the sitter ends with us
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "ready\n" {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return "", fmt.Errorf("the child said %q: %w", line, err)
	}
	sitters[cmd.Process.Pid] = cmd
	return fmt.Sprintf("pid %d", cmd.Process.Pid), nil
}

// sit moves itself into the cgroups, says so, and waits. It never returns.
func sit(dirs []string) {
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
