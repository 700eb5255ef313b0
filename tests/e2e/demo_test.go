// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a newcomer runs first.
func TestTheDemoShowsWhatItSaysAndLeavesTheMachineAsItWas(t *testing.T) {
	before := traces(t)
	begin := time.Now()
	cmd := exec.CommandContext(t.Context(), "scripts/demo.sh")
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the demo: %v\n%s", err, out)
	}
	if took := time.Since(begin); took > 2*time.Minute {
		t.Errorf("it took %s, more than two minutes", took)
	}
	for _, want := range []string{
		"container, by exec", // docker exec
		"odd",                // ctr, with a cgroup path that says nothing
		"exited 3",           // the one of 50 ms
		"first user exec",    // the timeline
	} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("the demo does not show %q", want)
		}
	}
	for _, left := range traces(t) {
		if !slices.Contains(before, left) {
			t.Errorf("the demo left %s", left)
		}
	}
	if t.Failed() {
		t.Logf("%s", out)
	}
}

// traces lists what the demo could leave behind: directories, cgroups, mounts,
// processes and network interfaces.
func traces(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/tmp/pidigree-demo*", "/sys/fs/cgroup/pidigree-demo*", "/sys/fs/cgroup/*/pidigree-demo*", "/etc/docker/*", "/opt/containerd"} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, paths...)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, "pidigree-demo") {
			found = append(found, "the mount "+line)
		}
	}
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range commands {
		if args, err := os.ReadFile(f); err == nil && bytes.Contains(args, []byte("pidigree-demo.")) {
			found = append(found, "the process "+string(bytes.ReplaceAll(args, []byte{0}, []byte{' '})))
		}
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		found = append(found, "the interface "+i.Name)
	}
	return found
}
