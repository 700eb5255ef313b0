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
	"path/filepath"
	"strings"

	"github.com/pidigree/pidigree/tests/e2e/sitters"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == sitters.Role {
		sit(os.Args[2:])
	}
	serve()
}

// serve obeys until its input ends. It never returns.
func serve() {
	children := sitters.Sitters{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		answer, err := obey(children, words)
		if err != nil {
			answer = "error " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Println(answer)
	}
	os.Exit(0)
}

func obey(children sitters.Sitters, words []string) (string, error) {
	switch {
	case len(words) == 0:
		return "", errors.New("an empty line")
	case words[0] == "enter":
		return children.Start(words[1:]...)
	case words[0] == "clone" && len(words) == 2:
		return children.Clone(words[1])
	case words[0] == "end" && len(words) == 2:
		return "ended", children.End(words[1])
	}
	return "", fmt.Errorf("no such order: %q", words)
}

// sit moves itself into the cgroups, says so, and waits. It never returns.
func sit(dirs []string) {
	for _, dir := range dirs {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	fmt.Println(sitters.Ready)
	_, _ = io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}
