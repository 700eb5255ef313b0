// SPDX-License-Identifier: Apache-2.0

// Package boundjson reads JSON that somebody hostile may have filled: it passes
// a stream on with each string, list and object cut to a budget, so that what is
// decoded afterwards is small, however long what came in was. An engine accepts
// a label of 64 MiB and 100,000 of them; of both a decoder sees a few KiB.
//
// Guarantees: memory in use is one buffer and the longest string that is kept;
// what comes out of valid JSON is valid JSON; the same input gives the same
// output, however it is cut into reads; what is kept of a list or an object is
// its beginning (which for an object that Go wrote is its first keys in order)
// and the members whose names begin with one of Limits.Keep. What is malformed
// is an error, here or in the decoder behind: an end that is missing is never
// supplied.
//
// A Reader is for one goroutine.
package boundjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// The errors of a Reader, besides those of what it reads from.
var (
	// ErrTooLarge means that more was read, or is left after cutting, than the budget.
	ErrTooLarge = errors.New("too large")
	// ErrTooDeep means that lists and objects are nested deeper than the budget.
	ErrTooDeep = errors.New("nested too deeply")
	// ErrMalformed means that this is no JSON.
	ErrMalformed = errors.New("malformed JSON")
)

// Limits are the budgets of one stream. A zero field means its default.
type Limits struct {
	// String is how much is kept of a string, in bytes, an escape counting as
	// one: at least as much is left after decoding. Default 8 KiB.
	String int
	// Members is how many members of an object or a list are kept. Default 512.
	Members int
	// Bytes bounds one object or list by its nesting: Bytes[0] the outermost, the
	// last for all deeper. A list of objects (see List) counts as outside of it.
	// Default 16 MiB, 2 MiB, 128 KiB.
	Bytes []int
	// Depth is how deep lists and objects may nest. Default 64.
	Depth int
	// Raw is how much is read, Total how much may be left. Defaults 1 GiB, 64 MiB.
	Raw, Total int
	// List says that the stream may be a list of any length, each of whose
	// elements has the budgets. Total bounds it.
	List bool
	// Items names a member of the outermost object that may be a list of any
	// length, in the same way: where Kubernetes has a list, it is in an object.
	Items string
	// Keep are the beginnings of the keys of an object, and of the strings of a
	// list, that are kept after its budget is spent, within as much again.
	Keep []string
	// Only names the members of objects that are passed on, by the keys that lead
	// to the object ("" for the outermost, "linux.seccomp"), three at most. Of an
	// object that is not here all are. What is left out so costs no budget, and Cut
	// is silent on it.
	Only map[string][]string
}

func (l Limits) withDefaults() Limits {
	def := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	def(&l.String, 8<<10)
	def(&l.Members, 512)
	def(&l.Depth, 64)
	def(&l.Raw, 1<<30)
	def(&l.Total, 64<<20)
	if len(l.Bytes) == 0 {
		l.Bytes = []int{16 << 20, 2 << 20, 128 << 10}
	}
	return l
}

// Decode reads one value from r into v, within the budgets, and says what it
// left members out of (see Reader.Cut).
func Decode(r io.Reader, limits Limits, v any) (cut []string, err error) {
	var bad error
	err = read(r, limits, func(b []byte, c []string) { cut, bad = c, json.Unmarshal(b, v) })
	switch {
	case err != nil:
		return nil, fmt.Errorf("read JSON: %w", err)
	case bad != nil:
		return nil, fmt.Errorf("parse JSON: %w", bad)
	}
	return cut, nil
}

// ReadAll gives what is left of all that r gives, and says what it left members
// out of (see Reader.Cut).
func ReadAll(r io.Reader, limits Limits) (data []byte, cut []string, err error) {
	err = read(r, limits, func(b []byte, c []string) { data, cut = bytes.Clone(b), c })
	return data, cut, err
}

// read shows use what is left of all that r gives, which use may not keep.
func read(r io.Reader, limits Limits, use func(data []byte, cut []string)) error {
	scratch := results.Get().(*[]byte)
	b := NewReader(r, limits)
	b.out = (*scratch)[:0]
	for b.err == nil {
		b.fill()
	}
	ended := errors.Is(b.err, io.EOF)
	if ended {
		use(b.out, b.cut)
	}
	if cap(b.out) <= maxResult {
		*scratch = b.out[:0]
	}
	results.Put(scratch)
	if !ended {
		return b.err
	}
	return nil
}
