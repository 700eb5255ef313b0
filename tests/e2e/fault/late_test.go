// SPDX-License-Identifier: Apache-2.0

package fault

import (
	"os"
	"testing"
	"time"

	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
)

// An engine that comes after the agent: the CRI's socket is not there and its
// containers run already, as after an engine's update.
func TestACRIIsInstalledLate(t *testing.T) {
	k := startKube(t)
	for _, name := range []string{"early-0", "early-1"} {
		c := collectortest.ContainerConfig{Name: name, Command: []string{"sleep", "3600"}}
		if _, err := k.RunContainer(t.Context(), k.sandbox, k.pod, c); err != nil {
			t.Fatal(err)
		}
	}
	k.Stop()
	if err := os.Remove(k.Address); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	b := newBed(t, k, false)
	if listed, err := b.listed(); err != nil || labelled(listed) {
		t.Fatalf("before the engine is there, its labels are known: %+v, %v", listed, err)
	}
	if err := k.Start(); err != nil {
		t.Fatal(err)
	}
	b.installed()
	b.settle()
}

// A podman of which nothing was there when the agent started, not even a directory.
func TestPodmanIsInstalledLate(t *testing.T) {
	p := pod{collectortest.StartPodman(t, collectortest.EngineOptions{NoImages: true})}
	if _, err := os.Stat(p.Root); !os.IsNotExist(err) {
		t.Fatalf("podman's storage is there already: %v", err)
	}
	b := newBed(t, p, false)
	p.Load(collectortest.EngineOptions{})
	r := b.start("first", "stay")
	b.installed()
	b.remove(r)
	b.settle()
}

// installed waits until the store equals the truth of an engine that has just come.
func (b *bed) installed() {
	b.Helper()
	e := b.equalSince(time.Now())
	b.Logf("%s, installed late: equal after %s", b.engine, e.took.Round(time.Millisecond))
	switch {
	case e.diff != "":
		b.Fatalf("%s after %s was installed the store is not the truth (-engine +agent):\n%s\n%s", e.took, b.engine, e.diff, b.records(e.diff))
	case e.late():
		b.Errorf("the store equals the truth %s after %s was installed, not within %s", e.took, b.engine, within)
	}
}

// labelled says whether a list has a container with a label of the kubelet's, which only the CRI tells.
func labelled(listed map[string]fact) bool {
	for _, f := range listed {
		if f.Labels["io.kubernetes.container.name"] != "" {
			return true
		}
	}
	return false
}
