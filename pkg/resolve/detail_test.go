// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/shirou/gopsutil/v3/process"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// run starts a program that has written a line once it runs, and ends it with the test.
func run(t *testing.T, argv ...string) (pid int, line string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0])
	cmd.Args = argv
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil { // nothing ever comes
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	b := make([]byte, 64)
	n, err := out.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return cmd.Process.Pid, strings.TrimSpace(string(b[:n]))
}

// waiting is a shell that has begun, and waits for nothing.
func waiting(args ...string) []string {
	return append([]string{"/bin/sh", "-c", "echo up; read x"}, args...)
}

func living(t *testing.T, pid int) *workload.Process {
	t.Helper()
	return &workload.Process{Key: keyOf(t, pid), Status: workload.StatusHost}
}

func TestADetailIsWhatGopsutilReadsOfTheSameProcess(t *testing.T) {
	both(t, func(t *testing.T, procfs string) {
		r, _, _ := newResolver(t, procfs)
		pid, _ := run(t, waiting("name", "two words", "", "ä")...)
		p, err := process.NewProcess(int32(pid))
		if err != nil {
			t.Fatal(err)
		}
		exe, err1 := p.Exe()
		args, err2 := p.CmdlineSlice()
		uids, err3 := p.Uids()
		user, err4 := p.Username()
		parent, err5 := p.Ppid()
		for _, err := range []error{err1, err2, err3, err4, err5} {
			if err != nil {
				t.Fatal(err)
			}
		}
		got := r.Detail(t.Context(), living(t, pid), new(Reading))
		if got.Detail == nil {
			t.Fatal("no detail")
		}
		want := &workload.ProcessDetail{
			Command: args, UID: uint32(uids[0]), EUID: uint32(uids[1]), User: user,
			Parent: keyOf(t, int(parent)), Namespaces: got.Detail.Namespaces,
		}
		if procfs != "/proc" {
			want.Parent.Inode = 0 // its PIDs need not be ours
		}
		if d := cmp.Diff(want, got.Detail); d != "" || got.Exe != exe {
			t.Errorf("%s, not %s (-gopsutil +got):\n%s", got.Exe, exe, d)
		}
		for _, kind := range namespaces() {
			link, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/" + kind)
			if err == nil && link != kind+":["+strconv.FormatUint(got.Detail.Namespaces[kind], 10)+"]" {
				t.Errorf("%s is %d, not %s", kind, got.Detail.Namespaces[kind], link)
			}
		}
		if c := r.DetailCounts(); c != (DetailCounts{Read: 1}) {
			t.Errorf("counted %+v", c)
		}
	})
}

func TestADetailIsOfTheVeryProcessOrThereIsNone(t *testing.T) {
	r, _, _ := newResolver(t, "/proc")
	pid, _ := run(t, waiting()...)
	alive := living(t, pid)
	ended := alive.Clone()
	ended.Exit = &workload.Exit{Known: true}
	later, earlier := alive.Clone(), alive.Clone()
	later.Key = workload.ProcessKey{PID: alive.Key.PID, Start: alive.Key.Start + workload.TickNS, Ticks: true}
	earlier.Key = workload.ProcessKey{PID: alive.Key.PID, Start: alive.Key.Start - workload.TickNS, Ticks: true}
	nobody := alive.Clone()
	nobody.Key.PID = workload.MaxPID
	cases := map[string]*workload.Process{
		"one that has ended": ended, "the next with its PID": later, "the one before with its PID": earlier, "a PID that nobody has": nobody,
	}
	if alive.Key.Inode != 0 {
		other := alive.Clone()
		other.Key.Inode++
		cases["another of the same clock tick"] = other
	}
	for name, p := range cases {
		if got := r.Detail(t.Context(), p, new(Reading)); got != p || got.Detail != nil {
			t.Errorf("%s: %+v", name, got.Detail)
		}
	}
	if got := r.Detail(t.Context(), alive, new(Reading)); got.Detail == nil || alive.Detail != nil {
		t.Errorf("the living: %+v, and the store's own has become %+v", got.Detail, alive.Detail)
	}
}

func TestAHostileCommandLineIsBoundedText(t *testing.T) {
	r, _, _ := newResolver(t, "/proc")
	for name, args := range map[string][]string{
		"100,000 bytes":  {strings.Repeat("x", 100_000)},
		"1,000 words":    slices.Repeat([]string{"w"}, 1000),
		"invalid UTF-8":  {"\xff\xfe\xc3\x28", "\x1b[2J"},
		"cut in a glyph": {strings.Repeat("ä", maxCommand)},
	} {
		pid, _ := run(t, waiting(args...)...)
		d := r.Detail(t.Context(), living(t, pid), new(Reading)).Detail
		if d == nil {
			t.Fatalf("%s: no detail", name)
		}
		bytes := 0
		for _, a := range d.Command {
			if bytes += len(a); !utf8.ValidString(a) {
				t.Errorf("%s: %q", name, a)
			}
		}
		cut := len(strings.Join(args, " ")) > maxCommand/2 || len(args) > maxArgs
		if bytes > maxCommand+8 || len(d.Command) > maxArgs || slices.Contains(d.Truncated, "command") != cut {
			t.Errorf("%s: %d bytes in %d arguments, cut %q", name, bytes, len(d.Command), d.Truncated)
		}
	}
}

func TestArgumentsAreTakenApartAtTheirNULs(t *testing.T) {
	for in, want := range map[string][]string{
		"a\x00b\x00":                   {"a", "b"},
		"a\x00\x00b\x00":               {"a", "", "b"},
		"nginx: worker process":        {"nginx: worker process"}, // it has written over its own
		"sshd: root@pts/0\x00\x00\x00": {"sshd: root@pts/0", "", ""},
		"\x00":                         {""},
	} {
		if got, cut := arguments([]byte(in)); cut || !slices.Equal(got, want) {
			t.Errorf("%q: %q, cut %t", in, got, cut)
		}
	}
}

func TestWhoIsSlowToReadDelaysACallThreeTimesAtMost(t *testing.T) {
	r, _, _ := newResolver(t, "/proc")
	for range readers { // as readings that hang would
		r.details.slots <- struct{}{}
	}
	p := living(t, os.Getpid())
	var b Reading
	began := time.Now()
	for range 100 {
		if got := r.Detail(t.Context(), p, &b); got != p {
			t.Fatal("it was read all the same")
		}
	}
	if took := time.Since(began); took < maxSlow*readPatience || took > 20*maxSlow*readPatience {
		t.Errorf("100 of them took %s", took)
	}
	if c := r.DetailCounts(); c != (DetailCounts{Slow: maxSlow}) {
		t.Errorf("counted %+v", c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := r.Detail(ctx, p, new(Reading)); got != p {
		t.Error("nobody waits for it any more")
	}
	<-r.details.slots
	if got := r.Detail(t.Context(), p, new(Reading)); got.Detail == nil {
		t.Error("another call reads again")
	}
}

func TestUsersAreThoseOfTheHostsFile(t *testing.T) {
	procfs := t.TempDir()
	etc := filepath.Join(procfs, "1/root/etc")
	write := func(text string) {
		t.Helper()
		// As the tools do it: a new file in the place of the old.
		if err := os.WriteFile(etc+"/new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(etc+"/new", etc+"/passwd"); err != nil {
			t.Fatal(err)
		}
	}
	var u users
	if got := u.name(procfs, 0); got != "" {
		t.Errorf("without a file: %q", got)
	}
	if err := os.MkdirAll(etc, 0o700); err != nil {
		t.Fatal(err)
	}
	write("root:x:0:0::/root:/bin/sh\ntoor:x:0:0::/:/bin/sh\n\nshort:x:7\n:x:8:0::\nbad:x:minus:0::\n\xffhex:x:9:0::\n" + strings.Repeat("n", 300) + ":x:10:0::\nlast:x:4294967295:0::")
	for uid, want := range map[uint32]string{0: "root", 7: "", 8: "", 9: "\uFFFDhex", 10: "", 4294967295: "last", 1: ""} {
		if got := u.name(procfs, uid); got != want {
			t.Errorf("%d: %q, not %q", uid, got, want)
		}
	}
	write("admin:x:0:0::/root:/bin/sh\n")
	if got := u.name(procfs, 0); got != "admin" {
		t.Errorf("after a change: %q", got)
	}
	// The way out of the host's root leads nowhere, and nobody waits at a FIFO.
	if err := os.WriteFile(procfs+"/passwd", []byte("out:x:0:0::\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(etc + "/passwd"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../passwd", etc+"/passwd"); err != nil {
		t.Fatal(err)
	}
	if got := u.name(procfs, 0); got != "" {
		t.Errorf("outside of the root: %q", got)
	}
	if err := os.Remove(etc + "/passwd"); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(etc+"/passwd", 0o600); err != nil {
		t.Fatal(err)
	}
	if got := u.name(procfs, 0); got != "" {
		t.Errorf("a FIFO: %q", got)
	}
}

func TestAContainersUserHasNoNameOfTheHosts(t *testing.T) {
	r, _, _ := newResolver(t, "/proc")
	p := living(t, os.Getpid())
	p.Status = workload.StatusContainer
	if d := r.Detail(t.Context(), p, new(Reading)).Detail; d == nil || d.User != "" {
		t.Errorf("%+v", d)
	}
}

// pids are those of a family.
func pids(list []workload.Process) (out []int) {
	for _, p := range list {
		out = append(out, int(p.Key.PID))
	}
	return out
}

func TestAFamilyIsLinkedByWhoIsTheParentNow(t *testing.T) {
	both(t, func(t *testing.T, procfs string) {
		r, s, _ := newResolver(t, procfs)
		put := func(pid, parent int) *workload.Process {
			p := living(t, pid)
			p.Parent = workload.PID(parent)
			s.Apply(store.Change{Process: p})
			return p
		}
		self := put(os.Getpid(), os.Getppid())
		put(os.Getppid(), 0)
		parent, line := run(t, "/bin/sh", "-c", "sleep 1000 < /dev/null & echo $!; read x; wait")
		child, err := strconv.Atoi(line)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Kill(child, unix.SIGKILL) })
		stranger, _ := run(t, waiting()...)
		middle := put(parent, os.Getpid())
		put(child, parent)
		put(stranger, parent) // what was last known of it is not so

		f := r.family(t.Context(), middle)
		if f == nil || !slices.Equal(pids(f.Children), []int{child}) || len(f.Ancestors) < 2 ||
			!slices.Equal(pids(f.Ancestors)[:2], []int{os.Getpid(), os.Getppid()}) {
			t.Fatalf("%+v", f)
		}
		if f.Ancestors[0].Key != self.Key {
			t.Errorf("the parent is %s, not %s", f.Ancestors[0].Key, self.Key)
		}
		other := *middle
		other.Key = workload.ProcessKey{PID: middle.Key.PID, Start: middle.Key.Start + workload.TickNS, Ticks: true}
		if f := r.family(t.Context(), &other); f != nil {
			t.Errorf("the next with its PID has the family of this one: %+v", f)
		}
		ended := *middle
		ended.Exit = &workload.Exit{}
		if f := r.family(t.Context(), &ended); f != nil {
			t.Errorf("one that has ended has a family: %+v", f)
		}
	})
}

func TestAnAdoptedChildIsItsNewParents(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) })
	r, s, _ := newResolver(t, "/proc")
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "sleep 1000 > /dev/null 2>&1 & echo $!")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = unix.Kill(child, unix.SIGKILL)
		_, _ = unix.Wait4(child, nil, 0, nil)
	})
	self, orphan := living(t, os.Getpid()), living(t, child)
	orphan.Parent = workload.PID(cmd.Process.Pid) // who forked it, and has ended
	s.Apply(store.Change{Process: self}, store.Change{Process: orphan})
	if f := r.family(t.Context(), self); f == nil || !slices.Contains(pids(f.Children), child) {
		t.Errorf("%+v", f)
	}
	if d := r.Detail(t.Context(), orphan, new(Reading)).Detail; d == nil || d.Parent != self.Key {
		t.Errorf("its parent is not %s: %+v", self.Key, d)
	}
}

// startAs starts a program with the user ids of a thread that has these real, effective
// and saved ones. Shells would give up an effective one that is not the real one.
func startAs(t *testing.T, ids [3]int) (cmd *exec.Cmd) {
	t.Helper()
	cmd = exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), upEnv+"=1")
	out, err1 := cmd.StdoutPipe()
	_, err2 := cmd.StdinPipe() // nothing ever comes
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(ids[0]), uintptr(ids[1]), uintptr(ids[2])); errno != 0 {
			started <- errno
			return
		}
		started <- cmd.Start()
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := io.ReadFull(out, make([]byte, len("up\n"))); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestAProcessIsItsUsersWhereAllOfItsIDsAre(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can become other users: run the tests as root")
	}
	both(t, func(t *testing.T, procfs string) {
		r, _, _ := newResolver(t, procfs)
		for name, c := range map[string]struct {
			ids [3]int
			is  bool
		}{
			"a user's":                     {[3]int{4711, 4711, 4711}, true},
			"root's":                       {[3]int{0, 0, 0}, true},
			"one that a user runs as root": {[3]int{4711, 0, 0}, false},
			"one that root runs as a user": {[3]int{0, 4711, 4711}, false},
		} {
			t.Run(name, func(t *testing.T) {
				cmd := startAs(t, c.ids)
				key := keyOf(t, cmd.Process.Pid)
				uid, ok := r.Owner(key)
				if ok != c.is || ok && uid != uint32(c.ids[0]) {
					t.Errorf("it is uid %d's: %v, want %v", uid, ok, c.is)
				}
				later := key
				if later.Inode != 0 {
					later.Inode++
				}
				later.Start += 10 * workload.TickNS
				if uid, ok := r.Owner(later); ok {
					t.Errorf("a later process with its PID is uid %d's", uid)
				}
				_ = cmd.Process.Kill()
				_ = cmd.Wait() // killed
				if uid, ok := r.Owner(key); ok {
					t.Errorf("it has ended, and is uid %d's", uid)
				}
			})
		}
	})
}
