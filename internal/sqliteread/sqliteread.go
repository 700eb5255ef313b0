// SPDX-License-Identifier: Apache-2.0

// Package sqliteread reads tables of a SQLite database that another process may
// be writing, and that somebody hostile may have made.
//
// It exists because SQLite takes locks on the file, for which its writers wait,
// and is a large parser to hand a stranger's file to in a process with privileges.
// What is needed of it is small: the rows of a few tables, whole or by a text key.
// Pages are read by pread, every offset in them is checked, nothing is locked and
// no SQL is run.
//
// Guarantees: no panic, whatever the file holds; memory is one page a level; the
// work of one DB is bounded by Limits, loops included. Long values are not read,
// only pointed at.
//
// A database is one version where Unchanged says so after the last read. A writer
// with a rollback journal makes the journal before it writes to the file, then
// writes page 1 with its counter, then the others, and removes the journal at the
// end (SQLite's documentation, "Atomic Commit"). So where there was no journal at
// Open, and the counter is the same after the last read, no page was written
// between. Write-ahead logs are not read: such a database is refused.
//
// A DB is for one goroutine.
package sqliteread

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

var (
	// ErrCorrupt means that the file is no database, or a damaged one.
	ErrCorrupt = errors.New("corrupt database")
	// ErrUnsupported means that it is a database of a kind that is not read.
	ErrUnsupported = errors.New("database of an unknown kind")
	// ErrTooLarge means that reading takes more than the limits.
	ErrTooLarge = errors.New("database too large")
	// ErrNotFound means that there is no such table or row.
	ErrNotFound = errors.New("no such row")
	// ErrChanged means that the database is being written, or was since it was opened.
	ErrChanged = errors.New("database changed while it was read")
)

// Options say how a database is read. A zero field means its default.
type Options struct {
	// Journal says whether the database's journal is there. Default: it is not.
	Journal func() bool
	// Pages is how many pages are looked at. Default 65536.
	Pages int
	// Rows is how many rows are looked at. Default 1048576.
	Rows int
}

// DB is an open database.
type DB struct {
	r       io.ReaderAt
	pages   uint32 // in the file
	size    int    // of a page
	usable  int    // of its bytes
	counter [4]byte
	left    int // pages that may still be looked at
	rows    int // and rows
}

const (
	headerSize  = 100
	headerMagic = "SQLite format 3\x00"
	maxDepth    = 20
)

// Open reads the header of a database file of so many bytes.
func Open(r io.ReaderAt, size int64, o Options) (*DB, error) {
	if o.Journal != nil && o.Journal() {
		return nil, ErrChanged
	}
	var h [headerSize]byte
	if _, err := r.ReadAt(h[:], 0); err != nil {
		return nil, short(err)
	}
	d := &DB{r: r, left: o.Pages, rows: o.Rows}
	if d.left <= 0 {
		d.left = 1 << 16
	}
	if d.rows <= 0 {
		d.rows = 1 << 20
	}
	if d.size = int(binary.BigEndian.Uint16(h[16:])); d.size == 1 {
		d.size = 1 << 16
	}
	d.usable = d.size - int(h[20])
	copy(d.counter[:], h[24:])
	switch {
	case string(h[:16]) != headerMagic, d.size < 512, d.size&(d.size-1) != 0, d.usable < 480:
		return nil, fmt.Errorf("%w: no header of SQLite", ErrCorrupt)
	case h[18] != 1 || h[19] != 1:
		return nil, fmt.Errorf("%w: it has a write-ahead log", ErrUnsupported)
	case binary.BigEndian.Uint32(h[56:]) > 1: // 0: nothing was ever written
		return nil, fmt.Errorf("%w: its text is not UTF-8", ErrUnsupported)
	}
	d.pages = uint32(min(size/int64(d.size), 1<<32-2))
	return d, nil
}

// Unchanged fails with ErrChanged where what was read may be of two versions.
func (d *DB) Unchanged() error {
	var now [4]byte
	if _, err := d.r.ReadAt(now[:], 24); err != nil {
		return short(err)
	}
	if now != d.counter {
		return ErrChanged
	}
	return nil
}

// Version is the number of the last transaction that changed the file.
func (d *DB) Version() uint64 { return uint64(binary.BigEndian.Uint32(d.counter[:])) }

// short turns the end of the file into what it means.
func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends early", ErrCorrupt)
	}
	return err
}

// The kinds of b-tree pages.
const (
	interiorIndex = 2
	interiorTable = 5
	leafIndex     = 10
	leafTable     = 13
)

// node is one b-tree page.
type node struct {
	d     *DB
	kind  byte
	data  []byte // the page's usable part
	cells []byte // the array of offsets
	right uint32 // the last child
}

// page reads a page and its array of cells.
func (d *DB) page(id uint32) (*node, error) {
	data, err := d.raw(id)
	if err != nil {
		return nil, err
	}
	from := 0
	if id == 1 {
		from = headerSize
	}
	n := &node{d: d, data: data, kind: data[from]}
	head := 8
	switch n.kind {
	case interiorIndex, interiorTable:
		head = 12
		n.right = binary.BigEndian.Uint32(data[from+8:])
	case leafIndex, leafTable:
	default:
		return nil, fmt.Errorf("%w: page %d is of kind %d", ErrCorrupt, id, n.kind)
	}
	end := from + head + 2*int(binary.BigEndian.Uint16(data[from+3:]))
	if end > len(data) {
		return nil, fmt.Errorf("%w: page %d has too many cells", ErrCorrupt, id)
	}
	n.cells = data[from+head : end]
	return n, nil
}

// raw reads a page's usable part.
func (d *DB) raw(id uint32) ([]byte, error) {
	if d.left--; d.left < 0 {
		return nil, ErrTooLarge
	}
	if id == 0 || id > d.pages {
		return nil, fmt.Errorf("%w: page %d of %d", ErrCorrupt, id, d.pages)
	}
	data := make([]byte, d.usable)
	if _, err := d.r.ReadAt(data, int64(id-1)*int64(d.size)); err != nil {
		return nil, short(err)
	}
	return data, nil
}

func (n *node) count() int { return len(n.cells) / 2 }

// cell gives what follows cell i's offset, to the page's end.
func (n *node) cell(i int) ([]byte, error) {
	at := int(binary.BigEndian.Uint16(n.cells[2*i:]))
	if at >= len(n.data) {
		return nil, fmt.Errorf("%w: a cell past its page", ErrCorrupt)
	}
	return n.data[at:], nil
}

// leftChild gives the page left of cell i, and the rest of the cell.
func (n *node) leftChild(i int) (uint32, []byte, error) {
	c, err := n.cell(i)
	if err != nil {
		return 0, nil, err
	}
	if len(c) < 5 {
		return 0, nil, fmt.Errorf("%w: a cell past its page", ErrCorrupt)
	}
	return binary.BigEndian.Uint32(c), c[4:], nil
}

// varint reads a number of up to nine bytes, and gives its length, 0 where it does not end.
func varint(b []byte) (v uint64, n int) {
	for i := range min(len(b), 9) {
		if i == 8 {
			return v<<8 | uint64(b[i]), 9
		}
		v = v<<7 | uint64(b[i]&0x7f)
		if b[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}
