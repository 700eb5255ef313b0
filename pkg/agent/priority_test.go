// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// bePrior raises its own priority, as an agent does that is asked to, and prints
// those of its thread and of its session's scheduling group.
func bePrior() {
	if err := setPriority(-5); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	prio, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("nice %d, group %s", 20-prio, groupNice())
}

// groupNice is how the kernel names the priority of our group, "none" where it
// makes no groups of sessions.
func groupNice() string {
	b, err := os.ReadFile("/proc/self/autogroup")
	if err != nil {
		return "none"
	}
	_, nice, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	return nice
}

func TestPriorityIsAlsoThatOfTheSessionsGroupWhereTheAgentLeadsIt(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	raised, alone := "nice -5", "nice 0"
	if _, err := os.Stat("/proc/self/autogroup"); errors.Is(err, fs.ErrNotExist) {
		raised, alone = "none", "none"
	}
	for name, c := range map[string]struct {
		argv []string
		want string
	}{
		"leads its session":         {[]string{self}, "nice -5, group " + raised},
		"in the session of another": {[]string{"/bin/sh", "-c", `"$0"; exit $?`, self}, "nice -5, group " + alone},
	} {
		cmd := exec.Command(c.argv[0], c.argv[1:]...)
		cmd.Env = append(os.Environ(), roleEnv+"=prior")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		out, err := cmd.CombinedOutput()
		if err != nil || string(out) != c.want {
			t.Errorf("%s: %v: %q, want %q", name, err, out, c.want)
		}
	}
}
