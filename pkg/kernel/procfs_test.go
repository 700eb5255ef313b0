// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/workload"
)

// statLine is a stat file with that name, state, number of threads and start.
func statLine(name, state string, threads, start int) string {
	return fmt.Sprintf("42 (%s) %s 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 %d 0 %d 100 5 18446744073709551615 1 2 140722 0 0", name, state, threads, start)
}

func TestParseStat(t *testing.T) {
	for name, tc := range map[string]struct {
		line string
		want procStat
		dead bool
		bad  bool
	}{
		"a plain process": {
			line: statLine("cat", "S", 1, 5),
			want: procStat{comm: Comm{'c', 'a', 't'}, parent: 7, threads: 1, start: 5 * workload.TickNS, stack: 140722},
		},
		"a name that looks like the rest of the line": {
			line: statLine("a) R 1 (", "S", 1, 5),
			want: procStat{comm: Comm{'a', ')', ' ', 'R', ' ', '1', ' ', '('}, parent: 7, threads: 1, start: 5 * workload.TickNS, stack: 140722},
		},
		"a name with a newline and a backslash": {
			line: statLine("x\n\\n", "S", 1, 5),
			want: procStat{comm: Comm{'x', '\n', '\\', 'n'}, parent: 7, threads: 1, start: 5 * workload.TickNS, stack: 140722},
		},
		"a zombie whose threads live on": {
			line: statLine("cat", "Z", 2, 5),
			want: procStat{comm: Comm{'c', 'a', 't'}, zombie: true, parent: 7, threads: 2, start: 5 * workload.TickNS, stack: 140722},
		},
		"a zombie": {
			line: statLine("cat", "Z", 1, 5), dead: true,
			want: procStat{comm: Comm{'c', 'a', 't'}, zombie: true, parent: 7, threads: 1, start: 5 * workload.TickNS, stack: 140722},
		},
		"no name":           {line: "42 cat S 7", bad: true},
		"too few fields":    {line: "42 (cat) S 7 42", bad: true},
		"a parent below 0":  {line: strings.Replace(statLine("cat", "S", 1, 5), " 7 42", " -7 42", 1), bad: true},
		"a start too large": {line: strings.Replace(statLine("cat", "S", 1, 77), " 77 ", " 18446744073709551615 ", 1), bad: true},
		"nothing":           {bad: true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat([]byte(tc.line))
			if (err != nil) != tc.bad {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, got, cmp.AllowUnexported(procStat{})); d != "" && !tc.bad {
				t.Error(d)
			}
			if got.dead() != tc.dead && !tc.bad {
				t.Error("dead is", got.dead())
			}
		})
	}
}

// As this kernel writes it, whatever name a process gives itself.
func TestStatOfAHostileNameIsRead(t *testing.T) {
	c := startChild(t, nil, "", "/bin/sh", "-c", `printf 'a) Z\n\\n (' > /proc/$$/comm; cat > /dev/null; true`)
	c.awaitComm("a) Z\n\\n (")
	r := newProcReader("/proc", "/sys/fs/cgroup", nil)
	p, st, err := r.process(workload.PID(c.Process.Pid))
	if err != nil || p.Comm.String() != "a) Z\n\\n (" || st.zombie || p.Parent != workload.PID(os.Getpid()) {
		t.Errorf("%q, parent %d, %v", p.Comm.String(), p.Parent, err)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte(statLine("cat", "S", 1, 5)))
	f.Add([]byte(statLine("a) R (", "Z", 3, 5)))
	f.Add([]byte(") ("))
	f.Fuzz(func(t *testing.T, b []byte) {
		st, err := parseStat(b)
		if err == nil && (st.start > 1<<63 || st.comm[len(st.comm)-1] != 0 || st.threads < 0) {
			t.Errorf("%+v", st)
		}
	})
}

func FuzzParseCgroup(f *testing.F) {
	f.Add("0::/a:b\n1:cpu,cpuacct:/\n9:name=systemd:/x\n")
	f.Add("4294967296:x:/\n:::\n-1:a:/")
	f.Fuzz(func(t *testing.T, s string) {
		for _, h := range parseHierarchies([]byte(s)) {
			if h.ID > 1<<31 {
				t.Errorf("%+v", h)
			}
			_ = h.String()
		}
		for _, p := range parseNSpid([]byte(s)) {
			_ = p
		}
	})
}

func TestParseHierarchies(t *testing.T) {
	got := parseHierarchies([]byte("12:cpu,cpuacct:/a\n3:name=systemd:/b:c\nrubbish\n-1:pids:/\n0::/d\n7:net_cls,name=odd:/\n"))
	want := []Hierarchy{
		{ID: 12, Controllers: []string{"cpu", "cpuacct"}},
		{ID: 3, Name: "systemd"},
		{ID: 0},
		{ID: 7, Controllers: []string{"net_cls"}, Name: "odd"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	var lines []string
	for _, h := range got {
		lines = append(lines, h.String())
	}
	if d := cmp.Diff([]string{"12:cpu,cpuacct", "3:name=systemd", "0:", "7:net_cls,name=odd"}, lines); d != "" {
		t.Error(d)
	}
}

func TestCgroupPathsThatLeadElsewhereAreNotFollowed(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"mount/in", "mount/in (deleted)", "out"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	c := &cgroupFiles{mounts: map[uint32]string{0: filepath.Join(root, "mount")}}
	if got := c.inode(0, "/in"); got != statInode(t, filepath.Join(root, "mount/in")) {
		t.Errorf("/in is %d", got)
	}
	for _, path := range []string{"/../out", "/..", "in", "", "/in (deleted)", "/none"} {
		if got := c.inode(0, path); got != 0 {
			t.Errorf("%q is %d", path, got)
		}
	}
	if got := c.inode(5, "/in"); got != 0 {
		t.Errorf("a hierarchy without a mount gives %d", got)
	}
}

func TestAProcessThatEndedIsGoneWhileItsDirectoryIsOpen(t *testing.T) {
	c := startChild(t, nil, "", "/bin/cat")
	r := newProcReader("/proc", "/sys/fs/cgroup", nil)
	pid := workload.PID(c.Process.Pid)
	// The caller's reader runs between opening the directory and reading stat.
	r.cgroups = func(*os.File) (CgroupSet, error) {
		c.end()
		return CgroupSet{}, errors.New("cannot be read")
	}
	if _, _, err := r.process(pid); !errors.Is(err, errGone) {
		t.Errorf("%v", err)
	}
}

func TestHasMount(t *testing.T) {
	const mountinfo = "123 1 8:1 / / rw - ext4 /dev/sda rw\n45 123 0:5 / /proc rw - proc proc rw\n"
	for id, want := range map[uint64]bool{123: true, 45: true, 12: false, 1: false, 5: false} {
		if got := hasMount([]byte(mountinfo), id); got != want {
			t.Errorf("mount %d: %v", id, got)
		}
	}
}

func TestProbeFindsThisHostFit(t *testing.T) {
	c, err := Probe(ProbeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Problems) > 0 || !c.BTF || !c.RingBuffer || c.Kernel == "" {
		t.Errorf("%+v", c)
	}
	if len(c.Tracepoints) != len(tracepoints) || len(c.Hierarchies) != len(cgroupMounts(t)) {
		t.Errorf("%v, %v", c.Tracepoints, c.Hierarchies)
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var fs unix.Statfs_t
	if unix.Fstatfs(fd, &fs) != nil || c.Pidfs != (fs.Type == 0x50494446) {
		t.Errorf("pidfs: %v, magic %#x", c.Pidfs, fs.Type)
	}
}

func TestProbeSaysWhatIsMissing(t *testing.T) {
	c := Capabilities{Missing: []string{"CAP_BPF", "CAP_PERFMON"}, Lockdown: "confidentiality"}
	c.findProblems(unix.EPERM)
	want := []string{
		"missing CAP_BPF, CAP_PERFMON: run as root or grant them",
		"the kernel has no BTF: use one built with CONFIG_DEBUG_INFO_BTF",
		"kernel lockdown is in confidentiality mode: boot with lockdown=integrity or without",
	}
	if d := cmp.Diff(want, c.Problems); d != "" {
		t.Error(d)
	}
	c = Capabilities{BTF: true, Tracepoints: map[Type]bool{Fork: true, Exec: true, Exit: true, CgroupMkdir: true, CgroupAttach: true, Task: true}}
	c.findProblems(unix.EPERM)
	if len(c.Problems) != 2 || !strings.Contains(c.Problems[1], "no tracepoint cgroup_rmdir") {
		t.Errorf("%q", c.Problems)
	}
}
