// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// LXC's containers by their own names, those that the agent finds and those that start
// beside it, and again after a restart; what watches over them is the host's.
func TestLXCsContainersAreNamed(t *testing.T) {
	path, err := os.MkdirTemp("/tmp", "pdl") // the command socket's name has the path in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(path) })
	lxc := func(program, name string, args ...string) (string, error) {
		return lxcCommand(program, path, name, args...)
	}
	start := func(name string) (init int) {
		t.Helper()
		_, err := lxc("lxc-start", name)
		t.Cleanup(func() { _, _ = lxc("lxc-stop", name, "-k") }) // it may have been stopped
		if err != nil {
			t.Fatal(err)
		}
		out, err := lxc("lxc-info", name, "-p", "-H")
		if err == nil {
			init, err = strconv.Atoi(out)
		}
		if err != nil {
			t.Fatal(err)
		}
		return init
	}
	early, later := fmt.Sprintf("early%d", os.Getpid()), fmt.Sprintf("later%d", os.Getpid())
	for _, name := range []string{early, later} {
		if err := defineLXC(path, name, "/bin/start"); err != nil {
			t.Fatal(err)
		}
	}
	inits := map[string]int{early: start(early)}
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Args: []string{"--lxc-paths", path}})
	c := connect(t, agent)
	inits[later] = start(later)
	is := func(pid int, name string) {
		t.Helper()
		err := harness.Within(patience, func() error {
			results, err := c.Resolve(t.Context(), workload.Query{PID: workload.PID(pid)})
			if err != nil || results[0].Err != nil {
				return errors.Join(err, results[0].Err)
			}
			a := results[0].Answer
			switch {
			case name == "" && a.Status == workload.StatusHost:
				return nil
			case name != "" && a.Status == workload.StatusContainer && a.Confidence == workload.Confirmed && len(a.Containers) == 1 &&
				a.Containers[0].Name == name && a.Containers[0].Runtime == "lxc" && a.Containers[0].Hostname == "box":
				return nil
			}
			return fmt.Errorf("PID %d is %s, %s, in %d containers (%s), want %q", pid, a.Status, a.Confidence, len(a.Containers), a.Reason, name)
		})
		if err != nil {
			t.Error(err)
		}
	}
	check := func(name string) {
		t.Helper()
		is(inits[name], name)
		children := harness.Children(inits[name])
		if len(children) == 0 {
			t.Errorf("the init of %s has no children", name)
		}
		for _, child := range children {
			is(child, name)
		}
		is(harness.Parent(t, inits[name]), "") // the monitor
	}
	check(early)
	check(later)
	if _, err := lxc("lxc-stop", later, "-k"); err != nil {
		t.Fatal(err)
	}
	inits[later] = start(later)
	check(later)
}

// lxcCommand runs one of LXC's programs on a container.
func lxcCommand(program, path, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, append([]string{"-P", path, "-n", name}, args...)...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s -n %s: %w: %s", program, name, err, out)
	}
	return strings.TrimSpace(string(out)), err
}

// defineLXC makes a container with a busybox, and /bin/start, which has a child, to begin
// with if it is told to. extra are further lines of its configuration.
func defineLXC(path, name, init string, extra ...string) error {
	img, err := collectortest.Busybox()
	if err != nil {
		return err
	}
	root := path + "/" + name + "/rootfs"
	for _, d := range []string{"bin", "proc", "sys", "dev", "tmp", "etc"} {
		err = errors.Join(err, os.MkdirAll(root+"/"+d, 0o755))
	}
	script := "#!/bin/busybox sh\n/bin/busybox sleep 601 &\nexec /bin/busybox sleep 602\n"
	config := append([]string{"lxc.uts.name = box", "lxc.rootfs.path = dir:" + root, "lxc.net.0.type = empty", "lxc.mount.auto = proc:mixed sys:mixed",
		"lxc.apparmor.profile = unconfined", "lxc.init.cmd = " + init}, extra...)
	return errors.Join(err,
		harness.CopyFile(img.Files["bin/busybox"], root+"/bin/busybox"),
		os.WriteFile(root+"/bin/start", []byte(script), 0o755),
		os.WriteFile(path+"/"+name+"/config", []byte(strings.Join(config, "\n")+"\n"), 0o644),
	)
}

// LXD's containers by their own names, in whatever project: those that the agent finds and
// those that start beside it, again after a restart, and after LXD itself has ended.
func TestLXDsContainersAreNamed(t *testing.T) {
	l := collectortest.StartLXD(t)
	if _, err := l.Exec(t.Context(), "project", "create", "web", "-c", "features.images=false", "-c", "features.profiles=false"); err != nil {
		t.Fatal(err)
	}
	name := l.Name()
	early := l.Launch(t, name, "--config", "user.team=blue")
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Args: []string{"--incus-sockets", l.Socket}})
	c := connect(t, agent)
	later := l.Launch(t, name, "--project", "web")
	is := func(pid int, project string) {
		t.Helper()
		err := harness.Within(patience, func() error {
			results, err := c.Resolve(t.Context(), workload.Query{PID: workload.PID(pid)})
			if err != nil || results[0].Err != nil {
				return errors.Join(err, results[0].Err)
			}
			a := results[0].Answer
			if a.Status == workload.StatusContainer && a.Confidence == workload.Confirmed && len(a.Containers) == 1 {
				if o := a.Containers[0]; o.Name == name && o.Runtime == "lxd" && o.ID.Namespace == project && (project != "" || o.Labels["user.team"] == "blue") {
					return nil
				}
			}
			return fmt.Errorf("PID %d is %s, %s, in %+v (%s), want %s of the project %q", pid, a.Status, a.Confidence, a.Containers, a.Reason, name, project)
		})
		if err != nil {
			t.Error(err)
		}
	}
	check := func(init int, project string) {
		t.Helper()
		is(init, project)
		children := harness.Children(init)
		if len(children) == 0 {
			t.Errorf("the init of %s has no children", name)
		}
		for _, child := range children {
			is(child, project)
		}
	}
	check(early, "")
	check(later, "web")
	if _, err := l.Exec(t.Context(), "restart", "--force", name); err != nil {
		t.Fatal(err)
	}
	early = l.Init(t, name)
	check(early, "")
	l.Kill()
	t.Cleanup(func() { // the containers' own ends need it
		if err := l.Start(); err != nil {
			t.Error(err)
		}
	})
	check(early, "")
	check(later, "web")
	err := harness.Within(patience, func() error {
		st, err := c.Status(t.Context())
		if err != nil {
			return err
		}
		for _, s := range st.Sources {
			if s.Name == "lxd" && s.State != "running" {
				return nil
			}
		}
		return fmt.Errorf("status has %+v", st.Sources)
	})
	if err != nil {
		t.Error(err)
	}
}
