// SPDX-License-Identifier: Apache-2.0

package podman

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/pidigree/pidigree/pkg/collectors"
	"github.com/pidigree/pidigree/pkg/workload"
)

// recordings are the databases in testdata, and where podman has them.
var recordings = map[string]string{
	"podman-4.3.1-bolt_state.db.gz": "libpod/bolt_state.db",
	"podman-5.4.2-db.sql.gz":        "db.sql",
}

func recording(tb testing.TB, file string) []byte {
	tb.Helper()
	f, err := os.Open("testdata/" + file)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		tb.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// storeOf makes a store with a database, and a collector on it.
func storeOf(tb testing.TB, path string, data []byte) (*Collector, string) {
	tb.Helper()
	root := tb.TempDir()
	put(tb, filepath.Join(root, path), data)
	c, err := New(Options{Roots: []string{root}, Interval: 10 * time.Millisecond})
	if err != nil {
		tb.Fatal(err)
	}
	return c, filepath.Join(root, path)
}

func put(tb testing.TB, path string, data []byte) {
	tb.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// everything lists what a collector has, by name, and the texts of its errors.
func everything(ctx context.Context, c *Collector) (names []string, errs error) {
	for one, err := range c.List(ctx) {
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		names = append(names, one.Name)
	}
	for p, err := range c.ListPods(ctx) {
		if err != nil {
			errs = errors.Join(errs, err)
			continue
		}
		names = append(names, "pod "+p.Name)
	}
	for i, n := range names {
		if strings.HasSuffix(n, "-infra") {
			names[i] = "infra"
		}
	}
	slices.Sort(names)
	return names, errs
}

func TestRecordedDatabasesAreReadWhole(t *testing.T) {
	for file, path := range recordings {
		t.Run(file, func(t *testing.T) {
			c, _ := storeOf(t, path, recording(t, file))
			names, err := everything(t.Context(), c)
			want := []string{"in5", "infra", "pod pp5", "web5"}
			if path != "db.sql" {
				want = []string{"infra", "inpod", "pod pp", "web"}
			}
			if d := cmp.Diff(want, names); d != "" || err != nil {
				t.Errorf("%v\n%s", err, d)
			}
			for one := range c.List(t.Context()) {
				if one.Run != nil {
					t.Errorf("%s has an init of long ago: %+v", one.Name, one.Run)
				}
				if strings.HasPrefix(one.Name, "in") && (one.Pod == nil || one.Pod.Name == "") {
					t.Errorf("%s has no pod", one.Name)
				}
			}
		})
	}
}

// What is not a whole database of its owner's is an error in one line, and no more.
func TestADatabaseThatIsNoneIsUnavailable(t *testing.T) {
	for file, path := range recordings {
		whole := recording(t, file)
		for what, make := range map[string]func(string) error{
			"empty":          func(p string) error { return os.WriteFile(p, nil, 0o600) },
			"text":           func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte("x"), 9000), 0o600) },
			"half":           func(p string) error { return os.WriteFile(p, whole[:6000], 0o600) },
			"zeros":          func(p string) error { return os.Truncate(p, 0) },
			"a terabyte":     func(p string) error { return os.Truncate(p, 1<<40) },
			"a FIFO":         func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) },
			"a directory":    func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
			"a link":         func(p string) error { return errors.Join(os.Rename(p, p+"2"), os.Symlink(p+"2", p)) },
			"another user's": func(p string) error { return os.Chown(p, 4242, 4242) },
			"everybody's":    func(p string) error { return os.Chmod(p, 0o666) },
		} {
			t.Run(path+" "+what, func(t *testing.T) {
				c, p := storeOf(t, path, whole)
				if err := make(p); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				names, err := everything(t.Context(), c)
				if len(names) > 0 || !errors.Is(err, collectors.ErrUnavailable) {
					t.Errorf("%v, %v; want ErrUnavailable", names, err)
				}
				if _, err := c.Lookup(t.Context(), workload.ContainerID{ID: strings.Repeat("a", 64)}); !errors.Is(err, collectors.ErrUnavailable) && !errors.Is(err, collectors.ErrNotFound) {
					t.Error(err)
				}
				if d := time.Since(began); d > 3*time.Second {
					t.Errorf("it took %v", d)
				}
				// The storage's list, which is written before the database, lacks it: that is no
				// denial while the database cannot be read.
				root := c.known()[0].root
				if err := errors.Join(os.MkdirAll(filepath.Join(root, "overlay-containers"), 0o700),
					os.WriteFile(filepath.Join(root, "overlay-containers/containers.json"), []byte("[]"), 0o600)); err != nil {
					t.Fatal(err)
				}
				if _, err := c.Locate(t.Context(), workload.Evidence{Claims: []workload.ContainerID{{ID: strings.Repeat("a", 64)}}}); !errors.Is(err, collectors.ErrUnavailable) {
					t.Errorf("located: %v, want ErrUnavailable", err)
				}
			})
		}
	}
}

// A store that is another user's is not read, whoever names it.
func TestAStoreOfAnotherUsersIsNotRead(t *testing.T) {
	c, path := storeOf(t, "db.sql", recording(t, "podman-5.4.2-db.sql.gz"))
	if err := os.Chown(filepath.Dir(path), 4242, 4242); err != nil {
		t.Fatal(err)
	}
	if names, err := everything(t.Context(), c); len(names) > 0 || !errors.Is(err, collectors.ErrUnavailable) {
		t.Errorf("%v, %v", names, err)
	}
}

// A journal that stays, of a podman that was killed, is waited for no longer than
// the caller does; then the storage's list is what there is.
func TestAJournalThatStaysIsUnavailable(t *testing.T) {
	c, path := storeOf(t, "db.sql", recording(t, "podman-5.4.2-db.sql.gz"))
	put(t, path+"-journal", []byte("x"))
	if _, err := everything(t.Context(), c); !errors.Is(err, collectors.ErrUnavailable) {
		t.Error(err)
	}
	id := strings.Repeat("a", 64)
	put(t, filepath.Join(filepath.Dir(path), "overlay-containers/containers.json"), []byte(`[{"id":"`+id+`","names":["n"],"metadata":"{\"name\":\"n\",\"image-name\":\"i:1\"}"}]`))
	one, err := c.Lookup(t.Context(), workload.ContainerID{ID: id})
	if err != nil || one.Name != "n" || one.Image.Tag != "1" || !slices.Contains(one.Truncated, "labels") {
		t.Errorf("%+v, %v", one, err)
	}
}

// FuzzDatabase overwrites a recorded database in places and reads all of it.
func FuzzDatabase(f *testing.F) {
	type recorded struct {
		path string
		data []byte
	}
	all := []recorded{{"libpod/bolt_state.db", recording(f, "podman-4.3.1-bolt_state.db.gz")}, {"db.sql", recording(f, "podman-5.4.2-db.sql.gz")}}
	for i, r := range all {
		f.Add(i == 0, uint32(bytes.Index(r.data, []byte(`"labels":{`)))+10, []byte(`"a":7`))
		f.Add(i == 0, uint32(bytes.Index(r.data, []byte(`"pid":`)))+6, []byte(`-1`))
		f.Add(i == 0, uint32(4096*3), []byte{0xff, 0xff, 0xff})
	}
	f.Fuzz(func(t *testing.T, bolt bool, at uint32, patch []byte) {
		r := all[1]
		if bolt {
			r = all[0]
		}
		mutant := slices.Clone(r.data)
		copy(mutant[int(at)%len(mutant):], patch)
		c, _ := storeOf(t, r.path, mutant)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, _ = everything(ctx, c)
		if ctx.Err() != nil {
			t.Error("it took 5 s")
		}
	})
}

func TestAConmonsArgumentsEndWhereAnotherProgramsBegin(t *testing.T) {
	id := strings.Repeat("a", 64)
	for args, want := range map[string][2]string{
		"conmon --api-version 1 -c " + id + " -u x -b /s/b -p y --exit-command podman -c no": {id, "/s/b"},
		"conmon --exit-command podman -c " + id:                                              {"", ""},
		"conmon -c":                                                                          {"", ""},
		"":                                                                                   {"", ""},
	} {
		gotID, gotBundle := monitorArgs([]byte(strings.ReplaceAll(args, " ", "\x00")))
		if got := [2]string{gotID, gotBundle}; got != want {
			t.Errorf("%q: %q, want %q", args, got, want)
		}
	}
}
