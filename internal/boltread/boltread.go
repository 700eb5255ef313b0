// SPDX-License-Identifier: Apache-2.0

// Package boltread reads a bbolt database that another process may be writing,
// and that somebody hostile may have made.
//
// It exists because bbolt itself can do neither: it takes the file's lock, which
// the writer waits for, and it maps the file and follows what it finds there, so
// that a bad offset, or a file cut short, is a fault that ends the process. Here
// pages are read by pread, each offset and count is checked against the file's
// size first, and nothing is locked.
//
// Guarantees: no panic, whatever the file holds; memory is a page's index at a
// time; the work of one DB is bounded by Limits, loops included. Values are not
// read, only pointed at.
//
// A database is one version where Unchanged says so after the last read: bbolt
// never overwrites a page of the version that its newest meta page names, until it
// has written a newer meta page.
//
// A DB is for one goroutine.
package boltread

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

var (
	// ErrCorrupt means that the file is no database, or a damaged one.
	ErrCorrupt = errors.New("corrupt database")
	// ErrTooLarge means that reading takes more than the limits.
	ErrTooLarge = errors.New("database too large")
	// ErrNotFound means that there is no such bucket or key.
	ErrNotFound = errors.New("no such key")
	// ErrChanged means that the database was written since it was opened.
	ErrChanged = errors.New("database changed while it was read")
)

// Limits bound the work of one DB. A zero field means its default.
type Limits struct {
	// Pages is how many pages are looked at. Default 65536.
	Pages int
	// Entries is how many keys are looked at. Default 1048576.
	Entries int
}

const (
	pageHeader    = 16 // id u64, flags u16, count u16, overflow u32 (bbolt, internal/common/page.go)
	elementSize   = 16 // of a branch: pos u32, ksize u32, pgid u64; of a leaf: flags, pos, ksize, vsize u32
	bucketHeader  = 16 // root pgid u64, sequence u64 (bucket.go); an inline page follows where root is 0
	metaSize      = 64 // of which the last 8 are the sum of the others (meta.go)
	magic         = 0xED0CDAED
	version       = 2
	flagBranch    = 0x01
	flagLeaf      = 0x02
	leafIsBucket  = 0x01
	maxDepth      = 32
	maxKey        = 32768 // bbolt's MaxKeySize
	minPage       = 512
	maxPage       = 1 << 16
	usualPageSize = 4096
)

// DB is an open database.
type DB struct {
	r      io.ReaderAt
	size   int64
	meta   meta
	limits Limits
}

// meta is one of the two pages that name a version.
type meta struct {
	pageSize uint32
	root     uint64
	high     uint64 // the first page that is not in use
	txid     uint64
}

// Open finds the newest version in a file of so many bytes.
func Open(r io.ReaderAt, size int64, limits Limits) (*DB, error) {
	if limits.Pages <= 0 {
		limits.Pages = 1 << 16
	}
	if limits.Entries <= 0 {
		limits.Entries = 1 << 20
	}
	m, err := newestMeta(r)
	if err != nil {
		return nil, err
	}
	return &DB{r: r, size: size, meta: m, limits: limits}, nil
}

// Unchanged fails with ErrChanged where the version that was read may have been
// overwritten in part.
func (d *DB) Unchanged() error {
	m, err := newestMeta(d.r)
	if err != nil {
		return err
	}
	if m != d.meta {
		return ErrChanged
	}
	return nil
}

// Version is the number of the transaction that made this version.
func (d *DB) Version() uint64 { return d.meta.txid }

// newestMeta reads both meta pages. One of them may be half written.
func newestMeta(r io.ReaderAt) (meta, error) {
	first, err := readMeta(r, 0)
	if err == nil {
		if second, err := readMeta(r, int64(first.pageSize)); err == nil && second.txid > first.txid {
			return second, nil
		}
		return first, nil
	}
	// The first may be the one that is being written, and only it says at a known
	// place how large a page is.
	for size := int64(minPage); size <= maxPage; size *= 2 {
		if m, err := readMeta(r, size); err == nil && int64(m.pageSize) == size {
			return m, nil
		}
	}
	return meta{}, err
}

func readMeta(r io.ReaderAt, off int64) (meta, error) {
	var b [pageHeader + metaSize]byte
	if _, err := r.ReadAt(b[:], off); err != nil {
		return meta{}, short(err)
	}
	p := b[pageHeader:]
	sum := fnv.New64a()
	_, _ = sum.Write(p[:metaSize-8]) // a hash takes everything
	le := binary.LittleEndian
	m := meta{pageSize: le.Uint32(p[8:]), root: le.Uint64(p[16:]), high: le.Uint64(p[40:]), txid: le.Uint64(p[48:])}
	switch {
	case le.Uint32(p) != magic, le.Uint32(p[4:]) != version, le.Uint64(p[56:]) != sum.Sum64():
		return meta{}, fmt.Errorf("%w: no valid meta page", ErrCorrupt)
	case m.pageSize < minPage || m.pageSize > maxPage || m.pageSize&(m.pageSize-1) != 0:
		return meta{}, fmt.Errorf("%w: pages of %d bytes", ErrCorrupt, m.pageSize)
	}
	return m, nil
}

// short turns the end of the file into what it means.
func short(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it ends early", ErrCorrupt)
	}
	return err
}
