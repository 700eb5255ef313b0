// SPDX-License-Identifier: Apache-2.0

package sqliteread_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/pidigree/pidigree/internal/sqliteread"
)

// rows is what testdata/README.md says.
const rows = 150

var numbers = []int64{0, 1, -1, 127, -128, 32767, -32768, 8388607, 2147483647, -2147483648, 1 << 40, -(1 << 40), 1 << 62, -(1 << 62)}

func id(i int) string { return fmt.Sprintf("%064d", i*7919%100000) }

func text(i int) string { return strings.Repeat(string(rune('a'+i%26)), i*131%2000) }

func recorded(tb testing.TB) []byte {
	tb.Helper()
	f, err := os.Open("testdata/many.sql.gz")
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

func open(tb testing.TB, data []byte, o sqliteread.Options) *sqliteread.DB {
	tb.Helper()
	db, err := sqliteread.Open(bytes.NewReader(data), int64(len(data)), o)
	if err != nil {
		tb.Fatal(err)
	}
	return db
}

func table(tb testing.TB, db *sqliteread.DB, name string) *sqliteread.Table {
	tb.Helper()
	t, err := db.Table(name)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// check compares a row with what row i holds.
func check(r *sqliteread.Row, i int) error {
	body, err := io.ReadAll(r.Reader(3))
	opt := ""
	if i%3 == 0 {
		opt = "opt"
	}
	if err != nil || r.Text(0, 100) != id(i) || r.Int(1) != numbers[i%len(numbers)] || r.Text(2, 10) != opt ||
		string(body) != text(i) || r.Len(3) != int64(len(body)) || r.Err() != nil {
		return fmt.Errorf("row %d: id %q number %d opt %q and %d bytes, %w, %w", i, r.Text(0, 100), r.Int(1), r.Text(2, 10), len(body), err, r.Err())
	}
	return nil
}

func TestWhatSQLiteWroteIsFoundAndListed(t *testing.T) {
	db := open(t, recorded(t), sqliteread.Options{})
	many := table(t, db, "Many")
	if got := many.Column("JSON"); got != 3 || many.Column("none") != -1 {
		t.Errorf("JSON is column %d", got)
	}
	n := 0
	err := many.Each(func(r *sqliteread.Row) error {
		n++
		return check(r, n-1)
	})
	if err != nil || n != rows {
		t.Errorf("%d rows, %v", n, err)
	}
	for i := range rows {
		r, err := many.Find(id(i))
		if err == nil {
			err = check(r, i)
		}
		if err != nil {
			t.Errorf("find row %d: %v", i, err)
		}
	}
	if err := table(t, db, "Empty").Each(func(*sqliteread.Row) error { return errors.New("a row") }); err != nil {
		t.Error(err)
	}
	if err := db.Unchanged(); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	db := open(t, recorded(t), sqliteread.Options{})
	if _, err := db.Table("None"); !errors.Is(err, sqliteread.ErrNotFound) {
		t.Errorf("no table: %v", err)
	}
	for _, key := range []string{"", "0", strings.Repeat("9", 64), "\xff", id(3) + "0"} {
		if _, err := table(t, db, "Many").Find(key); !errors.Is(err, sqliteread.ErrNotFound) {
			t.Errorf("%q: %v", key, err)
		}
		if _, err := table(t, db, "Empty").Find(key); !errors.Is(err, sqliteread.ErrNotFound) {
			t.Errorf("%q of none: %v", key, err)
		}
	}
}

func TestAWriterIsNoticed(t *testing.T) {
	data := recorded(t)
	if _, err := sqliteread.Open(bytes.NewReader(data), int64(len(data)), sqliteread.Options{Journal: func() bool { return true }}); !errors.Is(err, sqliteread.ErrChanged) {
		t.Errorf("with a journal: %v", err)
	}
	db := open(t, data, sqliteread.Options{})
	binary.BigEndian.PutUint32(data[24:], uint32(db.Version())+1)
	if err := db.Unchanged(); !errors.Is(err, sqliteread.ErrChanged) {
		t.Errorf("another counter: %v", err)
	}
}

func TestAWriteAheadLogIsRefused(t *testing.T) {
	data := recorded(t)
	data[18], data[19] = 2, 2
	if _, err := sqliteread.Open(bytes.NewReader(data), int64(len(data)), sqliteread.Options{}); !errors.Is(err, sqliteread.ErrUnsupported) {
		t.Error(err)
	}
}

func TestLimitsEndTheWork(t *testing.T) {
	for _, o := range []sqliteread.Options{{Pages: 20}, {Rows: 20}} {
		db := open(t, recorded(t), o)
		err := walk(db)
		if !errors.Is(err, sqliteread.ErrTooLarge) {
			t.Errorf("%+v: %v, want ErrTooLarge", o, err)
		}
	}
}

// walk reads everything, as far as it goes.
func walk(db *sqliteread.DB) error {
	many, err := db.Table("Many")
	if err != nil {
		return err
	}
	return many.Each(func(r *sqliteread.Row) error {
		_, err := io.Copy(io.Discard, r.Reader(3))
		return errors.Join(err, r.Err())
	})
}

func TestAFileCutShortIsCorrupt(t *testing.T) {
	data := recorded(t)
	for n := 0; n < len(data)-2*512; n += 1021 {
		db, err := sqliteread.Open(bytes.NewReader(data[:n]), int64(n), sqliteread.Options{})
		if err == nil {
			err = walk(db)
		}
		if !errors.Is(err, sqliteread.ErrCorrupt) {
			t.Errorf("cut to %d of %d: %v", n, len(data), err)
		}
	}
}

// FuzzRead overwrites a real database in places.
func FuzzRead(f *testing.F) {
	data := recorded(f)
	f.Add(uint32(100), []byte{5})
	f.Add(uint32(512), bytes.Repeat([]byte{0xff}, 12))
	f.Add(uint32(1024), []byte{2, 0, 0, 0xff, 0xff})
	f.Add(uint32(16), []byte{0, 1, 1, 1, 0})
	f.Fuzz(func(t *testing.T, at uint32, patch []byte) {
		mutant := slices.Clone(data)
		copy(mutant[int(at)%len(mutant):], patch)
		db, err := sqliteread.Open(bytes.NewReader(mutant), int64(len(mutant)), sqliteread.Options{Pages: 2000, Rows: 2000})
		if err != nil {
			return
		}
		_ = walk(db) // any error will do
		many, err := db.Table("Many")
		if err != nil {
			return
		}
		for _, i := range []int{0, 77, 149} {
			if r, err := many.Find(id(i)); err == nil {
				_, _, _ = r.Text(0, 64), r.Int(1), r.Text(3, 1<<20)
			}
		}
	})
}
