// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// A user's podman is found by its conmon alone, and what it says counts for the
// user's own processes.
func TestOnARootlessPodman(t *testing.T) {
	e := collectortest.StartRootlessPodman(t, collectortest.EngineOptions{})
	id := e.Run("--name", "mine", "--label", "team=blue", collectortest.BusyboxImage)
	pid := e.InitPID(id)
	c, err := New(Options{Roots: []string{t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	want := workload.ContainerID{Runtime: "podman", Instance: workload.UserInstance(e.UID), ID: id}
	got, err := c.Locate(t.Context(), workload.Evidence{Init: workload.ProcessKey{PID: workload.PID(pid)}})
	if err != nil || got != want {
		t.Fatalf("Locate by a process: %v, %v; want %v", got, err, want)
	}
	one, err := c.Lookup(t.Context(), want)
	if err != nil {
		t.Fatal(err)
	}
	if one.Name != "mine" || one.Labels["team"] != "blue" || one.Image.Name != collectortest.BusyboxImage || one.State != workload.StateRunning {
		t.Errorf("it is described as %+v", one)
	}
	if one.Run == nil || one.Run.Init.PID != workload.PID(pid) || one.Run.Init.Start == 0 || !one.Run.Homeless || len(one.Run.ClaimedPaths) > 0 {
		t.Errorf("its run: %+v", one.Run)
	}
	if _, err := c.Lookup(t.Context(), workload.ContainerID{ID: id}); err == nil {
		t.Error("a bare id leads to a user's container")
	}
	conmon := os.Getpid()
	if m, err := c.monitor(int64(pid)); err == nil {
		t.Errorf("the init is taken for a conmon: %+v", m)
	}
	if id, err := c.Locate(t.Context(), workload.Evidence{Init: workload.ProcessKey{PID: workload.PID(conmon)}}); err == nil {
		t.Errorf("this test is located in %v", id)
	}
	var listed []string
	fresh, err := New(Options{Roots: []string{t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	for one, err := range fresh.List(t.Context()) {
		if err == nil && one.ID.ID == id {
			listed = append(listed, one.ID.Instance)
		}
	}
	if !slices.Equal(listed, []string{want.Instance}) {
		t.Errorf("listed by %q", listed)
	}
	none, err := New(Options{Roots: []string{t.TempDir()}, NoUsers: true})
	if err != nil {
		t.Fatal(err)
	}
	for one, err := range none.List(t.Context()) {
		t.Errorf("without users: %v, %v", one, err)
	}
}

// What a user may write into a database leads to no process but his own.
func TestAUsersWordIsOfHisOwnProcessesAlone(t *testing.T) {
	root := t.TempDir()
	c, err := New(Options{Roots: []string{root}})
	if err != nil {
		t.Fatal(err)
	}
	for what, m := range map[string]monitor{
		"root's":           {uid: 0, id: strings.Repeat("a", 64), bundle: root + "/overlay-containers/" + strings.Repeat("a", 64) + "/userdata"},
		"root's directory": {uid: 1234, id: strings.Repeat("a", 64), bundle: root + "/overlay-containers/" + strings.Repeat("a", 64) + "/userdata"},
		"no storage":       {uid: 1234, id: strings.Repeat("a", 64), bundle: "/etc"},
		"no path":          {uid: 1234, id: strings.Repeat("a", 64), bundle: "overlay-containers/" + strings.Repeat("a", 64) + "/userdata"},
		"another's bundle": {uid: 1234, id: strings.Repeat("b", 64), bundle: root + "/overlay-containers/" + strings.Repeat("a", 64) + "/userdata"},
	} {
		if s := c.learn(m); s != nil {
			t.Errorf("%s: %+v is taken for a store of user %d", what, s, s.owner)
		}
	}
	p, err := c.process(int64(os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if ownedBy(p, 1234) || !ownedBy(p, 0) {
		t.Error("this process is taken for user 1234's")
	}
}
