// SPDX-License-Identifier: Apache-2.0

package nspawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/internal/procdir"
	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// TestConformance runs on real containers of systemd-nspawn's; machined's files are
// written by the test, as machined needs systemd as PID 1. tests/e2e has the real ones.
func TestConformance(t *testing.T) {
	dir := machinesDir(t)
	collectortest.Run(t, collectortest.Harness{
		New: func(testing.TB) collectors.Collector { return New(Options{Dir: dir}) },
		Start: func(tb testing.TB) *collectortest.Started {
			c := start(tb)
			put(tb, dir, c.Name, c.File(tb))
			tb.Cleanup(func() { _ = os.Remove(filepath.Join(dir, c.Name)) })
			return &collectortest.Started{
				Want: &workload.Container{
					ID: workload.ContainerID{Runtime: "nspawn", ID: c.Name}, Name: c.Name, Runtime: "nspawn", State: workload.StateRunning,
					Run: &workload.Run{Init: workload.ProcessKey{PID: c.Leader}},
				},
				Evidence: workload.Evidence{Claims: []workload.ContainerID{{ID: c.Name}}, Cgroups: c.Cgroups},
				Stop:     func() { c.Stop(); _ = os.Remove(filepath.Join(dir, c.Name)) },
				Remove:   func() {},
			}
		},
		Unknown: workload.ContainerID{Runtime: "nspawn", ID: "nobody"},
	})
}

func TestALeaderIsBelievedOnlyWhereItIsTheOneThatTheFileMeans(t *testing.T) {
	dir := machinesDir(t)
	c := start(t)
	other := start(t)
	good := c.File(t)
	inode := inodeOf(t, c.Leader)
	set := func(key string, value any) string {
		var b strings.Builder
		for line := range strings.Lines(good) {
			if !strings.HasPrefix(line, key+"=") {
				b.WriteString(line)
			}
		}
		return b.String() + fmt.Sprintf("%s=%v\n", key, value)
	}
	for name, tc := range map[string]struct {
		file  string
		state workload.State
	}{
		"as machined writes it":                            {good, workload.StateRunning},
		"with the leader's inode":                          {set("LEADER_PIDFDID", inode), workload.StateRunning},
		"with another process's inode":                     {set("LEADER_PIDFDID", inode+1), workload.StateExited},
		"whoever has the PID began after the file's time":  {set("MONOTONIC", 1), workload.StateExited},
		"the file does not say when the leader was there":  {set("MONOTONIC", 0), workload.StateExited},
		"a PID that nobody has":                            {set("LEADER", 4194304), workload.StateExited},
		"a process of the host":                            {set("LEADER", os.Getpid()), workload.StateUnknown},
		"nspawn itself":                                    {set("LEADER", c.Supervisor.Process.Pid), workload.StateUnknown},
		"the leader of another machine":                    {set("LEADER", other.Leader), workload.StateUnknown},
		"a process in the container that is not its first": {set("LEADER", childOf(t, c.Leader)), workload.StateUnknown},
		"a unit that the leader is not in":                 {set("SCOPE", "machine-else.scope"), workload.StateUnknown},
		"a slice that the leader is in, which is no unit":  {set("SCOPE", "machine.slice"), workload.StateUnknown},
		"a unit with a way out in its name":                {set("SCOPE", "../"+c.Name), workload.StateUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			put(t, dir, c.Name, tc.file)
			got, err := New(Options{Dir: dir}).Lookup(t.Context(), idOf(c.Name))
			if err != nil {
				t.Fatal(err)
			}
			if running := tc.state == workload.StateRunning; got.State != tc.state || (got.Run != nil) != running {
				t.Fatalf("it is %q, run %+v; want %q", got.State, got.Run, tc.state)
			}
			if got.Run == nil {
				return
			}
			want := "/machine.slice/" + c.Unit + "/payload"
			if !got.Run.Registers || got.Run.Init.PID != c.Leader || got.Run.Init.Start == 0 || len(got.Run.ClaimedPaths) != 1 || got.Run.ClaimedPaths[0] != want {
				t.Errorf("run %+v; want the leader %d in %s", got.Run, c.Leader, want)
			}
		})
	}
}

// One whose unit systemd freezes is paused until it is thawed, and told of at the next look.
func TestAFrozenMachineIsPaused(t *testing.T) {
	dir := machinesDir(t)
	c := start(t)
	put(t, dir, c.Name, c.File(t))
	var hints []collectors.Hint
	w := &watch{c: New(Options{Dir: dir}), fn: func(h collectors.Hint) { hints = append(hints, h) }, seen: map[string]*known{}}
	freeze := func(text string) func() {
		return func() {
			unit := c.Dirs[len(c.Dirs)-1] // cgroup2's
			if err := os.WriteFile(unit+"/cgroup.freeze", []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
			for events := ""; !strings.Contains(events, "frozen "+text+"\n"); {
				data, err := os.ReadFile(unit + "/payload/cgroup.events")
				if err != nil {
					t.Fatal(err)
				}
				events = string(data)
				<-time.After(time.Millisecond)
			}
		}
	}
	t.Cleanup(freeze("0"))
	for _, step := range []struct {
		do   func()
		kind collectors.HintKind
		want workload.State
	}{
		{func() {}, collectors.HintStarted, workload.StateRunning},
		{freeze("1"), collectors.HintChanged, workload.StatePaused},
		{freeze("0"), collectors.HintChanged, workload.StateRunning},
	} {
		step.do()
		hints = nil
		if err := errors.Join(w.look(t.Context()), w.look(t.Context())); err != nil {
			t.Fatal(err)
		}
		if len(hints) != 1 || hints[0].Kind != step.kind || hints[0].Layer == nil || hints[0].Layer.State != step.want || hints[0].Layer.Run == nil {
			t.Errorf("hints %+v, want one that it is %s", hints, step.want)
		}
	}
}

func inodeOf(t *testing.T, pid workload.PID) uint64 {
	t.Helper()
	fd, err := unix.PidfdOpen(int(pid), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func childOf(t *testing.T, pid workload.PID) workload.PID {
	t.Helper()
	d, err := procdir.Open("/proc", pid)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	children, err := d.Children()
	if err != nil || len(children) == 0 {
		t.Fatalf("children of %d: %v, %v", pid, children, err)
	}
	return children[0]
}

func TestFilesThatAreNoContainersOfNspawns(t *testing.T) {
	dir := machinesDir(t)
	c := start(t)
	good := c.File(t)
	put(t, dir, c.Name, good)
	bad := map[string]string{
		"empty":    "",
		"html":     "<html>\n<body>503</body>\n",
		"binary":   "NAME=binary\n\x00\xff\xfe\n",
		"another":  good,
		"pid":      "NAME=pid\nLEADER=-1\n",
		"zero":     "NAME=zero\nLEADER=0\n",
		"huge":     "NAME=huge\nLEADER=99999999999999999999\n",
		"escape":   "NAME=escape\nSCOPE=a\\nb\n",
		"large":    "NAME=large\n" + strings.Repeat("A=b\n", maxFile),
		"writable": strings.ReplaceAll(good, "NAME="+c.Name, "NAME=writable"),
		"link":     "",
	}
	for name, data := range bad {
		put(t, dir, name, data)
	}
	if err := os.Chmod(filepath.Join(dir, "writable"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(c.Name, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(c.Name, filepath.Join(dir, "unit:"+c.Unit)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	bad["fifo"] = ""
	as := func(name, key, value string) {
		was := map[string]string{"CLASS": "container", "SERVICE": "systemd-nspawn"}[key]
		file := strings.ReplaceAll(good, "NAME="+c.Name, "NAME="+name)
		if was == "" {
			file += key + "=" + value + "\n"
		}
		put(t, dir, name, strings.ReplaceAll(file, key+"="+was, key+"="+value))
	}
	as("vm", "CLASS", "vm")
	as("libvirt", "SERVICE", "libvirt-lxc")
	as("users", "UID", "1000")

	col := New(Options{Dir: dir})
	var listed []string
	for got, err := range col.List(t.Context()) {
		if err != nil {
			t.Errorf("List: %v", err)
			continue
		}
		listed = append(listed, got.Name)
	}
	if len(listed) != 1 || listed[0] != c.Name {
		t.Errorf("List has %q, want %q alone", listed, c.Name)
	}
	for _, name := range []string{"vm", "libvirt", "users", "html", "another", "writable", "link", "fifo"} {
		if got, err := col.Lookup(t.Context(), idOf(name)); !errors.Is(err, collectors.ErrNotFound) {
			t.Errorf("Lookup of %s = %+v, %v; want ErrNotFound", name, got, err)
		}
	}
	if id, err := col.Locate(t.Context(), workload.Evidence{Cgroups: c.Cgroups}); err != nil || id != idOf(c.Name) {
		t.Errorf("Locate beside nonsense = %v, %v", id, err)
	}
	if id, err := col.Locate(t.Context(), workload.Evidence{Claims: []workload.ContainerID{{ID: c.Name}}, Init: workload.ProcessKey{PID: 1, Start: 5}}); !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("Locate of a name that another process bears = %v, %v; want ErrNotFound", id, err)
	}

	complaints := map[string]int{}
	ctx, cancel := context.WithCancel(t.Context())
	alive := 0
	err := col.Watch(ctx, func(h collectors.Hint) {
		switch {
		case h.Err != nil:
			_, rest, _ := strings.Cut(h.Err.Error(), "machine ")
			name, _, _ := strings.Cut(rest, ":")
			complaints[name]++
		case h.Kind == collectors.HintAlive:
			if alive++; alive == 2 {
				cancel()
			}
			put(t, dir, "more", "NAME=more\n") // another look
		case h.ID != idOf(c.Name):
			t.Errorf("a hint %s of %v", h.Kind, h.ID)
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Watch ended with %v", err)
	}
	for name := range bad {
		if complaints[name] != 1 {
			t.Errorf("%d complaints about %s, want one", complaints[name], name)
		}
	}
	if len(complaints) != len(bad) {
		t.Errorf("complaints about %v", complaints)
	}
}

func TestTheCgroupOfAPayload(t *testing.T) {
	for path, want := range map[string]string{
		"/machine.slice/u.scope":                          "/machine.slice/u.scope/payload",
		"/machine.slice/u.scope/payload":                  "/machine.slice/u.scope/payload",
		"/machine.slice/u.scope/payload/init.scope":       "/machine.slice/u.scope/payload",
		"/a.slice/a-b.slice/u.scope/payload/system.slice": "/a.slice/a-b.slice/u.scope/payload",
		"/machine.slice/u.scope/supervisor":               "",
		"/machine.slice/other.scope/u.scope/payload":      "",
		"/user.slice/user-1.slice/user@1.service/u.scope": "",
		"/docker/u.scope/payload":                         "",
		"/":                                               "",
		"/u.scope":                                        "/u.scope/payload",
	} {
		if got := payloadOf([]workload.CgroupPath{{Path: path}}, "u.scope"); got != want {
			t.Errorf("of %s: %q, want %q", path, got, want)
		}
	}
}

// FuzzParse: whatever a file says, it is refused or is of its own name.
func FuzzParse(f *testing.F) {
	f.Add("# c\nNAME=a\nSCOPE=machine-a\\\\x2db.scope\nLEADER=1\nCLASS=container\nSERVICE=systemd-nspawn\n")
	f.Add("NAME=a\nLEADER=\nREALTIME=-1\n=\n")
	f.Fuzz(func(t *testing.T, data string) {
		m, err := parse(data, "a")
		if err == nil && (m.name != "a" || m.leader > workload.MaxPID) {
			t.Errorf("%+v", m)
		}
	})
}
