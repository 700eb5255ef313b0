// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
	"github.com/pidigree/pidigree/tests/e2e/oracle"
)

// honestLookAlikes do what attackers do, and must be answered.
func honestLookAlikes(t *testing.T, s *stage) {
	t.Run("docker exec", func(t *testing.T) {
		n := s.victim.party.Reports()
		s.docker.Docker("exec", "--detach", s.victim.name, oracle.Work, "stay", "-for", "2s", "-children", "1")
		s.o.WaitReports(patience, s.victim.party, n+2)
		s.o.WaitKnown(patience, s.victim.party)
	})
	for name, flags := range map[string][]string{
		"all namespaces": {"--all"}, "PID and mount": {"--pid", "--mount"}, "network alone": {"--net"}, "cgroup namespace": {"--cgroup"},
	} {
		t.Run("nsenter, "+name, func(t *testing.T) { s.nsenter(t, flags) })
	}
	t.Run("host PID", func(t *testing.T) { s.honest(t, "--pid", "host") })
	t.Run("all of the host's namespaces", func(t *testing.T) {
		s.honest(t, "--pid", "host", "--ipc", "host", "--uts", "host", "--cgroupns", "host")
	})
	t.Run("the victim's PID namespace", func(t *testing.T) { s.honest(t, "--pid", "container:"+s.victim.name) })
	t.Run("a cgroup parent with the victim's name", func(t *testing.T) {
		parent := "/docker/" + s.victim.id
		if s.guest {
			parent = "docker-" + s.victim.id + ".slice"
		}
		m := s.honest(t, "--cgroup-parent", parent)
		if text := harness.ProcFile(t, m.pid, "cgroup"); !strings.Contains(text, s.victim.id) {
			t.Fatalf("it is not below the victim's name: %s", text)
		}
	})
	t.Run("a container in a container", func(t *testing.T) { s.nested(t) })
	if !s.guest { // under systemd Docker's parent is a slice, and v2 has no cgroup with processes above others
		t.Run("Docker below the victim's cgroup", func(t *testing.T) { s.dockerBelow(t) })
		t.Run("runc below the victim's cgroup", func(t *testing.T) { s.runcBelow(t) })
		t.Run("Docker in Docker", func(t *testing.T) { s.dockerInDocker(t) })
		t.Run("a rootless engine", func(t *testing.T) { s.rootless(t) })
	}
}

// honest starts a container that has to be known, all of it.
func (s *stage) honest(t *testing.T, flags ...string) *member {
	t.Helper()
	m := s.start(t, "honest", flags...)
	m.party.Group("bystander")
	p := m.sitter(t, "sit")
	s.is(t, m.pid, m)
	s.is(t, p.pid, m)
	s.o.WaitKnown(patience, m.party)
	s.is(t, s.victim.pid, s.victim)
	return m
}

// nsenter: a process of the host's in the victim's namespaces is the host's, as
// soon as it can no longer be a container's that is only just being made; until
// then it is unknown.
func (s *stage) nsenter(t *testing.T, flags []string) {
	args := append([]string{"--target", strconv.Itoa(s.victim.pid)}, append(flags, "--", "/bin/busybox", "sleep", "3600")...)
	cmd := exec.CommandContext(t.Context(), "nsenter", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	}()
	begin, before := time.Now(), ""
	err := harness.Within(patience, func() error {
		pids := append(harness.Children(cmd.Process.Pid), cmd.Process.Pid)
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pids[0]))
		if err != nil || !strings.HasPrefix(string(line), "/bin/busybox\x00sleep") {
			return fmt.Errorf("it is still %q", line)
		}
		if a := s.ask(t, pids[0]); a.Status != workload.StatusHost {
			if a.Status != workload.StatusUnknown {
				t.Errorf("%s: it is %s %q (%s)", time.Since(begin), a.Status, idOf(a), a.Reason)
			}
			if text := fmt.Sprintf("it is %s %q (%s)", a.Status, idOf(a), a.Reason); text != before {
				t.Logf("after %s: %s", time.Since(begin), text)
				before = text
			}
			return errors.New(before)
		}
		return nil
	})
	if err != nil {
		t.Errorf("%v\n%s", err, s.agent.Command(t.Context(), "explain", strconv.Itoa(append(harness.Children(cmd.Process.Pid), cmd.Process.Pid)[0])).Stdout)
	}
}

// nested runs runc in a container, which is what an engine in a container does:
// a process of a container that no source of ours knows, below one that is known.
// It is never somebody else's, and no conflict.
func (s *stage) nested(t *testing.T) {
	outer := s.o.Container(oracle.Truth{Name: s.name("outer"), Image: collectortest.BusyboxImage}).Group("bystander")
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	harness.BusyboxRoot(t, dir+"/rootfs")
	spec := harness.RuncSpec(t, "/bin/busybox", "sleep", "7301")
	spec["linux"].(map[string]any)["cgroupsPath"] = "/pidigree-inner/inner-one"
	harness.WriteSpec(t, dir, spec)
	args := []string{"--volume", dir + ":/inner", "--volume", runc + ":/bin/runc:ro", "--tmpfs", "/run"}
	for _, lib := range []string{"/lib", "/lib64", "/usr/lib"} {
		args = append(args, "--volume", lib+":"+lib+":ro")
	}
	args = append(append(slices.Clone(armed[:6]), "--cap-add", "NET_ADMIN", "--cgroupns", "host", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup"), args...)
	args = append(append(outer.DockerArgs(), args...), collectortest.BusyboxImage, "/bin/busybox", "sh", "-c",
		"runc --root /run/runc run --no-pivot --bundle /inner inner-one >/inner/log 2>&1; echo $? >>/inner/log; sleep 3600")
	id, err := s.docker.Exec(t.Context(), append([]string{"run", "--detach", "--network", "none"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	outer.SetID(id)
	t.Cleanup(func() {
		_, _ = s.docker.Exec(context.WithoutCancel(t.Context()), "rm", "--force", id)
		removeBelow(t, "inner-one")
	})
	pid := 0
	err = harness.Within(patience, func() error {
		for _, p := range descendants(s.docker.InitPID(id)) {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p))
			if strings.HasPrefix(string(line), "/bin/busybox\x00sleep\x007301") {
				pid = p
				return nil
			}
		}
		log, _ := os.ReadFile(dir + "/log")
		return fmt.Errorf("the inner container does not run: %s", log)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the inner one's cgroups:\n%s", harness.ProcFile(t, pid, "cgroup"))
	err = harness.Within(patience, func() error {
		a := s.ask(t, pid)
		for _, c := range a.Containers {
			if c.ID.ID != id && c.ID.ID != "inner-one" {
				t.Errorf("WRONG: it is said to be of %s", c.ID)
			}
		}
		if a.Status == workload.StatusConflict || a.Status == workload.StatusHost {
			return fmt.Errorf("it is %s %q (%s)", a.Status, idOf(a), a.Reason)
		}
		t.Logf("%s %.12s %q", a.Status, idOf(a), a.Reason)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func descendants(pid int) (all []int) {
	for _, c := range harness.Children(pid) {
		all = append(append(all, c), descendants(c)...)
	}
	return all
}

// removeBelow removes what is left of the inner container's cgroups.
func removeBelow(t *testing.T, leaf string) {
	t.Helper()
	for _, h := range harness.Hierarchies(t) {
		_ = filepath.WalkDir(h.Dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.HasSuffix(path, "/pidigree-inner/"+leaf) {
				removeCgroups(t, path, 2)
			}
			return nil
		})
		_ = os.Remove(h.Dir + "/pidigree-inner")
	}
}
