// SPDX-License-Identifier: Apache-2.0

package kernel

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// roleEnv makes the test binary, run by itself, play a process that a test
// watches.
const roleEnv = "PIDIGREE_KERNEL_TEST_ROLE"

// The leading thread must still be the one that main runs on, for the roles
// that end or leave it.
func init() {
	if os.Getenv(roleEnv) != "" {
		runtime.LockOSThread()
	}
}

func TestMain(m *testing.M) {
	if role, ok := os.LookupEnv(roleEnv); ok {
		os.Unsetenv(roleEnv)
		play(role)
	}
	goleak.VerifyTestMain(m)
}

// play never returns.
func play(role string) {
	name, arg, _ := strings.Cut(role, "=")
	switch name {
	case "exit":
		waitStdin()
		os.Exit(3)
	case "signal":
		var sig int
		fmt.Sscan(arg, &sig)
		unix.PrctlRetInt(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) // no core file
		resetSignal(unix.Signal(sig))
		syscall.Kill(os.Getpid(), syscall.Signal(sig))
		select {}
	case "leader-leaves":
		leaderLeaves()
	case "exec-from-thread":
		execFromThread()
	case "eat":
		waitStdin()
		eat()
	case "memfd":
		execMemfd()
	case "flood":
		flood(arg)
	case "probe":
		probeWithout(arg)
	}
	fmt.Fprintln(os.Stderr, "no such role:", role)
	os.Exit(99)
}

func waitStdin() { io.Copy(io.Discard, os.Stdin) }

// resetSignal gives a signal back its default action, which the Go runtime has
// taken away: struct kernel_sigaction all zero, with no handler.
func resetSignal(sig unix.Signal) {
	var action [4]uint64
	unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), addressOf(&action), 0, 8, 0, 0)
}

// leaderLeaves ends the first thread alone, and once it is a zombie the process
// with 7 from another one.
func leaderLeaves() {
	go func() {
		runtime.LockOSThread()
		self := fmt.Sprintf("/proc/self/task/%d/stat", os.Getpid())
		for {
			b, err := os.ReadFile(self)
			if err == nil && strings.Contains(string(b), ") Z ") {
				unix.Syscall(unix.SYS_EXIT_GROUP, 7, 0, 0)
			}
			runtime.Gosched()
		}
	}()
	unix.Syscall(unix.SYS_EXIT, 5, 0, 0)
}

// execFromThread runs another program from a thread that is not the leader and
// takes its place.
func execFromThread() {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- syscall.Exec("/bin/cat", []string{"cat"}, nil)
	}()
	fmt.Fprintln(os.Stderr, "exec:", <-done)
	os.Exit(98)
}

// eat takes memory until somebody ends that.
func eat() {
	var all [][]byte
	for {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
		if len(all) > 1<<10 {
			os.Exit(97)
		}
	}
}

// execMemfd runs a copy of cat that is in memory only, as a runtime runs itself.
func execMemfd() {
	cat, err := os.ReadFile("/bin/cat")
	if err == nil {
		var fd int
		if fd, err = unix.MemfdCreate("cat", 0); err == nil {
			if _, err = unix.Write(fd, cat); err == nil {
				err = syscall.Exec(fmt.Sprintf("/proc/self/fd/%d", fd), []string{"cat"}, nil)
			}
		}
	}
	fmt.Fprintln(os.Stderr, "memfd:", err)
	os.Exit(96)
}

// flood starts and ends so many processes.
func flood(arg string) {
	var n int
	fmt.Sscan(arg, &n)
	for range n {
		p, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
		if err != nil {
			fmt.Fprintln(os.Stderr, "flood:", err)
			os.Exit(95)
		}
		p.Wait()
	}
	os.Exit(0)
}

// probeWithout drops a capability and says what NewTracer makes of it.
func probeWithout(arg string) {
	var bit int
	fmt.Sscan(arg, &bit)
	if err := dropCapabilities(unix.CAP_SYS_ADMIN, bit); err != nil {
		fmt.Fprintln(os.Stderr, "drop capability:", err)
		os.Exit(94)
	}
	_, err := NewTracer(TracerOptions{})
	fmt.Println(err)
	os.Exit(0)
}

func dropCapabilities(bits ...int) error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return err
	}
	for _, b := range bits {
		data[b/32].Effective &^= 1 << (b % 32)
		data[b/32].Permitted &^= 1 << (b % 32)
	}
	return unix.Capset(&hdr, &data[0])
}
