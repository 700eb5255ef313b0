// SPDX-License-Identifier: Apache-2.0

package sqliteread

import (
	"encoding/binary"
	"fmt"
	"io"
)

// Row is one record. Its values are read when they are asked for; the first
// error stays (Err).
type Row struct {
	p     payload
	types []uint64 // the serial type of each column
	body  int64    // where the first value begins
	err   error
}

// maxColumns bounds a record's columns.
const maxColumns = 256

// Err is the first error of reading a value.
func (r *Row) Err() error { return r.err }

// Text gives a column's text, or as much of it as limit; "" for what is no text.
func (r *Row) Text(column, limit int) string {
	v, size := r.span(column)
	if r.err != nil || v < 0 || r.types[column] < 13 || r.types[column]%2 == 0 {
		return ""
	}
	b := make([]byte, min(size, int64(limit)))
	if _, err := io.ReadFull(r.p.from(v, size), b); err != nil {
		r.fail(err)
		return ""
	}
	return string(b)
}

// Reader reads a column's text or blob, which has Len bytes.
func (r *Row) Reader(column int) io.Reader {
	v, size := r.span(column)
	if v < 0 {
		return io.LimitReader(nil, 0)
	}
	return r.p.from(v, size)
}

// Len is how many bytes a column's value has in the file.
func (r *Row) Len(column int) int64 {
	_, size := r.span(column)
	return size
}

// Int gives a column's whole number; 0 for what is none.
func (r *Row) Int(column int) int64 {
	v, size := r.span(column)
	if v < 0 {
		return 0
	}
	switch t := r.types[column]; {
	case t == 9:
		return 1
	case t == 0 || t > 6:
		return 0
	}
	var b [8]byte
	if _, err := io.ReadFull(r.p.from(v, size), b[:size]); err != nil {
		r.fail(err)
		return 0
	}
	n := int64(int8(b[0]))
	for _, x := range b[1:size] {
		n = n<<8 | int64(x)
	}
	return n
}

func (r *Row) fail(err error) {
	if r.err == nil {
		r.err = short(err)
	}
}

// span gives where a column's value lies in the record, -1 for no such column.
func (r *Row) span(column int) (at, size int64) {
	if column < 0 || column >= len(r.types) {
		return -1, 0
	}
	at = r.body
	for _, t := range r.types[:column] {
		at += sizeOf(t)
	}
	return at, sizeOf(r.types[column])
}

// sizeOf is how many bytes a value of a serial type has.
func sizeOf(t uint64) int64 {
	switch {
	case t <= 4:
		return int64(t)
	case t == 5:
		return 6
	case t == 6 || t == 7:
		return 8
	case t < 12:
		return 0
	}
	return int64((t - 12) / 2)
}

// tableRow gives row i of a table's leaf, and its number.
func (n *node) tableRow(i int) (int64, *Row, error) {
	c, err := n.cell(i)
	if err != nil {
		return 0, nil, err
	}
	size, a := varint(c)
	number, b := varint(c[a:])
	if a == 0 || b == 0 {
		return 0, nil, fmt.Errorf("%w: a cell past its page", ErrCorrupt)
	}
	r, err := n.record(c[a+b:], size, n.d.usable-35)
	return int64(number), r, err
}

// indexRow gives record i of an index's page.
func (n *node) indexRow(i int) (*Row, error) {
	c, err := n.cell(i)
	if err != nil {
		return nil, err
	}
	if n.kind == interiorIndex {
		c = c[min(4, len(c)):]
	}
	size, a := varint(c)
	if a == 0 {
		return nil, fmt.Errorf("%w: a cell past its page", ErrCorrupt)
	}
	return n.record(c[a:], size, (n.d.usable-12)*64/255-23)
}

// record reads the head of a record, of which most bytes may be in the page.
func (n *node) record(c []byte, size uint64, most int) (*Row, error) {
	if n.d.rows--; n.d.rows < 0 {
		return nil, ErrTooLarge
	}
	p, err := n.payload(c, size, most)
	if err != nil {
		return nil, err
	}
	head, a := varint(p.local)
	if a == 0 || head > uint64(len(p.local)) || head < uint64(a) {
		return nil, fmt.Errorf("%w: a record without a head", ErrCorrupt)
	}
	r := &Row{p: p, body: int64(head)}
	at := int64(head)
	for b := p.local[a:head]; len(b) > 0; {
		t, k := varint(b)
		if k == 0 || len(r.types) == maxColumns || t > 1<<40 {
			return nil, fmt.Errorf("%w: a record's head", ErrCorrupt)
		}
		if at += sizeOf(t); at > p.size {
			return nil, fmt.Errorf("%w: a value past its record", ErrCorrupt)
		}
		r.types = append(r.types, t)
		b = b[k:]
	}
	return r, nil
}

// payload is a record's bytes: those in the page, and a chain of further pages.
type payload struct {
	d     *DB
	local []byte
	size  int64
	next  uint32 // the first page of the chain
}

// payload finds the parts of a record (SQLite's file format, section 1.6).
func (n *node) payload(c []byte, size uint64, most int) (payload, error) {
	p := payload{d: n.d, size: int64(size)}
	if size > uint64(n.d.pages)*uint64(n.d.size) {
		return p, fmt.Errorf("%w: a record longer than the file", ErrCorrupt)
	}
	local := int(size)
	if local > most {
		least := (n.d.usable-12)*32/255 - 23
		if local = least + (int(size)-least)%(n.d.usable-4); local > most {
			local = least
		}
		if local+4 > len(c) {
			return p, fmt.Errorf("%w: a cell past its page", ErrCorrupt)
		}
		p.next = binary.BigEndian.Uint32(c[local:])
	}
	if local > len(c) {
		return p, fmt.Errorf("%w: a cell past its page", ErrCorrupt)
	}
	p.local = c[:local]
	return p, nil
}

// from reads size bytes of the record from an offset on.
func (p *payload) from(at, size int64) io.Reader {
	r := &chain{d: p.d, page: p.local, next: p.next, rest: at + size}
	return &skipped{r: io.LimitReader(r, at+size), skip: at}
}

// chain reads a record from its beginning.
type chain struct {
	d    *DB
	page []byte // what is left of the current one
	next uint32
	rest int64
}

// Read implements io.Reader.
func (c *chain) Read(b []byte) (int, error) {
	if c.rest <= 0 {
		return 0, io.EOF
	}
	if len(c.page) == 0 {
		if c.next == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		data, err := c.d.raw(c.next)
		if err != nil {
			return 0, err
		}
		c.next, c.page = binary.BigEndian.Uint32(data), data[4:]
	}
	n := copy(b, c.page[:min(int64(len(c.page)), c.rest)])
	c.page, c.rest = c.page[n:], c.rest-int64(n)
	return n, nil
}

// skipped passes over what comes first.
type skipped struct {
	r    io.Reader
	skip int64
}

// Read implements io.Reader.
func (s *skipped) Read(b []byte) (int, error) {
	if s.skip > 0 {
		n, err := io.CopyN(io.Discard, s.r, s.skip)
		if s.skip -= n; err != nil {
			return 0, short(err)
		}
	}
	return s.r.Read(b)
}
