// SPDX-License-Identifier: Apache-2.0

package attack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/workload"
	"github.com/pidigree/pidigree/tests/e2e/harness"
)

// A spy asks about everybody who is in a cgroup below a container's own, from the
// first moment: what the host's engine puts there is never the container's.
type spy struct {
	t      *testing.T
	client *client.Client
	outer  *member
	dirs   []string // the outer one's, in each hierarchy
	stop   chan struct{}
	done   chan struct{}
	// said counts the answers by status, names by the container's name.
	said  map[workload.Status]int
	names map[string]int
}

// spyBelow begins to ask, and gives what ends it.
func (s *stage) spyBelow(t *testing.T, outer *member) *spy {
	t.Helper()
	w := &spy{
		t: t, client: s.dial(t, s.agent.Socket), outer: outer, stop: make(chan struct{}), done: make(chan struct{}),
		said: map[workload.Status]int{}, names: map[string]int{},
	}
	for _, h := range harness.Hierarchies(t) {
		w.dirs = append(w.dirs, h.Of(t, outer.pid))
	}
	go w.run()
	t.Cleanup(w.end)
	return w
}

func (w *spy) end() {
	select {
	case <-w.stop:
	default:
		close(w.stop)
	}
	<-w.done
}

func (w *spy) run() {
	defer close(w.done)
	for {
		select {
		case <-w.stop:
			return
		default:
		}
		for _, dir := range w.dirs {
			files, _ := filepath.Glob(dir + "/*/cgroup.procs")
			for _, file := range files {
				b, _ := os.ReadFile(file)
				for pid := range strings.FieldsSeq(string(b)) {
					w.ask(file, pid)
				}
			}
		}
	}
}

// ask holds the process by a pidfd, so that the answer is about it.
func (w *spy) ask(file, text string) {
	pid, err := strconv.Atoi(text)
	if err != nil {
		return
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	if b, _ := os.ReadFile(file); !strings.Contains("\n"+string(b), "\n"+text+"\n") {
		return // the PID was another's when it was read
	}
	a, err := w.client.ResolvePIDFD(w.t.Context(), fd)
	if err != nil {
		return // it has ended meanwhile
	}
	w.said[a.Status]++
	for _, c := range a.Containers {
		w.names[c.Name]++
		if c.ID.ID == w.outer.id {
			w.t.Errorf("WRONG: PID %d, in %s, is said to be of %s", pid, file, w.outer.name)
		}
	}
	if a.Status == workload.StatusConflict {
		w.t.Errorf("PID %d, in %s, is in conflict: %s", pid, file, a.Reason)
	}
}

// result ends it; somebody there must have been said to be of the named container.
func (w *spy) result(t *testing.T, name string) {
	t.Helper()
	w.end()
	t.Logf("below %s: %v, %v", w.outer.name, w.said, w.names)
	if w.names[name] == 0 {
		t.Errorf("nobody there was ever said to be of %q", name)
	}
}

// dockerBelow starts containers of Docker's below the victim's cgroup, over and over.
func (s *stage) dockerBelow(t *testing.T) {
	w := s.spyBelow(t, s.victim)
	parent := strings.TrimPrefix(harness.Hierarchies(t)[0].Of(t, s.victim.pid), harness.Hierarchies(t)[0].Dir)
	var last *member
	for range 4 {
		for _, flags := range [][]string{nil, {"--pid", "host"}, {"--pid", "container:" + s.victim.name}} {
			last = s.honest(t, append(flags, "--cgroup-parent", parent)...)
			if dir := harness.Hierarchies(t)[0].Of(t, last.pid); !strings.HasPrefix(dir, w.dirs[0]+"/") {
				t.Fatalf("it is in %s, not below the victim's", dir)
			}
		}
	}
	w.result(t, last.name)
}

// runcBelow runs containers of bare runc there, whose cgroups' names say nothing.
func (s *stage) runcBelow(t *testing.T) {
	w := s.spyBelow(t, s.victim)
	parent := strings.TrimPrefix(harness.Hierarchies(t)[0].Of(t, s.victim.pid), harness.Hierarchies(t)[0].Dir)
	for i := range 6 {
		id := fmt.Sprintf("below-%d", i)
		dir := shortDir(t)
		harness.BusyboxRoot(t, dir+"/rootfs")
		spec := harness.RuncSpec(t, "/bin/busybox", "sleep", "3600")
		spec["linux"].(map[string]any)["cgroupsPath"] = parent + "/" + id
		harness.WriteSpec(t, dir, spec)
		runc := func(args ...string) *exec.Cmd {
			return exec.Command("runc", append([]string{"--root", s.lies}, args...)...)
		}
		cmd := runc("run", "--detach", "--bundle", dir, "--pid-file", dir+"/pid", id)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Run(); err != nil {
			t.Fatalf("runc run: %v", err)
		}
		remove := func() error {
			out, err := runc("delete", "--force", id).CombinedOutput()
			if err != nil {
				return errors.New(string(out))
			}
			return nil
		}
		b, err := os.ReadFile(dir + "/pid")
		if err != nil {
			t.Fatal(err)
		}
		pid, _ := strconv.Atoi(string(b))
		err = harness.Within(patience, func() error {
			if a := s.ask(t, pid); a.Status != workload.StatusContainer || idOf(a) != id {
				return fmt.Errorf("it is %s %q (%s), not of %s", a.Status, idOf(a), a.Reason, id)
			}
			return nil
		})
		if err := errors.Join(err, remove()); err != nil {
			t.Fatal(err)
		}
	}
	w.end()
	t.Logf("below %s: %v", w.outer.name, w.said)
	if w.said[workload.StatusContainer] == 0 {
		t.Error("nobody there was ever named")
	}
}
