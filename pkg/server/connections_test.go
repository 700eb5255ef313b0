// SPDX-License-Identifier: Apache-2.0

package server

import (
	"log/slog"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/pidigree/pidigree/pkg/workload"
)

// A container forks as often as it likes, and root in it is uid 0: it must not
// take the room of the host's tools, nor of other containers.
func TestAContainerOfManyProcessesDoesNotKeepOthersOut(t *testing.T) {
	c := newConnections(Options{Logger: slog.New(slog.DiscardHandler), MaxConnections: 16, MaxPeerConnections: 4}, authorizer{})
	admit := func(namespace uint64, first workload.PID, tries int) (in []Peer) {
		for i := range tries {
			p := Peer{PID: first + workload.PID(i), namespace: namespace}
			if c.enter(p) == nil {
				in = append(in, p)
			}
		}
		return in
	}
	greedy := admit(7, 100, 100)
	if len(greedy) != 4 {
		t.Errorf("one container has %d of 16 connections, not 4", len(greedy))
	}
	if n := len(admit(8, 300, 100)) + len(admit(9, 500, 100)); n != 4 {
		t.Errorf("all others have %d, not the other 4 of the containers' half", n)
	}
	if n := len(admit(0, 700, 100)); n != 8 {
		t.Errorf("the host has %d, not its half", n)
	}
	for _, p := range greedy {
		c.leave(p)
	}
	if n := len(admit(9, 900, 100)); n != 4 {
		t.Errorf("%d came in once there was room, not 4", n)
	}
	if len(c.byNS) != 2 {
		t.Errorf("it still counts %v", c.byNS)
	}
}

func TestThePIDNamespaceOfAPeerIsTold(t *testing.T) {
	if ns := pidNamespace(workload.PID(os.Getpid())); ns != 0 {
		t.Errorf("the test itself is in another PID namespace, %d", ns)
	}
	if ns := pidNamespace(0); ns != nobodysNamespace {
		t.Errorf("one that cannot be seen is in %d", ns)
	}
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	if ns := pidNamespace(workload.PID(cmd.Process.Pid)); ns == 0 || ns == nobodysNamespace {
		t.Errorf("one in a namespace of its own is in %d", ns)
	}
}
