// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/bpf"
	"github.com/pidigree/pidigree/pkg/workload"
)

// expectProcess is what an event of a living child of this test must say, by
// /proc and stat().
func expectProcess(t testing.TB, pid int) Process {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/", pid)
	comm, err := os.ReadFile(dir + "comm")
	if err != nil {
		t.Fatal(err)
	}
	var exe unix.Stat_t
	if err := unix.Stat(dir+"exe", &exe); err != nil {
		t.Fatal(err)
	}
	p := Process{
		Key:          workload.ProcessKey{PID: workload.PID(pid), Start: procField(t, pid, 22)},
		Parent:       workload.PID(os.Getpid()),
		ParentStart:  procField(t, os.Getpid(), 22),
		MountNS:      uint32(statInode(t, dir+"ns/mnt")),
		ExeInMountNS: true,
		ExeInode:     exe.Ino,
		ExeDev:       unix.Major(exe.Dev)<<20 | unix.Minor(exe.Dev),
	}
	copy(p.Comm[:], strings.TrimSuffix(string(comm), "\n"))
	p.Cgroups.N = uint8(copy(p.Cgroups.IDs[:], cgroupsOf(t, pid)))
	if fd, err := unix.PidfdOpen(pid, 0); err == nil {
		defer unix.Close(fd)
		var fs unix.Statfs_t
		if err := unix.Fstatfs(fd, &fs); err != nil {
			t.Fatal(err)
		}
		if fs.Type == 0x50494446 {
			p.Key.Inode = statInode(t, fmt.Sprintf("/proc/self/fd/%d", fd))
		}
	}
	return p
}

// inTicks makes an event's process comparable with /proc, which counts in 10 ms.
func inTicks(p Process) Process {
	p.Key.Start /= workload.TickNS
	p.ParentStart /= workload.TickNS
	return p
}

func TestEventsSayWhatProcSays(t *testing.T) {
	r := record(t, newTracer(t, TracerOptions{}))
	before := bootTime()
	c := startChild(t, nil, "", "/bin/cat")
	want := expectProcess(t, c.Process.Pid)
	parent := expectProcess(t, os.Getpid())
	if st := c.end(); st != 0 {
		t.Fatal("cat ended with", st)
	}
	after := bootTime()
	events := r.flushed(of(c.Process.Pid))
	if d := cmp.Diff([]Type{Fork, Exec, Exit}, types(events)); d != "" {
		t.Fatal(d)
	}
	last := before
	for _, e := range events {
		if e.Time < last || e.Time > after {
			t.Errorf("%s at %d, not between %d and %d", e.Type, e.Time, last, after)
		}
		last = e.Time
		got, want := inTicks(e.Process), want
		switch e.Type {
		case Fork: // still this test's program, and the name of the thread that forked
			want.Comm, want.ExeInode, want.ExeDev = got.Comm, parent.ExeInode, parent.ExeDev
		case Exit: // the memory with the program's file is gone
			want.ExeInode, want.ExeDev, want.ExeInMountNS = 0, 0, false
		default:
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", e.Type, d)
		}
		if e.Process.Key != events[0].Process.Key {
			t.Errorf("%s has key %s, the fork %s", e.Type, e.Process.Key, events[0].Process.Key)
		}
		if e.Process.Key.Ticks || !e.Process.Key.Same(workload.ProcessKey{PID: want.Key.PID, Ticks: true, Start: want.Key.Start * workload.TickNS}) {
			t.Errorf("%s: key %s does not match /proc", e.Type, e.Process.Key)
		}
	}
	if want := (workload.Exit{Known: true, At: events[2].Time}); events[2].Exit != want {
		t.Errorf("exit is %+v", events[2].Exit)
	}
}

func TestExitStatusIsTheOneThatWaitGives(t *testing.T) {
	r := record(t, newTracer(t, TracerOptions{}))
	for name, tc := range map[string]struct {
		role string
		want workload.Exit
	}{
		"a process that exits with 3":                          {"exit", workload.Exit{Known: true, Code: 3}},
		"one that dies by SIGSEGV":                             {"signal=11", workload.Exit{Known: true, Code: 139, Signal: 11}},
		"one that dies by SIGKILL":                             {"signal=9", workload.Exit{Known: true, Code: 137, Signal: 9}},
		"one that dies by SIGTERM":                             {"signal=15", workload.Exit{Known: true, Code: 143, Signal: 15}},
		"one whose leader left before another thread exited 7": {"leader-leaves", workload.Exit{Known: true, Code: 7}},
		"one that execs from another thread than its leader":   {"exec-from-thread", workload.Exit{Known: true}},
	} {
		t.Run(name, func(t *testing.T) {
			c := startRole(t, nil, tc.role)
			st := c.end()
			events := r.flushed(of(c.Process.Pid))
			var exits []Event
			for _, e := range events {
				if e.Type == Exit {
					exits = append(exits, e)
				}
				if e.Process.Key != events[0].Process.Key {
					t.Errorf("%s has key %s, the first event %s", e.Type, e.Process.Key, events[0].Process.Key)
				}
			}
			if len(exits) != 1 {
				t.Fatalf("%d exits in %v", len(exits), types(events))
			}
			tc.want.At = exits[0].Time
			if d := cmp.Diff(tc.want, exits[0].Exit); d != "" {
				t.Errorf("%s\nwait says %#x\n%s", d, uint32(st), c.out.String())
			}
			if st.ExitStatus() >= 0 && st.ExitStatus() != int(tc.want.Code) || st.Signaled() != (tc.want.Signal != 0) {
				t.Errorf("wait says %#x", uint32(st))
			}
		})
	}
}

func TestExitSaysThatTheOOMKillerChose(t *testing.T) {
	mounts := cgroupMounts(t)
	hierarchy, limit := "memory", "memory.limit_in_bytes"
	if _, ok := mounts[hierarchy]; !ok {
		hierarchy, limit = "", "memory.max"
	}
	dir := makeCgroup(t, hierarchy, "oom")
	if _, err := os.Stat(filepath.Join(dir, limit)); hierarchy == "" && errors.Is(err, os.ErrNotExist) {
		t.Skip("no memory controller here to provoke the OOM killer with:", err)
	}
	if err := os.WriteFile(filepath.Join(dir, limit), []byte("33554432"), 0); err != nil {
		t.Fatal(err)
	}
	r := record(t, newTracer(t, TracerOptions{}))
	c := startRole(t, nil, "eat")
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, c.Process.Pid), 0); err != nil {
		t.Fatal(err)
	}
	if st := c.end(); st.Signal() != unix.SIGKILL {
		t.Fatalf("ended with %#x: %s", uint32(st), c.out.String())
	}
	exits := r.flushed(func(e Event) bool { return e.Type == Exit && of(c.Process.Pid)(e) })
	if len(exits) != 1 || !exits[0].Exit.OOM {
		t.Errorf("%+v", exits)
	}
}

// Where user space expects a named hierarchy in the css_set's list is a guess:
// one that was wrong from the start, or is since a hierarchy was unmounted, costs
// time only.
func TestANamedHierarchyIsFoundWhereverItIs(t *testing.T) {
	for _, guess := range []struct{ hops, back uint8 }{{0, 0}, {0, 1}, {3, 0}, {2, 1}, {19, 0}, {200, 1}} {
		tr := &Tracer{closed: make(chan struct{})}
		tr.opts.setDefaults()
		types := btf.NewCache()
		spec, err := types.Kernel()
		if err != nil {
			t.Fatal(err)
		}
		if err := tr.configure(spec); err != nil {
			t.Fatal(err)
		}
		if tr.config.NamedCount == 0 {
			t.Skip("this host has no named hierarchy")
		}
		tr.config.NamedHops[0], tr.config.NamedBack[0] = guess.hops, guess.back
		if err := tr.load(types); err != nil {
			t.Fatal(err)
		}
		if err := tr.openRings(); err != nil {
			t.Fatal(err)
		}
		want, got := expectProcess(t, os.Getpid()).Cgroups, CgroupSet{}
		if err := tr.Snapshot(patient(t), func(e Event) {
			if of(os.Getpid())(e) {
				got = e.Process.Cgroups
			}
		}); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("guess %v: %s", guess, d)
		}
		tr.Close()
	}
}

func TestChildClonedIntoACgroupCarriesItWithoutAttach(t *testing.T) {
	dir := makeCgroup(t, "", "clone")
	want := workload.CgroupID{ID: statInode(t, dir)}
	r := record(t, newTracer(t, TracerOptions{}))
	c := startChild(t, inCgroup(t, dir), "", "/bin/cat")
	c.end()
	events := r.flushed(of(c.Process.Pid))
	if d := cmp.Diff([]Type{Fork, Exec, Exit}, types(events)); d != "" {
		t.Fatal(d)
	}
	for _, e := range events {
		if got := e.Process.Cgroups.IDs[0]; got != want {
			t.Errorf("%s: v2 cgroup %s, want %s", e.Type, got, want)
		}
	}
}

func TestCgroupEventsOfEveryHierarchy(t *testing.T) {
	r := record(t, newTracer(t, TracerOptions{}))
	numbers := make(map[string]uint32)
	hs, err := readHierarchies("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hs {
		_, list, _ := strings.Cut(h.String(), ":")
		numbers[list] = h.ID
	}
	for name, mount := range cgroupMounts(t) {
		t.Run("hierarchy "+name, func(t *testing.T) {
			dir := makeCgroup(t, name, "events")
			want := Cgroup{
				ID:     workload.CgroupID{Hierarchy: numbers[name], ID: statInode(t, dir)},
				Parent: statInode(t, mount),
			}
			mkdir := r.await(func(e Event) bool { return e.Type == CgroupMkdir && e.Cgroup.ID == want.ID })
			// Inside a cgroup namespace the mount is not the hierarchy's root.
			want.Level = mkdir.Cgroup.Level
			want.Path = mkdir.Cgroup.Path
			if d := cmp.Diff(want, mkdir.Cgroup); d != "" {
				t.Error("mkdir:", d)
			}
			if !strings.HasSuffix(mkdir.Cgroup.Path, strings.TrimPrefix(dir, mount)) ||
				int(mkdir.Cgroup.Level) != strings.Count(mkdir.Cgroup.Path, "/") {
				t.Errorf("mkdir: path %s at level %d for %s", mkdir.Cgroup.Path, mkdir.Cgroup.Level, dir)
			}
			if name != "cpuset" { // takes no process before it has CPUs
				testAttach(t, r, dir, want)
			}
			removeCgroup(t, dir)
			rmdir := r.await(func(e Event) bool { return e.Type == CgroupRmdir && e.Cgroup.ID == want.ID })
			if d := cmp.Diff(want, rmdir.Cgroup); d != "" {
				t.Error("rmdir:", d)
			}
		})
	}
}

func testAttach(t *testing.T, r *recorder, dir string, want Cgroup) {
	c := startChild(t, nil, "", "/bin/cat")
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, c.Process.Pid), 0); err != nil {
		t.Fatal(err)
	}
	attach := r.await(func(e Event) bool { return e.Type == CgroupAttach && of(c.Process.Pid)(e) })
	if d := cmp.Diff(want, attach.Cgroup); d != "" {
		t.Error("attach:", d)
	}
	if d := cmp.Diff(expectProcess(t, c.Process.Pid).Cgroups, attach.Process.Cgroups); d != "" {
		t.Error("attach:", d)
	}
	c.end()
}

func TestCgroupPathThatTheKernelCutsSaysSo(t *testing.T) {
	dir := makeCgroup(t, "", "long")
	var made []string
	for range 5 {
		dir = filepath.Join(dir, strings.Repeat("x", 250))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		made = append(made, dir)
	}
	defer func() {
		for _, d := range slices.Backward(made) {
			os.Remove(d)
		}
	}()
	r := record(t, newTracer(t, TracerOptions{}))
	deepest := filepath.Join(dir, "deep")
	if err := os.Mkdir(deepest, 0o755); err != nil {
		t.Fatal(err)
	}
	made = append(made, deepest)
	want := workload.CgroupID{ID: statInode(t, deepest)}
	e := r.await(func(e Event) bool { return e.Type == CgroupMkdir && e.Cgroup.ID == want })
	if !e.Cgroup.PathCut || len(e.Cgroup.Path) != pathLimit {
		t.Errorf("path of %d bytes, cut: %v", len(e.Cgroup.Path), e.Cgroup.PathCut)
	}
}

func TestNamespacesOfAProcess(t *testing.T) {
	r := record(t, newTracer(t, TracerOptions{}))
	c := startChild(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}, "", "/bin/cat")
	dir := fmt.Sprintf("/proc/%d/ns/", c.Process.Pid)
	pidNS, mountNS := uint32(statInode(t, dir+"pid")), uint32(statInode(t, dir+"mnt"))
	if mountNS == uint32(statInode(t, "/proc/self/ns/mnt")) {
		t.Fatal("child has no mount namespace of its own")
	}
	c.end()
	events := r.flushed(of(c.Process.Pid))
	if len(events) != 3 {
		t.Fatal(types(events))
	}
	for _, e := range events {
		want := [MaxPIDNamespaces]workload.PIDNamespace{{Inum: pidNS, PID: 1}}
		if e.Process.PIDNSLevel != 1 || e.Process.PIDNS != want || e.Process.MountNS != mountNS {
			t.Errorf("%s: level %d, %v, mount namespace %d", e.Type, e.Process.PIDNSLevel, e.Process.PIDNS, e.Process.MountNS)
		}
	}
}

// As seen by an agent in systemd-nspawn or LXC: procfs is that namespace's.
func TestProcfsOfANestedNamespaceNumbersThere(t *testing.T) {
	script := `mount -t proc proc /proc && exec cat`
	init := startChild(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID | unix.CLONE_NEWNS}, "", "/bin/sh", "-c",
		"mount --make-rprivate / && "+script)
	init.awaitComm("cat")
	procfs := fmt.Sprintf("/proc/%d/root/proc", init.Process.Pid)
	inner := uint32(statInode(t, fmt.Sprintf("/proc/%d/ns/pid", init.Process.Pid)))
	tr := newTracer(t, TracerOptions{Procfs: procfs})
	r := record(t, tr)
	outside := startChild(t, nil, "", "/bin/cat")
	outside.end()
	if out, err := exec.Command("nsenter", "-t", fmt.Sprint(init.Process.Pid), "-p", "-m", "sh", "-c", "true; /bin/true; exit 3").CombinedOutput(); err == nil {
		t.Fatalf("nsenter: %s", out)
	}
	events := r.flushed(func(e Event) bool { return e.Type == Exit || e.Type == Fork || e.Type == Exec })
	var code int32
	for _, e := range events {
		if e.Process.Key.PID > 100 || e.Process.PIDNSLevel != 0 {
			t.Errorf("%s of %s from outside of the namespace", e.Type, e.Process.Key)
		}
		code = max(code, e.Exit.Code)
	}
	if code != 3 || tr.config.PidNsInum != inner {
		t.Errorf("%d events, none an exit with 3; numbering in %d, want %d", len(events), tr.config.PidNsInum, inner)
	}
}

func TestAProgramWithoutAMountIsNotInTheMountNamespace(t *testing.T) {
	r := record(t, newTracer(t, TracerOptions{}))
	c := startRole(t, nil, "memfd")
	c.end()
	events := r.flushed(func(e Event) bool { return e.Type == Exec && of(c.Process.Pid)(e) })
	if len(events) != 2 {
		t.Fatalf("%d execs: %s", len(events), c.out.String())
	}
	if !events[0].Process.ExeInMountNS || events[1].Process.ExeInMountNS || events[1].Process.ExeInode == 0 {
		t.Errorf("the test binary: %+v, the memfd: %+v", events[0].Process, events[1].Process)
	}
}

func TestTheFirstExecInACgroupDoesNotWaitForTheBatch(t *testing.T) {
	dir := makeCgroup(t, "", "wake")
	r := record(t, newTracer(t, TracerOptions{BatchInterval: time.Hour}))
	if err := r.src.Flush(patient(t)); err != nil { // Run has come to its first wait
		t.Fatal(err)
	}
	c := startChild(t, inCgroup(t, dir), "", "/bin/cat")
	e := r.await(func(e Event) bool { return e.Type == Exec && of(c.Process.Pid)(e) })
	if e.Process.Cgroups.IDs[0].ID != statInode(t, dir) {
		t.Errorf("%+v", e.Process.Cgroups)
	}
}

func TestAPromptTracerWaitsForNoBatch(t *testing.T) {
	tr := newTracer(t, TracerOptions{BatchInterval: time.Hour})
	r := record(t, tr)
	if err := r.src.Flush(patient(t)); err != nil { // Run has come to its first wait
		t.Fatal(err)
	}
	before := startChild(t, nil, "", "/bin/true") // in the ring, and nobody is told
	tr.Prompt(true)
	r.await(func(e Event) bool { return e.Type == Exec && of(before.Process.Pid)(e) })
	for range 200 { // more than are told one by one
		was := tr.Stats()
		c := startChild(t, nil, "", "/bin/true")
		for _, typ := range []Type{Fork, Exec, Exit} {
			if _, ok := r.awaitUnless(func(e Event) bool { return e.Type == typ && of(c.Process.Pid)(e) }, func() bool {
				return of1(tr.Stats(), typ).Skipped > of1(was, typ).Skipped
			}); !ok {
				t.Logf("the kernel skipped the %s of %d", typ, c.Process.Pid)
			}
		}
	}
	tr.Prompt(false)
	for range 2 { // a Flush ends before Run goes to sleep
		if err := r.src.Flush(patient(t)); err != nil {
			t.Fatal(err)
		}
	}
	var on uint32
	if err := tr.objs.maps[bpf.TracerMapPrompt].Lookup(uint32(0), &on); err != nil || on != 0 {
		t.Errorf("the programs still wake the reader: %d, %v", on, err)
	}
}

func TestSnapshotHasEveryProcess(t *testing.T) {
	tr := newTracer(t, TracerOptions{})
	checkSnapshot(t, tr)
	if s := tr.Stats(); s.Snapshots != 1 || s.Fallbacks != 0 {
		t.Errorf("%d snapshots, %d from /proc", s.Snapshots, s.Fallbacks)
	}
}

func TestSnapshotWithoutTheIteratorReadsProc(t *testing.T) {
	tr := newTracer(t, TracerOptions{Disable: []Type{Task}})
	checkSnapshot(t, tr)
	if s := tr.Stats(); s.Snapshots != 1 || s.Fallbacks != 1 {
		t.Errorf("%d snapshots, %d from /proc", s.Snapshots, s.Fallbacks)
	}
}

// checkSnapshot compares a snapshot with /proc before and after it: a process
// in both must be in it, one in neither must not.
func checkSnapshot(t *testing.T, src source) {
	t.Helper()
	c := startChild(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}, "", "/bin/cat")
	pidNS := uint32(statInode(t, fmt.Sprintf("/proc/%d/ns/pid", c.Process.Pid)))
	zombie := exec.Command("/bin/true")
	if err := zombie.Start(); err != nil {
		t.Fatal(err)
	}
	awaitZombie(t, zombie.Process.Pid)
	before := livePIDs(t)
	var events []Event
	if err := src.Snapshot(patient(t), func(e Event) { events = append(events, e) }); err != nil {
		t.Fatal(err)
	}
	after := livePIDs(t)
	if events[0].Type != SnapshotBegin || events[len(events)-1].Type != SnapshotEnd || events[0].Time >= events[len(events)-1].Time {
		t.Errorf("encloses: %v to %v", events[0], events[len(events)-1])
	}
	got := make(map[int]Process)
	for _, e := range events[1 : len(events)-1] {
		pid := int(e.Process.Key.PID)
		if _, twice := got[pid]; twice || e.Type != Task {
			t.Errorf("%s of %d, twice: %v", e.Type, pid, twice)
		}
		got[pid] = e.Process
	}
	for pid := range before {
		if _, ok := got[pid]; !ok && after[pid] {
			t.Errorf("process %d is missing", pid)
		}
	}
	if _, ok := got[zombie.Process.Pid]; ok {
		t.Error("the zombie is in it")
	}
	zombie.Wait()
	for _, pid := range []int{os.Getpid(), c.Process.Pid} {
		want, p := expectProcess(t, pid), inTicks(got[pid])
		if pid == os.Getpid() {
			want.Parent, want.ParentStart = workload.PID(os.Getppid()), p.ParentStart
		} else {
			want.PIDNSLevel, want.PIDNS[0] = 1, workload.PIDNamespace{Inum: pidNS, PID: 1}
		}
		want.Key.Ticks = p.Key.Ticks
		if d := cmp.Diff(want, p); d != "" {
			t.Errorf("process %d: %s", pid, d)
		}
	}
}

func awaitZombie(t *testing.T, pid int) {
	t.Helper()
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
}

// livePIDs lists the processes that are no zombies.
func livePIDs(t *testing.T) map[int]bool {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	live := make(map[int]bool)
	for _, dir := range dirs {
		status, err := os.ReadFile(dir + "/status")
		var pid int
		if _, scan := fmt.Sscan(filepath.Base(dir), &pid); scan == nil && err == nil && !strings.Contains(string(status), "\nState:\tZ") {
			live[pid] = true
		}
	}
	return live
}

func TestLossIsCountedAndReported(t *testing.T) {
	tr := newTracer(t, TracerOptions{ProcessRingBytes: 1})
	const floods = 200
	c := startRole(t, nil, fmt.Sprintf("flood=%d", floods))
	if st := c.end(); st != 0 {
		t.Fatalf("%#x: %s", uint32(st), c.out.String())
	}
	s := tr.Stats()
	for _, typ := range []Type{Fork, Exec, Exit} {
		if sum(s.Lost[typ]) < floods/2 {
			t.Errorf("lost %v of %s, of %d", s.Lost[typ], typ, floods)
		}
	}
	if n := s.LostTotal(); n < floods {
		t.Errorf("lost %d in all", n)
	}
	// A cgroup event has a ring of its own, so the flood did not evict it.
	dir := makeCgroup(t, "", "loss")
	r := record(t, tr)
	e := r.await(func(e Event) bool { return e.Type == Lost })
	if e.Count < floods || e.Time == 0 {
		t.Errorf("%+v", e)
	}
	r.await(func(e Event) bool { return e.Type == CgroupMkdir && e.Cgroup.ID.ID == statInode(t, dir) })
	ended := r.flushed(func(e Event) bool { return e.Type == Fork || e.Type == Exec || e.Type == Exit })
	if got := uint64(len(ended)) + tr.Stats().LostTotal(); got < 3*floods {
		t.Errorf("delivered and lost are only %d", got)
	}
}

func TestAFloodIsDeliveredWholeOnceAndInOrder(t *testing.T) {
	for name, o := range map[string]TracerOptions{"as this kernel needs it": {}, "twins": {twins: true}} {
		t.Run(name, func(t *testing.T) {
			r := record(t, newTracer(t, o))
			const floods = 500
			c := startRole(t, nil, fmt.Sprintf("flood=%d", floods))
			if st := c.end(); st != 0 {
				t.Fatalf("%#x: %s", uint32(st), c.out.String())
			}
			lives := make(map[workload.ProcessKey][]Type)
			for _, e := range r.flushed(func(e Event) bool { return e.Process.Parent == workload.PID(c.Process.Pid) }) {
				lives[e.Process.Key] = append(lives[e.Process.Key], e.Type)
			}
			// From 7.0 on the kernel may skip both programs of an event, and counts no
			// fewer: each may have cost a life one of its events, and no life more than those.
			s := r.src.Stats()
			skipped := skippedRuns(s)
			whole, cut := 0, uint64(0)
			for key, life := range lives {
				switch {
				case slices.Equal(life, []Type{Fork, Exec, Exit}):
					whole++
				case slices.Equal(life, []Type{Fork, Exit}): // as Go tries clone(2) once
				default:
					cut++
					if cut > skipped {
						t.Errorf("%s: %v, and %d skipped", key, life, skipped)
					}
				}
			}
			if whole > floods || uint64(whole)+skipped < floods {
				t.Errorf("%d whole lives of %d, and %d skipped", whole, floods, skipped)
			}
			if s.LostTotal() != skipped || s.Malformed != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// skippedRuns counts what the kernel has skipped, and maybe more.
func skippedRuns(s Stats) (n uint64) {
	for _, p := range s.Programs {
		n += p.Skipped
	}
	return n
}

func TestEachProgramMayBeMissing(t *testing.T) {
	for _, tp := range tracepoints {
		t.Run(tp.tracepoint, func(t *testing.T) {
			tr := newTracer(t, TracerOptions{Disable: []Type{tp.typ}})
			for _, p := range tr.Stats().Programs {
				if p.Attached == (p.Type == tp.typ) || p.Attached != (p.Reason == "") {
					t.Errorf("%+v", p)
				}
			}
			r := record(t, tr)
			dir := makeCgroup(t, "", "missing")
			c := startChild(t, nil, "", "/bin/cat")
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Append(nil, c.Process.Pid), 0); err != nil {
				t.Fatal(err)
			}
			c.end()
			id := statInode(t, dir)
			removeCgroup(t, dir)
			got := types(r.flushed(func(e Event) bool { return of(c.Process.Pid)(e) || e.Cgroup.ID.ID == id }))
			slices.Sort(got)
			want := slices.DeleteFunc([]Type{Fork, Exec, Exit, CgroupMkdir, CgroupRmdir, CgroupAttach}, func(x Type) bool { return x == tp.typ })
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestWithoutAnyProgramThereIsNoTracer(t *testing.T) {
	_, err := NewTracer(TracerOptions{Disable: []Type{Fork, Exec, Exit, CgroupMkdir, CgroupRmdir, CgroupAttach}})
	if !errors.Is(err, ErrUnsupported) {
		t.Errorf("%v", err)
	}
}

func TestNewTracerNamesTheMissingCapability(t *testing.T) {
	for bit, name := range map[int]string{unix.CAP_BPF: "CAP_BPF", unix.CAP_PERFMON: "CAP_PERFMON"} {
		c := startRole(t, nil, fmt.Sprintf("probe=%d", bit))
		c.end()
		if got, want := strings.TrimSpace(c.out.String()), "BPF tracing unavailable: not permitted: missing "+name; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

func TestNewTracerRefusesAKernelLockedDown(t *testing.T) {
	sysfs := t.TempDir()
	if err := os.MkdirAll(filepath.Join(sysfs, "kernel/security"), 0o755); err != nil {
		t.Fatal(err)
	}
	for modes, want := range map[string]error{"none integrity [confidentiality]\n": ErrLockedDown, "none [integrity] confidentiality\n": nil} {
		if err := os.WriteFile(filepath.Join(sysfs, "kernel/security/lockdown"), []byte(modes), 0o644); err != nil {
			t.Fatal(err)
		}
		tr, err := NewTracer(TracerOptions{Sysfs: sysfs})
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", modes, err)
		}
		if err == nil {
			tr.Close()
		} else if !errors.Is(err, ErrUnsupported) {
			t.Errorf("%v is not ErrUnsupported", err)
		}
	}
}

func TestRunEndsAndBeginsAgain(t *testing.T) {
	tr := newTracer(t, TracerOptions{})
	for range 2 {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- tr.Run(ctx, func(Event) {}) }()
		if err := tr.Flush(patient(t)); err != nil {
			t.Fatal(err)
		}
		if err := tr.Run(ctx, func(Event) {}); !errors.Is(err, ErrRunning) {
			t.Errorf("a second Run: %v", err)
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := tr.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Flush without Run: %v", err)
	}
}

func TestCloseEndsEverything(t *testing.T) {
	tr := newTracer(t, TracerOptions{BatchInterval: time.Hour})
	done := make(chan error)
	go func() { done <- tr.Run(context.Background(), func(Event) {}) }()
	if err := tr.Flush(patient(t)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := <-done; !errors.Is(err, ErrClosed) {
		t.Errorf("Run: %v", err)
	}
	for what, err := range map[string]error{
		"Run":      tr.Run(context.Background(), func(Event) {}),
		"Flush":    tr.Flush(context.Background()),
		"Snapshot": tr.Snapshot(context.Background(), func(Event) {}),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if s := tr.Stats(); s.Rings != nil || len(s.Hierarchies) == 0 {
		t.Errorf("%+v", s)
	}
}

func TestASecondExitOfAProcessIsDropped(t *testing.T) {
	var f exitFilter
	a, b := workload.ProcessKey{PID: 5, Start: 1}, workload.ProcessKey{PID: 5, Start: 2}
	if f.seen(a) || !f.seen(a) || f.seen(b) || !f.seen(b) {
		t.Error("a, a, b, b must be new, seen, new, seen")
	}
	off := exitFilter{off: true}
	for range 2 {
		if off.seen(a) {
			t.Error("a filter that is off drops")
		}
	}
}
