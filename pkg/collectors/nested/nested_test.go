// SPDX-License-Identifier: Apache-2.0

package nested

import (
	"context"
	"errors"
	"iter"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// listenEnv makes this program serve a socket in place of the tests, until its input ends.
const listenEnv = "PIDIGREE_TEST_LISTEN"

func TestMain(m *testing.M) {
	if path := os.Getenv(listenEnv); path != "" {
		serve(path)
		return
	}
	goleak.VerifyTestMain(m)
}

func serve(path string) {
	l, err := net.Listen("unix", path)
	if err != nil {
		os.Exit(1)
	}
	defer l.Close()
	_, _ = os.Stdout.WriteString("x")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// server starts a process that listens at a path, and gives what ends it.
func server(t *testing.T, path string) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), listenEnv+"="+path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	end = func() {
		_ = in.Close()
		_ = cmd.Wait()
	}
	t.Cleanup(end)
	return cmd.Process.Pid, end
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// tells: SO_PEERPIDFD came with Linux 6.5. Before, the source cannot be used.
func tells(t *testing.T, s *Server, c net.Conn) bool {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	fd, err := unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == nil {
		_ = unix.Close(fd)
		return true
	}
	if err := s.Dialed(c); !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("on a kernel that does not tell: %v", err)
	}
	return false
}

func TestASocketThatAnotherProcessServesIsAnotherEngine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	pid, end := server(t, path)
	s := NewServer("/proc")
	c := dial(t, path)
	if !tells(t, s, c) {
		return
	}
	for range 2 {
		if err := s.Dialed(dial(t, path)); err != nil {
			t.Fatal(err)
		}
	}
	if k := s.Key(); int(k.PID) != pid || k.Start == 0 || !k.Ticks {
		t.Errorf("the server is %s, not process %d", k, pid)
	}
	end()
	if err := s.Dialed(c); err == nil {
		t.Error("a connection to a process that has ended is good")
	}
	_ = os.Remove(path)
	next, _ := server(t, path)
	if err := s.Dialed(dial(t, path)); !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("another process's socket: %v", err)
	}
	s.Forget()
	if err := s.Dialed(dial(t, path)); err != nil || int(s.Key().PID) != next {
		t.Errorf("after Forget: %s, %v", s.Key(), err)
	}
}

// engine is an engine that says one container, and is asked for it by its own id.
type engine struct{ asked []workload.ContainerID }

func (e *engine) Name() string                                     { return "docker" }
func (e *engine) Nudge()                                           {}
func (e *engine) Probe(context.Context) (collectors.Report, error) { return collectors.Report{}, nil }
func (e *engine) Locate(context.Context, workload.Evidence) (workload.ContainerID, error) {
	return workload.ContainerID{ID: "c1"}, nil
}

func said() *workload.Container {
	return &workload.Container{
		ID: workload.ContainerID{Runtime: "docker", Instance: "/s", ID: "c1"}, Name: "web", State: workload.StateRunning, Bundle: "/b",
		Aliases: []workload.ContainerID{{Runtime: "containerd", Namespace: "moby", ID: "c1"}}, Mounts: []workload.Mount{{Source: "/etc"}},
		Pod: &workload.PodRef{UID: "u"},
	}
}

func (e *engine) Lookup(_ context.Context, id workload.ContainerID) (*workload.Container, error) {
	e.asked = append(e.asked, id)
	l := said()
	l.Run = &workload.Run{Init: workload.ProcessKey{PID: 7}, Registers: true}
	return l, nil
}

func (e *engine) List(context.Context) iter.Seq2[*workload.Container, error] {
	return func(yield func(*workload.Container, error) bool) { yield(said(), nil) }
}

func (e *engine) Watch(_ context.Context, fn func(collectors.Hint)) error {
	l := said()
	fn(collectors.Hint{Kind: collectors.HintAlive})
	fn(collectors.Hint{Kind: collectors.HintStarted, ID: l.ID, Layer: l})
	fn(collectors.Hint{Pod: &workload.Pod{}})
	return collectors.ErrUnavailable
}

func TestAContainerWithoutANameHasThatOfItsPodsSpec(t *testing.T) {
	c := New(&engine{}, NewServer("/proc"), "/s")
	for name, want := range map[string]string{"": "app", "own": "own"} {
		l := &workload.Container{Name: name, Labels: map[string]string{"io.kubernetes.container.name": "app"}}
		if got := c.own(l).Name; got != want {
			t.Errorf("one that is called %q by its engine is %q, want %q", name, got, want)
		}
	}
}

func TestWhatAnEngineInAContainerSaysIsOfItsOwnInstance(t *testing.T) {
	e := &engine{}
	c := New(e, NewServer("/proc"), "/s")
	own := func(l *workload.Container) {
		t.Helper()
		if l.ID.Nested() != c.Nested() || l.Aliases != nil || l.Bundle != "" || l.Mounts != nil || l.Pod != nil || l.Name != "web" {
			t.Errorf("it says %+v", l)
		}
	}
	id := workload.ContainerID{Runtime: "docker", Instance: c.Nested(), ID: "c1"}
	l, err := c.Lookup(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	own(l)
	for l, err := range c.List(t.Context()) {
		if err != nil || l.Run == nil {
			t.Fatalf("the list says no PID: %v", err)
		}
		own(l)
	}
	var kinds []collectors.HintKind
	_ = c.Watch(t.Context(), func(h collectors.Hint) {
		kinds = append(kinds, h.Kind)
		if h.Layer != nil {
			own(h.Layer)
		}
	})
	if want := []collectors.HintKind{collectors.HintServer, collectors.HintAlive, collectors.HintStarted}; !slices.Equal(kinds, want) {
		t.Errorf("hints %q", kinds)
	}
	for _, id := range e.asked {
		if id.Instance != "" {
			t.Errorf("the engine was asked for %+v", id)
		}
	}
	if _, err := c.Lookup(t.Context(), workload.ContainerID{Runtime: "docker", ID: "c1"}); !errors.Is(err, collectors.ErrNotMine) {
		t.Errorf("the host's container: %v", err)
	}
	if _, err := c.Locate(t.Context(), workload.Evidence{}); !errors.Is(err, collectors.ErrNotMine) {
		t.Errorf("locate: %v", err)
	}
}
