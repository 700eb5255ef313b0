// SPDX-License-Identifier: Apache-2.0

package store

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/pidigree/pidigree/pkg/workload"
)

func TestPrecedenceDocsAreUpToDate(t *testing.T) {
	const path = "../../docs/precedence.md"
	if *update {
		if err := os.WriteFile(path, []byte(PrecedenceMarkdown()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(PrecedenceMarkdown(), string(got)); diff != "" {
		t.Errorf("docs/precedence.md differs from the table; run go test ./pkg/store -run Precedence -update\n%s", diff)
	}
}

func TestTheTableNamesEveryFieldOnce(t *testing.T) {
	var have []string
	for _, r := range precedence {
		for f := range strings.SplitSeq(r.field, ", ") {
			have = append(have, strings.SplitN(f, ".", 2)[0])
		}
	}
	have = slices.Compact(have) // Image has several rows
	var want []string
	for f := range reflect.TypeFor[workload.Container]().Fields() {
		want = append(want, f.Name)
	}
	slices.Sort(have)
	slices.Sort(want)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("fields of a container (-) and of the table (+):\n%s", diff)
	}
}

func TestOnlyTheCorrelatorSaysWhatIsItsOwn(t *testing.T) {
	id := docker("aaaa")
	liar := &container{
		ID: id, Name: "web", Parent: docker("host"), Confidence: workload.Confirmed,
		Run:     &workload.Run{Cgroups: []workload.CgroupPath{{CgroupID: workload.CgroupID{ID: 1}}}},
		Missing: []string{"x"}, Timeline: []workload.Mark{{What: "x"}},
	}
	c := merge(id, []layer{newLayer("docker", liar), newLayer("zzz", liar)}, false)
	if c.Run != nil || !c.Parent.IsZero() || c.Confidence != "" || c.Missing != nil || c.Timeline != nil {
		t.Errorf("a source's word was taken: %+v", c)
	}
	c = merge(id, []layer{newLayer("docker", liar), newLayer(KernelSource, liar)}, false)
	if c.Run == nil || c.Parent.IsZero() || c.Confidence == "" || c.Missing == nil || c.Timeline == nil {
		t.Errorf("the correlator's word was not taken: %+v", c)
	}
}

// layers makes layers from pairs of source and container.
func layers(pairs ...any) []layer {
	var ls []layer
	for i := 0; i < len(pairs); i += 2 {
		ls = append(ls, newLayer(pairs[i].(string), pairs[i+1].(*container)))
	}
	return ls
}

func TestMerge(t *testing.T) {
	type c = container
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	exit := func(code int32, known, oom bool) *workload.Exit {
		return &workload.Exit{Known: known, Code: code, OOM: oom}
	}
	for _, tc := range []struct {
		name   string
		layers []layer
		gone   bool
		want   c // the fields of it that are not zero, and those named in zero
		zero   string
	}{
		{name: "docker's name beats containerd's and the bundle's",
			layers: layers("oci", &c{Name: "o"}, "containerd", &c{Name: "d"}, "docker", &c{Name: "web"}),
			want:   c{Name: "web"}},
		{name: "the order of arrival does not matter",
			layers: layers("docker", &c{Name: "web"}, "oci", &c{Name: "o"}),
			want:   c{Name: "web"}},
		{name: "an empty field is left to the next source",
			layers: layers("docker", &c{}, "containerd", &c{Name: "d"}),
			want:   c{Name: "d"}},
		{name: "unknown sources come last, alphabetically",
			layers: layers("zebra", &c{Name: "z", Hostname: "zh"}, "ant", &c{Name: "a"}, "oci", &c{Name: "o"}),
			want:   c{Name: "o", Hostname: "zh"}},
		{name: "a further engine of a kind has the kind's place",
			layers: layers("oci", &c{Name: "o"}, "docker@/run/other.sock", &c{Name: "web"}),
			want:   c{Name: "web"}},
		{name: "among unknown sources the alphabet decides",
			layers: layers("zebra", &c{Name: "z"}, "ant", &c{Name: "a"}),
			want:   c{Name: "a"}},
		{name: "the ID goes with the name",
			layers: layers("containerd", &c{ID: moby("aaaa")}, "docker", &c{ID: docker("aaaa"), Name: "web"}),
			want:   c{ID: docker("aaaa"), Aliases: []workload.ContainerID{docker("key"), moby("aaaa")}}},
		{name: "a named layer gives the ID though a nameless one comes first",
			layers: layers("docker", &c{ID: docker("aaaa")}, "containerd", &c{ID: moby("aaaa"), Name: "x"}),
			want:   c{ID: moby("aaaa"), Name: "x"}},
		{name: "without a name the first layer's id is taken",
			layers: layers("oci", &c{ID: moby("o")}, "docker", &c{ID: docker("d")}),
			want:   c{ID: docker("d")}},
		{name: "without any id the key is the ID",
			layers: layers("oci", &c{Hostname: "h"}),
			want:   c{ID: docker("key")}, zero: "Aliases"},
		{name: "aliases of layers are kept, once each",
			layers: layers("docker", &c{ID: docker("d"), Name: "n", Aliases: []workload.ContainerID{moby("m"), docker("d")}}, "oci", &c{ID: moby("m")}),
			want:   c{Aliases: []workload.ContainerID{docker("key"), moby("m")}}},
		{name: "docker is what users know it by, not the runc below",
			layers: layers("oci", &c{Runtime: "runc"}, "containerd", &c{Runtime: "containerd"}, "docker", &c{Runtime: "docker"}),
			want:   c{Runtime: "docker"}},
		{name: "a bare runc container is runc's",
			layers: layers("kernel", &c{}, "oci", &c{Runtime: "runc"}),
			want:   c{Runtime: "runc"}},
		{name: "image: name and tag from one, digest and id from whoever has them",
			layers: layers(
				"docker", &c{Image: workload.ImageRef{Name: "web:1", Tag: "1", ID: "sha256:cfg"}},
				"containerd", &c{Image: workload.ImageRef{Name: "docker.io/web:2", Tag: "2", Digest: "sha256:man"}}),
			want: c{Image: workload.ImageRef{Name: "web:1", Tag: "1", Digest: "sha256:man", ID: "sha256:cfg"}}},
		{name: "a name without a tag takes nobody else's tag",
			layers: layers("docker", &c{Image: workload.ImageRef{Name: "sha256:abc"}}, "containerd", &c{Image: workload.ImageRef{Name: "x:2", Tag: "2"}}),
			want:   c{Image: workload.ImageRef{Name: "sha256:abc"}}},
		{name: "labels come whole from one source",
			layers: layers("containerd", &c{Labels: map[string]string{"a": "c", "b": "c"}}, "docker", &c{Labels: map[string]string{"a": "d"}}),
			want:   c{Labels: map[string]string{"a": "d"}}},
		{name: "no labels is an answer too",
			layers: layers("containerd", &c{Labels: map[string]string{"internal": "x"}}, "docker", &c{Labels: map[string]string{}}),
			want:   c{Labels: map[string]string{}}},
		{name: "nil labels are no answer",
			layers: layers("containerd", &c{Labels: map[string]string{"b": "c"}}, "docker", &c{}),
			want:   c{Labels: map[string]string{"b": "c"}}},
		{name: "the environment comes from the engine, else from what was applied",
			layers: layers("containerd", &c{Env: map[string]string{"A": "ctr"}}, "oci", &c{Env: map[string]string{"A": "oci"}}),
			want:   c{Env: map[string]string{"A": "oci"}}},
		{name: "what the kernel saw end is exited, whatever the engine still says",
			layers: layers("docker", &c{State: workload.StateRunning}, "kernel", &c{State: workload.StateExited}),
			want:   c{State: workload.StateExited}},
		{name: "a tombstone is exited",
			layers: layers("docker", &c{State: workload.StateRunning}), gone: true,
			want: c{State: workload.StateExited}},
		{name: "what the kernel sees run is not what the engine said of the run before",
			layers: layers("docker", &c{State: workload.StateExited, Exit: exit(1, true, false)}, "kernel", &c{State: workload.StateRunning}),
			want:   c{State: workload.StateRunning}, zero: "Exit"},
		{name: "what the engine's check said of who has ended is not said",
			layers: layers("docker", &c{State: workload.StateRunning, Health: workload.HealthHealthy}, "kernel", &c{State: workload.StateExited, Exit: exit(1, true, false)}),
			want:   c{State: workload.StateExited, Exit: exit(1, true, false)}, zero: "Health"},
		{name: "the engine's check of who runs",
			layers: layers("docker", &c{State: workload.StatePaused, Health: workload.HealthUnhealthy}, "kernel", &c{State: workload.StateRunning}),
			want:   c{State: workload.StatePaused, Health: workload.HealthUnhealthy}},
		{name: "only the engine knows that it is paused",
			layers: layers("docker", &c{State: workload.StatePaused}, "kernel", &c{State: workload.StateRunning}),
			want:   c{State: workload.StatePaused}},
		{name: "between two runs the engine knows that there will be a next",
			layers: layers("docker", &c{State: workload.StateRestarting, Exit: exit(1, true, false)}, "kernel", &c{State: workload.StateExited, Exit: exit(1, true, false)}),
			want:   c{State: workload.StateRestarting, Exit: exit(1, true, false)}},
		{name: "what is gone is not restarted",
			layers: layers("docker", &c{State: workload.StateRestarting}), gone: true,
			want: c{State: workload.StateExited}},
		{name: "the next run has begun while the engine has not said so",
			layers: layers("docker", &c{State: workload.StateRestarting, Exit: exit(1, true, false)}, "kernel", &c{State: workload.StateRunning}),
			want:   c{State: workload.StateRunning}, zero: "Exit"},
		{name: "without an engine the kernel's state is shown",
			layers: layers("kernel", &c{State: workload.StateRunning}, "oci", &c{}),
			want:   c{State: workload.StateRunning}},
		{name: "the kernel's exit status wins, the OOM flag is joined",
			layers: layers("docker", &c{State: workload.StateExited, Exit: exit(1, true, true)}, "kernel", &c{Exit: exit(137, true, false)}),
			want:   c{Exit: exit(137, true, true)}},
		{name: "an exit status that the kernel lost is the engine's",
			layers: layers("docker", &c{State: workload.StateExited, Exit: exit(3, true, false)}, "kernel", &c{Exit: &workload.Exit{At: 9}}),
			want:   c{Exit: &workload.Exit{Known: true, Code: 3, At: 9}}},
		{name: "the run's exit counts as the kernel's",
			layers: layers("docker", &c{Exit: exit(3, true, false)}, "kernel", &c{Run: &workload.Run{Exit: exit(4, true, false)}}), gone: true,
			want: c{Exit: exit(4, true, false)}},
		{name: "an exit that nobody knows is still an exit",
			layers: layers("kernel", &c{Exit: exit(0, false, false)}), gone: true,
			want: c{Exit: exit(0, false, false)}},
		{name: "times are the engine's",
			layers: layers("containerd", &c{Created: noon.Add(time.Hour), Started: noon}, "docker", &c{Created: noon}),
			want:   c{Created: noon, Started: noon}},
		{name: "an empty list of ports says that there are none",
			layers: layers("docker", &c{Ports: []workload.Port{}}, "ecs", &c{Ports: []workload.Port{{Container: 80}}}),
			want:   c{Ports: []workload.Port{}}},
		{name: "security comes whole from one source",
			layers: layers("oci", &c{Security: &workload.Security{HostPID: true}}, "docker", &c{Security: &workload.Security{Privileged: true}}),
			want:   c{Security: &workload.Security{Privileged: true}}},
		{name: "the bundle is the runtime's word first",
			layers: layers("docker", &c{Bundle: "/d"}, "oci", &c{Bundle: "/o"}),
			want:   c{Bundle: "/o"}},
		{name: "a sandbox is one if anyone says so",
			layers: layers("docker", &c{}, "zzz", &c{Sandbox: true}),
			want:   c{Sandbox: true}},
		{name: "pods are the kubelet's word first",
			layers: layers("containerd", &c{Pod: &workload.PodRef{UID: "c"}}, "kubelet", &c{Pod: &workload.PodRef{UID: "k"}}),
			want:   c{Pod: &workload.PodRef{UID: "k"}}},
		{name: "every layer is a source, in the order of arrival, with its time",
			layers: layers("oci", &c{Sources: []workload.Provenance{{Source: "x", At: 5}}}, "docker", &c{}),
			want:   c{Sources: []workload.Provenance{{Source: "oci", At: 5}, {Source: "docker"}}}},
		{name: "what was cut anywhere is said",
			layers: layers("oci", &c{Truncated: []string{"Labels", "Env"}}, "docker", &c{Truncated: []string{"Labels"}}),
			want:   c{Truncated: []string{"Env", "Labels"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := reflect.ValueOf(*merge(docker("key"), tc.layers, tc.gone))
			want := reflect.ValueOf(tc.want)
			for i := range want.NumField() {
				name := want.Type().Field(i).Name
				if want.Field(i).IsZero() && !strings.Contains(tc.zero, name) {
					continue
				}
				if diff := cmp.Diff(want.Field(i).Interface(), got.Field(i).Interface()); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
		})
	}
}

func TestAliasesAreBounded(t *testing.T) {
	liar := &container{ID: docker("a")}
	for i := range 10_000 {
		liar.Aliases = append(liar.Aliases, moby(strings.Repeat("x", i%50+1)))
	}
	if n := len(merge(docker("a"), layers("docker", liar), false).Aliases); n != maxAliases {
		t.Errorf("%d aliases", n)
	}
}
