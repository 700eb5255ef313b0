// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/client"
	"github.com/pidigree/pidigree/pkg/server"
	"github.com/pidigree/pidigree/pkg/workload"
)

// served is a socket with an agent behind it, which is another process's to a copy.
func served(t *testing.T) (*Agent, string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "p.sock")
	return start(t, Options{NoBPF: true, Socket: socket, Version: "9.9"}), socket
}

func TestACheckSaysWhatAnotherPidigreeWouldGive(t *testing.T) {
	_, socket := served(t)
	for address, want := range map[string]string{
		socket:           "found " + socket + " 9.9",
		socket + ".none": "absent " + socket + ".none",
	} {
		var page strings.Builder
		if err := Check(t.Context(), Options{Remote: Remote{Address: address, Copy: true}}, &page); err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(strings.Fields(page.String()), " "); !strings.Contains(got, "remote "+want) || strings.Contains(got, "kernel") {
			t.Errorf("%s:\n%s", address, page.String())
		}
	}
}

func TestWhatACopyCannotBe(t *testing.T) {
	for name, o := range map[string]Options{
		"of nobody":              {Remote: Remote{Copy: true}},
		"one that knows its own": {Remote: Remote{Address: "/x", Copy: true}, Others: OthersOwn},
	} {
		if a, err := New(o); err == nil {
			t.Errorf("%s: it is one", name)
			_ = a.Close()
		}
	}
}

// Nobody is a copy of itself; and what it has not heard it does not answer.
func TestACopyThatHearsNothingSaysSo(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "p.sock")
	a, err := New(Options{Socket: socket, Remote: Remote{Address: socket, Copy: true}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(a.Status().ModeReason, "it is this agent"); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("%+v", a.Status())
		}
	}
	if st := a.Status(); st.Ready || st.Mode != ModeCopy || st.BootID == "" || st.PIDNamespace == 0 {
		t.Errorf("%+v", st)
	}
	c, err := client.New(client.Options{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	rs, err := c.Resolve(t.Context(), workload.Query{PID: workload.PID(os.Getpid())}, workload.Query{Self: true}, workload.Query{PID: 1, At: time.Now().Add(-time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"not found", "copy of", "copy of"} {
		if rs[i].Err == nil || !strings.Contains(rs[i].Err.Error(), want) {
			t.Errorf("%+v: %+v", rs[i].Query, rs[i].Answer)
		}
	}
}

func TestWhoAsksACopyIsInAContainerIfItsPIDNamespaceIsOne(t *testing.T) {
	a := &Agent{opts: Options{Procfs: t.TempDir()}}
	for pid, status := range map[string]string{"5": "Name:\tx\nNSpid:\t5\n", "6": "Name:\tx\nNSpid:\t6\t1\n", "7": "Name:\tx\n"} {
		dir := filepath.Join(a.opts.Procfs, pid)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "status"), []byte(status), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for pid, want := range map[workload.PID]server.Standing{5: server.OfTheHost, 6: server.Contained, 7: server.Contained, 8: server.Contained, 0: server.Contained} {
		if got := a.standingAtCopy(server.Peer{PID: pid}); got != want {
			t.Errorf("PID %d: %v, want %v", pid, got, want)
		}
	}
}
