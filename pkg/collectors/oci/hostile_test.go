// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/collectors/collectortest"
	"github.com/pidigree/pidigree/pkg/workload"
)

// hostileFiles put something in the place of a good file. write gives the good content.
var hostileFiles = map[string]func(tb testing.TB, path string, good []byte){
	"a FIFO": func(tb testing.TB, path string, _ []byte) { check(tb, unix.Mkfifo(path, 0o600)) },
	"a device": func(tb testing.TB, path string, _ []byte) {
		check(tb, unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5)))) // /dev/zero
	},
	"a socket":    func(tb testing.TB, path string, _ []byte) { check(tb, unix.Mknod(path, unix.S_IFSOCK|0o600, 0)) },
	"a directory": func(tb testing.TB, path string, _ []byte) { check(tb, os.Mkdir(path, 0o700)) },
	"a link to a good file": func(tb testing.TB, path string, good []byte) {
		out := filepath.Join(tb.TempDir(), "good")
		write(tb, out, good)
		check(tb, os.Symlink(out, path))
	},
	"a link to itself": func(tb testing.TB, path string, _ []byte) { check(tb, os.Symlink(path, path)) },
	"a magic link":     func(tb testing.TB, path string, _ []byte) { check(tb, os.Symlink("/proc/self/fd/0", path)) },
	"1 TB sparse": func(tb testing.TB, path string, good []byte) {
		write(tb, path, good)
		check(tb, os.Truncate(path, 1<<40))
	},
	"one byte over the limit": func(tb testing.TB, path string, good []byte) {
		write(tb, path, good)
		check(tb, os.Truncate(path, collectors.MaxStateFile+1))
	},
	"nested deeply": func(tb testing.TB, path string, _ []byte) {
		write(tb, path, []byte(strings.Repeat(`{"a":[`, 1_000_000)))
	},
	"empty":        func(tb testing.TB, path string, _ []byte) { write(tb, path, nil) },
	"half a file":  func(tb testing.TB, path string, good []byte) { write(tb, path, good[:len(good)/2]) },
	"another type": func(tb testing.TB, path string, _ []byte) { write(tb, path, []byte(`["id"]`)) },
	"not root's": func(tb testing.TB, path string, good []byte) {
		write(tb, path, good)
		check(tb, os.Chown(path, 1000, 1000))
	},
	"everyone's to write": func(tb testing.TB, path string, good []byte) {
		write(tb, path, good)
		check(tb, os.Chmod(path, 0o606))
	},
	"a group's to write": func(tb testing.TB, path string, good []byte) {
		write(tb, path, good)
		check(tb, os.Chown(path, 0, 1000))
		check(tb, os.Chmod(path, 0o660))
	},
}

func check(tb testing.TB, err error) {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
}

func TestAHostileStateFileIsRefusedAndHidesNoOther(t *testing.T) {
	for name, put := range hostileFiles {
		for _, file := range []string{fileState, fileStatus} {
			t.Run(file+" is "+name, func(t *testing.T) {
				root := mkdir(t, testRun(t)+"/runc")
				c := newCollector(t, Options{RunDir: filepath.Dir(root)})
				makeRunc(t, root, "good", "/good")
				dir := mkdir(t, root+"/bad")
				put(t, dir+"/"+file, runcFile(t, "bad", selfKey(t), "/b", nil))
				hints := startWatch(t, c)
				collectortest.AwaitKind(t, hints, collectors.HintStarted, "good")
				began := time.Now()
				got, err := c.Lookup(t.Context(), workload.ContainerID{ID: "bad"})
				if got != nil || !errors.Is(err, collectors.ErrNotFound) && !errors.Is(err, collectors.ErrUnavailable) {
					t.Errorf("Lookup: %+v, %v", got, err)
				}
				if d := time.Since(began); d > time.Second {
					t.Errorf("Lookup took %v", d)
				}
				if ids := listed(t, c); len(ids) != 1 || ids[0] != "good" {
					t.Errorf("List has %q", ids)
				}
			})
		}
	}
}

// listed gives the ids of a list, whatever else it says.
func listed(tb testing.TB, c *Collector) (ids []string) {
	tb.Helper()
	for l, err := range c.List(tb.Context()) {
		if errors.Is(err, collectors.ErrUnavailable) {
			tb.Errorf("one bad file ends the list: %v", err)
		}
		if err == nil {
			ids = append(ids, l.ID.ID)
		}
	}
	return ids
}

func TestAHostileBundleCostsOnlyTheBundlesPart(t *testing.T) {
	for name, put := range hostileFiles {
		t.Run("config.json is "+name, func(t *testing.T) {
			root := mkdir(t, testRun(t)+"/runc")
			c := newCollector(t, Options{RunDir: filepath.Dir(root)})
			bundle := makeRunc(t, root, "web", "/web")
			good, err := os.ReadFile(bundle + "/config.json")
			check(t, err)
			check(t, os.Remove(bundle+"/config.json"))
			put(t, bundle+"/config.json", good)
			began := time.Now()
			got, err := c.Lookup(t.Context(), workload.ContainerID{ID: "web"})
			if err != nil {
				t.Fatal(err)
			}
			if got.Run == nil || !got.Run.Registers || got.Run.Init != selfKey(t) {
				t.Errorf("the state is not told: %+v", got.Run)
			}
			if got.Hostname != "" || got.Security != nil || len(got.Truncated) != 1 {
				t.Errorf("the bundle is told: %+v", got)
			}
			why := strings.TrimPrefix(strings.Join(got.Truncated, "|"), "bundle ")
			if !slices.Contains([]string{"(not trusted)", "(too large)", "(nested too deeply)", "(malformed JSON)", "(changes while it is read)"}, why) {
				t.Errorf("its refusal is given as %q", why)
			}
			if d := time.Since(began); d > time.Second {
				t.Errorf("Lookup took %v", d)
			}
		})
	}
}

func TestADirectoryThatOthersMayWriteIsNotBelieved(t *testing.T) {
	for name, spoil := range map[string]func(tb testing.TB, root string){
		"the root is everyone's":      func(tb testing.TB, root string) { check(tb, os.Chmod(root, 0o777)) },
		"the root is a user's":        func(tb testing.TB, root string) { check(tb, os.Chown(root, 1000, 1000)) },
		"the container is everyone's": func(tb testing.TB, root string) { check(tb, os.Chmod(root+"/web", 0o777)) },
		"the container is a user's":   func(tb testing.TB, root string) { check(tb, os.Chown(root+"/web", 1000, 0)) },
		"the container is a link": func(tb testing.TB, root string) {
			out := filepath.Join(tb.TempDir(), "elsewhere")
			check(tb, os.Rename(root+"/web", out))
			check(tb, os.Symlink(out, root+"/web"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			root := mkdir(t, testRun(t)+"/runc")
			c := newCollector(t, Options{RunDir: filepath.Dir(root)})
			makeRunc(t, root, "web", "/web")
			if _, err := c.Lookup(t.Context(), workload.ContainerID{ID: "web"}); err != nil {
				t.Fatalf("before: %v", err)
			}
			spoil(t, root)
			if got, err := c.Lookup(t.Context(), workload.ContainerID{ID: "web"}); !errors.Is(err, collectors.ErrNotFound) {
				t.Errorf("Lookup: %+v, %v; want ErrNotFound", got, err)
			}
			if ids := listed(t, c); len(ids) != 0 {
				t.Errorf("List has %q", ids)
			}
		})
	}
}

func TestAStateOfAnotherIdIsNotBelieved(t *testing.T) {
	root := mkdir(t, testRun(t)+"/runc")
	c := newCollector(t, Options{RunDir: filepath.Dir(root)})
	write(t, mkdir(t, root+"/mallory")+"/state.json", runcFile(t, "alice", selfKey(t), "/b", nil))
	if got, err := c.Lookup(t.Context(), workload.ContainerID{ID: "mallory"}); !errors.Is(err, collectors.ErrNotFound) {
		t.Errorf("Lookup: %+v, %v", got, err)
	}
}

func TestAReplacedFileIsReadWhole(t *testing.T) {
	root := mkdir(t, testRun(t)+"/runc")
	c := newCollector(t, Options{RunDir: filepath.Dir(root)})
	makeRunc(t, root, "web", "/web")
	path := root + "/web/state.json"
	write(t, path, runcFile(t, "web", workload.ProcessKey{PID: 7, Start: 7 * workload.TickNS}, "/b", nil))
	stop, done := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-done }()
	go func() {
		defer close(done)
		for i := uint64(1); ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			key := workload.ProcessKey{PID: workload.PID(i%100 + 1), Start: (i%100 + 1) * workload.TickNS}
			// Padding of another length each time: a mix of two versions would not parse, or not agree.
			data := append(runcFile(t, "web", key, "/b", nil), []byte(strings.Repeat(" ", int(i%7)*1000))...)
			if err := errors.Join(os.WriteFile(path+".tmp", data, 0o600), os.Rename(path+".tmp", path)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for range 300 {
		got, err := c.Lookup(t.Context(), workload.ContainerID{ID: "web"})
		if err != nil {
			t.Fatal(err)
		}
		if k := got.Run.Init; uint64(k.PID) != k.Start/workload.TickNS {
			t.Fatalf("two versions in one: %v", k)
		}
	}
}
