// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// unit is what the agent says of a process's unit, and systemctl of the unit.
type unit struct {
	Unit, Slice, Cgroup, User, UserUnit, Confidence, Description, Active, Sub, InvocationID string
	MainPID                                                                                 int
}

// guestProcess is a process in the agent's list.
type guestProcess struct {
	PID     int
	Comm    string
	Status  string
	Reason  string
	Service *unit
}

// villainUID is a user with a manager of her own.
const villainUID = "1066"

// Every process of the host has the unit that systemd itself says, by its own
// question for that (GetUnitByPIDFD, which systemctl whoami asks), and what
// systemctl show says of the unit.
func TestEveryHostProcessHasTheUnitThatSystemdSays(t *testing.T) {
	g := harness.StartGuest(t)
	socket := g.Docker()
	docker := dockerAt(socket)
	loadGuestImages(t, docker)
	victim, err := docker(t.Context(), "run", "--detach", "--network=none", "--name=victim", askerImage, "/bin/sleep", "3600")
	if err != nil {
		t.Fatal(err)
	}
	startGuestUser(t, g)
	g.Service("worker", "/bin/sh", "-c", "sleep 3601 & exec sleep 3602")
	// The guest shares the machine's kernel, and with it v1 hierarchies that it does
	// not see, where the machine has them. Events name a process's cgroup in each.
	dir := startGuestAgent(t, g, []string{"--bpf", "off"})
	ask := guestAsker(g, dir+"/pidigree.sock")

	t.Run("all of them", func(t *testing.T) {
		g.Await(patience, func(ctx context.Context) error { return sameUnits(ctx, t, g, ask) })
	})
	t.Run("list services", func(t *testing.T) {
		g.Await(patience, func(ctx context.Context) error { return sameServices(ctx, g, ask) })
	})
	t.Run("a user's names are the user's", func(t *testing.T) { userUnits(t, g, ask, victim) })
	t.Run("a unit that is started anew", func(t *testing.T) { restartedUnit(t, g, ask) })
	t.Run("a system manager that hangs, and one that talks nonsense", func(t *testing.T) { badManagers(t, g) })
}

type askGuest func(ctx context.Context, into any, args ...string) error

// guestAsker runs a command of pidigree's in the guest and decodes what it prints.
func guestAsker(g *harness.Guest, socket string) askGuest {
	return func(ctx context.Context, into any, args ...string) error {
		out, err := g.Run(ctx, append([]string{"/share/pidigree", "--socket", socket, "-o", "json"}, args...)...)
		if strings.TrimSpace(out) == "" {
			return errors.Join(err, errors.New("it printed nothing"))
		}
		// A list is one object a line. An answer of unknown has an exit status of its own.
		return json.Unmarshal([]byte("["+strings.Join(strings.Split(strings.TrimSpace(out), "\n"), ",")+"]"), into)
	}
}

// startGuestUser starts the manager of a user, with two units that are called like
// others: a system service, and a container's scope.
func startGuestUser(t *testing.T, g *harness.Guest) {
	t.Helper()
	script := `set -e
useradd --create-home --uid ` + villainUID + ` villain
mkdir -p /run/systemd/system/user@.service.d
printf '[Service]\nEnvironment=XDG_RUNTIME_DIR=/run/user/%%i\n' >/run/systemd/system/user@.service.d/runtime.conf
systemctl daemon-reload
systemctl start user@` + villainUID + `.service`
	if out, err := g.Run(t.Context(), "/bin/sh", "-c", script); err != nil {
		t.Fatalf("%v %s %s", err, out, g.Journal("user@"+villainUID+".service"))
	}
}

// asVillain runs a program of the user's, as a unit of her manager.
func asVillain(ctx context.Context, g *harness.Guest, unit string, argv ...string) error {
	_, err := g.Run(ctx, append([]string{"setpriv", "--reuid=" + villainUID, "--regid=" + villainUID, "--clear-groups",
		"/usr/bin/env", "XDG_RUNTIME_DIR=/run/user/" + villainUID, "systemd-run", "--user", "--quiet", "--unit=" + unit}, argv...)...)
	return err
}

// sameUnits compares each of the host's processes that systemd knows.
func sameUnits(ctx context.Context, t *testing.T, g *harness.Guest, ask askGuest) error {
	var listed []guestProcess
	if err := ask(ctx, &listed, "list", "processes"); err != nil {
		return err
	}
	shown := map[string]unit{}
	compared := 0
	var wrong []error
	for _, p := range listed {
		out, err := g.Run(ctx, "systemctl", "whoami", strconv.Itoa(p.PID))
		if err != nil {
			if _, gone := g.Run(ctx, "test", "-d", "/proc/"+strconv.Itoa(p.PID)); gone != nil || p.Service == nil {
				continue // it has ended, or came from outside of the guest
			}
			return err
		}
		want := strings.TrimSpace(out)
		if p.Status == "container" {
			continue
		}
		if p.Status != "host" || p.Service == nil || p.Service.Unit != want {
			wrong = append(wrong, fmt.Errorf("process %d (%s) is %s (%s) and in %+v, systemd says %s", p.PID, p.Comm, p.Status, p.Reason, p.Service, want))
			continue
		}
		if _, ok := shown[want]; !ok {
			if shown[want], err = show(ctx, g, want); err != nil {
				return err
			}
		}
		if d := differ(*p.Service, shown[want]); d != nil {
			wrong = append(wrong, fmt.Errorf("process %d (%s): %w", p.PID, p.Comm, d))
		}
		compared++
	}
	if wrong != nil {
		return errors.Join(wrong...)
	}
	if compared < 10 || len(shown) < 5 {
		return fmt.Errorf("%d processes of %d units were compared", compared, len(shown))
	}
	t.Logf("%d processes of %d units, as systemd has them", compared, len(shown))
	return nil
}

// show asks systemctl for what it knows of a unit.
func show(ctx context.Context, g *harness.Guest, name string) (unit, error) {
	out, err := g.Run(ctx, "systemctl", "show", "--property=Id,Slice,ControlGroup,Description,ActiveState,SubState,InvocationID,MainPID", "--", name)
	p := map[string]string{}
	for line := range strings.Lines(out) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		p[k] = v
	}
	pid, _ := strconv.Atoi(p["MainPID"]) // a scope has none
	return unit{
		Unit: p["Id"], Slice: p["Slice"], Cgroup: p["ControlGroup"], Description: p["Description"], Active: p["ActiveState"],
		Sub: p["SubState"], InvocationID: p["InvocationID"], MainPID: pid, Confidence: "confirmed",
	}, err
}

func differ(got, want unit) error {
	got.User, got.UserUnit = "", ""
	if strings.Count(got.Cgroup, "/") == 1 {
		want.Slice = got.Slice // of the root slice, which has no directory
	}
	if got != want {
		return fmt.Errorf("its unit is %+v, systemd says %+v", got, want)
	}
	return nil
}

// sameServices: each unit in the list is one of systemd's, and what systemd runs
// is in the list, but for containers' scopes.
func sameServices(ctx context.Context, g *harness.Guest, ask askGuest) error {
	var listed []unit
	if err := ask(ctx, &listed, "list", "services"); err != nil {
		return err
	}
	seen := map[string]bool{}
	for _, s := range listed {
		want, err := show(ctx, g, s.Unit)
		if err != nil {
			return err
		}
		if err := differ(s, want); err != nil {
			return err
		}
		seen[s.Unit] = true
	}
	out, err := g.Run(ctx, "systemctl", "list-units", "--plain", "--no-legend", "--type=service,scope", "--state=running")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if name := strings.Fields(line)[0]; !seen[name] && !strings.HasPrefix(name, "docker-") {
			return fmt.Errorf("%s runs and is not among %d services", name, len(seen))
		}
	}
	if !seen["system.slice"] || !seen["worker.service"] {
		return fmt.Errorf("the list is %v", maps.Keys(seen))
	}
	return nil
}

// userUnits: what a user calls her units passes neither for a unit of the system
// nor for a container.
func userUnits(t *testing.T, g *harness.Guest, ask askGuest, victim string) {
	for i, name := range []string{"worker.service", "systemd-journald.service", "docker-" + victim + ".scope"} {
		arg := "72" + strconv.Itoa(i) + "1.5"
		run := []string{"sleep", arg}
		if base, ok := strings.CutSuffix(name, ".scope"); ok {
			name = base + ".service" // a scope cannot be started in the background
		}
		if err := asVillain(t.Context(), g, name, run...); err != nil {
			t.Fatal(err)
		}
		g.Await(patience, func(ctx context.Context) error {
			pid, err := g.Run(ctx, "pgrep", "--full", "^[^ ]*sleep "+arg+"$")
			if err != nil {
				return err
			}
			var said []guestProcess
			if err := ask(ctx, &said, "who", strings.TrimSpace(pid)); err != nil {
				return err
			}
			s := said[0].Service
			if said[0].Status != "host" || s == nil || s.Unit != "user@"+villainUID+".service" || s.UserUnit != name || s.User != villainUID || s.Active != "active" {
				return fmt.Errorf("it is %s, in %+v", said[0].Status, s)
			}
			return nil
		})
	}
	// And by hand, in what she was delegated: at every depth of another's name.
	for i, path := range []string{"system.slice/worker.service", "docker-" + victim + ".scope", "system.slice/docker-" + victim + ".scope"} {
		arg := "73" + strconv.Itoa(i) + "1.5"
		base := "/sys/fs/cgroup/user.slice/user-" + villainUID + ".slice/user@" + villainUID + ".service/"
		if err := asVillain(t.Context(), g, "mover"+strconv.Itoa(i), "/bin/sh", "-c",
			"mkdir -p "+base+path+" && echo $$$$ >"+base+path+"/cgroup.procs && exec sleep "+arg); err != nil {
			t.Fatal(err)
		}
		g.Await(patience, func(ctx context.Context) error {
			pid, err := g.Run(ctx, "pgrep", "--full", "^[^ ]*sleep "+arg+"$")
			if err != nil {
				return err
			}
			var said []guestProcess
			if err := ask(ctx, &said, "who", strings.TrimSpace(pid)); err != nil {
				return err
			}
			// Below the initial PID namespace, who moves himself may have come out of a
			// container: unknown will do there.
			s := said[0].Service
			if said[0].Status == "unknown" && s == nil {
				return nil
			}
			if said[0].Status != "host" || s == nil || s.Unit != "user@"+villainUID+".service" || s.User != villainUID {
				t.Fatalf("in %s it is %s, in %+v", path, said[0].Status, s)
			}
			return nil
		})
	}
}

// restartedUnit: the new processes have the new invocation, and what has ended
// keeps the one that it was of.
func restartedUnit(t *testing.T, g *harness.Guest, ask askGuest) {
	before, err := show(t.Context(), g, "worker.service")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Run(t.Context(), "systemctl", "restart", "worker.service"); err != nil {
		t.Fatal(err)
	}
	g.Await(patience, func(ctx context.Context) error {
		after, err := show(ctx, g, "worker.service")
		if err != nil {
			return err
		}
		var said []guestProcess
		if err := ask(ctx, &said, "who", strconv.Itoa(after.MainPID)); err != nil {
			return err
		}
		if s := said[0].Service; s == nil || *s != after || after.InvocationID == before.InvocationID {
			return fmt.Errorf("it is in %+v, systemd says %+v", s, after)
		}
		var gone []guestProcess
		if err := ask(ctx, &gone, "who", strconv.Itoa(before.MainPID)); err != nil {
			return err
		}
		if s := gone[0].Service; s == nil || s.InvocationID != before.InvocationID {
			return fmt.Errorf("the one that has ended is in %+v, it was of invocation %s", s, before.InvocationID)
		}
		return nil
	})
}

// badManagers: who a process is, and in which unit, does not wait for the manager.
func badManagers(t *testing.T, g *harness.Guest) {
	for name, answer := range map[string]string{"hangs": "", "nonsense": "HTTP/1.1 400 Bad Request\r\nl\x00\xff\xff\r\n"} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("unix", g.Share+"/"+name+".sock")
			if err != nil {
				t.Fatal(err)
			}
			var held []net.Conn
			done := make(chan struct{})
			go func() {
				defer close(done)
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					held = append(held, c)
					if answer != "" {
						_, _ = io.WriteString(c, answer) // who has hung up was told enough
					}
				}
			}()
			t.Cleanup(func() {
				_ = l.Close()
				<-done
				for _, c := range held {
					_ = c.Close()
				}
			})
			socket := "/share/" + name + "-agent.sock"
			g.Service("agent-"+name, "/share/pidigree", "agent", "--socket", socket, "--docker-host", "/share/docker.sock", "--systemd-socket", "/share/"+name+".sock")
			t.Cleanup(func() {
				if _, err := g.Run(context.Background(), "systemctl", "stop", "agent-"+name); err != nil {
					t.Error(err)
				}
			})
			ask := guestAsker(g, socket)
			g.Await(patience, func(ctx context.Context) error { return withoutManager(ctx, g, ask) })
		})
	}
}

func withoutManager(ctx context.Context, g *harness.Guest, ask askGuest) error {
	worker, err := show(ctx, g, "worker.service")
	if err != nil {
		return err
	}
	var said []guestProcess
	if err := ask(ctx, &said, "who", strconv.Itoa(worker.MainPID)); err != nil {
		return err
	}
	if s := said[0].Service; said[0].Status != "host" || s == nil || s.Unit != "worker.service" || s.Confidence != "claimed" || s.Active != "" {
		return fmt.Errorf("it is %s, in %+v", said[0].Status, s)
	}
	var containers []struct{ Name string }
	if err := ask(ctx, &containers, "list", "containers"); err != nil {
		return err
	}
	if len(containers) == 0 || containers[0].Name != "victim" {
		return fmt.Errorf("the containers are %v", containers)
	}
	var status []struct {
		ModeReason string
		Sources    []struct {
			Name, State, LastError string
			Errors                 int
		}
	}
	if err := ask(ctx, &status, "status"); err != nil {
		return err
	}
	for _, s := range status[0].Sources {
		if s.Name == "systemd" && s.State == "failing" && s.Errors > 0 && s.LastError != "" && strings.Contains(status[0].ModeReason, "systemd fails: ") {
			return nil
		}
	}
	return errors.New("status does not say that systemd fails: " + fmt.Sprint(status))
}
