// SPDX-License-Identifier: Apache-2.0

package resolve

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/store"
	"github.com/pidigree/pidigree/pkg/workload"
)

// sleeper starts a process that lives until end, which also reaps it.
func sleeper(t testing.TB) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(end)
	return cmd.Process.Pid, end
}

// put makes a live process known, with a word to know it again by.
func put(t testing.TB, s *store.Store, pid int, word string) *workload.Process {
	t.Helper()
	p := &workload.Process{Key: keyOf(t, pid), Status: workload.StatusHost, Comm: word}
	s.Apply(store.Change{Process: p})
	return p
}

// needHeld is for tests of what only kernels with pidfs have: all from 6.9 on.
func needHeld(t testing.TB, r *Resolver) {
	t.Helper()
	if r.pidfs {
		return
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		t.Fatalf("kernel release %q: %v", release, err)
	}
	if major > 6 || major == 6 && minor >= 9 {
		t.Fatalf("%s has pidfs, and it was not found", release)
	}
	t.Skipf("%s is before 6.9: its pidfds have no inodes of their own, so none are held", release)
}

// ask asks about PIDs, one by one and all at once, each twice at least, and wants
// the same of both.
func ask(t testing.TB, r *Resolver, pids ...int) []workload.Result {
	t.Helper()
	n := len(pids)
	pids = slices.Repeat(pids, 2)
	qs := make([]workload.Query, len(pids))
	for i, pid := range pids {
		qs[i].PID = workload.PID(pid)
	}
	rs := make([]workload.Result, len(qs))
	r.ResolveAll(t.Context(), qs, rs)
	for i := range rs {
		one := r.Resolve(t.Context(), qs[i])
		a, b := rs[i].Answer, one.Answer
		if rs[i].Query != qs[i] || a.Process != b.Process || a.Status != b.Status || a.Exited != b.Exited || (rs[i].Err == nil) != (one.Err == nil) {
			t.Fatalf("PID %d: %+v among others, %+v alone", pids[i], rs[i], one)
		}
	}
	return rs[:n]
}

// hold asks until the process is held.
func hold(t testing.TB, r *Resolver, pids ...int) {
	t.Helper()
	for range 2 {
		ask(t, r, pids...)
	}
	for _, pid := range pids {
		if k, ok := r.held.key(workload.PID(pid)); !ok || k.Inode != keyOf(t, pid).Inode {
			t.Fatalf("asked again and again, process %d is not held: %v %v", pid, k, ok)
		}
	}
}

func TestWhoeverIsAskedAboutAgainIsHeldAndAnsweredTheSame(t *testing.T) {
	r, s, o := newResolver(t, "")
	needHeld(t, r)
	var pids []int
	for i := range 5 {
		pid, _ := sleeper(t)
		put(t, s, pid, strconv.Itoa(i))
		pids = append(pids, pid)
	}
	hold(t, r, pids...)
	if r.Held() != len(pids) {
		t.Errorf("%d are held, want %d", r.Held(), len(pids))
	}
	for i, res := range ask(t, r, pids...) {
		if res.Err != nil || res.Answer.Process == nil || res.Answer.Process.Comm != strconv.Itoa(i) {
			t.Errorf("%+v", res)
		}
	}
	if o.asked != 0 {
		t.Errorf("the correlator was asked %d times", o.asked)
	}
	r.Close()
	if r.Held() != 0 {
		t.Errorf("%d are held after Close", r.Held())
	}
	ask(t, r, pids...)
	if r.Held() != 0 {
		t.Errorf("%d were taken after Close", r.Held())
	}
}

// What was asked about once is not worth a descriptor.
func TestWhoeverIsAskedAboutOnceIsNotHeld(t *testing.T) {
	r, s, _ := newResolver(t, "")
	pid, _ := sleeper(t)
	put(t, s, pid, "once")
	r.Resolve(t.Context(), workload.Query{PID: workload.PID(pid)})
	if r.Held() != 0 {
		t.Error("held after one question")
	}
}

// The kernel is made to give one process's number to another one. Between, the
// first is a zombie and then nobody.
func TestTheNextOwnerOfAHeldPIDIsNotTakenForTheFirst(t *testing.T) {
	r, s, _ := newResolver(t, "")
	needHeld(t, r)
	for range 20 {
		first := exec.Command("/bin/sleep", "1000")
		if err := first.Start(); err != nil {
			t.Fatal(err)
		}
		pid := first.Process.Pid
		old := put(t, s, pid, "first")
		hold(t, r, pid)
		if err := first.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		var info unix.Siginfo
		if err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
		if k, ok := r.held.key(workload.PID(pid)); ok {
			t.Errorf("a zombie counts as alive: %v", k)
		}
		if a := ask(t, r, pid)[0]; a.Answer.Process != old {
			t.Errorf("a zombie is answered with %+v", a)
		}
		_ = first.Wait() // killed, as it says
		if _, ok := r.held.key(workload.PID(pid)); ok {
			t.Error("what was reaped counts as alive")
		}
		end, ok := reuse(t, pid)
		if !ok {
			continue // somebody else on this machine was quicker
		}
		defer end()
		young := put(t, s, pid, "second")
		if old.Key.Same(young.Key) {
			t.Fatalf("both have the key %s", young.Key)
		}
		for range 3 { // until the second is held in the place of the first
			if a := ask(t, r, pid)[0]; a.Err != nil || a.Answer.Process != young || a.Answer.Exited {
				t.Fatalf("PID %d is the second process's, and is answered with %+v", pid, a)
			}
		}
		hold(t, r, pid)
		return
	}
	t.Fatal("the kernel never gave the number again")
}

// reuse starts a process that has this PID.
func reuse(t *testing.T, pid int) (end func(), ok bool) {
	t.Helper()
	for range 50 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Fatal(err)
		}
		got, end := sleeper(t)
		if got == pid {
			return end, true
		}
		end()
	}
	return nil, false
}

// A thread that does not lead its process and calls execve takes over the PID of
// the leader: the process is the same, for us and for whoever opens it anew.
func TestAHeldProcessWhoseOtherThreadCallsExecveIsTheSame(t *testing.T) {
	r, s, o := newResolver(t, "")
	needHeld(t, r)
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHelperExecsFromAThread$")
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.ExtraFiles = []*os.File{w}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = w.Close() // the child's is another
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	said := bufio.NewReader(out)
	if line, err := said.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	pid := cmd.Process.Pid
	p := put(t, s, pid, "execs")
	hold(t, r, pid)
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(said); err != nil || len(rest) > 0 { // it ends where execve closes it
		t.Fatalf("%q, %v", rest, err)
	}
	if comm, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm"); err != nil || string(comm) != "sleep\n" {
		t.Fatalf("it is %q, %v", comm, err)
	}
	k, ok := r.held.key(workload.PID(pid))
	if !ok || k.Inode != keyOf(t, pid).Inode || k.Inode != p.Key.Inode {
		t.Errorf("held as %v, %v; opened anew it is %v", k, ok, keyOf(t, pid))
	}
	if a := ask(t, r, pid)[0]; a.Answer.Process != p || a.Answer.Exited || o.asked != 0 {
		t.Errorf("%+v, asked %d times", a, o.asked)
	}
}

const helperEnv = "PIDIGREE_TEST_HELPER"

// TestHelperExecsFromAThread is the process of the test above, and no test.
func TestHelperExecsFromAThread(t *testing.T) {
	if os.Getenv(helperEnv) == "" {
		return
	}
	unix.CloseOnExec(3)
	// Of two locked threads one at most is the main thread.
	done := make(chan struct{})
	var once sync.Once
	for range 2 {
		go func() {
			runtime.LockOSThread()
			if unix.Gettid() == os.Getpid() {
				<-done
			}
			once.Do(func() {
				_, _ = os.NewFile(3, "out").WriteString("ready\n")
				_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
				_ = unix.Exec("/bin/sleep", []string{"sleep", "1000"}, nil)
				os.Exit(1)
			})
		}()
	}
	<-done
}

func TestNoMoreAreHeldThanMayBe(t *testing.T) {
	r, s, _ := newResolver(t, "")
	needHeld(t, r)
	r.held = newHeld(11)
	if n := len(r.held.sets); n != 2 {
		t.Fatalf("%d sets for 11 descriptors, want 2 of %d", n, ways)
	}
	var pids []int
	for i := range 30 {
		pid, _ := sleeper(t)
		put(t, s, pid, strconv.Itoa(i))
		pids = append(pids, pid)
	}
	for range 3 {
		for i, res := range ask(t, r, pids...) {
			if res.Err != nil || res.Answer.Process.Comm != strconv.Itoa(i) {
				t.Fatalf("process %d of 30: %+v", i, res)
			}
		}
		if n := r.Held(); n < 4 || n > 2*ways {
			t.Fatalf("%d are held, want %d at most", n, 2*ways)
		}
	}
	r.held.close()
	r.held = newHeld(ways - 1)
	for range 3 {
		ask(t, r, pids...)
	}
	if r.Held() != 0 {
		t.Error("processes are held where none may be")
	}
}

// A number that was closed may be any file by the time that it is looked at.
// The answers must be right, whoever adds, drops and closes beside.
func TestHoldingAndAskingSideBySideGivesEachItsOwn(t *testing.T) {
	r, s, _ := newResolver(t, "")
	needHeld(t, r)
	r.held = newHeld(ways) // one set: all are in each other's way
	t.Cleanup(func() { r.held.close() })
	var pids []int
	procs := map[workload.PID]*workload.Process{}
	for i := range 12 {
		pid, _ := sleeper(t)
		procs[workload.PID(pid)] = put(t, s, pid, strconv.Itoa(i))
		pids = append(pids, pid)
	}
	var all sync.WaitGroup
	for g := range 4 {
		all.Go(func() {
			qs, rs := make([]workload.Query, len(pids)), make([]workload.Result, len(pids))
			for i := range qs {
				qs[i].PID = workload.PID(pids[(i*(g+1))%len(pids)])
			}
			for range 200 {
				r.ResolveAll(t.Context(), qs, rs)
				for i := range rs {
					if rs[i].Err != nil || rs[i].Answer.Process != procs[qs[i].PID] {
						t.Errorf("%d: %+v", qs[i].PID, rs[i])
						return
					}
				}
				r.held.drop(qs[g].PID)
			}
		})
	}
	all.Wait()
}

func TestAHeldHitAllocatesNothing(t *testing.T) {
	r, s, _ := newResolver(t, "")
	needHeld(t, r)
	pid, _ := sleeper(t)
	put(t, s, pid, "hit")
	hold(t, r, pid)
	qs := []workload.Query{{PID: workload.PID(pid)}, {PID: workload.PID(pid)}}
	rs := make([]workload.Result, len(qs))
	ctx := t.Context()
	for name, f := range map[string]func(){
		"alone": func() { _, _ = r.PID(ctx, workload.PID(pid)) },
		"many":  func() { r.ResolveAll(ctx, qs, rs) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// BenchmarkThousandPIDs validates a thousand processes, held and opened anew.
func BenchmarkThousandPIDs(b *testing.B) {
	for name, most := range map[string]int{"held": maxHeld, "opened": 0} {
		b.Run(name, func(b *testing.B) {
			r, s, _ := newResolver(b, "")
			needHeld(b, r)
			r.held = newHeld(most)
			b.Cleanup(func() { r.held.close() })
			qs := make([]workload.Query, 1000)
			rs := make([]workload.Result, len(qs))
			for i := range qs {
				pid, _ := sleeper(b)
				put(b, s, pid, "x")
				qs[i].PID = workload.PID(pid)
			}
			b.ReportAllocs()
			var before, after unix.Rusage
			_ = unix.Getrusage(unix.RUSAGE_SELF, &before) // it fails for nothing that exists
			for b.Loop() {
				r.ResolveAll(b.Context(), qs, rs)
			}
			_ = unix.Getrusage(unix.RUSAGE_SELF, &after)
			spent := after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano()
			b.ReportMetric(float64(spent)/float64(b.N), "cpu-ns/op")
		})
	}
}
