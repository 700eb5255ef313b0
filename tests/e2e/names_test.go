// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// named says what is wrong with an answer that should be a live container of
// this name, confirmed.
func named(name string) func(harness.Answer) error {
	return func(a harness.Answer) error {
		if a.Status != "container" || a.Confidence != "confirmed" || a.Container().Name != name {
			return fmt.Errorf("it is %s, %s, %q (%s), not container, confirmed, %q", a.Status, a.Confidence, a.Container().Name, a.Reason, name)
		}
		return nil
	}
}

func TestDockersContainersAreNamed(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, OCIRoots: []string{"/run/runc"}})

	t.Run("a process that docker exec put in", func(t *testing.T) {
		docker.Run("--name", "keeper", collectortest.BusyboxImage, "/bin/sleep", "3600")
		docker.Docker("exec", "--detach", "keeper", "/bin/sleep", "7101.25")
		pid := processWith(t, "7101.25")
		a := agent.Await(patience, strconv.Itoa(pid), named("keeper"))
		if a.Process == nil || a.Process.Entry != "exec" {
			t.Errorf("its process is %+v, not one that came in by exec", a.Process)
		}
	})

	t.Run("a container whose parent cgroup carries another one's id", func(t *testing.T) {
		victim := docker.Run("--name", "victim", collectortest.BusyboxImage, "/bin/sleep", "3600")
		id := docker.Run("--name", "below", "--cgroup-parent", "/docker/"+victim, collectortest.BusyboxImage, "/bin/sleep", "3600")
		agent.Await(patience, strconv.Itoa(docker.InitPID(id)), named("below"))
		agent.Await(patience, strconv.Itoa(docker.InitPID(victim)), named("victim"))
	})

	t.Run("a container that was renamed", func(t *testing.T) {
		id := docker.Run("--name", "before", collectortest.BusyboxImage, "/bin/sleep", "3600")
		docker.Docker("rename", "before", "after")
		agent.Await(patience, strconv.Itoa(docker.InitPID(id)), named("after"))
	})

	for name, env := range map[string]string{"classic": "0", "BuildKit": "1"} {
		t.Run("a step of docker build, "+name, func(t *testing.T) { buildStepIsNamed(t, agent, docker, env) })
	}
}

// buildStepIsNamed: no engine lists the container of a build step; the low-level
// runtime's state is what knows it.
func buildStepIsNamed(t *testing.T, agent *harness.Agent, docker *collectortest.Dockerd, buildkit string) {
	seconds := "720" + buildkit + ".25"
	dir := t.TempDir()
	dockerfile := "FROM " + collectortest.BusyboxImage + "\nRUN sleep " + seconds + "\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		t.Fatal(err)
	}
	cli, args := docker.CLI()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	build := exec.CommandContext(ctx, cli, append(args, "build", "--network", "none", dir)...)
	build.Env = append(os.Environ(), "DOCKER_BUILDKIT="+buildkit, "HOME="+dir)
	var log strings.Builder
	build.Stdout, build.Stderr = &log, &log
	if err := build.Start(); err != nil {
		t.Fatal(err)
	}
	pid := processWith(t, seconds)
	defer func() {
		_ = syscall.Kill(pid, syscall.SIGKILL) // the step ends, and with it the build
		_ = build.Wait()                       // it fails: its step was killed
		if t.Failed() {
			t.Log(log.String())
		}
	}()
	agent.Await(patience, strconv.Itoa(pid), func(a harness.Answer) error {
		if a.Status != "container" || a.Confidence != "confirmed" || a.Container().ID == "" {
			return fmt.Errorf("it is %s, %s, %q (%s)", a.Status, a.Confidence, a.Container().ID, a.Reason)
		}
		if !slices.ContainsFunc(a.Sources, func(s harness.Source) bool { return s.Source == "oci" }) {
			return fmt.Errorf("the source oci is not among %v", a.Sources)
		}
		return nil
	})
}

func TestContainerdsContainersAreNamed(t *testing.T) {
	containerd := collectortest.StartContainerd(t, engineOptions(t))
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Containerd: containerd})

	t.Run("with a cgroup path that has nothing of an id in it", func(t *testing.T) {
		parent := "pidigree-e2e-" + strconv.Itoa(os.Getpid())
		t.Cleanup(func() { removeCgroups(t, parent) })
		containerd.Run("default", "--cgroup", "/"+parent+"/odd/path", collectortest.BusyboxImage, "odd-one", "/bin/sleep", "3600")
		pid := containerd.InitPID("default", "odd-one")
		a := agent.Await(patience, strconv.Itoa(pid), named("odd-one"))
		if got := a.Container().Image; got != collectortest.BusyboxImage {
			t.Errorf("its image is %q", got)
		}
		containerd.Ctr("--namespace", "default", "tasks", "rm", "--force", "odd-one")
	})

	t.Run("with the same id in two namespaces", func(t *testing.T) {
		containerd.ImportBusybox("other")
		for _, ns := range []string{"default", "other"} {
			containerd.Run(ns, "--label", "test.ns="+ns, collectortest.BusyboxImage, "twin", "/bin/sleep", "3600")
		}
		for _, ns := range []string{"default", "other"} {
			a := agent.Await(patience, strconv.Itoa(containerd.InitPID(ns, "twin")), named("twin"))
			if got := a.Container().Labels["test.ns"]; got != ns {
				t.Errorf("the twin of namespace %s has the label test.ns=%s", ns, got)
			}
		}
	})

	t.Run("with a process that ctr exec put in", func(t *testing.T) {
		containerd.Run("default", collectortest.BusyboxImage, "host-of-exec", "/bin/sleep", "3600")
		containerd.Ctr("--namespace", "default", "tasks", "exec", "--detach", "--exec-id", "e1", "host-of-exec", "/bin/sleep", "7102.25")
		agent.Await(patience, strconv.Itoa(processWith(t, "7102.25")), named("host-of-exec"))
	})
}

// What an engine itself says of a container's PID is enough, where nobody told
// us where its runc keeps its state.
func TestContainersAreNamedByTheirEnginesAlone(t *testing.T) {
	docker := collectortest.StartDockerd(t, engineOptions(t))
	containerd := collectortest.StartContainerd(t, engineOptions(t))
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Docker: docker, Containerd: containerd, NoOCI: true})
	id := docker.Run("--name", "by-docker", collectortest.BusyboxImage, "/bin/sleep", "3600")
	agent.Await(patience, strconv.Itoa(docker.InitPID(id)), named("by-docker"))
	containerd.Run("default", collectortest.BusyboxImage, "by-containerd", "/bin/sleep", "3600")
	agent.Await(patience, strconv.Itoa(containerd.InitPID("default", "by-containerd")), named("by-containerd"))
}

// removeCgroups removes a cgroup of every hierarchy and what is left below it:
// runc removes no more than the leaf.
func removeCgroups(t *testing.T, name string) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		for _, below := range []string{"/odd/path", "/odd", ""} {
			dirs, err := filepath.Glob(pattern + below)
			if err != nil {
				t.Fatal(err)
			}
			for _, dir := range dirs {
				if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, syscall.ENOENT) {
					t.Errorf("remove %s: %v", dir, err)
				}
			}
		}
	}
}

// An engine that nobody told us of is no reason not to know: runc's own state is enough.
func TestABareRuncContainerIsNamed(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "pdr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	root := dir + "/runc"
	agent := harness.StartAgent(t, programs, harness.AgentOptions{OCIRoots: []string{root}})
	bundle(t, dir, "/bin/sleep", "7103.25")
	runc := func(args ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "runc", append([]string{"--root", root}, args...)...)
		// runc gives its output to the container, which must not keep ours open.
		log, err := os.CreateTemp(dir, "log")
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Run(); err != nil {
			out, _ := os.ReadFile(log.Name())
			t.Fatalf("runc %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	runc("run", "--detach", "--bundle", dir, "pidigree-bare")
	t.Cleanup(func() { _ = exec.Command("runc", "--root", root, "delete", "--force", "pidigree-bare").Run() })
	a := agent.Await(patience, strconv.Itoa(processWith(t, "7103.25")), func(a harness.Answer) error {
		if a.Status != "container" || a.Confidence != "confirmed" || a.Container().ID != "pidigree-bare" {
			return fmt.Errorf("it is %s, %s, %q (%s)", a.Status, a.Confidence, a.Container().ID, a.Reason)
		}
		return nil
	})
	if got := a.Container().Runtime; got != "runc" {
		t.Errorf("its runtime is %q, not runc", got)
	}
}

// bundle makes an OCI bundle with a busybox in dir.
func bundle(t *testing.T, dir string, args ...string) {
	t.Helper()
	harness.BusyboxRoot(t, dir+"/rootfs")
	if err := os.Symlink("busybox", dir+"/rootfs/bin/sleep"); err != nil {
		t.Fatal(err)
	}
	harness.WriteSpec(t, dir, harness.RuncSpec(t, args...))
}

func TestAProcessOfTheHostIsFoundToBeThat(t *testing.T) {
	agent := harness.StartAgent(t, programs, harness.AgentOptions{})
	agent.Await(patience, strconv.Itoa(os.Getpid()), func(a harness.Answer) error {
		if a.Status != "host" {
			return fmt.Errorf("it is %s (%s), not host", a.Status, a.Reason)
		}
		return nil
	})
	if a := agent.Who("self")[0]; a.Status != "host" {
		t.Errorf("a command that asks about itself is %s (%s), not host", a.Status, a.Reason)
	}
}
