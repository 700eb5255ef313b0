// SPDX-License-Identifier: Apache-2.0

package boltread_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/pidigree/pidigree/internal/boltread"
)

// written makes a database by bbolt itself: an inline bucket, one of several
// levels, and values longer than a page.
func written(tb testing.TB, keys int) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		tb.Fatal(err)
	}
	for from := 0; from < keys; from += 50 { // several versions, and pages given back
		err = db.Update(func(tx *bbolt.Tx) error { return fill(tx, from, min(from+50, keys)) })
		if err != nil {
			tb.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		tb.Fatal(err)
	}
	return path
}

func fill(tx *bbolt.Tx, from, to int) error {
	all, err := tx.CreateBucketIfNotExists([]byte("all"))
	if err != nil {
		return err
	}
	for i := from; i < to; i++ {
		one, err := all.CreateBucket(name(i))
		if err != nil {
			return err
		}
		if err := errors.Join(one.Put([]byte("config"), config(i)), one.Put([]byte("state"), []byte("{}"))); err != nil {
			return err
		}
	}
	return nil
}

func name(i int) []byte { return fmt.Appendf(nil, "%064d", i*7) }

func config(i int) []byte { return bytes.Repeat([]byte{byte('a' + i%26)}, i*131%20000) }

func open(tb testing.TB, path string) *boltread.DB {
	tb.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	db, err := boltread.Open(bytes.NewReader(data), int64(len(data)), boltread.Limits{})
	if err != nil {
		tb.Fatal(err)
	}
	return db
}

func TestWhatBboltWroteIsFoundAndListed(t *testing.T) {
	for _, keys := range []int{1, 3, 400} {
		db := open(t, written(t, keys))
		for i := range keys {
			b, err := db.Bucket("all", string(name(i)))
			if err != nil {
				t.Fatalf("%d of %d: %v", i, keys, err)
			}
			v, err := b.Find([]byte("config"))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := v.Bytes(1 << 20); err != nil || !bytes.Equal(got, config(i)) {
				t.Fatalf("%d of %d: %d bytes, %v; want %d", i, keys, len(got), err, len(config(i)))
			}
		}
		all, err := db.Bucket("all")
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		err = all.Each(func(k []byte, v boltread.Value) error {
			if !v.IsBucket() {
				t.Errorf("%s is no bucket", k)
			}
			names = append(names, string(k))
			return nil
		})
		if err != nil || len(names) != keys || !slices.IsSorted(names) {
			t.Errorf("%d names of %d, %v", len(names), keys, err)
		}
		if err := db.Unchanged(); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	db := open(t, written(t, 100))
	for _, path := range [][]string{{"none"}, {""}, {"all", "none"}, {"all", strings.Repeat("9", 64)}, {"all", string(name(1)), "config"}, {"all", string(name(1)), "zzz"}} {
		if _, err := db.Bucket(path...); !errors.Is(err, boltread.ErrNotFound) {
			t.Errorf("%q: %v, want ErrNotFound", path, err)
		}
	}
}

// What is read while bbolt writes is either one version, or said not to be.
func TestAReadBesideAWriterIsOfOneVersionOrVoid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	put := func(n int) error {
		return db.Update(func(tx *bbolt.Tx) error {
			b, err := tx.CreateBucketIfNotExists([]byte("b"))
			for i := range 200 {
				err = errors.Join(err, b.Put(name(i), bytes.Repeat([]byte{byte('a' + n%26)}, 300+n%200)))
			}
			return err
		})
	}
	if err := put(0); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	wg.Go(func() {
		for n := 1; ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := put(n); err != nil {
				t.Error(err)
				return
			}
		}
	})
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	good, void := 0, 0
	for good < 50 && good+void < 20000 {
		seen, err := mixture(f)
		switch {
		case err != nil:
			void++
		case len(seen) != 1:
			t.Fatalf("values of %d versions in one", len(seen))
		default:
			good++
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d reads good, %d void", good, void)
	if good == 0 {
		t.Error("no read was good")
	}
}

func mixture(f *os.File) (map[byte]bool, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	db, err := boltread.Open(f, st.Size(), boltread.Limits{})
	if err != nil {
		return nil, err
	}
	b, err := db.Bucket("b")
	if err != nil {
		return nil, err
	}
	seen := map[byte]bool{}
	err = b.Each(func(_ []byte, v boltread.Value) error {
		data, err := v.Bytes(1 << 20)
		for _, c := range data {
			seen[c] = true
		}
		return err
	})
	return seen, errors.Join(err, db.Unchanged())
}

func TestLimitsEndTheWork(t *testing.T) {
	data, err := os.ReadFile(written(t, 400))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []boltread.Limits{{Pages: 2}, {Entries: 5}} {
		db, err := boltread.Open(bytes.NewReader(data), int64(len(data)), l)
		if err != nil {
			t.Fatal(err)
		}
		if err := walk(db.Root(), 0); !errors.Is(err, boltread.ErrTooLarge) {
			t.Errorf("%+v: %v, want ErrTooLarge", l, err)
		}
	}
}

// walk reads everything, as far as it goes.
func walk(b boltread.Bucket, depth int) error {
	return b.Each(func(_ []byte, v boltread.Value) error {
		if v.IsBucket() && depth < 8 {
			inner, err := v.Bucket()
			if err != nil {
				return err
			}
			return walk(inner, depth+1)
		}
		_, err := v.Bytes(1 << 16)
		if errors.Is(err, boltread.ErrTooLarge) {
			return nil
		}
		return err
	})
}

func TestAFileCutShortIsCorrupt(t *testing.T) {
	data, err := os.ReadFile(written(t, 30))
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(data); n += 509 {
		db, err := boltread.Open(bytes.NewReader(data[:n]), int64(n), boltread.Limits{})
		if err == nil {
			err = walk(db.Root(), 0)
		}
		if err != nil && !errors.Is(err, boltread.ErrCorrupt) {
			t.Errorf("cut to %d: %v", n, err)
		}
		if err == nil && n < 3*4096 {
			t.Errorf("cut to %d: no error", n)
		}
	}
}

// FuzzRead overwrites a real database in places, and keeps its sums right where
// they are read first, so that what lies behind is reached.
func FuzzRead(f *testing.F) {
	data, err := os.ReadFile(written(f, 20))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(4096*2+8), []byte{2})
	f.Add(uint32(4096*3+16), []byte{0xff, 0xff, 0xff, 0xff})
	f.Add(uint32(4096*4), bytes.Repeat([]byte{0xff}, 64))
	f.Add(uint32(0), []byte{})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		mutant := slices.Clone(data)
		copy(mutant[int(at)%len(mutant):], patch)
		db, err := boltread.Open(bytes.NewReader(mutant), int64(len(mutant)), boltread.Limits{Pages: 1000, Entries: 10000})
		if err != nil {
			return
		}
		_ = walk(db.Root(), 0) // any error will do
		b, err := db.Bucket("all")
		if err != nil {
			return
		}
		for _, i := range slices.Sorted(maps.Keys(map[int]bool{0: true, 7: true, 19: true})) {
			_, _ = b.Find(name(i))
		}
	})
}
