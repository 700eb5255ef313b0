// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	pcgroup "github.com/pidigree/pidigree/pkg/cgroup"
	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// upEnv makes the test binary a process that says that it is up, and waits for nothing.
const upEnv = "PIDIGREE_RESOLVE_TEST_UP"

func TestMain(m *testing.M) {
	if os.Getenv(upEnv) != "" {
		fmt.Println("up")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	goleak.VerifyTestMain(m)
}

// observer puts a process into the store when asked, as a correlator would.
type observer struct {
	store *store.Store
	asked int
	put   func(pid workload.PID) *workload.Process
	// settle is what the engines do; nil for none that is saying anything.
	settle func(ctx context.Context, id workload.ContainerID) bool
}

func (o *observer) Observe(_ context.Context, pid workload.PID, known func() bool) error {
	o.asked++
	if known() {
		return nil
	}
	p := o.put(pid)
	if p == nil {
		return workload.ErrNotFound
	}
	o.store.Apply(store.Change{Process: p})
	return nil
}

func (o *observer) Settle(ctx context.Context, id workload.ContainerID) bool {
	return o.settle != nil && o.settle(ctx, id)
}

func newResolver(t testing.TB, procfs string) (*Resolver, *store.Store, *observer) {
	t.Helper()
	fs, err := pcgroup.New(pcgroup.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = fs.Close() })
	s := store.New(store.Options{})
	o := &observer{store: s, put: func(workload.PID) *workload.Process { return nil }}
	r, err := New(Options{Store: s, Cgroups: fs, Observer: o, Procfs: procfs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r, s, o
}

// keyOf makes the key of a live process the way the kernel's events would.
func keyOf(t testing.TB, pid int) workload.ProcessKey {
	t.Helper()
	dir, err := openProc("/proc", workload.PID(pid))
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(dir)
	st, err := readStat(dir)
	if err != nil {
		t.Fatal(err)
	}
	k := workload.ProcessKey{PID: workload.PID(pid), Start: st.start, Ticks: true}
	if hasPidfs() {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		var s unix.Stat_t
		if err := unix.Fstat(fd, &s); err != nil {
			t.Fatal(err)
		}
		k.Inode = s.Ino
	}
	return k
}

// both runs a test by pidfd and by the /proc directory.
func both(t *testing.T, fn func(t *testing.T, procfs string)) {
	t.Run("by pidfd", func(t *testing.T) { fn(t, "/proc") })
	t.Run("by the proc directory", func(t *testing.T) { fn(t, "/proc/../proc") })
}

func TestALiveProcessIsAnsweredFromMemory(t *testing.T) {
	both(t, func(t *testing.T, procfs string) {
		r, s, o := newResolver(t, procfs)
		s.Apply(store.Change{Process: &workload.Process{Key: keyOf(t, os.Getpid()), Status: workload.StatusHost}})
		a, err := r.PID(t.Context(), workload.PID(os.Getpid()))
		if err != nil || a.Status != workload.StatusHost || a.Exited {
			t.Fatalf("%+v, %v", a, err)
		}
		if o.asked != 0 {
			t.Errorf("the correlator was asked %d times on a hit", o.asked)
		}
	})
}

func TestAPIDThatAnotherProcessHadIsNotAnsweredWithThat(t *testing.T) {
	both(t, func(t *testing.T, procfs string) {
		r, s, o := newResolver(t, procfs)
		old := keyOf(t, os.Getpid())
		old.Start -= 3 * workload.TickNS
		if old.Inode != 0 {
			old.Inode--
		}
		s.Apply(store.Change{Process: &workload.Process{Key: old, Status: workload.StatusHost, Comm: "old"}})
		a, err := r.PID(t.Context(), workload.PID(os.Getpid()))
		if err == nil && a.Status != workload.StatusUnknown {
			t.Fatalf("answered %s for another process", a.Status)
		}
		if o.asked == 0 {
			t.Error("the correlator was not asked to look")
		}
	})
}

func TestAMissIsObservedOnce(t *testing.T) {
	r, _, o := newResolver(t, "")
	o.put = func(workload.PID) *workload.Process {
		return &workload.Process{Key: keyOf(t, os.Getpid()), Status: workload.StatusHost}
	}
	a, err := r.PID(t.Context(), workload.PID(os.Getpid()))
	if err != nil || a.Status != workload.StatusHost || o.asked != 1 {
		t.Fatalf("%s, %v, asked %d times", a.Status, err, o.asked)
	}
}

func TestAThreadIsAnsweredForItsProcess(t *testing.T) {
	both(t, func(t *testing.T, procfs string) {
		r, s, _ := newResolver(t, procfs)
		s.Apply(store.Change{Process: &workload.Process{Key: keyOf(t, os.Getpid()), Status: workload.StatusHost}})
		// Of two locked threads one at most is the main thread.
		done, tids := make(chan struct{}), make(chan int, 2)
		defer close(done)
		for range 2 {
			go func() {
				runtime.LockOSThread()
				tids <- unix.Gettid()
				<-done
			}()
		}
		id := <-tids
		if id == os.Getpid() {
			id = <-tids
		}
		a, err := r.PID(t.Context(), workload.PID(id))
		if err != nil || a.Status != workload.StatusHost || a.Thread != workload.PID(id) {
			t.Fatalf("%+v, %v", a, err)
		}
	})
}

// What cannot be looked at has not ended: without a file descriptor left, a
// process that lives was said to have exited.
func TestWhatCannotBeLookedAtHasNotEnded(t *testing.T) {
	both(t, func(t *testing.T, procfs string) {
		r, s, _ := newResolver(t, procfs)
		pid := workload.PID(os.Getppid())
		s.Apply(store.Change{Process: &workload.Process{Key: keyOf(t, int(pid)), Status: workload.StatusHost}})
		var had unix.Rlimit
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &had); err != nil {
			t.Fatal(err)
		}
		if err := unix.Prlimit(0, unix.RLIMIT_NOFILE, &unix.Rlimit{Max: had.Max}, nil); err != nil {
			t.Fatal(err)
		}
		a, err := r.PID(t.Context(), pid)
		if rerr := unix.Prlimit(0, unix.RLIMIT_NOFILE, &had, nil); rerr != nil {
			t.Fatal(rerr)
		}
		if a.Exited || !errors.Is(err, workload.ErrUnavailable) {
			t.Errorf("exited %t, %v", a.Exited, err)
		}
		if a, err := r.PID(t.Context(), pid); err != nil || a.Exited {
			t.Errorf("afterwards: exited %t, %v", a.Exited, err)
		}
	})
}

func TestAProcessThatIsGoneIsAnsweredFromItsTombstone(t *testing.T) {
	both(t, func(t *testing.T, procfs string) {
		r, s, _ := newResolver(t, procfs)
		cmd := exec.Command("/bin/sleep", "100")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		k := keyOf(t, cmd.Process.Pid)
		p := &workload.Process{Key: k, Status: workload.StatusHost}
		s.Apply(store.Change{Process: p})
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		a, err := r.PID(t.Context(), k.PID)
		if err != nil || !a.Exited {
			t.Fatalf("exit not applied yet: %+v, %v", a, err)
		}
		dead := p.Clone()
		dead.Exit = &workload.Exit{Known: true, Code: 137, Signal: 9, At: 1}
		s.Apply(store.Change{Process: dead})
		a, err = r.PID(t.Context(), k.PID)
		if err != nil || !a.Exited || a.Process.Exit.Signal != 9 {
			t.Fatalf("%+v, %v", a, err)
		}
	})
}

func TestWhatIsNoQuestionIsSaid(t *testing.T) {
	r, _, _ := newResolver(t, "")
	for name, c := range map[string]struct {
		q    workload.Query
		want error
	}{
		"nothing is asked":              {workload.Query{}, workload.ErrInvalid},
		"a PID beyond the largest":      {workload.Query{PID: workload.MaxPID + 1}, workload.ErrInvalid},
		"a key with such a PID":         {workload.Query{Key: workload.ProcessKey{PID: workload.MaxPID + 1, Start: 1}}, workload.ErrInvalid},
		"a PID that nobody ever had":    {workload.Query{PID: workload.MaxPID}, workload.ErrNotFound},
		"a container that is not there": {workload.Query{Container: "nosuch"}, workload.ErrNotFound},
		"a relative cgroup path":        {workload.Query{CgroupPath: "docker/x"}, workload.ErrInvalid},
		"a cgroup that is not there":    {workload.Query{CgroupPath: "/no/such"}, workload.ErrNotFound},
		"the future":                    {workload.Query{PID: 1, At: time.Now().Add(time.Hour)}, workload.ErrInvalid},
		"the past of a container":       {workload.Query{Container: "x", At: time.Now()}, workload.ErrInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			if res := r.Resolve(t.Context(), c.q); !errors.Is(res.Err, c.want) {
				t.Errorf("error %v, want %v", res.Err, c.want)
			}
		})
	}
}

func TestTwoContainersOfOnePrefixAreAmbiguous(t *testing.T) {
	r, s, _ := newResolver(t, "")
	for _, id := range []string{strings.Repeat("ab", 32), "abab" + strings.Repeat("cd", 30)} {
		cid := workload.ContainerID{Runtime: "docker", ID: id}
		s.Apply(store.Change{Container: &store.ContainerChange{ID: cid, Source: "docker", Layer: &workload.Container{ID: cid, State: workload.StateRunning}}})
	}
	if res := r.Resolve(t.Context(), workload.Query{Container: "abab"}); !errors.Is(res.Err, workload.ErrAmbiguous) {
		t.Errorf("error %v, want ambiguous", res.Err)
	}
	if res := r.Resolve(t.Context(), workload.Query{Container: "ababab"}); res.Err != nil || res.Answer.Status != workload.StatusContainer {
		t.Errorf("%+v", res)
	}
}

func TestWaitingEndsWhenTheAnswerIsComplete(t *testing.T) {
	r, s, o := newResolver(t, "")
	k := keyOf(t, os.Getpid())
	s.Apply(store.Change{Process: &workload.Process{Key: k, Status: workload.StatusUnknown, Reason: "not registered yet"}})
	o.put = func(workload.PID) *workload.Process {
		if o.asked < 3 {
			return &workload.Process{Key: k, Status: workload.StatusUnknown}
		}
		return &workload.Process{Key: k, Status: workload.StatusHost}
	}
	res := r.Resolve(t.Context(), workload.Query{PID: k.PID, Wait: 10 * time.Second})
	if res.Err != nil || res.Answer.Status != workload.StatusHost {
		t.Fatalf("%+v", res)
	}
	res = r.Resolve(t.Context(), workload.Query{PID: 1, Wait: time.Millisecond})
	if res.Err == nil && res.Answer.Status != workload.StatusUnknown {
		t.Errorf("%+v", res)
	}
}

func BenchmarkPID(b *testing.B) {
	r, s, _ := newResolver(b, "")
	s.Apply(store.Change{Process: &workload.Process{Key: keyOf(b, os.Getpid()), Status: workload.StatusHost}})
	b.Run("pidigree", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if a, err := r.PID(b.Context(), workload.PID(os.Getpid())); err != nil || a.Status != workload.StatusHost {
				b.Fatal(a.Status, err)
			}
		}
	})
	b.Run("read-proc-cgroup", func(b *testing.B) {
		for b.Loop() {
			if _, err := os.ReadFile("/proc/self/cgroup"); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// newCgroup makes a cgroup in the first hierarchy that takes one.
func newCgroup(t *testing.T, r *Resolver, path string) (workload.CgroupID, string) {
	t.Helper()
	for _, h := range r.cgroups.Hierarchies() {
		dir := filepath.Join(h.Mount, path)
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		id, err := r.cgroups.ID(h.ID, path)
		if err != nil {
			t.Fatal(err)
		}
		return id, dir
	}
	t.Fatal("no hierarchy takes a cgroup: run the test as root")
	return workload.CgroupID{}, ""
}

// A cgroup is the host's only by what is in it: any path may be a container's
// whose registration is under way.
func TestACgroupThatNoSourceHasRegisteredIsWhatItsProcessesAre(t *testing.T) {
	for name, c := range map[string]struct {
		status workload.Status
		child  bool
		beside bool // a process of the host is in it, too
		want   workload.Status
	}{
		"nobody is in it":                {"", false, false, workload.StatusUnknown},
		"it only holds another":          {"", true, false, workload.StatusHost},
		"a process of the host":          {workload.StatusHost, false, false, workload.StatusHost},
		"one of nobody, beside a host's": {workload.StatusUnknown, false, true, workload.StatusHost},
		"a container's, beside a host's": {workload.StatusContainer, false, true, workload.StatusHost},
		"a process that nobody knows":    {workload.StatusUnknown, false, false, workload.StatusUnknown},
		"one of nobody, beside a cgroup": {workload.StatusUnknown, true, false, workload.StatusUnknown},
		"a process of a container":       {workload.StatusContainer, false, false, workload.StatusUnknown},
		"a process in conflict":          {workload.StatusConflict, false, false, workload.StatusUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			r, s, _ := newResolver(t, "")
			id, dir := newCgroup(t, r, fmt.Sprintf("/pidigree-resolve-%d", os.Getpid()))
			if c.child {
				if err := os.Mkdir(dir+"/below", 0o755); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = os.Remove(dir + "/below") })
			}
			if c.status != "" {
				s.Apply(store.Change{Process: &workload.Process{Key: keyOf(t, startIn(t, dir)), Status: c.status}})
			}
			if c.beside {
				s.Apply(store.Change{Process: &workload.Process{Key: keyOf(t, startIn(t, dir)), Status: workload.StatusHost}})
			}
			for _, q := range []workload.Query{{Cgroup: id}, {CgroupPath: dir}} {
				if res := r.Resolve(t.Context(), q); res.Err != nil || res.Answer.Status != c.want {
					t.Errorf("%+v: %+v, not %s", q, res, c.want)
				}
			}
		})
	}
}

// startIn starts a process that sits in a cgroup until the test's end.
func startIn(t *testing.T, dir string) int {
	t.Helper()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if err := os.WriteFile(dir+"/cgroup.procs", []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}
