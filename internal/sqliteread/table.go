// SPDX-License-Identifier: Apache-2.0

package sqliteread

import (
	"fmt"
	"slices"
	"strings"
)

// Table is a table of a database.
type Table struct {
	d       *DB
	root    uint32
	index   uint32 // of the text key, 0 for none
	columns []string
}

// maxSQL bounds the text that made a table.
const maxSQL = 64 << 10

// Table finds a table by its name.
func (d *DB) Table(name string) (*Table, error) {
	t := &Table{d: d}
	// sqlite_schema: type, name, tbl_name, rootpage, sql.
	err := d.each(1, maxDepth, func(_ int64, r *Row) error {
		kind, table := r.Text(0, 16), r.Text(2, 256)
		if table != name {
			return nil
		}
		root := r.Int(3)
		if root <= 0 || root > int64(d.pages) {
			return fmt.Errorf("%w: table %.80q at page %d", ErrCorrupt, name, root)
		}
		switch {
		case kind == "table":
			t.root, t.columns = uint32(root), columnsOf(r.Text(4, maxSQL))
		case kind == "index" && r.Text(1, 256) == "sqlite_autoindex_"+name+"_1":
			t.index = uint32(root)
		}
		return r.Err()
	})
	if err == nil && t.root == 0 {
		err = fmt.Errorf("%w: no table %.80q", ErrNotFound, name)
	}
	return t, err
}

// Column gives the place of a column in the rows, -1 where there is none.
func (t *Table) Column(name string) int { return slices.Index(t.columns, name) }

// columnsOf takes the columns' names out of a CREATE TABLE: the first word of each
// part between the outermost parentheses.
func columnsOf(sql string) (names []string) {
	_, body, _ := strings.Cut(sql, "(")
	depth, from := 0, 0
	take := func(part string) {
		if f := strings.Fields(part); len(f) > 0 {
			names = append(names, strings.Trim(f[0], `"[]`+"`"))
		}
	}
	for i := range len(body) {
		switch body[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth < 0 {
				take(body[from:i])
				return names
			}
		case ',':
			if depth == 0 {
				take(body[from:i])
				from = i + 1
			}
		}
	}
	return names
}

// Each calls fn for each row, in the order of their numbers, until fn fails. A row is fn's until it returns.
func (t *Table) Each(fn func(*Row) error) error {
	return t.d.each(t.root, maxDepth, func(_ int64, r *Row) error { return fn(r) })
}

// Find gives the row whose first column, a text and the primary key, is key.
func (t *Table) Find(key string) (*Row, error) {
	if t.index == 0 {
		return nil, fmt.Errorf("%w: the table has no text key", ErrUnsupported)
	}
	number, err := t.d.lookup(t.index, key)
	if err != nil {
		return nil, err
	}
	return t.d.row(t.root, number)
}

// each walks a table's b-tree.
func (d *DB) each(id uint32, depth int, fn func(int64, *Row) error) error {
	n, err := d.page(id)
	if err != nil {
		return err
	}
	if depth == 0 || n.kind != leafTable && n.kind != interiorTable {
		return fmt.Errorf("%w: page %d is no page of a table", ErrCorrupt, id)
	}
	for i := range n.count() {
		if n.kind == interiorTable {
			child, _, err := n.leftChild(i)
			if err != nil {
				return err
			}
			if err := d.each(child, depth-1, fn); err != nil {
				return err
			}
			continue
		}
		number, r, err := n.tableRow(i)
		if err != nil {
			return err
		}
		if err := fn(number, r); err != nil {
			return err
		}
	}
	if n.kind == interiorTable {
		return d.each(n.right, depth-1, fn)
	}
	return nil
}

// row finds a row by its number.
func (d *DB) row(id uint32, number int64) (*Row, error) {
	for range maxDepth {
		n, err := d.page(id)
		if err != nil {
			return nil, err
		}
		switch n.kind {
		case leafTable:
			return n.rowNumbered(number)
		case interiorTable:
			if id, err = n.childFor(number); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("%w: page %d is no page of a table", ErrCorrupt, id)
		}
	}
	return nil, fmt.Errorf("%w: deeper than %d pages", ErrCorrupt, maxDepth)
}

func (n *node) rowNumbered(number int64) (*Row, error) {
	for i := range n.count() {
		at, r, err := n.tableRow(i)
		if err != nil {
			return nil, err
		}
		if at == number {
			return r, nil
		}
	}
	return nil, fmt.Errorf("%w: number %d", ErrNotFound, number)
}

// childFor gives the child with the rows up to a number.
func (n *node) childFor(number int64) (uint32, error) {
	for i := range n.count() {
		child, rest, err := n.leftChild(i)
		if err != nil {
			return 0, err
		}
		most, size := varint(rest)
		if size == 0 {
			return 0, fmt.Errorf("%w: a cell past its page", ErrCorrupt)
		}
		if number <= int64(most) {
			return child, nil
		}
	}
	return n.right, nil
}

// lookup finds the number of the row with a key in an index over a text column.
func (d *DB) lookup(id uint32, key string) (int64, error) {
	for range maxDepth {
		n, err := d.page(id)
		if err != nil {
			return 0, err
		}
		if n.kind != leafIndex && n.kind != interiorIndex {
			return 0, fmt.Errorf("%w: page %d is no page of an index", ErrCorrupt, id)
		}
		i, number, same, err := n.searchIndex(key)
		switch {
		case err != nil:
			return 0, err
		case same:
			return number, nil
		case n.kind == leafIndex:
			return 0, fmt.Errorf("%w: %.80q", ErrNotFound, key)
		case i == n.count():
			id = n.right
		default:
			if id, _, err = n.leftChild(i); err != nil {
				return 0, err
			}
		}
	}
	return 0, fmt.Errorf("%w: deeper than %d pages", ErrCorrupt, maxDepth)
}

// searchIndex gives the first cell whose key is not below, its row, and whether it is the key.
func (n *node) searchIndex(key string) (i int, number int64, same bool, err error) {
	lo, hi := 0, n.count()
	for lo < hi {
		mid := (lo + hi) / 2
		r, err := n.indexRow(mid)
		if err != nil {
			return 0, 0, false, err
		}
		switch c := strings.Compare(r.Text(0, maxKey), key); {
		case r.Err() != nil:
			return 0, 0, false, r.Err()
		case c == 0:
			return mid, r.Int(1), true, r.Err()
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, 0, false, nil
}

// maxKey bounds a key that is looked for.
const maxKey = 4096
