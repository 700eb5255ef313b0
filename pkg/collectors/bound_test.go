// SPDX-License-Identifier: Apache-2.0

package collectors_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

func ordinary() *workload.Container {
	return &workload.Container{
		ID:       workload.ContainerID{Runtime: "docker", ID: "4f3a"},
		Name:     "web",
		Image:    workload.ImageRef{Name: "busybox:1", Tag: "1"},
		Labels:   map[string]string{"a": "b", "owner": "zoë"},
		Env:      map[string]string{"X": "1"},
		Networks: []workload.Network{{Name: "bridge", IPs: []string{"172.17.0.2"}}},
		Ports:    []workload.Port{{Container: 80, Protocol: "tcp", HostIP: "0.0.0.0", HostPort: 8080}},
		Mounts:   []workload.Mount{{Type: "bind", Source: "/srv", Destination: "/data"}},
		Security: &workload.Security{AddedCaps: []string{"CAP_NET_ADMIN"}},
		Pod:      &workload.PodRef{UID: "u", Name: "p", Namespace: "n"},
		Run:      &workload.Run{ClaimedPaths: []string{"/docker/4f3a"}},

		Role: workload.RoleMain, Attempt: 2, Annotations: map[string]string{"note": "x"}, Reason: "Error",
	}
}

func TestBoundLeavesAnOrdinaryContainerAlone(t *testing.T) {
	c := ordinary()
	collectors.Bound(c)
	if d := cmp.Diff(ordinary(), c); d != "" {
		t.Errorf("changed (-before +after):\n%s", d)
	}
}

func TestBoundCutsAndNamesWhatItCut(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	cases := map[string]struct {
		set   func(*workload.Container)
		field string
		check func(*workload.Container) bool
	}{
		"a name of a megabyte": {func(c *workload.Container) { c.Name = long }, "name",
			func(c *workload.Container) bool { return len(c.Name) == 256 }},
		"an image name of a megabyte": {func(c *workload.Container) { c.Image.Name = long }, "image",
			func(c *workload.Container) bool { return len(c.Image.Name) == 1024 }},
		"a label value of a megabyte": {func(c *workload.Container) { c.Labels["big"] = long }, "labels",
			func(c *workload.Container) bool { return len(c.Labels["big"]) == 4096 && c.Labels["a"] == "b" }},
		"a label key of a megabyte is dropped": {func(c *workload.Container) { c.Labels[long] = "v" }, "labels",
			func(c *workload.Container) bool { return len(c.Labels) == 2 }},
		"a hundred variables of 4 KiB": {func(c *workload.Container) { fill(c.Env, 100, 4000) }, "env",
			func(c *workload.Container) bool { return size(c.Env) <= 64<<10 && len(c.Env) > 10 }},
		"ten thousand mounts": {func(c *workload.Container) { c.Mounts = make([]workload.Mount, 10000) }, "mounts",
			func(c *workload.Container) bool { return len(c.Mounts) == 256 }},
		"mounts with long paths": {func(c *workload.Container) {
			c.Mounts = slices.Repeat([]workload.Mount{{Source: long, Destination: long}}, 200)
		}, "mounts",
			func(c *workload.Container) bool { return len(c.Mounts) == 8 && len(c.Mounts[0].Source) == 4096 }},
		"ten thousand networks": {func(c *workload.Container) { c.Networks = make([]workload.Network, 10000) }, "networks",
			func(c *workload.Container) bool { return len(c.Networks) == 64 }},
		"ten thousand addresses": {func(c *workload.Container) { c.Networks[0].IPs = make([]string, 10000) }, "networks",
			func(c *workload.Container) bool { return len(c.Networks[0].IPs) == 32 }},
		"all ports published": {func(c *workload.Container) { c.Ports = make([]workload.Port, 65535) }, "ports",
			func(c *workload.Container) bool { return len(c.Ports) == 256 }},
		"made-up capabilities": {func(c *workload.Container) { c.Security.AddedCaps = make([]string, 10000) }, "security",
			func(c *workload.Container) bool { return len(c.Security.AddedCaps) == 64 }},
		"an annotation of a megabyte": {func(c *workload.Container) { c.Annotations["big"] = long }, "annotations",
			func(c *workload.Container) bool {
				return len(c.Annotations["big"]) == 4096 && c.Annotations["note"] == "x"
			}},
		"a reason of a megabyte": {func(c *workload.Container) { c.Reason = long }, "reason",
			func(c *workload.Container) bool { return len(c.Reason) == 256 }},
		"a long pod name": {func(c *workload.Container) { c.Pod.Name = long }, "pod",
			func(c *workload.Container) bool { return len(c.Pod.Name) == 256 }},
		"claimed paths without end": {func(c *workload.Container) { c.Run.ClaimedPaths = make([]string, 1000) }, "run",
			func(c *workload.Container) bool { return len(c.Run.ClaimedPaths) == 32 }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := ordinary()
			tc.set(c)
			collectors.Bound(c)
			if !slices.Equal(c.Truncated, []string{tc.field}) {
				t.Errorf("Truncated = %v, want [%s]", c.Truncated, tc.field)
			}
			if !tc.check(c) {
				t.Errorf("not cut as it should: %.200v", c)
			}
		})
	}
}

func TestTheTotalIsBoundedWhateverTheFieldsAre(t *testing.T) {
	long := strings.Repeat("x", 4000)
	c := ordinary()
	c.Labels["io.kubernetes.pod.name"] = "web-0"
	fill(c.Labels, 200, 4000)
	fill(c.Env, 200, 4000)
	c.Mounts = slices.Repeat([]workload.Mount{{Source: long, Destination: long}}, 200)
	c.Networks = slices.Repeat([]workload.Network{{Name: long[:200], IPs: slices.Repeat([]string{long[:200]}, 30)}}, 64)
	c.Ports = slices.Repeat([]workload.Port{{Protocol: long[:250], HostIP: long[:250]}}, 256)
	c.Run.ClaimedPaths = slices.Repeat([]string{long}, 32)
	collectors.Bound(c)
	n := size(c.Labels) + size(c.Env)
	for _, m := range c.Mounts {
		n += len(m.Source) + len(m.Destination)
	}
	for _, w := range c.Networks {
		n += len(w.Name) + len(strings.Join(w.IPs, ""))
	}
	for _, p := range c.Ports {
		n += len(p.Protocol) + len(p.HostIP)
	}
	n += len(strings.Join(c.Run.ClaimedPaths, ""))
	if n > 256<<10 || n < 200<<10 {
		t.Errorf("%d KiB are left", n>>10)
	}
	if want := []string{"env", "labels", "mounts", "networks", "ports", "run"}; !slices.Equal(c.Truncated, want) {
		t.Errorf("truncated %q, want %q", c.Truncated, want)
	}
	if c.Labels["io.kubernetes.pod.name"] != "web-0" {
		t.Error("the orchestrator's label is gone")
	}
}

// docs/budgets.md is made of the same table that the collectors use.
func TestBudgetsAreDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString(budgetsHead)
	for _, row := range collectors.Budgets() {
		fmt.Fprintf(&b, "| %s | %s | `%s` |\n", row.What, row.Limit, row.Field)
	}
	b.WriteString(budgetsTail)
	if *update {
		if err := os.WriteFile("../../docs/budgets.md", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	page, err := os.ReadFile("../../docs/budgets.md")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(b.String(), string(page)); d != "" {
		t.Errorf("docs/budgets.md is old; run go test ./pkg/collectors -run Budgets -update (-want +page)\n%s", d)
	}
}

var update = flag.Bool("update", false, "write docs/budgets.md")

const budgetsHead = `<!-- Made by go test ./pkg/collectors -run Budgets -update. -->

# Budgets

Whoever may start a container chooses its labels, its mounts and its annotations, and an engine takes a label of 64 MiB
or 100,000 of them. What is read of one container and what is kept of it is therefore bounded. A field that lost
something is named in the answer: ` + "`truncated`" + ` in JSON and the API, a line of ` + "`pidigree explain`" + `.

| what | at most | named as |
|---|---|---|
`

const budgetsTail = `
What stays does not depend on chance: keys of orchestrators first (those beginning with io.kubernetes., io.container.,
io.cri-containerd., com.amazonaws.ecs., com.docker., io.containerd. and nerdctl/), then the alphabet; of a list its
beginning. A key that is too long is dropped, for a cut key is another key. Bytes that are no UTF-8 become U+FFFD; an id
is never made of text that was cut or repaired. A description of a container's walls (namespaces, capabilities,
devices) that could not be read whole is left out, not guessed.

Files are opened beneath their directory, through no link, and believed if they are regular, root's, and not writable
by others. JSON is cut as it is read, before it is decoded, so memory does not grow with it.
`

func fill(m map[string]string, n, value int) {
	for i := range n {
		m[fmt.Sprintf("%07d", i)] = strings.Repeat("v", value)
	}
}

func size(m map[string]string) int {
	n := 0
	for k, v := range m {
		n += len(k) + len(v)
	}
	return n
}

func TestAHundredThousandLabelsLeaveTheOrchestratorsAndAreCutTheSameEveryTime(t *testing.T) {
	cut := func() map[string]string {
		c := &workload.Container{Labels: map[string]string{"io.kubernetes.pod.name": "web-0"}}
		fill(c.Labels, 100000, 10)
		collectors.Bound(c)
		return c.Labels
	}
	a, b := cut(), cut()
	if len(a) != 256 || a["io.kubernetes.pod.name"] != "web-0" {
		t.Errorf("%d labels, pod name %q", len(a), a["io.kubernetes.pod.name"])
	}
	if !maps.Equal(a, b) {
		t.Error("two cuts of the same labels differ")
	}
	for i := range 255 {
		if _, ok := a[fmt.Sprintf("%07d", i)]; !ok {
			t.Fatalf("label %d was dropped though it sorts first", i)
		}
	}
}

func TestBoundMakesValidUTF8(t *testing.T) {
	c := &workload.Container{
		Name:   "a\xffb",
		Labels: map[string]string{"k\xff": "bad key", "k\uFFFD": "good key", "v": "\xc3\x28"},
	}
	shared := c.Labels
	collectors.Bound(c)
	want := map[string]string{"k\uFFFD": "good key", "v": "\uFFFD("}
	if d := cmp.Diff(want, c.Labels); d != "" {
		t.Errorf("labels (-want +got):\n%s", d)
	}
	if c.Name != "a\uFFFDb" {
		t.Errorf("name %q", c.Name)
	}
	if len(shared) != 3 {
		t.Error("the caller's map was changed")
	}
}

func TestACutNeverSplitsARune(t *testing.T) {
	for pad := range 4 {
		c := &workload.Container{Name: strings.Repeat("x", pad) + strings.Repeat("\U0001F433", 100)}
		want := c.Name
		collectors.Bound(c)
		if !utf8.ValidString(c.Name) || len(c.Name) > 256 || len(c.Name) < 253 || !strings.HasPrefix(want, c.Name) {
			t.Errorf("pad %d: %d bytes, %q", pad, len(c.Name), c.Name)
		}
	}
}

func FuzzBoundKeepsItsPromise(f *testing.F) {
	f.Add("name", "key", "value", 3)
	f.Add("\xff\xfe", "\x00", strings.Repeat("é", 5000), 300)
	f.Fuzz(func(t *testing.T, name, key, value string, n int) {
		c := &workload.Container{Name: name, Hostname: value, Labels: map[string]string{key: value}}
		for i := range max(0, min(n, 600)) {
			c.Labels[fmt.Sprint(key, i)] = value
		}
		collectors.Bound(c)
		if len(c.Name) > 256 || !utf8.ValidString(c.Name+c.Hostname) || len(c.Labels) > 256 || size(c.Labels) > 64<<10 {
			t.Errorf("over budget: %d labels, name %q", len(c.Labels), c.Name)
		}
		for k, v := range c.Labels {
			if !utf8.ValidString(k) || !utf8.ValidString(v) || len(v) > 4096 {
				t.Errorf("label %q", k)
			}
		}
	})
}

func BenchmarkBoundOfAnOrdinaryContainer(b *testing.B) {
	c := ordinary()
	b.ReportAllocs()
	for b.Loop() {
		collectors.Bound(c)
	}
}
