// SPDX-License-Identifier: Apache-2.0

package server_test

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/pidigree/pidigree/pkg/server"
)

func TestTheSocketAndItsDirectoryAreForRootAndOneGroupUnlessOthersMayAsk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to a group that it is not in")
	}
	for _, others := range []bool{false, true} {
		path := filepath.Join(shortDir(t), "run", "pidigree", "p.sock")
		l, err := server.Listen(path, "4242", others)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		socket, dir := os.FileMode(0o660), os.FileMode(0o750)
		if others {
			socket, dir = 0o666, 0o755
		}
		for name, want := range map[string]struct {
			mode os.FileMode
			gid  uint32
		}{
			path:               {socket | os.ModeSocket, 4242},
			filepath.Dir(path): {dir | os.ModeDir, 4242},
			path + ".lock":     {0o600, 0},
		} {
			info, err := os.Stat(name)
			if err != nil {
				t.Fatal(err)
			}
			st := info.Sys().(*syscall.Stat_t)
			if info.Mode() != want.mode || st.Uid != 0 || st.Gid != want.gid {
				t.Errorf("%s is %v %d:%d, want %v 0:%d", name, info.Mode(), st.Uid, st.Gid, want.mode, want.gid)
			}
		}
	}
}

func TestADirectoryThatIsThereKeepsItsModeAndOwner(t *testing.T) {
	dir := shortDir(t)
	l, err := server.Listen(filepath.Join(dir, "p.sock"), gid(), false)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestASocketThatWasLeftBehindIsReplaced(t *testing.T) {
	path := filepath.Join(shortDir(t), "p.sock")
	leaveBehind(t, path)
	l, err := server.Listen(path, gid(), false)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if err := l.Close(); err != nil {
		t.Errorf("closed twice: %v", err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

// leaveBehind makes a socket that nobody listens on, as kill -9 does.
func leaveBehind(t *testing.T, path string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func gid() string { return strconv.Itoa(os.Getegid()) }

func TestWhatCannotBeListenedOnIsRefusedInOneLineThatSaysWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(t *testing.T, path string)
		want string
	}{
		{"a regular file", func(t *testing.T, path string) { write(t, path) }, "no socket: remove it"},
		{"a directory", func(t *testing.T, path string) { must(t, os.Mkdir(path, 0o755)) }, "no socket: remove it"},
		{"a symbolic link to a socket", func(t *testing.T, path string) {
			leaveBehind(t, path+"2")
			must(t, os.Symlink(path+"2", path))
		}, "no socket: remove it"},
		{"somebody else's socket", func(t *testing.T, path string) {
			leaveBehind(t, path)
			must(t, os.Chown(path, 12345, 12345))
		}, "belongs to uid 12345: remove it"},
		{"a socket that somebody answers on", func(t *testing.T, path string) {
			l, err := net.Listen("unix", path)
			must(t, err)
			t.Cleanup(func() { _ = l.Close() })
		}, "another agent answers there: stop it"},
		{"an agent that has not made its socket yet", func(t *testing.T, path string) {
			f, err := os.Create(path + ".lock")
			must(t, err)
			t.Cleanup(func() { _ = f.Close() })
			must(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
		}, "another agent answers there: stop it"},
		{"a directory that anybody may write to", func(t *testing.T, path string) {
			must(t, os.Chmod(filepath.Dir(path), 0o777))
		}, "anybody may write"},
		{"somebody else's directory", func(t *testing.T, path string) {
			must(t, os.Chown(filepath.Dir(path), 12345, 12345))
		}, "belongs to uid 12345: chown it"},
		{"a directory that is a file", func(t *testing.T, path string) {
			must(t, os.Remove(filepath.Dir(path)))
			write(t, filepath.Dir(path))
		}, "no directory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if os.Geteuid() != 0 && strings.Contains(c.name, "somebody else") {
				t.Skip("only root can give files away")
			}
			path := filepath.Join(shortDir(t), "p.sock")
			c.make(t, path)
			l, err := server.Listen(path, gid(), false)
			if err == nil {
				_ = l.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "listen on "+path) {
				t.Errorf("got %v, want %q in one line", err, c.want)
			}
		})
	}
}

func TestAPathOrGroupThatCannotBeIsRefused(t *testing.T) {
	for path, group := range map[string]string{
		"/tmp/" + strings.Repeat("x", 200):   gid(),
		filepath.Join(shortDir(t), "p.sock"): "no such group",
	} {
		if l, err := server.Listen(path, group, false); err == nil {
			_ = l.Close()
			t.Errorf("listens on %s for %s", path, group)
		} else if s := err.Error(); !strings.Contains(s, "choose a shorter one") && !strings.Contains(s, "groupadd") {
			t.Error(err)
		}
	}
}

func TestOfTwoAgentsThatStartAtOnceOneGetsTheSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "p.sock")
	leaveBehind(t, path)
	type outcome struct {
		l   net.Listener
		err error
	}
	const n = 8
	got := make(chan outcome, n)
	for range n {
		go func() {
			l, err := server.Listen(path, gid(), false)
			got <- outcome{l, err}
		}()
	}
	won := 0
	for range n {
		o := <-got
		switch {
		case o.err == nil:
			won++
			defer o.l.Close()
		case !errors.Is(o.err, server.ErrInUse):
			t.Error(o.err)
		}
	}
	if won != 1 {
		t.Errorf("%d agents have the socket", won)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
}

func write(t *testing.T, path string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte("mine"), 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
