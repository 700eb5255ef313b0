// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/pidigree/pidigree/pkg/workload"
)

func testdata(tb testing.TB, name string) []byte {
	tb.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func TestParseStateOfEachRuntime(t *testing.T) {
	created := func(s string) time.Time {
		at, err := time.Parse(time.RFC3339Nano, s)
		check(t, err)
		return at
	}
	crunStatus := func(data []byte, _ string) (*state, error) { return parseStatus(data) }
	for _, tc := range []struct {
		name, file, id string
		parse          func([]byte, string) (*state, error)
		want           *state
	}{
		{"runc 1.1.5 by itself", "runc-1.1.5-state.json", "c1", parseStateJSON, &state{
			runtime: "runc", bundle: "/srv/b", created: created("2026-11-22T09:55:19.489221083Z"), pid: 19375, ticks: 100531,
			cgroups: []cgroup{
				{"blkio", "/sys/fs/cgroup/blkio/c1"}, {"cpu", "/sys/fs/cgroup/cpu/c1"}, {"cpuacct", "/sys/fs/cgroup/cpuacct/c1"},
				{"cpuset", "/sys/fs/cgroup/cpuset/c1"}, {"devices", "/sys/fs/cgroup/devices/c1"}, {"freezer", "/sys/fs/cgroup/freezer/c1"},
				{"memory", "/sys/fs/cgroup/memory/below/c1"}, {"pids", "/sys/fs/cgroup/pids/c1"},
				{"name=systemd", "/sys/fs/cgroup/systemd/c1"}, {"", "/sys/fs/cgroup/unified/c1"},
			},
			annotations: map[string]string{},
		}},
		{"crun 1.8.1 by itself", "crun-1.8.1-status.json", "c2", crunStatus, &state{
			runtime: "crun", bundle: "/srv/b", created: created("2026-11-22T09:55:35.123963Z"), pid: 19534, ticks: 102097,
			cgroups: []cgroup{{"*", "/c2"}},
		}},
		{"youki, as its source writes it", "youki-state.json", "c4", parseStateJSON, &state{
			runtime: "youki", bundle: "/srv/b", created: created("2026-11-22T09:55:35.5Z"), pid: 4242, status: workload.StateRunning,
			annotations: map[string]string{"org.example.team": "red"},
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := tc.parse(testdata(t, tc.file), tc.id)
			check(t, err)
			if d := cmp.Diff(tc.want, got, cmp.AllowUnexported(state{}, cgroup{})); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

func TestParseStateRefusesWhatNamesNoInit(t *testing.T) {
	for name, data := range map[string]string{
		"no PID":       `{"id":"a"}`,
		"PID 0":        `{"id":"a","init_process_pid":0}`,
		"a negative":   `{"id":"a","init_process_pid":-1}`,
		"too large":    `{"id":"a","init_process_pid":4194305}`,
		"no number":    `{"id":"a","init_process_pid":"1"}`,
		"overflow":     `{"id":"a","init_process_pid":18446744073709551616}`,
		"a fraction":   `{"id":"a","init_process_pid":1.5}`,
		"another id":   `{"id":"b","init_process_pid":1}`,
		"two of them":  `{"id":"a","init_process_pid":1}{"id":"a"}`,
		"youki, huge":  `{"id":"a","ociVersion":"v1","pid":99999999}`,
		"youki, minus": `{"id":"a","ociVersion":"v1","pid":-7}`,
	} {
		if s, err := parseStateJSON([]byte(data), "a"); err == nil {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestAYoukiBeingCreatedHasNoInit(t *testing.T) {
	s, err := parseStateJSON([]byte(`{"ociVersion":"v1","id":"a","status":"creating","bundle":"/b","useSystemd":false}`), "a")
	if err != nil || s.pid != 0 || s.status != workload.StateCreated {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestParseStatReadsPastAHostileCommand(t *testing.T) {
	const rest = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20 21\n"
	for name, tc := range map[string]struct {
		stat   string
		ticks  uint64
		zombie bool
	}{
		"plain":             {"7 (sleep) S" + rest, 777, false},
		"parentheses":       {"7 (a) Z 1 (b)) R" + rest, 777, false},
		"a newline":         {"7 (a\n) S" + rest, 777, false},
		"a zombie":          {"7 (sleep) Z" + rest, 777, true},
		"short":             {"7 (sleep) S 1 2", 0, false},
		"empty":             {"", 0, false},
		"nothing after it":  {"7 (sleep)", 0, false},
		"no number in it":   {"7 (sleep) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 x 20\n", 0, false},
		"overflowing start": {"7 (sleep) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99999999999999999999 20\n", 0, false},
	} {
		if ticks, zombie := parseStat([]byte(tc.stat)); ticks != tc.ticks || zombie != tc.zombie {
			t.Errorf("%s: %d, %v", name, ticks, zombie)
		}
	}
}

func TestValidID(t *testing.T) {
	for _, id := range []string{"a", "c1", "web_1", "a.b-c+d", "4f3a", "A"} {
		if !validID(id) {
			t.Errorf("%q is refused", id)
		}
	}
	for _, id := range []string{"", ".", "..", ".4f3a", "a/b", "../a", "a b", "a\x00", "\xff", "é", "a\n", string(make([]byte, 300))} {
		if validID(id) {
			t.Errorf("%q is taken", id)
		}
	}
}

func TestCgroupsAreComparedWithinTheirHierarchy(t *testing.T) {
	at := func(h uint32, path string) workload.CgroupPath {
		return workload.CgroupPath{CgroupID: workload.CgroupID{Hierarchy: h}, Path: path}
	}
	for _, tc := range []struct {
		name    string
		g       cgroup
		p       workload.CgroupPath
		unified bool
		want    bool
	}{
		{"v1", cgroup{"pids", "/sys/fs/cgroup/pids/docker/a"}, at(8, "/docker/a"), false, true},
		{"v1, mounted together", cgroup{"cpu", "/sys/fs/cgroup/cpu,cpuacct/docker/a"}, at(1, "/docker/a"), false, true},
		{"v1, the path of another", cgroup{"pids", "/sys/fs/cgroup/pids/docker/a"}, at(8, "/docker/ab"), false, false},
		{"v1, below it", cgroup{"pids", "/sys/fs/cgroup/pids/docker/a"}, at(8, "/docker/a/b"), false, false},
		{"v1 is not v2", cgroup{"pids", "/sys/fs/cgroup/pids/docker/a"}, at(0, "/docker/a"), false, false},
		{"v2 on a hybrid host", cgroup{"", "/sys/fs/cgroup/unified/a"}, at(0, "/a"), false, true},
		{"v2 of an engine with its own mount", cgroup{"", "/sys/fs/cgroup/docker/a"}, at(0, "/docker/a"), false, true},
		{"v2 alone", cgroup{"", "/sys/fs/cgroup/system.slice/docker-a.scope"}, at(0, "/system.slice/docker-a.scope"), true, true},
		{"v2 alone, a cgroup called unified", cgroup{"", "/sys/fs/cgroup/unified/a"}, at(0, "/a"), true, false},
		{"v2 is not v1", cgroup{"", "/sys/fs/cgroup/unified/a"}, at(3, "/a"), false, false},
		{"crun, any hierarchy", cgroup{"*", "/a"}, at(3, "/a"), false, true},
		{"crun's sub-cgroup is its scope", cgroup{"*", "/m.slice/libpod-a.scope/container"}, at(0, "/m.slice/libpod-a.scope"), true, true},
		{"not below the cgroup root", cgroup{"pids", "/etc/passwd"}, at(8, "/passwd"), false, false},
	} {
		if got := tc.g.is(tc.p, tc.unified); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func FuzzParseState(f *testing.F) {
	f.Add(testdata(f, "runc-1.1.5-state.json"), "c1")
	f.Add(testdata(f, "youki-state.json"), "c4")
	f.Add([]byte(`{"id":"","ociVersion":"1"}`), "")
	f.Fuzz(func(t *testing.T, data []byte, id string) {
		s, err := parseStateJSON(data, id)
		checkParsed(t, s, err)
	})
}

func FuzzParseStatus(f *testing.F) {
	f.Add(testdata(f, "crun-1.8.1-status.json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseStatus(data)
		checkParsed(t, s, err)
	})
}

// checkParsed: what is parsed can be used: a PID is one, and paths do not panic.
func checkParsed(t *testing.T, s *state, err error) {
	if err != nil {
		return
	}
	if s.pid > workload.MaxPID || s.pid == 0 && s.runtime != runtimeYouki {
		t.Errorf("PID %d", s.pid)
	}
	for _, g := range s.cgroups {
		g.indexPaths(true)
		g.is(workload.CgroupPath{Path: g.path}, false)
	}
}

func FuzzParseNotices(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Fuzz(func(_ *testing.T, data []byte) { parseNotices(data) })
}

func FuzzParseDirents(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Fuzz(func(_ *testing.T, data []byte) { appendDirs(nil, data, -1) })
}
