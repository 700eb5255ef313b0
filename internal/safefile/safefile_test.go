// SPDX-License-Identifier: Apache-2.0

package safefile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

// folder is a directory that is root's alone, with its descriptor.
func folder(tb testing.TB) (path string, fd int) {
	tb.Helper()
	path = filepath.Join(tb.TempDir(), "d")
	check(tb, os.Mkdir(path, 0o700))
	fd, err := OpenTop("/", path, Trust{})
	check(tb, err)
	tb.Cleanup(func() { _ = unix.Close(fd) })
	return path, fd
}

// all reads a file whole.
func all(dir int, name string, t Trust) (data []byte, s Stamp, err error) {
	s, err = Read(dir, name, t, func(r io.Reader) (err error) {
		data, err = io.ReadAll(r)
		return err
	})
	return data, s, err
}

func TestAFileOfRootsIsRead(t *testing.T) {
	path, dir := folder(t)
	check(t, os.Mkdir(path+"/sub", 0o700))
	check(t, os.WriteFile(path+"/sub/f", []byte("hello"), 0o600))
	data, s, err := all(dir, "sub/f", Trust{})
	if err != nil || string(data) != "hello" || s.Size != 5 {
		t.Errorf("%q, %+v, %v", data, s, err)
	}
	if got, err := Stat(dir, "sub/f", Trust{}); err != nil || got != s {
		t.Errorf("Stat: %+v, %v; want %+v", got, err, s)
	}
	if _, _, err := all(dir, "none", Trust{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
}

// hostile puts something in the place of a file.
var hostile = map[string]func(tb testing.TB, path string){
	"a FIFO":   func(tb testing.TB, path string) { check(tb, unix.Mkfifo(path, 0o600)) },
	"a socket": func(tb testing.TB, path string) { check(tb, unix.Mknod(path, unix.S_IFSOCK|0o600, 0)) },
	"a device": func(tb testing.TB, path string) { // /dev/zero
		check(tb, unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))))
	},
	"a directory":    func(tb testing.TB, path string) { check(tb, os.Mkdir(path, 0o700)) },
	"a link out":     func(tb testing.TB, path string) { check(tb, os.Symlink("/etc/hostname", path)) },
	"a link beneath": func(tb testing.TB, path string) { check(tb, os.Symlink("good", path)) },
	"a loop":         func(tb testing.TB, path string) { check(tb, os.Symlink(path, path)) },
	"a magic link":   func(tb testing.TB, path string) { check(tb, os.Symlink("/proc/self/fd/0", path)) },
	"1 TB sparse":    func(tb testing.TB, path string) { write(tb, path); check(tb, os.Truncate(path, 1<<40)) },
	"nobody's":       func(tb testing.TB, path string) { write(tb, path); check(tb, os.Chown(path, 65534, 0)) },
	"everyone's":     func(tb testing.TB, path string) { write(tb, path); check(tb, os.Chmod(path, 0o602)) },
	"a group's":      func(tb testing.TB, path string) { write(tb, path); group(tb, path) },
}

func write(tb testing.TB, path string) { check(tb, os.WriteFile(path, []byte("content"), 0o600)) }

func group(tb testing.TB, path string) {
	check(tb, os.Chown(path, 0, 1000))
	check(tb, os.Chmod(path, 0o620))
}

func TestWhatIsNoFileOfRootsIsRefusedAtOnce(t *testing.T) {
	for name, put := range hostile {
		t.Run(name, func(t *testing.T) {
			path, dir := folder(t)
			write(t, path+"/good")
			put(t, path+"/f")
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			began := time.Now()
			data, _, err := all(dir, "f", Trust{})
			took := time.Since(began)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, ErrUntrusted) || len(data) != 0 {
				t.Errorf("%q, %v", data, err)
			}
			if n := after.TotalAlloc - before.TotalAlloc; took > time.Second || n > 1<<20 {
				t.Errorf("took %v and %d KiB", took, n>>10)
			}
			if _, err := Stat(dir, "f", Trust{}); !errors.Is(err, ErrUntrusted) {
				t.Errorf("Stat: %v", err)
			}
		})
	}
}

func TestNoNameLeadsOut(t *testing.T) {
	path, dir := folder(t)
	write(t, filepath.Dir(path)+"/outside")
	check(t, os.Symlink(filepath.Dir(path), path+"/up"))
	for _, name := range []string{"../outside", "/etc/hostname", "up/outside", "x/../../outside"} {
		if data, _, err := all(dir, name, Trust{}); err == nil {
			t.Errorf("%s: %q", name, data)
		}
	}
	if fd, err := OpenDir(dir, "up", Trust{}); !errors.Is(err, ErrUntrusted) {
		t.Errorf("a directory by a link: %d, %v", fd, err)
	}
}

func TestADirectoryThatOthersMayWriteIsNotBelieved(t *testing.T) {
	for name, spoil := range map[string]func(path string) error{
		"everyone's": func(path string) error { return os.Chmod(path, 0o777) },
		"nobody's":   func(path string) error { return os.Chown(path, 65534, 65534) },
		"a group's":  func(path string) error { return errors.Join(os.Chown(path, 0, 1000), os.Chmod(path, 0o770)) },
	} {
		path, dir := folder(t)
		check(t, os.Mkdir(path+"/sub", 0o700))
		check(t, spoil(path+"/sub"))
		if _, err := OpenDir(dir, "sub", Trust{}); !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s, beneath: %v", name, err)
		}
		if _, err := OpenTop("/", path+"/sub", Trust{}); !errors.Is(err, ErrUntrusted) {
			t.Errorf("%s, by its path: %v", name, err)
		}
	}
}

func TestTheOwnerOfARootlessRuntimeMayBeBelieved(t *testing.T) {
	path, dir := folder(t)
	write(t, path+"/f")
	check(t, os.Chown(path+"/f", 1000, 1000))
	if _, _, err := all(dir, "f", Trust{}); !errors.Is(err, ErrUntrusted) {
		t.Errorf("by default: %v", err)
	}
	if data, _, err := all(dir, "f", Trust{Owner: 1000}); err != nil || string(data) != "content" {
		t.Errorf("as the owner's: %q, %v", data, err)
	}
}

// TestAFileIsReadAsOneVersion replaces and rewrites a file while it is read.
func TestAFileIsReadAsOneVersion(t *testing.T) {
	version := func(i int) []byte {
		return []byte(strings.Repeat(fmt.Sprintf("%08d", i), 1+i%5*5000))
	}
	for name, change := range map[string]func(path string, i int) error{
		"renamed into place": func(path string, i int) error {
			return errors.Join(os.WriteFile(path+".tmp", version(i), 0o600), os.Rename(path+".tmp", path))
		},
		"cut and grown": func(path string, i int) error { return os.Truncate(path, int64(i%2)*1_000_000) },
	} {
		t.Run(name, func(t *testing.T) {
			path, dir := folder(t)
			path += "/f"
			check(t, os.WriteFile(path, version(0), 0o600))
			stop, done := make(chan struct{}), make(chan struct{})
			var turns atomic.Int64
			defer func() { close(stop); <-done }()
			go func() {
				defer close(done)
				for i := 1; ; i++ {
					select {
					case <-stop:
						return
					default:
						if err := change(path, i); err != nil {
							t.Error(err)
							return
						}
						turns.Add(1)
					}
				}
			}()
			for good := 0; good < 200 || turns.Load() < 1000 && !t.Failed(); {
				data, s, err := all(dir, "f", Trust{})
				switch {
				case errors.Is(err, ErrChanging):
				case err != nil:
					t.Fatal(err)
				case int64(len(data)) != s.Size:
					t.Fatalf("%d bytes of a file of %d", len(data), s.Size)
				default:
					good++
				}
				if len(data) > 0 && err == nil && strings.Count(string(data), string(data[:8]))*8 != len(data) {
					t.Fatal("two versions in one")
				}
			}
		})
	}
}

func TestTheHeadOfAFileEndsAtTheLimit(t *testing.T) {
	data, whole, err := Head("/dev/zero", 1000)
	if err != nil || whole || len(data) != 1000 {
		t.Errorf("%d bytes, whole %v, %v", len(data), whole, err)
	}
	data, whole, err = Head("/proc/self/comm", 1000)
	if err != nil || !whole || len(data) == 0 {
		t.Errorf("%q, whole %v, %v", data, whole, err)
	}
}
