// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/pidigree/pidigree/pkg/workload"
	"golang.org/x/sys/unix"
)

// fixture is a machine made of plain directories: a procfs and cgroup mounts.
type fixture struct {
	t    testing.TB
	root string
}

// newFixture lays out files. "{root}" in a file stands for the fixture's
// directory and "{dev}" for its device number.
func newFixture(t testing.TB, files map[string]string, dirs ...string) *fixture {
	t.Helper()
	x := &fixture{t: t, root: t.TempDir()}
	var st unix.Stat_t
	if err := unix.Stat(x.root, &st); err != nil {
		t.Fatal(err)
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	for _, d := range dirs {
		x.mkdir(d)
	}
	for name, text := range files {
		x.mkdir(filepath.Dir(name))
		text = strings.NewReplacer("{root}", x.root, "{dev}", dev).Replace(text)
		if err := os.WriteFile(x.path(name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return x
}

func (x *fixture) path(p string) string { return filepath.Join(x.root, p) }

func (x *fixture) mkdir(p string) {
	x.t.Helper()
	if err := os.MkdirAll(x.path(p), 0o755); err != nil {
		x.t.Fatal(err)
	}
}

func (x *fixture) options() Options { return Options{Procfs: x.path("proc")} }

func (x *fixture) open() *FS {
	x.t.Helper()
	f, err := New(x.options())
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { f.Close() })
	return f
}

// A host of CentOS 7's kind: v1 only, controllers mounted together.
func v1Fixture(t testing.TB) *fixture {
	return newFixture(t, map[string]string{
		"proc/self/cgroup": "3:cpuset:/\n2:cpuacct,cpu:/system.slice/agent.service\n1:name=systemd:/system.slice/agent.service\n",
		"proc/self/mountinfo": `25 30 {dev} / {root}/cg/systemd rw,nosuid shared:9 - cgroup cgroup rw,xattr,release_agent=/usr/lib/systemd/systemd-cgroups-agent,name=systemd
26 30 {dev} / {root}/cg/cpu,cpuacct rw,nosuid shared:10 - cgroup cgroup rw,cpuacct,cpu
27 30 {dev} / {root}/cg/with\040space rw,nosuid shared:11 - cgroup cgroup rw,cpuset
28 30 0:99 / /proc rw - proc proc rw
not a line
`,
		"proc/7/cgroup":  "3:cpuset:/docker/a\n2:cpuacct,cpu:/docker/a\n1:name=systemd:/docker/a\n",
		"proc/8/cgroup":  "3:cpuset:/\n2:cpuacct,cpu:/\n1:name=systemd:/\n",
		"proc/8/stat":    "8 (a) b (c) S 1 8 8 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0\n",
		"proc/9/cgroup":  "3:cpuset:/\n2:cpuacct,cpu:/\n1:name=systemd:/\n",
		"proc/9/stat":    "9 (x) R 0 4) Z 1 9 9 0 -1 4227084 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0\n",
		"proc/10/cgroup": "nonsense\n",
		"proc/11/cgroup": "5:newer:/x\n3:cpuset:/gone\n2:cpuacct,cpu:/docker/a\n1:name=systemd:/link/a\n",
	}, "cg/systemd/docker/a", "cg/cpu,cpuacct/docker/a", "cg/with space/docker/a", "elsewhere/a")
}

func TestAV1Host(t *testing.T) {
	x := v1Fixture(t)
	for link, target := range map[string]string{"link": x.path("elsewhere"), "inner": "docker"} {
		if err := os.Symlink(target, x.path("cg/systemd/"+link)); err != nil {
			t.Fatal(err)
		}
	}
	f := x.open()
	want := []Hierarchy{
		{ID: 1, Name: "systemd", Mount: x.path("cg/systemd")},
		{ID: 2, Controllers: []string{"cpuacct", "cpu"}, Mount: x.path("cg/cpu,cpuacct")},
		{ID: 3, Controllers: []string{"cpuset"}, Mount: x.path("cg/with space")},
	}
	if d := cmp.Diff(want, f.Hierarchies()); d != "" || f.Mode() != ModeV1 {
		t.Errorf("mode %s, hierarchies (-want +got):\n%s", f.Mode(), d)
	}
	at := func(h uint32, dir, path string) workload.CgroupPath {
		return workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: h, ID: inode(t, x.path("cg/"+dir+path))}, Path: path}
	}
	un := func(h uint32, path string) workload.CgroupPath {
		return workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: h}, Path: path}
	}
	for _, c := range []struct {
		name string
		pid  workload.PID
		want []workload.CgroupPath
	}{
		{"a process in three cgroups", 7, []workload.CgroupPath{at(1, "systemd", "/docker/a"), at(2, "cpu,cpuacct", "/docker/a"), at(3, "with space", "/docker/a")}},
		{"a live process in the root", 8, []workload.CgroupPath{at(1, "systemd", "/"), at(2, "cpu,cpuacct", "/"), at(3, "with space", "/")}},
		{"a dead process, said to be in the root", 9, []workload.CgroupPath{un(1, "/"), un(2, "/"), un(3, "/")}},
		{"a symbolic link, a gone cgroup, an unknown hierarchy", 11, []workload.CgroupPath{un(1, "/link/a"), at(2, "cpu,cpuacct", "/docker/a"), un(3, "/gone"), un(5, "/x")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := f.OfPID(c.pid)
			if d := cmp.Diff(c.want, got); err != nil || d != "" {
				t.Errorf("%v (-want +got):\n%s", err, d)
			}
		})
	}
	if got, err := f.OfPID(10); err == nil {
		t.Errorf("nonsense was read as %v", got)
	}
	for _, path := range []string{"/link/a", "/inner/a"} {
		_, err := f.LineageOfPath(1, path)
		isErr(t, err, ErrOutside, "a lineage through a symbolic link, "+path)
		_, err = f.ID(1, path)
		isErr(t, err, ErrOutside, "an id through a symbolic link, "+path)
	}
	id := at(2, "cpu,cpuacct", "/docker/a").CgroupID
	if p, err := f.Path(id); err != nil || p != "/docker/a" {
		t.Errorf("path by walking: %q, %v", p, err)
	}
}

// An agent in a v1 container without a cgroup namespace: its mounts show its
// own subtree, at the usual place.
func TestAMountOfASubtree(t *testing.T) {
	x := newFixture(t, map[string]string{
		"proc/self/cgroup":    "1:pids:/docker/me\n",
		"proc/self/mountinfo": "25 30 {dev} /docker/me {root}/cg/pids rw - cgroup cgroup rw,pids\n",
		"proc/7/cgroup":       "1:pids:/docker/me/sub\n",
		"proc/8/cgroup":       "1:pids:/docker/other\n",
		"proc/9/cgroup":       "1:pids:/docker/mean\n",
	}, "cg/pids/sub", "cg/pids/other", "cg/pids/an")
	f := x.open()
	sub := workload.CgroupID{Hierarchy: 1, ID: inode(t, x.path("cg/pids/sub"))}
	if got, err := f.OfPID(7); err != nil || got[0].CgroupID != sub || got[0].Path != "/docker/me/sub" {
		t.Errorf("below the subtree: %v, %v", got, err)
	}
	for _, pid := range []workload.PID{8, 9} {
		if got, err := f.OfPID(pid); err != nil || got[0].ID != 0 {
			t.Errorf("outside the subtree: %v, %v", got, err)
		}
	}
	if p, err := f.Path(sub); err != nil || p != "/docker/me/sub" {
		t.Errorf("Path: %q, %v", p, err)
	}
	if l, err := f.Lineage(sub); err != nil || len(l) != 2 || l[1].Path != "/docker/me" {
		t.Errorf("Lineage: %v, %v", l, err)
	}
	if h, p, ok := f.StripMount(x.path("cg/pids/sub")); !ok || h != 1 || p != "/docker/me/sub" {
		t.Errorf("StripMount: %d %q %v", h, p, ok)
	}
}

// An agent in a container with the host's cgroups mounted elsewhere.
func TestACgroupRootElsewhere(t *testing.T) {
	x := newFixture(t, map[string]string{
		"proc/self/cgroup": "2:pids:/docker/me\n1:name=systemd:/docker/me\n0::/docker/me\n",
		"proc/self/mountinfo": `25 30 {dev} /docker/me {root}/own/pids rw - cgroup cgroup rw,pids
26 30 {dev} / {root}/host/pids rw - cgroup cgroup rw,pids
27 30 {dev} / {root}/host/unified rw - cgroup2 cgroup2 rw
28 30 {dev} / {root}/hostile/systemd rw - cgroup cgroup rw,name=systemd
`,
		"host/unified/cgroup.controllers": "hugetlb misc\n",
	}, "own/pids", "host/pids/docker/a", "host/unified/docker/a", "hostile/systemd")
	o := x.options()
	o.CgroupRoot = x.path("host/") + "/"
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := []Hierarchy{
		{ID: 0, Controllers: []string{"hugetlb", "misc"}, Mount: x.path("host/unified")},
		{ID: 1, Name: "systemd"},
		{ID: 2, Controllers: []string{"pids"}, Mount: x.path("host/pids")},
	}
	if d := cmp.Diff(want, f.Hierarchies()); d != "" || f.Mode() != ModeHybrid {
		t.Errorf("mode %s, hierarchies (-want +got):\n%s", f.Mode(), d)
	}
	if _, _, ok := f.StripMount(x.path("own/pids/x")); ok {
		t.Error("a mount outside the root counts")
	}
	// Without the option the widest mount is taken.
	if f := x.open(); f.Hierarchies()[2].Mount != x.path("host/pids") {
		t.Errorf("the widest mount: %+v", f.Hierarchies())
	}
}

func TestStripMount(t *testing.T) {
	x := newFixture(t, map[string]string{
		"proc/self/cgroup": "12:net_cls,net_prio:/\n4:cpu,cpuacct:/\n3:pids:/\n2:name=elogind:/\n1:name=systemd:/\n0::/\n",
		"proc/self/mountinfo": `25 30 {dev} / {root}/cg/pids rw - cgroup cgroup rw,pids
26 30 {dev} / {root}/cg/pids2/x rw - cgroup cgroup rw,pids
27 30 {dev} / {root}/cg/unified rw - cgroup2 cgroup2 rw
28 26 {dev} / {root}/cg/pids/in/it rw - cgroup2 cgroup2 rw
`,
	}, "cg/pids", "cg/unified")
	f := x.open()
	for _, c := range []struct {
		name, abs string
		hierarchy uint32
		path      string
		ok        bool
	}{
		{"a known mount", x.root + "/cg/pids/docker/4f3a", 3, "/docker/4f3a", true},
		{"a known mount itself", x.root + "/cg/pids", 3, "/", true},
		{"a second mount of the hierarchy", x.root + "/cg/pids2/x/docker", 3, "/docker", true},
		{"a mount in a mount", x.root + "/cg/pids/in/it/a", 0, "/a", true},
		{"a name that only begins like a mount", x.root + "/cg/pidsX/docker", 0, "", false},
		{"the known v2 mount", x.root + "/cg/unified/docker/a", 0, "/docker/a", true},
		{"a usual v1 place", "/sys/fs/cgroup/pids/docker/a", 3, "/docker/a", true},
		{"a usual v1 place itself", "/sys/fs/cgroup/pids", 3, "/", true},
		{"controllers mounted together", "/sys/fs/cgroup/cpu,cpuacct/docker/a", 4, "/docker/a", true},
		{"in the other order", "/sys/fs/cgroup/cpuacct,cpu/docker/a", 4, "/docker/a", true},
		{"a link to controllers mounted together", "/sys/fs/cgroup/net_prio/docker/a", 12, "/docker/a", true},
		{"name=systemd", "/sys/fs/cgroup/systemd/docker/a", 1, "/docker/a", true},
		{"another named hierarchy", "/sys/fs/cgroup/elogind/1", 2, "/1", true},
		{"the usual v2 place in hybrid mode", "/sys/fs/cgroup/unified/docker/a", 0, "/docker/a", true},
		{"the v2 place itself", "/sys/fs/cgroup/unified", 0, "/", true},
		{"an engine with a v2 mount of its own", "/sys/fs/cgroup/docker/a", 0, "/docker/a", true},
		{"the root of that", "/sys/fs/cgroup", 0, "/", true},
		{"a colon in the name", "/sys/fs/cgroup/pids/a.slice:cri-containerd:b", 3, "/a.slice:cri-containerd:b", true},
		{"a v1 controller without a hierarchy", "/sys/fs/cgroup/memory/docker/a", 0, "", false},
		{"another directory", "/var/lib/docker", 0, "", false},
		{"dots", "/sys/fs/cgroup/pids/../memory/a", 0, "", false},
		{"a relative path", "sys/fs/cgroup/pids/a", 0, "", false},
		{"nothing", "", 0, "", false},
		{"a NUL", "/sys/fs/cgroup/pids/a\x00b", 0, "", false},
		{"a trailing slash", "/sys/fs/cgroup/pids/a/", 0, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			h, p, ok := f.StripMount(c.abs)
			if h != c.hierarchy || p != c.path || ok != c.ok {
				t.Errorf("%q: %d, %q, %v, want %d, %q, %v", c.abs, h, p, ok, c.hierarchy, c.path, c.ok)
			}
		})
	}
}

func TestStripMountOnAPureV2Host(t *testing.T) {
	x := newFixture(t, map[string]string{
		"proc/self/cgroup":    "0::/init.scope\n",
		"proc/self/mountinfo": "27 30 {dev} / {root}/cg rw - cgroup2 cgroup2 rw\n",
	}, "cg")
	f := x.open()
	// A v2 cgroup may be named like a controller: below the mount it is one.
	for abs, want := range map[string]string{
		x.root + "/cg/memory/a":               "/memory/a",
		"/sys/fs/cgroup/system.slice/a.scope": "/system.slice/a.scope",
	} {
		if h, p, ok := f.StripMount(abs); !ok || h != 0 || p != want {
			t.Errorf("%q: %d %q %v", abs, h, p, ok)
		}
	}
	if f.Mode() != ModeV2 {
		t.Errorf("mode %s", f.Mode())
	}
}

func TestADeadProcessOnAPureV2Host(t *testing.T) {
	x := newFixture(t, map[string]string{
		"proc/self/cgroup":    "0::/\n",
		"proc/self/mountinfo": "27 30 {dev} / {root}/cg rw - cgroup2 cgroup2 rw\n",
		"proc/7/cgroup":       "0::/a (deleted)\n",
		"proc/7/stat":         "7 (x) Z 1 9 9 0 -1 4227084 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0\n",
		"proc/8/cgroup":       "0::/b (deleted)\n",
		"proc/8/stat":         "8 (x) S 1 9 9 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 5 0 0\n",
		"proc/9/cgroup":       "0::/b (deleted)\n",
		"proc/9/stat":         "nonsense\n",
	}, "cg/a", "cg/b (deleted)")
	f := x.open()
	got, err := f.OfPID(7)
	if d := cmp.Diff([]workload.CgroupPath{{Path: "/a"}}, got); d != "" || err != nil {
		t.Errorf("dead, its cgroup removed: %v (-want +got):\n%s", err, d)
	}
	got, err = f.OfPID(8)
	want := []workload.CgroupPath{{CgroupID: workload.CgroupID{ID: inode(t, x.path("cg/b (deleted)"))}, Path: "/b (deleted)"}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("alive, in a cgroup of that name: %v (-want +got):\n%s", err, d)
	}
	if got, err := f.OfPID(9); err == nil {
		t.Errorf("a stat that makes no sense: %v", got)
	}
}

func TestAMachineWithoutCgroups(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"no procfs":                  {},
		"no mountinfo":               {"proc/self/cgroup": "0::/\n"},
		"no mount":                   {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": "22 27 0:21 / /proc rw - proc proc rw\n"},
		"a mount that is not there":  {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": "22 27 {dev} / {root}/x rw - cgroup2 cgroup2 rw\n"},
		"a mount of another device":  {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": "22 27 1:99 / {root}/proc rw - cgroup2 cgroup2 rw\n"},
		"a list that makes no sense": {"proc/self/cgroup": "what\n", "proc/self/mountinfo": ""},
		"a mount above, of a cgroup next to the agent's": {"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": "22 27 {dev} /../x {root}/proc rw - cgroup2 cgroup2 rw\n"},
	} {
		t.Run(name, func(t *testing.T) {
			x := newFixture(t, files)
			if f, err := New(x.options()); err == nil {
				t.Errorf("found %+v", f.Hierarchies())
			}
		})
	}
}

func TestRefreshKeepsWhatItHadOnError(t *testing.T) {
	x := v1Fixture(t)
	f := x.open()
	if err := os.Remove(x.path("proc/self/mountinfo")); err != nil {
		t.Fatal(err)
	}
	if err := f.Refresh(); err == nil {
		t.Error("Refresh without mountinfo succeeded")
	}
	if got, err := f.OfPID(7); err != nil || got[0].ID == 0 {
		t.Errorf("after a failed Refresh: %v, %v", got, err)
	}
}

func TestParseProcCgroup(t *testing.T) {
	got, err := parseProcCgroup("10:name=systemd:/a:b:c\n2:cpu,cpuacct:/x\\012y (deleted)\n0::/../z\n")
	want := []procEntry{
		{0, "", "/../z"},
		{2, "cpu,cpuacct", `/x\012y (deleted)`},
		{10, "name=systemd", "/a:b:c"},
	}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(procEntry{})); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	for _, bad := range []string{"\n", "0:/\n", "0::\n", "0::x\n", ":cpu:/\n", "-1:cpu:/\n", "4294967296:cpu:/\n", "1:cpu:/a\n\n", "x"} {
		if got, err := parseProcCgroup(bad); err == nil {
			t.Errorf("%q was read as %v", bad, got)
		}
	}
}

func FuzzProcCgroup(f *testing.F) {
	f.Add("10:name=systemd:/a:b:c\n2:cpu,cpuacct:/x\n0::/../z (deleted)\n")
	f.Add("9:name=systemd:/docker/64a1b27b7da1569f1c6e7d969e504b2eb557fab58fd82c3fa37c6ddb53ef9e7f\n0::/\n")
	f.Add("0::/" + strings.Repeat("n", MaxPath))
	f.Add("1:a:/\n1:a:/\n0::/..\n")
	x := v1Fixture(f)
	table := x.open().table.Load()
	f.Fuzz(func(t *testing.T, data string) {
		entries, err := parseProcCgroup(data)
		if err != nil {
			return
		}
		lines := strings.Split(strings.TrimSuffix(data, "\n"), "\n")
		if data != "" && len(entries) != len(lines) {
			t.Fatalf("%d entries of %d lines", len(entries), len(lines))
		}
		for i, e := range entries {
			if i > 0 && entries[i-1].hierarchy > e.hierarchy {
				t.Fatalf("not ordered: %v", entries)
			}
			if !strings.Contains(data, ":"+e.controllers+":"+e.path) || strings.Contains(e.path, "\n") {
				t.Fatalf("%+v is not in the input", e)
			}
			for _, exiting := range []bool{false, true} {
				g := table.resolve(e, exiting)
				if g.Hierarchy != e.hierarchy || !strings.HasPrefix(e.path, g.Path) && g.ID == 0 {
					t.Fatalf("%+v became %+v", e, g)
				}
				if g.ID != 0 && !validPath(g.Path) {
					t.Fatalf("an id for %q", g.Path)
				}
			}
		}
	})
}

func FuzzMountinfo(f *testing.F) {
	f.Add("36 35 0:28 / /sys/fs/cgroup/a\\040b rw,relatime shared:1 - cgroup cgroup rw,cpu\n41 31 0:38 /../.. /x rw - cgroup2 cgroup2 rw\n")
	f.Add(" - cgroup\n1 2 3:4 / / r - cgroup2 x y\n\\ - \\\n")
	f.Fuzz(func(t *testing.T, data string) {
		lines, err := parseMountinfo(strings.NewReader(data))
		if err != nil {
			return
		}
		for _, l := range lines {
			ups, rest := splitUps(l.root)
			if strings.Repeat("/..", ups)+strings.TrimPrefix(rest, "/") != l.root && strings.Repeat("/..", ups)+rest != l.root {
				t.Fatalf("%q is not %d ups and %q", l.root, ups, rest)
			}
		}
	})
}

func TestUnescapeOctal(t *testing.T) {
	for in, want := range map[string]string{
		`/a`: "/a", `/a\040b\011c\012d\134e`: "/a b\tc\nd\\e", `\`: `\`, `\04`: `\04`, `\999`: `\999`, `\400`: `\400`, `\\040`: `\ `,
	} {
		if got := unescapeOctal(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestNamespacePaths(t *testing.T) {
	known := nsRoot{ups: 2, names: []string{"docker", "me"}}
	for _, c := range []struct {
		name string
		ns   nsRoot
		in   string
		want string
		ok   bool
	}{
		{"the host's namespace", nsRoot{}, "/a", "/a", true},
		{"above the agent's", nsRoot{}, "/../a", "", false},
		{"inside", known, "/a", "/docker/me/a", true},
		{"the namespace's root", known, "/", "/docker/me", true},
		{"next to it", known, "/../you", "/docker/you", true},
		{"one up", known, "/..", "/docker", true},
		{"below the mount's root", known, "/../../a/b", "/a/b", true},
		{"the mount's root", known, "/../..", "/", true},
		{"above the mount", known, "/../../..", "", false},
		{"a name of dots", known, "/..foo", "/docker/me/..foo", true},
		{"inside a namespace of unknown name", nsRoot{ups: 2}, "/a", "", false},
		{"outside a namespace of unknown name", nsRoot{ups: 2}, "/../../a", "/a", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, ok := c.ns.translate(c.in); got != c.want && ok || ok != c.ok {
				t.Errorf("%q: %q, %v, want %q, %v", c.in, got, ok, c.want, c.ok)
			}
		})
	}
}
