// SPDX-License-Identifier: Apache-2.0

package collectortest

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// startTimeout is how long a daemon may take to answer. dockerd takes 2 s on an
// idle machine; tests share two cores.
const startTimeout = 60 * time.Second

// daemon is one started process and its log.
type daemon struct {
	name string
	argv []string
	log  string

	mu   sync.Mutex // guards all below
	pid  int
	done chan struct{} // closed once the process has been waited for
}

// start runs the daemon and waits until ready answers. It may be called again
// after the process has ended.
func (d *daemon) start(ready func(context.Context) error) error {
	started := make(chan error, 1)
	done := make(chan struct{})
	go d.own(started, done)
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", d.name, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	return d.await(ctx, done, ready)
}

// own starts the process and waits for it, on a thread that lives as long:
// Pdeathsig is sent when the thread that forked ends, not the whole program.
func (d *daemon) own(started chan<- error, done chan struct{}) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := os.OpenFile(d.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		started <- err
		return
	}
	defer out.Close()
	cmd := exec.Command(d.argv[0], d.argv[1:]...)
	cmd.Env = toolEnv()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	d.mu.Lock()
	d.pid, d.done = cmd.Process.Pid, done
	d.mu.Unlock()
	started <- nil
	_ = cmd.Wait() // how it ended is in its log
	close(done)
}

func (d *daemon) await(ctx context.Context, done <-chan struct{}, ready func(context.Context) error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-done:
			return fmt.Errorf("%s ended at once; its log ends:\n%s", d.name, d.tail())
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w; its log ends:\n%s", d.name, err, d.tail())
		case <-tick.C:
		}
	}
}

// current gives the PID and the channel of the last start.
func (d *daemon) current() (int, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pid, d.done
}

// signal sends s, unless the process has been waited for. With SIGSTOP it returns
// when the process has stopped: until then some thread may still answer.
func (d *daemon) signal(s syscall.Signal) error {
	pid, done := d.current()
	select {
	case <-done:
		return os.ErrProcessDone
	default:
	}
	if err := syscall.Kill(pid, s); err != nil || s != syscall.SIGSTOP {
		return err
	}
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// stop asks the process to end, and makes it after a while.
func (d *daemon) stop() {
	_, done := d.current()
	if done == nil {
		return
	}
	_ = d.signal(syscall.SIGTERM)
	_ = d.signal(syscall.SIGCONT)
	select {
	case <-done:
		return
	case <-time.After(20 * time.Second):
	}
	_ = d.signal(syscall.SIGKILL)
	<-done
}

// tail gives the end of the log.
func (d *daemon) tail() string {
	b, err := os.ReadFile(d.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-3000):])
}

// inRoot gives the arguments that run argv in a chroot. dir is there by the same
// name, so sockets and bundles are where the host has them. The process that is
// started becomes, by exec alone, the one that was asked for.
func inRoot(tb testing.TB, root, dir string, argv []string) []string {
	tb.Helper()
	const script = `set -e
root=$0 dir=$1; shift
mount --bind "$root" "$root"
for d in proc sys dev; do mount --rbind "/$d" "$root/$d"; done
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
mkdir -p "$root$dir"
mount --bind "$dir" "$root$dir"
exec chroot "$root" "$@"`
	return append([]string{tool(tb, "unshare"), "--mount", "--propagation", "private", tool(tb, "bash"), "-c", script, root, dir}, argv...)
}

// toolEnv is the environment of every engine and client: the caller's, with the
// system's tools found and no engine of the host's chosen.
func toolEnv() []string {
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin:" + os.Getenv("PATH")}
	for _, kv := range os.Environ() {
		k, _, _ := strings.Cut(kv, "=")
		if k != "PATH" && !strings.HasPrefix(k, "DOCKER_") && !strings.HasPrefix(k, "CONTAINERD_") && !strings.HasPrefix(k, "CONTAINERS_") {
			env = append(env, kv)
		}
	}
	return env
}

// packages are Debian's packages of the programs that differ from them in name.
var packages = map[string]string{"conmon": "podman", "env": "coreutils", "chroot": "coreutils", "unshare": "util-linux", "setpriv": "util-linux", "nsenter": "util-linux", "dockerd": "docker.io", "docker": "docker.io or docker-cli", "ctr": "containerd"}

// tool finds a program of the distribution. Without one the test fails and says
// what to install: one that is left out would look as if all were well.
func tool(tb testing.TB, name string) string {
	tb.Helper()
	for _, dir := range append([]string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}, filepath.SplitList(os.Getenv("PATH"))...) {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p
		}
	}
	tb.Fatalf("needs %s, which is not installed: make test installs it, or install the package %s", name, cmp.Or(packages[name], name))
	return ""
}

// needRoot fails a test that cannot run as a user.
func needRoot(tb testing.TB) {
	tb.Helper()
	if os.Geteuid() != 0 {
		tb.Fatal("needs root to run an engine: run the tests as root")
	}
}

// privateDir makes a directory with a short name, for a unix socket's path has
// at most 107 bytes and t.TempDir is long.
func privateDir(tb testing.TB, prefix string) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", prefix)
	if err != nil {
		tb.Fatal(err)
	}
	return dir
}

// run executes a client and gives what it printed to stdout.
func run(ctx context.Context, bin string, args ...string) (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, bin, args...)
	cmd.Env = toolEnv()
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A container's inherited pipe must not keep the caller waiting for ever.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(bin), strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimRight(stdout.String(), "\n"), nil
}

// socketAnswers is the readiness of a daemon that has nothing better.
func socketAnswers(path string) error {
	c, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	return c.Close()
}

// sweep ends what an engine left running and unmounts what it left mounted
// below dir, then removes dir. It goes by the directory, which only this
// engine's processes name in their arguments.
func sweep(tb testing.TB, dir string, runcRoots ...string) {
	for _, root := range runcRoots {
		deleteRuncContainers(root)
	}
	for _, pid := range processesNaming(dir) {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	// Polled, for there is nothing to wait on for a process that is no child.
	_ = poll(ctx, func() error {
		if left := processesNaming(dir); len(left) > 0 {
			return fmt.Errorf("%v are still there", left)
		}
		return nil
	})
	for _, m := range mountsBelow(dir) {
		_ = unix.Unmount(m, unix.MNT_DETACH)
	}
	if err := os.RemoveAll(dir); err != nil {
		tb.Logf("remove %s: %v", dir, err)
	}
}

// deleteRuncContainers ends every container that runc's state below root knows.
func deleteRuncContainers(root string) {
	states, _ := filepath.Glob(filepath.Join(root, "*", "*", "state.json"))
	for _, s := range states {
		c := filepath.Dir(s)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		_, _ = run(ctx, "/usr/sbin/runc", "--root", filepath.Dir(c), "delete", "--force", filepath.Base(c))
		cancel()
	}
}

// processesNaming gives the engine processes with dir in their arguments. Not
// every process that names it: a client of the test's may be among those.
func processesNaming(dir string) []int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var pids []int
	for _, f := range files {
		args, err := os.ReadFile(f)
		if err != nil || !bytes.Contains(args, []byte(dir+"/")) {
			continue
		}
		argv0, _, _ := bytes.Cut(args, []byte{0})
		base := filepath.Base(string(argv0))
		if strings.HasPrefix(base, "containerd") || base == "dockerd" || base == "docker-proxy" || base == "conmon" {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// mountsBelow gives the mount points below dir, innermost first.
func mountsBelow(dir string) []string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	defer f.Close()
	var found []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			found = append(found, fields[4])
		}
	}
	slices.Reverse(found)
	return found
}

// poll asks until fn gives nil; it is for states that nobody announces.
func poll(ctx context.Context, fn func() error) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fn()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-tick.C:
		}
	}
}
