// SPDX-License-Identifier: Apache-2.0

package boltread

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Bucket is a bucket of a database.
type Bucket struct {
	d *DB
	// root is the page at its top, or 0 for an inline one at [from, to) of the file.
	root     uint64
	from, to int64
}

// Value is where a value lies in the file.
type Value struct {
	d        *DB
	from, to int64
	bucket   bool
}

// Len is the value's length in bytes.
func (v Value) Len() int64 { return v.to - v.from }

// Reader reads the value; what it gives is of one version if Unchanged says so afterwards.
func (v Value) Reader() *io.SectionReader { return io.NewSectionReader(v.d.r, v.from, v.Len()) }

// Bytes reads a value that is at most limit long.
func (v Value) Bytes(limit int) ([]byte, error) {
	if v.Len() > int64(limit) {
		return nil, fmt.Errorf("%w: a value of %d bytes", ErrTooLarge, v.Len())
	}
	b := make([]byte, v.Len())
	if _, err := v.d.r.ReadAt(b, v.from); err != nil && len(b) > 0 {
		return nil, short(err)
	}
	return b, nil
}

// IsBucket says whether it is a bucket and no plain value.
func (v Value) IsBucket() bool { return v.bucket }

// Bucket gives the bucket that a value is.
func (v Value) Bucket() (Bucket, error) {
	var b [bucketHeader]byte
	if !v.bucket || v.Len() < bucketHeader {
		return Bucket{}, fmt.Errorf("%w: a value where a bucket belongs", ErrNotFound)
	}
	if _, err := v.d.r.ReadAt(b[:], v.from); err != nil {
		return Bucket{}, short(err)
	}
	return Bucket{d: v.d, root: binary.LittleEndian.Uint64(b[:]), from: v.from + bucketHeader, to: v.to}, nil
}

// Root is the bucket that holds all others.
func (d *DB) Root() Bucket { return Bucket{d: d, root: d.meta.root} }

// Bucket gives the bucket at the end of a path of names.
func (d *DB) Bucket(names ...string) (Bucket, error) {
	b := d.Root()
	for _, name := range names {
		v, err := b.Find([]byte(name))
		if err != nil {
			return Bucket{}, err
		}
		if b, err = v.Bucket(); err != nil {
			return Bucket{}, err
		}
	}
	return b, nil
}

// Find gives a key's value.
func (b Bucket) Find(key []byte) (Value, error) {
	n, err := b.top()
	for range maxDepth {
		if err != nil {
			return Value{}, err
		}
		i, same, serr := n.search(key)
		switch {
		case serr != nil:
			return Value{}, serr
		case n.leaf && !same:
			return Value{}, fmt.Errorf("%w: %.80q", ErrNotFound, key)
		case n.leaf:
			return n.value(i)
		}
		if !same && i > 0 {
			i-- // the child whose first key is the last one not above
		}
		n, err = n.child(i)
	}
	return Value{}, fmt.Errorf("%w: deeper than %d pages", ErrCorrupt, maxDepth)
}

// Each calls fn for each key of the bucket, in order, until fn fails. The key is fn's own.
func (b Bucket) Each(fn func(key []byte, v Value) error) error {
	n, err := b.top()
	if err != nil {
		return err
	}
	return n.each(maxDepth, fn)
}

func (b Bucket) top() (*node, error) {
	if b.root == 0 {
		return b.d.node(b.from, b.to, true)
	}
	return b.d.page(b.root)
}

// node is a page, or the page inside of an inline bucket's value.
type node struct {
	d        *DB
	from, to int64
	leaf     bool
	count    int
	index    []byte // the elements
}

// page reads the index of a page.
func (d *DB) page(id uint64) (*node, error) {
	size := int64(d.meta.pageSize)
	if id < 2 || id >= d.meta.high || id > uint64(d.size/size) {
		return nil, fmt.Errorf("%w: page %d of %d", ErrCorrupt, id, d.meta.high)
	}
	from := int64(id) * size
	var h [pageHeader]byte
	if _, err := d.r.ReadAt(h[:], from); err != nil {
		return nil, short(err)
	}
	if binary.LittleEndian.Uint64(h[:]) != id {
		return nil, fmt.Errorf("%w: page %d has another's number", ErrCorrupt, id)
	}
	overflow := int64(binary.LittleEndian.Uint32(h[12:]))
	to := from + (overflow+1)*size
	if to > d.size {
		return nil, fmt.Errorf("%w: page %d ends past the file", ErrCorrupt, id)
	}
	return d.node(from, to, false)
}

// node reads the index of what lies at [from, to).
func (d *DB) node(from, to int64, leafOnly bool) (*node, error) {
	if d.limits.Pages--; d.limits.Pages < 0 {
		return nil, ErrTooLarge
	}
	var h [pageHeader]byte
	if from+pageHeader > to {
		return nil, fmt.Errorf("%w: no room for a page", ErrCorrupt)
	}
	if _, err := d.r.ReadAt(h[:], from); err != nil {
		return nil, short(err)
	}
	n := &node{d: d, from: from, to: to, count: int(binary.LittleEndian.Uint16(h[10:]))}
	switch flags := binary.LittleEndian.Uint16(h[8:]); {
	case flags&flagLeaf != 0:
		n.leaf = true
	case flags&flagBranch == 0 || leafOnly || n.count == 0:
		return nil, fmt.Errorf("%w: a page of kind %#x", ErrCorrupt, flags)
	}
	size := int64(n.count) * elementSize
	if from+pageHeader+size > to {
		return nil, fmt.Errorf("%w: %d elements do not fit their page", ErrCorrupt, n.count)
	}
	n.index = make([]byte, size)
	if _, err := d.r.ReadAt(n.index, from+pageHeader); err != nil && size > 0 {
		return nil, short(err)
	}
	return n, nil
}

// span gives where element i keeps its key, and how long its value is.
func (n *node) span(i int) (from, key, value int64, err error) {
	e := n.index[i*elementSize:]
	le := binary.LittleEndian
	pos, ksize, vsize := le.Uint32(e), le.Uint32(e[4:]), uint32(0)
	if n.leaf {
		pos, ksize, vsize = le.Uint32(e[4:]), le.Uint32(e[8:]), le.Uint32(e[12:])
	}
	from = n.from + pageHeader + int64(i)*elementSize + int64(pos)
	if ksize > maxKey || from+int64(ksize)+int64(vsize) > n.to {
		return 0, 0, 0, fmt.Errorf("%w: an element ends past its page", ErrCorrupt)
	}
	return from, int64(ksize), int64(vsize), nil
}

func (n *node) key(i int) ([]byte, error) {
	if n.d.limits.Entries--; n.d.limits.Entries < 0 {
		return nil, ErrTooLarge
	}
	from, size, _, err := n.span(i)
	if err != nil {
		return nil, err
	}
	k := make([]byte, size)
	if _, err := n.d.r.ReadAt(k, from); err != nil && size > 0 {
		return nil, short(err)
	}
	return k, nil
}

func (n *node) value(i int) (Value, error) {
	from, ksize, vsize, err := n.span(i)
	if err != nil {
		return Value{}, err
	}
	flags := binary.LittleEndian.Uint32(n.index[i*elementSize:])
	return Value{d: n.d, from: from + ksize, to: from + ksize + vsize, bucket: flags&leafIsBucket != 0}, nil
}

func (n *node) child(i int) (*node, error) {
	return n.d.page(binary.LittleEndian.Uint64(n.index[i*elementSize+8:]))
}

// search gives the first element that is not below key, and whether it is key.
func (n *node) search(key []byte) (i int, same bool, err error) {
	lo, hi := 0, n.count
	for lo < hi {
		mid := (lo + hi) / 2
		k, err := n.key(mid)
		if err != nil {
			return 0, false, err
		}
		switch c := bytes.Compare(k, key); {
		case c == 0:
			return mid, true, nil
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, false, nil
}

func (n *node) each(depth int, fn func([]byte, Value) error) error {
	if depth == 0 {
		return fmt.Errorf("%w: deeper than %d pages", ErrCorrupt, maxDepth)
	}
	for i := range n.count {
		if !n.leaf {
			c, err := n.child(i)
			if err != nil {
				return err
			}
			if err := c.each(depth-1, fn); err != nil {
				return err
			}
			continue
		}
		k, err := n.key(i)
		if err != nil {
			return err
		}
		v, err := n.value(i)
		if err != nil {
			return err
		}
		if err := fn(k, v); err != nil {
			return err
		}
	}
	return nil
}
