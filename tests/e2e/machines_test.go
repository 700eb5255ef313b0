// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// machineProcess is what the agent says of a process in the guest.
type machineProcess struct {
	Status, Confidence, Reason string
	Containers                 []struct {
		ID, Name, Runtime string
		Annotations       map[string]string
	}
}

// Containers that systemd-nspawn registers with the real machined, of systemd 257: in a
// scope that machined makes, and in a service that nspawn stays in (--keep-unit).
func TestMachinesThatSystemdMachinedKnows(t *testing.T) {
	g := harness.StartGuest(t)
	root := g.Share + "/machine"
	for _, d := range []string{"bin", "usr", "etc", "proc", "sys", "dev", "tmp", "run", "var"} {
		if err := os.MkdirAll(root+"/"+d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	img, err := collectortest.Busybox()
	if err != nil {
		t.Fatal(err)
	}
	if err := harness.CopyFile(img.Files["bin/busybox"], root+"/bin/busybox"); err != nil {
		t.Fatal(err)
	}
	units := map[string]string{"tiny": "runs-tiny.service", "kept": "runs-kept.service"}
	run := func(name string) {
		argv := []string{"systemd-nspawn", "--quiet", "--directory=/share/machine", "--read-only", "--machine=" + name, "--private-network", "--resolv-conf=off",
			"--timezone=off", "--link-journal=no", "--console=pipe", "--as-pid2", "/bin/busybox", "sleep", "600"}
		if name == "kept" {
			argv = append(argv[:1], append([]string{"--keep-unit"}, argv[1:]...)...)
		}
		g.Service(units[name], argv...)
	}
	run("tiny")
	dir := startGuestAgent(t, g, []string{"--bpf", "off"})
	ask := guestAsker(g, dir+"/pidigree.sock")
	run("kept") // beside the agent
	for name, unit := range units {
		g.Await(patience, func(ctx context.Context) error { return isMachine(ctx, g, ask, name, unit) })
	}
	if out, err := g.Run(t.Context(), "cat", "/run/systemd/machines/tiny"); err != nil || !strings.Contains(out, "LEADER=") {
		t.Errorf("machined's file: %v\n%s", err, out)
	} else {
		t.Logf("machined's file:\n%s", out)
	}

	t.Run("a name inside of a machine is the machine's", func(t *testing.T) {
		pid, err := leaderOf(t.Context(), g, "tiny")
		if err != nil {
			t.Fatal(err)
		}
		script := `d=/sys/fs/cgroup/machine.slice/machine-tiny.scope/payload/machine.slice/machine-kept.scope/payload; mkdir -p $d && echo ` + pid + ` >$d/cgroup.procs`
		if out, err := g.Run(t.Context(), "/bin/sh", "-c", script); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		g.Await(patience, func(ctx context.Context) error { return isIn(ctx, ask, pid, "tiny") })
	})
	t.Run("a file of nonsense is counted, and everything else goes on", func(t *testing.T) {
		if out, err := g.Run(t.Context(), "/bin/sh", "-c", "echo '<html>503</html>' >/run/systemd/machines/nonsense"); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		g.Await(patience, func(ctx context.Context) error {
			var status []struct {
				Sources []struct {
					Name, State, LastError string
					Errors                 int
				}
			}
			if err := ask(ctx, &status, "status"); err != nil {
				return err
			}
			for _, s := range status[0].Sources {
				if s.Name == "nspawn" && s.State == "running" && s.Errors > 0 && strings.Contains(s.LastError, "machine nonsense: ") {
					return nil
				}
			}
			return fmt.Errorf("status does not say it: %+v", status)
		})
		for name, unit := range units {
			g.Await(patience, func(ctx context.Context) error { return isMachine(ctx, g, ask, name, unit) })
		}
	})
	t.Run("a machine that has ended", func(t *testing.T) {
		if out, err := g.Run(t.Context(), "machinectl", "terminate", "tiny"); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		g.Await(patience, func(ctx context.Context) error {
			var listed []struct{ Name string }
			if err := ask(ctx, &listed, "list", "containers"); err != nil {
				return err
			}
			if len(listed) != 1 || listed[0].Name != "kept" {
				return fmt.Errorf("the containers are %v", listed)
			}
			return nil
		})
	})
}

// leaderOf asks machined for a machine's first process.
func leaderOf(ctx context.Context, g *harness.Guest, name string) (string, error) {
	out, err := g.Run(ctx, "machinectl", "show", name, "--property=Leader", "--value")
	return strings.TrimSpace(out), err
}

// isIn checks that a process is of one machine, for certain.
func isIn(ctx context.Context, ask askGuest, pid, name string) error {
	var said []machineProcess
	if err := ask(ctx, &said, "who", pid); err != nil {
		return err
	}
	a := said[0]
	if a.Status != "container" || a.Confidence != "confirmed" || len(a.Containers) != 1 || a.Containers[0].Name != name || a.Containers[0].Runtime != "nspawn" {
		return fmt.Errorf("PID %s is %+v, want the machine %s", pid, a, name)
	}
	return nil
}

// isMachine checks the leader, what it has made, and nspawn itself.
func isMachine(ctx context.Context, g *harness.Guest, ask askGuest, name, unit string) error {
	leader, err := leaderOf(ctx, g, name)
	if err != nil {
		return err
	}
	child, err := g.Run(ctx, "cat", "/proc/"+leader+"/task/"+leader+"/children")
	if err != nil {
		return err
	}
	for _, pid := range append(strings.Fields(child), leader) {
		if err := isIn(ctx, ask, pid, name); err != nil {
			return err
		}
	}
	supervisor, err := g.Run(ctx, "systemctl", "show", unit, "--property=MainPID", "--value")
	if err != nil {
		return err
	}
	var said []machineProcess
	if err := ask(ctx, &said, "who", strings.TrimSpace(supervisor)); err != nil {
		return err
	}
	if said[0].Status != "host" {
		return fmt.Errorf("nspawn itself is %+v", said[0])
	}
	return nil
}

// The guest is a machine of this host, and has Docker inside: what Docker runs is in
// its container, and that in the machine. What machined would have written is written
// by the test, as this host has no systemd.
func TestDockerInAMachineIsAChain(t *testing.T) {
	g := harness.StartGuest(t)
	machines := t.TempDir() + "/machines"
	if err := os.Mkdir(machines, 0o755); err != nil {
		t.Fatal(err)
	}
	leader := g.Register(machines)
	socket := g.Docker()
	docker := dockerAt(socket)
	loadGuestImages(t, docker)
	sleeps := map[string]string{"early": "7577", "later": "7578"}
	start := func(name string) {
		if _, err := docker(t.Context(), "run", "--detach", "--network=none", "--name="+name, askerImage, "/bin/sleep", sleeps[name]); err != nil {
			t.Fatal(err)
		}
	}
	start("early")
	agent := harness.StartAgent(t, programs, harness.AgentOptions{Args: []string{"--nspawn-machines", machines, "--docker-nested", socket}})
	c := connect(t, agent)
	start("later")
	check := func(pid int, names ...string) error {
		_, err := isInside(t, c, workload.PID(pid), names...)
		return err
	}
	for name, sleep := range sleeps {
		g.Await(patience, func(ctx context.Context) error {
			pid, err := g.HostPID("sleep\x00" + sleep + "\x00")
			if err != nil {
				return err
			}
			return check(pid, g.Machine, name)
		})
	}
	g.Await(patience, func(context.Context) error { return check(leader, g.Machine) })
	g.Await(patience, func(context.Context) error { return check(g.Supervisor()) })
}
